"""Is a run well: each check with what it looks at, what it found, and whether it rang.

The guards' alarms are those that the run recorded while it ran; the others are made from its records now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

from sod.config import GuardConfig
from sod.guards import MIN_FAILED_TURNS
from sod.report.over_updates import start_and_end
from sod.report.read import Run
from sod.report.untrusted import count, line, mapping, number

Window: TypeAlias = Sequence[Mapping[str, float]]
"""Some updates in a row."""
Verdict: TypeAlias = Literal["passed", "alarm", "at work", "off", "unknown"]
MAX_UNREAD = 0.2
"""Share of answers that could not be read, beyond which an evaluation measures the form and not the model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One question to one run. `asks` is what it checks, the same for every run that has the check."""

    name: str
    asks: str
    verdict: Verdict
    found: str


def checks_of(run: Run) -> list[Check]:
    """All that apply to a run of its command."""
    found = [_ending(run), *_by_command(run), _readable(run)]
    known = {check.name for check in found}
    others = dict.fromkeys(alarm.rule for alarm in run.alarms)
    return found + [_recorded(run, rule, "A rule of another version.") for rule in others if rule not in known]


def verdict_of(run: Run) -> tuple[Verdict, str]:
    """`alarm`, "1 of 9 checks rang: retries"."""
    checks = checks_of(run)
    rang = [check.name for check in checks if check.verdict == "alarm"]
    if rang:
        return "alarm", f"{len(rang)} of {len(checks)} checks rang: {line(', '.join(rang))}"
    passed = sum(check.verdict == "passed" for check in checks)
    others = "" if passed == len(checks) else f", {len(checks) - passed} could not say or are off"
    at_work = any(check.verdict == "at work" for check in checks)
    return ("at work" if at_work else "passed"), f"no alarm: {passed} of {len(checks)} checks passed{others}"


def _by_command(run: Run) -> Iterator[Check]:
    if run.trained:
        yield from _guards(run)
        yield from _signal(run)
        yield _finite(run)
    elif run.cold_start:
        yield _finite(run)
        yield _learned(run)
    else:
        yield from _evaluation(run)


# ---- every run


def _ending(run: Run) -> Check:
    state = line(run.status.get("state", "unknown"), width=40)
    verdicts: Mapping[str, Verdict] = {
        "finished": "passed",
        "running": "at work",
        "interrupted": "alarm",
        "failed": "alarm",
    }
    reason = line(run.status.get("reason", ""), width=300)
    found = f"{state}{': ' if reason else ''}{reason}"
    if state == "running":
        found = f"at work (or killed) when this was written: last word at {line(run.status.get('time', '?'), width=40)}"
    return Check(name="ending", asks="The run came to its end.", verdict=verdicts.get(state, "unknown"), found=found)


def _readable(run: Run) -> Check:
    skipped = ", ".join(f"{num} in {name}" for name, num in sorted(run.skipped.items()))
    return Check(
        name="records",
        asks="Every line of the run's records could be read.",
        verdict="alarm" if skipped else "passed",
        found=f"lines skipped: {skipped}" if skipped else "none skipped",
    )


# ---- training


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rule:
    """A rule of `sod.guards` that compares the latest window with the first. `asks` has {limit} and {window}."""

    name: str
    setting: str
    off: float
    asks: str
    measure: Callable[[Window], str]


def _guards(run: Run) -> Iterator[Check]:
    guards = mapping(run.config.get("guards"))
    window = count(guards.get("window")) or GuardConfig.model_fields["window"].default
    for rule in _RULES:
        limit = _limit(guards, rule.setting)
        early = len(run.updates) < 2 * window
        off = limit == rule.off or guards.get("on_alarm") == "off"
        found = f"{rule.measure(run.updates[:window])} → {rule.measure(run.updates[-window:])}"
        yield _recorded(
            run,
            rule.name,
            rule.asks.format(limit=limit, window=window),
            found=f"compares from update {2 * window} on" if early else found,
            silent="off" if off else "unknown" if early else "passed",
        )
    ceiling = _limit(guards, "infrastructure_ceiling")
    lost = sum(update.get("infrastructure_failures", 0.0) for update in run.updates)
    yield _recorded(
        run,
        "infrastructure",
        f"At most {ceiling:.1%} of the latest calls fail through no fault of the student.",
        found=f"{lost:.0f} trajectories lost, {run.trajectories.num_graded:,} kept",
        silent="off" if ceiling >= 1 else "passed",
    )


def _limit(guards: Mapping[str, Any], name: str) -> float:
    given = number(guards.get(name))
    return float(GuardConfig.model_fields[name].default) if given is None else given


def _recorded(run: Run, rule: str, asks: str, *, found: str = "", silent: Verdict = "passed") -> Check:
    """Alarm when the run recorded one; else `silent`."""
    rang = [alarm for alarm in run.alarms if alarm.rule == rule]
    if not rang:
        return Check(name=rule, asks=asks, verdict=silent, found=found)
    times = f", {len(rang)} times" if len(rang) > 1 else ""
    return Check(
        name=rule, asks=asks, verdict="alarm", found=f"at update {rang[0].update}{times}; {found}".rstrip("; ")
    )


def _mean(window: Window, *, name: str) -> str:
    values = [update[name] for update in window if name in update]
    return f"{sum(values) / len(values):.3g}" if values else "-"


def _ratio(window: Window, *, above: str, below: str, at_least: float = 1) -> str:
    total = sum(update.get(below, 0.0) for update in window)
    return f"{sum(update.get(above, 0.0) for update in window) / total:.0%}" if total >= at_least else "too few"


_RULES = (
    _Rule(
        name="tool_calls",
        setting="tool_call_floor",
        off=0.0,
        asks="Tool calls per trajectory stay above {limit:g} times those of the first {window} updates.",
        measure=partial(_mean, name="tool_calls"),
    ),
    _Rule(
        name="retries",
        setting="retry_floor",
        off=0.0,
        asks="Failed calls are tried again at least {limit:g} times as often as in the first {window} updates.",
        measure=partial(_ratio, above="retried", below="failed_turns", at_least=MIN_FAILED_TURNS),
    ),
    _Rule(
        name="reward",
        setting="reward_floor",
        off=0.0,
        asks="The mean reward stays above {limit:g} times that of the first {window} updates.",
        measure=partial(_mean, name="reward"),
    ),
    _Rule(
        name="failed_calls",
        setting="failed_call_ceiling",
        off=1.0,
        asks="No more than {limit:.0%} of the calls fail where at most half of that did in the first {window} updates.",
        measure=partial(_ratio, above="failed_calls", below="num_calls"),
    ),
)


def _signal(run: Run) -> Iterator[Check]:
    values = run.series("teacher_term")[1]
    if values:
        silent = sum(value <= 0 for value in values)
        yield Check(
            name="signal",
            asks="The teacher's term is above 0 in every update: its signal arrives.",
            verdict="alarm" if silent else "passed",
            found=f"0 in {silent} of {len(values)} updates" if silent else f"lowest {min(values):.3g} nats",
        )


def _finite(run: Run) -> Check:
    lost = {name: len(run.updates) - len(run.series(name)[1]) for name in ("loss", "grad_norm")}
    missing = ", ".join(f"{name} in {num} updates" for name, num in lost.items() if num)
    return Check(
        name="numbers",
        asks="Loss and gradient norm are finite in every update.",
        verdict="alarm" if missing else "passed",
        found=f"not finite or not recorded: {missing}" if missing else f"{len(run.updates)} updates",
    )


def _learned(run: Run) -> Check:
    first, last = start_and_end(run.series("loss")[1])
    return Check(
        name="loss",
        asks="The loss is lower at the end than at the start.",
        verdict="passed" if last < first else "unknown" if len(run.updates) < 2 else "alarm",
        found=f"{first:.3g} → {last:.3g} nats per token",
    )


# ---- evaluation


def _evaluation(run: Run) -> Iterator[Check]:
    results = {name: mapping(each) for name, each in mapping(run.result.get("benchmarks")).items()}
    missing = sum(number(each.get("num_missing")) or 0 for each in results.values())
    done = bool(results) and missing == 0 and run.result.get("complete") is not False
    yield Check(
        name="complete",
        asks="Every sample of every problem was drawn and graded.",
        verdict="passed" if done else "at work" if run.status.get("state") == "running" else "alarm",
        found=f"{missing:.0f} samples missing" if results else "no result yet: what is there so far is shown",
    )
    lost = sum(number(each.get("num_failed")) or 0 for each in results.values()) or run.trajectories.num_lost
    yield Check(
        name="kept",
        asks="Nothing was lost to failures of the world (sandbox, engine).",
        verdict="passed" if lost == 0 else "alarm",
        found=f"{lost:.0f} samples lost{'; the same command again draws them anew' if lost else ''}",
    )
    unread = [(name, number(each.get("no_answer"))) for name, each in results.items()]
    shares: list[tuple[Any, float]] = [(name, share) for name, share in unread if share is not None]
    if shares:
        name, worst = max(shares, key=lambda pair: pair[1])
        yield Check(
            name="answers",
            asks=f"An answer could be read in at least {1 - MAX_UNREAD:.0%} of the samples of each benchmark.",
            verdict="passed" if worst <= MAX_UNREAD else "alarm",
            found=f"read in {1 - worst:.0%} of {line(name, width=40)}",
        )

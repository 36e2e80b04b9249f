"""The tables of a report. Each returns None when it would be empty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sod.estimates import holm, mean_over_problems
from sod.report.bars import phases_of, said_estimate
from sod.report.by_step import NAMES
from sod.report.health import Check, checks_of
from sod.report.markup import Html, code, element, joined, short, table
from sod.report.over_updates import (
    ACCURACY,
    CALLS,
    DIVERGENCE,
    ENTROPY,
    LENGTH,
    LOSS,
    MAX_PLACES,
    REWARD,
    WEIGHT,
    WINDOW,
    Quantity,
    start_and_end,
)
from sod.report.pairs import Apart, Test
from sod.report.read import EvaluationPoint, Run
from sod.report.steps import OUTCOMES, StepMeans

_TREND = (ACCURACY, REWARD, CALLS, LENGTH, ENTROPY, DIVERGENCE, WEIGHT)
_VERDICTS = {"passed": "passed", "alarm": "alarm", "at work": "work", "off": "off", "unknown": "off"}


# ---- health


def badge(verdict: str) -> Html:
    """The verdict as a word on its colour."""
    return element("span", verdict, class_=f"badge {_VERDICTS[verdict]}")


def health_table(runs: Sequence[Run]) -> Html:
    """A row for each check, a column for each run."""
    by_run = [{check.name: check for check in checks_of(run)} for run in runs]
    names = dict.fromkeys(name for checks in by_run for name in checks)
    rows = []
    for name in names:
        given = [checks.get(name) for checks in by_run]
        asks = list(dict.fromkeys(check.asks for check in given if check))
        rows.append([short(name), joined(map(short, asks), by=" / "), *map(_health_cell, given)])
    header = ["check", "what must hold", *(short(run.label) for run in runs)]
    caption = "Health checks: alarms of the run's own guards, and what its records say now."
    return table(caption, header, rows, words=range(len(header)))


def _health_cell(check: Check | None) -> Html:
    return joined([badge(check.verdict), " ", short(check.found, width=400)]) if check else Html("-")


def alarm_table(runs: Sequence[Run]) -> Html | None:
    """Every recorded alarm."""
    rows = [
        [short(run.label), alarm.update, code(alarm.rule), short(alarm.message, width=400)]
        for run in runs
        for alarm in run.alarms
    ]
    caption = "Alarms in the order they were recorded; one that goes on rings once."
    return table(caption, ["run", "update", "rule", "what happened"], rows, words=(0, 2, 3)) if rows else None


# ---- results


def evaluation_table(runs: Sequence[Run]) -> Html | None:
    """Each benchmark of an evaluation, first and last evaluation of a training."""
    points = [(run, point) for run in runs for point in _told(run)]
    rows = [
        [
            short(run.label),
            code(point.benchmark) if point.benchmark else f"held out, after update {point.update}",
            _plain(point.numbers, "num_problems", ".0f"),
            _plain(point.numbers, "k", ".0f"),
            said_estimate(point),
            _interval(point, "pass@k"),
            _interval(point, "maj@k"),
            _plain(point.numbers, "tool_calls", ".2f"),
            _plain(point.numbers, "response_tokens", ".0f"),
            _plain(point.numbers, "num_failed", ".0f"),
        ]
        for run, point in points
    ]
    header = [
        "run",
        "on",
        "problems",
        "k",
        "avg@k [95 %]",
        "pass@k [95 %]",
        "maj@k [95 %]",
        "tool calls",
        "tokens",
        "lost",
    ]
    caption = (
        "Evaluations; of one inside training the first and the last. Intervals are over problems. Tool calls and "
        "tokens: per sample. Lost: samples that the world lost, counted neither as right nor as wrong."
    )
    return table(caption, header, rows, words=(0, 1)) if rows else None


def _told(run: Run) -> list[EvaluationPoint]:
    return [*run.in_training[:1], *run.in_training[1:][-1:], *(point for point in run.evaluations if point.benchmark)]


def _interval(point: EvaluationPoint, name: str) -> str:
    numbers = point.numbers
    if name not in numbers:
        return "-"
    ends = f" [{100 * numbers[f'{name}_low']:.1f}, {100 * numbers[f'{name}_high']:.1f}]"
    return f"{100 * numbers[name]:.1f} %" + (ends if {f"{name}_low", f"{name}_high"} <= numbers.keys() else "")


def _plain(numbers: Mapping[str, float], name: str, form: str) -> str:
    return format(numbers[name], form) if name in numbers else "-"


def so_far_table(runs: Sequence[Run]) -> Html | None:
    """Evaluations that have no result yet, from the samples that are graded."""
    rows = []
    for run in runs:
        if run.updates or run.evaluations:
            continue
        by_benchmark: dict[str, list[float]] = {}
        num_samples = 0
        for (_, benchmark, _), verdicts in run.trajectories.verdicts.items():
            by_benchmark.setdefault(benchmark, []).append(sum(verdicts.values()) / len(verdicts))
            num_samples += len(verdicts)
        for benchmark, shares in by_benchmark.items():
            rows.append([short(run.label), code(benchmark), len(shares), str(mean_over_problems(shares))])
    caption = "Evaluations under way: problems with a graded sample so far. Easy problems may come first: no result."
    return table(caption, ["run", "benchmark", "problems", "avg [95 %]"], rows, words=(0, 1)) if rows else None


def trend_table(runs: Sequence[Run]) -> Html | None:
    """Training metrics at the start and the end of each run."""
    trained = [run for run in runs if run.trained]
    rows: list[list[object]] = [
        [element("span", quantity.title, " ", element("span", f"({quantity.unit})", class_="soft")), *cells]
        for quantity in _TREND
        if set(cells := [_trend(quantity, run) for run in trained]) != {"-"}
    ]
    rows.append(["Trajectories (of them right)", *map(_trajectories, trained)])
    note = " They are other problems each time: compare runs on the problems both had, below."
    caption = f"Training problems: mean of the first → of the last updates (up to {WINDOW}).{note * (len(trained) > 1)}"
    return table(caption, ["on training problems", *(short(run.label) for run in trained)], rows) if trained else None


def _trajectories(run: Run) -> str:
    kept = run.trajectories
    return f"{kept.num_graded:,} ({kept.num_correct:,})"


def _trend(quantity: Quantity, run: Run) -> str:
    values = quantity.of(run)[1]
    if not values:
        return "-"
    shown = [f"{mean:.1f}" if quantity is ACCURACY else f"{mean:.3g}" for mean in start_and_end(values)]
    return shown[0] if len(values) == 1 else " → ".join(shown)


def loss_table(runs: Sequence[Run]) -> Html | None:
    """Cold starts: loss at the start and the end."""
    rows = [
        [short(run.label), len(run.updates), _trend(LOSS, run), f"{sum(run.series('num_tokens')[1]):,.0f}"]
        for run in runs
        if run.cold_start
    ]
    caption = f"Cold starts: mean loss of the first → of the last steps (up to {WINDOW})."
    return table(caption, ["run", "optimizer steps", "loss (nats per token)", "tokens learned"], rows) if rows else None


def test_table(tests: Sequence[Test], caption: str) -> Html | None:
    """Paired tests, with p-values corrected for their number by Holm's method."""
    known = [test.comparison.p_value for test in tests if test.comparison]
    corrected = iter(holm(known)) if known else iter(())
    rows: list[list[object]] = []
    for test in tests:
        names = [joined([short(test.before), " → ", short(test.after)]), short(test.what) or Html("-")]
        if test.comparison is None:
            rows.append(
                [*names, "-", "-", "-", joined(["cannot be compared: ", short(test.fault, width=300)]), "-", "-"]
            )
            continue
        found, (before, after) = test.comparison, test.means
        difference = _points(found.difference, found.low, found.high)
        p_values = [_p_value(found.p_value), _p_value(next(corrected))]
        rows.append([*names, test.num_problems, _percent(before), _percent(after), difference, *p_values])
    header = ["from → to", "on", "problems", "before", "after", "difference in points [95 %]", "p", "p (Holm)"]
    return table(caption, header, rows, words=(0, 1)) if rows else None


test_table.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's


def apart_table(found: Sequence[Apart]) -> Html | None:
    """Last evaluations inside training against each other."""
    rows = [
        [
            joined([short(each.before), " → ", short(each.after)]),
            f"{each.updates[0]}, {each.updates[1]}",
            *map(_percent, each.means),
            _points(each.means[1] - each.means[0], each.low, each.high),
        ]
        for each in found
    ]
    caption = (
        "Last evaluations inside training. Their records hold means only, so this is not paired: on the same problems "
        "the interval is too wide. `sod eval` of both checkpoints gives a paired test."
    )
    header = ["from → to", "after updates", "before", "after", "difference in points [95 %]"]
    return table(caption, header, rows) if rows else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float, low: float, high: float) -> str:
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# ---- by step, time


def step_table(means: StepMeans, caption: object) -> Html:
    """Mean with interval and number of trajectories by step and outcome."""
    curves = [{point.step: point for point in means.points(outcome)} for outcome in OUTCOMES]
    rows: list[list[object]] = []
    for step in sorted({step for curve in curves for step in curve}):
        row: list[object] = [step]
        for curve in curves:
            point = curve.get(step)
            band = f" [{point.low:.3f}, {point.high:.3f}]" if point and point.low is not None else ""
            row += [f"{point.mean:.3f}{band}", point.num_trajectories] if point else ["-", 0]
        rows.append(row)
    header = ["step", *(title for outcome in OUTCOMES for title in (NAMES[outcome], "n"))]
    return table(caption, header, rows, words=())


def time_table(runs: Sequence[Run]) -> Html | None:
    """Seconds and share by phase, a column for each run."""
    timed = [run for run in runs if run.costs.total_s]
    names = dict.fromkeys(name for run in timed for name, _ in phases_of(run))
    rows = [[code(name), *(_seconds(run.costs.phases.get(name), run.costs.total_s) for run in timed)] for name in names]
    rows.append(["total", *(f"{run.costs.total_s:,.1f} s" for run in timed)])
    speeds = [throughput(run) for run in timed]
    if any(speeds):
        rows.append(["sampled tokens / s of rollout", *(f"{speed:,.0f}" if speed else "-" for speed in speeds)])
    caption = "Wall time by phase, without what the process did before the first update. Phases: docs/metrics.md."
    return table(caption, ["phase", *(short(run.label) for run in timed)], rows) if timed else None


def _seconds(value: float | None, total_s: float) -> str:
    return "-" if value is None else f"{value:,.1f} s, {value / total_s:.0%}"


def throughput(run: Run) -> float:
    """Sampled tokens per second of the rollout phase, tools and grading included; 0 when unknown."""
    num_tokens = sum(each.get("sampled_tokens", 0.0) * each.get("num_trajectories", 0.0) for each in run.updates)
    rollout_s = run.costs.phases.get("rollout", 0.0)
    return num_tokens / rollout_s if rollout_s else 0.0


def memory_table(runs: Sequence[Run]) -> Html | None:
    """Largest and last size by place."""
    rows = []
    for run in runs:
        for place in run.costs.memory_places[:MAX_PLACES]:
            sizes = [sizes[place] for _, sizes in sorted(run.costs.memory.items()) if place in sizes]
            rows.append([short(run.label), short(place), f"{sizes[0]:.2f}", f"{sizes[-1]:.2f}", f"{max(sizes):.2f}"])
    caption = "Memory in GiB."
    return table(caption, ["run", "where", "first update", "last update", "most"], rows, words=(0, 1)) if rows else None

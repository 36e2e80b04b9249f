"""Rules that notice, from the metrics of each update, that a run is collapsing or that its tools fail.

The first `window` updates are the reference; later windows are compared with it. Independent replications of the
released code lost their tool calls between update 10 and 20 while the loss looked healthy: these rules look there.
Failures of tools are not compared: they are counted over the latest calls, and end the run when they are too many.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sod.config import GuardConfig

MIN_INFRASTRUCTURE_FAILURES = 3
"""Fewer failures than this among the latest calls are bad luck, whatever their share."""


SURE = 3.0
"""Standard errors by which a share or a mean must have fallen: the rule is asked anew after every update."""
MIN_FAILED_TURNS = 50
"""Turns with a failed call that a share is taken over; a share of fewer says little."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """A rule that was met. `fatal` alarms end the run whatever `on_alarm` says; `ongoing` ones were met before, too."""

    rule: str
    message: str
    fatal: bool = False
    ongoing: bool = False


@dataclass(kw_only=True)
class Guards:
    """Feed it every update's metrics in order, past ones too when a run is resumed."""

    config: GuardConfig
    _history: list[Mapping[str, float]] = field(default_factory=list)
    _ringing: set[str] = field(default_factory=set)
    _latest: list[tuple[float, float]] = field(default_factory=list)
    """(failures, calls) of the latest updates: as few as have `infrastructure_window` calls together."""

    def check(self, metrics: Mapping[str, float]) -> list[Alarm]:
        """The alarms of this update, from its rewards, calls and infrastructure failures."""
        self._history.append(metrics)
        window = self.config.window
        recent = self._history[-window:]
        alarms = self._infrastructure(metrics)
        if len(self._history) >= 2 * window:
            alarms += self._collapse(self._history[:window], recent)
        ringing, self._ringing = self._ringing, {alarm.rule for alarm in alarms}
        return [replace(alarm, ongoing=alarm.rule in ringing) for alarm in alarms]

    def _collapse(self, reference: Sequence[Mapping[str, float]], recent: Sequence[Mapping[str, float]]) -> list[Alarm]:
        alarms = []
        for key, name, floor, variance in (
            ("tool_calls", "tool calls per trajectory", self.config.tool_call_floor, _count_variance),
            ("reward", "mean reward", self.config.reward_floor, _share_variance),
        ):
            before, now = _mean(reference, key), _mean(recent, key)
            counts = _trajectories(reference), _trajectories(recent)
            if _fell(before, now, floor=floor, variance=variance, counts=counts):
                message = f"{name} fell from {before:.3g} to {now:.3g}, below {floor:g} of the start"
                alarms.append(Alarm(rule=key, message=message))
        alarms += self._retries()
        before, now = _failed_share(reference), _failed_share(recent)
        ceiling = self.config.failed_call_ceiling
        if ceiling < 1 and now > ceiling and before <= ceiling / 2:
            message = f"malformed and failed tool calls rose from {before:.0%} to {now:.0%} of all calls"
            alarms.append(Alarm(rule="failed_calls", message=message))
        return alarms

    def _retries(self) -> list[Alarm]:
        """A student that unlearns to call again after a failure: it shows long before all tool calls fall.

        Small updates have few failed calls, so each side has as many updates as have MIN_FAILED_TURNS, at least
        `window`, none on both sides.
        """
        reference = _with_failures(self._history, at_least=self.config.window)
        recent = _with_failures(self._history[::-1], at_least=self.config.window)
        if not reference or not recent or len(reference) + len(recent) > len(self._history):
            return []
        before, now = _retried_share(reference), _retried_share(recent)
        floor, counts = self.config.retry_floor, (_failed_turns(reference), _failed_turns(recent))
        if not _fell(before, now, floor=floor, variance=_share_variance, counts=counts):
            return []
        message = (
            f"calls again after a failed one fell from {before:.0%} to {now:.0%}, below {floor:g} of the start: the "
            "student unlearns to recover; does the teacher know how to?"
        )
        return [Alarm(rule="retries", message=message)]

    def _infrastructure(self, metrics: Mapping[str, float]) -> list[Alarm]:
        """A lost trajectory is one failure and at least one call.

        Metrics are by update and its calls ran at once, so the latest 1,000 calls are taken by whole updates: of
        updates of 400 calls the last three, of one of 4,000 all 4,000.
        """
        ceiling = self.config.infrastructure_ceiling
        lost = metrics["infrastructure_failures"]
        self._latest.append((lost, metrics["num_calls"] + max(lost, metrics.get("lost_calls", 0))))
        while sum(calls for _, calls in self._latest[1:]) >= self.config.infrastructure_window:
            del self._latest[0]
        failures, calls = (sum(values) for values in zip(*self._latest, strict=True))
        if ceiling >= 1 or failures < MIN_INFRASTRUCTURE_FAILURES or failures <= ceiling * calls:
            return []
        self._latest.clear()  # the run ends here; who mends the sandbox and goes on begins anew
        message = (
            f"{failures:.0f} of the last {calls:.0f} tool calls failed through no fault of the student "
            f"(limit {ceiling:.1%}); their trajectories were dropped. `detail` in trajectories.jsonl says why; "
            "`sod sandbox check` tests the sandbox"
        )
        return [Alarm(rule="infrastructure", message=message, fatal=True)]


def _with_failures(history: Sequence[Mapping[str, float]], *, at_least: int) -> Sequence[Mapping[str, float]]:
    """The first updates, `at_least` so many, that have MIN_FAILED_TURNS together; none where all have fewer."""
    counted = itertools.accumulate(metrics.get("failed_turns", 0) for metrics in history)
    enough = next((num for num, failed in enumerate(counted, start=1) if failed >= MIN_FAILED_TURNS), None)
    return () if enough is None else history[: max(enough, at_least)]


def _retried_share(history: Sequence[Mapping[str, float]]) -> float:
    return sum(metrics.get("retried", 0) for metrics in history) / _failed_turns(history)


def _failed_turns(history: Sequence[Mapping[str, float]]) -> float:
    return sum(metrics.get("failed_turns", 0) for metrics in history)


def _trajectories(history: Sequence[Mapping[str, float]]) -> float:
    """Metrics that do not say of how many trajectories they are count as exact."""
    return sum(metrics.get("num_trajectories", math.inf) for metrics in history)


def _fell(
    before: float,
    now: float,
    *,
    floor: float,
    variance: Callable[[float, float], float],
    counts: tuple[float, float],
) -> bool:
    """Below `floor` of the start, and by more than chance makes of means of so many. A floor of 0 is off; what began at
    nothing has nothing to fall from."""
    if not floor or before <= 0 or now >= floor * before:
        return False
    return before - now > SURE * math.sqrt(variance(before, counts[0]) + variance(now, counts[1]))


def _share_variance(mean: float, count: float) -> float:
    """Of a share of `count`, which numbers between 0 and 1 do not exceed; of larger ones, such as shaped rewards,
    that of counts. A share of 0 or 1 is not certain: one more might have been otherwise."""
    if mean > 1.0:
        return _count_variance(mean, count)
    share = min(max(mean, 1.0 / (count + 1)), 1.0 - 1.0 / (count + 1))
    return share * (1.0 - share) / count


def _count_variance(mean: float, count: float) -> float:
    """Of a mean of `count` counts of rare events (Poisson)."""
    return mean / count


def _mean(history: Sequence[Mapping[str, float]], key: str) -> float:
    return sum(metrics[key] for metrics in history) / len(history)


def _failed_share(history: Sequence[Mapping[str, float]]) -> float:
    calls = sum(metrics["num_calls"] for metrics in history)
    return sum(metrics["failed_calls"] for metrics in history) / calls if calls else 0.0

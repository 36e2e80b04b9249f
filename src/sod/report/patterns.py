"""The three patterns of the paper's Figures 5 and 6, by a rule: stable, erroneous, recovery.

Only steps that call a tool count: a final answer copies the last result, and its d_k says little. The unit u is the
median d_1 at the start of training. A trajectory is *stable* when no step's d_k is above HIGH u, *erroneous* when some
step's is and the last calling step's still is, and *recovery* when some step's is but the last calling step's no
longer. Every trajectory that calls is in one class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, TypeAlias, get_args

from sod.report.trajectory import step_values
from sod.report.untrusted import items, mapping

Pattern: TypeAlias = Literal["stable", "erroneous", "recovery"]
PATTERNS: tuple[Pattern, ...] = get_args(Pattern)
HIGH = 10.0
"""Units above which a step's divergence is high: between the two heaps that d_k of calls falls into."""
RULE = (
    f"Classes, by the d_k of steps that call (not the answer's): stable, none above {HIGH:g} u; erroneous, some "
    "above, and the last still; recovery, some above, but not the last; u is the median d_1 of the first update."
)
"""The rule in a sentence, for captions."""


def pattern(divergences: Sequence[float], *, unit: float) -> Pattern | None:
    """The class of a trajectory by the d_k of its calling steps. unit .02: `[.01 .9 .01] -> recovery`; None without a
    call."""
    if not divergences:
        return None
    if max(divergences) <= HIGH * unit:
        return "stable"
    return "erroneous" if divergences[-1] > HIGH * unit else "recovery"


def calling_divergences(record: Mapping[str, Any]) -> list[float]:
    """d_k of the steps that call a tool."""
    pairs = zip(step_values(record, "divergence"), items(record.get("turns")), strict=False)
    return [value for value, turn in pairs if items(mapping(turn).get("calls")) and value is not None]


def unit_of(records: Iterable[Mapping[str, Any]]) -> float | None:
    """Median d_1 of the records of a run's first update; None when none has a divergence."""
    firsts = [values[0] for record in records if (values := _known(record))]
    return median(firsts) if firsts else None


def _known(record: Mapping[str, Any]) -> list[float]:
    return [value for value in step_values(record, "divergence") if value is not None]

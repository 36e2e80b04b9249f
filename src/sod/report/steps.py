"""Means by step with 95 % bands, for correct trajectories, wrong ones, and those with a failed call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from sod.estimates import NORMAL_95
from sod.report.trajectory import has_failed_call

Outcome: TypeAlias = Literal["correct", "wrong", "failed call"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
MIN_PROBLEMS = 5
"""An interval over fewer would be guesswork."""
MAX_STEPS = 64
"""Steps beyond are not drawn: a picture of more could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPoint:
    """Mean of one step (counted from 1) over the trajectories that have it. `low` and `high` are its 95 % interval.

    They are None below MIN_PROBLEMS problems: siblings say little about other problems.
    """

    step: int
    mean: float
    low: float | None
    high: float | None
    num_trajectories: int


@dataclass(slots=True)
class _Cell:
    """What one problem contributes to one step: sum and number of values."""

    total: float = 0.0
    num: int = 0


@dataclass(kw_only=True)
class StepMeans:
    """Sums by outcome, step and problem; memory grows with problems, not with trajectories."""

    _cells: dict[tuple[Outcome, int], dict[str, _Cell]] = field(default_factory=dict)
    _lowest: float = math.inf
    _highest: float = -math.inf

    def add(self, values: Sequence[float | None], *, outcomes: Sequence[Outcome], problem: str) -> None:
        """One trajectory's values by step; None is a step without a value."""
        for outcome in outcomes:
            for step, value in enumerate(values[:MAX_STEPS], start=1):
                if value is not None:
                    cell = self._cells.setdefault((outcome, step), {}).setdefault(problem, _Cell())
                    cell.total += value
                    cell.num += 1
                    self._lowest, self._highest = min(self._lowest, value), max(self._highest, value)

    def points(self, outcome: Outcome) -> list[StepPoint]:
        """The curve of one outcome."""
        keys = sorted(key for key in self._cells if key[0] == outcome)
        return [_point(step, list(self._cells[outcome, step].values())) for outcome, step in keys]

    @property
    def constant(self) -> float | None:
        """The value when every single one was the same, else None."""
        return self._lowest if self._lowest == self._highest else None

    def __bool__(self) -> bool:
        return bool(self._cells)


def outcomes_of(record: Mapping[str, Any], *, correct: bool) -> tuple[Outcome, ...]:
    """The curves a trajectory belongs to: its outcome's, and that of failed calls when it has one."""
    outcome: Outcome = "correct" if correct else "wrong"
    return (outcome, "failed call") if has_failed_call(record) else (outcome,)


def _point(step: int, cells: Sequence[_Cell]) -> StepPoint:
    """Mean over trajectories; its variance is that of problems (clusters), as trajectories of one problem are alike."""
    num = sum(cell.num for cell in cells)
    mean = sum(cell.total for cell in cells) / num
    num_problems = len(cells)
    half: float | None = None
    if num_problems >= MIN_PROBLEMS:
        squares = sum((cell.total - mean * cell.num) ** 2 for cell in cells)
        half = NORMAL_95 * math.sqrt(squares * num_problems / (num_problems - 1)) / num
    return StepPoint(
        step=step,
        mean=mean,
        low=None if half is None else max(0.0, mean - half),
        high=None if half is None else mean + half,
        num_trajectories=num,
    )

"""Problem + Trajectory -> Score. One file per kind of answer; `Reward` is the protocol."""

from __future__ import annotations

from typing import Protocol

from sod.types import Problem, Score, Trajectory

__all__ = ["Reward"]


class Reward(Protocol):
    """Grades one finished trajectory. Raises InfrastructureError when it could not be graded at all."""

    async def score(self, problem: Problem, trajectory: Trajectory) -> Score:
        """The verdict, with the reason in words."""
        ...

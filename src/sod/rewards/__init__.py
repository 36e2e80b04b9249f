"""Problem + Trajectory -> Score. One file per kind of answer; `Reward` is the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from sod.errors import DataError
from sod.types import Problem, Score, Trajectory

__all__ = ["Reward", "grade", "reward_for"]


class Reward(Protocol):
    """Grades one finished trajectory. Raises InfrastructureError when it could not be graded at all."""

    async def score(self, problem: Problem, trajectory: Trajectory) -> Score:
        """The verdict, with the reason in words."""
        ...


async def grade(rewards: Mapping[str, Reward], problem: Problem, trajectory: Trajectory) -> Score:
    """Grade with the reward that the problem names. Raises DataError when there is none."""
    return await reward_for(rewards, problem).score(problem, trajectory)


def reward_for(rewards: Mapping[str, Reward], problem: Problem) -> Reward:
    """The reward that the problem names. Raises DataError when there is none."""
    reward = rewards.get(problem.grader)
    if reward is None:
        raise DataError(
            f"problem {problem.id}: its grader must be one of {sorted(rewards)}, got {problem.grader!r}; "
            "give the row another `grader` or leave it out"
        )
    return reward

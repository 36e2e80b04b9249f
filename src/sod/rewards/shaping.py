"""Terms that training adds to a verdict's value. What is right never changes, and every term is off at its default.

    Shaping(wrong=-1.0, overlong_factor=1.0).apply(score 0.0, 32768 of 32768 tokens) -> score -2.0

Sources: `overlong` is DAPO's soft overlong punishment (arXiv 2503.14476, equation 13); `wrong`, `failed_call` and
`tool_bonus` are those of the released SOD code, which scores in {-1, 1} and has the other two switched off (at most
-0.1 for failed calls, +0.15 for a right answer with a call that succeeded).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from sod.config.episode import FAULT_DETAIL
from sod.rewards.code import last_block
from sod.types import Problem, Score, StopReason, ToolStatus, Trajectory

if TYPE_CHECKING:
    from sod.rewards import Reward

__all__ = ["Shaped", "Shaping"]

_NOT_FAILED = (ToolStatus.OK, ToolStatus.INFRASTRUCTURE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shaping:
    """The terms by name, in units of the value, which is 1 for a right answer; what punishes is a positive number.

    `wrong`: value of a wrong answer; a fraction lies between it and 1. Off: 0.
    `no_answer`: taken off where the final turn has no answer that can be read. Off: 0.
    `overlong_factor`: taken off at the limit of tokens, rising from 0 over the `overlong_buffer` tokens before. Off: 0.
    `failed_call`: taken off for each tool call that failed, `failed_call_limit` at most. A call that could not be read
    failed; one that the world failed did not, nor one that failed on purpose (`tool.fault_share`). Off: 0.
    `tool_bonus`: added to a right answer if a tool call succeeded. Off: 0.
    """

    wrong: float = 0.0
    no_answer: float = 0.0
    overlong_factor: float = 0.0
    overlong_buffer: int = 4096
    failed_call: float = 0.0
    failed_call_limit: float = 0.1
    tool_bonus: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not math.isfinite(value) or (value < 0 and field.name != "wrong"):
                raise ValueError(f"{field.name} must be finite and not negative (only wrong may be), got {value}")
        if self.wrong >= 1:
            raise ValueError(f"wrong must be below 1, the value of a right answer, got {self.wrong}")

    def apply(
        self, score: Score, trajectory: Trajectory, *, max_response_tokens: int, answered: bool | None = None
    ) -> Score:
        """The score with every term added and named in its reason; the same object where none applies.

        `answered` says whether the final turn had an answer; None takes that from `score.answer`, which code has not.
        """
        if trajectory.stop_reason is StopReason.INFRASTRUCTURE:
            return score
        has_answer = score.correct or (score.answer is not None if answered is None else answered)
        tokens = trajectory.num_response_tokens
        terms = {
            "wrong": _wrong(score, wrong=self.wrong),
            "no answer": 0.0 if has_answer else -self.no_answer,
            "overlong": self.overlong_factor * overlong(tokens, limit=max_response_tokens, buffer=self.overlong_buffer),
            "failed calls": -min(self.failed_call * num_failed_calls(trajectory), self.failed_call_limit),
            "tool bonus": self.tool_bonus if score.correct and has_successful_call(trajectory) else 0.0,
        }
        applied = {name: term for name, term in terms.items() if term}
        if not applied:
            return score
        named = ", ".join(f"{name} {term:+.3g}" for name, term in applied.items())
        value = score.value + math.fsum(applied.values())
        return replace(score, value=value, reason=f"{score.reason}; shaping: {named}")


class Shaped:
    """A reward whose scores are shaped."""

    def __init__(self, reward: Reward, shaping: Shaping, *, max_response_tokens: int) -> None:
        self._reward = reward
        self._shaping = shaping
        self._max_response_tokens = max_response_tokens

    async def score(self, problem: Problem, trajectory: Trajectory) -> Score:
        """The reward's verdict with the terms added. Raises what the reward raises."""
        score = await self._reward.score(problem, trajectory)
        return self._shaping.apply(
            score,
            trajectory,
            max_response_tokens=self._max_response_tokens,
            answered=_has_code(trajectory) if problem.grader == "code" else None,
        )


def overlong(num_tokens: int, *, limit: int, buffer: int) -> float:
    """0 up to `limit - buffer` tokens, then falling in a line to -1 at `limit`: `(15, limit=20, buffer=10) -> -0.5`."""
    if num_tokens >= limit:
        return -1.0
    buffer = min(buffer, limit)
    return -max(0, num_tokens - (limit - buffer)) / buffer if buffer else 0.0


def num_failed_calls(trajectory: Trajectory) -> int:
    """Tool calls that failed by the student's doing."""
    return sum(result.status not in _NOT_FAILED and result.detail != FAULT_DETAIL for result in trajectory.tool_results)


def has_successful_call(trajectory: Trajectory) -> bool:
    """Whether any tool call went well."""
    return any(result.status is ToolStatus.OK for result in trajectory.tool_results)


def _wrong(score: Score, *, wrong: float) -> float:
    """What moves a value in [0, 1] to [wrong, 1]: `(0.0, wrong=-1) -> -1`, `(0.5, wrong=-1) -> -0.5`."""
    return 0.0 if score.correct else wrong * (1.0 - score.value)


def _has_code(trajectory: Trajectory) -> bool:
    """Whether the final turn is an answer in code: it holds a closed block and calls no tool."""
    calls = bool(trajectory.turns and trajectory.turns[-1].calls)
    return not calls and last_block(trajectory.final_text) is not None

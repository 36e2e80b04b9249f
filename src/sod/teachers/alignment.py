"""The student's tokens behind the teacher's own prompt: the same tokens at other positions.

student's  [a b | r s t]   positions (2, 4)
teacher's  [a x y b | r s t]         (4, 6)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sod.errors import SignalError

__all__ = ["SAME_PROMPT", "Aligned", "Alignment"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Aligned:
    """What the teacher scores: its prompt with what followed the student's, and where the student's tokens are now."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """Of one problem: the tokens that the student was shown, and those that the teacher is shown in their place."""

    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]

    @property
    def shift(self) -> int:
        """By how much a token of the student's stands later."""
        return len(self.teacher_prompt) - len(self.student_prompt)

    def of(self, token_ids: Sequence[int], *, positions: Sequence[int]) -> Aligned:
        """The sequence and positions that the teacher scores. Raises SignalError when they are not the student's."""
        aligned = Aligned(
            token_ids=(*self.teacher_prompt, *token_ids[len(self.student_prompt) :]),
            positions=tuple(position + self.shift for position in positions),
        )
        self.check(aligned, token_ids, positions=positions)
        return aligned

    def check(self, aligned: Aligned, token_ids: Sequence[int], *, positions: Sequence[int]) -> None:
        """The sequences differ in their prompts alone, and every position has the student's token.

        Raises SignalError: a log-ratio of two tokens would compare nothing.
        """
        start = len(self.student_prompt)
        if tuple(token_ids[:start]) != self.student_prompt:
            _refuse("the student's sequence must begin with its problem's prompt, got another beginning")
        if any(position < start for position in positions):
            _refuse(f"sampled positions must lie behind the prompt's {start} tokens, got {min(positions)}")
        if aligned.token_ids[: len(self.teacher_prompt)] != self.teacher_prompt:
            _refuse("the teacher's sequence must begin with its own prompt, got another beginning")
        if aligned.token_ids[len(self.teacher_prompt) :] != tuple(token_ids[start:]):
            _refuse("what follows the prompts must be the same tokens for teacher and student, got others")
        if len(aligned.positions) != len(positions):
            _refuse(f"the teacher must score {len(positions)} positions, got {len(aligned.positions)}")
        for position, place in zip(positions, aligned.positions, strict=True):
            if place != position + self.shift or aligned.token_ids[place] != token_ids[position]:
                _refuse(f"position {position} must be {position + self.shift} of the teacher's, got {place}")


SAME_PROMPT = Alignment(student_prompt=(), teacher_prompt=())
"""Nothing moves."""


def _refuse(fault: str) -> None:
    raise SignalError(
        f"the teacher must score the student's own tokens: {fault}; do teacher and agent have one chat template, "
        "one set of tools and one system message?"
    )

"""That a teacher's signal is real: finite log-probs that differ, and one language with the student."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sod.chat import Tokenizer
from sod.errors import ModelError, SignalError

__all__ = ["MIN_TOKENS_TO_JUDGE", "check_same_language", "check_signal"]

MIN_TOKENS_TO_JUDGE = 16
"""A shorter trajectory can be constant by chance, so it is not called so."""


def check_signal(teacher_logprobs: Sequence[float], *, num_expected: int, vocabulary_size: int) -> None:
    """Refuse log-probs that cannot be a model's: a teacher that fell asleep says -ln(vocabulary) for every token."""
    if len(teacher_logprobs) != num_expected:
        raise SignalError(
            f"the teacher must give one log-prob for each of {num_expected} sampled tokens, got "
            f"{len(teacher_logprobs)}; check the scoring engine"
        )
    broken = [logprob for logprob in teacher_logprobs if not math.isfinite(logprob) or logprob > 1e-4]
    if broken:
        raise SignalError(
            f"teacher log-probs must be finite and at most 0, got {broken[0]} ({len(broken)} of {num_expected} such); "
            "check the teacher's weights and precision"
        )
    if num_expected < MIN_TOKENS_TO_JUDGE:
        return
    low, high = min(teacher_logprobs), max(teacher_logprobs)
    if math.isclose(low, high, abs_tol=1e-6):
        uniform = math.isclose(low, -math.log(vocabulary_size), rel_tol=1e-3)
        what = f"-ln(vocabulary) = {low:.4f}, a uniform guess" if uniform else f"the same, {low:.4f}"
        raise SignalError(
            f"teacher log-probs must differ between tokens, got {what} for all {num_expected}; "
            "the engine lost the teacher's weights (a known failure after sleep and wake): reload it"
        )


def check_same_language(student: Tokenizer, teacher: Tokenizer) -> None:
    """Teacher and student must share vocabulary, special tokens and chat template: ModelError names the difference.

    A log-ratio compares the same token under two models; where ids or the dialogue's format differ it compares nothing.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        differing = sorted(ours.items() ^ theirs.items(), key=lambda item: (item[1], item[0]))
        token, index = differing[0]
        raise ModelError(
            f"teacher and student must share one vocabulary, got {len(theirs)} and {len(ours)} tokens that differ in "
            f"{len(differing)} entries, the first {token!r} = {index}; choose a teacher of the student's family"
        )
    if student.all_special_tokens != teacher.all_special_tokens:
        raise ModelError(
            f"teacher and student must share their special tokens, got {teacher.all_special_tokens} and "
            f"{student.all_special_tokens}; copy the student's tokenizer files to the teacher"
        )
    if student.chat_template != teacher.chat_template:
        raise ModelError(
            "teacher and student must share one chat template, got two; a teacher that scores another format "
            "is off on every control token: copy the student's chat_template.jinja to the teacher"
        )

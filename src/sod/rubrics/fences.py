"""Text of others inside a prompt: it stands between marks that it cannot contain, and no server reads tokens into it.

fenced([Piece(label="PROBLEM", text="2+3?")]) -> Fenced(mark="3f0c...", text='''
    [3f0c... begin PROBLEM]
    2+3?
    [3f0c... end PROBLEM]''')
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sod.types import Message, Problem, Trajectory

__all__ = ["Fenced", "Piece", "answer_pieces", "fenced", "harmless", "problem_pieces", "rollout_pieces", "shortened"]

MARK_DIGITS = 24
_ROLES = ("system", "user", "assistant", "tool")
_CONTROL = re.compile(
    r"(?<=<)(?=[|\uff5c])|(?<=[|\uff5c])(?=>)"  # <|im_end|>, <｜User｜>
    r"|(?<=<)(?=/?(?:s|bos|eos|start_of_turn|end_of_turn|start_of_image|turn|channel)>)"
    r"|(?<=<)(?=/?(?:think|tool_call|tool_response|pad|unk|mask)>)"
    r"|(?<=\[)(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\])|(?<=<)(?=</?SYS>)",
    re.I,
)
"""Where the control words of known chat templates are broken: servers read such text as the tokens themselves."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One text of others, and what it is, in words of ours."""

    label: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fenced:
    """Pieces between marks. `mark` is in every line of ours and in none of theirs."""

    mark: str
    text: str


def fenced(pieces: Sequence[Piece]) -> Fenced:
    """The pieces, each between two lines with one mark.

    The mark is a hash of all pieces: the same pieces give the same prompt, which is found in the cache, and no writer
    of a piece can know the mark, since it hangs on every character of his own.
    """
    texts = [harmless(piece.text) for piece in pieces]
    mark = _mark(texts)
    blocks = (
        f"[{mark} begin {piece.label}]\n{text}\n[{mark} end {piece.label}]"
        for piece, text in zip(pieces, texts, strict=True)
    )
    return Fenced(mark=mark, text="\n\n".join(blocks))


def harmless(text: str) -> str:
    """Valid Unicode whose control words are broken by a space: `<|im_end|> -> < |im_end| >`."""
    return _CONTROL.sub(" ", text.encode("utf-8", "replace").decode())


def problem_pieces(problem: Problem) -> list[Piece]:
    """The messages that the student was shown."""
    return [
        Piece(label=f"PROBLEM, MESSAGE {number} ({_role(message)})", text=str(message.get("content") or ""))
        for number, message in enumerate(problem.messages, start=1)
    ]


def answer_pieces(answers: Sequence[str], *, max_chars: int) -> list[Piece]:
    """The teacher's answers, numbered from 1."""
    return [
        Piece(label=f"TEACHER ANSWER {number}", text=shortened(answer, max_chars=max_chars))
        for number, answer in enumerate(answers, start=1)
    ]


def rollout_pieces(name: str, trajectory: Trajectory, *, max_result_chars: int, max_chars: int) -> list[Piece]:
    """A rollout as its turns, each tool result after the turn that called, and how it ended.

    A result has at most `max_result_chars`; then the longest pieces are cut until all have `max_chars` together.
    """
    pieces = [
        *_turn_pieces(name, trajectory, max_result_chars=max_result_chars),
        Piece(label=f"{name}, HOW IT ENDED", text=trajectory.stop_reason.sentence),
    ]
    limit = _even_limit([len(piece.text) for piece in pieces], total=max_chars)
    return [Piece(label=piece.label, text=shortened(piece.text, max_chars=limit)) for piece in pieces]


def shortened(text: str, *, max_chars: int) -> str:
    """Head and tail of `max_chars` together, with a line between that says how much is missing."""
    if len(text) <= max_chars:
        return text
    head = max_chars - max_chars // 2
    tail = max_chars // 2
    cut = f"\n[... {len(text) - max_chars} characters left out ...]\n"
    return text[:head] + cut + text[len(text) - tail :]


def _role(message: Message) -> str:
    """A label is in words of ours, whatever the row says."""
    role = message.get("role")
    return role if role in _ROLES else "other"


def _turn_pieces(name: str, trajectory: Trajectory, *, max_result_chars: int) -> Iterator[Piece]:
    for number, turn in enumerate(trajectory.turns, start=1):
        yield Piece(label=f"{name}, TURN {number}", text=turn.text)
        for count, result in enumerate(turn.results, start=1):
            text = shortened(result.text, max_chars=max_result_chars)
            yield Piece(label=f"{name}, TURN {number}, TOOL RESULT {count} ({result.status})", text=text)


def _even_limit(lengths: Sequence[int], *, total: int) -> int:
    """The largest limit of one at which all fit: `[10, 100, 100], total=110 -> 50`; what is short lends its room."""
    left = total
    for index, length in enumerate(sorted(lengths)):
        share = left // (len(lengths) - index)
        if length > share:
            return share
        left -= length
    return max(lengths, default=0)


def _mark(texts: Iterable[str]) -> str:
    """Digits that no text has in it."""
    folded = [text.casefold() for text in texts]
    whole = hashlib.sha256()
    for text in folded:
        content = text.encode()
        whole.update(b"%d:" % len(content) + content)
    for number in itertools.count():
        mark = hashlib.sha256(b"%s/%d" % (whole.digest(), number)).hexdigest()[:MARK_DIGITS]
        if not any(mark in text for text in folded):
            return mark
    raise AssertionError("there is always a next number")

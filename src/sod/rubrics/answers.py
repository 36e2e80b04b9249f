"""What models answered, on disk by what they were asked: nothing is paid for twice.

    DIRECTORY/3f/3f0c...e1.json    {"key": ..., "question": {...}, "answer": {"text": ..., ...}}

An entry is written beside and renamed: it is whole or not there. One that is damaged or belongs to another question is
as if it were not there, and is asked for and written again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from sod.errors import StorageError
from sod.rubrics.wording import VERSION
from sod.types import Message

__all__ = ["Answer", "AnswerCache", "Purpose", "Question"]

Purpose: TypeAlias = Literal["teacher", "rubric", "verdict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One request of /v1/chat/completions. `draw` tells equal ones apart whose answers shall differ."""

    purpose: Purpose
    model: str
    messages: tuple[Message, ...]
    temperature: float
    max_tokens: int
    draw: int = 0

    @property
    def content(self) -> dict[str, Any]:
        """All that bears on the answer. Not the server's URL: it may move."""
        return {
            "wording": VERSION,
            "model": self.model,
            "temperature": float(self.temperature),
            "max_tokens": self.max_tokens,
            "draw": self.draw,
            "messages": [dict(message) for message in self.messages],
        }

    @property
    def key(self) -> str:
        """A hash of `content`, 64 digits."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a model said. `finish_reason` is the server's word, "length" for a text that was cut."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool
    """The server did not say how many tokens it were."""


_KINDS: Mapping[str, type] = {
    "text": str,
    "finish_reason": str,
    "prompt_tokens": int,
    "completion_tokens": int,
    "estimated": bool,
}


class AnswerCache:
    """Answers in a directory that is made when the first is kept; several processes may share it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def path(self, question: Question) -> Path:
        """Where the answer is, or would be."""
        key = question.key
        return self._directory / key[:2] / f"{key}.json"

    def find(self, question: Question) -> Answer | None:
        """The answer that was kept, if one was and can be read."""
        try:
            entry: Any = json.loads(self.path(question).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(entry, dict) or entry.get("key") != question.key:
            return None
        return _answer(entry.get("answer"))

    def keep(self, question: Question, answer: Answer) -> None:
        """Write it, in place of what is there. Raises StorageError."""
        path = self.path(question)
        entry = {
            "key": question.key,
            "question": {"purpose": question.purpose, **question.content},
            "answer": asdict(answer),
        }
        # Half of a surrogate pair becomes \udXXX, which JSON reads as what it was.
        text = json.dumps(entry, indent=2, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(text)  # never synced: what a power failure tears is damaged, and asked again
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"{path} must be writable, got: {error.strerror}; answers that cost money are kept there, so free some "
                "space, check its permissions, or set rubrics.cache"
            ) from None


def _answer(value: Any) -> Answer | None:
    """An answer as it was kept, None for anything else."""
    if not isinstance(value, dict) or set(value) != set(_KINDS):
        return None
    if any(type(value[name]) is not kind for name, kind in _KINDS.items()) or not value["text"]:
        return None
    return Answer(**value)

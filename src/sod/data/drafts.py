"""What a layout reads from a row, and the layouts: which columns they need and how they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from sod.data.files import Row
from sod.types import Message

__all__ = ["Draft", "Layout", "Task", "is_bare"]

Task: TypeAlias = Literal["math", "choice", "program", "function"]
"""What a bare question asks for: a boxed answer, a boxed letter, a program on stdin, or a function."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A problem before it is worded for the model.

    `bare` says that nobody has told the model yet how to answer; `task` then decides what it is told. `entry_point` is
    the name that its tests call. `solution` and `hint` are never worded. `metadata` may hold what the wording needs:
    `starter_code` of a function, `domain` of a choice.
    """

    messages: tuple[Message, ...]
    bare: bool
    answer: str
    source: str
    id: str = ""
    task: Task = "math"
    grader: str = "math"
    entry_point: str = ""
    solution: str = ""
    hint: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One published form of rows. `columns`: any one of its tuples must be there. `read` takes a row and the file's
    stem; `recognise` tells it from layouts with the same columns, "auto" asks in the order of declaration.

    A row that nobody can grade (SkippedRowError) is left out, counted and named in every layout. A row that breaks the
    form (RowError) ends the loading, with its number: in a file of one's own it is a slip to be mended. In a `tolerant`
    layout, a collection that somebody else published, it is left out too. No usable row is an error in all.

    What is `private` is shown to the model and to nobody else: runs keep it packed, reports and logs never quote it.
    """

    columns: tuple[tuple[str, ...], ...]
    read: Callable[[Row, str], Draft]
    recognise: Callable[[Row], bool] = lambda _row: True
    tolerant: bool = False
    private: bool = False

    def fits(self, row: Row) -> bool:
        """The row has the columns."""
        return any(set(columns) <= row.keys() for columns in self.columns)


_BOXED = ("\\boxed", "\boxed")
"""In some published files "\\b" was read as a backspace; that counts as said."""
_CODE_BLOCK = ("```python", "YOUR CODE HERE")
"""A plain ``` may be a sample in the statement of a task."""


def is_bare(messages: Sequence[Message], *, grader: str = "math") -> bool:
    r"""No message says yet where the answer goes: \boxed, for code a block of Python."""
    marks = _CODE_BLOCK if grader == "code" else _BOXED
    return not any(mark in message["content"] for message in messages for mark in marks)

"""Our own rows, of every kind, and questions with a mathematical answer: GSM8K, AIME, MATH."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from sod.data.code_rows import task_of, tests_of
from sod.data.drafts import Draft, Layout, Task, is_bare
from sod.data.fields import (
    RowError,
    SkippedRowError,
    answer_of,
    decoded,
    dumped,
    letter_of,
    prompt_of,
    question_of,
    reference_of,
)
from sod.data.files import Row

__all__ = ["AIME", "GSM8K", "MATH", "OWN", "gsm8k_answer"]

_OWN_COLUMNS = frozenset(
    {"id", "messages", "question", "problem", "answer", "grader", "source", "solution", "hint", "metadata"}
)
_OWN_ALONE = frozenset({"messages", "grader"})
"""Columns that no published form has beside question and answer."""
_AIME_QUESTIONS = ("input", "Problem", "problem", "question")
_AIME_ANSWERS = ("output", "Answer", "answer")
_AIME_DRESS = re.compile(
    r"\^\{?\\circ\}?|°|\\(?:text|mathrm)\{[^{}0-9]*\}|\\(?:text|mathrm|boxed)(?=\{)|\\[,;!]|[${}\s]"
)
"""What some copies put around the integer: `$204$`, `336^\\circ`, `\\text{204}`, `82\\text{ degrees}`."""


class _Answer(NamedTuple):
    """What is compared with, what is asked for, and the name that tests call."""

    text: str
    task: Task = "math"
    entry_point: str = ""


def _read_own(row: Row, stem: str) -> Draft:
    own = row.get("messages")
    messages = prompt_of(own) if own is not None else question_of(row, "question", "problem")
    rest = {key: value for key, value in row.items() if key not in _OWN_COLUMNS and value is not None}
    grader = str(row.get("grader") or "math")
    answer, task, entry_point = _own_answer(row, grader)
    return Draft(
        id=_id(row),
        messages=messages,
        bare=own is None and is_bare(messages, grader=grader),
        answer=answer,
        task=task,
        grader=grader,
        entry_point=entry_point,
        source=str(row.get("source") or stem),
        solution=reference_of(row, "solution"),
        hint=reference_of(row, "hint"),
        metadata={**rest, **_metadata(row)},
    )


def _own_answer(row: Row, grader: str) -> _Answer:
    """What the grader reads: a text or number, a letter, or tests. What it could not read is left out now."""
    if grader == "code":
        given = row.get("answer")
        answer = dumped(given, "answer") if isinstance(given, dict) else answer_of(row, "answer")
        tests = tests_of(answer)
        return _Answer(answer, task_of(tests.kind), tests.entry_point)
    answer = answer_of(row, "answer")
    if grader != "choice":
        return _Answer(answer)
    if not letter_of(answer):
        raise SkippedRowError("choice without a letter as its answer")
    return _Answer(letter_of(answer), "choice")


def _id(row: Row) -> str:
    return "" if row.get("id") is None else str(row["id"])


def _metadata(row: Row) -> dict[str, Any]:
    given = decoded(row.get("metadata")) or {}
    if not isinstance(given, dict):
        raise RowError(f"metadata must be an object, got a {type(given).__name__}")
    return given


def _read_gsm8k(row: Row, _stem: str) -> Draft:
    messages = question_of(row, "question")
    solution = answer_of(row, "answer")
    return Draft(
        id=_id(row),
        messages=messages,
        bare=is_bare(messages),
        answer=gsm8k_answer(solution),
        source="gsm8k",
        solution=solution,
        hint=reference_of(row, "hint"),
    )


def gsm8k_answer(solution: str) -> str:
    """`... #### 1,234 -> 1234`. Raises RowError without the marker."""
    _, marker, answer = solution.rpartition("####")
    if not marker or not answer.strip():
        raise RowError(f'the answer must end with "#### N", got ...{solution[-40:]!r}')
    return answer.strip().replace(",", "")


def _read_aime(row: Row, stem: str) -> Draft:
    messages = question_of(row, *_AIME_QUESTIONS)
    answer = answer_of(row, *_AIME_ANSWERS)
    integer = re.fullmatch(r"([0-9]{1,3})(?:\.0*)?", _AIME_DRESS.sub("", answer))
    if not integer:
        raise RowError(f"an AIME answer must be an integer from 0 to 999, got {answer!r:.60}")
    return Draft(messages=messages, bare=is_bare(messages), answer=str(int(integer[1])), source=stem)


AIME = Layout(
    columns=(("input", "output"), ("Problem", "Answer"), ("problem", "answer"), ("question", "answer")),
    read=_read_aime,
    recognise=lambda row: {"input", "output"} <= row.keys() or {"Problem", "Answer"} <= row.keys(),
)
GSM8K = Layout(
    columns=(("question", "answer"),),
    read=_read_gsm8k,
    recognise=lambda row: "####" in str(row["answer"]) and not _OWN_ALONE & row.keys(),
)
MATH = Layout(columns=(("problem", "answer"),), read=_read_own)
OWN = Layout(columns=(("messages", "answer"), ("question", "answer"), ("problem", "answer")), read=_read_own)

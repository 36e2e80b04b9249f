"""Rows in verl's schema, as Open-AgentRL publishes them: mathematics and code, decided row by row.

`reward_model` and `extra_info` may be JSON texts. A row that does not say its `data_source` has the file's name. Its
solution and hint are columns, or in `extra_info`, where verl's own GSM8K keeps the whole solution as `answer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from sod.data.code_rows import task_of, tests_of
from sod.data.drafts import Draft, Layout, is_bare
from sod.data.fields import RowError, SkippedRowError, answer_of, decoded, dumped, plain, prompt_of, question_of
from sod.data.files import Row
from sod.types import Message

__all__ = ["VERL"]

_KEPT = ("ability", "extra_info", "instance_id", "domain")
_FOR_TEACHERS = frozenset({"solution", "hint", "answer"})
"""Fields of extra_info that no metadata holds."""
_MARKER = "####"
"""What stands before the answer at the end of a solution of GSM8K."""


def _read_verl(row: Row, stem: str) -> Draft:
    source = str(row.get("data_source") or stem)
    truth = _truth(row)
    messages = prompt_of(row["prompt"]) if row.get("prompt") is not None else question_of(row, "problem")
    references = _references(row)
    metadata = _metadata(row)
    if _holds_tests(truth):
        answer = dumped(truth["ground_truth"], "ground_truth")
        draft = _code_draft(answer, messages, source=source, metadata=metadata)
        return replace(draft, solution=references.solution, hint=references.hint)
    if source.startswith("train-code"):
        raise SkippedRowError("code without tests: nobody can grade it")
    if row.get("ability") == "qa":
        raise SkippedRowError("ability qa: no grader for free text")
    answer = answer_of(truth, "ground_truth")
    return Draft(
        messages=messages,
        bare=is_bare(messages),
        answer=answer,
        source=source,
        solution=references.solution,
        hint=references.hint,
        metadata=metadata,
    )


class _References(NamedTuple):
    """What a teacher may be shown."""

    solution: str
    hint: str


def _references(row: Row) -> _References:
    """Those of the row itself, else of its extra_info; what is no text is none."""
    extra = decoded(row.get("extra_info"))
    extra = extra if isinstance(extra, Mapping) else {}
    whole = plain(extra.get("answer")) or ""
    return _References(
        solution=_first(row, extra, "solution") or (whole if _MARKER in whole else ""),
        hint=_first(row, extra, "hint"),
    )


def _first(row: Row, extra: Mapping[str, Any], name: str) -> str:
    return plain(row.get(name)) or plain(extra.get(name)) or ""


def _metadata(row: Row) -> dict[str, Any]:
    """What is kept beside the problem: nothing that only a teacher may see."""
    kept = {key: decoded(row[key]) for key in _KEPT if row.get(key) is not None}
    if isinstance(kept.get("extra_info"), Mapping):
        kept["extra_info"] = {key: value for key, value in kept["extra_info"].items() if key not in _FOR_TEACHERS}
    return kept


def _truth(row: Row) -> Mapping[str, Any]:
    """What holds `ground_truth`: the column reward_model (an object, or its JSON), or the row itself."""
    truth = (decoded(row["reward_model"]) or {}) if "reward_model" in row else row
    if not isinstance(truth, Mapping):
        raise RowError(f"reward_model must be an object with ground_truth, got {truth!r:.60}")
    return truth


def _holds_tests(truth: Mapping[str, Any]) -> bool:
    """Tests instead of an answer: {inputs, outputs, fn_name?} or {test_code, entry_point, import_prefix?}."""
    value = decoded(truth.get("ground_truth"))
    return isinstance(value, Mapping) and ("inputs" in value or "test_code" in value)


def _code_draft(answer: str, messages: tuple[Message, ...], *, source: str, metadata: Mapping[str, Any]) -> Draft:
    tests = tests_of(answer)
    return Draft(
        messages=messages,
        bare=is_bare(messages, grader="code"),  # the training set's rows say how to answer, the benchmark's do not
        answer=answer,
        source=source,
        task=task_of(tests.kind),
        grader="code",
        entry_point=tests.entry_point,
        metadata=metadata,
    )


VERL = Layout(
    columns=(("prompt", "reward_model"), ("problem", "reward_model"), ("problem", "ground_truth")),
    read=_read_verl,
    tolerant=True,
)

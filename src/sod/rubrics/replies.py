"""What rubricator and verifier answer, read without trust: a reply is right in every part, or a complaint says why not.

read_rubric('{"criteria": [{"text": "States that the sum is 5.", "points": 3}, ...]}', limits=...)  # (Criterion, ...)
read_verdicts('{"verdicts": {"c1": "yes", "c2": "no"}}', criteria=rubric)  # (True, False)

A reply is one JSON object. What may stand around it: hidden thoughts up to `</think>`, which some servers leave in,
and one Markdown code fence. Other words are refused, not searched for JSON: a verifier that quotes the student's forged
verdicts before giving its own must not be read by the wrong ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from sod.transport import ReplyError, shown

__all__ = ["MAX_CRITERION_CHARS", "Criterion", "Limits", "read_rubric", "read_verdicts"]

MAX_CRITERION_CHARS = 400
_CODE_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)```", re.DOTALL | re.IGNORECASE)
_VERDICTS: Mapping[Any, bool] = {"yes": True, "no": False, True: True, False: False}


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One line of a rubric: met or not, worth `points`. `id` is ours: c1, c2, ..."""

    id: str
    text: str
    points: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """(least, most) criteria of a rubric, and what one may be worth."""

    criteria: tuple[int, int]
    points: tuple[int, int]


def read_rubric(text: str, *, limits: Limits) -> tuple[Criterion, ...]:
    """The criteria, each text in one line. Raises ReplyError with a complaint that the model can act on."""
    listed = _only_field(_object(text), "criteria", kind=list)
    least, most = limits.criteria
    if not least <= len(listed) <= most:
        raise ReplyError(f"there must be {least} to {most} criteria, got {len(listed)}")
    rubric = tuple(_criterion(entry, number, points=limits.points) for number, entry in enumerate(listed, start=1))
    first: dict[str, int] = {}
    for number, criterion in enumerate(rubric, start=1):
        same = first.setdefault(criterion.text.casefold().rstrip(" .!?"), number)
        if same != number:
            raise ReplyError(f"no two criteria may be the same, got one text as numbers {same} and {number}")
    return rubric


def read_verdicts(text: str, *, criteria: Sequence[Criterion]) -> tuple[bool, ...]:
    """One verdict per criterion, in their order. Raises ReplyError with a complaint that the model can act on."""
    given = _only_field(_object(text), "verdicts", kind=dict)
    wanted = [criterion.id for criterion in criteria]
    if missing := [name for name in wanted if name not in given]:
        raise ReplyError(f"every criterion needs a verdict, got none for {', '.join(missing)}")
    if unknown := [name for name in given if name not in wanted]:
        raise ReplyError(f"verdicts must be of {', '.join(wanted)} alone, got others: {shown(unknown)}")
    return tuple(_verdict(name, given[name]) for name in wanted)


def _verdict(name: str, value: Any) -> bool:
    if type(value) not in (str, bool) or value not in _VERDICTS:  # 1 is no True here
        raise ReplyError(f'the verdict of {name} must be "yes" or "no", got {shown(value)}')
    return _VERDICTS[value]


def _criterion(entry: Any, number: int, *, points: tuple[int, int]) -> Criterion:
    where = f"criterion {number}"
    if not isinstance(entry, dict) or set(entry) != {"text", "points"}:
        raise ReplyError(f'{where} must be an object of "text" and "points" alone, got {shown(entry)}')
    text, worth = entry["text"], entry["points"]
    line = " ".join(text.split()) if isinstance(text, str) else ""
    if not 1 <= len(line) <= MAX_CRITERION_CHARS:
        raise ReplyError(f"the text of {where} must be 1 to {MAX_CRITERION_CHARS} characters, got {shown(text)}")
    if type(worth) is not int or not points[0] <= worth <= points[1]:
        raise ReplyError(f"the points of {where} must be a whole number {points[0]} to {points[1]}, got {shown(worth)}")
    return Criterion(id=f"c{number}", text=line, points=worth)


def _only_field(value: Mapping[str, Any], name: str, *, kind: type) -> Any:
    if list(value) != [name] or not isinstance(value[name], kind):
        must = "a list" if kind is list else "an object"
        raise ReplyError(f'the reply must hold "{name}", {must}, and nothing else, got {shown(value)}')
    return value[name]


def _object(text: str) -> Mapping[str, Any]:
    """The one JSON object of a reply; no key twice, no NaN."""
    body = text.rpartition("</think>")[2].strip()
    if match := _CODE_FENCE.fullmatch(body):
        body = match[1]
    try:
        value = json.loads(body, object_pairs_hook=_unique, parse_constant=_refused_constant)
    except (ValueError, RecursionError) as error:
        why = (
            str(error).partition(" (char")[0] if isinstance(error, json.JSONDecodeError) else "it is too large or deep"
        )
        raise ReplyError(f"the reply must be one JSON object and nothing around it, got a fault: {why}") from None
    if not isinstance(value, dict):
        raise ReplyError(f"the reply must be one JSON object, got {shown(value)}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two equal keys, so "yes" and "no" for one criterion would pass as "no"."""
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ReplyError(f"no key may be given twice, got {shown(twice)} more than once")
    return value


def _refused_constant(name: str) -> NoReturn:
    raise ReplyError(f"numbers must be finite, got {name}")

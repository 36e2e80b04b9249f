"""One trajectory as text: what the student wrote and saw, step by step, with divergence and weight beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sod.report.untrusted import clean, count, items, line, mapping, number
from sod.types import StopReason, ToolStatus

MAX_LINES = 24
"""Lines shown of one text; the middle of a longer one is left out."""
MAX_COLUMNS = 160
BAR_COLUMNS = 20
READABLE_STEPS = range(3, 9)
"""Trajectories of so many steps tell a story that fits a page."""
READABLE_CHARACTERS = 400
"""And of so much text: a student that repeats itself fills pages."""
_FINE = frozenset({ToolStatus.OK, ToolStatus.INFRASTRUCTURE})


# ---- choosing


def telling_trajectory(records: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The record that shows most: at least 3 steps, a failed call or a wrong answer, weights that differ.

    Among those, one with a failed call and the widest range of weights (of divergences where all weights are equal).
    When none qualifies, the nearest to it; None when there is no record with a turn. Reads the records once.
    """
    best: Mapping[str, Any] | None = None
    best_rank: tuple[float, ...] = ()
    for record in records:
        rank = telling_rank(record)
        if rank and rank > best_rank:
            best, best_rank = record, rank
    return best


def telling_rank(record: Mapping[str, Any]) -> tuple[float, ...]:
    """What `telling_trajectory` compares; empty for a record without turns."""
    turns = items(record.get("turns"))
    if not turns:
        return ()
    weights, divergences = step_values(record, "weight"), step_values(record, "divergence")
    failed, wrong = has_failed_call(record), mapping(record.get("score")).get("correct") is False
    weight_range, divergence_range = _range(weights), _range(divergences)
    qualities = (len(turns) >= READABLE_STEPS.start, failed or wrong, weight_range > 0.05)
    num_characters = sum(len(str(mapping(turn).get("text"))) for turn in turns)
    readable = len(turns) in READABLE_STEPS and num_characters <= READABLE_CHARACTERS
    return (sum(qualities), readable, failed, weight_range, divergence_range, -len(turns))


def is_trajectory(record: Mapping[str, Any]) -> bool:
    """It is a record of a trajectory: with its turns, or sealed."""
    return isinstance(record.get("problem_id"), str) and ("sealed" in record or isinstance(record.get("turns"), list))


def has_failed_call(record: Mapping[str, Any]) -> bool:
    """A tool answered with anything but ok. Failures of the world do not count: the student never saw them."""
    return any(status not in _FINE for status in _statuses(record))


def _statuses(record: Mapping[str, Any]) -> Iterator[str]:
    for turn in items(record.get("turns")):
        for result in items(mapping(turn).get("results")):
            yield str(mapping(result).get("status"))


def step_values(record: Mapping[str, Any], name: str) -> list[float | None]:
    """`divergence` or `weight` by step; None where a step has none."""
    return [number(value) for value in items(record.get(name))]


def _range(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return max(known) - min(known) if known else 0.0


# ---- showing


def show_trajectory(record: Mapping[str, Any]) -> str:
    """A trajectory record as plain text: a table of d_k and w_k with bars, then every step's text, calls and results.

    Safe to print: what the student or a tool wrote is cleaned of control characters, cut when long, and stands behind a
    margin (`| ` student, `> ` code, `< ` tool), so that it cannot pass for a line of ours. For markdown put it into a
    fenced block (`untrusted.fence`); rich needs `markup=False`.
    """
    turns = [mapping(turn) for turn in items(record.get("turns"))]
    divergences, weights = step_values(record, "divergence"), step_values(record, "weight")
    parts = [headline(record)]
    if divergences or weights:
        parts.append("\n".join(_table(turns, divergences, weights)))
    for index, turn in enumerate(turns):
        title = f"-- step {index + 1} of {len(turns)}"
        facts = [
            f"{name} = {values[index]:.3g}"
            for name, values in (("d", divergences), ("w", weights))
            if index < len(values) and values[index] is not None
        ]
        parts.append("\n".join([", ".join([title, *facts]) + " --", *_turn_lines(turn)]))
    return "\n\n".join(parts)


def headline(record: Mapping[str, Any]) -> str:
    """Which trajectory it is and how it ended: two lines of ours."""
    where = f"Problem {line(record.get('problem_id', '?'), width=80)}, sample {_whole(record.get('sample'))}"
    update = count(record.get("update"))
    if update:
        where += f", update {update}"
    try:
        ending = StopReason(str(record.get("stop_reason"))).sentence
    except ValueError:
        ending = f"Stop reason: {line(record.get('stop_reason', '?'), width=60)}."
    return f"{where}: {_outcome(mapping(record.get('score')))}.\n{ending}"


def _outcome(score: Mapping[str, Any]) -> str:
    if not score:
        return "not graded"
    answer = score.get("answer")
    said = "no answer" if answer is None else f'answer "{line(answer, width=60)}"'
    return f"{'correct' if score.get('correct') is True else 'wrong'}, {said}"


def _whole(value: object) -> str:
    known = count(value)
    return "?" if known is None else str(known)


def _table(
    turns: Sequence[Mapping[str, Any]], divergences: Sequence[float | None], weights: Sequence[float | None]
) -> Iterator[str]:
    """One line per step: d_k with a bar against the largest of this trajectory, w_k with a bar against 1 or more."""
    most_d = max((value for value in divergences if value is not None), default=0.0)
    most_w = max([1.0, *(value for value in weights if value is not None)])
    yield f"step  {'divergence d_k (nats)':<{BAR_COLUMNS + 9}}  {'weight w_k':<{BAR_COLUMNS + 9}}  calls"
    for index, turn in enumerate(turns):
        d, w = _at(divergences, index), _at(weights, index)
        calls = ", ".join(line(mapping(each).get("status"), width=24) for each in items(turn.get("results")))
        yield f"{index + 1:>4}  {_bar(d, most_d)}  {_bar(w, most_w)}  {calls or '-'}".rstrip()


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _bar(value: float | None, most: float) -> str:
    """`0.50 of 1.0` -> "  0.500 ██████████          "."""
    if value is None:
        return f"{'-':>7}  {'':<{BAR_COLUMNS}}"
    columns = round(BAR_COLUMNS * max(0.0, value) / most) if most > 0 else 0
    bar = "█" * columns if columns else "▏" * (value > 0)
    return f"{value:>7.3f}  {bar:<{BAR_COLUMNS}}"


def _turn_lines(turn: Mapping[str, Any]) -> Iterator[str]:
    """A step's parts as lines behind margins."""
    for part in parts_of(turn):
        if part.title:
            yield part.title
        yield from _margin(part.text, f"{part.mark} ")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A piece of a step: what the student wrote (mark `|`), an argument of its call (`>`), a result (`<`).

    `title` is one clean line of ours; `text` is as it was written and may be anything.
    """

    mark: Literal["|", ">", "<"]
    title: str = ""
    text: str = ""


def parts_of(turn: Mapping[str, Any]) -> Iterator[Part]:
    """Text, calls and results of one step. A single readable call is shown apart, decoded; others as written."""
    text = str(turn.get("text", ""))
    calls = [mapping(call) for call in items(turn.get("calls"))]
    before, mark, rest = text.partition("<tool_call>")
    inside, closed, after = rest.rpartition("</tool_call>")
    apart = len(calls) == 1 and "name" in calls[0] and bool(mark) and bool(closed) and "<tool_call>" not in inside
    for part in (before, after) if apart else (text,):
        yield Part(mark="|", text=part)
    for call in calls:
        if "name" not in call:
            yield Part(mark=">", title=f"call that could not be read: {line(call.get('reason', ''))}")
        elif apart:
            yield from _call_parts(call)
    for result in (mapping(each) for each in items(turn.get("results"))):
        status = line(result.get("status", "?"), width=40)
        yield Part(mark="<", title=f"result: {status}", text=str(result.get("text", "")))


def _call_parts(call: Mapping[str, Any]) -> Iterator[Part]:
    arguments = mapping(call.get("arguments"))
    names = ", ".join(line(name, width=40) for name in arguments)
    yield Part(mark=">", title=f"call: {line(call['name'], width=60)}({names})")
    for value in arguments.values():
        yield Part(mark=">", text=str(value))


def _margin(text: str, mark: str) -> Iterator[str]:
    """The lines of a text behind a mark; what is said of lines left out stands without it."""
    for each, ours in shown_lines(text):
        yield f"  {each}" if ours else f"{mark}{each}".rstrip()


def shown_lines(text: str) -> Iterator[tuple[str, bool]]:
    """Clean lines, wrapped at MAX_COLUMNS, the middle left out beyond MAX_LINES; True goes with a line of ours."""
    lines = [
        each[start : start + MAX_COLUMNS]
        for each in clean(text).strip().split("\n")
        for start in range(0, max(1, len(each)), MAX_COLUMNS)
    ]
    if lines == [""]:
        return
    left_out = len(lines) - 2 * (MAX_LINES // 2) if len(lines) > MAX_LINES else 0
    if left_out:
        half = MAX_LINES // 2
        yield from ((each, False) for each in lines[:half])
        yield f"[{left_out} lines left out]", True
        lines = lines[-half:]
    yield from ((each, False) for each in lines)

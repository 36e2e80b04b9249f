"""One record -> its entry in the index: what the list shows, filters and sorts by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sod.report.patterns import calling_divergences
from sod.report.trajectory import is_trajectory, step_values, telling_rank
from sod.report.untrusted import count, items, mapping, number
from sod.types import ToolStatus
from sod.view.text import short, visible

WIDTH = 120
"""Characters of an id, name or preview that the list keeps."""
MAX_WORDS = 100_000
"""Characters of one trajectory that the search knows."""
SEVERITY: tuple[ToolStatus, ...] = (
    ToolStatus.OK,
    ToolStatus.MALFORMED_CALL,
    ToolStatus.ERROR,
    ToolStatus.OUTPUT_LIMIT,
    ToolStatus.TIMEOUT,
    ToolStatus.DISK_LIMIT,
    ToolStatus.MEMORY_LIMIT,
    ToolStatus.CRASHED,
    ToolStatus.INFRASTRUCTURE,
)
"""Tool statuses from best to worst."""
_RANK = {str(status): rank for rank, status in enumerate(SEVERITY)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A trajectory as the list knows it; None where the record says nothing.

    `first_d` is d_1, `max_d` and `min_w` the largest divergence and the smallest weight; `max_call_d` and `last_call_d`
    are of the steps that call, and decide its pattern. `statuses` holds every status of its calls, `|ok|error|`, and
    `status` the worst. `telling` sorts as `telling_rank` does.
    """

    updated: int | None
    grouped: int | None
    problem_id: str
    benchmark: str
    sample: int | None
    reward: float | None
    correct: bool | None
    stop: str
    status: str
    statuses: str
    num_steps: int
    num_calls: int
    num_tokens: int
    first_d: float | None
    max_d: float | None
    min_w: float | None
    max_call_d: float | None
    last_call_d: float | None
    sealed: bool
    telling: str
    preview: str


def entry_of(record: Mapping[str, Any]) -> Entry | None:
    """The entry of a record; None when it is not one of a trajectory."""
    if not is_trajectory(record):
        return None
    sealed = "sealed" in record
    turns = [] if sealed else [mapping(turn) for turn in items(record["turns"])]
    score = mapping(record.get("score"))
    statuses = sorted({_status(result) for turn in turns for result in items(turn.get("results"))}, key=_severity)
    d = [value for value in step_values(record, "divergence") if value is not None]
    w = [value for value in step_values(record, "weight") if value is not None]
    call_d = calling_divergences(record)
    return Entry(
        updated=count(record.get("update")),
        grouped=count(record.get("group")),
        problem_id=short(record["problem_id"], width=WIDTH),
        benchmark=short(record.get("benchmark") or "", width=WIDTH),
        sample=count(record.get("sample")),
        reward=number(score.get("value")),
        correct=score["correct"] if isinstance(score.get("correct"), bool) else None,
        stop=short(record.get("stop_reason") or "", width=40),
        status=statuses[-1] if statuses else "",
        statuses="".join(f"|{status}" for status in statuses) + "|" * bool(statuses),
        num_steps=len(turns),
        num_calls=sum(len(items(turn.get("calls"))) for turn in turns),
        num_tokens=sum(_num_tokens(turn) for turn in turns),
        first_d=d[0] if d else None,
        max_d=max(d, default=None),
        min_w=min(w, default=None),
        max_call_d=max(call_d, default=None),
        last_call_d=call_d[-1] if call_d else None,
        sealed=sealed,
        telling="" if sealed else _sortable(telling_rank(record)),
        preview=short(turns[-1].get("text", ""), width=WIDTH) if turns else "",
    )


def words_of(record: Mapping[str, Any]) -> str:
    """What the search looks through: what the student and the tools wrote, the id, the verdict. Nothing that is sealed.

    Of a longer trajectory the middle is left out.
    """
    if "sealed" in record:
        return visible(record.get("problem_id", ""))
    text = "\n".join(_texts(record))
    if len(text) > MAX_WORDS:
        text = f"{text[: MAX_WORDS // 2]}\n{text[-MAX_WORDS // 2 :]}"
    return visible(text)


def _texts(record: Mapping[str, Any]) -> Iterator[str]:
    score = mapping(record.get("score"))
    yield from (str(value) for value in (record.get("problem_id"), score.get("reason"), score.get("answer")) if value)
    for turn in map(mapping, items(record.get("turns"))):
        yield str(turn.get("text", ""))
        yield from (str(mapping(result).get("text", "")) for result in items(turn.get("results")))


def _status(result: object) -> str:
    """A known status, or "other"."""
    status = mapping(result).get("status")
    return status if isinstance(status, str) and status in _RANK else "other"


def _severity(status: str) -> int:
    return _RANK.get(status, len(_RANK))


def _num_tokens(turn: Mapping[str, Any]) -> int:
    start, end = count(turn.get("start")), count(turn.get("end"))
    return max(0, end - start) if start is not None and end is not None else 0


def _sortable(rank: Sequence[float]) -> str:
    """Text that sorts as the ranks do: `(2, True, False, .5, .1, -3) -> "000002.000000 000001.000000 ... 999997.0"`.

    Negative counts are lifted by 10^6; nothing of a rank is larger.
    """
    return " ".join(f"{min(value + 1e6 * (value < 0), 1e6 - 1):013.6f}" for value in rank)

"""Filters, order and page of the list -> rows of the index, and what there is to choose from."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sod.errors import ConfigError
from sod.report.patterns import HIGH, PATTERNS

PAGE_ROWS = 50
MAX_CHOICES = 50
"""Values offered of one filter: a run with more stop reasons or benchmarks is damaged."""
MAX_SIBLINGS = 200
_MAX_TEXT = 400
SORTS: Mapping[str, str] = {
    "line": "line",
    "update": "updated",
    "problem": "problem_id",
    "reward": "reward",
    "steps": "num_steps",
    "calls": "num_calls",
    "tokens": "num_tokens",
    "divergence": "max_d",
    "weight": "min_w",
    "telling": "telling",
}
"""What the list can be sorted by -> its column."""
_PATTERN = (
    "CASE WHEN sealed OR max_call_d IS NULL OR :high IS NULL THEN '' WHEN max_call_d <= :high THEN 'stable' "
    "WHEN last_call_d > :high THEN 'erroneous' ELSE 'recovery' END"
)
_ROW = (
    "line, updated, grouped, problem_id, benchmark, sample, reward, correct, stop, status, statuses, num_steps, "
    f"num_calls, num_tokens, max_d, min_w, sealed, preview, {_PATTERN} AS pattern"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """Which trajectories, in which order. Empty is no filter. `correct` is yes, no or none (not graded)."""

    update_from: int | None = None
    update_to: int | None = None
    correct: str = ""
    stop: str = ""
    pattern: str = ""
    status: str = ""
    benchmark: str = ""
    text: str = ""
    sort: str = "line"
    descending: bool = False

    @staticmethod
    def of(values: Mapping[str, str]) -> Query:
        """From the words of a URL: `{"correct": "no", "sort": "-divergence"}`. Raises ConfigError for others."""
        sort = values.get("sort", "line")
        name = sort.removeprefix("-")
        _choice("sort", name, SORTS)
        _choice("correct", values.get("correct", ""), ("", "yes", "no", "none"))
        _choice("pattern", values.get("pattern", ""), ("", "none", *PATTERNS))
        return Query(
            update_from=_whole("from", values.get("from", "")),
            update_to=_whole("to", values.get("to", "")),
            sort=name,
            descending=sort.startswith("-"),
            **{key: values.get(key, "")[:_MAX_TEXT] for key in _TEXT_FILTERS},
        )


_TEXT_FILTERS = ("correct", "stop", "pattern", "status", "benchmark", "text")


def _choice(name: str, value: str, choices: Any) -> None:
    if value not in choices:
        known = ", ".join(filter(None, choices))
        raise ConfigError(f"{name} must be one of {known}, got {value[:40]!r}; choose one of them")


def _whole(name: str, value: str) -> int | None:
    if value == "":
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 16):
        raise ConfigError(f"{name} must be a whole number, got {value[:40]!r}; give an update's number")
    return int(value)


# ---- asking


def unit_of_index(connection: sqlite3.Connection) -> float | None:
    """Median d_1 of the run's first update, the unit of the patterns; None when there is no divergence."""
    first = connection.execute(
        "SELECT first_d FROM trajectory WHERE first_d IS NOT NULL AND updated = "
        "(SELECT updated FROM trajectory WHERE first_d IS NOT NULL AND updated IS NOT NULL ORDER BY updated LIMIT 1) "
        "ORDER BY first_d"
    ).fetchall()
    if not first:
        return None
    middle = len(first) // 2
    return float(first[middle][0]) if len(first) % 2 else float(first[middle - 1][0] + first[middle][0]) / 2


def high_of_index(connection: sqlite3.Connection) -> float | None:
    """The divergence above which a calling step is high: HIGH units; None when there is no divergence."""
    unit = unit_of_index(connection)
    return None if unit is None else HIGH * unit


def rows(connection: sqlite3.Connection, query: Query, *, page: int = 0) -> list[dict[str, Any]]:
    """One page of the trajectories asked for."""
    where, values = _where(connection, query)
    sql = f"SELECT {_ROW} FROM trajectory WHERE {where} ORDER BY {_order(query)} LIMIT {PAGE_ROWS} OFFSET :skip"
    return _dicts(connection.execute(sql, {**values, "skip": page * PAGE_ROWS}))


def num_rows(connection: sqlite3.Connection, query: Query) -> int:
    """How many trajectories are asked for."""
    where, values = _where(connection, query)
    return int(connection.execute(f"SELECT count(*) FROM trajectory WHERE {where}", values).fetchone()[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a trajectory stands among those asked for, counted from 0, with its neighbours' lines."""

    position: int | None
    total: int
    previous: int | None
    next: int | None


def place_of(connection: sqlite3.Connection, query: Query, line: int) -> Place:
    """One that is not among them has no position, and the first of them as its next."""
    where, values = _where(connection, query)
    sql = f"SELECT line FROM trajectory WHERE {where} ORDER BY {_order(query)}"
    lines = [row[0] for row in connection.execute(sql, values)]
    if line not in lines:
        return Place(position=None, total=len(lines), previous=None, next=lines[0] if lines else None)
    at = lines.index(line)
    return Place(
        position=at,
        total=len(lines),
        previous=lines[at - 1] if at else None,
        next=lines[at + 1] if at + 1 < len(lines) else None,
    )


def row_at(connection: sqlite3.Connection, line: int) -> dict[str, Any] | None:
    """One trajectory's row with its place in the file; None when that line holds none."""
    sql = f"SELECT {_ROW}, offset, length FROM trajectory WHERE line = :line"
    found = _dicts(connection.execute(sql, {"line": line, "high": high_of_index(connection)}))
    return found[0] if found else None


def siblings_of(connection: sqlite3.Connection, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The trajectories of the same update, group and problem, itself included, by sample."""
    sql = (
        f"SELECT {_ROW} FROM trajectory WHERE problem_id = :problem_id AND updated IS :updated AND grouped IS :grouped "
        f"AND benchmark = :benchmark ORDER BY sample, line LIMIT {MAX_SIBLINGS}"
    )
    keys = {name: row[name] for name in ("problem_id", "updated", "grouped", "benchmark")}
    return _dicts(connection.execute(sql, {**keys, "high": high_of_index(connection)}))


def choices(connection: sqlite3.Connection) -> dict[str, Any]:
    """What the filters offer, each value with its number of trajectories; updates as [first, last]."""
    high = {"high": high_of_index(connection)}
    found: dict[str, Any] = {}
    for name, column in (("stop", "stop"), ("benchmark", "benchmark"), ("pattern", _PATTERN), ("correct", "correct")):
        sql = f"SELECT {column}, count(*) FROM trajectory GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_CHOICES}"
        found[name] = [list(pair) for pair in connection.execute(sql, high if ":high" in sql else {})]
    statuses: Counter[str] = Counter()
    for together, num in connection.execute("SELECT statuses, count(*) FROM trajectory GROUP BY 1"):
        statuses.update({status: num for status in together.split("|") if status} if together else {"none": num})
    found["status"] = [list(pair) for pair in statuses.most_common()]
    found["update"] = list(connection.execute("SELECT min(updated), max(updated) FROM trajectory").fetchone())
    return found


def _where(connection: sqlite3.Connection, query: Query) -> tuple[str, dict[str, Any]]:
    """SQL and its values. What was asked is only ever a value."""
    parts = ["1"]
    values: dict[str, Any] = {"high": high_of_index(connection)}
    if query.update_from is not None:
        parts.append("updated >= :first")
    if query.update_to is not None:
        parts.append("updated <= :last")
    values |= {"first": query.update_from, "last": query.update_to}
    if query.correct:
        parts.append({"yes": "correct = 1", "no": "correct = 0", "none": "correct IS NULL"}[query.correct])
    if query.stop:
        parts.append("stop = :stop")
    if query.benchmark:
        parts.append("benchmark = :benchmark")
    if query.pattern:
        parts.append(f"{_PATTERN} = :pattern")
    if query.status:
        parts.append("statuses = ''" if query.status == "none" else "instr(statuses, :status)")
    if query.text.strip():
        parts.append("line IN (SELECT rowid FROM words WHERE words MATCH :text)" if _match(query.text) else "0")
    values |= {"stop": query.stop, "benchmark": query.benchmark, "status": f"|{query.status}|"}
    values |= {"pattern": "" if query.pattern == "none" else query.pattern, "text": _match(query.text)}
    return " AND ".join(parts), values


def _match(text: str) -> str:
    """What to look for, as FTS5 reads it: each word may go on, what stands in quotes is together and whole.

    `gcd "import math" -> "gcd"* "import math"`; empty when nothing of it can be looked for.
    """
    terms = []
    for index, part in enumerate(text.replace("\0", " ").split('"')):
        words = [part] if index % 2 else part.split()
        terms += [f'"{word}"' + "*" * (index % 2 == 0) for word in words if any(map(str.isalnum, word))]
    return " ".join(terms[:20])


def _order(query: Query) -> str:
    """What is unknown comes last; equals in the order of the file."""
    column, way = SORTS[query.sort], "DESC" if query.descending else "ASC"
    return f"line {way}" if column == "line" else f"{column} IS NULL, {column} {way}, line"


def _dicts(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]

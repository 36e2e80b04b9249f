"""The viewer as a folder that opens from disk: the same page, its data in scripts beside it.

    OUT/index.html, style.css, *.js
    OUT/data/rows.js              the list, with what was left out
    OUT/data/17.js                the trajectory of line 17

A page opened from disk may not fetch, but it may load scripts: each of these hands one JSON value to the page.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sod.errors import ConfigError, StorageError
from sod.report.patterns import RULE
from sod.view import query as asking
from sod.view.entry import words_of
from sod.view.query import Query
from sod.view.server import EXPORTED_SOURCE, PAGE, page_files
from sod.view.source import RunSource, sources

_MARK = "sod-view.json"
"""Says that a folder was written here and may be written again."""
_MAX_WORDS = 4000
"""Characters of a trajectory that the exported search knows."""


def write_export(run: Path, out: Path, *, limit: int = 500, folder: Path | None = None) -> Path:
    """See `sod.view.export`; `folder` is where indexes lie (unset: the cache)."""
    if limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}; give the number of trajectories to write")
    _check(out)
    (source,) = sources([run], folder=folder)
    while not source.index.refresh().whole:
        pass
    try:
        _write(source, out, limit=limit)
    except OSError as error:
        raise StorageError(f"{out} must be writable, got: {error.strerror}; free space or name another") from None
    return out / "index.html"


def _check(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()) and not (out / _MARK).is_file():
        raise ConfigError(f"{out} must be an empty or new folder, or an earlier export, got other files; name another")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} must be a folder, got a file; name another")


def _write(source: RunSource, out: Path, *, limit: int) -> None:
    data = out / "data"
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    (out / _MARK).write_text(json.dumps({"run": source.name, "limit": limit}) + "\n", encoding="utf-8")
    for name, path in page_files().items():
        shutil.copyfile(path, out / name)
    shutil.copyfile(PAGE / EXPORTED_SOURCE, out / "source.js")
    chosen = list(_chosen(source, limit=limit))
    rows = []
    for row in chosen:
        page = source.trajectory(row["line"])
        if page is not None:
            _write_value(data / f"{row['line']}.js", page)
            rows.append(row)
    _write_value(data / "rows.js", _list(source, rows))


def _chosen(source: RunSource, *, limit: int) -> Iterator[dict[str, Any]]:
    """The rows to write, in the order of the file, each with its words for the search."""
    query = Query(sort="telling", descending=True)
    with source.index.reading() as connection:
        pages = -(-limit // asking.PAGE_ROWS)
        found = [row for page in range(pages) for row in asking.rows(connection, query, page=page)]
    for rank, row in sorted(enumerate(found[:limit]), key=lambda pair: pair[1]["line"]):
        with source.index.reading() as connection:
            full = asking.row_at(connection, row["line"])
        if full is not None:
            yield {**row, "telling": -rank, "words": words_of(source.record(full))[:_MAX_WORDS].lower()}


def _list(source: RunSource, rows: list[dict[str, Any]]) -> dict[str, Any]:
    progress = source.index.progress
    with source.index.reading() as connection:
        total = asking.num_rows(connection, Query())
    return {
        "about": source.about(),
        "rows": rows,
        "num_left_out": total - len(rows),
        "damaged": progress.damaged,
        "rule": RULE,
    }


def _write_value(path: Path, value: Any) -> None:
    """A script that hands the page a value. JSON without `<` or characters beyond ASCII is also a script."""
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    path.write_text(f'sod.receive("{path.stem}", {text});\n', encoding="ascii")

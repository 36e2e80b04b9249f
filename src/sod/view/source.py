"""The runs of a viewer and what the page asks of them: `runs()`, `rows()`, `trajectory()`, all plain JSON values."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sod.errors import DataError
from sod.report.patterns import HIGH, RULE
from sod.report.untrusted import mapping, opened, parsed, read_object
from sod.runs import need_run
from sod.view import query as asking
from sod.view.entry import entry_of
from sod.view.index import FILE, Index, Progress
from sod.view.query import Query
from sod.view.records import page_of, weight_cap
from sod.view.text import short
from sod.view.tokens import TokenTexts

_PATIENCE_S = 20.0
_MARKERS = ("config.json", "run.json", FILE)


class RunSource:
    """One run directory, read only."""

    def __init__(self, path: Path, *, name: str, folder: Path | None = None) -> None:
        """`name` is how links call it; `folder` where indexes lie (unset: the cache)."""
        self.path = path
        self.name = name
        self.config = read_object(path / "config.json")
        self.index = Index(path, folder=folder)
        self._texts: TokenTexts | None = None
        self._choices: tuple[tuple[int, int], dict[str, Any]] | None = None

    @property
    def texts(self) -> TokenTexts:
        """Looked for again until there is one: a run that begins has no checkpoint."""
        if not self._texts:
            self._texts = TokenTexts.of_run(self.path)
        return self._texts

    def about(self) -> dict[str, Any]:
        """What the page says of the run."""
        status = read_object(self.path / "status.json")
        return {
            "name": self.name,
            "method": short(self.config.get("method") or "", width=40),
            "state": short(status.get("state") or "", width=40),
            "seed": short(self.config.get("seed", ""), width=20),
        }

    def rows(self, query: Query, *, page: int = 0) -> dict[str, Any]:
        """A page of the list, with how much there is, what there is to choose from, and how far the index is.

        Beyond the last page is the last page.
        """
        progress = self.index.progress
        with self.index.reading() as connection:
            total = asking.num_rows(connection, query)
            page = min(page, max(0, total - 1) // asking.PAGE_ROWS)
            return {
                "about": self.about(),
                "rows": asking.rows(connection, query, page=page),
                "total": total,
                "page": page,
                "page_rows": asking.PAGE_ROWS,
                "choices": self._choices_of(connection, progress),
                "progress": {**asdict(progress), "whole": progress.whole},
                "rule": RULE,
            }

    def _choices_of(self, connection: Any, progress: Progress) -> dict[str, Any]:
        """Counted anew only when the index grew."""
        key = (progress.generation, progress.indexed_bytes)
        if self._choices is None or self._choices[0] != key:
            self._choices = (key, asking.choices(connection))
        return self._choices[1]

    def trajectory(self, line: int, query: Query | None = None) -> dict[str, Any] | None:
        """The page of one trajectory with its siblings and its place among those asked for; None when there is none.

        A link may be opened before the index has come so far: then it is brought there, for a while. Raises DataError
        when the file changed under the index.
        """
        latest = time.monotonic() + _PATIENCE_S
        while self.index.progress.lines < line and time.monotonic() < latest and not self.index.refresh().whole:
            pass
        with self.index.reading() as connection:
            row = asking.row_at(connection, line)
            if row is None:
                return None
            siblings = asking.siblings_of(connection, row)
            place = asking.place_of(connection, query, line) if query else None
            high = asking.high_of_index(connection)
        record = self.record(row)
        return {
            "run": self.about(),
            "row": {key: value for key, value in row.items() if key not in ("offset", "length")},
            **page_of(record, texts=self.texts),
            "cap": weight_cap(self.config),
            "high": high,
            "unit": None if high is None else high / HIGH,
            "siblings": siblings,
            "place": None if place is None else asdict(place),
        }

    def record(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The record of a row. Raises DataError when it is no longer there, or another is."""
        try:
            with opened(self.path / FILE) as file:
                file.seek(row["offset"])
                record = mapping(parsed(file.read(row["length"])))
        except FileNotFoundError:
            raise DataError(f"{self.path / FILE} must be there, got nothing; was the run moved or removed?") from None
        entry = entry_of(record)
        if entry is None or (entry.problem_id, entry.sample) != (row["problem_id"], row["sample"]):
            raise DataError(f"line {row['line']} must be the trajectory that was indexed, got another; load it again")
        return record


def sources(runs: Sequence[Path], *, folder: Path | None = None) -> list[RunSource]:
    """The runs with names that differ. Raises DataError for a path without a run, or when there is none."""
    if not runs:
        raise DataError("at least one run directory must be given, got none; give its path")
    for run in runs:
        need_run(run, files=_MARKERS)
    paths = list({os.path.realpath(run): run for run in runs}.values())
    return [RunSource(path, name=name, folder=folder) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """As short as they can be and still differ: `a/sod/seed-0`, `a/opd/seed-0` -> `sod~seed-0`, `opd~seed-0`."""
    parts = [path.resolve().parts for path in paths]
    for num in range(1, max(map(len, parts)) + 1):
        names = ["~".join(re.sub(r"[^\w.-]", "-", part, flags=re.ASCII) for part in each[-num:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name}~{index + 1}" for index, name in enumerate(names)]

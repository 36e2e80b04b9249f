"""A thread between a run and a tracker: telling costs the run nothing, whatever the tracker does."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread

from sod.trackers.memo import Memo
from sod.trackers.tracker import Tracker

MAX_WAITING = 1000
"""Rows that wait for a slow tracker; with more it is given up, as they would fill the memory."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """Numbers of one event."""

    event: str
    step: int
    numbers: Mapping[str, float]


@dataclass(kw_only=True)
class Post:
    """One tracker's rows on their way. `begin` opens the tracker, given its memo and its session's start."""

    name: str
    memo: Memo
    begin: Callable[[Memo, int], Tracker]
    failure: str = ""
    """Why the tracker is told nothing any more."""
    _rows: queue.Queue[Row | None] = field(default_factory=lambda: queue.Queue(MAX_WAITING))
    _thread: Thread | None = None

    def put(self, row: Row) -> None:
        """Send a row when the tracker is ready for it; returns at once."""
        if self.failure:
            return
        if self._thread is None:  # a daemon, so that a tracker that hangs cannot keep the process
            self._thread = Thread(target=self._work, name=f"sod-{self.name}", daemon=True)
            self._thread.start()
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self.failure = f"it did not take {MAX_WAITING} rows in time"

    def end(self) -> None:
        """No row comes any more."""
        with suppress(queue.Full):
            self._rows.put_nowait(None)

    def join(self, *, timeout_s: float) -> None:
        """Wait for what is on its way, so long."""
        if self._thread is None:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive() and not self.failure:
            self.failure = "it did not finish in time"

    def _work(self) -> None:
        try:
            self._tell_all()
        except BaseException as error:  # also SystemExit, which some raise: nothing of it may reach the run
            self.failure = f"{type(error).__name__}: {error}"

    def _tell_all(self) -> None:
        row = self._rows.get()
        if row is None:
            return
        # An evaluation that comes late is new, but the update that it comes after was told.
        told = self.memo.told.get(row.event, -1)
        tracker = self.begin(self.memo, row.step if self.memo.is_new or row.step <= told else row.step + 1)
        try:
            while row is not None:
                if tracker.replaces or row.step > self.memo.told.get(row.event, -1):
                    tracker.send(row.numbers, step=row.step)
                    self.memo.note(row.event, row.step)
                row = self._rows.get()
        except BaseException:
            with suppress(Exception):
                tracker.close()
            raise
        tracker.close()

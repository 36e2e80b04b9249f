"""An index on disk of a run's trajectories.jsonl, built in chunks, following the file while it grows.

    <cache>/sod/view/<sum of the run's path>.sqlite     nothing is written into the run

Trajectories are numbered by their line in the file, from 1. A file that shrank or was replaced is indexed anew. Several
viewers of one run share an index and take turns.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from sod.errors import StorageError
from sod.report.untrusted import opened
from sod.view.entry import Entry, entry_of, words_of
from sod.view.lines import Line, lines_from

FILE = "trajectories.jsonl"
CHUNK_BYTES = 4 << 20
"""Read between two moments in which others may use the index: well under a second."""
MAX_AGE_S = 60 * 24 * 3600.0
"""An index that nobody opened for so long is removed."""
_FORMAT = 1
_COLUMNS = tuple(field.name for field in fields(Entry))
_HEAD_BYTES, _TAIL_BYTES = 4096, 512
_SCHEMA = f"""
DROP TABLE IF EXISTS trajectory; DROP TABLE IF EXISTS words; DROP TABLE IF EXISTS state;
CREATE TABLE trajectory (line INTEGER PRIMARY KEY, offset INTEGER, length INTEGER, {", ".join(_COLUMNS)});
CREATE INDEX siblings ON trajectory (problem_id, updated);
CREATE INDEX first_updates ON trajectory (updated, first_d);
CREATE VIRTUAL TABLE words USING fts5(text, content='');
CREATE TABLE state (one INTEGER PRIMARY KEY CHECK (one = 1), generation, lines, damaged, offset, device, inode,
                    modified_ns, head, tail, head_bytes);
PRAGMA user_version = {_FORMAT};
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far the index is. `generation` changes when the file was replaced; `damaged` lines hold no trajectory."""

    generation: int
    lines: int
    damaged: int
    indexed_bytes: int
    total_bytes: int

    @property
    def whole(self) -> bool:
        """All of the file is in the index, a last line that is still being written aside."""
        return self.indexed_bytes >= self.total_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class _State:
    """What the index remembers of the file."""

    generation: int = 0
    lines: int = 0
    damaged: int = 0
    offset: int = 0
    device: int = 0
    inode: int = 0
    modified_ns: int = 0
    head: str = ""
    tail: str = ""
    head_bytes: int = 0


class Index:
    """The index of one run directory.

        index = Index(Path("runs/a"))
        while not index.refresh().whole: ...
        with index.reading() as connection: connection.execute("SELECT line FROM trajectory WHERE correct = 0")

    Its tables are `trajectory`, a row for each record (see `entry.Entry`), and `words`, for the search.
    """

    def __init__(self, run: Path, *, folder: Path | None = None) -> None:
        self.source = run / FILE
        self.path = _place(run, folder or cache_folder())
        self._progress: Progress | None = None
        self._torn: tuple[int, int] | None = None
        """End of the index and size of the file when only a torn line was left: nothing is new until either changes."""
        try:
            self._try()
        except sqlite3.DatabaseError:  # damaged, or of another version of ours: it can be made again
            self._remove()
            self._try()

    def _try(self) -> None:
        with closing(self._connect()) as connection:
            connection.execute("SELECT offset FROM state").fetchone()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        """To the index, or to an empty one: the documentation lets it be removed at any time."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # it knows the run's texts
            connection = sqlite3.connect(self.path, timeout=60.0, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise StorageError(
                f"{self.path} must be a place for the index, got: {error}; free space or set XDG_CACHE_HOME"
            ) from None
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")  # lost in a power cut, it is made again
        if connection.execute("PRAGMA user_version").fetchone()[0] != _FORMAT:
            self._anew(connection, generation=1)
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees one state of the index, whatever is added meanwhile. Raises StorageError."""
        try:
            with closing(self._connect()) as connection:
                connection.execute("PRAGMA query_only = ON")
                connection.execute("BEGIN")
                yield connection
        except sqlite3.Error as error:
            raise StorageError(
                f"the index {self.path} must be readable, got: {error}; remove it: it is made again"
            ) from None

    # ---- building

    @property
    def progress(self) -> Progress:
        """As of the last `refresh` of this process."""
        return self._progress or self.refresh(max_bytes=1 << 18)

    def refresh(self, *, max_bytes: int = CHUNK_BYTES) -> Progress:
        """Take in what is new in the file, up to `max_bytes` of it.

        Raises StorageError when the index cannot be written, DataError when the file cannot be read.
        """
        try:
            with opened(self.source) as file, closing(self._connect()) as connection:
                self._progress = self._take(connection, file, max_bytes=max_bytes)
        except FileNotFoundError:
            self._progress = self._progress_without_file()
        except sqlite3.Error as error:
            raise StorageError(
                f"the index {self.path} must be writable, got: {error}; free space, or remove it: it is made again"
            ) from None
        return self._progress

    def _progress_without_file(self) -> Progress:
        with closing(self._connect()) as connection:
            state = _state_of(connection)
            if state.offset:
                self._anew(connection, generation=state.generation + 1)
            return _progress(_state_of(connection), total_bytes=0)

    def _take(self, connection: sqlite3.Connection, file: BinaryIO, *, max_bytes: int) -> Progress:
        known = os.fstat(file.fileno())
        state = _state_of(connection)
        if _is_same(file, known, state) and (
            known.st_size == state.offset or (state.offset, known.st_size) == self._torn
        ):
            return _progress(state, total_bytes=state.offset)
        connection.execute("BEGIN IMMEDIATE")
        state = _state_of(connection)  # another viewer may have been faster
        if not _is_same(file, known, state):
            connection.execute("ROLLBACK")
            self._anew(connection, generation=state.generation + 1)
            connection.execute("BEGIN IMMEDIATE")
            state = _state_of(connection)
        state, torn = _add_lines(connection, file, state, max_bytes=max_bytes)
        state = _remembered(file, state)
        connection.execute("UPDATE state SET " + ", ".join(f"{name} = ?" for name in _STATE), astuple(state))
        connection.execute("COMMIT")
        self._torn = (state.offset, known.st_size) if torn else None
        return _progress(state, total_bytes=state.offset if torn else known.st_size)

    def _anew(self, connection: sqlite3.Connection, *, generation: int) -> None:
        """An empty index. All in one transaction: readers see the old one or the empty one."""
        rows = f"INSERT INTO state VALUES (1, {generation}, 0, 0, 0, 0, 0, 0, '', '', 0);"
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {rows} COMMIT;")


_STATE = tuple(field.name for field in fields(_State))


def _state_of(connection: sqlite3.Connection) -> _State:
    row = connection.execute(f"SELECT {', '.join(_STATE)} FROM state").fetchone()
    return _State(**dict(zip(_STATE, row, strict=True)))


def _progress(state: _State, *, total_bytes: int) -> Progress:
    return Progress(
        generation=state.generation,
        lines=state.lines,
        damaged=state.damaged,
        indexed_bytes=state.offset,
        total_bytes=total_bytes,
    )


def _is_same(file: BinaryIO, known: os.stat_result, state: _State) -> bool:
    """The file is the one that was indexed, perhaps with more at its end."""
    if state.offset == 0:
        return True
    if (known.st_dev, known.st_ino) != (state.device, state.inode) or known.st_size < state.offset:
        return False
    if known.st_size == state.offset and known.st_mtime_ns != state.modified_ns:
        return False  # written to, and not at the end
    return (state.head, state.tail) == _marks(file, state.offset, head_bytes=state.head_bytes)


def _remembered(file: BinaryIO, state: _State) -> _State:
    known = os.fstat(file.fileno())  # after reading: what was appended meanwhile makes the file longer than the index
    head_bytes = min(_HEAD_BYTES, state.offset)
    head, tail = _marks(file, state.offset, head_bytes=head_bytes)
    return _State(
        generation=state.generation,
        lines=state.lines,
        damaged=state.damaged,
        offset=state.offset,
        device=known.st_dev,
        inode=known.st_ino,
        modified_ns=known.st_mtime_ns,
        head=head,
        tail=tail,
        head_bytes=head_bytes,
    )


def _marks(file: BinaryIO, offset: int, *, head_bytes: int) -> tuple[str, str]:
    """Sums of the first bytes of a file and of the last ones before `offset`."""
    file.seek(0)
    head = file.read(head_bytes)
    start = max(0, offset - _TAIL_BYTES)
    file.seek(start)
    return hashlib.sha256(head).hexdigest(), hashlib.sha256(file.read(offset - start)).hexdigest()


def _add_lines(connection: sqlite3.Connection, file: BinaryIO, state: _State, *, max_bytes: int) -> tuple[_State, bool]:
    """The state after some more lines, and whether only a torn one is left."""
    lines, damaged, offset = state.lines, state.damaged, state.offset
    for line in lines_from(file, offset, max_bytes=max_bytes):
        lines += 1
        offset = line.offset + line.length
        damaged += not _add(connection, line, number=lines)
    added = offset - state.offset
    return _State(generation=state.generation, lines=lines, damaged=damaged, offset=offset), added < max_bytes


def _add(connection: sqlite3.Connection, line: Line, *, number: int) -> bool:
    """One line; False when it holds no trajectory."""
    entry = entry_of(line.record) if line.record is not None else None
    if entry is None or line.record is None:
        return False
    values = (number, line.offset, line.length, *(getattr(entry, name) for name in _COLUMNS))
    connection.execute(f"INSERT INTO trajectory VALUES ({', '.join('?' * len(values))})", values)
    connection.execute("INSERT INTO words (rowid, text) VALUES (?, ?)", (number, words_of(line.record)))
    return True


# ---- where it lies


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/sod/view, or ~/.cache/sod/view; a temporary folder where neither can be written."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(OSError, RuntimeError):
        folder = (Path(home) if os.path.isabs(home) else Path.home() / ".cache") / "sod" / "view"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="sod-view-"))


def _place(run: Path, folder: Path) -> Path:
    _remove_old(folder)
    return folder / f"{hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:32]}.sqlite"


def _remove_old(folder: Path) -> None:
    for path in folder.glob("*.sqlite*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > MAX_AGE_S:
                path.unlink()

"""trajectories.jsonl from any place in it: where each line lies, and what it holds if it holds anything."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sod.errors import DataError
from sod.report.untrusted import MAX_LINE_BYTES, parsed

_MAX_OBJECT_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A whole line: its first byte, its length with the end, and its JSON object (None for anything else)."""

    offset: int
    length: int
    record: Mapping[str, Any] | None


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file for reading. Raises FileNotFoundError when there is none, DataError for what cannot be read.

    A pipe in its place would make whoever opens it wait for ever: it is refused without waiting.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DataError(f"{path} must be readable, got: {error.strerror}; check the path and its permissions") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DataError(f"{path} must be a regular file, got another kind; give a run directory made by sod")
    with open(descriptor, "rb") as file:
        yield file


def lines_from(file: BinaryIO, offset: int, *, max_bytes: int) -> Iterator[Line]:
    """Whole lines from `offset` on, until `max_bytes` were read. A torn last line waits: it is still being written."""
    file.seek(offset)
    end = offset + max_bytes
    while offset < end and (line := file.readline(MAX_LINE_BYTES)):
        length, whole = len(line), line.endswith(b"\n")
        while not whole and (more := file.readline(MAX_LINE_BYTES)):  # too long to be a trajectory
            length, whole, line = length + len(more), more.endswith(b"\n"), b""
        if not whole:
            return
        yield Line(offset=offset, length=length, record=parsed(line))
        offset += length


def read_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a small file of a run; empty when there is none to read."""
    try:
        with opened(path) as file:
            return parsed(file.read(_MAX_OBJECT_BYTES)) or {}
    except (OSError, DataError):
        return {}

"""trajectories.jsonl from any place in it: where each line lies, and what it holds if it holds anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from sod.report.untrusted import MAX_LINE_BYTES, parsed


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A whole line: its first byte, its length with the end, and its JSON object (None for anything else)."""

    offset: int
    length: int
    record: Mapping[str, Any] | None


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

"""A run directory is partly a model's words and may be damaged: read it without trust, show it harmlessly."""

from __future__ import annotations

import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sod.errors import DataError

MAX_LINE_BYTES = 64 << 20
"""A longer line is skipped: a trajectory of 20k tokens takes under 1 MiB."""
MAX_NUMBER = 1e15
"""Beyond it a number is damage: nothing that a run records comes near."""

_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\n]*?(?:\x07|\x1b\\|(?=\n)|$)|[ -/]*[0-~])|\x9b[0-?]*[ -/]*[@-~]"
)
_ENDS = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_JOINERS = frozenset("\u200c\u200d")


# ---- values


def number(value: object) -> float | None:
    """A finite number of sane size, or None: `3 -> 3.0`, `"3"`, `true`, NaN and 1e300 -> None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= MAX_NUMBER else None


def count(value: object) -> int | None:
    """A whole number from 0 on, or None."""
    known = number(value)
    return int(known) if known is not None and known >= 0 and known == int(known) else None


def mapping(value: object) -> Mapping[str, Any]:
    """The object itself, or an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> Sequence[Any]:
    """The list itself, or an empty one."""
    return value if isinstance(value, list) else ()


def too_deep(value: object, *, limit: int = 64) -> bool:
    """Lists and objects within each other beyond `limit`: what walks through them would fall."""
    level: list[object] = [value]
    for _ in range(limit):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


# ---- files


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


def write_file(path: Path, content: bytes) -> None:
    """Write a file into a directory that may hold anything: a link in its place is replaced, not followed."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def read_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file; empty when there is none to read."""
    try:
        with opened(path) as file:
            return parsed(file.read(MAX_LINE_BYTES)) or {}
    except (OSError, DataError):
        return {}


def read_lines(path: Path) -> Iterator[Mapping[str, Any] | None]:
    """Records of a .jsonl file one by one; None for a line that is no JSON object.

    A missing file has no records; a last line without its end is still being written and left out. Raises DataError for
    a file that is there but cannot be read.
    """
    try:
        with opened(path) as file:
            while line := file.readline(MAX_LINE_BYTES):
                if line.endswith(b"\n"):
                    yield parsed(line)
                elif len(line) == MAX_LINE_BYTES:
                    _skip_line(file.readline)
                    yield None
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path} must be readable, got: {error.strerror}; check the path and its permissions") from None


def _skip_line(readline: Any) -> None:
    while (part := readline(MAX_LINE_BYTES)) and not part.endswith(b"\n"):
        pass


def parsed(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object on a line; None for anything else: `b"[1]"`, `b"{"`, `b""`."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


# ---- text


def clean(value: object) -> str:
    r"""Text that does nothing but stand there: no terminal escapes, control or direction characters, half surrogates.

    `"a\x1b[31mb\r\nc\x00"` -> `"ab\nc\ufffd"`; a tab becomes four spaces.
    """
    text = _ENDS.sub("\n", _ESCAPE.sub("", str(value))).replace("\t", "    ")
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\n" or character in _JOINERS:
        return character
    return "\ufffd" if unicodedata.category(character) in _INVISIBLE else character


def line(value: object, *, width: int = 200) -> str:
    """Clean text on one line, cut to `width` characters."""
    text = " ".join(clean(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def code(value: object, *, width: int = 200) -> str:
    """Inline markdown in which nothing is markup: `a|b` in backticks, its own backticks made apostrophes."""
    text = line(value, width=width).replace("`", "'")
    return f"`{text}`" if text else "-"


def cell(value: object, *, width: int = 200) -> str:
    r"""`code` for a table, where even inside backticks a bar ends the cell: `|` becomes `\|`."""
    return code(value, width=width).replace("|", "\\|")


def fence(text: str) -> str:
    """A fenced block that the text cannot close: its fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    bar = "`" * max(3, longest + 1)
    return f"{bar}text\n{text}\n{bar}"

"""What is asked of a child, as the bytes of a memory file; checked before anything is started."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import PurePosixPath

__all__ = ["check_request", "encode_request"]

MAX_TIMEOUT_S = 86_400
MAX_NAME_BYTES = 255
"""The length of one part of a path, on every file system there is."""
MAX_PATH_BYTES = 1024
MAX_FILES = 1024
BLOCK_BYTES = 4096


def encode_request(
    code: str, *, timeout_s: float, files: Mapping[str, bytes] | None, echo_last_expression: bool, disk_mb: int
) -> bytes:
    """The order that `child.py` reads: {"code": ..., "files": {name: base64}, "echo_last_expression": ...}.

    Raises ValueError as `check_request` does, and for more files than the disk takes.
    """
    check_request(timeout_s=timeout_s, files=files or {})
    _check_size(files or {}, disk_mb=disk_mb)
    order = {
        "code": code,
        "files": {name: base64.b64encode(content).decode() for name, content in (files or {}).items()},
        "echo_last_expression": echo_last_expression,
    }
    return json.dumps(order).encode()


def check_request(*, timeout_s: float, files: Mapping[str, bytes]) -> None:
    """Raises ValueError for a `timeout_s` that is no positive number up to a day, for a name in `files` that leaves the
    directory or cannot be one, and for a file in the place of another's directory.
    """
    if not 0 < timeout_s <= MAX_TIMEOUT_S:  # not a number is neither
        raise ValueError(f"timeout_s must be a positive number of seconds up to {MAX_TIMEOUT_S}, got {timeout_s}")
    _check_places(files)
    for name in files:
        _check_name(name)


def _check_name(name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"names in files must be relative and stay in the directory, got {name!r}")
    lengths = [len(part.encode("utf-8", "surrogatepass")) for part in path.parts]
    if max(lengths) > MAX_NAME_BYTES or sum(lengths) + len(lengths) > MAX_PATH_BYTES or name != _text(name):
        raise ValueError(
            f"a name in files must be text of at most {MAX_PATH_BYTES} bytes, {MAX_NAME_BYTES} a part, got {name!r}"
        )


def _text(name: str) -> str:
    """Without halves of surrogate pairs, which no file system takes."""
    return name.encode("utf-8", "ignore").decode()


def _check_size(files: Mapping[str, bytes], *, disk_mb: int) -> None:
    taken_bytes = sum(-(-len(content) // BLOCK_BYTES) * BLOCK_BYTES for content in files.values())
    if len(files) > MAX_FILES or taken_bytes > disk_mb << 20:
        raise ValueError(
            f"files must be at most {MAX_FILES} and {disk_mb} MiB (disk_mb) altogether, "
            f"got {len(files)} and {taken_bytes / (1 << 20):.1f} MiB"
        )


def _check_places(files: Mapping[str, bytes]) -> None:
    paths = {PurePosixPath(name) for name in files}
    for path in paths:
        for parent in path.parents:
            if parent in paths:
                raise ValueError(f"no name in files must be the directory of another, got {parent} and {path}")

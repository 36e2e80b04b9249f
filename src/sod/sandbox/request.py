"""What is asked of a child, as the bytes of a memory file; checked before anything is started."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from pathlib import PurePosixPath

__all__ = ["encode_request"]


def encode_request(
    code: str, *, timeout_s: float, files: Mapping[str, bytes] | None, echo_last_expression: bool
) -> bytes:
    """The order that `child.py` reads: {"code": ..., "files": {name: base64}, "echo_last_expression": ...}.

    Raises ValueError for a `timeout_s` that is no positive number or a name in `files` that leaves the directory.
    """
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise ValueError(f"timeout_s must be a positive number of seconds, got {timeout_s}")
    order = {
        "code": code,
        "files": {_inside(name): base64.b64encode(content).decode() for name, content in (files or {}).items()},
        "echo_last_expression": echo_last_expression,
    }
    return json.dumps(order).encode()


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise ValueError(f"names in files must be relative and stay in the directory, got {name!r}")
    return name

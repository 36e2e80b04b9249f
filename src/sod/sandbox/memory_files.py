"""Files in memory that carry a call's code, input and output.

Output goes to such files and not to pipes: nothing has to empty them while the code runs, so nothing can stall, neither
the code behind a busy trainer nor the trainer behind a flood, and what was written is there however the process ended.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass

__all__ = ["MAX_BYTES", "Output", "appendable", "holding", "read_output"]

MAX_BYTES = 64 << 20
"""What one of stdout and stderr may grow to; RLIMIT_FSIZE keeps it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a call wrote: text with at most so many bytes of head and tail, and the number of bytes it was."""

    text: str
    num_bytes: int
    truncated: bool


def holding(content: bytes) -> int:
    """A descriptor from which `content` can be read. Raises OSError when the machine has no more of them."""
    fd = os.memfd_create("sod")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def appendable() -> int:
    """A descriptor of an empty file; whoever writes, writes at its end."""
    fd = os.memfd_create("sod")
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    return fd


def read_output(fd: int, *, keep_bytes: int) -> Output:
    """Head and tail: 100 bytes of "abc...xyz" with keep_bytes=6 -> "abc\\n[... 94 bytes left out ...]\\nxyz"."""
    num_bytes = os.fstat(fd).st_size
    half = max(1, keep_bytes // 2)
    if num_bytes <= 2 * half:
        return Output(text=_text(os.pread(fd, num_bytes, 0)), num_bytes=num_bytes, truncated=False)
    head, tail = os.pread(fd, half, 0), os.pread(fd, half, num_bytes - half)
    text = f"{_text(head)}\n[... {num_bytes - 2 * half} bytes left out ...]\n{_text(tail)}"
    return Output(text=text, num_bytes=num_bytes, truncated=True)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")

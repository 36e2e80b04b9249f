"""What the kernel says of a call's processes while they run: memory, and time spent waiting for a processor.

Reads /proc. A process that ends meanwhile counts as nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NS_PER_S = 1_000_000_000


def process_tree(pid: int) -> Iterator[int]:
    """The process and all its living descendants."""
    pending = [pid]
    while pending:
        current = pending.pop()
        yield current
        for thread in _threads(current):
            pending += [int(child) for child in _read(f"/proc/{current}/task/{thread}/children").split()]


def own_memory_bytes(pid: int) -> int:
    """What a process has for itself: anonymous and shared memory, without files. 0 when it is gone."""
    sizes = [line.split()[1] for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith(("RssA", "RssS"))]
    return sum(int(kilobytes) for kilobytes in sizes) * 1024


def waiting_s(pid: int) -> float:
    """How long the tree was ready to run while the machine gave it no processor: the worst of its threads.

    The worst and not the sum, so that a call that starts many threads gains nothing by their waiting for each other
    beyond what one of them waits.
    """
    waits = [
        _read(f"/proc/{process}/task/{thread}/schedstat").split()
        for process in process_tree(pid)
        for thread in _threads(process)
    ]
    return max((int(wait[1]) for wait in waits if len(wait) == 3), default=0) / NS_PER_S


def _threads(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""

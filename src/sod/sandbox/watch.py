"""What the kernel says of a call's processes while they run: memory, and time spent waiting for a processor.

Reads /proc. A process that ends meanwhile counts as nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

NS_PER_S = 1_000_000_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def process_tree(pid: int) -> Iterator[int]:
    """The process and all its living descendants."""
    pending = [pid]
    while pending:
        current = pending.pop()
        yield current
        for thread in _threads(current):
            pending += [int(child) for child in _read(f"/proc/{current}/task/{thread}/children").split()]


def num_threads(pid: int) -> int:
    """Threads of a process, its first one included."""
    return len(_threads(pid))


def own_memory_bytes(pid: int) -> int:
    """What a process has for itself: anonymous and shared memory, without files. 0 when it is gone."""
    sizes = [line.split()[1] for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith(("RssA", "RssS"))]
    return sum(int(kilobytes) for kilobytes in sizes) * 1024


class ProcessorTime:
    """What a tree of processes has used, those included that have ended unless they came and went between two looks."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen_s: dict[int, float] = {}

    def look(self) -> float:
        """Seconds so far."""
        for process in process_tree(self._pid):
            fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
            own_and_waited_for = sum(int(ticks) for ticks in fields[11:15])  # utime, stime, cutime, cstime
            self._seen_s[process] = max(self._seen_s.get(process, 0.0), own_and_waited_for / TICKS_PER_S)
        return sum(self._seen_s.values())


def waiting_s(pid: int) -> float:
    """How long the tree was ready to run while the machine gave it no processor: the worst of its threads.

    The worst and not the sum, so that threads which wait for each other do not add up.
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

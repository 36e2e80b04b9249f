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


def resident_bytes(pid: int) -> int:
    """Anonymous and shared memory of a process, and what of it was swapped out; files not. 0 when it is gone."""
    return _sum_of(f"/proc/{pid}/status", fields=("RssAnon:", "RssShmem:", "VmSwap:"))


def proportional_bytes(pid: int) -> int:
    """The same, but a page that n processes share counts one n-th. Takes a walk over all its pages."""
    return _sum_of(f"/proc/{pid}/smaps_rollup", fields=("Pss_Anon:", "Pss_Shmem:", "SwapPss:"))


class ProcessorTime:
    """What a tree of processes has used, at least.

    Of a process that ended, what was last seen of it counts, or what its parent collected by waiting for it: the larger
    of the two sums, for either may hold what the other lacks.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seen_s: dict[int, float] = {}

    def look(self) -> float:
        """Seconds so far."""
        collected_s = 0.0
        for process in process_tree(self._pid):
            fields = _read(f"/proc/{process}/stat").rpartition(")")[2].split()
            own_s = sum(int(ticks) for ticks in fields[11:13]) / TICKS_PER_S  # utime, stime
            collected_s += own_s + sum(int(ticks) for ticks in fields[13:15]) / TICKS_PER_S  # cutime, cstime
            self._seen_s[process] = max(self._seen_s.get(process, 0.0), own_s)
        return max(collected_s, sum(self._seen_s.values()))


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


def _sum_of(path: str, *, fields: tuple[str, ...]) -> int:
    """Lines such as "RssAnon:   123 kB"."""
    return sum(int(line.split()[1]) for line in _read(path).splitlines() if line.startswith(fields)) * 1024


def _threads(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(f"/proc/{pid}/task")
    return []


def _read(path: str) -> str:
    with contextlib.suppress(OSError):
        return Path(path).read_text()
    return ""

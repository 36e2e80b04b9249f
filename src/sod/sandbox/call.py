"""One running child as the fork server keeps it: its clock, its descriptors, and how it is stopped, paused and ended.

Standard library only.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Iterable, Sequence

from sod.sandbox import watch

PATIENCE = 10.0
"""A call that gets no processor is given up after this many times its limit."""
INTERRUPT_GRACE_S = 0.5
"""What a session's cell has after its time is up to end by KeyboardInterrupt, which keeps the session."""
MAX_PAUSE_ROUNDS = 8
"""How often we look for processes that were started while we stopped their parents."""


class Clock:
    """The time that code was given: of the clock on the wall, without what its processes waited for a processor.

    A busy neighbour, or the trainer itself, shall not change a verdict. But who had the whole limit of processor time
    gets no more: a hundred processes wait for each other, not for a neighbour.
    """

    def __init__(self, limit_s: float, *, pid: int, is_new: bool) -> None:
        self.started = time.monotonic()
        self._limit_s = limit_s
        self._pid = pid
        self._waited_s = 0.0 if is_new else watch.waiting_s(pid)
        self._processor = watch.ProcessorTime(pid)
        self._used_before_s = 0.0 if is_new else self._processor.look()
        self.seen_s = 0.0
        """Processor time at the last look."""

    def used_s(self) -> float:
        """Processor time since it was started."""
        self.seen_s = self._processor.look() - self._used_before_s
        return self.seen_s

    def remaining_s(self) -> float:
        """What is left of it; nothing once PATIENCE is over. To be asked when the limit has passed on the wall."""
        elapsed_s = time.monotonic() - self.started
        if elapsed_s >= PATIENCE * self._limit_s or self.used_s() >= self._limit_s:
            return 0.0
        waited_s = max(0.0, watch.waiting_s(self._pid) - self._waited_s)
        return self._limit_s - (elapsed_s - waited_s)


class Call:
    """One running child: a program, or the process of a session."""

    def __init__(self, number: int, *, directory: str, outputs: Sequence[int]) -> None:
        self.id = number
        self.directory = directory
        self.outputs = list(outputs)
        self.pid = self.pidfd = self.ready = -1
        self.cells: socket.socket | None = None
        self.clock: Clock | None = None
        """Of the code that is running; None in a session between two cells."""
        self.started = time.monotonic()
        self.deadline = math.inf
        """When to look at the clock."""
        self.paused = False
        self.killed_for = ""
        """The verdict it was killed for: timeout, memory_limit, disk_limit, output_limit, cancelled; "" if not."""

    def start_clock(self, limit_s: float) -> None:
        """From now on the code runs, for so long at most."""
        self.clock = Clock(limit_s, pid=self.pid, is_new=self.cells is None)
        self.started = self.clock.started
        self.deadline = self.started + limit_s

    def stop_clock(self) -> float:
        """The code has ended; how long it ran."""
        self.clock = None
        self.deadline = math.inf
        return time.monotonic() - self.started

    def interrupt(self) -> None:
        """Time is up for a cell: KeyboardInterrupt, and a little time to end by it."""
        self.killed_for = "timeout"
        self.clock = Clock(INTERRUPT_GRACE_S, pid=self.pid, is_new=False)
        self.deadline = self.clock.started + INTERRUPT_GRACE_S
        os.kill(self.pid, signal.SIGINT)

    def pause(self) -> bool:
        """Stops what a cell left running until the next one. False when it starts processes faster than we stop."""
        stopped: set[int] = set()
        for _ in range(MAX_PAUSE_ROUNDS):
            running = set(watch.process_tree(self.pid)) - stopped
            if not stopped and running == {self.pid} and watch.num_threads(self.pid) <= 1:
                return True  # only the one that waits for the next cell
            if not running:
                self.paused = True
                return True
            _signal_all(running, signal.SIGSTOP)
            stopped |= running
        return False

    def resume(self) -> None:
        """Lets it go on."""
        if self.paused:
            _signal_all(watch.process_tree(self.pid), signal.SIGCONT)
            self.paused = False

    def kill(self, *, reason: str) -> None:
        """SIGKILL to the child and its group; the first reason stands. Its end arrives through the pidfd."""
        self.killed_for = self.killed_for or reason
        self.deadline = math.inf
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Every descriptor that was held for it."""
        for fd in (self.pidfd, self.ready, *self.outputs):
            if fd >= 0:
                os.close(fd)
        if self.cells is not None:
            self.cells.close()


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

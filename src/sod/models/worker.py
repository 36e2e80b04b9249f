"""One background task that works while there is work, and ends when there is none; and a thread for long calls."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import ParamSpec, TypeVar

__all__ = ["Thread", "Worker"]

P = ParamSpec("P")
R = TypeVar("R")


class Worker:
    """Awaits `iterate` over and over, giving the event loop a turn in between, until it returns False.

    An exception, or the end of the event loop's run, goes to `fail`, which must leave nothing behind; the next `wake`
    starts afresh. Works across several `asyncio.run` calls, one after the other.
    """

    def __init__(self, *, iterate: Callable[[], Awaitable[bool]], fail: Callable[[BaseException], None]) -> None:
        self._iterate = iterate
        self._fail = fail
        self._task: asyncio.Task[None] | None = None

    def wake(self) -> None:
        """There is work: see that the task runs in the current event loop."""
        if self._task is not None and not self._task.done() and self._task.get_loop() is asyncio.get_running_loop():
            return
        self._task = asyncio.get_running_loop().create_task(self._run(), name="sod-model-worker")

    async def _run(self) -> None:
        try:
            while await self._iterate():  # noqa: ASYNC110 - there is work to do, not something to wait for
                await asyncio.sleep(0)  # tool callbacks and new turns get their chance
        except Exception as error:
            self._fail(error)
        except BaseException as error:
            self._fail(error)
            raise


class Thread:
    """One thread that takes calls one after the other; it starts with the first."""

    def __init__(self, name: str) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What the function returns or raises. Cancelled, it still waits for the call to end: whoever cancels may go on
        to change what the call reads."""
        call = self._executor.submit(function, *args, **kwargs)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            wait([call])
            raise

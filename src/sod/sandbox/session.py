"""A notebook in the sandbox: one process that stays, and cells that share its variables."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

from sod.errors import SandboxError
from sod.sandbox.channel import Channel, Facts
from sod.sandbox.memory_files import appendable, holding
from sod.sandbox.pool import Pool
from sod.sandbox.protocol import ExecutionResult
from sod.sandbox.verdict import Limits, Outputs, failure, result_of_cell, result_of_process

if TYPE_CHECKING:
    from sod.sandbox.local import LocalSandbox

__all__ = ["LocalSession", "Sessions"]


class LocalSession:
    """Cells that share variables, one at a time. Made by `LocalSandbox.session`.

        async with sandbox.session() as session:
            await session.run("x = 20")
            await session.run("x + 1")  # stdout "21\\n"

    The process ends with a cell that must be killed, that crashes or calls `os._exit`, and when other sessions need its
    place (the longest unused one goes). The result that has to do without what earlier cells left says so by
    `session_lost`, and so does the one that lost it. A cell whose time is up is interrupted first: where that ends it,
    the session stays. Ends, kills and limits are the kernel's word; that a cell ended in ok or error is the process's.
    """

    def __init__(self, sandbox: LocalSandbox) -> None:
        self._sandbox = sandbox
        self._one_at_a_time = asyncio.Lock()
        self._process: _Process | None = None
        self._lost = False
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def busy(self) -> bool:
        """Whether a cell is running or waiting to run."""
        return self._one_at_a_time.locked()

    async def run(
        self,
        code: str,
        *,
        timeout_s: float = 10.0,
        files: Mapping[str, bytes] | None = None,
        echo_last_expression: bool = True,
    ) -> ExecutionResult:
        """Runs one cell. Raises as `LocalSandbox.run` does. A caller that is cancelled loses the session."""
        request = self._sandbox.encode(
            code, timeout_s=timeout_s, files=files, echo_last_expression=echo_last_expression
        )
        submitted = time.monotonic()
        async with self._one_at_a_time, self._sandbox.place() as pool:
            if self._closed:
                return failure("the session is closed", cancelled=True)
            try:
                process = await self._living_process(pool)
                if self._closed:  # meanwhile
                    process.kill()
                facts = await process.run(request, timeout_s=timeout_s)
            except (SandboxError, OSError) as error:
                return failure(str(error))
            except asyncio.CancelledError:
                self.give_way()
                raise
            return self._result(process, facts, submitted=submitted, timeout_s=timeout_s)

    def give_way(self) -> None:
        """Kills the process of a session that runs no cell; the next cell will say that its variables are gone."""
        if self._process is not None:
            self._process.kill()
            self._forget(lost=True)

    async def aclose(self) -> None:
        """Ends the process. A cell that still runs comes back as cancelled."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        async with self._one_at_a_time:  # whoever runs a cell still reads its output
            self._forget(lost=False)

    async def _living_process(self, pool: Pool) -> _Process:
        if self._process is not None and self._process.ended:
            self._forget(lost=True)
        self._sandbox.sessions.use(self)
        if self._process is None:
            self._process = await _Process.start(pool)
        return self._process

    def _result(self, process: _Process, facts: Facts, *, submitted: float, timeout_s: float) -> ExecutionResult:
        outputs = process.take_outputs(keep_bytes=self._sandbox.max_output_bytes)
        layers = self._sandbox.layers
        if "cell" in facts:
            queue_s = max(0.0, time.monotonic() - facts["wall_s"] - submitted)
            result = result_of_cell(facts, outputs, queue_s=queue_s, layers=layers)
        else:
            limits = Limits(timeout_s=timeout_s, memory_mb=self._sandbox.memory_mb)
            result = result_of_process(facts, outputs, limits=limits, submitted=submitted, layers=layers)
            result = replace(result, session_lost=True)
            self._forget(lost=False)
        if self._lost:
            self._lost = False
            result = replace(result, session_lost=True)
        return result

    def _forget(self, *, lost: bool) -> None:
        if self._process is not None:
            self._process.release()
            self._process = None
        self._lost = self._lost or lost
        self._sandbox.sessions.leave(self)


class Sessions:
    """Those that have a process, the longest unused first: at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_use: dict[LocalSession, None] = {}

    def use(self, session: LocalSession) -> None:
        """The session is about to run a cell; it may cost another, idle one its process."""
        self._in_use.pop(session, None)
        idle = (other for other in list(self._in_use) if not other.busy)
        while len(self._in_use) >= self._limit and (longest_unused := next(idle, None)):
            longest_unused.give_way()
        self._in_use[session] = None

    def end_idle(self) -> None:
        """The sandbox is being closed; sessions that run a cell are told by its result."""
        for session in [session for session in self._in_use if not session.busy]:
            session.give_way()

    def leave(self, session: LocalSession) -> None:
        """It has no process any more."""
        self._in_use.pop(session, None)


class _Process:
    """The process of a session and the files it writes to."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._channel: Channel
        self._number = -1
        self._outputs: list[int] = []
        self.ended = False

    @classmethod
    async def start(cls, pool: Pool) -> Self:
        """Raises SandboxError or OSError when there is none to be had."""
        process = cls()
        try:
            seat = process._held.enter_context(pool.seat())
            process._channel = await seat.channel()
            for _ in range(2):
                process._outputs.append(appendable())
                process._held.callback(os.close, process._outputs[-1])
            stdin = holding(b"")
            try:
                process._number = process._channel.open_session([stdin, *process._outputs], on_end=process._on_end)
            finally:
                os.close(stdin)
        except BaseException:
            process.release()
            raise
        return process

    async def run(self, request: bytes, *, timeout_s: float) -> Facts:
        """The facts of the cell, or those of the process where it ended with it."""
        fd = holding(request)
        try:
            answer = self._channel.run_cell(self._number, {"timeout_s": timeout_s}, [fd])
            return await answer
        finally:
            os.close(fd)

    def take_outputs(self, *, keep_bytes: int) -> Outputs:
        """What was written since the last time."""
        outputs = Outputs.read(*self._outputs, keep_bytes=keep_bytes)
        for fd in self._outputs:
            os.ftruncate(fd, 0)
        return outputs

    def kill(self) -> None:
        self._channel.kill(self._number, reason="cancelled")

    def release(self) -> None:
        """Closes what is ours of it."""
        self._held.close()

    def _on_end(self, facts: Facts) -> None:  # noqa: ARG002
        self.ended = True

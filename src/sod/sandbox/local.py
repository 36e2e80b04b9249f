"""The embedded sandbox: a pool of fork servers (`worker.py`), one fresh process per call.

    trainer --asyncio, socket pairs--> fork server x workers --fork--> one confined child per call

A fork server is started by exec with a clean environment, never forked from the trainer, so nothing of the trainer's
memory, descriptors or environment is in it. There are two kinds, each `workers` strong and started when first needed:
with the `preload` packages imported, and bare. Code that names no preloaded package goes to a bare one, whose fork
costs a fraction.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import math
import os
import shutil
import socket
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from sod.errors import SandboxError
from sod.sandbox import ExecutionResult, ExecutionStatus

__all__ = ["LocalSandbox"]

BACKEND = "local"
START_TIMEOUT_S = 60.0
OVERDUE_S = 15.0
"""A fork server that has not answered this long after a call's time limit is taken for dead."""
HARD_OUTPUT_BYTES = 64 << 20
FIRST_UID = 60_000
"""Users that calls run as when the trainer is root: this and the following ones."""


class LocalSandbox:
    """Runs code in fresh confined processes on this machine. Linux only.

        async with LocalSandbox() as sandbox:
            result = await sandbox.run("print(1 + 2)")  # status "ok", stdout "3\\n"

    `workers` fork servers of each kind run at most `concurrent_per_worker` calls each; more wait, which is `queue_s`
    and not charged. A call may add `memory_mb` MiB of address space, write files of `disk_mb` MiB, and gets back
    `max_output_bytes` of stdout and of stderr, head and tail. Beyond 64 MiB of output it is killed (output_limit).
    An instance belongs to the event loop that first runs something in it. Raises SandboxError when not on Linux.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        concurrent_per_worker: int = 8,
        memory_mb: int = 1024,
        disk_mb: int = 64,
        max_output_bytes: int = 65536,
        preload: Sequence[str] = ("numpy", "sympy"),
    ) -> None:
        if sys.platform != "linux":
            raise SandboxError(f"LocalSandbox needs Linux, got {sys.platform}; run in a Linux container or machine")
        self._directory = Path(tempfile.mkdtemp(prefix="sod-sandbox-"))
        self._directory.chmod(0o711)  # calls run as other users and may pass, not look
        self._preload = tuple(preload)
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        settings = {
            "slots": concurrent_per_worker,
            "memory_mb": memory_mb,
            "disk_mb": disk_mb,
            "max_output_bytes": max_output_bytes,
            "hard_output_bytes": HARD_OUTPUT_BYTES,
        }
        self._bare = _Pool(self._directory / "bare", settings | {"preload": ()}, workers=workers, first_uid=FIRST_UID)
        self._warm = _Pool(
            self._directory / "warm",
            settings | {"preload": self._preload},
            workers=workers,
            first_uid=FIRST_UID + workers * concurrent_per_worker,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",
        timeout_s: float = 10.0,
        files: Mapping[str, bytes] | None = None,
        echo_last_expression: bool = False,
    ) -> ExecutionResult:
        """Runs `code` in a fresh process. A cancelled caller's process is killed.

        Raises ValueError for a `timeout_s` that is not positive or a name in `files` that leaves the directory.
        """
        if not (timeout_s > 0 and math.isfinite(timeout_s)):
            raise ValueError(f"timeout_s must be a positive number of seconds, got {timeout_s}")
        request = {
            "code": code,
            "stdin": stdin,
            "timeout_s": timeout_s,
            "files": _encoded(files or {}),
            "echo_last_expression": echo_last_expression,
            "submitted": time.monotonic(),
        }
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        assert self._loop is loop, (
            "a LocalSandbox belongs to one event loop, got a second; make one inside each asyncio.run"
        )
        if self._closed:
            return _failure("sandbox_error", "the sandbox is closed")
        pool = self._warm if any(package in code for package in self._preload) else self._bare
        return await pool.run(request)

    async def aclose(self) -> None:
        """Ends every process and removes every file of this sandbox; calls that still run come back as cancelled."""
        self._closed = True
        await asyncio.gather(self._bare.aclose(), self._warm.aclose())
        shutil.rmtree(self._directory, ignore_errors=True)


class _Pool:
    """The fork servers of one kind. Calls go to the least busy one, so a single caller wakes only one."""

    def __init__(self, directory: Path, settings: Mapping[str, Any], *, workers: int, first_uid: int) -> None:
        slots = settings["slots"]
        self._free = asyncio.Semaphore(workers * slots)
        self._seats = [
            _Seat({**settings, "directory": f"{directory}{index}", "first_uid": first_uid + index * slots})
            for index in range(workers)
        ]

    async def run(self, request: dict[str, Any]) -> ExecutionResult:
        await self._free.acquire()
        seat = min(self._seats, key=lambda seat: seat.load)
        seat.load += 1
        try:
            server = await seat.server()
            answer = server.submit(request)
        except BaseException as error:
            self._leave(seat)
            if isinstance(error, SandboxError):
                return _failure("sandbox_error", str(error))
            raise
        answer.add_done_callback(lambda _: self._leave(seat))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            server.cancel(request)  # its place is free when the process is gone
            raise

    def _leave(self, seat: _Seat) -> None:
        seat.load -= 1
        self._free.release()

    async def aclose(self) -> None:
        await asyncio.gather(*(seat.aclose() for seat in self._seats))


class _Seat:
    """A place for one fork server: starts it when first needed, and again when it has died."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.load = 0
        self._settings = settings
        self._server: _ForkServer | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def server(self) -> _ForkServer:
        """The living fork server. Raises SandboxError when none can be started."""
        if self._server is not None and not self._server.dead:
            return self._server
        async with self._starting:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._server is None or self._server.dead:
                await self._end()
                self._server = await _ForkServer.start(self._settings)
            return self._server

    async def aclose(self) -> None:
        self._closed = True
        async with self._starting:
            await self._end()

    async def _end(self) -> None:
        if self._server is not None:
            await self._server.aclose()
            self._server = None


class _ForkServer(asyncio.Protocol):
    """Our end of one fork server: frames out and in, matched by id."""

    def __init__(self, process: Process, log: Path) -> None:
        self.dead = False
        self.ready: asyncio.Future[tuple[str, ...]] = asyncio.get_running_loop().create_future()
        self._process = process
        self._log = log
        self._transport: asyncio.Transport
        self._incoming = bytearray()
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[ExecutionResult]] = {}
        self._isolation: tuple[str, ...] = ()

    @classmethod
    async def start(cls, settings: Mapping[str, Any]) -> Self:
        """A fork server that is ready. Raises SandboxError with the end of its log when it does not get ready."""
        directory = Path(settings["directory"])
        os.makedirs(directory, mode=0o711, exist_ok=True)
        log = directory / "log"
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await _spawn({**settings, "socket_fd": theirs.fileno()}, directory=directory, log=log)
            except OSError as error:
                ours.close()
                raise SandboxError(f"a fork server must start with {sys.executable}, got: {error}") from None
        server = cls(process, log)
        try:
            await asyncio.get_running_loop().create_unix_connection(lambda: server, sock=ours)
            async with asyncio.timeout(START_TIMEOUT_S):
                await server.ready
        except BaseException as error:
            await server.aclose()
            if isinstance(error, TimeoutError):
                raise SandboxError(f"a fork server must be ready within {START_TIMEOUT_S:.0f} s, it was not") from None
            raise
        return server

    def submit(self, request: dict[str, Any]) -> asyncio.Future[ExecutionResult]:
        """Sends a call, puts its id into `request`. The future is always resolved, by the answer or by our death."""
        if self.dead:
            raise SandboxError("the fork server died before the call was sent")
        loop = asyncio.get_running_loop()
        request["id"] = next(self._ids)
        answer = self._answers[request["id"]] = loop.create_future()
        self._send(request)
        overdue = loop.call_later(request["timeout_s"] + OVERDUE_S, self._process_is_stuck)
        answer.add_done_callback(lambda _: overdue.cancel())
        return answer

    def cancel(self, request: Mapping[str, Any]) -> None:
        """Has the call's process killed."""
        if not self.dead:
            self._send({"cancel": request["id"]})

    async def aclose(self) -> None:
        """Ends the process and all it started; open calls are resolved as cancelled."""
        self._fail_all("cancelled", "the sandbox was closed")
        with contextlib.suppress(AttributeError):  # never connected
            self._transport.abort()
        try:
            async with asyncio.timeout(5.0):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _process_is_stuck(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._transport.abort()

    def _send(self, message: Mapping[str, Any]) -> None:
        body = json.dumps(message).encode()
        self._transport.write(len(body).to_bytes(4, "big") + body)

    def _fail_all(self, status: ExecutionStatus, detail: str) -> None:
        self.dead = True
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done():
                answer.set_result(_failure(status, detail))
        if not self.ready.done():
            self.ready.set_exception(SandboxError(detail))

    def _handle(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._isolation = tuple(message["isolation"])
            self.ready.set_result(self._isolation)
            return
        answer = self._answers.pop(message.pop("id"))
        answer.set_result(ExecutionResult(**message, backend=BACKEND, isolation=self._isolation))

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._incoming += data
        while len(self._incoming) >= 4:
            end = 4 + int.from_bytes(self._incoming[:4], "big")
            if len(self._incoming) < end:
                return
            message = json.loads(self._incoming[4:end])
            del self._incoming[:end]
            self._handle(message)

    def connection_lost(self, exc: Exception | None) -> None:
        log = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
        self._fail_all("sandbox_error", f"the fork server died ({exc or 'connection closed'}): {log or 'no message'}")


async def _spawn(settings: Mapping[str, Any], *, directory: Path, log: Path) -> Process:
    with open(log, "wb") as log_file:  # noqa: ASYNC230
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(Path(__file__).with_name("worker.py")), json.dumps(settings)),
            env=_clean_environment(directory),
            cwd=directory,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=log_file,
            pass_fds=[settings["socket_fd"]],
            start_new_session=True,  # Ctrl-C in the terminal is the trainer's to handle
        )


def _clean_environment(directory: Path) -> dict[str, str]:
    """All that a fork server gets to see: nothing of the host's environment."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    fixed = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return {**fixed, **threads, "HOME": str(directory)}


def _encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"names in files must be relative and stay in the directory, got {name!r}")
    return {name: base64.b64encode(content).decode() for name, content in files.items()}


def _failure(status: ExecutionStatus, detail: str) -> ExecutionResult:
    return ExecutionResult(status=status, stdout="", stderr="", backend=BACKEND, detail=detail)

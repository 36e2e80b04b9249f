"""The embedded sandbox: fork servers (`fork_server.py`) that give every call a fresh confined process.

    trainer --asyncio, packet sockets--> fork server x workers --fork--> one confined child per call

There are two kinds of server, each `workers` strong and started when first needed: with the `preload` packages
imported, and bare. Code that names no preloaded package goes to a bare one, whose fork costs a fraction.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from sod.errors import SandboxError
from sod.lifetime import Lifetime
from sod.sandbox.environment import find_environment, foreign_packages
from sod.sandbox.home import Home
from sod.sandbox.memory_files import MAX_BYTES, appendable, holding
from sod.sandbox.pool import Pool
from sod.sandbox.protocol import ExecutionResult
from sod.sandbox.refusal import refusal
from sod.sandbox.request import encode_request
from sod.sandbox.session import LocalSession, Sessions
from sod.sandbox.verdict import Limits, Outputs, failure, result_of_process

__all__ = ["Isolation", "LocalSandbox"]

Isolation: TypeAlias = Literal["auto", "A", "B"]
MIB = 1 << 20


class LocalSandbox(Lifetime):
    """Runs code in fresh confined processes on this machine. Linux only.

        async with LocalSandbox() as sandbox:
            result = await sandbox.run("print(1 + 2)")  # status "ok", stdout "3\\n"

    `isolation` "auto" takes level A (namespaces) where the machine allows it, else B (Landlock and seccomp); what was
    taken is `level`, found once at the start by doing it. Below B the start raises SandboxError with the cure, unless
    `allow_unsafe`. `workers` fork servers of each kind run at most `concurrent_per_worker` calls each; more wait, which
    is `queue_s` and not charged. A call may add `memory_mb` MiB of memory, write `disk_mb` MiB of files, and gets back
    `max_output_bytes` of stdout and of stderr, head and tail; beyond 64 MiB of either it is killed (output_limit).
    Code can import the standard library and the distributions `packages` of the interpreter `python` ("" is this one)
    with what they require; `preload` are those imported beforehand. At most `max_sessions` sessions are kept.
    An instance belongs to the event loop that first uses it.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        concurrent_per_worker: int = 8,
        memory_mb: int = 1024,
        disk_mb: int = 64,
        max_output_bytes: int = 65536,
        isolation: Isolation = "auto",
        allow_unsafe: bool = False,
        packages: Sequence[str] = ("numpy", "sympy"),
        preload: Sequence[str] = ("numpy", "sympy"),
        python: str = "",
        max_sessions: int = 64,
    ) -> None:
        if sys.platform != "linux":
            raise SandboxError(
                f"LocalSandbox needs Linux, got {sys.platform}; run in a Linux container or use FusionSandbox"
            )
        self.memory_mb, self.max_output_bytes = memory_mb, max_output_bytes
        self._limits = {"memory_mb": memory_mb, "disk_mb": disk_mb, "file_bytes": max(MAX_BYTES, disk_mb * MIB)}
        self._limits["output_bytes"] = MAX_BYTES
        self._isolation, self._allow_unsafe = isolation, allow_unsafe
        self._packages, self._preload, self._python = tuple(packages), tuple(preload), python
        self._workers = workers
        self._places = asyncio.Semaphore(workers * concurrent_per_worker)
        self.sessions = Sessions(max(max_sessions, workers * concurrent_per_worker))
        self._servers: _Servers | None = None
        self._home: Home | None = None
        self._starting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def level(self) -> str:
        """What was taken: "A", "B" or "unsafe". Known once started."""
        return self.layers[0]

    @property
    def layers(self) -> tuple[str, ...]:
        """What confines every call, the level first. Known once started."""
        assert self._servers is not None, "the level is found at the start: await sandbox.start() first"
        return self._servers.layers

    async def start(self) -> None:
        """Finds the level by running a call at it; again, it does nothing. Raises SandboxError below level B."""
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        assert self._loop is loop, (
            "a LocalSandbox belongs to one event loop, got a second; make one inside each asyncio.run"
        )
        if self._servers is None:
            async with self._starting:
                if self._servers is None and not self._closed:
                    self._servers = await self._find_level()

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

        Raises ValueError for a `timeout_s` that is not positive or a name in `files` that leaves the directory, and
        SandboxError when this machine cannot isolate code.
        """
        request = self.encode(code, timeout_s=timeout_s, files=files, echo_last_expression=echo_last_expression)
        submitted = time.monotonic()
        await self.start()
        async with self._places:
            if self._closed or self._servers is None:
                return failure("the sandbox is closed")
            pool = self._servers.warm if any(name in code for name in self._preload) else self._servers.bare
            return await self._run(
                *(pool, request),
                stdin=stdin.encode("utf-8", "replace"),
                timeout_s=timeout_s,
                submitted=submitted,
                layers=self._servers.layers,
            )

    def session(self) -> LocalSession:
        """A notebook: cells that share variables. Its process starts with the first cell."""
        return LocalSession(self)

    async def aclose(self) -> None:
        """Ends every process and removes every file of this sandbox; calls that still run come back as cancelled."""
        self._closed = True
        async with self._starting:
            self.sessions.end_idle()
            if self._servers is not None:
                await self._servers.aclose()
            self._leave_home()

    # For sessions

    def encode(self, code: str, **details: Any) -> bytes:
        """As `encode_request` does, within our limits."""
        return encode_request(code, disk_mb=self._limits["disk_mb"], **details)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Pool]:
        """One of the places for running code, waited for; gives the servers of sessions. Raises SandboxError."""
        await self.start()
        async with self._places:
            if self._closed or self._servers is None:
                raise SandboxError("the sandbox is closed")
            yield self._servers.warm

    # Starting

    async def _find_level(self) -> _Servers:
        """The first level at which a program runs here."""
        settings = {**self._limits, **await self._make_environment()}
        levels = ["A", "B"] if self._isolation == "auto" else [self._isolation]
        reasons: dict[str, str] = {}
        for level in [*levels, *(["unsafe"] if self._allow_unsafe else [])]:
            at_level = {**settings, "level": level}
            bare = Pool({**at_level, "preload": []}, workers=self._workers, name=f"{level}-bare")
            warm = Pool({**at_level, "preload": self._preload}, workers=self._workers, name=f"{level}-warm")
            try:
                return _Servers(bare=bare, warm=warm, layers=await self._try(bare))
            except BaseException as error:
                await bare.aclose()
                if not isinstance(error, SandboxError):
                    raise
                reasons[level] = str(error)
        raise SandboxError(refusal(reasons))

    async def _make_environment(self) -> dict[str, Any]:
        """Interpreter and packages, and the places on disk that the fork servers need."""
        try:
            environment = await find_environment(
                self._python or sys.executable, self._packages, hidden=foreign_packages()
            )
        except ValueError as error:
            raise SandboxError(str(error)) from None
        self._leave_home()  # of a start that was cancelled
        self._home = Home()
        root, links = self._home.path / "root", self._home.path / "packages"
        for directory in (root, links):
            directory.mkdir()
        for name, target in environment.packages.items():
            (links / name).symlink_to(target)
        return {**asdict(environment), "parent": str(self._home.path), "root": str(root), "links": str(links)}

    def _leave_home(self) -> None:
        if self._home is not None:
            self._home.remove()
            self._home = None

    async def _try(self, bare: Pool) -> tuple[str, ...]:
        """What confines a program that really ran. Raises SandboxError when it did not."""
        with bare.seat() as seat:
            layers = (await seat.channel()).layers
        request = self.encode("print(1 + 2)", timeout_s=10.0, files=None, echo_last_expression=False)
        result = await self._run(bare, request, stdin=b"", timeout_s=10.0, submitted=time.monotonic(), layers=layers)
        if (result.status, result.stdout) != ("ok", "3\n"):
            raise SandboxError(f"print(1 + 2) ended as {result.status}: {result.detail or result.stderr}"[:500])
        return layers

    async def _run(
        self, pool: Pool, request: bytes, *, stdin: bytes, timeout_s: float, submitted: float, layers: tuple[str, ...]
    ) -> ExecutionResult:
        with ExitStack() as held:
            try:
                files = [holding(request), holding(stdin), appendable(), appendable()]
            except OSError as error:
                return failure(f"no memory file could be made: {error}")
            for fd in files:
                held.callback(os.close, fd)
            seat = held.enter_context(pool.seat())
            try:
                channel = await seat.channel()
                number, answer = channel.run({"timeout_s": timeout_s}, files)
            except SandboxError as error:
                return failure(str(error))
            try:
                facts = await answer
            except asyncio.CancelledError:
                channel.kill(number, reason="cancelled")
                raise
            outputs = Outputs.read(*files[2:], keep_bytes=self.max_output_bytes)
        limits = Limits(timeout_s=timeout_s, memory_mb=self.memory_mb)
        return result_of_process(facts, outputs, limits=limits, submitted=submitted, layers=layers)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Servers:
    """Both kinds, at the level that was found."""

    bare: Pool
    warm: Pool
    layers: tuple[str, ...]

    async def aclose(self) -> None:
        await asyncio.gather(self.bare.aclose(), self.warm.aclose())

"""The trainer's end of one fork server: starts the process, sends it calls with their descriptors, matches answers.

What comes back are facts from the kernel and the fork server's clock; `local.py` makes verdicts of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import socket
import tempfile
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sod.errors import SandboxError

__all__ = ["Channel"]

START_TIMEOUT_S = 60.0
CLOSE_TIMEOUT_S = 5.0
PING_S = 5.0
MAX_SILENT_PINGS = 4
"""A fork server that lets so many pass without a word is taken for dead. Pings and not seconds are counted, because
our own event loop may have been the one that stood still."""
MAX_MESSAGE_BYTES = 1 << 17
LOG_BYTES = 2000
HERE = str(Path(__file__).resolve().parent)
BOOTSTRAP = """
import sys, types
directory = sys.argv[1]
for name, place in (("sod", directory.rpartition("/")[0]), ("sod.sandbox", directory)):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [place]
from sod.sandbox.fork_server import main
main(int(sys.argv[2]))
"""
"""The modules by their names, without the `__init__` of either package, which would import the rest of us."""

Facts = dict[str, Any]


class Channel:
    """One fork server. `layers` is what its calls are confined by, the level's name first."""

    def __init__(self, process: Process, connection: socket.socket, log: Path) -> None:
        self.dead = False
        self.layers: tuple[str, ...] = ()
        self._process = process
        self._socket = connection
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._ready: asyncio.Future[tuple[str, ...]] = self._loop.create_future()
        self._answers: dict[int, asyncio.Future[Facts]] = {}
        self._ends: dict[int, Callable[[Facts], None]] = {}
        self._next_ping: asyncio.TimerHandle | None = None
        self._silent_pings = 0
        self._unsent: deque[tuple[bytes, list[int]]] = deque()
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    @classmethod
    async def start(cls, settings: Mapping[str, Any], *, executable: str, name: str) -> Self:
        """A fork server that is ready. Raises SandboxError with its reason when it does not get ready.

        It gets a directory of its own in `settings["parent"]`, so that it finds nothing of one that died.
        """
        directory = Path(tempfile.mkdtemp(prefix=name, dir=settings["parent"]))
        log = directory / "log"
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                process = await _spawn(executable, socket_fd=theirs.fileno(), directory=directory, log=log)
            except OSError as error:
                ours.close()
                raise SandboxError(f"a fork server must start with {executable}, got: {error}") from None
        channel = cls(process, ours, log)
        try:
            channel._send({**settings, "directory": str(directory)})
            async with asyncio.timeout(START_TIMEOUT_S):
                channel.layers = await channel._ready
        except BaseException as error:
            await channel.aclose()
            if isinstance(error, TimeoutError):
                raise SandboxError(f"a fork server must be ready within {START_TIMEOUT_S:.0f} s, it was not") from None
            raise
        return channel

    def run(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> tuple[int, asyncio.Future[Facts]]:
        """Sends a program; gives its number and the facts of its end, which always come, from us if it dies."""
        number = next(self._numbers)
        answer = self._expect(number)
        self._send({"run": number, **message}, descriptors)
        return number, answer

    def open_session(self, descriptors: Sequence[int], *, on_end: Callable[[Facts], None]) -> int:
        """Starts a session's process; `on_end` gets the facts of its end, whenever and however it comes."""
        number = next(self._numbers)
        self._ends[number] = on_end
        self._send({"session": number}, descriptors)
        return number

    def run_cell(self, session: int, message: Mapping[str, Any], descriptors: Sequence[int]) -> asyncio.Future[Facts]:
        """Sends a cell to a session: the facts of the cell, or of the session when that ended with it."""
        answer = self._expect(session)
        self._send({"cell": session, **message}, descriptors)
        return answer

    def kill(self, number: int, *, reason: str) -> None:
        """Has a call's process killed."""
        if not self.dead:
            self._send({"kill": number, "reason": reason})

    async def aclose(self) -> None:
        """Ends the process and all it started; open calls are cancelled."""
        self._fail_all({"killed_for": "cancelled", "failure": "the sandbox was closed"})
        self._disconnect()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _expect(self, number: int) -> asyncio.Future[Facts]:
        if self.dead:
            raise SandboxError("the fork server died before the call was sent")
        answer: asyncio.Future[Facts] = self._loop.create_future()
        self._answers[number] = answer
        if self._next_ping is None:
            self._silent_pings = 0
            self._next_ping = self._loop.call_later(PING_S, self._ping)
        return answer

    # Messages

    def _send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Sends now, or as soon as there is room. Descriptors are ours until then, so they are kept as copies."""
        body = json.dumps(message).encode()
        if not self._unsent:
            with contextlib.suppress(BlockingIOError):
                self._transmit(body, descriptors)
                return
            self._loop.add_writer(self._socket, self._send_rest)
        self._unsent.append((body, [os.dup(fd) for fd in descriptors]))

    def _transmit(self, body: bytes, descriptors: Sequence[int]) -> None:
        try:
            socket.send_fds(self._socket, [body], descriptors)
        except BlockingIOError:
            raise
        except OSError as error:
            self._end(str(error))

    def _send_rest(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._transmit(*self._unsent[0])
                if self.dead:
                    return
                for fd in self._unsent.popleft()[1]:
                    os.close(fd)
            self._loop.remove_writer(self._socket)

    def _read(self) -> None:
        while not self.dead:
            try:
                body = self._socket.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self._end(str(error))
                return
            if not body:
                self._end("connection closed")
                return
            self._silent_pings = 0
            self._handle(json.loads(body))

    def _handle(self, message: Facts) -> None:
        if "ready" in message:
            self._ready.set_result(tuple(message["ready"]))
        elif "refused" in message:
            self._ready.set_exception(SandboxError(message["refused"]))
        elif "pong" in message:
            pass
        elif "cell" in message:
            self._answer(message["cell"], message)
        else:
            self._resolve(message["ended"], message)

    def _resolve(self, number: int, facts: Facts) -> None:
        if on_end := self._ends.pop(number, None):
            on_end(facts)
        self._answer(number, facts)

    def _answer(self, number: int, facts: Facts) -> None:
        answer = self._answers.pop(number, None)
        if answer is not None and not answer.done():
            answer.set_result(facts)

    # Ends

    def _end(self, why: str) -> None:
        """The fork server is gone, by itself or by our hand."""
        log = self._log.read_text(errors="replace")[-LOG_BYTES:].strip() if self._log.exists() else ""
        self._fail_all({"killed_for": "", "failure": f"the fork server died ({why}): {log or 'no message'}"})
        self._disconnect()

    def _ping(self) -> None:
        """Goes on while there are calls."""
        self._next_ping = None
        if self.dead or not self._answers:
            return
        if self._silent_pings >= MAX_SILENT_PINGS:
            self._give_up()
            return
        self._silent_pings += 1
        self._send({"ping": self._silent_pings})
        self._next_ping = self._loop.call_later(PING_S, self._ping)

    def _give_up(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._end("the fork server did not answer and was killed")

    def _fail_all(self, facts: Facts) -> None:
        self.dead = True
        for number in {*self._answers, *self._ends}:
            self._resolve(number, facts)
        if not self._ready.done():
            self._ready.set_exception(SandboxError(facts["failure"]))

    def _disconnect(self) -> None:
        if self._next_ping is not None:
            self._next_ping.cancel()
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        while self._unsent:
            for fd in self._unsent.popleft()[1]:
                os.close(fd)


async def _spawn(executable: str, *, socket_fd: int, directory: Path, log: Path) -> Process:
    with open(log, "wb") as log_file:  # noqa: ASYNC230
        return await asyncio.create_subprocess_exec(
            # -I would also ignore PYTHONHASHSEED, and sets would have another order in every fork server.
            *(executable, "-s", "-P", "-S", "-c", BOOTSTRAP, HERE, str(socket_fd)),
            env=_clean_environment(directory),
            cwd=directory,
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=log_file,
            pass_fds=[socket_fd],
            start_new_session=True,  # Ctrl-C in the terminal is the trainer's to handle
        )


def _clean_environment(directory: Path) -> dict[str, str]:
    """All that a fork server gets to see: nothing of the host's environment."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    threads["MALLOC_ARENA_MAX"] = "2"  # each thread's arena would take 64 MiB of address space from the limit
    fixed = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}
    return {**fixed, **threads, "HOME": str(directory)}

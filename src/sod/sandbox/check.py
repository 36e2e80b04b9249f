"""`sod sandbox check`: tries at each level what code must not be able to do, and says what came out.

The full list of faults is tests/test_sandbox_faults.py; these are the ones that take no time.
"""

from __future__ import annotations

import os
import socket
import statistics
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sod.errors import SandboxError
from sod.sandbox.local import Isolation, LocalSandbox
from sod.sandbox.protocol import ExecutionResult

__all__ = ["Probe", "probe_level"]

NUM_TIMED = 20
SECRET = "hunter2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One thing that was tried: `name` says what must hold, `held` whether it did, `found` what was seen."""

    name: str
    held: bool
    found: str


async def probe_level(level: Isolation) -> AsyncIterator[Probe]:
    """What holds at a level, one after the other; only that it does not start where the level is not to be had."""
    with _host() as (secret_path, port):
        try:
            async with LocalSandbox(workers=1, memory_mb=256, disk_mb=16, isolation=level) as sandbox:
                yield Probe(name="starts", held=True, found=", ".join(sandbox.layers[1:]))
                for name, code, holds in _faults(secret_path, port):
                    result = await sandbox.run(code, timeout_s=0.5)
                    yield Probe(name=name, held=holds(result), found=_seen(result))
                yield await _timing(sandbox)
        except SandboxError as error:
            yield Probe(name="starts", held=False, found=str(error))


@contextmanager
def _host() -> Iterator[tuple[str, int]]:
    """A file and a listening port that no code may reach."""
    with tempfile.NamedTemporaryFile("w") as file, socket.create_server(("127.0.0.1", 0)) as server:
        file.write(SECRET)
        file.flush()
        yield file.name, server.getsockname()[1]


def _faults(secret_path: str, port: int) -> Iterator[tuple[str, str, Callable[[ExecutionResult], bool]]]:
    """What must hold, code that tries the contrary, and whether the result shows that it held."""

    def ends_as(*statuses: str) -> Callable[[ExecutionResult], bool]:
        return lambda result: result.status in statuses

    def is_refused(result: ExecutionResult) -> bool:
        return result.status == "error" and SECRET not in result.stdout + result.stderr

    yield "a program runs", "import math; print(math.pi)", ends_as("ok")
    yield "numpy and sympy are there", "import numpy, sympy", ends_as("ok")
    yield "an endless loop is ended", "while True: pass", ends_as("timeout")
    yield "memory is limited", "x = bytearray(1 << 30)", ends_as("memory_limit")
    yield "files are limited", "with open('f', 'wb') as f:\n while True: f.write(bytes(1 << 20))", ends_as("disk_limit")
    yield "output is limited", "import os\nwhile True: os.write(1, bytes(1 << 20))", ends_as("output_limit")
    yield "no file of the host", f"print(open({secret_path!r}).read())", is_refused
    yield "no package of the host", "import sod", is_refused
    yield "no network", f"import socket; socket.create_connection(('127.0.0.1', {port}))", is_refused
    yield "no signal to the host", f"import os; os.kill({os.getpid()}, 0)", is_refused
    yield "no other root user", "import os; os.setuid(0); open('/etc/shadow')", is_refused
    yield "no new namespaces", "import ctypes; raise SystemExit(ctypes.CDLL(None).unshare(0x10000000) != 0)", is_refused


def _seen(result: ExecutionResult) -> str:
    last = (result.stderr.strip() or result.stdout.strip() or result.detail).splitlines()
    return f"{result.status}: {last[-1][:100]}" if last else result.status


async def _timing(sandbox: LocalSandbox) -> Probe:
    results = [await sandbox.run("print(1)") for _ in range(NUM_TIMED)]
    wall_ms = 1000 * statistics.median(result.wall_s + result.queue_s for result in results)
    cpu_ms = 1000 * statistics.median(result.cpu_s or 0.0 for result in results)
    held = all(result.stdout == "1\n" for result in results)
    return Probe(name=f"{NUM_TIMED} calls", held=held, found=f"median {wall_ms:.1f} ms, {cpu_ms:.1f} ms of processor")

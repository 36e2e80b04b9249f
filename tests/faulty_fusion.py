"""A SandboxFusion server of our own for the tests: the documented replies, the measured defects, and answers by script.

It really runs the code, `python FILE` in a temporary directory, and has the defects because it does what the real
server does: it waits for the process before it reads the pipes, and takes `memory_limit_MB` for the stack as well.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self, TypeAlias

Answer: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


class FaultyFusion:
    """One server on a free port of the loopback.

    `requests` are the bodies of the calls so far, `headers` those of the last one. `script` holds answers for the next
    calls; with an empty one code is run. `broken` answers every call, as long as it is set.
    """

    def __init__(self, *, python: str = sys.executable) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.script: list[Answer] = []
        self.broken: Answer | None = None
        self.num_hung_up = 0
        self.url = ""
        self._python = python
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def num_calls(self) -> int:
        """Calls that were no probes: those whose code is not `print(1)`."""
        return sum(code_of(request) != "print(1)" for request in self.requests)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                self.headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}
                body = await reader.readexactly(int(self.headers.get("content-length", 0)))
                if lines[0].startswith("GET"):
                    await reply(writer, '"pong"')
                else:
                    await self._answer(json.loads(body), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.requests.append(request)
        scripted = self.broken or (self.script.pop(0) if self.script and code_of(request) != "print(1)" else None)
        if scripted is None:
            await reply(writer, json.dumps(await run_code(request, python=self._python)))
            return
        answering = asyncio.create_task(scripted(writer))
        gone = asyncio.create_task(reader.read(1))
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            self.num_hung_up += 1
            answering.cancel()
            raise ConnectionAbortedError
        gone.cancel()
        await asyncio.wait({gone})
        answering.result()


def code_of(request: dict[str, Any]) -> str:
    """The code that a caller wants to have run: FusionSandbox's is in a file."""
    packed = [content for name, content in request.get("files", {}).items() if name.endswith("/code")]
    return base64.b64decode(packed[0]).decode("utf-8", "replace") if packed else request["code"]


# Answers


async def reply(writer: asyncio.StreamWriter, body: str | bytes, *, status: str = "200 OK") -> None:
    data = body.encode() if isinstance(body, str) else body
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nContent-Type: application/json\r\n\r\n".encode())
    writer.write(data)
    await writer.drain()


def says(body: Any, *, status: str = "200 OK") -> Answer:
    """An answer of these bytes, or of this as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda writer: reply(writer, data, status=status)


def sandbox_error(message: str = "stdin race") -> Answer:
    return says(response("SandboxError", message=message, run_result=None))


async def hangs(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001 - an Answer
    await asyncio.Event().wait()


async def hangs_up(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001 - an Answer
    raise ConnectionResetError


async def never_ends(writer: asyncio.StreamWriter) -> None:
    """A reply of 4 GiB, as fast as it is read."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n{"status": "')
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


def response(status: str, *, message: str = "", run_result: Any, files: Any = None) -> dict[str, Any]:
    return {
        "status": status,
        "message": message,
        "compile_result": None,
        "run_result": run_result,
        "executor_pod_name": None,
        "files": files or {},
    }


# Running


async def run_code(request: dict[str, Any], *, python: str) -> dict[str, Any]:
    """What POST /run_code does in the mode "none"."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        for path, content in request.get("files", {}).items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(base64.b64decode(content))
        (directory / "tmp1.py").write_text(request["code"])
        run_result = await _run(directory, request, python=python)
        files = {}
        for path in request.get("fetch_files", []):
            if (directory / path).is_file():
                files[path] = base64.b64encode((directory / path).read_bytes()).decode()
    is_fine = run_result["return_code"] == 0
    return response("Success" if is_fine else "Failed", run_result=run_result, files=files)


async def _run(directory: Path, request: dict[str, Any], *, python: str) -> dict[str, Any]:
    limit_mb = request.get("memory_limit_MB", -1)

    def limit_memory() -> None:
        if limit_mb > 0:
            for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_STACK):
                resource.setrlimit(kind, (limit_mb << 20, resource.getrlimit(kind)[1]))

    pipe = asyncio.subprocess.PIPE
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        python,
        str(directory / "tmp1.py"),
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        cwd=directory,
        start_new_session=True,
        preexec_fn=limit_memory,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    if request.get("stdin"):
        process.stdin.write(request["stdin"].encode())
    try:
        async with asyncio.timeout(request.get("run_timeout", 10)):
            await process.wait()  # with the pipes unread: the stall
        status = "Finished"
    except TimeoutError:
        status = "TimeLimitExceeded"
    finally:
        _kill_group(process.pid)
    stdout, stderr = b"", b""
    if status == "TimeLimitExceeded":  # what had been read when reading stopped; the rest of the pipe is lost
        stdout, stderr = await process.stdout.read(1 << 20), await process.stderr.read(1 << 20)
    rest = await process.communicate()
    if status == "Finished":
        stdout, stderr = rest
    return {
        "status": status,
        "execution_time": time.monotonic() - started,
        "return_code": process.returncode if status == "Finished" else None,
        "stdout": stdout.decode("utf-8", "replace"),
        "stderr": stderr.decode("utf-8", "replace"),
    }


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return

"""A SandboxFusion server of our own for the tests: the documented replies, the measured defects, and answers by script.

It really runs the code, `python FILE` in a temporary directory, and has the defects because it does what the real
server does: it waits for the process before it reads the pipes, and takes `memory_limit_MB` for the stack as well.
"""

from __future__ import annotations

import asyncio
import base64
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from faulty_server import Answer, FaultyServer, reply, says


class FaultyFusion(FaultyServer):
    """Runs code with `python`. The script is for calls only, not for probes, which run `print(1)`."""

    def __init__(self, *, python: str = sys.executable) -> None:
        super().__init__()
        self._python = python

    @property
    def num_calls(self) -> int:
        """Calls that were no probes: those whose code is not `print(1)`."""
        return sum(map(self.is_scripted, self.requests))

    def is_scripted(self, request: dict[str, Any]) -> bool:
        return code_of(request) != "print(1)"

    def got(self, path: str) -> Answer:  # noqa: ARG002
        return says("pong")

    def posted(self, path: str, request: dict[str, Any]) -> Answer:  # noqa: ARG002
        async def answer(writer: asyncio.StreamWriter) -> None:
            await reply(writer, await run_code(request, python=self._python))

        return answer


def code_of(request: dict[str, Any]) -> str:
    """The code that a caller wants to have run: FusionSandbox's is in a file."""
    packed = [content for name, content in request.get("files", {}).items() if name.endswith("/code")]
    return base64.b64decode(packed[0]).decode("utf-8", "replace") if packed else request["code"]


# Answers


def sandbox_error(message: str = "stdin race") -> Answer:
    return says(response("SandboxError", message=message, run_result=None))


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

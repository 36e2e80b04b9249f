"""`serve` with a real uvicorn on the loopback and a real LocalSandbox: raw HTTP, FusionSandbox, the official client."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from sod.errors import SandboxError
from sod.sandbox import ExecutionResult, FusionSandbox, LocalSandbox, Sandbox
from sod.sandbox.scripted import ScriptedSandbox
from sod.sandbox.serve import application, is_loopback, serve

pytest.importorskip("uvicorn", reason="needs the extra serve: pip install 'sod-distill[serve]'")

MAX_BODY_BYTES = 300_000


def local_sandbox() -> LocalSandbox:
    return LocalSandbox(workers=1, memory_mb=256, disk_mb=4)


@asynccontextmanager
async def serving(sandbox: Sandbox, **settings: Any) -> AsyncIterator[str]:
    """The URL of a server in this event loop."""
    announced: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(sandbox, port=0, announce=announced.set_result, **settings))
    await asyncio.wait({task, announced}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    try:
        yield await announced
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server for the whole file, in a thread of its own."""
    urls: list[str] = []
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        async with (
            local_sandbox() as sandbox,
            serving(sandbox, max_timeout_s=30.0, max_body_bytes=MAX_BODY_BYTES) as url,
        ):
            urls.append(url)
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    assert started.wait(60)
    yield urls[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()
    assert not thread.is_alive()


def post(url: str, body: Mapping[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/run_code", json=body, timeout=60)


def run(url: str, code: str, **fields: Any) -> dict[str, Any]:
    response = post(url, {"code": code, "language": "python", **fields})
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    assert set(reply) == {"status", "message", "compile_result", "run_result", "executor_pod_name", "files"}
    return reply


# The contract


def test_a_reply_has_the_documented_shape(url: str) -> None:
    reply = run(url, "import sys\nprint(1 + 2)\nprint('e', file=sys.stderr)")
    execution_time = reply["run_result"].pop("execution_time")
    assert 0 < execution_time < 10
    assert reply == {
        "status": "Success",
        "message": "",
        "compile_result": None,
        "run_result": {"status": "Finished", "return_code": 0, "stdout": "3\n", "stderr": "e\n"},
        "executor_pod_name": None,
        "files": {},
    }


@pytest.mark.parametrize(
    ("code", "return_code", "message"),
    [
        ("import sys\nsys.exit(3)", 3, ""),
        ("1 / 0", 1, ""),
        ("import ctypes\nctypes.string_at(0)", -signal.SIGSEGV, ""),
        ("x = [0] * 10**9", 251, "memory_limit"),
        ("open('f', 'wb').write(bytes(5 << 20))", 252, "disk_limit"),
    ],
)
def test_how_code_fails(url: str, code: str, return_code: int, message: str) -> None:
    reply = run(url, code)
    assert (reply["status"], reply["message"]) == ("Failed", message)
    assert (reply["run_result"]["status"], reply["run_result"]["return_code"]) == ("Finished", return_code)


def test_a_time_limit(url: str) -> None:
    reply = run(url, "print('before', flush=True)\nwhile True: pass", run_timeout=0.5)
    assert reply["status"] == "Failed"
    assert reply["run_result"]["status"] == "TimeLimitExceeded"
    assert reply["run_result"]["return_code"] is None
    assert reply["run_result"]["stdout"] == "before\n"


def test_long_output_does_not_stall(url: str) -> None:
    reply = run(url, "print('z' * 300_000)")
    assert reply["status"] == "Success"
    assert "bytes left out" in reply["run_result"]["stdout"]


def test_stdin_and_files(url: str) -> None:
    files = {"d/a.txt": base64.b64encode(b"in a file").decode(), "none": None}
    reply = run(url, "import os\nprint(input(), open('d/a.txt').read(), os.listdir())", stdin="é", files=files)
    assert reply["run_result"]["stdout"] == "é in a file ['d']\n"


def test_what_is_taken_and_not_used(url: str) -> None:
    code = "import threading\nt = threading.Thread(target=print, args=('x',))\nt.start()\nt.join()"
    reply = run(url, code, memory_limit_MB=16, compile_timeout=0, args=["-x"])
    assert reply["run_result"]["stdout"] == "x\n"


def test_fetch_files_is_refused_in_words(url: str) -> None:
    reply = run(url, "open('a', 'w').write('b')\nprint(1)", fetch_files=["a"])
    assert (reply["status"], reply["files"], reply["run_result"]["stdout"]) == ("Success", {}, "1\n")
    assert reply["message"] == "fetch_files is not supported: print what you want back"


def test_another_language(url: str) -> None:
    reply = run(url, "echo 1", language="bash")
    assert (reply["status"], reply["run_result"]) == ("Failed", None)
    assert reply["message"] == "language must be \"python\" here, got 'bash'"


def test_ping(url: str) -> None:
    assert httpx.get(f"{url}/v1/ping").json() == "pong"


# Requests that are refused


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "code: Field required"),
        ({"code": 1}, "code: Input should be a valid string"),
        ({"run_timeout": 0}, "run_timeout: Input should be greater than 0"),
        ({"run_timeout": 31}, "run_timeout must be at most 30 s here, got 31"),
        ({"files": {"a": "%"}}, "files.a must be base64"),
        ({"files": {"../a": "QQ=="}}, "must be relative and stay in the directory"),
        ({"sod": {"directory": "d", "echo_last_expression": True}}, "sod.directory must hold code and stdin"),
        ({"sod": {"directory": "d"}}, "sod.echo_last_expression: Field required"),
    ],
)
def test_a_request_that_is_not_what_it_must_be(url: str, body: dict[str, Any], detail: str) -> None:
    response = post(url, {"code": "1", "language": "python"} | body if body else body)
    assert response.status_code == 422
    assert detail in response.json()["detail"]


def test_a_request_that_is_no_json(url: str) -> None:
    for content in (b"{", b"", b"\xff", b"[" * 100_000, b"7"):
        response = httpx.post(f"{url}/run_code", content=content, headers={"Content-Type": "application/json"})
        assert response.status_code == 422, content
        assert response.json()["detail"].startswith("the body: ")


def test_a_page_in_a_browser_cannot_send_code(url: str) -> None:
    """A form can have this type, and no other that carries JSON."""
    response = httpx.post(f"{url}/run_code", content=b'{"code": "1"}', headers={"Content-Type": "text/plain"})
    assert response.status_code == 415


def test_a_request_that_is_too_long(url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"code": "'
        for _ in range(10):
            yield b"x" * 100_000

    assert post(url, {"code": "x" * MAX_BODY_BYTES}).status_code == 413
    response = httpx.post(f"{url}/run_code", content=chunks(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert response.json()["detail"] == f"a request must have at most {MAX_BODY_BYTES} bytes"


# Token and address


def test_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOD_SANDBOX_TOKEN", "open-sesame")
    result = ExecutionResult(status="ok", stdout="1\n", stderr="")

    async def main() -> list[int]:
        async with serving(ScriptedSandbox([result] * 9)) as url, httpx.AsyncClient() as client:
            body = {"code": "print(1)", "language": "python"}
            wrong = [None, "", "Bearer", "Bearer open-sesam", "Bearer open-sesame2", "open-sesame"]
            tokens = [*wrong, "Bearer open-sesame"]
            headers = [{"Authorization": token} if token is not None else {} for token in tokens]
            responses = [await client.post(f"{url}/run_code", json=body, headers=header) for header in headers]
            assert "sesame" not in "".join(response.text for response in responses)
            assert responses[0].headers["WWW-Authenticate"] == "Bearer"
            async with FusionSandbox([url]) as sandbox:
                assert (await sandbox.run("print(1)")).status == "ok"
            monkeypatch.setenv("SOD_SANDBOX_TOKEN", "another")
            with pytest.raises(SandboxError, match=r"HTTP 401 .* set SOD_SANDBOX_TOKEN to the server's token"):
                await FusionSandbox([url]).start()
            return [response.status_code for response in responses]

    assert asyncio.run(main()) == [401] * 6 + [200]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "example.org", ""])
def test_an_address_that_others_reach_needs_a_token(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOD_SANDBOX_TOKEN", raising=False)
    with pytest.raises(SandboxError, match=r"needs a token, got none for .*; set SOD_SANDBOX_TOKEN .* or bind 127"):
        asyncio.run(serve(ScriptedSandbox([]), host=host, port=0))


def test_loopback() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "localhost.evil.org", "")] == [False] * 4


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=f"must listen on 127.0.0.1, port {port}, got: .*choose another port"):
            asyncio.run(serve(ScriptedSandbox([]), port=port))
    with pytest.raises(SandboxError, match="port 99999"):
        asyncio.run(serve(ScriptedSandbox([]), port=99_999))


def test_without_the_extra() -> None:
    code = (
        "import asyncio, sys\nsys.modules[sys.argv[1]] = None\n"
        "from sod.sandbox.serve import serve\nasyncio.run(serve(None, port=0))"
    )
    for name in ("starlette", "uvicorn"):
        done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
        assert f"needs {name}" in done.stderr.splitlines()[-1]
        assert 'pip install "sod-distill[serve]"' in done.stderr.splitlines()[-1]
        assert done.stdout == ""


# Failures of the sandbox, callers that leave, the end


def test_a_failure_of_the_sandbox_is_told_as_one() -> None:
    async def main() -> Any:
        failed = ExecutionResult(status="sandbox_error", stdout="", stderr="", detail="no fork")
        app = application(ScriptedSandbox([failed]))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
            return (await client.post("/run_code", json={"code": "1", "language": "python"})).json()

    reply = asyncio.run(main())
    assert (reply["status"], reply["message"]) == ("SandboxError", "no fork")
    assert (reply["run_result"]["status"], reply["run_result"]["return_code"]) == ("Error", None)


def test_a_caller_that_hangs_up_ends_its_run() -> None:
    """With one place in the sandbox, the next call has to wait for the end of the first."""

    async def main() -> float:
        sandbox = LocalSandbox(workers=1, concurrent_per_worker=1, memory_mb=256)
        async with sandbox, serving(sandbox) as url, FusionSandbox([url]) as fusion:
            call = asyncio.create_task(fusion.run("while True: pass", timeout_s=100.0))
            await asyncio.sleep(0.5)  # so that it runs; the test holds without
            call.cancel()
            await asyncio.wait({call})
            assert call.cancelled()
            started = time.monotonic()
            assert (await fusion.run("print(1)")).stdout == "1\n"
            return time.monotonic() - started

    assert asyncio.run(main()) < 30


def test_a_signal_ends_the_server_and_a_request_under_way() -> None:
    code = (
        "import asyncio\nfrom sod.sandbox import LocalSandbox\nfrom sod.sandbox.serve import serve\n"
        "async def main():\n    async with LocalSandbox(workers=1, memory_mb=256) as sandbox:\n"
        "        await serve(sandbox, port=0, announce=lambda url: print(url, flush=True))\nasyncio.run(main())"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert run(url, "print(1)")["status"] == "Success"
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/v1/ping")


# Clients

CODES = [
    "x = 2\nx + 1  # a note",
    "1 / 0",
    "import sys\nprint(input())\nsys.exit(3)",
    "'\ud800'",
    "x = [0] * 10**9",
    "open('f', 'wb').write(bytes(5 << 20))",
    "import sys\nsys.stderr.write('e' * 70_000)\nprint('a' * 100_000)",
    "import os\nprint(sorted(os.listdir()), open('a/b', 'rb').read())",
    "import ctypes\nctypes.string_at(0)",
    "import numpy as np\nnp.arange(3) @ np.arange(3)",
]


def test_fusion_sandbox_finds_here_what_the_local_sandbox_finds(url: str) -> None:
    async def main() -> None:
        async with local_sandbox() as local, FusionSandbox([url]) as fusion:
            for code in CODES:
                keywords: Any = {"stdin": "in\n", "files": {"a/b": b"\xff"}, "echo_last_expression": True}
                assert told(await fusion.run(code, **keywords)) == told(await local.run(code, **keywords)), code

    asyncio.run(main())


def told(result: ExecutionResult) -> tuple[Any, ...]:
    ended = (result.status, result.exit_code, result.signal)
    return (*ended, result.stdout, result.stderr, result.stdout_truncated, result.stderr_truncated)


def test_fusion_sandbox_finds_limits_of_time_and_output(url: str) -> None:
    async def main() -> None:
        async with FusionSandbox([url]) as fusion:
            late = await fusion.run("print('before')\nwhile True: pass", timeout_s=0.5)
            assert (late.status, late.stdout, late.exit_code) == ("timeout", "before\n", None)
            loud = await fusion.run("while True: print('x' * 1_000_000)")
            assert (loud.status, loud.stdout_truncated) == ("output_limit", True)
            assert loud.stdout.startswith("xxx")

    asyncio.run(main())


def test_many_fusion_calls_at_a_time(url: str) -> None:
    async def main() -> list[str]:
        async with FusionSandbox([url]) as fusion:
            results = await asyncio.gather(*(fusion.run(f"print({number})") for number in range(40)))
        return [result.stdout for result in results]

    assert asyncio.run(main()) == [f"{number}\n" for number in range(40)]


def test_the_official_client(url: str) -> None:
    client = pytest.importorskip("sandbox_fusion", reason="needs SandboxFusion's client: pip install sandbox-fusion")
    fine = client.RunCodeRequest(code="print(input())", language="python", stdin="x\n", files={"a": "QQ=="})
    reply = client.run_code(fine, endpoint=url, max_attempts=1)
    assert (reply.status, reply.run_result.stdout, reply.run_result.return_code) == ("Success", "x\n", 0)
    late = client.RunCodeRequest(code="while True: pass", language="python", run_timeout=0.5)
    reply = client.run_code(late, endpoint=url, max_attempts=1)
    assert (reply.status, reply.run_result.status) == ("Failed", "TimeLimitExceeded")
    mapping = client.SummaryMapping(RunTimeout="late", RunFailed="failed")
    assert client.summary_run_code_result(reply, mapping) == "late"
    wrong = client.RunCodeRequest(code="1 / 0", language="python")
    reply = asyncio.run(client.run_code_async(wrong, endpoint=url, max_attempts=1))
    assert client.summary_run_code_result(reply, mapping) == "failed"
    assert "ZeroDivisionError" in reply.run_result.stderr

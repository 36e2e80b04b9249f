"""FusionSandbox against a server with SandboxFusion's defects (faulty_fusion.py), which really runs the code."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

import faulty_fusion
from faulty_fusion import FaultyFusion, response, sandbox_error
from faulty_server import Answer, hangs, hangs_up, never_ends, reply, says, until
from sod.errors import SandboxError
from sod.sandbox import ExecutionResult
from sod.sandbox.fusion import FusionSandbox, base_urls
from sod.sandbox.fusion_exchange import Limits, Request, read_result
from sod.sandbox.fusion_loader import head_and_tail
from sod.sandbox.local import LocalSandbox
from sod.transport import ReplyError

T = TypeVar("T")


def with_server(use: Callable[[FaultyFusion, FusionSandbox], Awaitable[T]], **settings: Any) -> T:
    """What `use(server, sandbox)` returns, with a server and a started sandbox on it."""

    async def main() -> T:
        async with FaultyFusion() as server, FusionSandbox([server.url], **settings) as sandbox:
            return await use(server, sandbox)

    return asyncio.run(main())


def run_one(code: str, *, settings: dict[str, Any] | None = None, **keywords: Any) -> ExecutionResult:
    return with_server(lambda _, sandbox: sandbox.run(code, **keywords), **settings or {})


def on(*servers: FaultyFusion, **settings: Any) -> FusionSandbox:
    return FusionSandbox([server.url for server in servers], **settings)


async def plainly(code: str, **fields: Any) -> dict[str, Any]:
    """How the code ends on the server when it is sent as other clients do."""
    reply = await faulty_fusion.run_code({"code": code, **fields}, python=sys.executable)
    run_result: dict[str, Any] = reply["run_result"]
    return run_result


# What the code did


def test_the_defects_are_there_and_are_worked_around() -> None:
    """The same code, sent as others do and by FusionSandbox."""
    long = "print('z' * 200_000)"
    threads = "import threading\nt = threading.Thread(target=print, args=('in a thread',))\nt.start()\nt.join()"

    async def use(_: FaultyFusion, sandbox: FusionSandbox) -> None:
        stalled = await plainly(long, run_timeout=1.0)
        assert stalled["status"] == "TimeLimitExceeded"
        assert stalled["return_code"] is None
        assert 100_000 < len(stalled["stdout"]) < 200_001
        fine = await sandbox.run(long, timeout_s=5.0)
        assert (fine.status, fine.stdout_truncated) == ("ok", True)

        broken = await plainly(threads, memory_limit_MB=256)
        assert "can't start new thread" in broken["stderr"]
        fine = await sandbox.run(threads)
        assert (fine.status, fine.stdout) == ("ok", "in a thread\n")

    with_server(use, memory_mb=256)


def test_the_server_is_asked_for_nothing_that_breaks_it() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> dict[str, Any]:
        await sandbox.run("print(2)", stdin="x")
        return server.requests[-1]

    request = with_server(use)
    assert "memory_limit_MB" not in request
    assert "stdin" not in request


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import numpy as np\nprint(np.linalg.inv(np.eye(2)).sum())", "2.0\n"),
        ("import os\nprint([os.environ[f'{x}_NUM_THREADS'] for x in ('OMP', 'OPENBLAS', 'MKL')])", "['1', '1', '1']\n"),
        ("import resource as r\nprint(r.getrlimit(r.RLIMIT_STACK) == r.getrlimit(r.RLIMIT_AS))", "False\n"),
        ("import resource as r\nprint(r.getrlimit(r.RLIMIT_CORE))", "(0, 0)\n"),
        ("import os\nprint(os.listdir())", "[]\n"),
        ("import sys\nprint(__name__, sys.argv)", "__main__ ['code.py']\n"),
        ("print('é数\\ud800')", "é数?\n"),
        ("import os\nos.write(1, b'\\xff\\x00|')", "\ufffd\x00|"),
        ("import os\nos.system('echo from a shell')", "from a shell\n"),
        ("import atexit\natexit.register(print, 'bye')\nprint('x')", "x\nbye\n"),
        ("print('a\\r\\nb')\nx = '''1\n2'''", "a\r\nb\n"),
    ],
)
def test_what_code_finds_and_prints(code: str, expected: str) -> None:
    result = run_one(code)
    assert (result.status, result.stdout, result.stderr) == ("ok", expected, "")


def test_output_beyond_the_limit_keeps_head_and_tail() -> None:
    result = run_one("print('a' * 300_000 + 'END')", settings={"max_output_bytes": 1000})
    assert result.status == "ok"
    assert result.stdout == "a" * 500 + "\n[... 299004 bytes left out ...]\n" + "a" * 496 + "END\n"
    assert (result.stdout_truncated, result.stderr_truncated) == (True, False)


def test_output_of_code_that_was_killed_is_cut_here() -> None:
    result = run_one(
        "import os, sys\nsys.stderr.write('b' * 3000)\nsys.stderr.flush()\nprint('a' * 3000)\nos.kill(os.getpid(), 9)",
        settings={"max_output_bytes": 1000},
    )
    assert (result.status, result.signal, result.exit_code) == ("crashed", "SIGKILL", None)
    assert result.stdout == "a" * 500 + "\n[... 2001 bytes left out ...]\n" + "a" * 499 + "\n"
    assert (result.stdout_truncated, result.stderr_truncated) == (True, True)


def test_what_was_printed_before_the_time_limit_comes_back() -> None:
    result = run_one("print('before', end='')\nwhile True: pass", timeout_s=1.0)
    assert (result.status, result.stdout, result.exit_code) == ("timeout", "before", None)
    assert 0.9 < result.wall_s < 10


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "signal_name"),
    [
        ("import sys\nsys.exit(3)", "error", 3, None),
        ("import os\nos._exit(7)", "error", 7, None),
        ("import os\nos.kill(os.getpid(), 11)", "crashed", None, "SIGSEGV"),
        ("import os\nos.kill(os.getpid(), 35)", "crashed", None, "SIG35"),  # it has no name
        ("x = [0] * 10**9", "memory_limit", 1, None),
        ("open('f', 'wb').write(bytes(5 << 20))", "disk_limit", 1, None),
        ("while True: print('x' * 100_000)", "output_limit", 1, None),
        ("import shutil, os\nshutil.rmtree(os.path.dirname(os.getcwd()))", "ok", 0, None),
    ],
)
def test_how_code_ends(code: str, status: str, exit_code: int | None, signal_name: str | None) -> None:
    result = run_one(code, settings={"memory_mb": 256, "max_file_mb": 4})
    assert (result.status, result.exit_code, result.signal) == (status, exit_code, signal_name)
    assert (result.backend, result.isolation) == ("fusion", ("fusion",))


def test_stdin() -> None:
    assert run_one("print(input()[::-1], input())", stdin="abc\né\n").stdout == "cba é\n"
    assert "EOFError" in run_one("input()").stderr


def test_files_are_in_the_directory_and_collide_with_nothing() -> None:
    files = {"code": b"1", "stdin": b"2", "d/cell.py": b"x = 3", "stdout": b"\xff"}
    code = "from d import cell\nprint(open('code').read(), open('stdin').read(), cell.x, open('stdout', 'rb').read())"
    result = run_one(code, files=files)
    assert (result.stdout, result.stderr) == ("1 2 3 b'\\xff'\n", "")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        *[([name], "must be relative and stay in the directory") for name in ("/etc/passwd", "../x", "a/../../x", "")],
        (["a\0b"], "must be relative and stay in the directory"),
        (["\ud800"], "must be text of at most 1024 bytes"),
        (["a" * 256], "255 a part"),
        (["a", "a/b"], "must be the directory of another"),
    ],
)
def test_names_that_no_file_can_have_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run_one("1", files=dict.fromkeys(names, b""))


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, float("nan"), float("inf"), 1e6])
def test_a_time_limit_is_a_positive_number(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s must be a positive number"):
        run_one("1", timeout_s=timeout_s)


SAME_AS_LOCAL = [
    "x = 2\nx + 1  # a note",
    "x = 1\n1 / 0",
    "def f():\n    raise KeyError('a')\n\ntry:\n    f()\nexcept KeyError as error:\n    raise ValueError from error",
    "import json\njson.loads('{')",
    "x = (",
    "'\\ud800'",
    "'\ud800'",
    "import sys\nsys.exit('why')",
    "import warnings\nwarnings.warn('careful')\nprint(1)",
    "(" * 300,
    "class E(Exception):\n    def __str__(self): raise E\nraise E",
    "print(1)\r\nprint(2)\r\n",
    "",
]


def test_everything_looks_as_in_the_local_sandbox() -> None:
    async def main() -> None:
        async with FaultyFusion() as server, FusionSandbox([server.url]) as sandbox, LocalSandbox(workers=1) as local:
            for code in SAME_AS_LOCAL:
                there = await sandbox.run(code, echo_last_expression=True)
                here = await local.run(code, echo_last_expression=True)
                assert outcome(there) == outcome(here), code

    asyncio.run(main())


def outcome(result: ExecutionResult) -> tuple[str, int | None, str, str]:
    return result.status, result.exit_code, result.stdout, result.stderr


def test_many_calls_at_a_time_are_not_mixed_up() -> None:
    async def use(_: FaultyFusion, sandbox: FusionSandbox) -> list[ExecutionResult]:
        return await asyncio.gather(*(sandbox.run(f"print({number})") for number in range(12)))

    results = with_server(use, max_concurrent=4)
    assert [result.stdout for result in results] == [f"{number}\n" for number in range(12)]
    assert results[-1].queue_s > results[0].queue_s


@pytest.mark.parametrize(
    ("content", "limit", "kept"),
    [
        (b"", 4, (b"", False)),
        (b"abcd", 4, (b"abcd", False)),
        (b"abcdefgh", 4, (b"ab\n[... 4 bytes left out ...]\ngh", True)),
        (b"abcdefgh", 5, (b"abc\n[... 3 bytes left out ...]\ngh", True)),
        (b"ab", 1, (b"a\n[... 1 bytes left out ...]\n", True)),
        (b"ab", 0, (b"\n[... 2 bytes left out ...]\n", True)),
    ],
)
def test_head_and_tail(content: bytes, limit: int, kept: tuple[bytes, bool]) -> None:
    assert head_and_tail(io.BytesIO(content), limit) == kept


# What the server did


@pytest.mark.parametrize(
    "failure",
    [
        says(b"oops", status="500 Internal Server Error"),
        says(b"", status="504 Gateway Timeout"),
        says(b"", status="429 Too Many Requests"),
        says(b"<html>"),
        says(b'{"status": '),
        says(b"[" * 100_000),
        says({"status": "Success"}),
        says([1]),
        sandbox_error(),
        hangs_up,
    ],
)
def test_a_failure_of_the_server_is_tried_again(failure: Answer) -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> tuple[ExecutionResult, int]:
        server.script = [failure, failure]
        return await sandbox.run("print(5)"), server.num_calls

    result, num_calls = with_server(use)
    assert (result.status, result.stdout, num_calls) == ("ok", "5\n", 3)
    assert result.detail.count("http://127.0.0.1") == 2


def test_after_three_retries_it_is_a_sandbox_error() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> tuple[ExecutionResult, int]:
        server.script = [sandbox_error("no fork")] * 9
        return await sandbox.run("print(5)"), server.num_calls

    result, num_calls = with_server(use)
    assert (result.status, result.stdout, num_calls) == ("sandbox_error", "", 4)
    assert result.detail.count("'SandboxError': 'no fork'") == 4


@pytest.mark.parametrize(
    "code", ["1 / 0", "import os\nos.kill(os.getpid(), 9)", "while True: pass", "x = [0] * 10**9", "x ="]
)
def test_what_the_code_did_is_never_tried_again(code: str) -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> tuple[ExecutionResult, int]:
        return await sandbox.run(code, timeout_s=0.5 if "while" in code else 10.0), server.num_calls

    result, num_calls = with_server(use)
    assert num_calls == 1
    assert result.status not in ("ok", "sandbox_error")


def test_a_request_that_a_server_refuses_is_not_sent_again() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> tuple[ExecutionResult, int]:
        server.script = [says({"detail": "no token"}, status="401 Unauthorized")]
        return await sandbox.run("print(5)"), server.num_calls

    result, num_calls = with_server(use)
    assert (result.status, num_calls) == ("sandbox_error", 1)
    assert "HTTP 401" in result.detail
    assert "set SOD_SANDBOX_TOKEN" in result.detail


def test_a_server_that_does_not_answer_is_left_after_the_allowance() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> ExecutionResult:
        server.script = [hangs]
        return await sandbox.run("print(5)", timeout_s=0.3)

    result = with_server(use, queue_allowance_s=0.2)
    assert (result.status, result.stdout) == ("ok", "5\n")
    assert "no answer within 0.5 s" in result.detail
    assert result.queue_s > 0.5


FINISHED = {"status": "Finished", "execution_time": 0.1, "return_code": 0, "stdout": "", "stderr": ""}


@pytest.mark.parametrize(
    "told",
    [
        response("Success", run_result=None),
        response("Success", run_result="Finished"),
        response("Fine", run_result=FINISHED),
        response("Success", run_result=FINISHED | {"status": "Error"}),
        response("Success", run_result=FINISHED | {"return_code": None}),
        response("Success", run_result=FINISHED | {"return_code": True}),
        response("Success", run_result=FINISHED | {"return_code": "0"}),
        response("Success", run_result=FINISHED | {"return_code": 10**300}),
        response("Success", run_result=FINISHED, files=[1]),
        response("Success", run_result=FINISHED, files={"stdout": "no base64!"}),
        response("Success", run_result=FINISHED, files={"stdout": ["QQ=="]}),
        response("Failed", run_result=FINISHED | {"return_code": 1, "stderr": "the loader's own traceback"}),
        {"status": ["Success"]},
        {"status": "SandboxError", "message": {"a": [1]}},
        None,
    ],
)
def test_a_reply_that_is_not_what_it_must_be_is_a_failure_of_the_server(told: Any) -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> ExecutionResult:
        async def answer(writer: asyncio.StreamWriter) -> None:
            files = told.get("files") if isinstance(told, dict) else None
            directory = server.requests[-1]["sod"]["directory"]
            named = {f"{directory}/{name}": it for name, it in files.items()} if isinstance(files, dict) else files
            await reply(writer, told | {"files": named} if files else told)

        server.script = [answer]
        return await sandbox.run("print(5)")

    result = with_server(use, max_retries=0)
    assert (result.status, result.stdout, result.stderr) == ("sandbox_error", "", "")
    assert result.detail.startswith("http://127.0.0.1:")
    assert len(result.detail) < 700


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
FILE = st.sampled_from(["QQ==", "", "%", "e30=", "W10="]) | ANYTHING
RUN_RESULT = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["Finished", "TimeLimitExceeded"]) | ANYTHING,
        "return_code": st.sampled_from([0, 1, 251, 252, -9, -64]) | ANYTHING,
        "execution_time": st.just(0.5) | ANYTHING,
        "stderr": ANYTHING,
    }
)
REPLY = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["Success", "Failed", "SandboxError"]) | ANYTHING,
        "message": ANYTHING,
        "run_result": RUN_RESULT | ANYTHING,
        "files": st.fixed_dictionaries({}, optional={f"d/{name}": FILE for name in ("stdout", "stderr", "report")})
        | ANYTHING,
    }
)


@given(reply=REPLY | ANYTHING)
def test_whatever_a_reply_is_it_is_a_result_or_a_failure_of_the_server(reply: Any) -> None:
    request = Request(body=b"", directory="d", timeout_s=1.0)
    limits = Limits(memory_mb=1, max_file_mb=1, max_output_bytes=10)
    try:
        result = read_result(json.loads(json.dumps(reply)), request=request, elapsed_s=1.0, limits=limits)
    except ReplyError:
        return
    assert type(result.stdout) is type(result.stderr) is str
    assert result.status in ("ok", "error", "timeout", "memory_limit", "disk_limit", "output_limit", "crashed")
    assert 0 <= result.wall_s <= 1.0
    assert type(result.stdout_truncated) is bool


@pytest.mark.parametrize("execution_time", ["1", None, -1, True, 10**300, 1e9])
def test_a_time_that_cannot_be_is_measured_here(execution_time: Any) -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> ExecutionResult:
        server.script = [says(response("Success", run_result=FINISHED | {"execution_time": execution_time}))]
        return await sandbox.run("print(5)")

    result = with_server(use)
    assert result.status == "ok"
    assert 0 < result.wall_s < 20
    assert result.detail == "no output came back"


def test_a_reply_without_end_is_left_at_the_limit() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> tuple[ExecutionResult, int]:
        server.script = [never_ends]
        return await sandbox.run("print(5)"), server.num_calls

    result, num_calls = with_server(use, max_reply_bytes=1 << 20)
    assert (result.status, result.stdout, num_calls) == ("output_limit", "", 1)
    assert "a reply of over 1048576 bytes" in result.detail


def test_an_error_without_end_is_quoted_shortly() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> ExecutionResult:
        server.script = [says(b"x" * 50_000_000, status="500 Internal Server Error")]
        return await sandbox.run("print(5)")

    result = with_server(use)
    assert result.status == "ok"
    assert len(result.detail) < 500


def test_lies_about_the_output_change_no_verdict() -> None:
    """The code writes the loader's report itself and leaves without it."""
    told = json.dumps({"stdout_truncated": "yes", "stderr_truncated": True, "output_limit": 1})
    for content in (told, "[" * 10_000, "{", "7"):
        code = f"import os\nopen('../report', 'w').write({content!r})\nprint('x')\nos._exit(4)"
        result = run_one(code)
        assert (result.status, result.exit_code, result.stdout, result.stdout_truncated) == ("error", 4, "x\n", False)


# Several servers


def test_a_server_that_fails_is_left_out_until_it_works_again(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with (
            FaultyFusion() as bad,
            FaultyFusion() as good,
            FusionSandbox([bad.url, good.url], ejection_s=0.2) as sandbox,
        ):
            bad.broken = says(b"", status="503 Service Unavailable")
            before = bad.num_calls
            results = [await sandbox.run(f"print({number})") for number in range(6)]
            assert [result.status for result in results] == ["ok"] * 6
            assert bad.num_calls == before + 1  # once, then it was left out
            assert f"{bad.url} left out until it runs print(1) again: HTTP 503" in caplog.text
            num_probes = len(bad.requests)
            await until(lambda: len(bad.requests) > num_probes)
            await sandbox.run("print(7)")
            assert bad.num_calls == before + 1  # a failed probe does not let it back
            bad.broken = None
            await until(lambda: f"{bad.url} is back" in caplog.text)
            await asyncio.gather(*(sandbox.run(f"print({number})") for number in range(4)))
            assert bad.num_calls == before + 3

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())


def test_a_server_that_went_away_and_came_back() -> None:
    async def main() -> None:
        async with FaultyFusion() as first, FaultyFusion() as second:
            port = int(first.url.rpartition(":")[2])
            async with FusionSandbox([first.url, second.url], ejection_s=0.2) as sandbox:
                await first.aclose()
                results = [await sandbox.run("print(5)") for _ in range(3)]
                assert [result.stdout for result in results] == ["5\n"] * 3
                assert second.num_calls == 3
                await first.listen(port)
                num_probes = len(first.requests)
                await until(lambda: len(first.requests) > num_probes)
                await until(lambda: not any(server.ejected for server in sandbox._servers))
                await asyncio.gather(*(sandbox.run("print(6)") for _ in range(2)))
                assert first.num_calls == 1

    asyncio.run(main())


def test_the_least_busy_server_is_taken_in_turn() -> None:
    async def main() -> tuple[int, int]:
        async with FaultyFusion() as first, FaultyFusion() as second, on(first, second) as sandbox:
            first.script = [hangs]
            slow = asyncio.create_task(sandbox.run("print(0)"))
            await until(lambda: first.num_calls + second.num_calls == 1)
            await sandbox.run("print(1 + 0)")
            await sandbox.run("print(2)")  # while the first is busy
            busy = first.num_calls
            slow.cancel()
            await asyncio.wait({slow})
            for number in range(4):
                await sandbox.run(f"print({number + 3})")
            return busy, first.num_calls

    assert asyncio.run(main()) == (1, 3)


# Start and end


@pytest.mark.parametrize(
    "urls",
    [
        [],
        "",
        [""],
        ["  "],
        ["10.0.0.5:8080"],
        ["ftp://10.0.0.5"],
        ["http://"],
        ["http://<host>:8080"],
        ["http://your-server:8080"],
        ["https://xxxxx.apigateway-cn-beijing.volceapi.com/run_code"],
        ["http://example.com/run_code"],
        ["http://10.0.0.5:8080", "http://{ip}:8080"],
        ["http://10.0.0.5:port"],
        ["http://10.0.0.5:8080/?a=b"],
        [None],
    ],
)
def test_urls_that_cannot_be_meant_are_refused(urls: Any) -> None:
    with pytest.raises(SandboxError, match=r"http://10\.0\.0\.5:8080"):
        FusionSandbox(urls)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(SandboxError, match="put the key into SOD_SANDBOX_TOKEN") as caught:
        FusionSandbox(["http://me:sesame@10.0.0.5:8080"])
    assert "sesame" not in str(caught.value)


def test_base_urls() -> None:
    assert base_urls(["http://a:1/run_code/", "http://a:1", " https://b/x "]) == ["http://a:1", "https://b/x"]
    assert base_urls("http://localhost:8080") == ["http://localhost:8080"]
    assert base_urls(["http://[::1]:8080", "http://my-host.lan/a"]) == ["http://[::1]:8080", "http://my-host.lan/a"]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (says(response("Success", run_result=FINISHED)), "print.1. ended as ok with ''"),
        (says(b"", status="404 Not Found"), "must be the base URL"),
        (sandbox_error("no python"), "no python"),
        (never_ends, "a reply of over 1000000 bytes"),
    ],
)
def test_a_server_that_does_not_run_print_is_refused_at_the_start(failure: Answer, reason: str) -> None:
    async def main() -> None:
        async with FaultyFusion() as server:
            server.broken = failure
            sandbox = FusionSandbox([server.url], max_reply_bytes=1_000_000)
            with pytest.raises(
                SandboxError, match=f"must run print.1., got: {server.url}: .*{reason}.*sod sandbox serve"
            ):
                await sandbox.start()
            with pytest.raises(SandboxError):  # and again, by itself
                await sandbox.run("print(2)")
            server.broken = None
            assert (await sandbox.run("print(2)")).status == "ok"
            await sandbox.aclose()

    asyncio.run(main())


def test_a_server_whose_python_cannot_run_the_loader_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no module named json' >&2\nexit 1\n")
    broken.chmod(0o755)

    async def main() -> None:
        async with FaultyFusion(python=str(broken)) as server:
            await FusionSandbox([server.url]).start()

    with pytest.raises(SandboxError, match="the loader failed: 'no module named json"):
        asyncio.run(main())


def test_nobody_listens() -> None:
    async def main() -> None:
        async with FaultyFusion() as server:
            pass
        with pytest.raises(SandboxError, match=r"got: http://127\.0\.0\.1:\d+: ConnectError"):
            await FusionSandbox([server.url]).start()

    asyncio.run(main())


def test_one_server_of_two_is_enough_to_start(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with FaultyFusion() as server, FaultyFusion() as other:
            other.broken = hangs_up
            async with FusionSandbox([server.url, other.url]) as sandbox:
                results = [await sandbox.run("print(2)") for _ in range(2)]
            assert [result.stdout for result in results] == ["2\n"] * 2
            assert other.num_calls == 0
            assert other.url in caplog.text

    asyncio.run(main())


def test_a_cancelled_caller_hangs_up() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> None:
        server.script = [hangs]
        call = asyncio.create_task(sandbox.run("print(2)"))
        await until(lambda: server.num_calls == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: server.num_hung_up == 1)
        assert (await sandbox.run("print(3)")).stdout == "3\n"
        assert server.num_calls == 2

    with_server(use)


def test_closing_ends_calls_as_cancelled() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> None:
        server.script = [hangs, hangs]
        calls = [asyncio.create_task(sandbox.run("print(2)")) for _ in range(3)]
        await until(lambda: server.num_calls == 2)
        await sandbox.aclose()
        async with asyncio.timeout(5):
            results = await asyncio.gather(*calls)
        assert [result.status for result in results] == ["cancelled"] * 3
        assert (await sandbox.run("print(3)")).status == "cancelled"

    with_server(use, max_concurrent=2)


def test_the_token_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SOD_SANDBOX_TOKEN", "open-sesame\n")

    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> None:
        assert server.headers["authorization"] == "Bearer open-sesame"
        quoted = f"{'x' * 200} bad token {'open-sesame'} {'y' * 290}"
        server.script = [sandbox_error(quoted), says({"error": quoted}, status="502 Bad Gateway"), sandbox_error()] * 2
        result = await sandbox.run("print(2)")
        assert "sesame" not in repr(sandbox) + repr(result) + caplog.text
        assert "sesame" not in json.dumps(server.requests)

    with caplog.at_level(logging.DEBUG):
        with_server(use)


def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOD_SANDBOX_TOKEN", "sesämé\r\nX: y")
    with pytest.raises(SandboxError, match="SOD_SANDBOX_TOKEN must be visible ASCII") as caught:
        FusionSandbox(["http://10.0.0.5"])
    assert "ses" not in str(caught.value)


def test_the_sandbox_package_stays_light() -> None:
    code = "import sys, sod.sandbox.fusion; print({'httpx', 'starlette', 'uvicorn', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_reply_as_long_as_the_limit_is_taken_whole() -> None:
    """Output of code that was killed comes back uncut, so the reply is as long as it."""

    async def use(_: FaultyFusion, sandbox: FusionSandbox) -> list[str]:
        codes = [f"import os\nprint('x' * {size})\nos._exit(0)" for size in (100_000, 400_000)]
        return [(await sandbox.run(code)).status for code in codes]

    assert with_server(use, max_reply_bytes=400_000) == ["ok", "output_limit"]


def test_the_client_waits_for_nothing_but_the_call() -> None:
    """One call through everything costs little more than the server's process."""

    async def use(_: FaultyFusion, sandbox: FusionSandbox) -> float:
        started = time.monotonic()
        result = await sandbox.run("print(1)")
        assert result.status == "ok"
        return time.monotonic() - started - result.wall_s

    assert with_server(use) < 1.0


def test_what_a_server_says_is_base64_of_what_the_code_said() -> None:
    async def use(server: FaultyFusion, sandbox: FusionSandbox) -> ExecutionResult:
        async def answer(writer: asyncio.StreamWriter) -> None:
            directory = server.requests[-1]["sod"]["directory"]
            files = {f"{directory}/stdout": base64.b64encode(b"hello \xff").decode(), "else": 7}
            await reply(writer, response("Success", run_result=FINISHED, files=files))

        server.script = [answer]
        return await sandbox.run("print(5)")

    result = with_server(use)
    assert (result.status, result.stdout) == ("ok", "hello \ufffd")

"""The local sandbox with real processes: what each run is called, that nothing leaks in and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sod.errors import SandboxError
from sod.sandbox import ExecutionResult, LocalSandbox
from sod.sandbox import channel as channel_module
from sod.sandbox import local as local_module
from sod.sandbox.scripted import ScriptedSandbox

Run = Callable[..., ExecutionResult]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """`run(code, **keywords)` in one sandbox for the whole file."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=1, memory_mb=256, disk_mb=4)
        yield lambda code, **keywords: runner.run(sandbox.run(code, **keywords))
        runner.run(sandbox.aclose())


def processes_below(pid: int) -> set[int]:
    """All living descendants of a process."""
    parent_of = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parent_of[int(entry.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parent_of.items() if parent in found | {pid}} - found:
        found |= more
    return found


def running_with(text: str) -> list[int]:
    """Processes whose command line holds `text`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if text.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def directories() -> set[Path]:
    """What sandboxes have made in the directory for temporary files."""
    return set(Path(tempfile.gettempdir()).glob("sod-sandbox-*"))


async def until(condition: Callable[[], bool], *, timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    return condition()


# How runs are called


def test_ok(run: Run) -> None:
    result = run("print(1 + 2)")
    assert (result.status, result.stdout, result.stderr, result.exit_code) == ("ok", "3\n", "", 0)
    assert result.backend == "local"
    assert "rlimits" in result.isolation
    assert result.wall_s > 0
    assert result.cpu_s is not None
    assert result.max_rss_mb is not None


def test_an_exception_is_an_error_with_a_short_traceback(run: Run) -> None:
    result = run("def f(x):\n    return 1 / x\n\nprint('before')\nf(0)\n")
    assert (result.status, result.exit_code, result.stdout) == ("error", 1, "before\n")
    assert result.stderr == (
        "Traceback (most recent call last):\n"
        '  File "<code>", line 5, in <module>\n'
        "    f(0)\n"
        '  File "<code>", line 2, in f\n'
        "    return 1 / x\n"
        "           ~~^~~\n"
        "ZeroDivisionError: division by zero\n"
    )


def test_frames_of_libraries_are_left_out_but_for_the_last(run: Run) -> None:
    stderr = run("import json\njson.loads('{')").stderr
    assert stderr.count("  File ") == 2
    assert 'File "<code>", line 2' in stderr
    assert "JSONDecodeError" in stderr
    assert "worker.py" not in stderr
    assert "cell.py" not in stderr


def test_a_chained_exception_shows_both(run: Run) -> None:
    stderr = run("try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('b') from e").stderr
    assert "KeyError: 'a'" in stderr
    assert "ValueError: b" in stderr
    assert "sod/sandbox" not in stderr


@pytest.mark.parametrize(
    ("code", "line"),
    [("x = 1\ny = = 2\n", 2), ("\n\nif True:\nprint(1)", 4), ("  x = 1", 1), ("for i in range(3):\n  print(i)\n x", 3)],
)
@pytest.mark.parametrize("echo", [False, True])
def test_a_syntax_error_names_its_line(run: Run, code: str, line: int, echo: bool) -> None:
    result = run(code, echo_last_expression=echo)
    assert (result.status, result.exit_code) == ("error", 1)
    assert f'File "<code>", line {line}\n' in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "code", ["x = 1\0", "'\ud800'", "(" * 5000, "-" * 100_000 + "1", "return 1", "await x", "", "# only a comment"]
)
def test_strange_source_is_never_more_than_an_error(run: Run, code: str) -> None:
    result = run(code, echo_last_expression=True)
    assert result.status == ("ok" if code in ("", "# only a comment") else "error")
    assert bool(result.stderr) == (result.status == "error")


@pytest.mark.parametrize(
    ("code", "exit_code", "stderr"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('bye')", 1, "bye\n"),
        ("import sys; sys.exit()", 0, ""),
        ("raise SystemExit(True)", 1, ""),
        ("import os; os._exit(4)", 4, ""),
        ("raise KeyboardInterrupt", 1, None),
        ("import sys; sys.stderr.close(); 1 / 0", 1, ""),
    ],
)
def test_exit_codes(run: Run, code: str, exit_code: int, stderr: str | None) -> None:
    result = run(code)
    assert (result.status, result.exit_code) == ("error" if exit_code else "ok", exit_code)
    assert stderr is None or result.stderr == stderr


@pytest.mark.parametrize(
    "code",
    [
        "print('partial')\nwhile True: pass",
        "import time\nprint('partial')\ntime.sleep(30)",
        "print('partial')\nsum(range(10**12))",
        "import signal, time\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: "
        "pass\nprint('partial')\nwhile True: time.sleep(1)",
        "import os, time\nprint('partial')\nos.closerange(0, 256)\ntime.sleep(9)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(30,)).start()\nprint('partial')",
    ],
)
def test_a_time_out_keeps_partial_output(run: Run, code: str) -> None:
    result = run(code, timeout_s=0.4)
    assert (result.status, result.stdout) == ("timeout", "partial\n")
    assert (result.exit_code, result.signal) == (None, "SIGKILL")
    assert 0.4 <= result.wall_s < 2.0


def test_a_kill_of_its_own_making_is_a_crash(run: Run) -> None:
    result = run("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\nwhile True: pass", timeout_s=5)
    assert (result.status, result.signal) == ("crashed", "SIGKILL")


@pytest.mark.parametrize(
    "code",
    [
        "x = bytearray(600 << 20)",
        "x = []\nwhile True: x.append(' ' * (1 << 20))",
        "import numpy as np\nx = np.ones(100_000_000)",
        "def f():\n    return [0] * (1 << 30)\nf()",
    ],
)
def test_memory_limit(run: Run, code: str) -> None:
    result = run(code)
    assert (result.status, result.exit_code) == ("memory_limit", 1)
    assert "MemoryError" in result.stderr


def test_memory_below_the_limit_is_there_with_preloaded_packages_too(run: Run) -> None:
    assert run("import numpy as np\nprint(np.ones(200 << 17).nbytes >> 20)").stdout == "200\n"


def test_output_limit(run: Run) -> None:
    stubborn = "import os\nwhile True:\n    try: os.write(1, b'x' * 1_000_000)\n    except OSError: pass"
    for code, ended_by in (("while True: print('x' * 1_000_000)", None), (stubborn, "SIGKILL")):
        result = run(code)
        assert (result.status, result.signal) == ("output_limit", ended_by)
        assert result.stdout_truncated
        assert len(result.stdout) < 70_000


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGFPE"])
def test_a_crash_names_its_signal(run: Run, name: str) -> None:
    code = {
        "SIGSEGV": "import ctypes\nprint('partial')\nctypes.string_at(0)",
        "SIGABRT": "import os\nprint('partial')\nos.abort()",
        "SIGFPE": "import os, signal\nprint('partial')\nos.kill(os.getpid(), signal.SIGFPE)",
    }[name]
    result = run(code)
    if name == "SIGFPE" and "pidns" in result.isolation:
        assert result.status == "ok"  # the first process of a pid namespace does not get default signals from itself
        return
    assert (result.status, result.stdout) == ("crashed", "partial\n")
    assert result.exit_code is None
    assert result.signal in (name, "SIGSEGV")  # abort() of the first process of a pid namespace ends in SIGSEGV


def test_a_limited_file(run: Run) -> None:
    result = run("open('small', 'wb').write(b'x' * (3 << 20)); print('ok'); open('big', 'wb').write(b'x' * (9 << 20))")
    assert (result.status, result.exit_code, result.stdout) == ("disk_limit", 1, "ok\n")
    assert "No space left on device" in result.stderr or "File too large" in result.stderr


# Output


def test_300_kilobytes_of_output_keep_head_and_tail(run: Run) -> None:
    result = run("for i in range(50_000): print(f'{i:05d}')")
    assert (result.status, result.stdout_truncated, result.stderr_truncated) == ("ok", True, False)
    assert result.stdout.startswith("00000\n00001\n")
    assert result.stdout.endswith("49998\n49999\n")
    assert "[... 234464 bytes left out ...]" in result.stdout
    assert 65536 <= len(result.stdout) < 65536 + 100


@pytest.mark.parametrize("size", [65535, 65536, 65537])
def test_truncation_starts_exactly_at_the_limit(run: Run, size: int) -> None:
    result = run(f"import os; os.write(1, b'x' * {size})")
    assert result.stdout_truncated == (size > 65536)
    assert result.stdout.count("x") == min(size, 65536)


def test_bytes_that_are_no_text(run: Run) -> None:
    code = "import os; os.write(1, b'a\\xff\\x00b\\n'); print('\\ud800é', '数'); os.write(2, b'\\xfe')"
    result = run(code)
    assert (result.status, result.stdout, result.stderr) == ("ok", "a\ufffd\0b\n?é 数\n", "\ufffd")


def test_warnings_on_stderr_are_no_error(run: Run) -> None:
    result = run("import warnings; warnings.warn('careful'); print(1)")
    assert (result.status, result.stdout) == ("ok", "1\n")
    assert "careful" in result.stderr


FORGERY = """
import os
for fd in range(100):
    try: os.write(fd, b'\\0\\0\\0\\x1b{"id": 0, "status": "error"}')
    except OSError: pass
"""


@pytest.mark.parametrize(
    "code",
    [
        FORGERY,
        "import os; os.closerange(0, 256)",
        "import sys; sys.stdout.close(); sys.stdin.close()",
        "import sys; sys.stdout = sys.stderr = None",
    ],
)
def test_forging_and_closing_change_nothing(run: Run, code: str) -> None:
    assert run(code).status in ("ok", "error")
    assert run("print('still here')").stdout == "still here\n"


def test_the_signs_of_a_sandbox_failure_cannot_be_forged(run: Run) -> None:
    for code in range(256):
        if code % 16 == 1 or code > 240:
            assert run(f"import os; os._exit({code})").status in ("error", "memory_limit", "disk_limit")


def test_output_of_stray_threads_and_exit_handlers_arrives(run: Run) -> None:
    code = (
        "import atexit, threading, time\natexit.register(print, 'exit')\n"
        "threading.Thread(target=lambda: (time.sleep(.1), print('thread'))).start()\nprint('main')"
    )
    assert run(code).stdout == "main\nthread\nexit\n"
    assert (
        run("import threading, time\nthreading.Thread(target=time.sleep, args=(30,), daemon=True).start()").wall_s < 2
    )


# What code finds


def test_it_runs_as_main_in_a_fresh_namespace_and_directory(run: Run) -> None:
    run("leaked = 1; import builtins; builtins.leaked = 2; open('leaked', 'w').close()")
    result = run("import os; print(__name__, sorted(globals()), 'leaked' in dir(__builtins__), os.listdir())")
    assert (
        result.stdout
        == "__main__ ['__builtins__', '__doc__', '__loader__', '__name__', '__package__', '__spec__', 'os'] False []\n"
    )


def test_nothing_of_the_host_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(os.environ) - set(eval(run("import os; print(list(os.environ))").stdout))
    monkeypatch.setenv("SOD_SECRET", "hunter2")

    async def fresh() -> ExecutionResult:
        async with LocalSandbox(workers=1) as sandbox:
            return await sandbox.run("import os; print(sorted(os.environ))\nprint(open('/proc/self/environ').read())")

    result = asyncio.run(fresh())
    assert result.status == "ok"
    assert "SOD_SECRET" not in result.stdout
    assert "hunter2" not in result.stdout
    names = eval(result.stdout.splitlines()[0])
    threads = {"MALLOC_ARENA_MAX", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert set(names) - {"LC_CTYPE"} == {*threads, "HOME", "LANG", "PATH", "PYTHONHASHSEED", "PYTHONPATH", "TMPDIR"}


def test_no_descriptor_of_the_server(run: Run) -> None:
    assert run("import os; print(sorted(int(f) for f in os.listdir('/proc/self/fd')))").stdout in (
        "[0, 1, 2, 3]\n",  # 3 is that of the listing
        "[0, 1, 2]\n",
    )


def test_stdin(run: Run) -> None:
    assert run("print(input(), [*map(int, input().split())])", stdin="é\n1 2 3\n").stdout == "é [1, 2, 3]\n"
    assert "EOFError" in run("input()").stderr
    assert run("import sys; print(len(sys.stdin.read()))", stdin="x" * 1_000_000).stdout == "1000000\n"


def test_files(run: Run) -> None:
    files = {"helper.py": b"def f(): return 41", "data/a.bin": bytes(range(256))}
    code = "import helper; print(helper.f() + len(open('data/a.bin', 'rb').read()))"
    assert run(code, files=files).stdout == "297\n"
    for name in ("/etc/x", "../x", "a/../../x", ""):
        with pytest.raises(ValueError, match="must be relative"):
            run("1", files={name: b""})
    refused: dict[str, dict[str, bytes]] = {
        "255 a part": {"x" * 256: b""},
        "must be text": {"\ud800": b""},
        "directory of another": {"a": b"", "a/b": b""},
        r"4 MiB \(disk_mb\)": {"big": bytes(5 << 20)},
        "at most 1024": {str(number): b"" for number in range(1025)},
    }
    for complaint, files in refused.items():
        with pytest.raises(ValueError, match=complaint):
            run("1", files=files)


def test_timeout_must_be_positive(run: Run) -> None:
    for timeout_s in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout_s must be"):
            run("1", timeout_s=timeout_s)


def test_random_numbers_differ_between_calls(run: Run) -> None:
    for code in ("import random; print(random.random())", "import numpy; print(numpy.random.rand())"):
        assert run(code).stdout != run(code).stdout


def test_packages(run: Run) -> None:
    assert run(
        "import numpy as np, sympy as sp\nprint(np.arange(3).sum(), sp.factor(sp.Symbol('x')**2 - 1))"
    ).stdout == ("3 (x - 1)*(x + 1)\n")
    assert run("import importlib; print(importlib.import_module('num' + 'py').zeros(1))").stdout == "[0.]\n"


def test_no_network(run: Run) -> None:
    result = run("import socket; socket.create_connection(('127.0.0.1', 22), timeout=2)")
    assert (result.status, "PermissionError" in result.stderr) == ("error", True)
    assert result.wall_s < 1


def test_subprocesses_and_pools_work(run: Run) -> None:
    assert (
        run("import subprocess; print(subprocess.run(['echo', 'hi'], capture_output=True).stdout)").stdout
        == "b'hi\\n'\n"
    )
    pool = "from multiprocessing import Pool\nwith Pool(2) as p: print(p.map(abs, [-1, -2]))"
    assert run(pool).stdout == "[1, 2]\n"


def test_a_fork_bomb_is_bounded(run: Run) -> None:
    result = run(
        "import os, time\nn = 0\nwhile n < 1000:\n    if os.fork() == 0: time.sleep(60); os._exit(0)\n    n += 1"
    )
    assert result.status == "error"
    assert "BlockingIOError" in result.stderr
    assert (
        run("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", timeout_s=0.5).status == "timeout"
    )
    assert run("print(1)").status == "ok"


# Nothing is left


@asynccontextmanager
async def watched(**settings: object) -> AsyncIterator[LocalSandbox]:
    """A sandbox after whose end no process, directory or descriptor may be left."""
    processes, descriptors = processes_below(os.getpid()), set(os.listdir("/proc/self/fd"))
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        try:
            async with LocalSandbox(**settings) as sandbox:  # type: ignore[arg-type]
                yield sandbox
            assert not directories()
        finally:
            tempfile.tempdir = usual
    assert processes_below(os.getpid()) <= processes
    assert set(os.listdir("/proc/self/fd")) <= descriptors


DAEMONS = "\n".join(
    (
        "import os, subprocess, time",
        "subprocess.Popen(['sleep', '4321'], start_new_session=True)",
        "if os.fork() == 0:",
        "    os.setsid()",
        "    if os.fork() == 0: os.execvp('sleep', ['sleep', '4321'])",
        "    os._exit(0)",
        "print('started')",
        "time.sleep({})",
    )
)


@pytest.mark.parametrize("seconds", [0, 30])
def test_daemons_die_with_their_call(run: Run, seconds: int) -> None:
    result = run(DAEMONS.format(seconds), timeout_s=0.5)
    assert (result.status, result.stdout) == ("timeout" if seconds else "ok", "started\n")
    assert not running_with("sleep\x004321")


def test_nothing_is_left_after_100_mixed_calls() -> None:
    mix = {
        "print(1)": "ok",
        "1 / 0": "error",
        "while True: pass": "timeout",
        "import os; os._exit(3)": "error",
        "x = bytearray(900 << 20)": "memory_limit",
        "open('f', 'w').write('x'); import os; os.makedirs('a/b'); os.chmod('a', 0)": "ok",
        "import os; os.kill(os.getpid(), 9) if os.getpid() > 1 else os._exit(1)": None,
        "import tempfile; tempfile.mkdtemp(); tempfile.mkstemp()": "ok",
        DAEMONS.format(0): "ok",
        "import ctypes; ctypes.string_at(0)": "crashed",
    }

    before = processes_below(os.getpid())

    async def main() -> None:
        async with watched(workers=2, concurrent_per_worker=4, memory_mb=512) as sandbox:
            codes = list(mix) * 10
            results = await asyncio.gather(*(sandbox.run(code, timeout_s=0.8) for code in codes))
            for code, result in zip(codes, results, strict=True):
                assert mix[code] in (None, result.status), (code, result)
            await until(lambda: not running_with("sleep\x004321"))
            workers = processes_below(os.getpid()) - before
            assert len(workers) <= 4, "two fork servers of the bare kind, each with the process it waits in"
            roots = directories()
            assert not [left for root in roots for left in root.glob("bare*/*-*")]

    asyncio.run(main())
    assert not running_with("sleep\x004321")


# Many callers


def test_64_concurrent_calls_do_not_mix() -> None:
    async def main() -> None:
        async with watched(workers=2, concurrent_per_worker=4) as sandbox:

            async def one(number: int) -> None:
                code = (
                    f"import sys, time; text = input(); time.sleep({number % 3} / 100); "
                    f"print({number}, text); print({number}, file=sys.stderr)"
                )
                result = await sandbox.run(code, stdin=f"in{number}")
                assert (result.stdout, result.stderr) == (f"{number} in{number}\n", f"{number}\n")

            await asyncio.gather(*(one(number) for number in range(64)))

    asyncio.run(main())


def test_waiting_is_not_charged() -> None:
    async def main() -> None:
        async with watched(workers=1, concurrent_per_worker=1) as sandbox:
            results = await asyncio.gather(
                *(sandbox.run("import time; time.sleep(.2)", timeout_s=0.6) for _ in range(5))
            )
            assert [result.status for result in results] == ["ok"] * 5
            assert max(result.queue_s for result in results) > 0.6
            assert max(result.wall_s for result in results) < 0.6

    asyncio.run(main())


def in_a_sandbox(body: Callable[[LocalSandbox], Awaitable[None]]) -> None:
    async def main() -> None:
        async with watched(workers=1, concurrent_per_worker=2) as sandbox:
            await sandbox.run("1")
            await body(sandbox)

    asyncio.run(main())


@pytest.mark.parametrize("victim", ["waiting process", "fork server"])
def test_a_killed_fork_server_is_replaced(victim: str) -> None:
    others = processes_below(os.getpid())

    async def body(sandbox: LocalSandbox) -> None:
        servers = processes_below(os.getpid()) - others
        call = asyncio.create_task(sandbox.run("import time; time.sleep(30)"))
        await until(lambda: len(processes_below(os.getpid()) - others) > len(servers))
        os.kill(min(servers) if victim == "waiting process" else max(servers), signal.SIGKILL)
        result = await asyncio.wait_for(call, timeout=5)
        assert result.status == "sandbox_error"
        assert "fork server died" in result.detail
        again = await asyncio.gather(*(sandbox.run("print(2)") for _ in range(4)))
        assert [result.stdout for result in again] == ["2\n"] * 4

    in_a_sandbox(body)


def test_at_level_b_too_and_again_and_again() -> None:
    others = processes_below(os.getpid())

    async def main() -> None:
        async with watched(workers=1, concurrent_per_worker=2, isolation="B", preload=()) as sandbox:
            for _ in range(3):
                assert (await sandbox.run("open('f', 'w').write('left'); print(1)")).stdout == "1\n"
                call = asyncio.create_task(sandbox.run("import time; time.sleep(30)"))
                await asyncio.sleep(0.2)
                os.kill(min(processes_below(os.getpid()) - others), signal.SIGKILL)
                assert (await asyncio.wait_for(call, timeout=5)).status == "sandbox_error"

    asyncio.run(main())


def test_a_start_that_is_cancelled_can_be_made_again() -> None:
    others = processes_below(os.getpid())

    async def main() -> None:
        sandbox = LocalSandbox(workers=1, preload=())
        for delay_s in (0.0, 0.05, 0.1, 0.2, 0.3):
            start = asyncio.create_task(sandbox.start())
            await asyncio.sleep(delay_s)
            start.cancel()
            with suppress(asyncio.CancelledError):
                await start
        assert (await sandbox.run("print(1)")).stdout == "1\n"
        await sandbox.aclose()
        assert await until(lambda: processes_below(os.getpid()) <= others)

    asyncio.run(main())


def test_a_signal_without_a_name() -> None:
    async def main() -> ExecutionResult:
        async with watched(workers=1, isolation="B", preload=()) as sandbox:
            return await sandbox.run("import os; os.kill(os.getpid(), 35)")

    result = asyncio.run(main())
    assert (result.status, result.signal) == ("crashed", "SIG35")


def test_a_process_that_cannot_be_started_is_a_failure_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    no_fork = channel_module.BOOTSTRAP.replace(
        "from sod.sandbox.fork_server import main",
        "from sod.sandbox.fork_server import main\nfrom sod.sandbox import confine\n"
        "fork, count = confine.AllowList.fork, iter(range(99))\n"
        "def sometimes(level):\n    if next(count) == 1: raise BlockingIOError(11, 'no more processes')\n"
        "    return fork(level)\nconfine.AllowList.fork = sometimes",
    )
    monkeypatch.setattr(channel_module, "BOOTSTRAP", no_fork)

    async def main() -> list[ExecutionResult]:
        async with watched(workers=1, isolation="B", preload=()) as sandbox:
            return [await sandbox.run("print(1)") for _ in range(2)]

    failed, ran = asyncio.run(main())
    assert (failed.status, "no more processes" in failed.detail) == ("sandbox_error", True)
    assert ran.stdout == "1\n"


def test_a_fork_server_that_stands_still_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "PING_S", 0.2)
    others = processes_below(os.getpid())

    async def body(sandbox: LocalSandbox) -> None:
        servers = processes_below(os.getpid()) - others
        long = await asyncio.wait_for(sandbox.run("import time; time.sleep(1.5)"), timeout=10)
        assert long.status == "ok", "one that answers pings may take its time"
        os.kill(max(servers), signal.SIGSTOP)
        result = await asyncio.wait_for(sandbox.run("print(1)"), timeout=10)
        assert (result.status, "did not answer" in result.detail) == ("sandbox_error", True)
        assert (await sandbox.run("print(2)")).stdout == "2\n"

    in_a_sandbox(body)


def test_a_cancelled_callers_process_is_killed_and_its_place_is_free_again() -> None:
    async def body(sandbox: LocalSandbox) -> None:
        servers = processes_below(os.getpid())
        for _ in range(3):  # more than there are places
            calls = [asyncio.create_task(sandbox.run("import time; time.sleep(30)")) for _ in range(3)]
            await until(lambda: len(processes_below(os.getpid())) == len(servers) + 2)
            for call in calls:
                call.cancel()
            assert all(
                isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*calls, return_exceptions=True)
            )
            assert await until(lambda: processes_below(os.getpid()) == servers)
        assert (await sandbox.run("print(1)")).stdout == "1\n"

    in_a_sandbox(body)


def test_closing_ends_running_calls() -> None:
    async def body(sandbox: LocalSandbox) -> None:
        calls = [asyncio.create_task(sandbox.run("import time; time.sleep(30)")) for _ in range(4)]
        await asyncio.sleep(0.1)
        await sandbox.aclose()
        statuses = sorted(result.status for result in await asyncio.gather(*calls))
        assert set(statuses) <= {"cancelled", "sandbox_error"}
        assert "cancelled" in statuses
        assert (await sandbox.run("1")).status == "sandbox_error"

    in_a_sandbox(body)


def test_a_second_event_loop_is_refused() -> None:
    sandbox = LocalSandbox(workers=1)
    with asyncio.Runner() as first:
        first.run(sandbox.run("1"))
        with pytest.raises(AssertionError, match="one event loop"), asyncio.Runner() as second:
            second.run(sandbox.run("1"))
        first.run(sandbox.aclose())


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"python": "/nowhere/python"}, "sandbox.python must be a Python interpreter, got /nowhere/python"),
        ({"python": "/bin/cat"}, "/bin/cat cannot be used for the sandbox"),
        ({"packages": ("no-such-distribution",)}, "pip install no-such-distribution or take it out"),
    ],
)
def test_a_sandbox_that_cannot_start_says_why(
    settings: dict[str, Any], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    async def main() -> None:
        async with watched(**settings):
            pass

    with pytest.raises(SandboxError, match=complaint):
        asyncio.run(main())
    assert not directories()


def test_a_fork_server_that_cannot_start_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "BOOTSTRAP", "import sys; sys.exit('no luck')")

    async def main() -> None:
        async with watched(isolation="B"):
            pass

    with pytest.raises(SandboxError, match=r"(?s)code must be isolated.*level B: .*no luck.*allow_unsafe"):
        asyncio.run(main())


def test_below_level_b_it_is_refused_or_stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bootstrap that takes Landlock and namespaces away stands for a kernel without them."""
    crippled = channel_module.BOOTSTRAP.replace(
        "from sod.sandbox.fork_server import main",
        "from sod.sandbox.fork_server import main\nfrom sod.sandbox import kernel, landlock\n"
        "landlock.version = lambda: 0\ndef refuse(flags): raise PermissionError(1, 'unshare: not here')\n"
        "kernel.unshare = refuse",
    )
    monkeypatch.setattr(channel_module, "BOOTSTRAP", crippled)

    async def main(*, allow_unsafe: bool) -> ExecutionResult:
        async with watched(allow_unsafe=allow_unsafe) as sandbox:
            assert sandbox.level == "unsafe"
            return await sandbox.run("print(1)")

    with pytest.raises(SandboxError, match=r"level A: .*unshare: not here; level B: Landlock is not available"):
        asyncio.run(main(allow_unsafe=False))
    result = asyncio.run(main(allow_unsafe=True))
    assert (result.stdout, result.isolation[0]) == ("1\n", "unsafe")


def test_nothing_outlives_a_killed_trainer(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\nfrom sod.sandbox import LocalSandbox\n"
        "async def main():\n    s = LocalSandbox(workers=1)\n    await s.run('1')\n    print('up', flush=True)\n"
        f"    await s.run({DAEMONS.format(30)!r})\nasyncio.run(main())"
    )

    async def main() -> None:
        trainer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=-1, env={**os.environ, "TMPDIR": str(tmp_path)}
        )
        assert trainer.stdout is not None
        assert await trainer.stdout.readline() == b"up\n"
        assert await until(lambda: len(running_with("sleep\x004321")) == 2)
        family = processes_below(trainer.pid)
        trainer.kill()
        await trainer.wait()
        assert await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))

    asyncio.run(main())


# The scripted one


def test_scripted_sandbox() -> None:
    failure = ExecutionResult(status="sandbox_error", stdout="", stderr="")
    sandbox = ScriptedSandbox(["3\n", failure])
    assert asyncio.run(sandbox.run("a")).stdout == "3\n"
    assert asyncio.run(sandbox.run("b")) is failure
    with pytest.raises(AssertionError, match="used up"):
        asyncio.run(sandbox.run("c"))
    assert sandbox.codes == ["a", "b", "c"]
    assert asyncio.run(ScriptedSandbox(lambda code: code * 2).run("ab")).stdout == "abab"


def test_only_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module.sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="needs Linux"):
        LocalSandbox()

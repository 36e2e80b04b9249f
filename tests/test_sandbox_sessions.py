"""Sessions: cells share variables, a lost session says so, and none outlives its sandbox."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from sod.errors import SandboxError
from sod.sandbox import LocalSandbox, LocalSession, watch

Level = Literal["A", "B"]
LEVELS: tuple[Level, ...] = ("A", "B")


def in_session(body: Callable[[LocalSession], Awaitable[None]], *, level: Level = "A", **settings: int) -> None:
    async def main() -> None:
        limits = {"workers": 1, "memory_mb": 256, "disk_mb": 16, **settings}
        async with LocalSandbox(isolation=level, preload=(), **limits) as sandbox, sandbox.session() as session:  # type: ignore[arg-type]
            await body(session)

    try:
        asyncio.run(main())
    except SandboxError as error:
        if level == "A":
            pytest.skip(f"this machine has no level A: {error}")
        raise


@pytest.mark.parametrize("level", LEVELS)
def test_cells_share_variables_and_files(level: Level) -> None:
    async def body(session: LocalSession) -> None:
        await session.run("import math\ndef f(x):\n    return x + 1\nopen('kept', 'w').write('here')")
        result = await session.run("print(open('kept').read())\nf(math.pi)", files={"data/a": b"1"})
        assert (result.status, result.stdout) == ("ok", "here\n4.141592653589793\n")
        assert (await session.run("open('data/a').read()")).stdout == "'1'\n"
        assert (result.session_lost, result.exit_code, result.isolation[0]) == (False, 0, level)

    in_session(body, level=level)


def test_the_value_of_a_last_expression_is_shown_unless_not_wanted() -> None:
    async def body(session: LocalSession) -> None:
        assert (await session.run("1 + 1")).stdout == "2\n"
        assert (await session.run("_ + 1")).stdout == "3\n"
        assert (await session.run("1 + 1", echo_last_expression=False)).stdout == ""

    in_session(body)


def test_an_error_keeps_the_session_and_names_its_cell() -> None:
    async def body(session: LocalSession) -> None:
        await session.run("x = 1\ndef f():\n    return 1 / 0")
        result = await session.run("x = 2\nf()")
        assert (result.status, result.exit_code, result.session_lost) == ("error", 1, False)
        assert 'File "<cell 2>", line 2, in <module>\n    f()' in result.stderr
        assert 'File "<cell 1>", line 3, in f\n    return 1 / 0' in result.stderr
        assert (await session.run("x")).stdout == "2\n"
        assert (await session.run("import sys; sys.exit(3)")).exit_code == 3
        assert (await session.run("x")).stdout == "2\n"

    in_session(body)


def test_output_of_one_cell_is_not_in_the_next() -> None:
    async def body(session: LocalSession) -> None:
        big = await session.run("print('x' * 200_000)")
        assert (big.stdout_truncated, "134465 bytes left out" in big.stdout) == (True, True)
        after = await session.run("import sys; print('out'); print('err', file=sys.stderr)")
        assert (after.stdout, after.stderr, after.stdout_truncated) == ("out\n", "err\n", False)

    in_session(body)


@pytest.mark.parametrize("level", LEVELS)
def test_a_cell_whose_time_is_up_is_interrupted_and_the_session_stays(level: Level) -> None:
    async def body(session: LocalSession) -> None:
        await session.run("x = 41")
        result = await session.run("print('partial', end='')\nwhile True: pass", timeout_s=0.3)
        assert (result.status, result.stdout, result.session_lost) == ("timeout", "partial", False)
        assert "KeyboardInterrupt" in result.stderr
        assert 0.3 <= result.wall_s < 3.0
        assert (await session.run("x + 1")).stdout == "42\n"

    in_session(body, level=level)


@pytest.mark.parametrize(
    ("code", "status", "signal"),
    [
        ("import time\nwhile True:\n    try: time.sleep(9)\n    except KeyboardInterrupt: pass", "timeout", "SIGKILL"),
        ("sum(range(10**12))", "timeout", "SIGKILL"),
        ("import os; os._exit(4)", "error", None),
        ("import ctypes; ctypes.string_at(0)", "crashed", "SIGSEGV"),
        ("import os; os.write(3, b'what?'); import time; time.sleep(9)", "crashed", "SIGKILL"),
    ],
)
@pytest.mark.parametrize("level", LEVELS)
def test_a_lost_session_says_so_and_the_next_cell_starts_anew(
    level: Level, code: str, status: str, signal: str | None
) -> None:
    async def body(session: LocalSession) -> None:
        await session.run("kept = 1")
        lost = await session.run(f"print('before')\n{code}", timeout_s=0.3)
        assert (lost.status, lost.signal, lost.session_lost) == (status, signal, True)
        assert lost.stdout == "before\n"
        fresh = await session.run("print('kept' in dir())")
        assert (fresh.status, fresh.stdout, fresh.session_lost) == ("ok", "False\n", False)

    in_session(body, level=level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_cell_that_closes_everything_loses_the_session(level: Level) -> None:
    async def body(session: LocalSession) -> None:
        lost = await session.run("import os; os.closerange(3, 50); x = 1")
        assert lost.status in ("error", "crashed")  # it ends by itself or is killed, whichever is first
        assert lost.session_lost
        assert (await session.run("print('x' in dir())")).stdout == "False\n"

    in_session(body, level=level)


def test_a_child_that_a_cell_forgets_to_end_answers_no_cells() -> None:
    async def body(session: LocalSession) -> None:
        await session.run("import os\npid = os.fork()")
        for number in range(20):
            assert (await session.run(f"print({number}, pid > 0)")).stdout == f"{number} True\n"

    in_session(body)


def test_a_cell_that_answers_for_those_to_come_stops_nobody() -> None:
    async def body(session: LocalSession) -> None:
        flood = "import os\nwhile True:\n    try: os.write(3, b'0')\n    except OSError: break"
        await session.run(flood, timeout_s=0.5)
        for _ in range(3):
            await asyncio.wait_for(session.run("1", timeout_s=0.3), timeout=10)
        assert (await asyncio.wait_for(session.run("1"), timeout=20)).status in ("ok", "timeout", "crashed")

    in_session(body)


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_cell_leaves_running_is_paused_until_the_next(level: Level) -> None:
    counting = "import threading\nn = 0\ndef count():\n    global n\n    while n >= 0: n += 1\n"
    counting += "threading.Thread(target=count, daemon=True).start()"

    async def body(session: LocalSession) -> None:
        await session.run(counting)
        before = int((await session.run("n")).stdout)
        await asyncio.sleep(0.5)
        between = int((await session.run("n")).stdout)
        during = int((await session.run("import time; time.sleep(0.5); n")).stdout)
        assert 0 < before <= between < during
        assert between - before < (during - between) / 2, "it ran while no cell did"
        assert (await session.run("n = -1")).session_lost is False

    in_session(body, level=level)


def test_processes_that_a_cell_leaves_are_paused_and_count() -> None:
    leave = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        while True: pass"
    burn = "import resource; sum(os.times()[:4]), time.monotonic()"

    async def body(session: LocalSession) -> None:
        await session.run(leave)
        await asyncio.sleep(0.3)
        assert (await session.run(burn)).status == "ok"
        many = "[os.fork() for _ in range(3)]\nx = bytearray(b'x' * (40 << 20))\ntime.sleep(20)"
        result = await session.run(many, timeout_s=5)
        assert (result.status, result.session_lost) == ("memory_limit", True)

    in_session(body)


def test_closing_a_session_touches_no_other_calls_files() -> None:
    async def main() -> None:
        async with LocalSandbox(workers=1, preload=()) as sandbox:
            for _ in range(20):
                session = sandbox.session()
                cell = asyncio.create_task(session.run("import time; time.sleep(30)"))
                await asyncio.sleep(0.02)
                closing = asyncio.create_task(session.aclose())
                results = await asyncio.gather(*(sandbox.run(f"print({number})") for number in range(8)))
                assert [result.stdout for result in results] == [f"{number}\n" for number in range(8)]
                await closing
                assert (await cell).status in ("cancelled", "sandbox_error")

    asyncio.run(main())


def test_memory_is_limited_over_all_cells() -> None:
    async def body(session: LocalSession) -> None:
        first = await session.run("a = bytearray(150 << 20)")
        assert first.status == "ok"
        second = await session.run("b = bytearray(150 << 20)")
        assert (second.status, second.session_lost) == ("memory_limit", False)
        assert (await session.run("len(a) >> 20")).stdout == "150\n"

    in_session(body)


def test_a_process_that_ends_between_cells_is_told_with_the_next() -> None:
    async def body(session: LocalSession) -> None:
        before = set(watch.process_tree(os.getpid()))
        await session.run("x = 1")
        os.kill(max(set(watch.process_tree(os.getpid())) - before), signal.SIGKILL)
        await asyncio.sleep(0.5)  # until the fork server has told
        result = await session.run("print('x' in dir())")
        assert (result.stdout, result.session_lost) == ("False\n", True)

    in_session(body)


def test_the_longest_unused_session_gives_way() -> None:
    async def main() -> None:
        async with LocalSandbox(workers=1, concurrent_per_worker=2, max_sessions=2, preload=()) as sandbox:
            first, second, third = (sandbox.session() for _ in range(3))
            for session in (first, second):
                await session.run("x = 1")
            await first.run("x")
            assert (await third.run("x = 1")).status == "ok"  # second is the longest unused now
            assert (await first.run("x")).stdout == "1\n"
            again = await second.run("print('x' in dir())")  # which costs third its process
            assert (again.stdout, again.session_lost) == ("False\n", True)
            assert (await third.run("print('x' in dir())")).session_lost

    asyncio.run(main())


def test_many_sessions_do_not_mix_and_cells_of_one_wait_for_each_other() -> None:
    async def main() -> None:
        async with LocalSandbox(workers=2, concurrent_per_worker=4, max_sessions=32, preload=()) as sandbox:

            async def one(number: int) -> None:
                async with sandbox.session() as session:
                    await session.run(f"x = {number}; y = []")
                    await asyncio.gather(*(session.run(f"y.append({cell})") for cell in range(5)))
                    assert (await session.run("x, y")).stdout == f"({number}, [0, 1, 2, 3, 4])\n"

            await asyncio.gather(*(one(number) for number in range(24)))

    asyncio.run(main())


def test_a_cancelled_caller_loses_the_session() -> None:
    async def body(session: LocalSession) -> None:
        await session.run("x = 1")
        cell = asyncio.create_task(session.run("import time; time.sleep(30)"))
        await asyncio.sleep(0.1)
        cell.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cell
        result = await asyncio.wait_for(session.run("print('x' in dir())"), timeout=5)
        assert (result.stdout, result.session_lost) == ("False\n", True)

    in_session(body)


def test_a_closed_sandbox_runs_no_cell() -> None:
    async def main() -> None:
        sandbox = LocalSandbox(workers=1, preload=())
        session = sandbox.session()
        await session.run("x = 1")
        running = asyncio.create_task(session.run("import time; time.sleep(30)"))
        await asyncio.sleep(0.1)
        await sandbox.aclose()
        assert (await asyncio.wait_for(running, timeout=5)).status == "cancelled"
        with pytest.raises(SandboxError, match="closed"):
            await session.run("x")

    asyncio.run(main())

"""Many callers, many kinds of code, for long: no result is wrong, nothing is left, and the trainer does not grow.

The test makes 600 calls. More, with figures: `python tests/test_sandbox_soak.py 10000`, or SOD_SOAK_CALLS=10000 for
the test. SOD_SOAK_LEVEL takes another level than the best one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sod.sandbox import ExecutionResult, LocalSandbox

NUM_CALLERS = 64
NUM_WARM_UP_CALLS = 200
MAX_GROWTH_MB = 20
NUM_DIRECTORIES = {"A": 0, "B": 32}
"""Level B keeps directories and their rulesets for the next call, at most as many as calls can run: 16 of each kind."""
PATIENT_S = 60.0
"""The limit of calls that are to end by themselves: far from what they take on the busiest machine."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a call has to come back with; None leaves it open."""

    status: str
    stdout: str | None = ""
    stderr: str | None = ""
    exit_code: int | None = None
    stderr_end: str = ""
    signal: str | None = None

    def differences(self, result: ExecutionResult) -> list[str]:
        wanted = {"status": self.status, "exit_code": self.exit_code, "signal": self.signal}
        wanted |= {name: text for name in ("stdout", "stderr") if (text := getattr(self, name)) is not None}
        found = [f"{name}: {getattr(result, name)!r:.200}" for name in wanted if getattr(result, name) != wanted[name]]
        if not result.stderr.endswith(self.stderr_end):
            found.append(f"end of stderr: {result.stderr[-200:]!r}")
        return found


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call with a word of its own in it, so that a mix-up shows."""

    code: str
    expected: Expected
    stdin: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    timeout_s: float = PATIENT_S
    cancel_after_s: float | None = None


# The kinds of calls: each takes the call's own word and the level


def echo(word: str, _: str) -> Call:
    code = f"import sys\ntext = input()\nprint('{word}', text)\nprint('{word}', file=sys.stderr)"
    return Call(
        code=code,
        stdin=f"in-{word}",
        expected=Expected(status="ok", stdout=f"{word} in-{word}\n", stderr=f"{word}\n", exit_code=0),
    )


def last_words(word: str, _: str) -> Call:
    stderr_end = f"File \"<code>\", line 2, in <module>\n    raise ValueError('{word}')\nValueError: {word}\n"
    return Call(
        code=f"print('{word}')\nraise ValueError('{word}')",
        expected=Expected(status="error", stdout=f"{word}\n", stderr=None, stderr_end=stderr_end, exit_code=1),
    )


def exit_code(word: str, _: str) -> Call:
    code = 2 + int(word, 16) % 200
    return Call(code=f"import sys\nsys.exit({code})", expected=Expected(status="error", exit_code=code))


def hard_exit(word: str, _: str) -> Call:
    code = 2 + int(word, 16) % 200
    expected = Expected(status="error", stdout=f"{word}\n", exit_code=code)
    return Call(code=f"import os\nprint('{word}')\nos._exit({code})", expected=expected)


def memory(word: str, _: str) -> Call:
    expected = Expected(status="memory_limit", stdout=f"{word}\n", stderr=None, exit_code=1)
    return Call(code=f"print('{word}')\nx = bytearray(1 << 34)", expected=expected)


def disk(word: str, _: str) -> Call:
    expected = Expected(status="disk_limit", stdout=f"{word}\n", stderr=None, exit_code=1)
    return Call(code=f"print('{word}')\nf = open('f', 'w')\nf.truncate(1 << 34)", expected=expected)


def loop(word: str, _: str) -> Call:
    expected = Expected(status="timeout", stdout=f"{word}\n", signal="SIGKILL")
    return Call(code=f"print('{word}')\nwhile True: pass", timeout_s=0.5, expected=expected)


def sleep(word: str, _: str) -> Call:
    expected = Expected(status="timeout", stdout=f"{word}\n", signal="SIGKILL")
    return Call(code=f"print('{word}')\nimport time\ntime.sleep(600)", timeout_s=0.5, expected=expected)


def daemon(word: str, level: str) -> Call:
    code = (
        f"import os, time\nprint('{word}')\nif os.fork() == 0:\n    os.setsid()\n    if os.fork(): os._exit(0)\n"
        f"    time.sleep(600)\nprint('left')"
    )
    if level == "B":
        return Call(code=code, expected=Expected(status="error", stdout=f"{word}\n", stderr=None, exit_code=1))
    return Call(code=code, expected=Expected(status="ok", stdout=f"{word}\nleft\n", exit_code=0))


def big_output(word: str, _: str) -> Call:
    left_out = 20_000 * (len(word) + 1) - 65536
    text = f"{word}\n" * 20_000
    stdout = f"{text[:32768]}\n[... {left_out} bytes left out ...]\n{text[-32768:]}"
    return Call(
        code=f"for _ in range(20_000): print('{word}')", expected=Expected(status="ok", stdout=stdout, exit_code=0)
    )


def numpy(word: str, _: str) -> Call:
    number = int(word, 16) % 10_000
    expected = Expected(status="ok", stdout=f"{number * (number - 1) // 2}\n", exit_code=0)
    return Call(code=f"import numpy as np\nprint(np.arange({number}).sum())", expected=expected)


def crash(word: str, _: str) -> Call:
    expected = Expected(status="crashed", stdout=f"{word}\n", signal="SIGSEGV")
    return Call(code=f"import ctypes\nprint('{word}')\nctypes.string_at(0)", expected=expected)


def file_writes(word: str, _: str) -> Call:
    code = (
        f"import os\nos.makedirs('{word}/deep')\nopen('{word}/deep/f', 'w').write(open('given').read())\n"
        f"print(sorted(os.listdir()), open('{word}/deep/f').read())\nos.chmod('{word}', 0)"
    )
    expected = Expected(status="ok", stdout=f"{sorted(['given', word])} in-{word}\n", exit_code=0)
    return Call(code=code, files={"given": f"in-{word}".encode()}, expected=expected)


def caller_leaves(word: str, _: str) -> Call:
    expected = Expected(status="no result: its caller was cancelled")
    return Call(code=f"import time\nprint('{word}')\ntime.sleep(600)", cancel_after_s=0.1, expected=expected)


KINDS: dict[Callable[[str, str], Call], int] = {
    echo: 30,
    last_words: 10,
    exit_code: 5,
    hard_exit: 5,
    memory: 5,
    disk: 3,
    loop: 2,
    sleep: 3,
    daemon: 5,
    big_output: 4,
    numpy: 12,
    crash: 4,
    file_writes: 10,
    caller_leaves: 2,
}
"""How often each is made, per 100."""


# What the machine says


def status_of(pid: int | str, key: str) -> int:
    """A number of /proc/PID/status; 0 when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def processes_below(pid: int) -> set[int]:
    """All living descendants of a process."""
    pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    parent_of = {pid: parent for pid in pids if (parent := status_of(pid, "PPid"))}
    found: set[int] = set()
    while more := {child for child, parent in parent_of.items() if parent in found | {pid}} - found:
        found |= more
    return found


def links_in(directory: Path) -> Iterator[str]:
    """Where the links in a directory of /proc lead, as far as we may know."""
    try:
        for path in directory.iterdir():
            yield os.readlink(path)
    except OSError:
        return


def namespaces(pids: set[int]) -> set[str]:
    """Those that processes are in or have open, such as "mnt:[4026531841]"."""
    links = {link for pid in pids for name in ("ns", "fd") for link in links_in(Path(f"/proc/{pid}/{name}"))}
    return {link for link in links if link.partition(":[")[0] in os.listdir("/proc/self/ns")}


def processes_started_in(directory: str) -> set[str]:
    """Processes of the whole host that have it in the environment they were started with, whoever their parent is."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"={directory}".encode() in path.read_bytes():
                found.add(path.parent.name)
        except OSError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What a sandbox holds when nothing runs in it. Numbers of descriptors are those of our own and of all servers."""

    processes: set[int]
    namespaces: set[str]
    own_descriptors: int
    server_descriptors: int
    files: int
    rss_mb: float
    server_rss_mb: float


def holdings(others: set[int]) -> Holdings:
    """`others` are processes of ours that are not the sandbox's: other tests', when they run before."""
    gc.collect()
    servers = processes_below(os.getpid()) - others
    return Holdings(
        processes=servers,
        namespaces=namespaces(servers),
        own_descriptors=len(os.listdir("/proc/self/fd")),
        server_descriptors=sum(len(list(links_in(Path(f"/proc/{pid}/fd")))) for pid in servers),
        files=len(list(Path(tempfile.gettempdir()).rglob("*"))),
        rss_mb=status_of("self", "VmRSS") / 1024,
        server_rss_mb=sum(status_of(pid, "VmRSS") for pid in servers) / 1024,
    )


async def until(condition: Callable[[], bool], *, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    return condition()


@contextmanager
def nothing_is_left() -> Iterator[None]:
    """Asserts it of a body that is given a place for temporary files."""
    before = (processes_below(os.getpid()), set(os.listdir("/proc/self/fd")))
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        os.chmod(directory, 0o711)
        patch.setattr(tempfile, "tempdir", directory)
        yield
        assert os.listdir(directory) == []
        assert processes_started_in(directory) == set()
        assert directory not in Path("/proc/self/mountinfo").read_text()
    assert processes_below(os.getpid()) <= before[0]
    assert set(os.listdir("/proc/self/fd")) <= before[1]


# The soak


@dataclass(kw_only=True)
class Soak:
    """Callers that each make the next call as soon as they have a result."""

    sandbox: LocalSandbox
    generator: random.Random
    wrong: list[str] = field(default_factory=list)
    num_results: Counter[str] = field(default_factory=Counter)
    waits_s: list[float] = field(default_factory=list)

    async def make(self, num_calls: int, *, num_callers: int) -> None:
        kinds = self.generator.choices(list(KINDS), weights=list(KINDS.values()), k=num_calls)
        waiting = iter(kinds)

        async def caller() -> None:
            for kind in waiting:
                call = kind(f"{self.generator.getrandbits(64):016x}", self.sandbox.level)
                await self._make_one(kind.__name__, call)

        async with asyncio.TaskGroup() as callers:
            for _ in range(num_callers):
                callers.create_task(caller())

    async def _make_one(self, name: str, call: Call) -> None:
        self.num_results[name] += 1
        running = self.sandbox.run(call.code, stdin=call.stdin, files=call.files, timeout_s=call.timeout_s)
        if call.cancel_after_s is not None:
            try:
                async with asyncio.timeout(call.cancel_after_s):
                    await running
                self.wrong.append(f"{name}: came back although it sleeps")
            except TimeoutError:
                return
            return
        result = await running
        self.waits_s.append(result.queue_s)
        if differences := call.expected.differences(result):
            self.wrong.append(f"{name} ended as {result.status} {result.detail}: {'; '.join(differences)}")


async def soak(num_calls: int, *, num_callers: int, isolation: str = "auto", seed: int = 0) -> str:
    """Makes the calls, asserts all of the above, returns the figures as text."""
    others = processes_below(os.getpid())
    with nothing_is_left():
        async with LocalSandbox(workers=2, memory_mb=256, isolation=isolation) as sandbox:  # type: ignore[arg-type]
            work = Soak(sandbox=sandbox, generator=random.Random(seed))
            await work.make(NUM_WARM_UP_CALLS, num_callers=num_callers)
            before = await settled(others)
            started = time.monotonic()
            await work.make(num_calls, num_callers=num_callers)
            wall_s = time.monotonic() - started
            after = await settled(others, like=before)
            level = sandbox.level
            assert processes_started_in(tempfile.gettempdir()) == {str(pid) for pid in after.processes}
    assert work.wrong == [], f"{len(work.wrong)} of {num_calls} results are wrong, the first: {work.wrong[:5]}"
    assert after.processes <= before.processes
    assert after.namespaces <= before.namespaces
    assert after.own_descriptors == before.own_descriptors
    assert 0 <= after.server_descriptors - before.server_descriptors <= NUM_DIRECTORIES[level]
    assert 0 <= after.files - before.files <= NUM_DIRECTORIES[level]
    assert after.rss_mb - before.rss_mb < MAX_GROWTH_MB
    return (
        f"level {level}, {num_callers} callers: {num_calls} calls in {wall_s:.1f} s, "
        f"{num_calls / wall_s:.0f} per second, 0 wrong\n"
        f"longest queue {max(work.waits_s):.2f} s, {len(after.namespaces)} namespaces\n"
        f"supervisor {before.rss_mb:.1f} -> {after.rss_mb:.1f} MB, {after.own_descriptors} descriptors; "
        f"{len(after.processes)} server processes {before.server_rss_mb:.1f} -> {after.server_rss_mb:.1f} MB, "
        f"{after.server_descriptors} descriptors; {after.files} files\n"
        f"{dict(work.num_results.most_common())}"
    )


async def settled(others: set[int], *, like: Holdings | None = None) -> Holdings:
    """What is held once the processes of the last calls are gone: what was held before, or what does not change."""
    if like is not None:
        await until(lambda: processes_below(os.getpid()) - others <= like.processes)
        return holdings(others)
    before = holdings(others)
    while (now := holdings(others)).processes != before.processes:
        before = now
        await asyncio.sleep(0.2)
    return now


@pytest.mark.slow
def test_soak() -> None:
    num_calls = int(os.environ.get("SOD_SOAK_CALLS", "600"))
    print(asyncio.run(soak(num_calls, num_callers=NUM_CALLERS, isolation=os.environ.get("SOD_SOAK_LEVEL", "auto"))))


if __name__ == "__main__":
    num_calls = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(asyncio.run(soak(num_calls, num_callers=NUM_CALLERS, isolation=os.environ.get("SOD_SOAK_LEVEL", "auto"))))

"""Calls of the local sandbox a second, against an interpreter per call, bubblewrap per call and what PyPI has.

    python benchmarks/sandbox.py [--rounds 5] [--callers 2,16,64] [--works "print(1),numpy+sympy"]
                                 [--out figures.json] [--quick]

Who runs: `LocalSandbox` at level A and at level B (a fresh confined process per call), one session of level A per
caller (confined, its process kept), `python -I -c` of this environment (not confined at all), the same in bubblewrap
(`apt-get install bubblewrap`), in sandlock 0.9 and smolagents' interpreter (`pip install sandlock==0.9.0 smolagents`).
The last is no boundary: it walks the syntax tree in this process, one call at a time. What is missing is named and
left out. Everyone gets the same code, one BLAS thread, and must give back the right output.

What: `print(1)`, and "numpy+sympy", which imports both, adds ten numbers, expands a square and solves an equation. The
last is work that every fresh process pays alike, 4 ms of the 15 that such a call takes us; "numpy+sympy light" is the
same without it.

How: in every round every one gets a short slice at every number of callers, all in random order, those that are
compared with each other right after each other. So everyone sees the same neighbours, and a ratio is the median of the
ratios within the rounds; the range behind a figure is the lowest and the highest round. Those that start an
interpreter per call make one call per caller when that takes long, and at more than 16 callers only in every third
round. Servers, sessions and files are warm before the first slice. A latency is from asking to having the answer,
waiting for a place included: with 64 callers on 2 cores it is mostly that. Neighbours on the same cores bend calls/s:
64 interpreters at once get more of a busy machine than our 16 calls, and the ratio is lower than on a quiet one. The
ratio of CPU ms hardly sees it.

Processor time is that of this process and of all its descendants, user and system, before and after the slice: the
kernel's clock of each living process (1 ns) and what each has collected from its dead children (10 ms, so a figure of
a short run is rough). Bubblewrap leaves its inner process to the next ancestor who takes orphans: that is this process
here, so its time counts. Part of all figures is what the benchmark itself does for a call.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import importlib.util
import io
import itertools
import json
import os
import random
import shutil
import statistics
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from sod.sandbox import ExecutionResult, LocalSandbox
from sod.sandbox.environment import this_environment
from sod.sandbox.watch import process_tree

Call = Callable[[str, int], Awaitable[str]]
"""Runs code for the caller of that number and gives what it printed."""

LEVEL_A, LEVEL_B, SESSION = "ours, level A", "ours, level B", "ours, session"
BARE, BUBBLEWRAP = "python -I -c", "bubblewrap"
SANDLOCK, SMOLAGENTS = "sandlock 0.9", "smolagents"
TIMEOUT_S = 120.0
SETTLE_S = 2.0
SHORT_SLICE_S = 0.5
MANY_CALLERS = 16
PR_SET_CHILD_SUBREAPER = 36
CPUCLOCK_SCHED = 2
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is called, and what it must print."""

    name: str
    code: str
    stdout: str


TRIVIAL = Work(name="print(1)", code="print(1)", stdout="1\n")
SCIENTIFIC = Work(
    name="numpy+sympy",
    code=(
        "import numpy as np\nimport sympy as sp\nx = sp.symbols('x')\n"
        "print(int(np.arange(10).reshape(2, 5).sum()), sp.expand((x + 1) ** 2), sp.solve(x**2 - 4, x))"
    ),
    stdout="45 x**2 + 2*x + 1 [-2, 2]\n",
)
LIGHT = Work(
    name="numpy+sympy light",
    code=(
        "import numpy as np\nimport sympy as sp\nx = sp.symbols('x')\n"
        "print(int(np.arange(10).reshape(2, 5).sum()), sp.expand((x + 1) ** 2))"
    ),
    stdout="45 x**2 + 2*x + 1\n",
)
WORKS = {work.name: work for work in (TRIVIAL, SCIENTIFIC, LIGHT)}
GOALS = (
    (TRIVIAL, BARE, 1.2),
    (SCIENTIFIC, BARE, 35.0),
    (LIGHT, BARE, 35.0),
    (TRIVIAL, BUBBLEWRAP, 2.2),
    (SCIENTIFIC, BUBBLEWRAP, 40.0),
    (LIGHT, BUBBLEWRAP, 40.0),
)
"""How many times the calls a second of a peer level A is to make."""
SESSION_GOAL_MS = 1.0


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to run code. `cold` if it starts an interpreter per call."""

    name: str
    call: Call
    cold: bool


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What one slice measured: seconds, processor seconds, seconds per call."""

    work: str
    callers: int
    variant: str
    round: int
    wall_s: float
    cpu_s: float
    latencies_s: list[float]

    @property
    def calls_per_s(self) -> float:
        return len(self.latencies_s) / self.wall_s


# Who runs


@asynccontextmanager
async def variants(*, callers: int) -> AsyncIterator[list[Variant]]:
    """All that can run on this machine, ready."""
    found = [Variant(name=BARE, call=bare_call(), cold=True)]
    async with AsyncExitStack() as stack:
        level_a = await stack.enter_async_context(LocalSandbox(isolation="A", max_sessions=callers))
        level_b = await stack.enter_async_context(LocalSandbox(isolation="B"))
        sessions = [await stack.enter_async_context(level_a.session()) for _ in range(callers)]

        async def in_session(code: str, caller: int) -> str:
            return printed(await sessions[caller].run(code, timeout_s=TIMEOUT_S, echo_last_expression=False))

        found += [
            Variant(name=LEVEL_A, call=sandbox_call(level_a), cold=False),
            Variant(name=LEVEL_B, call=sandbox_call(level_b), cold=False),
            Variant(name=SESSION, call=in_session, cold=False),
        ]
        if shutil.which("bwrap"):
            found.append(Variant(name=BUBBLEWRAP, call=bubblewrap_call(), cold=True))
        if importlib.util.find_spec("sandlock"):
            threads = stack.enter_context(ThreadPoolExecutor(callers))
            found.append(Variant(name=SANDLOCK, call=sandlock_call(threads), cold=True))
        if importlib.util.find_spec("smolagents"):
            found.append(Variant(name=SMOLAGENTS, call=smolagents_call(), cold=False))
        yield found


def printed(result: ExecutionResult) -> str:
    assert result.status == "ok", f"{result.status}: {result.detail or result.stderr}"
    return result.stdout


def sandbox_call(sandbox: LocalSandbox) -> Call:
    async def call(code: str, _caller: int) -> str:
        return printed(await sandbox.run(code, timeout_s=TIMEOUT_S))

    return call


def bare_call() -> Call:
    async def call(code: str, _caller: int) -> str:
        return await output_of(sys.executable, "-I", "-c", code)

    return call


def bubblewrap_call() -> Call:
    """Shows read-only what the interpreter needs; everything else, the network included, is unshared."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--tmpfs", "/tmp"]
    command += itertools.chain.from_iterable(("--ro-bind", path, path) for path in needed_paths())
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/work", "--chdir", "/work", sys.executable, "-I", "-c"]

    async def call(code: str, _caller: int) -> str:
        return await output_of(*command, code)

    return call


def sandlock_call(threads: ThreadPoolExecutor) -> Call:
    """Its own interface, which blocks: a thread per caller."""
    from sandlock import Sandbox

    readable = [*needed_paths(), "/proc", "/dev"]

    def run(code: str) -> str:
        box = Sandbox(fs_readable=readable, clean_env=True, env=ENVIRONMENT)
        return box.run([sys.executable, "-I", "-c", code], timeout=TIMEOUT_S).stdout.decode()

    async def call(code: str, _caller: int) -> str:
        return await asyncio.get_running_loop().run_in_executor(threads, run, code)

    return call


def smolagents_call() -> Call:
    """Evaluates the syntax tree here; what it calls `print` fills its logs."""
    from smolagents.local_python_executor import LocalPythonExecutor

    allowed = ["numpy", "numpy.*", "sympy", "sympy.*"]

    async def call(code: str, _caller: int) -> str:
        executor = LocalPythonExecutor(additional_authorized_imports=allowed)
        executor.send_tools({})
        return executor(code).logs

    return call


def needed_paths() -> list[str]:
    """System libraries, base interpreter and this environment with its packages."""
    return [*(path for path in this_environment(()).readable if os.path.isdir(path)), sys.prefix]


async def output_of(*command: str) -> str:
    """Of a process in a session of its own, so that the scheduler's groups treat everyone alike."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=ENVIRONMENT, start_new_session=True
    )
    stdout, stderr = await process.communicate()
    assert process.returncode == 0, f"{command[0]} ended with {process.returncode}: {stderr.decode()[-500:]}"
    return stdout.decode()


# Processor time


def take_orphans() -> None:
    """Processes whose parent below us ends become our children, so that we learn what they used."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def processor_s(pid: int) -> float:
    """User and system time of a process and of its children that are dead. 0 when it is gone."""
    with contextlib.suppress(OSError):
        own_s = time.clock_gettime((~pid << 3) | CPUCLOCK_SCHED)  # clock_getcpuclockid(3)
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[13:15]
        return own_s + sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    return 0.0


def collect(pids: set[int]) -> None:
    """Those of them that are our dead children are gone after it."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


async def settled_processor_s(lasting: set[int]) -> float:
    """Of us and all below us, once the processes of calls are gone and collected: all but the `lasting` ones."""
    give_up = time.monotonic() + SETTLE_S
    while (passing := set(process_tree(os.getpid())) - lasting) and time.monotonic() < give_up:
        collect(passing)
        await asyncio.sleep(0.002)
    return sum(processor_s(pid) for pid in process_tree(os.getpid()))


# Measuring


async def run_slice(variant: Variant, work: Work, *, callers: int, calls: int, number: int = -1) -> Slice:
    """`calls` calls shared by `callers` tasks, each of which asks for its next one as soon as it has an answer."""
    left = iter(range(calls))
    latencies_s: list[float] = []

    async def caller(index: int) -> None:
        for _ in left:
            start = time.perf_counter()
            stdout = await variant.call(work.code, index)
            latencies_s.append(time.perf_counter() - start)
            assert stdout == work.stdout, f"{variant.name}: {work.name} must print {work.stdout!r}, got {stdout!r}"

    lasting = set(process_tree(os.getpid()))
    before_s, start = await settled_processor_s(lasting), time.perf_counter()
    await asyncio.gather(*(caller(index) for index in range(callers)))
    wall_s = time.perf_counter() - start
    cpu_s = await settled_processor_s(lasting) - before_s
    return Slice(
        work=work.name,
        callers=callers,
        variant=variant.name,
        round=number,
        wall_s=wall_s,
        cpu_s=cpu_s,
        latencies_s=latencies_s,
    )


async def warm_up(everyone: Sequence[Variant], works: Sequence[Work], *, callers: int) -> dict[tuple[str, str], float]:
    """Starts every server and session, checks every answer; gives the seconds of a call with two callers."""
    call_s = {}
    for variant, work in itertools.product(everyone, works):
        await run_slice(variant, work, callers=2 if variant.cold else callers, calls=2 if variant.cold else 2 * callers)
        measured = await run_slice(variant, work, callers=2, calls=4)
        call_s[variant.name, work.name] = measured.wall_s / 4
    return call_s


def num_calls(call_s: float, *, callers: int) -> int:
    """Enough for a slice of about half a second, at least one per caller and two rounds of them where that is short."""
    least = callers if call_s * callers > SHORT_SLICE_S else 2 * callers
    return min(400, max(4, least, round(SHORT_SLICE_S / call_s)))


def order(
    everyone: Sequence[Variant],
    works: Sequence[Work],
    numbers: Sequence[int],
    *,
    number: int,
    generator: random.Random,
) -> Iterator[tuple[Variant, Work, int]]:
    """The slices of one round."""
    cells = list(itertools.product(works, numbers))
    for work, callers in generator.sample(cells, len(cells)):
        for variant in generator.sample(list(everyone), len(everyone)):
            skipped = variant.cold and work is not TRIVIAL and callers > MANY_CALLERS and number % 3 != 0
            if not skipped:
                yield variant, work, callers


async def measure(
    works: Sequence[Work], numbers: Sequence[int], *, rounds: int, seed: int
) -> tuple[list[Slice], list[str]]:
    """All slices, and the names of those who ran."""
    generator = random.Random(seed)
    slices = []
    async with variants(callers=max(numbers)) as everyone:
        call_s = await warm_up(everyone, works, callers=max(numbers))
        for number in range(rounds):
            for variant, work, callers in order(everyone, works, numbers, number=number, generator=generator):
                calls = num_calls(call_s[variant.name, work.name], callers=callers)
                slices.append(await run_slice(variant, work, callers=callers, calls=calls, number=number))
            print(f"round {number + 1} of {rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return slices, [variant.name for variant in everyone]


# Telling


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The slices of one run, asked for what the table says."""

    slices: list[Slice]

    def of(self, work: Work, callers: int, variant: str) -> list[Slice]:
        return [one for one in self.slices if (one.work, one.callers, one.variant) == (work.name, callers, variant)]

    def ratios(self, work: Work, callers: int, variant: str, to: str) -> list[float]:
        """Of calls a second, within the rounds in which both ran."""
        others = {one.round: one.calls_per_s for one in self.of(work, callers, to)}
        ours = self.of(work, callers, variant)
        return [one.calls_per_s / others[one.round] for one in ours if one.round in others]

    def row(self, work: Work, callers: int, variant: str) -> str:
        slices = self.of(work, callers, variant)
        latencies_s = sorted(itertools.chain.from_iterable(one.latencies_s for one in slices))
        cpu_ms = 1000 * sum(one.cpu_s for one in slices) / len(latencies_s)
        cells = [
            *(work.name, str(callers), variant, spread([one.calls_per_s for one in slices])),
            *(figure(1000 * quantile(latencies_s, share)) for share in (0.5, 0.99)),
            *(figure(cpu_ms), spread(self.ratios(work, callers, variant, BARE)), str(len(latencies_s))),
        ]
        return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float]) -> str:
    """Median, lowest and highest: "12.3 (9.8..14)"."""
    if not values:
        return "-"
    return f"{figure(statistics.median(values))} ({figure(min(values))}..{figure(max(values))})"


def figure(value: float) -> str:
    """With three digits at least: 0.869, 12.3, 2,251."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def table(figures: Figures, works: Sequence[Work], numbers: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    yield f"| call | callers | variant | calls/s | p50 ms | p99 ms | CPU ms | x {BARE} | calls |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for work, callers, name in itertools.product(works, numbers, names):
        yield figures.row(work, callers, name)


def verdicts(figures: Figures, works: Sequence[Work], numbers: Sequence[int], names: Sequence[str]) -> Iterator[str]:
    """The goals, at each number of callers."""
    asked = [(work, peer, goal) for work, peer, goal in GOALS if work in works and peer in names]
    for (work, peer, goal), callers in itertools.product(asked, numbers):
        ratios = figures.ratios(work, callers, LEVEL_A, peer)
        met = "met" if statistics.median(ratios) >= goal else "MISSED"
        yield f"{met:6}  {LEVEL_A} against {peer}, {work.name}, {callers} callers: {spread(ratios)}, goal {goal}"
    slices = figures.of(TRIVIAL, numbers[0], SESSION)
    if latencies_s := sorted(itertools.chain.from_iterable(one.latencies_s for one in slices)):
        p50_ms = 1000 * quantile(latencies_s, 0.5)
        met = "met" if p50_ms <= SESSION_GOAL_MS else "MISSED"
        yield f"{met:6}  {SESSION}, {TRIVIAL.name}, {numbers[0]} callers: p50 {p50_ms:.2f} ms, goal {SESSION_GOAL_MS}"


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", default="2,16,64", help="numbers of callers, the smallest first")
    parser.add_argument("--works", default="print(1),numpy+sympy", help=f"of: {', '.join(WORKS)}")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the slices")
    parser.add_argument("--out", type=Path, help="write every slice to this file")
    parser.add_argument("--quick", action="store_true", help="one round with 2 callers: does it run")
    return parser.parse_args()


def main() -> None:
    """Print one table and the goals; write every slice as JSON where asked to."""
    options = read_options()
    rounds = 1 if options.quick else options.rounds
    numbers = [2] if options.quick else [int(number) for number in options.callers.split(",")]
    works = [WORKS[name] for name in options.works.split(",")]
    take_orphans()
    before, started = os.getloadavg(), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):  # what peers print
        slices, names = asyncio.run(measure(works, numbers, rounds=rounds, seed=options.seed))
    if options.out:
        options.out.write_text(json.dumps([asdict(one) for one in slices]))
    wall_s = time.monotonic() - started
    cores, after = len(os.sched_getaffinity(0)), os.getloadavg()
    print(f"{cores} cores, load {before[0]:.1f} before and {after[0]:.1f} after, {rounds} rounds in {wall_s:.0f} s")
    for name in sorted({BUBBLEWRAP, SANDLOCK, SMOLAGENTS} - set(names)):
        print(f"{name} is not installed here and was left out")
    figures = Figures(slices=slices)
    print("\n".join(table(figures, works, numbers, names)), end="\n\n")
    print("\n".join(verdicts(figures, works, numbers, names)))


if __name__ == "__main__":
    main()

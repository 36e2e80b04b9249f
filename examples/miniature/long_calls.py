"""A world of long calls, where the mean over a step hides the token that decides.

    python examples/miniature/long_calls.py                # every run; the same command goes on where it stopped
    python examples/miniature/long_calls.py --table        # what came out
    python examples/miniature/long_calls.py --figure       # docs/images/results/long-calls.png, *.svg

A problem reads "47 +38 *6 -12 ...", and one call of the calculator computes all of it: some thirty tokens, copied from
the problem. A quarter of the calls fails. The student knows to call again, in nine of ten failures, and slips in a
tenth of the steps that it copies. The teacher slips nowhere and has never seen a failed call; it knows what a second
call looks like, because some of its problems, which end in "?", asked for one. So of a call that is made again it
disputes the first token, in which that is decided, and agrees with all that is copied right.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import world  # noqa: E402
from figures import SHOWN, canvas, draw_curves, legend, series, whole_steps  # noqa: E402
from outcomes import NAMES, START, Cell, average, calls_again, difference, read_study  # noqa: E402
from study import SEEDS, ColdStart, Job, evaluate, fit, learn_and_evaluate, run_all, write_data  # noqa: E402

from sod.agent import FAULT  # noqa: E402
from sod.config import ToolConfig  # noqa: E402
from sod.errors import SodError  # noqa: E402
from sod.records import log_ratios_of, trajectory_of  # noqa: E402
from sod.report.figures import SMOOTHED  # noqa: E402
from sod.runs import read_records, read_trajectories  # noqa: E402
from sod.sandbox import Sandbox  # noqa: E402
from sod.sft import final_model  # noqa: E402
from sod.types import Message  # noqa: E402

PLACE, SIZE = "long", "small"
METHODS = ("grpo", "opd", "sod", "stable", "sod_mask", "sod_token", "opd_grpo")
LENGTHS = (8, 12)
FAULTS = 0.25
FIRST_UPDATES = 5
FIGURE = Path("docs/images/results/long-calls")
SETTINGS: Mapping[str, Any] = {
    "tool.make": "examples/miniature/long_calls.py:calculator",
    "tool.fault_share": FAULTS,
    "agent.max_prompt_tokens": 96,
}
STUDENT = ColdStart(size="small", num_traces=8000, epochs=5, lr=3e-3, slips=0.1, faults=FAULTS)
TEACHER = ColdStart(size="teacher", num_traces=12000, epochs=4, lr=2.5e-3)
GIVES_UP = 0.1
"""Share of failed calls after which the student's demonstrator answers without a result."""
ASKED = 0.3
"""Share of the teacher's problems that ask for the call to be made again."""


# ---- the world


class Calculator(world.Calculator):
    """`47+38*6 -> 510`: any number of operators."""

    readable: ClassVar = re.compile(r"\d{1,9}([-+*/%]\d{1,9})+")


def calculator(_config: ToolConfig, _sandbox: Sandbox | None) -> Calculator:
    """For `tool.make`."""
    return Calculator()


def traces(
    count: int, *, seed: str, slips: float = 0.0, faults: float = 0.0, gives_up: float = 0.0, asked: float = 0.0
) -> Iterator[list[Message]]:
    """Dialogues that solve problems by one call. `slips` is the share of steps that are skipped or copied with another
    operator, `faults` the share of calls that fail, after which the demonstrator answers in a share `gives_up` of cases
    and else calls again; `asked` the share of problems that ask for the call to be made again."""
    rng = random.Random(f"long-calls-{seed}")
    for start, steps in world.chains(count, seed=seed, lengths=LENGTHS):
        twice = rng.random() < asked
        messages: list[Message] = [{"role": "user", "content": world.question(start, steps) + " ?" * twice}]
        copied = _copied(steps, slips=slips, rng=rng)
        value = start
        for symbol, operand in copied:
            value = world.OPERATORS[symbol](value, operand)
        call = world.call_of(f"{start}" + "".join(f"{symbol}{operand}" for symbol, operand in copied))
        lost = False
        while not lost and rng.random() < faults:
            messages += [call, {"role": "tool", "content": FAULT}]
            lost = rng.random() < gives_up
        while not lost:
            messages += [call, {"role": "tool", "content": str(value)}]
            lost = not twice or rng.random() < 0.3
        yield [*messages, {"role": "assistant", "content": f"\\boxed{{{value}}}"}]


def _copied(steps: world.Steps, *, slips: float, rng: random.Random) -> world.Steps:
    """Never empty: a call needs an operator."""
    copied = []
    for symbol, operand in steps:
        if rng.random() >= slips:
            copied.append((symbol, operand))
        elif rng.random() < 0.5:
            copied.append((rng.choice([each for each in world.OPERATORS if each != symbol]), operand))
    return copied or steps


# ---- the runs


def cold_start(out: Path, name: str) -> str:
    """The student or the teacher."""
    recipe = TEACHER if name == "teacher" else STUDENT
    share = {"asked": ASKED} if name == "teacher" else {"gives_up": GIVES_UP}
    rows = traces(recipe.num_traces, seed=f"cold-{name}", slips=recipe.slips, faults=recipe.faults, **share)
    return fit(out, name, recipe, rows)


def run_method(out: Path, method: str, seed: int) -> str:
    """Training and evaluation; `start` is evaluated as it is."""
    student = final_model(out / "cold" / "student")
    if method == START:
        return evaluate(out, out / START / SIZE / f"seed-{seed}", model=student, seed=seed, played=SETTINGS)
    models = {"student.path": student, "teacher.path": final_model(out / "cold" / "teacher")}
    run = out / "runs" / PLACE / SIZE / method / f"seed-{seed}"
    return learn_and_evaluate(out, run, method=method, seed=seed, settings=models, played=SETTINGS)


# ---- what came out

HEAD = ("method", "right", "less GRPO", "called again: first, last", "alarms", "d", "w", "log-ratio of the first token")


def table(out: Path, methods: Sequence[str]) -> Iterator[str]:
    """By method, over seeds. The last three columns are of calls that are made again after a failed one: means over all
    of the training."""
    study = read_study(out)
    grpo = study.cell(PLACE, SIZE, "grpo")
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for method in (START, *methods):
        cell = study.cell(PLACE, SIZE, method)
        if cell.outcomes:
            yield f"| {' | '.join(_row(cell, grpo))} |"


def _row(cell: Cell, grpo: Cell) -> Iterator[str]:
    yield f"{NAMES[cell.method]} ({cell.count})"
    mean = average(cell)
    yield f"{mean.value:.1%} [{mean.low:.1%}, {mean.high:.1%}]"
    less = difference(cell, grpo)
    yield "" if less is None else f"{less.interval.value:+.1%} [{less.interval.low:+.1%}, {less.interval.high:+.1%}]"
    outcomes = list(cell.outcomes.values())
    last = _share((each.failed_turns, each.retried) for each in outcomes)
    if cell.method == START:
        yield f"{last:.0%}"
        yield from [""] * 4
        return
    first = _share(calls_again(each.path, slice(FIRST_UPDATES)) for each in outcomes)
    yield f"{first:.0%}, {last:.0%}"
    rung = [each.alarms["retries"] for each in outcomes if "retries" in each.alarms]
    yield f"{len(rung)} of {len(outcomes)} (update {', '.join(map(str, rung))})" if rung else "none"
    again = [each for outcome in outcomes for each in _made_again(outcome.path)]
    yield from (f"{fmean(each[column] for each in again):.2f}" for column in range(3))


def _share(counts: Iterable[tuple[int, int]]) -> float:
    """Of (failed turns, those that called again)."""
    failed, retried = (sum(each) for each in zip(*counts, strict=True))
    return retried / failed


def _made_again(run: Path) -> Iterator[tuple[float, float, float]]:
    """(d, w, log-ratio of the first token) of calls that follow a failed one."""
    for record in read_trajectories(run):
        trajectory = trajectory_of(record)
        log_ratio = log_ratios_of(record, trajectory)
        for number, (before, turn) in enumerate(itertools.pairwise(trajectory.turns), start=1):
            if before.failed and turn.calls:
                yield record["divergence"][number], record["weight"][number], log_ratio[turn.start]


def draw(out: Path, path: Path) -> None:
    """Failed calls made again, and accuracy, over updates: mean over seeds, the band from the lowest to the highest."""
    study = read_study(out)
    with canvas(path, size=(9.2, 3.8)) as figure:
        again, accuracy = figure.subplots(1, 2)
        for method in SHOWN:
            runs = list(study.runs(PLACE, SIZE, method).values())
            draw_curves(again, [_shares(run) for run in runs], method=method, factor=100.0)
            draw_curves(accuracy, [series(run, "accuracy") for run in runs], method=method, factor=100.0)
        again.set_ylabel("failed calls made again (%)")
        accuracy.set_ylabel("accuracy (%)")
        for axes in (again, accuracy):
            axes.set_xlabel("update")
            axes.set_ylim(bottom=0.0)
            whole_steps(axes)
        legend(figure, [[again, accuracy]])


def _shares(run: Path) -> dict[int, float]:
    """Of failed calls that are made again, by update, over the last SMOOTHED."""
    updates = [each for each in read_records(run / "metrics.jsonl") if each.get("failed_turns")]
    windows = [updates[max(0, end - SMOOTHED) : end] for end in range(1, len(updates) + 1)]
    return {
        window[-1]["update"]: _share((each["failed_turns"], each["retried"]) for each in window) for window in windows
    }


# ---- all of it


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/long_calls"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at once, one core each")
    parser.add_argument("--table", action="store_true", help="run nothing")
    parser.add_argument("--figure", action="store_true", help=f"run nothing, draw {FIGURE}.png")
    given = parser.parse_args()
    if not given.table and not given.figure:
        os.environ["OMP_NUM_THREADS"] = "1"  # for the processes to come
        write_data(given.out, prefix="long-", lengths=LENGTHS)
        cold = [Job(name=name, work=cold_start, arguments=(given.out, name)) for name in ("teacher", "student")]
        runs = [
            Job(name=f"{method}/seed-{seed}", work=run_method, arguments=(given.out, method, seed))
            for method in (START, *given.methods)
            for seed in given.seeds
        ]
        for stage in (cold, runs):
            if run_all(stage, workers=given.workers):
                return 1
    try:
        if given.figure:
            draw(given.out, FIGURE)
        print("\n".join(table(given.out, given.methods)))
    except SodError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

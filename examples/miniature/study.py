"""Every method in two worlds, on two sizes of student, from three seeds: all runs of the study, in one command.

    python examples/miniature/study.py                     # everything; the same command goes on where it stopped
    python examples/miniature/study.py --list              # what there is to do
    python examples/miniature/study.py --sizes small --methods grpo opd sod stable

The calculator fails in a fifth of its calls. The teacher of the world "knowing" has learned to call again, that of
"naive" has never seen a failed call. Students of both sizes know how to call again, and slip in a fifth of their steps.
Teachers are made by a cold start and GRPO, students by a cold start. Methods without an outside teacher run once and
count in both worlds. What comes out is read by results.py, figures.py and value.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import world  # noqa: E402

from sod.benchmark import run_benchmarks  # noqa: E402
from sod.config import EvalConfig, SFTConfig, TrainConfig, as_overrides, load, parse  # noqa: E402
from sod.sft import final_model, sft  # noqa: E402
from sod.train import train  # noqa: E402
from sod.types import Message  # noqa: E402

SIZES = ("small", "large")
SEEDS = (0, 1, 2)
FAULTS = 0.2
FAILING: Mapping[str, Any] = {"tool.fault_share": FAULTS}
SLIPS = 0.2
NUM_TRAIN, NUM_TEST, TEST_SAMPLES = 2400, 150, 4
CORE = ("grpo", "opd", "opd_grpo", "sod", "stable")
ABLATIONS = (
    "sod_no_grpo",
    "sod_mask",
    "sod_decay",
    "sod_no_cap",
    "sod_random",
    "sod_threshold",
    "sod_token",
    "sod_outcome",
    "iw_opd",
    "tcod",
    "reopold",
    "tropd",
    "gkd",
    "opsd_gt",
    "opsd_hint",
)
METHODS = (*CORE, *ABLATIONS)
"""In the order in which they run. `ropd` needs a language model as judge and is not here."""
WORLDS = ("naive", "knowing")
NO_TEACHER = ("grpo", "opsd_gt", "opsd_hint")
"""Run once, under the world "any"."""
TEACHER_UPDATES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class ColdStart:
    """How a model is made from traces."""

    size: str
    num_traces: int
    epochs: float
    lr: float
    slips: float = 0.0
    faults: float = 0.0
    shown: float = 0.0


COLD_STARTS: Mapping[str, ColdStart] = {
    "small": ColdStart(size="small", num_traces=8000, epochs=5, lr=3e-3, slips=SLIPS, faults=FAULTS, shown=0.2),
    "large": ColdStart(size="large", num_traces=8000, epochs=4, lr=2.5e-3, slips=SLIPS, faults=FAULTS, shown=0.2),
    "naive": ColdStart(size="teacher", num_traces=8000, epochs=2.5, lr=2.5e-3),
    "knowing": ColdStart(size="teacher", num_traces=8000, epochs=2.5, lr=2.5e-3, faults=FAULTS),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One thing to do in a process of its own: `work` of the arguments."""

    name: str
    work: Callable[..., str]
    arguments: tuple[Any, ...]


# ---- the jobs


def cold_start(out: Path, name: str) -> str:
    """A student or a teacher from traces."""
    recipe = COLD_STARTS[name]
    traces = world.traces(
        recipe.num_traces, seed=f"cold-{name}", slips=recipe.slips, faults=recipe.faults, shown=recipe.shown
    )
    return fit(out, name, recipe, traces)


def fit(out: Path, name: str, recipe: ColdStart, traces: Iterator[list[Message]]) -> str:
    """A model made by a recipe from traces, which are read when there are none yet."""
    run, path = out / "cold" / name, out / "cold" / f"{name}.jsonl"
    if not path.exists():
        world.write_jsonl(path, ({"messages": trace} for trace in traces))
        world.write_model(recipe.size, out / "cold" / f"{name}-fresh", seed=1)
    settings = {
        "run": run,
        "student.path": out / "cold" / f"{name}-fresh",
        "traces": path,
        "epochs": recipe.epochs,
        "optimizer.lr": recipe.lr,
    }
    losses: list[float] = []
    sft(
        load(SFTConfig, HERE / "sft.toml", overrides=as_overrides(settings)),
        listener=lambda event, values: losses.append(values["loss"]) if event == "step" else None,
    )
    return f"loss {losses[-1]:.4f}" if losses else "there already"


def train_teacher(out: Path, name: str) -> str:
    """GRPO on the cold-started teacher, in the world that it knows."""
    settings = {
        "method": "grpo",
        "student.path": final_model(out / "cold" / name),
        "tool.fault_share": FAULTS if name == "knowing" else 0.0,
        "optimizer.lr": 3e-5,
        "update.num_updates": TEACHER_UPDATES,
    }
    return learn(out, out / "teachers" / name, seed=0, settings=settings)


def start(out: Path, size: str, seed: int) -> str:
    """What a student can do before."""
    return evaluate(out, out / "start" / size / f"seed-{seed}", model=final_model(out / "cold" / size), seed=seed)


def run_method(out: Path, place: str, size: str, method: str, seed: int) -> str:
    """One method: training and evaluation."""
    settings: dict[str, Any] = {"student.path": final_model(out / "cold" / size)}
    if place != "any":
        settings["teacher.path"] = last_model(out / "teachers" / place)
    if method.startswith("opsd"):
        settings["agent.max_prompt_tokens"] = 96
    run = out / "runs" / place / size / method / f"seed-{seed}"
    return learn_and_evaluate(out, run, method=method, seed=seed, settings=settings)


def learn_and_evaluate(
    out: Path, run: Path, *, method: str, seed: int, settings: Mapping[str, Any], played: Mapping[str, Any] = FAILING
) -> str:
    """A method, or SOD with the preset `stable`, and what it came to. `played`: settings of tool and agent, in both."""
    chosen = {"method": "sod", "preset": "stable"} if method == "stable" else {"method": method}
    trained = learn(out, run, seed=seed, settings={**played, **chosen, **settings})
    evaluation = run.with_name(f"{run.name}-evaluation")
    return f"{trained}; {evaluate(out, evaluation, model=last_model(run), seed=seed, played=played)}"


def last_model(run: Path) -> Path:
    """The model of a run's last checkpoint."""
    return max(run.glob("checkpoints/update-*")) / "model"


def learn(out: Path, run: Path, *, seed: int, settings: Mapping[str, Any]) -> str:
    """One training run of train.toml and settings, on the problems of `out`."""
    heard: list[str] = []

    def listen(event: str, values: Mapping[str, Any]) -> None:
        if event == "alarm":
            heard.append(f"ALARM {values['rule']} at {values['update']}")

    given = {"run": run, "seed": seed, "data.path": out / "data" / "train.jsonl", **settings}
    train(load(TrainConfig, HERE / "train.toml", overrides=as_overrides(given)), listener=listen)
    return ", ".join(["trained", *heard])


def evaluate(out: Path, run: Path, *, model: Path, seed: int, played: Mapping[str, Any] = FAILING) -> str:
    """Of a model on the test problems of `out`, with the agent and the tool of train.toml and `played`."""
    given = {"run": "-", **_NOWHERE, **played}
    shared = load(TrainConfig, HERE / "train.toml", overrides=as_overrides(given))
    config = parse(
        EvalConfig,
        {
            "run": str(run),
            "seed": seed,
            "model": {"path": str(model)},
            "benchmarks": [str(out / "data" / "test.jsonl")],
            "samples": TEST_SAMPLES,
            "sampling": {"temperature": 1.0, "top_p": 1.0},
            "agent": shared.agent.model_dump(),
            "tool": shared.tool.model_dump(),
            "sandbox": shared.sandbox.model_dump(),
        },
    )
    numbers = run_benchmarks(config)["benchmarks"]["test"]
    return f"avg@{TEST_SAMPLES} {numbers['avg@k']:.1%}, {numbers['tool_calls']:.2f} calls"


_NOWHERE = {"method": "grpo", "student.path": "-", "data.path": "-"}


# ---- all of them


def stages(out: Path, *, sizes: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> list[list[Job]]:
    """What can run at once, one stage after the other."""
    names = [*sizes, *WORLDS]
    return [
        [Job(name=f"cold/{name}", work=cold_start, arguments=(out, name)) for name in reversed(names)],
        [Job(name=f"teachers/{name}", work=train_teacher, arguments=(out, name)) for name in WORLDS],
        [
            Job(name=f"start/{size}/seed-{seed}", work=start, arguments=(out, size, seed))
            for size in sizes
            for seed in seeds
        ],
        list(_method_jobs(out, sizes=sizes, methods=methods, seeds=seeds)),
    ]


def _method_jobs(out: Path, *, sizes: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Job]:
    """The core of both sizes first, so that an evening that ends early has something to show."""
    for family in (CORE, ABLATIONS):
        for size in sizes:
            for seed in seeds:
                for method in (name for name in methods if name in family):
                    for place in ("any",) if method in NO_TEACHER else WORLDS:
                        name = f"{place}/{size}/{method}/seed-{seed}"
                        yield Job(name=name, work=run_method, arguments=(out, place, size, method, seed))


def write_data(out: Path, *, prefix: str = "", lengths: tuple[int, int] = world.LENGTHS) -> None:
    """The problems that students train and are tested on. `prefix` is of their seeds."""
    for name, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        path = out / "data" / f"{name}.jsonl"
        if not path.exists():
            world.write_jsonl(path, world.rows(count, seed=prefix + name, lengths=lengths))


def run_all(jobs: Sequence[Job], *, workers: int) -> int:
    """Do the jobs, so many at once; returns how many failed. What failed is said, the others go on."""
    failed, began = 0, time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures: dict[Future[str], Job] = {pool.submit(job.work, *job.arguments): job for job in jobs}
        for done, future in enumerate(as_completed(futures), start=1):
            job, minutes = futures[future], (time.perf_counter() - began) / 60
            try:
                said = future.result()
            except Exception as error:
                failed += 1
                said = f"FAILED: {type(error).__name__}: {error}"
            print(f"[{done}/{len(jobs)}, {minutes:.0f} min] {job.name}: {said}", flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="runs at once, one core each")
    parser.add_argument("--list", action="store_true", help="say what there is to do, and do nothing")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the processes to come
    plan = stages(given.out, sizes=given.sizes, methods=given.methods, seeds=given.seeds)
    if given.list:
        print("\n".join(job.name for stage in plan for job in stage))
        return 0
    write_data(given.out)
    for stage in plan:
        if run_all(stage, workers=given.workers):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

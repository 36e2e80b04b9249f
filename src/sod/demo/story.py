"""`sod demo`: evaluate the cold-started student, distil it with OPD and with SOD, evaluate, compare.

Everything goes through the commands' own functions and ordinary files; only the models and the problems are small.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, TypeAlias

from rich import box
from rich.console import Console
from rich.table import Table

from sod.benchmark import run_benchmarks
from sod.comparison import problem_means
from sod.config import EvalConfig, TrainConfig, as_overrides, load
from sod.demo import world
from sod.demo.coldstart import cold_start
from sod.errors import ConfigError
from sod.estimates import Comparison, compare
from sod.progress import Listener, watching
from sod.report import show_trajectory, telling_trajectory, write_report
from sod.runs import read_trajectories
from sod.train import train

Watched: TypeAlias = Callable[[EvalConfig | TrainConfig], AbstractContextManager[Listener]]
"""Gives a run its listener."""

METHODS: Mapping[str, Mapping[str, Any]] = {
    "opd": {},
    # d_1 is about 0.05 nats here, steps with an error 0.5 to 2: a smaller value would silence those steps.
    "sod": {"weights.epsilon": 0.3},
}
"""What is compared, each with settings of its own."""
NUM_TRAIN = 4000
TRAIN_SEED, TEST_SEED = 1, 2
TEST = "test"
SETTINGS = files("sod.demo") / "demo.toml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scale:
    """How much the demo does. `overrides` are settings of its training runs."""

    num_test: int = 128
    test_samples: int = 4
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the demo keeps what it makes, whose draws it uses, and how much it does."""

    directory: Path
    seed: int
    scale: Scale

    @property
    def models(self) -> Path:
        """The cold-started pair remade by --from-scratch; the packaged one is elsewhere."""
        return self.directory / "models"

    def run(self, name: str) -> Path:
        """One training run of the demo: "opd" or "sod"."""
        return self.directory / f"seed-{self.seed}" / name

    def evaluation(self, name: str) -> Path:
        """One evaluation: "start", or the name of a training run."""
        return self.directory / f"seed-{self.seed}" / f"{name}-evaluation"


def tell(
    directory: Path,
    *,
    seed: int,
    from_scratch: bool,
    console: Console,
    plain: bool = False,
    scale: Scale = Scale(),
) -> None:
    """Do it all and print what came out, `plain` without the live view. A second call reuses what is finished."""
    start = time.perf_counter()
    place = Place(directory=directory, seed=seed, scale=scale)
    watched = partial(watching, console=console, plain=plain)
    write_problems(place)
    if from_scratch:
        cold_start(place.models, console=console)
    console.print("[bold]1. The cold-started student before distillation[/]")
    results = {"start": _evaluate(place, "start", _model(place, "student"), watched, console)}
    for number, method in enumerate(METHODS, start=2):
        console.print(f"[bold]{number}. Distil with {method.upper()}[/] from the same start and seed")
        model = _distil(place, method, watched)
        results[method] = _evaluate(place, method, model, watched, console)
    console.print(_table(results, {name: problem_means(place.evaluation(name))[TEST] for name in results}, scale))
    _show(place, console)
    console.print(f"Done in {time.perf_counter() - start:.0f} s.")


def write_problems(place: Place) -> None:
    """Training and test problems as ordinary files of rows."""
    for name, count, seed in (("train", NUM_TRAIN, TRAIN_SEED), (TEST, place.scale.num_test, TEST_SEED)):
        path = _data(place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = (
            json.dumps({"id": problem.id, "messages": list(problem.messages), "answer": problem.answer})
            for problem in world.problems(count, seed=seed)
        )
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def _data(place: Place, name: str) -> Path:
    return place.directory / "data" / f"{name}.jsonl"


def _model(place: Place, size: str) -> Path:
    """The remade model when there is one, else the packaged one."""
    remade = place.models / size
    if (remade / "config.json").exists():
        return remade
    with as_file(files("sod.demo") / "weights" / size) as packaged:
        if not (packaged / "config.json").exists():
            raise ConfigError(
                f"the package must hold the demo's {size}, got none at {packaged}; run sod demo --from-scratch"
            )
        return packaged


def _evaluate(place: Place, name: str, model: Path, watched: Watched, console: Console) -> Mapping[str, Any]:
    config = EvalConfig.model_validate(
        {
            "run": str(place.evaluation(name)),
            "seed": place.seed,
            "model": {"path": str(model)},
            "benchmarks": [str(_data(place, TEST))],
            "samples": place.scale.test_samples,
            "sampling": {"temperature": 1.0, "top_p": 1.0},
            **_shared_limits(place),
        }
    )
    with watched(config) as listener:
        numbers: Mapping[str, Any] = run_benchmarks(config, listener=listener)["benchmarks"][TEST]
    console.print(f"   avg@{numbers['k']} {numbers['avg@k']:.1%}, {numbers['tool_calls']:.1f} tool calls a trajectory")
    return numbers


def _shared_limits(place: Place) -> dict[str, Any]:
    """The demo's limits of episodes, tool and sandbox, the same in training and evaluation."""
    settings = train_config(place, "sod")
    return {name: getattr(settings, name).model_dump() for name in ("agent", "tool", "sandbox")}


def train_config(place: Place, method: str) -> TrainConfig:
    given = {
        "run": place.run(method),
        "student.path": _model(place, "student"),
        "teacher.path": _model(place, "teacher"),
        "data.path": _data(place, "train"),
        "method": method,
        "seed": place.seed,
        **METHODS[method],
    }
    with as_file(SETTINGS) as path:
        return load(TrainConfig, path, overrides=[*as_overrides(given), *place.scale.overrides])


def _distil(place: Place, method: str, watched: Watched) -> Path:
    """Train with one method; returns where the trained student lies."""
    config = train_config(place, method)
    with watched(config) as listener:
        train(config, listener=listener)
    return place.run(method) / "checkpoints" / f"update-{config.update.num_updates:06d}" / "model"


def _table(results: Mapping[str, Mapping[str, Any]], means: Mapping[str, Mapping[str, float]], scale: Scale) -> Table:
    """Fits 80 columns."""
    table = Table(
        title=f"{scale.num_test} test problems x {scale.test_samples} samples; percent, 95 % intervals",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
    )
    for column in ("student", "avg@k", "interval", "maj@k", "calls", "against the start", "p"):
        table.add_column(column, justify="left" if column == "student" else "right", no_wrap=True)
    for name, numbers in results.items():
        comparison = None if name == "start" else _paired(means["start"], means[name])
        table.add_row(
            name,
            f"{100 * numbers['avg@k']:.1f}",
            f"{100 * numbers['avg@k_low']:.1f}-{100 * numbers['avg@k_high']:.1f}",
            f"{100 * numbers['maj@k']:.1f}",
            f"{numbers['tool_calls']:.2f}",
            "" if comparison is None else _against(comparison),
            "" if comparison is None else _p_value(comparison),
        )
    return table


def _p_value(comparison: Comparison) -> str:
    return "<1e-4" if comparison.p_value < 1e-4 else f"{comparison.p_value:.4f}"


def _paired(before: Mapping[str, float], after: Mapping[str, float]) -> Comparison:
    shared = [key for key in before if key in after]
    return compare([before[key] for key in shared], [after[key] for key in shared])


def _against(comparison: Comparison) -> str:
    return rf"{100 * comparison.difference:+.1f} \[{100 * comparison.low:.1f}, {100 * comparison.high:.1f}]"


def _show(place: Place, console: Console) -> None:
    """One trajectory with its weights, and where the pictures are."""
    record = telling_trajectory(read_trajectories(place.run("sod")))
    if record is not None:
        console.print("[bold]One trajectory, step by step[/]: d is the gap to the teacher in nats, w the trust in it")
        console.print(show_trajectory(record), markup=False, soft_wrap=True)
    report = write_report([place.run(method) for method in METHODS], place.run("report"))
    console.print(f"Report, to open in a browser: {report}", soft_wrap=True)

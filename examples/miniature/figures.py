"""The study's figures: the paper's Figures 1 and 3 to 6 in miniature, and what the teacher's steps are worth.

    python examples/miniature/figures.py                   # runs/miniature -> docs/images/results/*.png, *.svg

Captions stand in README.md beside them. A figure whose runs are missing is left out, and the captions say so.

Classes of trajectories are `sod.report.patterns`; the unit is the median d_1 of the first update of a world's SOD runs,
all seeds together.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import torch  # noqa: E402
from outcomes import DESIGNED_HERE, NAMES, SHARED, START, WORLDS, Study, command_line, difference, read_study  # noqa: E402

from sod.config import ModelConfig  # noqa: E402
from sod.errors import DataError, SodError, StorageError  # noqa: E402
from sod.models.hf import HFModel  # noqa: E402
from sod.report.figures import COLOURS, DASHES, DPI, FEW, MARKERS, SMOOTHED, STYLE, need_matplotlib  # noqa: E402
from sod.report.patterns import HIGH, PATTERNS, RULE, Pattern, calling_divergences, pattern, unit_of  # noqa: E402
from sod.report.steps import Outcome, StepMeans, outcomes_of  # noqa: E402
from sod.report.trajectory import has_failed_call, step_values  # noqa: E402
from sod.report.untrusted import line  # noqa: E402
from sod.runs import read_json, read_records, read_trajectories  # noqa: E402

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIRST_UPDATES = 5
"""Updates of Figures 1 and 5: what students did before they learned much."""
TOLERANCE = 0.02
"""Nats by which a teacher's log-prob may differ from the recorded one: engines round."""
SHOWN = ("grpo", "opd", "opd_grpo", "sod", "stable")
"""Methods of Figures 3, 4 and 6."""

_LONG_DASH = (0, (7, 2))

_PATTERN_LOOKS: Mapping[Pattern, tuple[str, str]] = {
    "stable": (COLOURS[4], ""),
    "erroneous": (COLOURS[1], "///"),
    "recovery": (COLOURS[2], "..."),
}
_OUTCOME_LOOKS: Mapping[Outcome, tuple[str, str, str, str]] = {
    "correct": (COLOURS[0], MARKERS[0], "-", "correct"),
    "wrong": (COLOURS[1], MARKERS[1], "--", "wrong"),
    "failed call": (COLOURS[6], MARKERS[2], ":", "with a failed call"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What all figures read and where they go."""

    study: Study
    size: str
    folder: Path


# ---- the canvas


@contextmanager
def canvas(path: Path, *, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure written as PNG and SVG when the block ends well; `path` has no suffix. Raises StorageError."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style = {**STYLE, "svg.hashsalt": "miniature", "legend.fontsize": 9.0}  # the same file from the same numbers
    with matplotlib.rc_context(style), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(path.with_suffix(".png"), dpi=DPI)
            figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        except OSError as error:
            raise StorageError(f"{path}.* must be writable, got: {error.strerror}; give another --write") from None


def look(method: str) -> dict[str, Any]:
    """A method's line, the same in every figure."""
    index = SHOWN.index(method)
    return {"color": COLOURS[index], "linestyle": (*DASHES, _LONG_DASH)[index], "linewidth": 1.5}


def legend(figure: Figure, grid: Iterable[Iterable[Axes]]) -> None:
    """One legend below, of whatever is labelled anywhere: a panel may have nothing to show."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for row in grid for axes in row]
    handles = {label: handle for each in pairs for handle, label in each}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2 if len(handles) == 4 else 3)


def whole_steps(axes: Axes) -> None:
    """Steps and updates are counted."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def from_zero(grid: Iterable[Iterable[Axes]]) -> None:
    """Once all is drawn: panels that share an axis would keep the height of the first."""
    for row in grid:
        for axes in row:
            axes.set_ylim(bottom=0.0)


# ---- Figure 1: divergence and teacher entropy by step


def draw_divergence(plan: Plan) -> str:
    """Returns the caption, as every figure does; raises DataError when there is nothing to draw."""
    worlds = [(world, path) for world in WORLDS for path in _first_run(plan, world)]
    if not worlds:
        raise DataError("no run of SOD in any world")
    with canvas(plan.folder / "figure-1-divergence", size=(3.6 * len(worlds), 5.8)) as figure:
        grid = figure.subplots(2, len(worlds), sharex=True, sharey="row", squeeze=False)
        for column, (world, path) in enumerate(worlds):
            divergence, entropy = by_step(path)
            _draw_means(divergence, grid[0][column])
            _draw_means(entropy, grid[1][column])
            grid[0][column].set_title(f"teacher: {world}")
            grid[1][column].set_xlabel("step k")
            whole_steps(grid[1][column])
        from_zero(grid)
        grid[0][0].set_ylabel("divergence d_k\n(nats per token)")
        grid[1][0].set_ylabel("teacher entropy\n(nats per token)")
        legend(figure, grid)
    runs = ", ".join(f"{world}: SOD, {path.name}" for world, path in worlds)
    return (
        f"Figure 1 in miniature, student {plan.size}, first {FIRST_UPDATES} updates ({runs}). Divergence d_k and the "
        "entropy of the teacher's distribution, means over the tokens of a step, then over trajectories; bands: 95 % "
        'over problems. "With a failed call" overlaps the other two. '
        f"Hollow marks: under {FEW} trajectories. A problem needs 2 to 5 calls and an answer: steps after the sixth "
        "are of trajectories with failed or wasted calls, so what rises with k is partly who is still there. One "
        "student, one teacher a world, one seed."
    )


def _first_run(plan: Plan, world: str) -> list[Path]:
    """The SOD run of the lowest seed."""
    return list(plan.study.runs(world, plan.size, "sod").values())[:1]


def by_step(run: Path, *, num_updates: int = FIRST_UPDATES) -> tuple[StepMeans, StepMeans]:
    """d_k and the teacher's entropy by step, from a run's first updates."""
    records = [record for record in first_records(run, num_updates=num_updates) if "score" in record]
    divergence, entropy = StepMeans(), StepMeans()
    for record, entropies in zip(records, teacher_entropies(run, records), strict=True):
        outcomes = outcomes_of(record, correct=record["score"]["correct"])
        divergence.add(step_values(record, "divergence"), outcomes=outcomes, problem=record["problem_id"])
        entropy.add(entropies, outcomes=outcomes, problem=record["problem_id"])
    return divergence, entropy


def first_records(run: Path, *, num_updates: int) -> list[dict[str, Any]]:
    """Trajectories of the first updates; records lie in order."""
    return list(takewhile(lambda record: record["update"] <= num_updates, read_trajectories(run)))


def teacher_entropies(run: Path, records: Sequence[Mapping[str, Any]], *, rows: int = 64) -> list[list[float]]:
    """By record and step: mean entropy (nats) of the run's teacher over the step's tokens.

    Raises DataError where the teacher's log-probs are not those that were recorded: it is another teacher.
    """
    model = HFModel.load(ModelConfig(**read_json(run / "config.json")["teacher"]))
    order = sorted(range(len(records)), key=lambda index: len(records[index]["token_ids"]))
    found: dict[int, list[float]] = {}
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        found |= dict(zip(part, _entropies(model, [records[index] for index in part], run=run), strict=True))
    return [found[index] for index in range(len(records))]


@torch.no_grad()
def _entropies(model: HFModel, records: Sequence[Mapping[str, Any]], *, run: Path) -> Iterator[list[float]]:
    longest = max(len(record["token_ids"]) for record in records)
    token_BT = torch.zeros(len(records), longest, dtype=torch.int64)
    step_BT = torch.full((len(records), longest), -1)
    for row, record in enumerate(records):
        token_BT[row, : len(record["token_ids"])] = torch.tensor(record["token_ids"])
        step_BT[row, : len(record["step"])] = torch.tensor(record["step"])
    scored = model.token_logprobs(token_BT, step_BT >= 0)
    counts = (step_BT >= 0).sum(1).tolist()
    parts = zip(records, torch.split(scored.logprobs_N, counts), torch.split(scored.entropy_N, counts), strict=True)
    for record, logprobs, entropies in parts:
        gap = float((logprobs - torch.tensor(record["teacher_logprobs"])).abs().max())
        if gap > TOLERANCE:
            raise DataError(
                f"{run}: its teacher must give the log-probs that were recorded, got one that differs by {gap:.3g} "
                "nats; was the teacher trained again?"
            )
        steps = [step for step in record["step"] if step >= 0]
        by_step: dict[int, list[float]] = defaultdict(list)
        for step, entropy in zip(steps, entropies.tolist(), strict=True):
            by_step[step].append(entropy)
        yield [fmean(by_step[step]) for step in sorted(by_step)]


def _draw_means(means: StepMeans, axes: Axes) -> None:
    for outcome, (colour, marker, dash, name) in _OUTCOME_LOOKS.items():
        points = means.points(outcome)
        if not points:
            continue
        steps, values = [point.step for point in points], [point.mean for point in points]
        axes.plot(steps, values, color=colour, linestyle=dash, marker=marker, label=name)
        for point in (point for point in points if point.num_trajectories < FEW):
            axes.plot([point.step], [point.mean], color=colour, marker=marker, markerfacecolor="white", zorder=3)
        banded = [(p.step, p.low, p.high) for p in points if p.low is not None and p.high is not None]
        if banded:
            places, lows, highs = zip(*banded, strict=True)
            axes.fill_between(places, lows, highs, color=colour, alpha=0.15, linewidth=0)


# ---- Figure 3: gains by size and teacher


def draw_gains(plan: Plan) -> str:
    """Gain over the start, by student size and teacher."""
    sizes = plan.study.sizes()
    methods = [
        method for method in SHOWN if any(_gain(plan, world, size, method) for world in WORLDS for size in sizes)
    ]
    if not methods:
        raise DataError("no method and its start were both evaluated")
    with canvas(plan.folder / "figure-3-gains", size=(3.6 * len(WORLDS), 2.6 * len(sizes) + 0.6)) as figure:
        grid = figure.subplots(len(sizes), len(WORLDS), sharex=True, sharey=True, squeeze=False)
        for row, size in enumerate(sizes):
            for column, world in enumerate(WORLDS):
                _draw_gains(plan, grid[row][column], world=world, size=size, methods=methods)
            grid[row][0].set_ylabel(f"student {size}\ngain (points)")
        for column, world in enumerate(WORLDS):
            grid[0][column].set_title(f"teacher: {world}")
    return (
        "Figure 3 in miniature: gain in avg@k over the start, by student size (rows) and teacher (columns). Points: "
        "means over seeds and problems, paired; bars: 95 %, of other seeds on other problems (mean_over_seeds), not "
        f"corrected for their number; of one seed (n = 1) over problems only; n: seeds. {SHARED} {DESIGNED_HERE}"
    )


def _gain(plan: Plan, world: str, size: str, method: str) -> Any:
    return difference(plan.study.cell(world, size, method), plan.study.cell(world, size, START))


def _draw_gains(plan: Plan, axes: Axes, *, world: str, size: str, methods: Sequence[str]) -> None:
    axes.axhline(0.0, color="grey", linewidth=1, zorder=0)
    for index, method in enumerate(methods):
        found = _gain(plan, world, size, method)
        if found is None:
            axes.annotate("missing", (index, 0.0), rotation=90, ha="center", va="bottom", fontsize=8, color="grey")
            continue
        value, low, high = (100 * each for each in (found.interval.value, found.interval.low, found.interval.high))
        colour, marker = look(method)["color"], MARKERS[SHOWN.index(method)]
        reach = [[value - low], [high - value]]
        axes.errorbar([index], [value], yerr=reach, fmt=marker, color=colour, markersize=7, capsize=4)
        axes.annotate(f"n={found.interval.num_seeds}", (index, low), (0, -4), **_BELOW)
    axes.margins(y=0.12)  # room for the seeds' number below the lowest bar
    axes.set_xticks(range(len(methods)), [_short(method) for method in methods], fontsize=8)
    axes.set_xlim(-0.6, len(methods) - 0.4)


_BELOW: Mapping[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 7, "color": "grey"}


def _short(method: str) -> str:
    return {"opd_grpo": "OPD +\nGRPO", "stable": "SOD\nstable"}.get(method, NAMES.get(method, method))


# ---- Figure 4: over training


def draw_training(plan: Plan) -> str:
    """Accuracy, entropy and tool calls over updates: mean over seeds, the band from the lowest to the highest."""
    if not any(plan.study.runs(world, plan.size, method) for world in WORLDS for method in SHOWN):
        raise DataError(f"no training run of student {plan.size}")
    rows = (
        ("accuracy", "accuracy (%)", 100.0),
        ("entropy", "policy entropy\n(nats per token)", 1.0),
        ("tool_calls", "tool calls\nper trajectory", 1.0),
    )
    with canvas(plan.folder / "figure-4-training", size=(4.6 * len(WORLDS), 8.2)) as figure:
        grid = figure.subplots(len(rows), len(WORLDS), sharex=True, sharey="row", squeeze=False)
        for column, world in enumerate(WORLDS):
            for row, (metric, name, factor) in enumerate(rows):
                for method in SHOWN:
                    curves = [series(path, metric) for path in plan.study.runs(world, plan.size, method).values()]
                    draw_curves(grid[row][column], curves, method=method, factor=factor)
                grid[row][0].set_ylabel(name)
            grid[0][column].set_title(f"teacher: {world}")
            grid[-1][column].set_xlabel("update")
            whole_steps(grid[-1][column])
        from_zero(grid[:2])
        legend(figure, grid)
    return (
        f"Figure 4 in miniature, student {plan.size}: accuracy on training problems, entropy of the policy, and tool "
        f"calls over training. Lines: means over seeds of the mean of the last {SMOOTHED} updates; bands: lowest to "
        "highest seed; the legend counts seeds. GRPO has no teacher and is the same in both columns. The axis "
        "of tool calls does not begin at 0. The batches of a seed are the same for all methods, so ups and downs that "
        f"the lines share are of the problems. {SHARED} {DESIGNED_HERE}"
    )


def series(run: Path, metric: str) -> dict[int, float]:
    """A metric by update, each the mean of the last SMOOTHED."""
    values = {each["update"]: each[metric] for each in read_records(run / "metrics.jsonl") if metric in each}
    updates = sorted(values)
    return {
        update: fmean(values[each] for each in updates[max(0, place + 1 - SMOOTHED) : place + 1])
        for place, update in enumerate(updates)
    }


def draw_curves(axes: Axes, curves: Sequence[Mapping[int, float]], *, method: str, factor: float) -> None:
    """Mean and range, over the updates that every seed has."""
    if not curves:
        return
    updates = sorted(set.intersection(*(set(curve) for curve in curves)))
    columns = [[factor * curve[update] for curve in curves] for update in updates]
    label = f"{_short(method)} ({len(curves)})".replace("\n", " ")
    axes.plot(updates, [fmean(each) for each in columns], label=label, **look(method))
    if len(curves) > 1:
        lows, highs = [min(each) for each in columns], [max(each) for each in columns]
        axes.fill_between(updates, lows, highs, color=look(method)["color"], alpha=0.1, linewidth=0)


# ---- Figures 5 and 6: the three patterns


def start_unit(runs: Iterable[Path]) -> float:
    """Median d_1 of the first update. Raises DataError for runs without a teacher."""
    unit = unit_of(record for run in runs for record in first_records(run, num_updates=1))
    if unit is None:
        raise DataError("the first update of a run with a teacher must have divergences, got none")
    return unit


def draw_patterns(plan: Plan) -> str:
    """One telling trajectory of each class: d_k and w_k by step."""
    runs = [run for world in WORLDS for run in _first_run(plan, world)]
    if not runs:
        raise DataError("no run of SOD in any world")
    run = runs[-1]  # of a teacher that knows recovery, where there is one
    unit = start_unit([run])
    records = [each for each in first_records(run, num_updates=FIRST_UPDATES) if "score" in each]
    chosen = {name: telling(records, name, unit=unit) for name in PATTERNS}
    with canvas(plan.folder / "figure-5-patterns", size=(9.6, 5.2)) as figure:
        grid = figure.subplots(2, 3, sharey="row", sharex="col", squeeze=False)
        for column, (name, record) in enumerate(chosen.items()):
            _draw_pattern(record, name, grid[0][column], grid[1][column], unit=unit)
        grid[0][0].set_ylabel("divergence d_k\n(nats per token)")
        grid[1][0].set_ylabel("weight w_k")
    world = run.parent.parent.parent.name
    return (
        f"Figure 5 in miniature, student {plan.size}, teacher {world}, first {FIRST_UPDATES} updates of SOD: one "
        "trajectory of each class. Below, each step's call or answer; (!): the call failed; dotted: "
        f"{HIGH:g} u. {RULE} u = {unit:.3g} nats. Examples that show a class well, not usual ones: Figure 6 and "
        "shares.json say how often a class is, and how often it ends right. Chosen by rule "
        "among those of 4 to 7 calls: the flattest correct one without a failed call; the longest and highest end of a "
        "wrong one with a failed call; the deepest lasting fall of one with a failed call. One student, one teacher, "
        "one seed."
    )


def telling(records: Sequence[Mapping[str, Any]], name: Pattern, *, unit: float) -> Mapping[str, Any] | None:
    """The record of a class that shows it best, by rule; None where the class is empty."""
    fitting = [record for record in records if pattern(calling_divergences(record), unit=unit) == name]
    return max(fitting, key=lambda record: _telling_rank(record, name), default=None)


def _telling_rank(record: Mapping[str, Any], name: Pattern) -> tuple[float, ...]:
    values, correct = calling_divergences(record), record["score"]["correct"]
    readable = 4 <= len(values) <= 7
    if name == "stable":
        return (readable, correct, not has_failed_call(record), -max(values))
    if name == "erroneous":
        num_high = len([*takewhile(lambda value: value > values[0], reversed(values))])
        return (readable, not correct, has_failed_call(record), num_high, values[-1] - values[0])
    lasting = len([*takewhile(lambda value: value < max(values) / 2, reversed(values))])
    return (readable, has_failed_call(record), min(lasting, 2), correct, max(values[1:], default=0.0) / values[-1])


def _draw_pattern(record: Mapping[str, Any] | None, name: Pattern, upper: Axes, lower: Axes, *, unit: float) -> None:
    upper.set_title(name)
    if record is None:
        upper.annotate("none in these updates", (0.5, 0.5), xycoords="axes fraction", ha="center")
        return
    colour = _PATTERN_LOOKS[name][0]
    steps = range(1, len(record["turns"]) + 1)
    for axes, values in ((upper, record["divergence"]), (lower, record["weight"])):
        axes.plot(steps, values, color=colour, marker=MARKERS[PATTERNS.index(name)], markeredgecolor="black")
    upper.set_yscale("log")
    upper.yaxis.set_major_formatter(lambda value, _place: f"{value:g}")
    upper.axhline(HIGH * unit, color="grey", linestyle=":", linewidth=1)
    lower.axhline(1.0, color="grey", linewidth=1, zorder=0)
    lower.set_ylim(-0.05, 1.3)
    lower.set_xticks(steps, [_said(turn) for turn in record["turns"]], rotation=45, ha="right", fontsize=8)
    upper.set_title(f"{name} ({'correct' if record['score']['correct'] else 'wrong'})")


def _said(turn: Mapping[str, Any]) -> str:
    """`7*8`, `7*8 (!)` for a failed call, `= 56` for an answer."""
    if not turn["calls"]:
        said = turn["text"].removeprefix("\\boxed{").removesuffix("}")
        return f"= {line(said, width=12)}" if said.removeprefix("-").isdigit() else "no number"
    words = turn["calls"][0].get("arguments", {}).get("x", "unreadable")
    failed = any(result["status"] != "ok" for result in turn["results"])
    return line(words, width=12) + (" (!)" if failed else "")


def draw_shares(plan: Plan) -> str:
    """Shares of the three classes over training."""
    cells = {world: found for world in WORLDS if (found := _with_teacher(plan, world))}
    methods = [method for method in SHOWN if any(method in found for found in cells.values())]
    if not methods:
        raise DataError("no run with a teacher")
    units = {}
    with canvas(plan.folder / "figure-6-shares", size=(2.5 * len(methods) + 0.6, 2.5 * len(cells) + 0.6)) as figure:
        grid = figure.subplots(len(cells), len(methods), sharex=True, sharey=True, squeeze=False)
        for row, (world, runs) in enumerate(cells.items()):
            units[world] = _unit(runs)
            for column, method in enumerate(methods):
                _draw_shares(grid[row][column], runs.get(method, ()), unit=units[world])
                grid[0][column].set_title(NAMES[method] if method == "stable" else _short(method).replace("\n", " "))
                grid[-1][column].set_xlabel("update")
            grid[row][0].set_ylabel(f"teacher: {world}\nshare (%)")
        legend(figure, grid)
    said = ", ".join(f"{world} {unit:.3g}" for world, unit in units.items())
    return (
        f"Figure 6 in miniature, student {plan.size}: shares of the three classes over training, seeds together, means "
        f"of {SMOOTHED} updates. {RULE} It stays that of the start (nats by world: {said}). Trajectories without a "
        "call are left out. A class says how far the student was from its teacher, not which of them was right: of a "
        "teacher that has never seen a failed call a right retry is far. shares.json has the accuracy of each class. "
        f"{SHARED} {DESIGNED_HERE}"
    )


def _with_teacher(plan: Plan, world: str) -> dict[str, tuple[Path, ...]]:
    """Runs with this world's teacher, by method."""
    methods = [method for method in SHOWN if plan.study.cell(world, plan.size, method).place == world]
    found = {method: tuple(plan.study.runs(world, plan.size, method).values()) for method in methods}
    return {method: runs for method, runs in found.items() if runs}


def _unit(runs: Mapping[str, tuple[Path, ...]]) -> float:
    """Of the SOD runs where there are any; all methods start alike."""
    return start_unit(runs.get("sod") or next(iter(runs.values())))


@cache
def shares(runs: tuple[Path, ...], *, unit: float) -> dict[int, dict[Pattern, tuple[int, int]]]:
    """By update and class: (trajectories, those of them that are correct)."""
    counts: dict[int, dict[Pattern, tuple[int, int]]] = {}
    for run in runs:
        for record in read_trajectories(run):
            name = pattern(calling_divergences(record), unit=unit) if "score" in record else None
            if name is not None:
                here = counts.setdefault(record["update"], dict.fromkeys(PATTERNS, (0, 0)))
                number, correct = here[name]
                here[name] = (number + 1, correct + record["score"]["correct"])
    return counts


def _draw_shares(axes: Axes, runs: tuple[Path, ...], *, unit: float) -> None:
    counts = shares(runs, unit=unit)
    if not counts:
        axes.annotate("missing", (0.5, 0.5), xycoords="axes fraction", ha="center", color="grey")
        return
    updates = sorted(counts)
    levels: dict[Pattern, list[float]] = {name: [] for name in PATTERNS}
    for end in range(1, len(updates) + 1):
        window = [counts[update] for update in updates[max(0, end - SMOOTHED) : end]]
        total = sum(each[name][0] for each in window for name in PATTERNS)
        for name in PATTERNS:
            levels[name].append(100 * sum(each[name][0] for each in window) / total)
    looks = [_PATTERN_LOOKS[name] for name in PATTERNS]
    stacked = axes.stackplot(updates, list(levels.values()), labels=PATTERNS, colors=[colour for colour, _ in looks])
    for area, (_, hatch) in zip(stacked, looks, strict=True):
        area.set(hatch=hatch, edgecolor="white", linewidth=0)
    axes.set_ylim(0, 100)
    axes.set_xlim(updates[0], updates[-1])
    whole_steps(axes)


# ---- what the teacher's steps are worth


def draw_value(plan: Plan) -> str:
    """From value.py's summary."""
    path = plan.study.out / "value" / f"{plan.size}.json"
    summary = read_json(path)
    if not summary:
        raise DataError(f"{path} is missing: run value.py")
    worlds = [world for world in WORLDS if world in summary["worlds"]]
    with canvas(plan.folder / "value", size=(3.9 * len(worlds), 5.8)) as figure:
        grid = figure.subplots(2, len(worlds), sharey="row", squeeze=False)
        for column, world in enumerate(worlds):
            found = summary["worlds"][world]
            _draw_worth(grid[0][column], found["bins"])
            _draw_rescues(grid[1][column], {**found["large"], "small gap": found["others"]})
            grid[0][column].set_title(f"teacher: {world}")
        grid[0][0].set_ylabel("worth of the teacher's step\n(points of success)")
        grid[1][0].set_ylabel("steps (%): rescued up,\nharmed down")
        grid[0][0].legend()
        legend(figure, grid[1:])
    return (
        f"What one step of the teacher is worth, student {plan.size} at the start, by divergence d_k (fifths of the "
        "steps). Worth: success of the student's continuations after the teacher took the step, less success without: "
        "against the step that the student took, and against its taking the step anew; bars: 95 %, bootstrap by "
        "problem. Below: of steps with a large gap, how many the teacher's step rescues (up) or harms (down), by half "
        "of the continuations or more, against the step taken, and how many the student's own new try does without any "
        "teacher: what the two share is the draw's. Before a failed call, right after one, and later; last, of steps "
        "without a large gap; none has no interval. One student and one teacher a world. Numbers: "
        "docs/results/value.md."
    )


def _draw_worth(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    axes.axhline(0.0, color="grey", linewidth=1, zorder=0)
    for index, (key, name) in enumerate((("worth_taken", "against the step taken"), ("worth", "against a new try"))):
        values = [100 * each[key]["value"] for each in bins]
        lows = [100 * (each[key]["value"] - each[key]["low"]) for each in bins]
        highs = [100 * (each[key]["high"] - each[key]["value"]) for each in bins]
        places = [place + 0.12 * (2 * index - 1) for place in range(len(bins))]
        style: dict[str, Any] = {
            "color": COLOURS[index],
            "linestyle": DASHES[index],
            "marker": MARKERS[index],
            "capsize": 3,
        }
        axes.errorbar(places, values, yerr=[lows, highs], label=name, **style)
    axes.set_xticks(range(len(bins)), [f"to\n{each['high']:.2g}" for each in bins], fontsize=8)
    axes.set_xlabel("divergence d_k (nats)")


def _draw_rescues(axes: Axes, large: Mapping[str, Mapping[str, Any]]) -> None:
    """Bars of the teacher and of a new try beside each other."""
    axes.axhline(0.0, color="grey", linewidth=1, zorder=0)
    names = [name for name in large if large[name]["num_steps"]]
    for shift, suffix, who, hatch in ((-0.2, "", "the teacher", ""), (0.2, "_own", "a new try", "///")):
        for kind, sign, colour in (("rescued", 1, COLOURS[2]), ("harmed", -1, COLOURS[1])):
            found = [large[name][kind + suffix] for name in names]
            heights = [100 * sign * each["value"] for each in found]
            style: dict[str, Any] = {"color": colour, "hatch": hatch, "edgecolor": "white"}
            places = [place + shift for place in range(len(names))]
            axes.bar(places, heights, width=0.38, label=f"{kind} by {who}", **style)
            for place, each in zip(places, found, strict=True):
                if each["low"] is not None and math.isfinite(each["low"]):
                    ends = [100 * sign * each[end] for end in ("low", "high")]
                    axes.plot([place, place], ends, color="black", linewidth=1)
    labels = [f"{name}\nn={large[name]['num_steps']}" for name in names]
    axes.set_xticks(range(len(names)), labels, fontsize=8)
    axes.yaxis.set_major_formatter(lambda value, _place: f"{abs(value):g}")


# ---- all of them

FIGURES: Mapping[str, Callable[[Plan], str]] = {
    "figure-1-divergence": draw_divergence,
    "figure-3-gains": draw_gains,
    "figure-4-training": draw_training,
    "figure-5-patterns": draw_patterns,
    "figure-6-shares": draw_shares,
    "value": draw_value,
}


def draw_all(plan: Plan, *, names: Sequence[str] = tuple(FIGURES), command: str = "") -> dict[str, str]:
    """Draws the figures and writes their captions; returns by name why a figure is missing, "" where it is there."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    lines = ["# Figures of the study in miniature", "", "<!-- Written by figures.py; do not edit. -->", ""]
    lines += [f"Command: `{command}`", ""] if command else []
    for name in names:
        try:
            caption = FIGURES[name](plan)
            lines += [f"![{name}]({name}.png)", "", caption, ""]
            missing[name] = ""
        except DataError as error:
            missing[name] = str(error)
            lines += [f"Missing: {name}: {error}.", ""]
    (plan.folder / "README.md").write_text("\n".join(lines), encoding="utf-8")
    return missing


def class_numbers(plan: Plan) -> dict[str, Any]:
    """By world, method and class at the first and the last updates: share of trajectories, and of them correct."""
    numbers: dict[str, Any] = {}
    for world in WORLDS:
        found = _with_teacher(plan, world)
        if not found:
            continue
        numbers[world] = {"unit": _unit(found), "high": HIGH}
        for method, runs in found.items():
            counts = shares(runs, unit=_unit(found))
            updates = sorted(counts)
            windows = {"first": updates[:FIRST_UPDATES], "last": updates[-FIRST_UPDATES:]}
            numbers[world][method] = {name: _class_row([counts[u] for u in each]) for name, each in windows.items()}
    return numbers


def _class_row(window: Sequence[Mapping[Pattern, tuple[int, int]]]) -> dict[str, dict[str, float | None]]:
    total = sum(each[name][0] for each in window for name in PATTERNS)
    row: dict[str, dict[str, float | None]] = {}
    for name in PATTERNS:
        number, correct = (sum(each[name][side] for each in window) for side in (0, 1))
        row[name] = {"share": number / total if total else None, "accuracy": correct / number if number else None}
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"), help="the study's folder")
    parser.add_argument("--write", type=Path, default=Path("docs/images/results"), help="folder of the figures")
    parser.add_argument("--size", default="small", help="the student of all figures but figure 3")
    parser.add_argument("--figures", nargs="+", choices=list(FIGURES), default=list(FIGURES))
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = command_line(parser, given)
    try:
        need_matplotlib()
        plan = Plan(study=read_study(given.out), size=given.size, folder=given.write)
        missing = draw_all(plan, names=given.figures, command=command)
        if "figure-6-shares" in given.figures and not missing["figure-6-shares"]:
            text = json.dumps(class_numbers(plan), indent=1)
            (plan.folder / "shares.json").write_text(text + "\n", encoding="utf-8")
    except SodError as error:
        print(error, file=sys.stderr)
        return 2
    for name, why in missing.items():
        print(f"{name}: {why or 'drawn'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

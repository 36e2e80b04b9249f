"""Figures that are no curves: where the time went, and evaluations side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.report.figures import COLOURS, Picture, canvas, look, picture
from sod.report.panels import moving_mean
from sod.report.read import EvaluationPoint, Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HATCHES = ("", "//", "..", "xx", "--", "\\\\", "++")
MAX_PHASES = 7
"""More could not be told apart; the smallest are one."""
MAX_TOLD = 30
NEEDED = ("avg@k", "avg@k_low", "avg@k_high")


# ---- time


def draw_time(runs: Sequence[Run], path: Path) -> Picture | None:
    """Left: each run's total by phase. Right: seconds by update, by phase of one run, in all of several."""
    shown = [run for run in runs if run.costs.phases]
    if not shown:
        return None
    phases = _phases(shown)
    updated = [run for run in shown if len(run.costs.by_update) > 1]
    with canvas(size=(10.5 if updated else 6.0, max(2.8, 1.6 + 0.45 * len(shown)))) as figure:
        grid = figure.subplots(1, 2 if updated else 1, squeeze=False)[0]
        _draw_totals(shown, phases, grid[0])
        if updated:
            _draw_by_update(updated, phases, grid[1])
        _legend(figure, grid)
        caption = "Where the time went: wall time by phase in all" + (
            f", and by update{' (moving means)' if len(updated[0].costs.by_update) >= 20 else ''}" if updated else ""
        )
        return picture(figure, path, caption=f"{caption}.", alt=_time_alt(shown))


def phases_of(run: Run) -> list[tuple[str, float]]:
    """Phases and their seconds, the longest first."""
    return sorted(run.costs.phases.items(), key=lambda pair: -pair[1])[:MAX_TOLD]


def _phases(runs: Sequence[Run]) -> list[str]:
    """The longest phases over all runs."""
    totals: dict[str, float] = {}
    for run in runs:
        for name, seconds in run.costs.phases.items():
            totals[name] = totals.get(name, 0.0) + seconds
    return sorted((name for name in totals if totals[name] > 0), key=lambda name: -totals[name])[:MAX_PHASES]


def _draw_totals(runs: Sequence[Run], phases: Sequence[str], axes: Axes) -> None:
    ends = [0.0] * len(runs)
    places = [len(runs) - 1 - index for index in range(len(runs))]  # the first run on top
    for index, phase in enumerate(phases):
        widths = [run.costs.phases.get(phase, 0.0) for run in runs]
        style: dict[str, Any] = {"color": COLOURS[index % len(COLOURS)], "hatch": _HATCHES[index % len(_HATCHES)]}
        axes.barh(places, widths, left=ends, label=phase, edgecolor="white", height=0.6, **style)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    axes.set_yticks(places, [run.label for run in runs])
    axes.set_xlabel("seconds")
    axes.set_title("In all", fontsize=10.5)
    axes.set_ylim(-0.6, len(runs) - 0.4)
    axes.grid(visible=False, axis="y")


def _draw_by_update(runs: Sequence[Run], phases: Sequence[str], axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(runs) == 1:
        updates, _ = runs[0].costs.phase("")
        rows = [_smooth(runs[0].costs.phase(phase)[1]) for phase in phases]
        axes.stackplot(updates, rows, colors=[COLOURS[index % len(COLOURS)] for index in range(len(rows))])
    for run in runs if len(runs) > 1 else ():
        numbers = sorted(run.costs.by_update)
        style = look(run.place)
        seconds = _smooth([sum(run.costs.by_update[update].values()) for update in numbers])
        axes.plot(numbers, seconds, color=style.colour, linestyle=style.dash, linewidth=1.7, label=run.label)
    axes.set_ylim(bottom=0.0)
    axes.set_xlabel("update")
    axes.set_ylabel("seconds")
    axes.set_title("By update", fontsize=10.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _smooth(values: Sequence[float]) -> list[float]:
    return moving_mean(values) if len(values) >= 20 else list(values)


def _legend(figure: Figure, grid: Sequence[Axes]) -> None:
    pairs = [pair for axes in grid for pair in zip(*axes.get_legend_handles_labels(), strict=True)]
    handles, labels = zip(*pairs, strict=True)
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))


def _time_alt(runs: Sequence[Run]) -> str:
    said = []
    for run in runs:
        total_s = run.costs.total_s or 1.0
        parts = [f"{name} {seconds:.3g} s ({seconds / total_s:.0%})" for name, seconds in phases_of(run)[:4]]
        said.append(f"{run.label}: {run.costs.total_s:.3g} s in all, {', '.join(parts)}")
    return f"Time. {'; '.join(said)}."


# ---- evaluations


def draw_evaluations(runs: Sequence[Run], path: Path) -> Picture | None:
    """avg@k with its interval, a row for each benchmark and run; None unless there are two rows to compare."""
    rows = [(run, point) for run in runs for point in run.evaluations if point.benchmark]
    rows = [(run, point) for run, point in rows if point.numbers.keys() >= set(NEEDED)]
    rows.sort(key=lambda row: (row[1].benchmark, row[0].place))
    if len(rows) < 2:
        return None
    several = len({point.benchmark for _, point in rows}) > 1
    with canvas(size=(7.5, 1.1 + 0.34 * len(rows))) as figure:
        axes = figure.subplots()
        for index, (run, point) in enumerate(rows):
            _draw_estimate(axes, run, point, place=-index)
        names = [f"{point.benchmark}: {run.label}" if several else run.label for run, point in rows]
        axes.set_yticks([-index for index in range(len(rows))], names)
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.set_xlabel("avg@k (%)")
        axes.set_title("" if several else rows[0][1].benchmark, fontsize=10.5)
        caption = "Evaluations: mean share of right samples, with 95 % intervals over problems."
        said = "; ".join(f"{run.label} on {point.benchmark} {said_estimate(point)}" for run, point in rows)
        return picture(figure, path, caption=caption, alt=f"avg@k: {said}.")


def _draw_estimate(axes: Axes, run: Run, point: EvaluationPoint, *, place: int) -> None:
    value, low, high = (100 * point.numbers[name] for name in NEEDED)
    style = look(run.place)
    reach = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar([value], [place], xerr=reach, fmt=style.marker, color=style.colour, markersize=7, capsize=4)


def said_estimate(point: EvaluationPoint) -> str:
    """`65.7 % [60.1, 70.8]`; a dash without a value."""
    numbers = point.numbers
    if "avg@k" not in numbers:
        return "-"
    value = f"{100 * numbers['avg@k']:.1f} %"
    if numbers.keys() >= set(NEEDED):
        value += f" [{100 * numbers['avg@k_low']:.1f}, {100 * numbers['avg@k_high']:.1f}]"
    return value

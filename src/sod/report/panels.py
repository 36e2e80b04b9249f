"""Panels of curves side by side: what is drawn over updates and by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.report.figures import SMOOTHED, Look, Picture, canvas, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_COLUMNS = 3
MAX_THIN = 4
"""Of more curves in a panel only the moving means are drawn: every update of each would hide them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Spot:
    """A value with its interval: an evaluation, say."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line: values at places, maybe a 95 % band, marks that stand for too few, evaluations as spots."""

    label: str
    look: Look
    xs: Sequence[float]
    ys: Sequence[float]
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high), where known."""
    few: Sequence[tuple[float, float]] = ()
    """Points drawn hollow."""
    spots: Sequence[Spot] = ()
    marked: bool = False
    """Whether each value has its mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    unit: str
    curves: Sequence[Curve]
    reference: float | None = None
    """A value to compare with, drawn as a grey line."""
    from_zero: bool = True


def draw_panels(
    panels: Sequence[Panel], path: Path, *, over: str, caption: str, alt: str, same_scale: bool = False
) -> Picture:
    """All panels in one figure, one legend below. `over` names the horizontal axis; with `same_scale` the panels, of
    one quantity, have one vertical axis."""
    columns = min(MAX_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with canvas(size=(3.5 * max(columns, 1.6), 2.9 * rows + 0.5)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False)
        places = [axes for row in grid for axes in row]
        for panel, axes in zip(panels, places, strict=False):
            _draw_panel(panel, axes, over=over)
        if same_scale:
            highest = max(axes.get_ylim()[1] for axes in places[: len(panels)])
            for axes in places[: len(panels)]:
                axes.set_ylim(0.0, highest)
        for axes in places[len(panels) :]:
            axes.set_visible(False)
        _legend(figure, places)
        return picture(figure, path, caption=caption, alt=alt)


def smoothing(panels: Sequence[Panel], *, over: str) -> str:
    """What a caption says of thin and thick lines; empty when no curve of `draw_panels` is a moving mean."""
    widths = sorted({window(len(curve.xs)) for panel in panels for curve in panel.curves if _is_long(curve)})
    if not widths:
        return ""
    mean = f"mean of the last {' or '.join(map(str, widths))}."
    thin = any(len(panel.curves) <= MAX_THIN for panel in panels)
    return f" Thin: each {over}; thick: {mean}" if thin else f" Each line is the {mean}"


def window(num_values: int) -> int:
    """Values in a moving mean: SMOOTHED, of a long run a sixtieth of them."""
    return max(SMOOTHED, num_values // 60)


def moving_mean(values: Sequence[float]) -> list[float]:
    """Mean of the value and up to `window` - 1 before it: nothing of the future."""
    sums, width = [0.0, *accumulate(values)], window(len(values))
    starts = (max(0, end - width) for end in range(1, len(values) + 1))
    return [(sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, start=1)]


def _is_long(curve: Curve) -> bool:
    return not curve.marked and len(curve.xs) >= 4 * SMOOTHED


def _draw_panel(panel: Panel, axes: Axes, *, over: str) -> None:
    from matplotlib.ticker import MaxNLocator

    if panel.reference is not None:
        axes.axhline(panel.reference, color="grey", linewidth=1, zorder=0)
    for index, curve in enumerate(panel.curves):
        _draw_curve(curve, axes, thin=len(panel.curves) <= MAX_THIN)
        _draw_spots(curve, axes, aside=index - (len(panel.curves) - 1) / 2)
    axes.set_title(panel.title, fontsize=10.5)
    axes.set_ylabel(panel.unit)
    axes.set_xlabel(over)
    if panel.from_zero:
        top = axes.dataLim.ymax
        axes.set_ylim(0.0, 1.06 * top if 0 < top < float("inf") else None)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _draw_curve(curve: Curve, axes: Axes, *, thin: bool) -> None:
    style: dict[str, Any] = {"color": curve.look.colour, "linestyle": curve.look.dash}
    ys = curve.ys
    if _is_long(curve):
        if thin:
            axes.plot(curve.xs, ys, linewidth=0.7, alpha=0.3, color=curve.look.colour)
        ys = moving_mean(ys)
    mark = curve.look.marker if curve.marked or len(ys) == 1 else ""
    # An underscore in front would hide a label from the legend.
    label = f" {curve.label}" if curve.label.startswith("_") else curve.label
    axes.plot(curve.xs, ys, linewidth=1.7, marker=mark, markersize=5, label=label, **style)
    if curve.few:
        xs, values = zip(*curve.few, strict=True)
        hollow: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "white", "zorder": 3, "markersize": 5}
        axes.plot(xs, values, color=curve.look.colour, marker=curve.look.marker, **hollow)
    if curve.band:
        xs, lows, highs = zip(*curve.band, strict=True)
        axes.fill_between(xs, lows, highs, color=curve.look.colour, alpha=0.15, linewidth=0)
        if len(xs) == 1:  # a band of no width
            axes.vlines(xs, lows, highs, color=curve.look.colour, alpha=0.5, linewidth=1)


def _draw_spots(curve: Curve, axes: Axes, *, aside: float) -> None:
    """Evaluations; those of several runs are set aside a little, so that they do not cover each other."""
    if not curve.spots:
        return
    shift = aside * 0.012 * max(spot.x for spot in curve.spots)
    values = [spot.y for spot in curve.spots]
    reach = [
        [max(0.0, spot.y - spot.low) for spot in curve.spots],
        [max(0.0, spot.high - spot.y) for spot in curve.spots],
    ]
    axes.errorbar(
        [spot.x + shift for spot in curve.spots],
        values,
        yerr=reach,
        fmt=curve.look.marker,
        color=curve.look.colour,
        markersize=6,
        markeredgecolor="black",
        capsize=3,
    )


def _legend(figure: Figure, places: Sequence[Axes]) -> None:
    """Of whatever is labelled anywhere: a panel may have nothing to show."""
    pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in places]
    handles = {label: handle for each in pairs for handle, label in each}
    if handles:
        columns = min(4 if max(map(len, handles)) <= 18 else 2, len(handles))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)

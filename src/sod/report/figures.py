"""The figures of a report as PNG. matplotlib is imported inside functions and used without pyplot: no global state."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.errors import ConfigError, StorageError
from sod.report.read import Run
from sod.report.steps import OUTCOMES, Outcome, StepMeans, StepPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSTALL = 'pip install "sod-distill[report]"'
DPI = 150
FEW = 5
"""A mean of fewer trajectories is drawn hollow."""
SMOOTHED = 5
"""Updates in a moving mean; runs under four windows are drawn as they are."""

# Okabe and Ito's colours, told apart with any kind of colour blindness; markers and dashes tell them apart in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
_LOOKS: dict[Outcome, tuple[str, str, str]] = {
    "correct": (COLOURS[0], MARKERS[0], "-"),
    "wrong": (COLOURS[1], MARKERS[1], "--"),
    "failed call": (COLOURS[6], MARKERS[2], ":"),
}
_NAMES: dict[Outcome, str] = {
    "correct": "correct",
    "wrong": "wrong",
    "failed call": "with a failed tool call (right or wrong)",
}
STYLE = {
    "text.parse_math": False,  # a run may be called "$x"
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "font.size": 10.0,
    "legend.frameon": False,
}


def need_matplotlib() -> None:
    """Raises ConfigError with the install line when figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"a report needs matplotlib, got: {error}; run {INSTALL}") from None


@contextmanager
def _canvas(path: Path, *, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is written to `path` when the block ends well. Raises StorageError."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), warnings.catch_warnings():  # type: ignore[arg-type]
        warnings.filterwarnings("ignore", message=".*[Gg]lyph.*")  # a name in a script the font has not
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        try:
            figure.savefig(path, dpi=DPI)
        except OSError as error:
            raise StorageError(
                f"{path} must be writable, got: {error.strerror}; free some space or give --out"
            ) from None


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


# ---- by step


def draw_steps(means: StepMeans, path: Path, *, title: str, quantity: str, reference: float | None = None) -> None:
    """A quantity by step: mean and 95 % band for each outcome, and below how many trajectories reach the step."""
    with _canvas(path, size=(7.0, 5.6)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
        if reference is not None:
            upper.axhline(reference, color="grey", linewidth=1, zorder=0)
        for outcome in OUTCOMES:
            _draw_outcome(means, outcome, upper, lower)
        upper.set_title(title)
        upper.set_ylabel(f"{quantity}\nmean, band: 95 %")
        upper.set_ylim(bottom=0.0)
        lower.set_ylabel("trajectories")
        lower.set_ylim(bottom=0.0)
        lower.set_xlabel(f"step k (hollow: fewer than {FEW} trajectories)")
        left, right = lower.get_xlim()
        lower.set_xlim(min(left, 0.7), max(right, 2.3))
        _whole_ticks(lower)
        figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=len(OUTCOMES))


def _draw_outcome(means: StepMeans, outcome: Outcome, upper: Axes, lower: Axes) -> None:
    points = means.points(outcome)
    if not points:
        return
    colour, marker, dash = _LOOKS[outcome]
    look: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": dash, "markersize": 6, "clip_on": False}
    steps = [point.step for point in points]
    num = points[0].num_trajectories
    upper.plot(steps, [point.mean for point in points], label=f"{_NAMES[outcome]}: {num}", **look)
    few = [point for point in points if point.num_trajectories < FEW]
    if few:  # an empty line upsets the layout
        hollow = {**look, "linestyle": "none", "markerfacecolor": "white", "zorder": 3}
        upper.plot([point.step for point in few], [point.mean for point in few], **hollow)
    _draw_band(points, upper, colour)
    lower.plot(steps, [point.num_trajectories for point in points], **look)


def _draw_band(points: Sequence[StepPoint], axes: Axes, colour: str) -> None:
    """A filled band, and a line at each step so that a single step shows too."""
    banded = [
        (point.step, point.low, point.high) for point in points if point.low is not None and point.high is not None
    ]
    if banded:
        steps, lows, highs = zip(*banded, strict=True)
        axes.fill_between(steps, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axes.vlines(steps, lows, highs, color=colour, alpha=0.5, linewidth=1)


# ---- over updates


def draw_updates(runs: Sequence[Run], path: Path) -> None:
    """Accuracy, tool calls and entropy over updates, a line per run; evaluations as points with intervals."""
    with _canvas(path, size=(7.0, 8.4)) as figure:
        accuracy, calls, entropy = figure.subplots(3, 1, sharex=True)
        smooth = any(len(run.updates) >= 4 * SMOOTHED for run in runs)
        for index, run in enumerate(runs):
            for axes, name, factor in (
                (accuracy, "accuracy", 100.0),
                (calls, "tool_calls", 1.0),
                (entropy, "entropy", 1.0),
            ):
                _draw_series(axes, run, name, factor=factor, index=index, smooth=smooth)
            _draw_evaluations(accuracy, run, index=index, shift=_shift(runs, index))
        accuracy.set_ylabel("accuracy (%)")
        calls.set_ylabel("tool calls\nper trajectory")
        entropy.set_ylabel("entropy\n(nats per token)")
        for axes in (accuracy, calls, entropy):
            axes.set_ylim(bottom=0.0)
        entropy.set_xlabel("update" + (f" (thin: each, thick: mean of the last {SMOOTHED})" if smooth else ""))
        _whole_ticks(entropy)
        drawn = any(run.evaluations for run in runs)
        accuracy.set_title(
            "Lines: training problems" + (". Points: held-out evaluation with 95 % interval" if drawn else "")
        )
        figure.legend(*entropy.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(runs)))


def _look(index: int) -> dict[str, Any]:
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


def _draw_series(axes: Axes, run: Run, name: str, *, factor: float, index: int, smooth: bool) -> None:
    updates, raw = run.series(name)
    values = [factor * value for value in raw]
    marker = "." if len(values) < 4 * SMOOTHED else ""
    if smooth:
        axes.plot(updates, values, linewidth=0.8, alpha=0.35, marker=marker, **_look(index))
        values = _moving_mean(values)
    # An underscore in front would hide a label from the legend.
    label = run.label if not run.label.startswith("_") else f" {run.label}"
    axes.plot(
        updates, values, linewidth=1.8, marker="" if smooth else marker, label=label, clip_on=False, **_look(index)
    )


def _moving_mean(values: Sequence[float]) -> list[float]:
    """Mean of the value and up to SMOOTHED - 1 before it: nothing of the future."""
    windows = (values[max(0, end - SMOOTHED) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _shift(runs: Sequence[Run], index: int) -> float:
    """Updates by which a run's points are set aside, so that those of several runs do not cover each other."""
    longest = max((point.update for run in runs for point in run.evaluations), default=0)
    return (index - (len(runs) - 1) / 2) * 0.012 * longest


def _draw_evaluations(axes: Axes, run: Run, *, index: int, shift: float) -> None:
    points = [point for point in run.evaluations if {"avg@k", "avg@k_low", "avg@k_high"} <= point.numbers.keys()]
    if not points or run.result:
        return
    values = [100 * point.numbers["avg@k"] for point in points]
    lows = [max(0.0, value - 100 * point.numbers["avg@k_low"]) for value, point in zip(values, points, strict=True)]
    highs = [max(0.0, 100 * point.numbers["avg@k_high"] - value) for value, point in zip(values, points, strict=True)]
    axes.errorbar(
        [point.update + shift for point in points],
        values,
        yerr=[lows, highs],
        fmt=MARKERS[index % len(MARKERS)],
        color=COLOURS[index % len(COLOURS)],
        markersize=7,
        markeredgecolor="black",
        capsize=4,
        clip_on=False,
    )


def draw_loss(runs: Sequence[Run], path: Path) -> None:
    """Loss of cold starts over optimizer steps."""
    with _canvas(path, size=(7.0, 3.8)) as figure:
        axes = figure.subplots()
        for index, run in enumerate(runs):
            _draw_series(axes, run, "loss", factor=1.0, index=index, smooth=False)
        axes.set_ylabel("loss (nats per token)")
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("optimizer step")
        _whole_ticks(axes)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(3, len(runs)))

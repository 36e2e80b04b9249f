"""Curves over updates, a line for each run: Figures 4 and 6 of the paper, and what else a run is judged by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeAlias

from sod.report.figures import Picture, look
from sod.report.panels import Curve, Panel, Spot, draw_panels, smoothing
from sod.report.patterns import PATTERNS, RULE
from sod.report.read import Run

WINDOW = 5
"""Updates whose mean stands for the start and the end of a run."""
MAX_PLACES = 6
Series: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Updates and values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Quantity:
    """What one panel shows: a metric, or the ratio of two, times `factor`."""

    title: str
    unit: str
    metric: str
    per: str = ""
    """Divided by this metric; updates where it is 0 are left out."""
    factor: float = 1.0

    def of(self, run: Run) -> Series:
        """Its values in a run, where recorded."""
        updates, values = [], []
        for update in run.updates:
            below = update.get(self.per, 0.0) if self.per else 1.0
            if self.metric in update and below:
                updates.append(update["update"])
                values.append(self.factor * update[self.metric] / below)
        return updates, values


ACCURACY = Quantity(title="Accuracy", unit="% of trajectories", metric="accuracy", factor=100.0)
ENTROPY = Quantity(title="Policy entropy", unit="nats per token", metric="entropy")
CALLS = Quantity(title="Tool calls", unit="per trajectory", metric="tool_calls")
TURNS = Quantity(title="Turns", unit="per trajectory", metric="turns")
REWARD = Quantity(title="Reward", unit="mean", metric="reward")
DIVERGENCE = Quantity(title="Divergence d_k", unit="nats per token", metric="divergence")
WEIGHT = Quantity(title="Weight w_k", unit="mean over steps", metric="weight")
FAILED = Quantity(title="Failed calls", unit="% of calls", metric="failed_calls", per="num_calls", factor=100.0)
RETRIED = Quantity(
    title="Failed calls tried again", unit="% of failed calls", metric="retried", per="failed_turns", factor=100.0
)
GRAD_NORM = Quantity(title="Gradient norm", unit="before clipping", metric="grad_norm")
LENGTH = Quantity(title="Response", unit="tokens", metric="response_tokens")
LOSS = Quantity(title="Loss", unit="nats per token", metric="loss")
RATE = Quantity(title="Learning rate", unit="", metric="lr")

LEARNING = (ACCURACY, ENTROPY, CALLS)
SIGNAL = (REWARD, DIVERGENCE, WEIGHT)
CONDUCT = (FAILED, RETRIED, GRAD_NORM)
SIZE = (TURNS, LENGTH)
COLD_START = (LOSS, GRAD_NORM, RATE)


def draw_quantities(
    runs: Sequence[Run], quantities: Sequence[Quantity], path: Path, *, what: str, over: str = "update"
) -> Picture | None:
    """A panel for each quantity that some run has; None when there is none. `what` begins the caption."""
    panels = [panel for quantity in quantities if (panel := _panel(runs, quantity)).curves]
    if not panels:
        return None
    note = smoothing(panels, over=over)
    if any(curve.spots for panel in panels for curve in panel.curves):
        note += " Lines: training problems. Marks: held-out problems, with 95 % intervals."
        note += " Those of several runs stand side by side; each belongs to the update nearest to it." * (len(runs) > 1)
    return draw_panels(panels, path, over=over, caption=what + note, alt=_alt(panels, over=over))


def start_and_end(values: Sequence[float]) -> tuple[float, float]:
    """Means of the first and of the last window, which never overlap. `[1 3 5 9] -> 2, 7`."""
    width = min(WINDOW, max(1, len(values) // 2))
    return fmean(values[:width]), fmean(values[-width:])


def _panel(runs: Sequence[Run], quantity: Quantity) -> Panel:
    curves = []
    for run in runs:
        xs, ys = quantity.of(run)
        spots = _spots(run) if quantity is ACCURACY else []
        if ys:
            curves.append(Curve(label=run.label, look=look(run.place), xs=xs, ys=ys, spots=spots))
    return Panel(title=quantity.title, unit=quantity.unit, curves=curves)


def _spots(run: Run) -> list[Spot]:
    needed = ("avg@k", "avg@k_low", "avg@k_high")
    points = [point for point in run.in_training if point.numbers.keys() >= set(needed)]
    return [
        Spot(x=float(point.update), y=100 * value, low=100 * low, high=100 * high)
        for point in points
        for value, low, high in [[point.numbers[name] for name in needed]]
    ]


def _alt(panels: Sequence[Panel], *, over: str) -> str:
    """`Accuracy (% of trajectories): sod from 29.2 at update 1-5 to 66.7 at update 56-60.`"""
    return f"Over {over}s. " + " ".join(
        f"{panel.title}{f' ({panel.unit})' if panel.unit else ''}: {'; '.join(_said(curve) for curve in panel.curves)}."
        for panel in panels
    )


def _said(curve: Curve) -> str:
    if len(curve.ys) == 1:
        return f"{curve.label} {curve.ys[0]:.3g}"
    first, last = start_and_end(curve.ys)
    held_out = curve.spots[-1:]
    evaluated = "".join(f", held out {spot.y:.3g} [{spot.low:.3g}, {spot.high:.3g}] at the end" for spot in held_out)
    return (
        f"{curve.label} from {first:.3g} at the start to {last:.3g} at the end, between {min(curve.ys):.3g} and "
        f"{max(curve.ys):.3g}{evaluated}"
    )


# ---- stable, erroneous, recovery


def draw_classes(runs: Sequence[Run], path: Path) -> Picture | None:
    """Shares of the three patterns: a panel each."""
    shares = {run.place: list(_shares(run)) for run in runs}
    shown = [run for run in runs if shares[run.place]]
    if not shown:
        return None
    panels = []
    for index, name in enumerate(PATTERNS):
        curves = [
            Curve(
                label=run.label,
                look=look(run.place),
                xs=[update for update, _ in shares[run.place]],
                ys=[each[index] for _, each in shares[run.place]],
            )
            for run in shown
        ]
        panels.append(Panel(title=name, unit="% of calling trajectories", curves=curves))
    units = ", ".join(f"{run.label}: u = {run.trajectories.classes.unit:.3g} nats" for run in shown)
    note = smoothing(panels, over="update")
    caption = f"Shares of trajectories by how their divergence goes, over updates. {RULE} {units}.{note}"
    return draw_panels(panels, path, over="update", caption=caption, alt=_alt(panels, over="update"))


def _shares(run: Run) -> Iterator[tuple[float, list[float]]]:
    """Update, and per cent in each class."""
    for update, counts in run.trajectories.classes.counts().items():
        total = sum(counts.values())
        yield float(update), [100 * counts[name] / total for name in PATTERNS]


# ---- memory


def draw_memory(runs: Sequence[Run], path: Path) -> Picture | None:
    """Memory by update: a panel for each place, host and gpu."""
    places = sorted({place for run in runs for place in run.costs.memory_places}, reverse=True)[:MAX_PLACES]
    panels = [Panel(title=place, unit="GiB", curves=list(_memory(runs, place))) for place in places]
    if not panels:
        return None
    caption = "Memory by update: of the host what the process holds at its end, of the GPU the most that torch held."
    return draw_panels(panels, path, over="update", caption=caption, alt=_alt(panels, over="update"))


def _memory(runs: Sequence[Run], place: str) -> Iterator[Curve]:
    for run in runs:
        known = sorted((update, sizes[place]) for update, sizes in run.costs.memory.items() if place in sizes)
        if known:
            xs, ys = [float(update) for update, _ in known], [size for _, size in known]
            yield Curve(label=run.label, look=look(run.place), xs=xs, ys=ys)

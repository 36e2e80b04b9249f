"""Curves by step for correct, wrong and tool-error trajectories: Figure 1 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sod.report.figures import COLOURS, DASHES, FEW, MARKERS, Look, Picture, look
from sod.report.panels import Curve, Panel, draw_panels
from sod.report.read import Run
from sod.report.steps import OUTCOMES, Outcome, StepMeans

NAMES: dict[Outcome, str] = {"correct": "correct", "wrong": "wrong", "failed call": "with a failed call"}
_LOOKS: dict[Outcome, Look] = {
    "correct": Look(colour=COLOURS[0], marker=MARKERS[0], dash=DASHES[0]),
    "wrong": Look(colour=COLOURS[1], marker=MARKERS[1], dash=DASHES[1]),
    "failed call": Look(colour=COLOURS[6], marker=MARKERS[2], dash=DASHES[2]),
}
_RULE = (
    "Means over trajectories, all updates together, that have a step k; bands: 95 % intervals over problems. Hollow: "
    f'fewer than {FEW} trajectories. "With a failed call" overlaps the other two.'
)


@dataclass(frozen=True, kw_only=True, slots=True)
class StepQuantity:
    """Something a trajectory has for every step."""

    name: str
    title: str
    unit: str
    reference: float | None = None

    def of(self, run: Run) -> StepMeans:
        """Its means in a run."""
        kept = run.trajectories
        return {"divergence": kept.divergence, "weight": kept.weight, "teacher_entropy": kept.teacher_entropy}[
            self.name
        ]


DIVERGENCE = StepQuantity(name="divergence", title="Divergence d_k", unit="nats per token")
WEIGHT = StepQuantity(name="weight", title="Weight w_k", unit="1: full trust", reference=1.0)
TEACHER_ENTROPY = StepQuantity(name="teacher_entropy", title="Teacher's entropy", unit="nats per token")
STEP_QUANTITIES = (DIVERGENCE, TEACHER_ENTROPY, WEIGHT)


def draw_run_steps(run: Run, path: Path) -> Picture | None:
    """One run: a panel for each quantity, a line for each outcome. What is the same everywhere is not drawn."""
    panels = []
    for quantity in STEP_QUANTITIES:
        means = quantity.of(run)
        if means and not (quantity is WEIGHT and means.constant is not None):
            curves = [_curve(means, outcome, NAMES[outcome], _LOOKS[outcome]) for outcome in OUTCOMES]
            curves = [curve for curve in curves if curve.xs]
            panels.append(Panel(title=quantity.title, unit=quantity.unit, curves=curves, reference=quantity.reference))
    if not panels:
        return None
    caption = f"{run.label}: {', '.join(panel.title for panel in panels)} by step. {_RULE}"
    return draw_panels(panels, path, over="step k", caption=caption, alt=_alt(panels))


def draw_steps(runs: Sequence[Run], quantity: StepQuantity, path: Path) -> Picture | None:
    """Several runs: a panel for each outcome, a line for each run."""
    shown = [run for run in runs if quantity.of(run)]
    if quantity is WEIGHT:
        shown = [run for run in shown if quantity.of(run).constant is None]
    panels = []
    for outcome in OUTCOMES:
        curves = [_curve(quantity.of(run), outcome, run.label, look(run.place)) for run in shown]
        curves = [curve for curve in curves if curve.xs]
        if curves:
            unit = f"{quantity.title}, {quantity.unit}"
            panels.append(Panel(title=NAMES[outcome], unit=unit, curves=curves, reference=quantity.reference))
    if not panels:
        return None
    caption = f"{quantity.title} by step. {_RULE}"
    return draw_panels(panels, path, over="step k", caption=caption, alt=_alt(panels), same_scale=True)


def _curve(means: StepMeans, outcome: Outcome, label: str, of: Look) -> Curve:
    points = means.points(outcome)
    return Curve(
        label=label,
        look=of,
        xs=[point.step for point in points],
        ys=[point.mean for point in points],
        band=[(p.step, p.low, p.high) for p in points if p.low is not None and p.high is not None],
        few=[(point.step, point.mean) for point in points if point.num_trajectories < FEW],
        marked=True,
    )


def _alt(panels: Sequence[Panel]) -> str:
    """`wrong (nats per token): sod 0.26 at step 1, 2.02 at step 8, highest 2.02 at step 8.`"""
    return "By step. " + " ".join(
        f"{panel.title} ({panel.unit}): {'; '.join(_said(curve) for curve in panel.curves)}." for panel in panels
    )


def _said(curve: Curve) -> str:
    highest = max(range(len(curve.ys)), key=curve.ys.__getitem__)
    ends = dict.fromkeys((0, len(curve.ys) - 1))
    said = ", ".join(f"{curve.ys[place]:.3g} at step {curve.xs[place]:g}" for place in ends)
    return f"{curve.label} {said}, highest {curve.ys[highest]:.3g} at step {curve.xs[highest]:g}"

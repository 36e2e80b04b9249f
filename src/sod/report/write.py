"""Puts a report together: report.md and the figures beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from sod.errors import ConfigError, StorageError
from sod.report.figures import draw_loss, draw_steps, draw_updates, need_matplotlib
from sod.report.read import Run, label_runs, read_run
from sod.report.tables import (
    WINDOW,
    alarm_table,
    evaluation_table,
    facts_table,
    is_cold_start,
    loss_table,
    step_table,
    time_table,
    trend_table,
)
from sod.report.trajectory import show_trajectory
from sod.report.untrusted import code, fence

BY_STEP_NOTE = (
    "Mean over the run's trajectories, all updates together, which have a step k; the interval is over problems. "
    'The last group overlaps the others: it holds every trajectory with a failed tool call. "n" counts trajectories.'
)


def write(paths: Sequence[Path], *, out: Path | None) -> Path:
    """See `sod.report.write_report`."""
    distinct = list({path.resolve(): path for path in map(Path, paths)}.values())
    if not distinct:
        raise ConfigError("a report needs at least one run directory, got none; give the path of a run")
    need_matplotlib()
    runs = [read_run(path) for path in distinct]
    label_runs(runs)
    folder = out if out is not None else distinct[0] / "report"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        page = folder / "report.md"
        text = "\n\n".join(_sections(runs, folder)) + "\n"
        page.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise StorageError(f"{folder} must be writable, got: {error.strerror}; give another --out") from None
    return page


def _sections(runs: Sequence[Run], folder: Path) -> Iterator[str]:
    yield f"# Report: {', '.join(code(run.label) for run in runs)}"
    yield from _results(runs)
    yield "## Alarms"
    yield alarm_table(runs) or "None."
    yield from _progress(runs, folder)
    for number, run in enumerate(runs, start=1):
        yield from _by_step(run, folder, suffix=f"-{number}" if len(runs) > 1 else "")
    for run in runs:
        yield from _one_trajectory(run)
    yield "## Where the time went"
    for run in runs:
        yield f"{code(run.label)}{_throughput(run)}"
        yield time_table(run) or "Nothing was timed."
    yield "## What was run"
    for run in runs:
        yield f"### {code(run.label)}"
        yield facts_table(run)


def _results(runs: Sequence[Run]) -> Iterator[str]:
    yield "## Results"
    evaluations, trends, losses = evaluation_table(runs), trend_table(runs), loss_table(runs)
    if evaluations:
        yield "Evaluations, the first and the last of each run (intervals over problems):"
        yield evaluations
    if trends:
        yield f"Training problems, mean of the first → of the last updates (up to {WINDOW}; other problems each time):"
        yield trends
    if losses:
        yield "Cold start, mean of the first → of the last steps:"
        yield losses


def _progress(runs: Sequence[Run], folder: Path) -> Iterator[str]:
    trained = [run for run in runs if run.series("accuracy")[1]]
    cold = [run for run in runs if is_cold_start(run)]
    if trained:
        draw_updates(trained, folder / "updates.png")
        yield "## Over updates"
        yield "![Accuracy, tool calls per trajectory and entropy over updates](updates.png)"
        if len(trained) > 1 and any(run.evaluations for run in trained):
            yield "Evaluations of several runs are drawn side by side; each belongs to the update nearest to it."
    if cold:
        draw_loss(cold, folder / "loss.png")
        yield "## Loss"
        yield "![Loss over optimizer steps](loss.png)"


def _by_step(run: Run, folder: Path, *, suffix: str) -> Iterator[str]:
    if not run.series("accuracy")[1]:
        return
    kept = run.trajectories
    yield f"## Divergence by step: {code(run.label)}"
    if not kept.divergence:
        yield "No divergence was recorded: the run had no teacher."
        return
    name = f"divergence{suffix}.png"
    title = f"Divergence of student and teacher: {run.label}"
    draw_steps(kept.divergence, folder / name, title=title, quantity="divergence d_k (nats per token)")
    yield f"![Divergence d_k by step]({name})"
    yield BY_STEP_NOTE
    yield step_table(kept.divergence)
    yield f"## Weight by step: {code(run.label)}"
    constant = kept.weight.constant
    if constant is not None:
        yield f"Every step's weight was {constant:g}."
        return
    name = f"weights{suffix}.png"
    draw_steps(
        kept.weight,
        folder / name,
        title=f"Trust in the teacher: {run.label}",
        quantity="step weight w_k",
        reference=1.0,
    )
    yield f"![Weight w_k by step]({name})"
    yield step_table(kept.weight)


def _one_trajectory(run: Run) -> Iterator[str]:
    if run.trajectories.telling is not None:
        yield f"## One trajectory: {code(run.label)}"
        yield fence(show_trajectory(run.trajectories.telling))


def _throughput(run: Run) -> str:
    """Sampled tokens per second of the rollout phase, tools and grading included."""
    num_tokens = sum(each.get("sampled_tokens", 0.0) * each.get("num_trajectories", 0.0) for each in run.updates)
    rollout_s = run.seconds.get("rollout_s", 0.0)
    return f": {num_tokens / rollout_s:,.0f} sampled tokens per second of rollout" if num_tokens and rollout_s else ""

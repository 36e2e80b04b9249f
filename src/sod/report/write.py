"""Puts a report together: report.html, and its figures beside it as SVG and PNG."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import sod
from sod.errors import ConfigError, StorageError
from sod.report import by_step, over_updates
from sod.report.bars import draw_evaluations, draw_time
from sod.report.figures import Picture, need_matplotlib
from sod.report.health import verdict_of
from sod.report.markup import Html, code, element, joined, short
from sod.report.over_updates import draw_classes, draw_memory, draw_quantities
from sod.report.page import Section, chip, details, figure, page, paragraph
from sod.report.pairs import evaluation_tests, in_training, training_tests
from sod.report.read import Run, label_runs, read_run
from sod.report.setup_tables import difference_tables, facts_table
from sod.report.story import story, summary
from sod.report.tables import (
    alarm_table,
    apart_table,
    badge,
    evaluation_table,
    health_table,
    loss_table,
    memory_table,
    so_far_table,
    step_table,
    test_table,
    time_table,
    trend_table,
)
from sod.report.untrusted import clean, line, mapping, write_file

NAME = "report.html"
MAX_CONFIG = 100_000
"""Characters of a config that are shown."""
_PAIRED = (
    "Paired: each problem with itself. p: two-sided, by flipping signs; Holm: corrected for the number of tests in the "
    "table. Intervals are a bootstrap's over problems. Of several seeds both are Student's t over seeds and problems."
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
    if out is None and folder.is_symlink():  # a run from elsewhere must not choose where we write
        raise ConfigError(f"{folder} must be a folder of the run, got a link; give --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        title = f"Report: {', '.join(run.label for run in runs)}" if len(runs) <= 4 else f"Report of {len(runs)} runs"
        whole = page(title, _head(runs), _sections(runs, folder), _footer())
        write_file(folder / NAME, whole.encode(errors="replace"))
    except OSError as error:
        raise StorageError(f"{folder} must be writable, got: {error.strerror}; give another --out") from None
    return folder / NAME


def _head(runs: Sequence[Run]) -> Html:
    """Each run with its looks, its verdict and what came out."""
    return element("ul", *map(_headline, runs), class_="runs")


def _headline(run: Run) -> Html:
    verdict, why = verdict_of(run)
    state = short(run.status.get("state", "unknown"), width=40)
    name = joined([element("span", run.label, class_="name"), " ", badge(verdict), " ", state, f"; {why}."])
    return element("li", chip(run.place), element("div", name), element("div", _outcome(run), class_="more soft"))


def _outcome(run: Run) -> Html:
    """The result in a sentence."""
    planned = mapping(run.config.get("update")).get("num_updates")
    of = f" of {line(planned, width=12)}" if planned is not None else ""
    if run.trained:
        first, last = over_updates.start_and_end(over_updates.ACCURACY.of(run)[1])
        said = f"{len(run.updates)}{of} updates; accuracy on training problems {first:.1f} % → {last:.1f} %."
    elif run.cold_start:
        first, last = over_updates.start_and_end(over_updates.LOSS.of(run)[1])
        said = f"{len(run.updates)} optimizer steps; loss {first:.3g} → {last:.3g} nats per token."
    else:
        points = [point for point in run.evaluations if "avg@k" in point.numbers]
        results = ", ".join(f"{point.benchmark} {100 * point.numbers['avg@k']:.1f} %" for point in points[:8])
        said = f"{f'avg@k: {results}' if results else 'no result yet'}."
    return short(f"sod {run.command}: {said}", width=400)


def _footer() -> Html:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    return joined(
        [
            f"Written by sod {sod.__version__} at {made}. Every figure lies beside this page as SVG and PNG. ",
            "It shows what was on disk then: run ",
            code("sod report"),
            " again for a run still at work.",
        ]
    )


def _sections(runs: Sequence[Run], folder: Path) -> Iterator[Section]:
    health = [health_table(runs), alarm_table(runs)]
    yield Section(name="health", title="Health", parts=_kept(health))
    yield Section(name="results", title="Results", parts=_results(runs, folder))
    yield Section(name="training", title="Over training", parts=_training(runs, folder))
    yield Section(name="steps", title="By step", parts=list(_steps(runs, folder)))
    yield Section(
        name="patterns", title="Stable, erroneous, recovery", parts=_shown(draw_classes(runs, folder / "patterns"))
    )
    yield Section(name="trajectory", title="One trajectory", parts=list(_trajectories(runs)))
    yield Section(name="time", title="Where the time went", parts=_time(runs, folder))
    yield Section(name="memory", title="Where the memory went", parts=_memory(runs, folder))
    yield Section(name="setup", title="What was run", parts=list(_setup(runs)))


def _kept(parts: Sequence[Html | None]) -> list[Html]:
    return [part for part in parts if part is not None]


def _shown(drawn: Picture | None) -> list[Html]:
    return [figure(drawn)] if drawn is not None else []


def _results(runs: Sequence[Run], folder: Path) -> list[Html]:
    tests = evaluation_tests(runs)
    warnings = list(dict.fromkeys(warning for test in tests for warning in test.warnings))
    notes = (
        [element("ul", *(element("li", short(warning, width=300)) for warning in warnings[:20]))] if warnings else []
    )
    return [
        *_kept([evaluation_table(runs), so_far_table(runs)]),
        *_shown(draw_evaluations(runs, folder / "evaluations")),
        *_kept([test_table(tests, f"Differences between evaluations. {_PAIRED}")]),
        *notes,
        *_kept([apart_table(in_training(runs)), trend_table(runs)]),
        *_kept([test_table(training_tests(runs), f"Differences on training problems. {_PAIRED}"), loss_table(runs)]),
    ]


def _training(runs: Sequence[Run], folder: Path) -> list[Html]:
    trained, cold = [run for run in runs if run.trained], [run for run in runs if run.cold_start]
    plan = (
        ("training", over_updates.LEARNING, "Accuracy, entropy of the policy and tool calls over updates."),
        (
            "signal",
            over_updates.SIGNAL,
            "Reward, divergence of student and teacher, and trust in the teacher over updates.",
        ),
        (
            "calls",
            over_updates.CONDUCT,
            "Failed calls, failed calls that were tried again, and gradient norm over updates.",
        ),
        ("length", over_updates.SIZE, "Turns and response length over updates."),
    )
    drawn = [draw_quantities(trained, which, folder / name, what=what) for name, which, what in plan]
    what = "Cold start: loss, gradient norm and learning rate over optimizer steps."
    drawn.append(
        draw_quantities(cold, over_updates.COLD_START, folder / "cold-start", what=what, over="optimizer step")
    )
    return [part for each in drawn for part in _shown(each)]


# ---- by step


def _steps(runs: Sequence[Run], folder: Path) -> Iterator[Html]:
    trained = [run for run in runs if run.trained or run.trajectories.divergence]
    taught = [run for run in trained if run.trajectories.divergence]
    for run in trained:
        if run not in taught:
            yield paragraph(short(run.label), ": no divergence was recorded: the run had no teacher.")
        constant = run.trajectories.weight.constant
        if run in taught and constant is not None:
            yield paragraph(short(run.label), f": every step's weight was {constant:g}.")
    if len(taught) == 1:
        yield from _shown(by_step.draw_run_steps(taught[0], folder / "steps"))
    elif taught:
        for quantity in by_step.STEP_QUANTITIES:
            name = quantity.name.replace("_", "-")
            yield from _shown(by_step.draw_steps(taught, quantity, folder / f"{name}-by-step"))
    for run in taught:
        tables = [
            step_table(quantity.of(run), joined([short(run.label), f": {quantity.title} ({quantity.unit}) by step"]))
            for quantity in by_step.STEP_QUANTITIES
            if quantity.of(run)
        ]
        yield details(joined(["The numbers of ", short(run.label)]), *tables)


def _trajectories(runs: Sequence[Run]) -> Iterator[Html]:
    told = [run for run in runs if run.trajectories.telling is not None]
    if told:
        what = "Of each run the trajectory that shows most: with a failed call or a wrong answer"
        if any(run.trajectories.divergence for run in told):
            what += (
                ", and with steps at which the teacher was trusted more and less. Bars are against the largest value "
                "of the trajectory (weights: at least 1)"
            )
        yield paragraph(what, ". Texts are the student's and the tool's own.", soft=True)
    for index, run in enumerate(told):
        record = run.trajectories.telling or {}
        yield details(joined([short(run.label), ". ", summary(record)]), story(record), shown=index == 0)


def _time(runs: Sequence[Run], folder: Path) -> list[Html]:
    return [*_shown(draw_time(runs, folder / "time")), *_kept([time_table(runs)])] or [paragraph("Nothing was timed.")]


def _memory(runs: Sequence[Run], folder: Path) -> list[Html]:
    parts = [*_shown(draw_memory(runs, folder / "memory")), *_kept([memory_table(runs)])]
    return parts or [paragraph("No memory was recorded.")]


def _setup(runs: Sequence[Run]) -> Iterator[Html]:
    yield facts_table(runs)
    yield from difference_tables(runs)
    for run in runs:
        if run.config:
            whole = clean(json.dumps(run.config, indent=2, ensure_ascii=False))
            cut = f"\n[{len(whole) - MAX_CONFIG} characters left out]" if len(whole) > MAX_CONFIG else ""
            yield details(joined(["The whole config of ", short(run.label)]), element("pre", whole[:MAX_CONFIG] + cut))

"""One run directory -> what its report shows. Files are read line by line; damaged lines are skipped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sod.errors import DataError
from sod.report.classes import Classes
from sod.report.costs import Costs, read_costs
from sod.report.labels import labels_of
from sod.report.steps import StepMeans, outcomes_of
from sod.report.trajectory import is_trajectory, step_values, telling_rank
from sod.report.untrusted import count, items, line, mapping, number, read_lines, read_object, too_deep
from sod.runs import need_run

MAX_ALARMS = 100
_MARKERS = ("config.json", "run.json", "metrics.jsonl")

Verdicts: TypeAlias = dict[tuple[int, str, str], dict[str, bool]]
"""By update, benchmark and problem: whether each sample is right, by its number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Alarm:
    """A guard's warning, as recorded."""

    update: int
    rule: str
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPoint:
    """One evaluation. `numbers` holds what `sod.evaluate.summary` gave, numbers only; `benchmark` is empty in
    training."""

    update: int
    benchmark: str = ""
    numbers: Mapping[str, float]


@dataclass(kw_only=True)
class Trajectories:
    """What is kept of trajectories.jsonl."""

    num_graded: int = 0
    num_sealed: int = 0
    num_correct: int = 0
    num_failed_call: int = 0
    divergence: StepMeans = field(default_factory=StepMeans)
    weight: StepMeans = field(default_factory=StepMeans)
    teacher_entropy: StepMeans = field(default_factory=StepMeans)
    classes: Classes = field(default_factory=Classes)
    verdicts: Verdicts = field(default_factory=dict)
    telling: Mapping[str, Any] | None = None
    _rank: tuple[float, ...] = ()
    _lost: set[tuple[Any, ...]] = field(default_factory=set)

    @property
    def num_lost(self) -> int:
        """Samples that the world lost and that were not drawn again."""
        return len(self._lost)

    def add(self, record: Mapping[str, Any]) -> bool:
        """One record; False when it is not one of a trajectory."""
        if not is_trajectory(record):
            return False
        key = tuple(str(record.get(name)) for name in ("update", "benchmark", "problem_id", "sample"))
        if "score" not in record:  # a failure of the world: dropped from training, not counted in evaluation
            self._lost.add(key)
            return True
        self._lost.discard(key)
        correct = mapping(record["score"]).get("correct")
        if isinstance(correct, bool):
            place = (count(record.get("update")) or 0, key[1] if "benchmark" in record else "", key[2])
            self.verdicts.setdefault(place, {})[key[3]] = correct  # the last line of a sample counts
        if "sealed" in record:  # its texts must not be shown
            self.num_sealed += 1
            return True
        if not isinstance(correct, bool):
            return False
        self._add_shown(record, correct=correct)
        return True

    def _add_shown(self, record: Mapping[str, Any], *, correct: bool) -> None:
        outcomes = outcomes_of(record, correct=correct)
        self.num_graded += 1
        self.num_correct += correct
        self.num_failed_call += "failed call" in outcomes
        by_step = {"divergence": self.divergence, "weight": self.weight, "teacher_entropy": self.teacher_entropy}
        for name, means in by_step.items():
            means.add(step_values(record, name), outcomes=outcomes, problem=record["problem_id"])
        self.classes.add(record)
        rank = telling_rank(record)
        if rank > self._rank and not too_deep(record):
            self.telling, self._rank = record, rank


@dataclass(kw_only=True)
class Run:
    """A run directory as its report sees it."""

    path: Path
    label: str = ""
    place: int = 0
    """Among the runs of the report: decides its colour, marker and dash in every figure."""
    config: Mapping[str, Any]
    sessions: Sequence[Mapping[str, Any]]
    command: str
    status: Mapping[str, Any]
    result: Mapping[str, Any]
    """evaluation.json of `sod eval`; empty for other commands."""
    updates: Sequence[Mapping[str, float]] = ()
    evaluations: Sequence[EvaluationPoint] = ()
    alarms: Sequence[Alarm] = ()
    costs: Costs = field(default_factory=Costs)
    trajectories: Trajectories = field(default_factory=Trajectories)
    skipped: Counter[str] = field(default_factory=Counter)
    """Lines that could not be read, by file."""

    @property
    def session(self) -> Mapping[str, Any]:
        """Facts of the last session."""
        return self.sessions[-1] if self.sessions else {}

    @property
    def method(self) -> str:
        """The config's method; the command's name where there is none."""
        return line(self.config.get("method") or self.command, width=40)

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Update numbers and values of one metric, where recorded."""
        pairs = [(update["update"], update[name]) for update in self.updates if name in update]
        return [update for update, _ in pairs], [value for _, value in pairs]

    @property
    def trained(self) -> bool:
        """It sampled and learned from what it sampled."""
        return bool(self.series("accuracy")[1])

    @property
    def cold_start(self) -> bool:
        """Its updates are optimizer steps on traces: a loss, no rollouts."""
        return bool(self.series("loss")[1]) and not self.trained

    @property
    def in_training(self) -> list[EvaluationPoint]:
        """Evaluations between updates."""
        return [point for point in self.evaluations if not point.benchmark]


def read_run(path: Path) -> Run:
    """Everything the report needs of one directory. Raises DataError when it holds no run or no results yet."""
    need_run(path, files=_MARKERS)
    facts, config, status, result = (
        _shallow(read_object(path / name)) for name in ("run.json", "config.json", "status.json", "evaluation.json")
    )
    sessions = [mapping(session) for session in items(facts.get("sessions"))]
    run = Run(
        path=path,
        config=config,
        sessions=sessions,
        command=line(facts.get("command", "run"), width=40),
        status=status,
        result=result,
    )
    _read_metrics(run)
    _read_trajectories(run)
    run.skipped = +run.skipped  # those above 0
    if not (run.updates or run.evaluations or run.trajectories.verdicts):
        raise DataError(
            f"{path} must hold at least one update, evaluation or graded sample, got none (state: "
            f"{line(run.status.get('state', 'unknown'), width=40)}, unreadable lines: {run.skipped['metrics.jsonl']}); "
            "run its command again to continue it"
        )
    run.costs = read_costs(path / "timing.jsonl")
    if run.costs.num_skipped:
        run.skipped["timing.jsonl"] += run.costs.num_skipped
    return run


def _shallow(value: Mapping[str, Any]) -> Mapping[str, Any]:
    return {} if too_deep(value) else value


def _read_metrics(run: Run) -> None:
    updates: dict[int, Mapping[str, float]] = {}
    evaluations: dict[int, EvaluationPoint] = {}
    alarms: list[Alarm] = []
    for record in read_lines(run.path / "metrics.jsonl"):
        update = count((record or {}).get("update"))
        if record is None or update is None:
            run.skipped["metrics.jsonl"] += 1
        elif "evaluation" in record:
            evaluations[update] = EvaluationPoint(update=update, numbers=_numbers(mapping(record["evaluation"])))
        elif "alarm" in record:
            alarms.append(Alarm(update=update, rule=str(record["alarm"]), message=str(record.get("message", ""))))
        else:
            updates[update] = _numbers(record)
    run.updates = [updates[number] for number in sorted(updates)]
    run.evaluations = [evaluations[number] for number in sorted(evaluations)] + [
        EvaluationPoint(update=0, benchmark=line(name, width=40), numbers=_numbers(mapping(numbers)))
        for name, numbers in mapping(run.result.get("benchmarks")).items()
    ]
    run.alarms = alarms[:MAX_ALARMS]


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    known = {key: number(value) for key, value in record.items()}
    return {key: value for key, value in known.items() if value is not None}


def _read_trajectories(run: Run) -> None:
    for record in read_lines(run.path / "trajectories.jsonl"):
        try:
            known = record is not None and run.trajectories.add(record)
        except RecursionError:  # lists in lists without end
            known = False
        run.skipped["trajectories.jsonl"] += not known


def label_runs(runs: Sequence[Run]) -> None:
    """Names short enough for a legend and different from each other, and a place (a colour) for each run."""
    labels = labels_of(
        [run.path for run in runs], [run.method for run in runs], [run.config.get("seed") for run in runs]
    )
    for place, (run, label) in enumerate(zip(runs, labels, strict=True)):
        run.label, run.place = label, place

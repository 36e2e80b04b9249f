"""What makes a student collapse, on a real model: named settings over 15 updates each, after prepare.py.

    python examples/gsm8k_smollm2/collapse.py                 # everything; the same command goes on where it stopped
    python examples/gsm8k_smollm2/collapse.py opd stable      # some of the settings
    python examples/gsm8k_smollm2/collapse.py --table         # only the table of what is there

The student has learned from traces in which a call fails and is made again, the teacher only from traces in which none
does; in training a third of the calls fails. Problems and traces are GSM8K's short ones, of two calls at most.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from sod.agent import FAULT
from sod.benchmark import run_benchmarks
from sod.config import EvalConfig, GuardConfig, SFTConfig, TrainConfig, as_overrides, load, parse
from sod.data import read_rows
from sod.errors import SodError
from sod.guards import Guards
from sod.metrics import persistence
from sod.records import log_ratios_of, trajectory_of
from sod.runs import read_records, read_trajectories
from sod.sft import final_model, sft
from sod.train import train

HERE = Path(__file__).parent
PREPARED = Path("runs/gsm8k_smollm2")
WORK = PREPARED / "collapse"

MAX_CALLS, MAX_QUESTION_CHARS = 2, 220
NUM_TRACES = {"student": 320, "teacher": 160}
"""Of these, what fits is learned from: failed calls make the student's longer."""
NUM_EVALUATED = 128
FAULTS = 0.4
"""Share of the student's traced calls that fail and are made again; some of those fail again."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"method": "grpo"},
    "opd": {"method": "opd"},
    "opd_grpo": {"method": "opd_grpo"},
    "paper": {"method": "sod"},
    "stable": {"method": "sod", "preset": "stable"},
    "token": {"method": "sod_token"},
    "paper_epsilon": {"method": "sod", "weights.epsilon": 0.3},
    "paper_median": {"method": "sod", "weights.anchor": "median"},
    "paper_fast": {"method": "sod", "optimizer.lr": 3e-4},
    "paper_slow": {"method": "sod", "optimizer.lr": 3e-5},
    "opd_floor": {"method": "reopold"},
    "opd_slow": {"method": "opd", "optimizer.lr": 1e-5},
}
"""What is tried, by name."""


def main() -> None:
    """Parse the command line, make what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"default: all of {', '.join(SETTINGS)}")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument(
        "--beside", nargs="*", default=[], type=Path, metavar="RUN", help="other runs, in the last table"
    )
    options = parser.parse_args()
    names = options.settings or list(SETTINGS)
    if unknown := set(names) - set(SETTINGS):
        parser.error(f"a setting must be one of {', '.join(SETTINGS)}, got {', '.join(sorted(unknown))}")
    try:
        if not options.table:
            write_data()
            cold_start("student")
            cold_start("teacher")
            evaluate("start", final_model(WORK / "student"))
            for name in names:
                run_setting(name)
                evaluate(name, max((WORK / "runs" / name).glob("checkpoints/update-*")) / "model")
        runs = {name: WORK / "runs" / name for name in names} | {str(run): run for run in options.beside}
        print("\n".join((*table(names), "", *after_failure(runs))))
    except SodError as error:
        sys.exit(f"{type(error).__name__}: {error}")


# ---- problems and traces


def write_data() -> None:
    """train.jsonl and the traces of student and teacher, of what prepare.py wrote."""
    if (WORK / "teacher.jsonl").exists():
        return
    WORK.mkdir(parents=True, exist_ok=True)
    rows = (row for _, row in read_rows(PREPARED / "train.jsonl"))
    _write("train", (row for row in rows if _is_short(row["question"], calls=row["answer"].count("<<"))))
    traces = [trace for _, trace in read_rows(PREPARED / "traces.jsonl") if _is_short_trace(trace["messages"])]
    draws = random.Random(0)
    _write("student", ({**trace, "messages": list(_with_faults(trace["messages"], draws))} for trace in traces))
    _write("teacher", traces)


def _write(name: str, rows: Iterator[Mapping[str, Any]] | Sequence[Mapping[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (WORK / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"{WORK / name}.jsonl: {len(lines)} rows", flush=True)


def _is_short(question: str, *, calls: int) -> bool:
    return len(question) <= MAX_QUESTION_CHARS and 1 <= calls <= MAX_CALLS


def _is_short_trace(messages: Sequence[Mapping[str, Any]]) -> bool:
    question = messages[0]["content"].partition("\n\nPlease")[0]
    return _is_short(question, calls=sum("tool_calls" in message for message in messages))


def _with_faults(messages: Sequence[Mapping[str, Any]], draws: random.Random) -> Iterator[Mapping[str, Any]]:
    """The dialogue with some calls failing: call, "[the tool failed: no answer]", the same call alone, its answer."""
    for message in messages:
        yield message
        if "tool_calls" in message:
            while draws.random() < FAULTS:
                yield {"role": "tool", "content": FAULT}
                yield {**message, "content": ""}


# ---- models


def cold_start(name: str) -> None:
    """The student or the teacher, from its traces."""
    settings = {"run": str(WORK / name), "traces": str(WORK / f"{name}.jsonl"), "limit": NUM_TRACES[name]}
    config = load(SFTConfig, HERE / "collapse_sft.toml", overrides=as_overrides(settings))
    sft(config, listener=lambda event, values: _say(name, event, values))


def run_setting(name: str) -> None:
    """One run."""
    train(setting(name), listener=lambda event, values: _say(name, event, values))


def setting(name: str) -> TrainConfig:
    """The run of a name of SETTINGS."""
    settings = {"run": str(WORK / "runs" / name), **SETTINGS[name]}
    return load(TrainConfig, HERE / "collapse.toml", overrides=as_overrides(settings))


def evaluate(name: str, model: Path) -> None:
    """The first NUM_EVALUATED problems once each, under the limits of training: whether failed calls are made again."""
    shared = setting("grpo")
    values = {
        "run": str(WORK / "evaluations" / name),
        "model": {"path": str(model), "dtype": "float32"},
        "benchmarks": [{"path": str(WORK / "train.jsonl"), "limit": NUM_EVALUATED}],
        "samples": 1,
        "sampling": {"temperature": 1.0, "top_p": 1.0},
        "agent": shared.agent.model_dump(),
        "tool": shared.tool.model_dump(),
    }
    run_benchmarks(parse(EvalConfig, values), listener=lambda event, values: _say(name, event, values))


def _say(name: str, event: str, values: Mapping[str, Any]) -> None:
    if event in ("step", "update", "alarm", "warning"):
        print(name, event, json.dumps({key: value for key, value in values.items() if key in TOLD}), flush=True)


TOLD = ("step", "update", "loss", "reward", "tool_calls", "failed_turns", "retried", "entropy", "rule", "message")


# ---- the table

HEAD = ("setting", "updates", "d", "w", "entropy", "alarms", "right", "calls", "failed turns", "called again")
WINDOW = 5


def table(names: Sequence[str]) -> Iterator[str]:
    """Each run that is there, as Markdown: first against last WINDOW updates of training, then the evaluation."""
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for name in ("start", *names):
        if (WORK / "evaluations" / name / "evaluation.json").exists():
            metrics = WORK / "runs" / name / "metrics.jsonl"
            trained = _trained(list(read_records(metrics))) if metrics.exists() else ("0", "", "", "", "")
            yield f"| {' | '.join((name, *trained, *_evaluated(WORK / 'evaluations' / name)))} |"


def _trained(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    updates = [record for record in records if "reward" in record]
    yield str(len(updates))
    for key in ("divergence", "weight", "entropy"):
        first, last = (_mean(part, key) for part in (updates[:WINDOW], updates[-WINDOW:]))
        yield f"{first:.2f} to {last:.2f}"
    guards, alarms = Guards(config=GuardConfig()), dict[str, int]()
    for update in updates:  # asked anew, so that every run has the rules of today
        for alarm in guards.check(update):
            alarms.setdefault(alarm.rule, update["update"])
    yield ", ".join(f"{rule} at {update}" for rule, update in alarms.items()) or "none"


def _mean(updates: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.mean(update.get(key, float("nan")) for update in updates)


def _evaluated(run: Path) -> Iterator[str]:
    records = list(read_trajectories(run))
    trajectories = [trajectory_of(record) for record in records]
    counts = persistence(trajectories)
    yield f"{sum(record['score']['correct'] for record in records)} of {len(records)}"
    yield f"{sum(len(trajectory.tool_results) for trajectory in trajectories) / len(records):.2f}"
    yield f"{counts['failed_turns']}"
    yield f"{counts['retried'] / max(1, counts['failed_turns']):.0%}"


# ---- what the teacher says after a failed call

OPENING = 3
"""Tokens of a step in which it is decided whether the tool is called again."""


def after_failure(runs: Mapping[str, Path]) -> Iterator[str]:
    """Steps of training that follow a failed call, by what they do: the teacher's disagreement lies in the first tokens
    of a call made again, and the mean over its step does not show it."""
    head = ("setting", "after a failed call", "steps", "tokens", "d", "w", f"log-ratio of the first {OPENING} tokens")
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for name, run in runs.items():
        records = read_trajectories(run) if (run / "trajectories.jsonl").exists() else ()
        steps = [step for record in records for step in _steps_after_failure(record)]
        for what, calls in (("calls again", True), ("answers", False)):
            chosen = [step for step in steps if step.calls is calls]
            if chosen:
                means = (statistics.mean(getattr(step, key) for step in chosen) for key in Step.MEANT)
                tokens, divergence, weight, opening = means
                row = (
                    name,
                    what,
                    str(len(chosen)),
                    f"{tokens:.0f}",
                    f"{divergence:.2f}",
                    f"{weight:.2f}",
                    f"{opening:+.2f}",
                )
                yield f"| {' | '.join(row)} |"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One that follows a failed call."""

    MEANT: ClassVar = ("tokens", "divergence", "weight", "opening")
    calls: bool
    tokens: int
    divergence: float
    weight: float
    opening: float
    """Sum of log p_teacher - log p_student over its first tokens."""


def _steps_after_failure(record: Mapping[str, Any]) -> Iterator[Step]:
    trajectory = trajectory_of(record)
    log_ratio = log_ratios_of(record, trajectory)
    for number, (turn, following) in enumerate(itertools.pairwise(trajectory.turns), start=1):
        if turn.failed:
            yield Step(
                calls=bool(following.calls),
                tokens=following.end - following.start,
                divergence=record["divergence"][number],
                weight=record["weight"][number],
                opening=sum(log_ratio[place] for place in range(following.start, following.end)[:OPENING]),
            )


if __name__ == "__main__":
    main()

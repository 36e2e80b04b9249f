"""What makes a student collapse, on a real model: named settings over 15 updates each, after prepare.py.

    python examples/gsm8k_smollm2/collapse.py                 # everything; the same command goes on where it stopped
    python examples/gsm8k_smollm2/collapse.py opd stable      # some of the settings
    python examples/gsm8k_smollm2/collapse.py --table         # only the table of what is there

The student has learned from traces in which a call fails and is made again, the teacher only from traces in which none
does; in training a third of the calls fails. Problems and traces are GSM8K's short ones, of two calls at most.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.agent import FAULT
from sod.config import SFTConfig, TrainConfig, load
from sod.data import read_rows
from sod.errors import SodError
from sod.runs import read_records
from sod.sft import sft
from sod.train import train

HERE = Path(__file__).parent
PREPARED = Path("runs/gsm8k_smollm2")
WORK = PREPARED / "collapse"

MAX_CALLS, MAX_QUESTION_CHARS = 2, 220
NUM_TRACES = {"student": 320, "teacher": 160}
"""Of these, what fits is learned from: failed calls make the student's longer."""
FAULTS = 0.4
"""Share of the student's traced calls that fail and are made again; some of those fail again."""

SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "grpo": {"method": "grpo"},
    "opd": {"method": "opd"},
    "opd_grpo": {"method": "opd_grpo"},
    "paper": {"method": "sod"},
    "stable": {"method": "sod", "preset": "stable"},
    "paper_epsilon": {"method": "sod", "weights.epsilon": 0.3},
    "paper_median": {"method": "sod", "weights.anchor": "median"},
    "paper_fast": {"method": "sod", "optimizer.lr": 3e-4},
    "opd_floor": {"method": "reopold"},
    "opd_slow": {"method": "opd", "optimizer.lr": 1e-5},
}
"""What is tried, by name."""


def main() -> None:
    """Parse the command line, make what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=f"default: all of {', '.join(SETTINGS)}")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    names = options.settings or list(SETTINGS)
    if unknown := set(names) - set(SETTINGS):
        parser.error(f"a setting must be one of {', '.join(SETTINGS)}, got {', '.join(sorted(unknown))}")
    try:
        if not options.table:
            write_data()
            cold_start("student")
            cold_start("teacher")
            for name in names:
                run_setting(name)
        print("\n".join(table(names)))
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
    config = load(SFTConfig, HERE / "collapse_sft.toml", overrides=_overrides(settings))
    sft(config, listener=lambda event, values: _say(name, event, values))


def run_setting(name: str) -> None:
    """One run."""
    train(setting(name), listener=lambda event, values: _say(name, event, values))


def setting(name: str) -> TrainConfig:
    """The run of a name of SETTINGS."""
    settings = {"run": str(WORK / "runs" / name), **SETTINGS[name]}
    return load(TrainConfig, HERE / "collapse.toml", overrides=_overrides(settings))


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


def _say(name: str, event: str, values: Mapping[str, Any]) -> None:
    if event in ("step", "update", "alarm", "warning"):
        print(name, event, json.dumps({key: value for key, value in values.items() if key in TOLD}), flush=True)


TOLD = ("step", "update", "loss", "reward", "tool_calls", "failed_turns", "retried", "entropy", "rule", "message")


# ---- the table

HEAD = ("setting", "updates", "reward", "calls", "called again", "d", "w", "entropy", "tokens", "alarms")


def table(names: Sequence[str]) -> Iterator[str]:
    """First against last WINDOW updates of each run that is there, as Markdown."""
    yield f"| {' | '.join(HEAD)} |"
    yield "|---" * len(HEAD) + "|"
    for name in names:
        path = WORK / "runs" / name / "metrics.jsonl"
        if path.exists():
            yield f"| {' | '.join((name, *_row(list(read_records(path)))))} |"


WINDOW = 5


def _row(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    updates = [record for record in records if "reward" in record]
    first, last = updates[:WINDOW], updates[-WINDOW:]
    yield str(len(updates))
    for key, form in (("reward", ".3f"), ("tool_calls", ".2f")):
        yield f"{_mean(first, key):{form}} to {_mean(last, key):{form}}"
    yield f"{_called_again(first):.0%} to {_called_again(last):.0%}"
    for key, form in (("divergence", ".2f"), ("weight", ".2f"), ("entropy", ".2f"), ("sampled_tokens", ".0f")):
        yield f"{_mean(first, key):{form}} to {_mean(last, key):{form}}"
    alarms = {str(record["alarm"]): record["update"] for record in reversed(records) if "alarm" in record}
    yield ", ".join(f"{rule} at {update}" for rule, update in alarms.items()) or "none"


def _mean(updates: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.mean(update.get(key, float("nan")) for update in updates)


def _called_again(updates: Sequence[Mapping[str, Any]]) -> float:
    """Share of the turns with a failed call that are followed by another call."""
    failed = sum(update.get("failed_turns", 0) for update in updates)
    return sum(update.get("retried", 0) for update in updates) / max(1, failed)


if __name__ == "__main__":
    main()

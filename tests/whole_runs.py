"""Whole runs on tiny models, for the tests that make them: a world of a student, a teacher and problems, and ways to
run, stop and read back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.config import SFTConfig, TrainConfig, parse
from sod.demo.pretrained import make_model
from sod.runs import read_records
from sod.sft import final_model, sft
from sod.train import train

Events = list[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class World:
    """Directories of models and a file of problems. `student` calls the tool in most of its first turns."""

    root: Path
    student: Path
    teacher: Path
    problems: Path

    def config(self, run: Path, **changes: Any) -> TrainConfig:
        """A run of 2 prompts x 3 samples; `changes` replace sections' keys."""
        sections: dict[str, dict[str, Any]] = {
            "student": {"path": str(self.student)},
            "teacher": {"path": str(self.teacher)},
            "data": {"path": str(self.problems)},
            "agent": {"max_turns": 3, "max_response_tokens": 96},
            "sandbox": {"workers": 1, "preload": [], "memory_mb": 256},
            "optimizer": {"lr": 1e-4},
            "update": {"num_updates": 2, "prompts": 2, "samples": 3, "optimizer_steps": 2, "save_every": 0},
        }
        plain = {"run": str(run), "seed": 5}
        for key, value in changes.items():
            if isinstance(value, Mapping):
                sections[key] = {**sections.get(key, {}), **value}
            else:
                sections.pop(key, None)
                plain[key] = value
        return parse(TrainConfig, {**sections, **plain})


def make_world(root: Path, tokenizer: Any, tiny_module: Callable[[int], Any]) -> World:
    """The student is cold-started on one short dialogue by `sod sft` itself (about 1 s)."""
    for name, module in (("fresh", make_model("student", seed=0)), ("teacher", tiny_module(1))):
        module.save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)
    problems = [{"id": str(n), "messages": [_user(n)], "answer": "42" if n % 2 else "41"} for n in range(5)]
    (root / "problems.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (root / "traces.jsonl").write_text("\n".join(json.dumps({"messages": _dialogue(n)}) for n in range(8)))
    settings = {
        "run": str(root / "sft"),
        "student": {"path": str(root / "fresh")},
        "traces": str(root / "traces.jsonl"),
        "epochs": 10,
        "batch": 2,
        "optimizer": {"lr": 5e-3, "schedule": "constant", "warmup": 0.1},
    }
    sft(parse(SFTConfig, settings))
    return World(root, final_model(root / "sft"), root / "teacher", root / "problems.jsonl")


def _user(number: int) -> dict[str, str]:
    return {"role": "user", "content": f"Start with {number}."}


def _dialogue(number: int) -> list[dict[str, Any]]:
    function = {"name": "code_interpreter", "arguments": {"code": "6*7"}}
    return [
        _user(number),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": "The answer is \\boxed{42}."},
    ]


def run(config: TrainConfig) -> Events:
    """Train to the end; the events that were told."""
    events: Events = []
    train(config, listener=lambda event, values: events.append((event, values)))
    return events


def stop_by(event: str, update: int, how: Callable[[], None]) -> Callable[[str, Mapping[str, Any]], None]:
    """A listener that stops the run at an event of an update."""

    def listen(name: str, values: Mapping[str, Any]) -> None:
        if name == event and values["update"] == update:
            how()

    return listen


def cancel() -> None:
    """What asyncio does at Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


def crash() -> None:
    raise LookupError("power cut")


def records(config: TrainConfig, log: str) -> list[dict[str, Any]]:
    return list(read_records(Path(config.run) / f"{log}.jsonl"))


def weights(config: TrainConfig, update: int) -> dict[str, torch.Tensor]:
    return load_file(Path(config.run) / "checkpoints" / f"update-{update:06d}" / "model" / "model.safetensors")


def same_metrics(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> bool:
    assert [line["update"] for line in ours] == [line["update"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        if "evaluation" in other:
            assert mine == other
        else:
            assert mine == pytest.approx(other, rel=1e-3, abs=1e-5)
    return True

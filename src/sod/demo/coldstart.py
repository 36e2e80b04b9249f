"""`sod demo --from-scratch`: make the demo's pair anew, by the same `sod sft` as any other cold start."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sod.config import SFTConfig
from sod.demo import world
from sod.demo.pretrained import write_model
from sod.sft import final_model, sft

TRACE_SEED = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How one of the pair is trained: the teacher on careful traces, the student on a careless demonstrator's."""

    num_traces: int
    slips: float
    """Share of wrong steps in the traces."""
    epochs: float
    lr: float
    seed: int


RECIPES: Mapping[str, Recipe] = {
    "student": Recipe(num_traces=12_000, slips=0.2, epochs=2.0, lr=2.5e-3, seed=1),
    "teacher": Recipe(num_traces=12_000, slips=0.0, epochs=3.0, lr=2e-3, seed=1),
}


def cold_start(directory: Path, *, console: Console) -> None:
    """Write `directory`/student and `directory`/teacher; a pair member that is there already is kept."""
    for size, recipe in RECIPES.items():
        target = directory / size
        if (target / "config.json").exists():
            console.print(f"   {size}: there already, at {target}")
            continue
        console.print(f"[bold]0. Cold-start the {size}[/] on {recipe.num_traces} traces, {recipe.epochs:g} passes")
        _cold_start(size, recipe, directory, console)
        shutil.copytree(final_model(directory / f"{size}-run"), target)


def _cold_start(size: str, recipe: Recipe, directory: Path, console: Console) -> None:
    fresh, traces = directory / f"{size}-fresh", directory / f"{size}-traces.jsonl"
    write_model(size, fresh, seed=recipe.seed)
    rows = (
        json.dumps({"messages": trace})
        for trace in world.traces(recipe.num_traces, seed=TRACE_SEED, slips=recipe.slips)
    )
    traces.write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = SFTConfig.model_validate(
        {
            "run": str(directory / f"{size}-run"),
            "student": {"path": str(fresh)},
            "traces": str(traces),
            "epochs": recipe.epochs,
            "batch": 16,
            "max_tokens": 1024,
            "tokens_per_microbatch": 16384,
            "optimizer": {"lr": recipe.lr, "schedule": "cosine", "warmup": 0.1},
        }
    )

    def listen(event: str, values: Mapping[str, Any]) -> None:
        if event == "step" and values["update"] % 25 == 0:
            console.print(f"   step {values['update']} of {values['num_updates']}, loss {values['loss']:.4f}")

    sft(config, listener=listen)

"""The presets in the world where a tool fails and the teacher has never seen it: what unlearns, what rings, what holds.

The models are those of the study (examples/miniature/models), the runs real ones. One seed shows what is large: that
plain distillation unlearns to call again and its own alarm rings, and that `stable` does neither. What is small,
accuracy over three seeds, is in the study's results, which are checked here as they were recorded.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.config import TrainConfig, load
from sod.runs import read_records
from sod.train import train

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "examples" / "miniature"
RESULTS = ROOT / "docs" / "results" / "miniature.json"
UPDATES = 45


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(MINIATURE))
        world = importlib.import_module("world")
        path: Path = tmp_path_factory.mktemp("data") / "train.jsonl"
        world.write_jsonl(path, world.rows(800, seed="presets"))
        yield path


def run(directory: Path, data: Path, *, method: str, preset: str = "paper", teacher: str = "naive") -> dict[str, Any]:
    """Train in the world whose tool fails; returns the share of calls again at start and end, and the alarms."""
    overrides = {
        "run": directory,
        "method": method,
        "preset": preset,
        "student.path": MINIATURE / "models" / "small",
        "teacher.path": MINIATURE / "models" / teacher,
        "data.path": data,
        "tool.make": f"{MINIATURE / 'world.py'}:calculator",
        "tool.fault_share": 0.2,
        "update.num_updates": UPDATES,
    }
    given = [
        f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}" for key, value in overrides.items()
    ]
    train(load(TrainConfig, MINIATURE / "train.toml", overrides=given))
    records = list(read_records(directory / "metrics.jsonl"))
    updates = [record for record in records if "accuracy" in record]
    return {
        "start": again(updates[:5]),
        "end": again(updates[-5:]),
        "accuracy": sum(update["accuracy"] for update in updates[-10:]) / 10,
        "alarms": {record["alarm"] for record in records if "alarm" in record},
        "trust": updates[-1]["trust_after_failure"],
    }


def again(updates: Sequence[dict[str, Any]]) -> float:
    return sum(update["retried"] for update in updates) / sum(update["failed_turns"] for update in updates)


@pytest.mark.slow
def test_plain_distillation_unlearns_the_retry_and_its_alarm_rings_where_stable_keeps_it(
    tmp_path: Path, data: Path
) -> None:
    opd = run(tmp_path / "opd", data, method="opd")
    stable = run(tmp_path / "stable", data, method="sod", preset="stable")
    assert opd["end"] < 0.9 * opd["start"]
    assert "retries" in opd["alarms"]
    assert stable["end"] > 0.95 * stable["start"]
    assert "retries" not in stable["alarms"]
    assert stable["accuracy"] > opd["accuracy"]
    assert stable["trust"] < 0.3


@pytest.mark.slow
def test_a_teacher_that_knows_how_to_recover_earns_its_voice(tmp_path: Path, data: Path) -> None:
    knowing = run(tmp_path / "knowing", data, method="sod", preset="stable", teacher="knowing")
    assert knowing["trust"] > 0.7
    assert knowing["end"] > 0.95 * knowing["start"]
    assert not knowing["alarms"]


def recorded(world: str, size: str, method: str) -> Any:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["main"]
    (row,) = (row for row in rows if (row["world"], row["size"], row["method"]) == (world, size, method))
    return row


@pytest.mark.parametrize("size", ["small", "large"])
@pytest.mark.parametrize(("world", "rival"), [("naive", "grpo"), ("knowing", "opd")])
def test_stable_is_recorded_as_no_worse_over_three_seeds(world: str, size: str, rival: str) -> None:
    """Paired by seed and problem: not below, and the interval leaves no room for a loss of 2 points."""
    stable = recorded(world, size, "stable")
    assert stable["seeds"] == [0, 1, 2]
    difference = stable["differences"][rival]["interval"]
    assert difference["value"] >= 0
    assert difference["low"] > -0.02


@pytest.mark.parametrize("size", ["small", "large"])
def test_the_alarm_is_recorded_where_the_retry_was_unlearned_and_nowhere_else(size: str) -> None:
    for method, rings in (("opd", True), ("grpo", False), ("sod", False), ("stable", False)):
        row = recorded("naive", size, method)
        shares = {seed: row["retried"][seed] / row["failed_turns"][seed] for seed in row["retried"]}
        assert {seed: bool(row["alarms"][seed]) for seed in shares} == dict.fromkeys(shares, rings), method
        assert all((share < 0.9) is rings for share in shares.values()), (method, shares)
    for method in ("opd", "sod", "stable"):
        assert not any(recorded("knowing", size, method)["alarms"].values()), method

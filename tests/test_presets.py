"""The presets in worlds where a tool fails and the teacher has never seen it: what unlearns, what rings, what holds.

The models are those of the study and of the world of long calls (examples/miniature/models), the runs real ones. One
seed shows what is large: that plain distillation, and where calls are long the published rule, unlearns to call again
and its own alarm rings, and that `stable` does neither. What is small, accuracy over three seeds, is in the study's
results, which are checked here as they were recorded.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.config import TrainConfig, as_overrides, load
from sod.runs import read_records
from sod.train import train

ROOT = Path(__file__).parent.parent
MINIATURE = ROOT / "examples" / "miniature"
RESULTS = ROOT / "docs" / "results" / "miniature.json"
UPDATES = 45


@pytest.fixture(scope="module", autouse=True)
def example() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(MINIATURE))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    world = importlib.import_module("world")
    path: Path = tmp_path_factory.mktemp("data") / "train.jsonl"
    return world.write_jsonl(path, world.rows(800, seed="presets"))


@pytest.fixture(scope="module")
def long_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings of the world of long calls."""
    world, long_calls = importlib.import_module("world"), importlib.import_module("long_calls")
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    world.write_jsonl(path, world.rows(800, seed="presets", lengths=long_calls.LENGTHS))
    shipped = place("long_calls.py", path, student="long_student", teacher="long_teacher")
    return {**long_calls.SETTINGS, **shipped}


def failing(data: Path, *, teacher: str = "naive") -> dict[str, Any]:
    """Settings of the study's world whose tool fails."""
    return {**place("world.py", data, student="small", teacher=teacher), "tool.fault_share": 0.2}


def place(world: str, data: Path, *, student: str, teacher: str) -> dict[str, Any]:
    return {
        "student.path": MINIATURE / "models" / student,
        "teacher.path": MINIATURE / "models" / teacher,
        "data.path": data,
        "tool.make": f"{MINIATURE / world}:calculator",
    }


def run(directory: Path, place: Mapping[str, Any], *, method: str, preset: str = "paper") -> dict[str, Any]:
    """Train where a tool fails; returns the share of calls again at start and end, and the alarms."""
    settings = {
        "run": directory,
        "method": method,
        "preset": preset,
        "update.num_updates": UPDATES,
        **place,
    }
    train(load(TrainConfig, MINIATURE / "train.toml", overrides=as_overrides(settings)))
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
    opd = run(tmp_path / "opd", failing(data), method="opd")
    stable = run(tmp_path / "stable", failing(data), method="sod", preset="stable")
    assert opd["end"] < 0.9 * opd["start"]
    assert "retries" in opd["alarms"]
    assert stable["end"] > 0.95 * stable["start"]
    assert "retries" not in stable["alarms"]
    assert stable["accuracy"] > opd["accuracy"]
    assert stable["trust"] < 0.3


@pytest.mark.slow
def test_where_calls_are_long_the_published_rule_unlearns_the_retry_too_and_stable_keeps_it(
    tmp_path: Path, long_calls: dict[str, Any]
) -> None:
    opd, paper = (run(tmp_path / method, long_calls, method=method) for method in ("opd", "sod"))
    stable = run(tmp_path / "stable", long_calls, method="sod", preset="stable")
    for unlearned in (opd, paper):
        assert unlearned["end"] < 0.5 * unlearned["start"]
        assert "retries" in unlearned["alarms"]
    assert stable["end"] > 0.9 * stable["start"]
    assert "retries" not in stable["alarms"]
    assert stable["accuracy"] > paper["accuracy"]
    assert stable["trust"] < 0.3


@pytest.mark.slow
def test_a_teacher_that_knows_how_to_recover_earns_its_voice(tmp_path: Path, data: Path) -> None:
    knowing = run(tmp_path / "knowing", failing(data, teacher="knowing"), method="sod", preset="stable")
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

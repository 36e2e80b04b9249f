"""examples/miniature/long_calls.py: its calculator, its traces, and its table of small real runs."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.agent import FAULT
from sod.types import Message

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "miniature"
sys.path.insert(0, str(EXAMPLE))

import long_calls  # noqa: E402
import study  # noqa: E402
import world  # noqa: E402


def computed(expression: str) -> tuple[str, str]:
    result = asyncio.run(long_calls.calculator(None, None).call({"x": expression}))  # type: ignore[arg-type]
    return str(result.status), result.text


@pytest.mark.parametrize(
    ("expression", "status", "text"),
    [
        ("47+38*6", "ok", "510"),
        ("3-7*2", "ok", "-8"),
        ("9/2%3", "ok", "1"),
        ("7-7/0", "error", "division by zero"),
        ("7", "error", "cannot be read"),
        ("7+-8", "error", "cannot be read"),
        ("7+8*", "error", "cannot be read"),
        ("__import__('os')", "error", "cannot be read"),
    ],
)
def test_a_call_computes_from_left_to_right(expression: str, status: str, text: str) -> None:
    assert computed(expression) == (status, text)


def calls(trace: Sequence[Message]) -> list[str]:
    return [each["function"]["arguments"]["x"] for message in trace for each in message.get("tool_calls", ())]


def observations(trace: Sequence[Message]) -> list[str]:
    return [str(message["content"]) for message in trace if message["role"] == "tool"]


def test_the_teachers_traces_solve_their_problems_and_know_no_failure() -> None:
    rows = list(world.rows(60, seed="t", lengths=long_calls.LENGTHS))
    traces = list(long_calls.traces(60, seed="t", asked=0.5))
    for row, trace in zip(rows, traces, strict=True):
        question = str(trace[0]["content"])
        assert question.removesuffix(" ?") == row["messages"][0]["content"]
        assert trace[-1]["content"] == f"\\boxed{{{row['answer']}}}"
        assert set(calls(trace)) == {question.removesuffix(" ?").replace(" ", "")}
        assert set(observations(trace)) == {row["answer"]}
        assert question.endswith("?") or len(calls(trace)) == 1
    assert any(len(calls(trace)) > 1 for trace in traces)


def test_the_students_traces_fail_slip_call_again_and_sometimes_give_up() -> None:
    shares = {"slips": 0.1, "faults": 0.25, "gives_up": 0.1}
    traces = list(long_calls.traces(2000, seed="s", **shares))
    failed = sum(observations(trace).count(FAULT) for trace in traces)
    given_up = sum(observations(trace)[-1] == FAULT for trace in traces)
    assert failed / sum(len(calls(trace)) for trace in traces) == pytest.approx(0.25, abs=0.03)
    assert given_up / failed == pytest.approx(0.1, abs=0.04)
    slipped = sum(calls(trace)[0] != str(trace[0]["content"]).replace(" ", "") for trace in traces)
    assert slipped / len(traces) == pytest.approx(1 - 0.9**10, abs=0.05)
    for trace in traces[:200]:
        status, text = computed(calls(trace)[0])
        assert observations(trace)[-1] in (FAULT, text) or status == "error"


def test_shares_over_the_latest_updates_are_of_turns_and_not_of_updates(tmp_path: Path) -> None:
    updates = [{"update": 1, "failed_turns": 2, "retried": 0}, {"update": 2, "failed_turns": 0, "retried": 0}]
    updates += [{"update": 3, "failed_turns": 8, "retried": 8}, {"update": 3, "alarm": "retries"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in updates))
    assert long_calls._shares(tmp_path) == {1: 0.0, 3: 0.8}


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve problems to train on and six to be tested on, and the shipped models as what the cold starts made."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(study, "TEST_SAMPLES", 2)
    out = tmp_path / "out"
    for name, count in (("train", 12), ("test", 6)):
        world.write_jsonl(out / "data" / f"{name}.jsonl", world.rows(count, seed=name, lengths=long_calls.LENGTHS))
    for name in ("student", "teacher"):
        target = out / "cold" / name / "checkpoints" / "final"
        target.mkdir(parents=True)
        (target / "model").symlink_to(EXAMPLE / "models" / f"long_{name}")
    return out


@pytest.mark.slow
def test_the_table_of_small_real_runs(small_world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn: Any = study.learn

    def two_updates(*given: Any, settings: dict[str, Any], **named: Any) -> Any:
        return learn(*given, settings={**settings, "update.num_updates": 2}, **named)

    monkeypatch.setattr(study, "learn", two_updates)
    for method in ("start", "grpo", "sod"):
        long_calls.run_method(small_world, method, 0)
    head, _, start, grpo, sod = long_calls.table(small_world, ["grpo", "sod"])
    assert [each.strip() for each in head.strip("|").split("|")] == list(long_calls.HEAD)
    cells = [[each.strip() for each in row.strip("|").split("|")] for row in (start, grpo, sod)]
    assert [each[0] for each in cells] == ["start (SFT) (1 of 1)", "GRPO (1 of 1)", "SOD (1 of 1)"]
    assert all(len(each) == len(long_calls.HEAD) for each in cells)
    assert cells[1][2] == ""
    assert cells[2][2].endswith("]")
    assert float(cells[2][-1]) < -3.0, "the teacher objects to the first token of a call made again"
    long_calls.draw(small_world, small_world / "figure")
    assert (small_world / "figure.png").stat().st_size > 10_000
    config = json.loads((small_world / "runs" / "long" / "small" / "sod" / "seed-0" / "config.json").read_text())
    assert (config["tool"]["fault_share"], config["agent"]["max_prompt_tokens"]) == (0.25, 96)

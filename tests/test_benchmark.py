"""A benchmark run on disk: a real tiny model, killed in the middle, continued to the same numbers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sod.benchmark import RESULT, problem_means, run_benchmark
from sod.config import EvalConfig, dump, parse
from sod.errors import DataError, InfrastructureError
from sod.records import trajectory_of
from sod.runs import read_json, read_trajectories
from sod.sandbox.local import LocalSandbox

NUM_PROBLEMS, SAMPLES = 5, 4
TOTAL = NUM_PROBLEMS * SAMPLES


@pytest.fixture
def settings(tmp_path: Path, model_dir: Path) -> dict[str, Any]:
    data = tmp_path / "test.jsonl"
    rows = [{"id": f"p{n}", "question": f"Start with {n}. Add 1.", "answer": str(n + 1)} for n in range(NUM_PROBLEMS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "run": str(tmp_path / "run"),
        "model": {"path": str(model_dir)},
        "data": {"path": str(data)},
        "samples": SAMPLES,
        "agent": {"max_response_tokens": 12},
        "sandbox": {"workers": 1, "preload": []},
    }


def config(settings: dict[str, Any], **changes: Any) -> EvalConfig:
    return parse(EvalConfig, {**settings, **changes})


def tokens(run: str | Path) -> dict[tuple[str, int], tuple[int, ...]]:
    found = {}
    for record in read_trajectories(run):
        trajectory = trajectory_of(record)
        assert (trajectory.problem_id, trajectory.sample) not in found, "drawn twice"
        found[trajectory.problem_id, trajectory.sample] = trajectory.token_ids
    return found


def start(config: EvalConfig) -> subprocess.Popen[bytes]:
    code = (
        "from sod.benchmark import run_benchmark\nfrom sod.config import EvalConfig\n"
        f"run_benchmark(EvalConfig.model_validate_json({dump(config)!r}))"
    )
    return subprocess.Popen([sys.executable, "-c", code])


def kill_after(process: subprocess.Popen[bytes], path: Path, *, lines: int) -> None:
    deadline = time.monotonic() + 400  # torch takes minutes to import on a machine that is busy
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_a_killed_run_goes_on_to_the_same_numbers(settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "agent": {"max_response_tokens": 30, "max_concurrent": 1}}
    killed = config(settings, run=str(tmp_path / "killed"))
    log = tmp_path / "killed" / "trajectories.jsonl"
    with start(killed) as process:
        kill_after(process, log, lines=5)
    with log.open("ab") as file:
        file.write(b'{"update":0,"problem_id":"p')  # the line that was being written
    num_left = log.read_bytes().count(b"\n")
    assert 5 <= num_left < TOTAL
    events: list[tuple[str, Any]] = []
    resumed = run_benchmark(killed, listener=lambda *event: events.append(event))
    assert [values["done"] for name, values in events if name == "progress"] == list(range(num_left + 1, TOTAL + 1))

    whole = run_benchmark(config(settings))
    assert resumed == whole
    assert whole["num_samples"] == TOTAL
    assert tokens(killed.run) == tokens(settings["run"])
    assert read_json(tmp_path / "killed" / RESULT) == whole
    assert problem_means(killed.run) == problem_means(settings["run"])


def test_a_finished_run_says_so_and_does_nothing(settings: dict[str, Any]) -> None:
    first = run_benchmark(config(settings, samples=1))
    before = (Path(settings["run"]) / "trajectories.jsonl").read_bytes()
    events: list[tuple[str, Any]] = []
    again = run_benchmark(config(settings, samples=1), listener=lambda *event: events.append(event))
    assert again == json.loads(json.dumps(first))
    assert events == [("finished", {"run": settings["run"]})]
    assert (Path(settings["run"]) / "trajectories.jsonl").read_bytes() == before


def test_what_was_sampled_with_is_in_the_result(settings: dict[str, Any]) -> None:
    numbers = run_benchmark(config(settings, samples=1, sampling={"temperature": 0.5, "top_p": 0.9}))
    assert numbers["sampling"] == {"temperature": 0.5, "top_p": 0.9, "top_k": 0}


def test_rows_that_were_left_out_are_told(settings: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps({"id": "empty", "question": "?", "answer": ""}) + "\n")
    events: list[tuple[str, Any]] = []
    numbers = run_benchmark(config(settings, samples=1), listener=lambda *event: events.append(event))
    assert events[0] == ("skipped", {"answer is empty": 1})
    assert numbers["num_problems"] == NUM_PROBLEMS


def test_a_prompt_that_is_too_long_is_found_before_anything_is_sampled(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "question": "1 " * 500, "answer": "1"}) + "\n")
    with pytest.raises(DataError, match=r"problem long: its prompt must be at most 400 tokens, got \d+; raise agent"):
        run_benchmark(config(settings, agent={"max_prompt_tokens": 400, "max_response_tokens": 8}))
    assert not (Path(settings["run"]) / "trajectories.jsonl").exists()
    assert read_json(Path(settings["run"]) / "status.json")["state"] == "failed"


def test_a_world_that_fails_every_time_does_not_finish_a_run(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grader that cannot be reached: nothing is graded, nothing counts as wrong, and the same command tries again."""

    async def unreachable(*_args: Any) -> None:
        raise InfrastructureError("out of processes")

    with monkeypatch.context() as patch:
        patch.setattr("sod.rewards.math.MathReward.score", unreachable)
        with pytest.raises(InfrastructureError, match=f"got none of {NUM_PROBLEMS}"):
            run_benchmark(config(settings, samples=1))
    numbers = run_benchmark(config(settings, samples=1))
    assert (numbers["num_samples"], numbers["num_failed"]) == (NUM_PROBLEMS, 0)
    assert len(problem_means(settings["run"])) == NUM_PROBLEMS


def test_the_sandbox_gets_the_configs_limits(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    original = LocalSandbox.__init__

    def recorded(self: LocalSandbox, **limits: Any) -> None:
        made.append(limits)
        original(self, **limits)

    monkeypatch.setattr(LocalSandbox, "__init__", recorded)
    run_benchmark(config(settings, samples=1, sandbox={"memory_mb": 77, "workers": 1, "preload": []}))
    assert [(limits["memory_mb"], limits["workers"], limits["preload"]) for limits in made] == [(77, 1, ())]

"""A benchmark run on disk: a real tiny model, killed in the middle, continued to the same numbers."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from sod import cli
from sod.benchmark import run_benchmarks
from sod.comparison import compare_runs, problem_means
from sod.config import EvalConfig, dump, parse
from sod.demo import world
from sod.errors import ConfigError, DataError, InfrastructureError
from sod.estimates import mean_over_seeds
from sod.records import trajectory_of, unsealed
from sod.regrade import regrade
from sod.results import RESULT
from sod.rewards.math import MathReward
from sod.runs import RunDirectory, read_json, read_trajectories
from sod.sandbox.local import LocalSandbox
from sod.types import Problem, Score, Trajectory

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
        "benchmarks": [str(data)],
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


def numbers_of(result: dict[str, Any]) -> dict[str, Any]:
    """All of a result but what the clock says."""
    return {key: result[key] for key in ("benchmarks", "average", "complete", "settings")}


def start(config: EvalConfig) -> subprocess.Popen[bytes]:
    code = (
        "from sod.benchmark import run_benchmarks\nfrom sod.config import EvalConfig\n"
        f"run_benchmarks(EvalConfig.model_validate_json({dump(config)!r}))"
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
    resumed = run_benchmarks(killed, listener=lambda *event: events.append(event))
    assert [values["done"] for name, values in events if name == "progress"] == list(range(num_left, TOTAL + 1))

    whole = run_benchmarks(config(settings))
    assert numbers_of(resumed) == numbers_of(whole)
    assert whole["benchmarks"]["test"]["num_samples"] == TOTAL
    assert tokens(killed.run) == tokens(settings["run"])
    assert numbers_of(read_json(tmp_path / "killed" / RESULT)) == numbers_of(whole)
    assert problem_means(killed.run) == problem_means(settings["run"])


def test_a_finished_run_says_so_and_does_nothing(settings: dict[str, Any]) -> None:
    first = run_benchmarks(config(settings, samples=1))
    before = (Path(settings["run"]) / "trajectories.jsonl").read_bytes()
    events: list[tuple[str, Any]] = []
    again = run_benchmarks(config(settings, samples=1), listener=lambda *event: events.append(event))
    assert again == json.loads(json.dumps(first))
    assert events == [("finished", {"run": settings["run"]})]
    assert (Path(settings["run"]) / "trajectories.jsonl").read_bytes() == before


def test_what_was_sampled_with_is_in_the_result(settings: dict[str, Any]) -> None:
    result = run_benchmarks(config(settings, samples=1, sampling={"temperature": 0.5, "top_p": 0.9}))
    said = result["settings"]
    assert said["sampling"] == {"temperature": 0.5, "top_p": 0.9, "top_k": 0}
    assert said["tools"][0]["function"]["name"] == "code_interpreter"
    assert len(said["chat_template_sha256"]) == 64


def test_rows_that_were_left_out_are_told(settings: dict[str, Any], tmp_path: Path) -> None:
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps({"id": "empty", "question": "?", "answer": ""}) + "\n")
    events: list[tuple[str, Any]] = []
    result = run_benchmarks(config(settings, samples=1), listener=lambda *event: events.append(event))
    assert events[0][0] == "skipped"
    assert events[0][1]["skipped"] == {"answer is empty": 1}
    assert events[0][1]["named"] == {"answer is empty": [NUM_PROBLEMS + 1]}
    assert result["benchmarks"]["test"]["num_problems"] == NUM_PROBLEMS
    assert result["benchmarks"]["test"]["left_out"] == {"answer is empty": 1}


def test_a_prompt_that_is_too_long_is_found_before_anything_is_sampled(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    with (tmp_path / "test.jsonl").open("a") as file:
        file.write(json.dumps({"id": "long", "question": "1 " * 500, "answer": "1"}) + "\n")
    with pytest.raises(DataError, match=r"problem long: its prompt must be at most 400 tokens, got \d+; raise agent"):
        run_benchmarks(config(settings, agent={"max_prompt_tokens": 400, "max_response_tokens": 8}))
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
            run_benchmarks(config(settings, samples=1))
    numbers = run_benchmarks(config(settings, samples=1))["benchmarks"]["test"]
    assert (numbers["num_samples"], numbers["num_failed"]) == (NUM_PROBLEMS, 0)
    assert len(problem_means(settings["run"])["test"]) == NUM_PROBLEMS


def test_the_sandbox_gets_the_configs_limits(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []
    original = LocalSandbox.__init__

    def recorded(self: LocalSandbox, **limits: Any) -> None:
        made.append(limits)
        original(self, **limits)

    monkeypatch.setattr(LocalSandbox, "__init__", recorded)
    run_benchmarks(config(settings, samples=1, sandbox={"memory_mb": 77, "workers": 1, "preload": []}))
    assert [(limits["memory_mb"], limits["workers"], limits["preload"]) for limits in made] == [(77, 1, ())]


def test_samples_that_the_world_lost_are_tried_again_by_the_same_command(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MathReward.score

    async def sometimes(self: MathReward, problem: Problem, trajectory: Trajectory) -> Score:
        if problem.id == "p2":
            raise InfrastructureError("out of processes")
        return await real(self, problem, trajectory)

    with monkeypatch.context() as patch:
        patch.setattr(MathReward, "score", sometimes)
        numbers = run_benchmarks(config(settings))["benchmarks"]["test"]
    assert (numbers["num_samples"], numbers["num_failed"]) == (TOTAL - SAMPLES, SAMPLES)
    status = read_json(Path(settings["run"]) / "status.json")
    assert (status["state"], status["reason"][:31]) == ("interrupted", "4 of 20 samples were lost, the ")
    lost = [record for record in read_trajectories(settings["run"]) if "score" not in record]
    assert {unsealed(record)["detail"] for record in lost} == {"out of processes"}
    with monkeypatch.context() as patch:  # only the grader failed: nothing is played again
        patch.setattr("sod.agent.Agent.run", None)
        result = run_benchmarks(config(settings))
    numbers = result["benchmarks"]["test"]
    assert (numbers["num_samples"], numbers["num_failed"], result["complete"]) == (TOTAL, 0, True)
    assert read_json(Path(settings["run"]) / "status.json")["state"] == "finished"
    assert len(list(read_trajectories(settings["run"]))) == TOTAL + SAMPLES, "a line when lost, another when graded"
    assert all(mean in (0, 0.25, 0.5, 0.75, 1) for mean in problem_means(settings["run"])["test"].values())


def second(settings: dict[str, Any], tmp_path: Path, *, name: str = "other.jsonl", id: str = "q") -> dict[str, Any]:
    """The settings with another file of problems beside the first."""
    rows = [{"id": f"{id}{n}", "question": f"Start with {n}. Add 2.", "answer": str(n + 2)} for n in range(2)]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {**settings, "benchmarks": [*settings["benchmarks"], str(tmp_path / name)]}


def test_several_benchmarks_in_one_run(settings: dict[str, Any], tmp_path: Path) -> None:
    alone = run_benchmarks(config(settings, run=str(tmp_path / "alone")))
    both = run_benchmarks(config(second(settings, tmp_path)))
    assert list(both["benchmarks"]) == ["test", "other"]
    assert numbers_of(both)["benchmarks"]["test"] == numbers_of(alone)["benchmarks"]["test"], "company changes nothing"
    means = [numbers["avg@k"] for numbers in both["benchmarks"].values()]
    assert both["average"] == {"num_benchmarks": 2, "avg@k": sum(means) / 2}
    cost = both["cost"]
    assert cost["sampled_tokens_per_problem"] == pytest.approx(cost["sampled_tokens"] / (NUM_PROBLEMS + 2))
    assert cost["elapsed_s"] > 0
    assert {record["benchmark"] for record in read_trajectories(settings["run"])} == {"test", "other"}


def test_a_price_is_summed_up(settings: dict[str, Any]) -> None:
    prices = {"prompt_tokens": 1.0, "sampled_tokens": 2.0}
    cost = run_benchmarks(config(settings, samples=1, price=prices))["cost"]
    assert cost["price"] == pytest.approx((cost["read_tokens"] + 2 * cost["sampled_tokens"]) / 1e6)
    assert cost["sampled_tokens"] == sum(
        sum(step >= 0 for step in r["step"]) for r in read_trajectories(settings["run"])
    )


def test_names_and_ids_must_differ(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="benchmarks must have different names, got 'test' twice"):
        run_benchmarks(config(second(settings, tmp_path, name="folder/test.jsonl")))
    with pytest.raises(DataError, match="different ids, got 'p0' in test and other; evaluate them in two runs"):
        run_benchmarks(config(second(settings, tmp_path, id="p"), run=str(tmp_path / "b")))


def test_a_run_is_not_continued_on_other_problems(settings: dict[str, Any], tmp_path: Path) -> None:
    killed = config(settings, run=str(tmp_path / "killed"))
    with start(killed) as process:
        kill_after(process, tmp_path / "killed" / "trajectories.jsonl", lines=2)
    data = tmp_path / "test.jsonl"
    whole = data.read_text()
    data.write_text(whole.replace("Add 1.", "Add one."))
    with pytest.raises(
        DataError, match=r"go on with the problems of test that it began with, got 5 others \(p0, \.\.\.\)"
    ):
        run_benchmarks(killed)
    data.write_text("".join(whole.splitlines(keepends=True)[:3]))
    with pytest.raises(DataError, match="got 2 others"):
        run_benchmarks(killed)
    data.write_text(whole.replace('"1"', '"17"', 1))
    with pytest.raises(
        DataError, match=r"verdicts by other references of test \(p0, 1 in all\); grade them again first"
    ):
        run_benchmarks(killed)
    part = regrade(killed.run)
    assert not part["complete"]
    assert part["benchmarks"]["test"]["num_missing"] == TOTAL - part["benchmarks"]["test"]["num_samples"]
    assert run_benchmarks(killed)["complete"]


def test_a_run_may_go_on_with_less_at_once(settings: dict[str, Any], tmp_path: Path) -> None:
    """How many episodes run at once, and where, does not decide what comes out."""
    killed = config(settings, run=str(tmp_path / "killed"))
    with start(killed) as process:
        kill_after(process, tmp_path / "killed" / "trajectories.jsonl", lines=2)
    slow = {"agent": {"max_response_tokens": 12, "max_concurrent": 1}, "sandbox": {"workers": 2, "preload": []}}
    resumed = run_benchmarks(config(settings, run=killed.run, **slow))
    whole = run_benchmarks(config(settings))
    assert numbers_of(resumed)["benchmarks"] == numbers_of(whole)["benchmarks"]
    assert read_json(tmp_path / "killed" / "config.json")["agent"]["max_concurrent"] == 1
    with pytest.raises(ConfigError, match=r"these keys differ: agent\.max_response_tokens;"):
        run_benchmarks(config(settings, run=killed.run, agent={"max_response_tokens": 13}))


# ---- grading again


def test_regrading_finds_what_a_better_grader_would_say(settings: dict[str, Any], tmp_path: Path) -> None:
    """The reference of a problem was wrong: its samples are graded again from what is on disk, without a model."""
    before = run_benchmarks(config(settings))
    texts = tokens(settings["run"])
    answers = {r["score"]["answer"] for r in read_trajectories(settings["run"]) if r["problem_id"] == "p0"}
    answer = next((answer for answer in sorted(answers, key=str) if answer), None)
    data = tmp_path / "test.jsonl"
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[0]["answer"] = answer if answer not in (None, rows[0]["answer"]) else "999"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    events: list[tuple[str, Any]] = []
    after = regrade(settings["run"], listener=lambda *event: events.append(event))
    assert tokens(settings["run"]) == texts
    records = [r for r in read_trajectories(settings["run"]) if r["problem_id"] == "p0"]
    right = sum(r["score"]["answer"] == rows[0]["answer"] for r in records)
    assert problem_means(settings["run"])["test"]["p0"] == right / SAMPLES
    changes = read_json(Path(settings["run"]) / "regraded.json")["changes"]
    assert events[-1][1]["num_changed"] == len(changes)
    assert all(change["problem_id"] == "p0" for change in changes)
    assert after["settings"] == before["settings"]
    assert read_json(Path(settings["run"]) / RESULT) == json.loads(json.dumps(after))


def test_regrading_with_the_same_grader_changes_nothing(settings: dict[str, Any]) -> None:
    before = run_benchmarks(config(settings))
    log = (Path(settings["run"]) / "trajectories.jsonl").read_bytes()
    assert numbers_of(regrade(settings["run"])) == numbers_of(before)
    assert (Path(settings["run"]) / "trajectories.jsonl").read_bytes() == log
    assert read_json(Path(settings["run"]) / "regraded.json") == {"changes": []}


def test_old_outputs_are_not_graded_against_other_questions(settings: dict[str, Any], tmp_path: Path) -> None:
    """Rows without ids in another order: the numbers of rows are the same, the questions are not."""
    data = tmp_path / "test.jsonl"
    rows = [{"question": f"Start with {n}. Add 1.", "answer": str(n + 1)} for n in range(NUM_PROBLEMS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_benchmarks(config(settings, samples=1))
    before = (Path(settings["run"]) / "trajectories.jsonl").read_bytes()
    data.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    with pytest.raises(DataError, match=r"by the questions of test that it answered, got others \(test-1, 4 in all\)"):
        regrade(settings["run"])
    other = config(settings, run=str(tmp_path / "other-run"), samples=1)
    run_benchmarks(other)
    found = compare_runs(settings["run"], other.run)
    assert found.benchmarks[0].num_problems == 1, "only the question in the middle is the same"
    assert "8 problems are left out: only one of the runs has their question" in found.warnings
    data.rename(tmp_path / "moved.jsonl")
    (tmp_path / "test.jsonl").mkdir()
    (tmp_path / "elsewhere").mkdir()
    data = tmp_path / "elsewhere" / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    regrade(settings["run"], overrides=[f"benchmarks={data}"])
    assert (Path(settings["run"]) / "trajectories.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match="takes new values of benchmarks, rewards, sandbox only, got 'samples=3'"):
        regrade(settings["run"], overrides=["samples=3"])


def test_a_failing_world_leaves_old_verdicts_alone(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    run_benchmarks(config(settings))
    before = {path: path.read_bytes() for path in Path(settings["run"]).glob("*.json*")}

    async def unreachable(*_args: Any) -> None:
        raise InfrastructureError("out of processes")

    monkeypatch.setattr(MathReward, "score", unreachable)
    with pytest.raises(InfrastructureError, match="out of processes"):
        regrade(settings["run"])
    assert {path: path.read_bytes() for path in Path(settings["run"]).glob("*.json*")} == before


def test_regrading_needs_a_run_of_its_own_kind(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a run directory of `sod eval`, got none there"):
        regrade(tmp_path / "nowhere")
    run_benchmarks(config(settings, samples=1))
    facts = read_json(Path(settings["run"]) / "run.json")
    (Path(settings["run"]) / "run.json").write_text(json.dumps({**facts, "command": "train"}))
    with pytest.raises(ConfigError, match="must hold a run of `sod eval`, got one of `sod train`"):
        regrade(settings["run"])


# ---- texts that must not be shown


def test_a_private_benchmark_leaves_no_text_behind(settings: dict[str, Any], tmp_path: Path) -> None:
    row = {"problem": "Start with 4. Add 1. A) 5 B) 6", "solution": "A", "domain": "physics"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row) + "\n")
    changes = {"benchmarks": [f"gpqa_diamond={tmp_path / 'own.jsonl'}"]}
    run_benchmarks(config(settings, **changes))
    left = b"".join(path.read_bytes() for path in Path(settings["run"]).rglob("*") if path.is_file())
    assert b"Start with" not in left
    for record in read_trajectories(settings["run"]):
        assert not record.keys() & {"token_ids", "turns", "detail"}
        assert "Add 1" not in json.dumps(record)
        assert unsealed(record)["token_ids"]
    before = (Path(settings["run"]) / "trajectories.jsonl").read_bytes()
    regrade(settings["run"])
    assert (Path(settings["run"]) / "trajectories.jsonl").read_bytes() == before


# ---- a model that can do something


@pytest.mark.slow
def test_the_demos_student_at_k_32_by_hand(tmp_path: Path) -> None:
    """Counted anew from the raw outputs, with other code: the last box against the reference, then the definitions."""
    problems = list(world.problems(5, seed=77))
    rows = [{"id": each.id, "messages": list(each.messages), "answer": each.answer} for each in problems]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with as_file(files("sod.demo") / "weights" / "student") as student:
        values = {
            "run": str(tmp_path / "run"),
            "model": {"path": str(student)},
            "benchmarks": [str(tmp_path / "sums.jsonl")],
            "samples": 32,
            "sampling": {"temperature": 1.0, "top_p": 1.0},
            "agent": {"max_turns": 10, "max_response_tokens": 512},
            "sandbox": {"workers": 1, "preload": []},
        }
        numbers = run_benchmarks(parse(EvalConfig, values))["benchmarks"]["sums"]
    boxes: dict[str, list[str | None]] = {each.id: [] for each in problems}
    for record in read_trajectories(tmp_path / "run"):
        found = re.findall(r"boxed\{([^{}]*)\}", record["turns"][-1]["text"])
        answered = found and not record["turns"][-1]["calls"]
        boxes[record["problem_id"]].append(found[-1] if answered else None)
    assert [len(given) for given in boxes.values()] == [32] * 5
    right = {each.id: boxes[each.id].count(each.answer) for each in problems}
    assert 0 < sum(right.values()) < 5 * 32, "a student that is always or never right tests nothing"
    assert numbers["avg@k"] == pytest.approx(sum(right.values()) / (5 * 32))
    assert numbers["pass@k"] == sum(count > 0 for count in right.values()) / 5

    def pass_of_two(count: int) -> float:
        return 1 - (32 - count) * (31 - count) / (32 * 31)

    by_samples = {entry["samples"]: entry for entry in numbers["by_samples"]}
    assert sorted(by_samples) == [1, 2, 4, 8, 16, 32]
    assert by_samples[2]["pass"] == pytest.approx(sum(map(pass_of_two, right.values())) / 5)
    assert by_samples[1]["maj"] == pytest.approx(numbers["avg@k"])
    votes = {each.id: Counter(box for box in boxes[each.id] if box is not None) for each in problems}
    majority = 0.0
    for each in problems:
        most = max(votes[each.id].values(), default=0)
        leaders = [box for box, count in votes[each.id].items() if count == most]
        majority += (each.answer in leaders) / max(1, len(leaders))
    assert numbers["maj@k"] == pytest.approx(majority / 5)
    assert numbers["tool_calls"] > 1


# ---- two runs


def test_two_runs_compared(settings: dict[str, Any], tmp_path: Path) -> None:
    run_benchmarks(config(settings))
    other = config(second(settings, tmp_path), run=str(tmp_path / "other-run"), seed=1, sampling={"temperature": 0.7})
    run_benchmarks(other)
    found = compare_runs(settings["run"], other.run)
    (only,) = found.benchmarks
    means = [problem_means(run)["test"] for run in (settings["run"], other.run)]
    assert (only.name, only.num_problems) == ("test", NUM_PROBLEMS)
    assert only.comparison.difference == pytest.approx(sum(means[1].values()) / 5 - sum(means[0].values()) / 5)
    assert found.warnings == (
        "2 problems are left out: only one of the runs has their question",
        "these settings differ between the runs: sampling, seed",
    )
    same = compare_runs(settings["run"], settings["run"])
    assert (same.overall.difference, same.overall.p_value, same.warnings) == (0.0, 1.0, ())


def test_two_methods_compared_by_seeds(settings: dict[str, Any], tmp_path: Path) -> None:
    """Seeds are paired by name; the interval is the one over seeds and problems."""
    for side, temperature in (("cold", 0.1), ("hot", 2.0)):
        for seed in (0, 1):
            run = {"run": str(tmp_path / f"{side}-{seed}"), "seed": seed, "sampling": {"temperature": temperature}}
            run_benchmarks(config(settings, samples=1, **run))
    cold, hot = ([tmp_path / f"{side}-{seed}" for seed in (0, 1)] for side in ("cold", "hot"))
    found = compare_runs(cold, hot)
    assert found.pairs == tuple(zip(cold, hot, strict=True))
    means = [[problem_means(run)["test"] for run in side] for side in (cold, hot)]
    rows = [[new[key] - old[key] for key in old] for old, new in zip(*means, strict=True)]
    wanted = mean_over_seeds(rows)
    assert (found.overall.difference, found.overall.low) == (pytest.approx(wanted.value), pytest.approx(wanted.low))
    assert found.overall.p_value == pytest.approx(wanted.p_value)
    assert found.warnings == ("these settings differ between the runs: sampling",)
    result = CliRunner().invoke(cli.app, ["compare", str(tmp_path / "cold-?"), str(tmp_path / "hot-?")])
    assert result.exit_code == 0, result.output
    assert "2 seeds, paired: " in result.output
    with pytest.raises(DataError, match=r"as many runs, one a seed, got 2 and 1; leave the others out"):
        compare_runs(cold, hot[:1])


def test_two_wordings_of_one_question_are_paired_and_told(settings: dict[str, Any], tmp_path: Path) -> None:
    run_benchmarks(config(settings, samples=1))
    entry = {"path": settings["benchmarks"][0], "instruction": "Answer at once."}
    other = config(settings, run=str(tmp_path / "other-run"), samples=1, benchmarks=[entry])
    run_benchmarks(other)
    found = compare_runs(settings["run"], other.run)
    assert found.benchmarks[0].num_problems == NUM_PROBLEMS
    assert found.warnings == ("5 problems have another prompt in the two runs (see data settings)",)


def test_only_evaluations_are_compared(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path / "trained", config_json="{}", command="train") as run:
        run.finish()
    with pytest.raises(DataError, match="must be a run directory of `sod eval`, got a run of `sod train`"):
        compare_runs(tmp_path / "trained", tmp_path / "trained")

"""Whole runs on tiny models with a real sandbox: what they leave behind, exact resume, and every refusal."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sod.config import TrainConfig, dump, parse
from sod.errors import (
    CollapseError,
    ConfigError,
    DataError,
    EngineError,
    InfrastructureError,
    ModelError,
    SandboxError,
    SignalError,
)
from sod.learner import Learner
from sod.metrics import STATUS_SHARES
from sod.models.hf import HFModel
from sod.models.scripted import ScriptedScorer
from sod.records import trajectory_of
from sod.runs import read_json, read_records, read_trajectories
from sod.teachers import Teacher, Teachers
from sod.train import train
from sod.types import Problem, Score, Trajectory
from whole_runs import (
    Events,
    World,
    cancel,
    crash,
    make_world,
    records,
    run,
    same_metrics,
    stop_by,
    weights,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, tiny_module: Callable[[int], Any]) -> World:
    return make_world(tmp_path_factory.mktemp("world"), tokenizer, tiny_module)


# What a run leaves behind --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A run of 4 updates that nothing interrupted, with evaluation after 0, 2 and 4."""
    config = four_updates(world, tmp_path_factory.mktemp("finished") / "run")
    run(config)
    return config


def four_updates(world: World, run: Path) -> TrainConfig:
    update = {"num_updates": 4, "save_every": 2, "evaluate_every": 2}
    evaluation = {"path": str(world.problems), "limit": 1}
    return world.config(run, update=update, evaluation=evaluation, evaluation_samples=2)


def test_metrics_of_every_update(finished: TrainConfig) -> None:
    lines = records(finished, "metrics")
    updates = [line for line in lines if "reward" in line]
    assert [line["update"] for line in updates] == [1, 2, 3, 4]
    wanted = {"tool_calls", "failed_calls", "malformed_share", "empty_share", "infrastructure_failures", "entropy"}
    wanted |= {*STATUS_SHARES.values(), "lost_calls", "infrastructure_share"}
    wanted |= {"divergence", "weight", "log_ratio_control", "teacher_term", "loss", "grad_norm", "clip_fraction"}
    for line in updates:
        assert wanted <= line.keys()
        assert all(isinstance(line[key], int | float) for key in line), line
        assert line["num_trajectories"] == 6
    assert sum(line["tool_calls"] for line in updates) > 1, "the student of this test must use its tool"
    assert [line["update"] for line in lines if "evaluation" in line] == [0, 2, 4]


def test_trajectories_of_every_update(finished: TrainConfig) -> None:
    lines = records(finished, "trajectories")
    assert [line["update"] for line in lines] == [1] * 6 + [2] * 6 + [3] * 6 + [4] * 6
    for line in lines:
        trajectory = trajectory_of(line)
        assert len(line["divergence"]) == len(line["weight"]) == trajectory.num_steps
        assert len(line["teacher_logprobs"]) == len(trajectory.sampled_positions)
        assert len(line["teacher_entropy"]) == trajectory.num_steps
        assert all(0.0 < entropy < 10.0 for entropy in line["teacher_entropy"])
        assert line["weight"][0] == pytest.approx(1.0)
    shown = [result for line in lines for turn in line["turns"] for result in turn["results"]]
    assert any(result["status"] == "ok" and result["text"] == "42" for result in shown)


def test_timing_of_every_update(finished: TrainConfig) -> None:
    lines = records(finished, "timing")
    updates = [line for line in lines if "total_s" in line]
    assert [line["update"] for line in updates] == [1, 2, 3, 4]
    for line in updates:
        assert 0 < line["rollout_s"] + line["learn_s"] + line["record_s"] <= line["total_s"] + 1e-3
        assert 0 <= line["tools"]["run_s"] <= line["tools"]["run_max_s"] <= line["rollout_s"]
        assert 0.1 < line["memory"]["host_gib"] < 16, "this process, with torch in it"
    assert [line["update"] for line in lines if "evaluate_s" in line] == [0, 2, 4]


def test_the_last_checkpoint_is_a_model_that_loads(finished: TrainConfig, world: World) -> None:
    folder = Path(finished.run) / "checkpoints" / "update-000004"
    reloaded = parse(TrainConfig, {**finished.model_dump(), "student": {"path": str(folder / "model")}})
    assert HFModel.load(reloaded.student).vocab_size == 640
    assert (folder / "model" / "chat_template.jinja").exists()
    assert read_json(folder / "state.json") == {"updates_done": 4}
    assert read_json(Path(finished.run) / "status.json")["state"] == "finished"
    start, end = load_file(world.student / "model.safetensors"), weights(finished, 4)
    assert max((end[name] - start[name]).abs().max() for name in start) > 1e-4


def test_a_finished_run_says_so_and_changes_nothing(finished: TrainConfig) -> None:
    files = sorted(path for path in Path(finished.run).rglob("*") if path.is_file() and path.name != ".lock")
    before = {path: path.read_bytes() for path in files}
    assert run(finished) == [("finished", {"run": finished.run})]
    assert {path: path.read_bytes() for path in before} == before


def test_the_first_optimizer_step_is_on_policy(world: World, tmp_path: Path) -> None:
    """The sampler's log-probs are the training forward's: no ratio moves, and recomputing them changes nothing."""
    found = {}
    for source in ("rollout", "recompute"):
        update = {"num_updates": 1, "optimizer_steps": 1, "student_logprobs": source}
        config = world.config(tmp_path / source, update=update)
        run(config)
        found[source] = records(config, "metrics")[0]
    assert abs(found["rollout"]["approx_kl"]) < 1e-5
    assert found["rollout"]["clip_fraction"] == 0.0
    assert found["rollout"] == pytest.approx(found["recompute"], rel=1e-3, abs=1e-5)


def test_grpo_needs_no_teacher(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", method="grpo", teacher=None, update={"num_updates": 1})
    events = run(config)
    (line,) = records(config, "metrics")
    assert [name for name, _ in events] == ["sandbox", "update"]
    level, *layers = read_json(Path(config.run) / "run.json")["sessions"][-1]["sandbox"]
    assert (level in ("A", "B"), "seccomp" in layers) == (True, True)
    assert "divergence" not in line
    assert "divergence" not in records(config, "trajectories")[0]


# How it is computed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"update": {"teacher_scoring": "step"}},
        {"update": {"gradient_checkpointing": True}},
        {"update": {"student_logprobs": "recompute"}, "objective": {"importance": "token"}},
        {"update": {"student_logprobs": "recompute"}, "objective": {"importance": "sequence", "importance_mask": True}},
        {"update": {"tokens_per_microbatch": 64}},
    ],
    ids=["by-step", "checkpointing", "importance", "sequence-importance", "small-micro-batches"],
)
def test_what_changes_the_way_but_not_the_numbers(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    """In one process the sampler is the trained model, so importance weights are 1."""
    plain, other = world.config(tmp_path / "plain"), world.config(tmp_path / "other", **_merged(changes))
    run(plain)
    run(other)
    assert same_metrics(records(other, "metrics"), records(plain, "metrics"))


def _merged(changes: dict[str, Any]) -> dict[str, Any]:
    """World.config replaces a section's keys, so those of `update` must be named with the rest."""
    plain = {"num_updates": 2, "prompts": 2, "samples": 3, "optimizer_steps": 2, "save_every": 0}
    return {**changes, "update": {**plain, **changes.get("update", {})}}


def test_sampling_ahead_is_one_update_behind(world: World, tmp_path: Path) -> None:
    update = {"num_updates": 4, "staleness": 1, "student_logprobs": "recompute"}
    config = world.config(
        tmp_path / "run",
        update=_merged({"update": update})["update"],
        objective={"importance": "token"},
        optimizer={"lr": 1e-3},
    )
    run(config)
    lines = records(config, "metrics")
    assert [line["staleness"] for line in lines] == [0.0, 1.0, 1.0, 1.0]
    assert lines[0]["rollout_gap"] < 1e-5
    assert all(line["rollout_gap"] > 1e-4 and line["importance_min"] < 1.0 for line in lines[1:])
    versions = [line["policy_version"] for line in records(config, "trajectories")]
    assert sorted(set(versions)) == [0, 1, 2], "updates 1 and 2 are sampled by the first weights"


def test_a_run_that_samples_ahead_can_be_stopped_and_goes_on(world: World, tmp_path: Path) -> None:
    update = _merged({"update": {"num_updates": 4, "staleness": 1}})["update"]
    config = world.config(tmp_path / "run", update=update)
    with pytest.raises(asyncio.CancelledError):
        train(config, listener=stop_by("update", 2, cancel))
    run(config)
    assert [line["update"] for line in records(config, "metrics")] == [1, 2, 3, 4]


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_while_the_learner_works_leaves_whole_updates_only(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signals: int
) -> None:
    """Also pressed twice: the thread is between two optimizer steps then, and nothing of that may be saved."""
    step = Learner._step

    def slow(self: Learner, *arguments: Any) -> dict[str, float]:
        result = step(self, *arguments)
        if self.optimizer.step_count == 3:  # the first of the second update's two
            for _ in range(signals):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.3)
        return result

    monkeypatch.setattr(Learner, "_step", slow)
    update = _merged({"update": {"num_updates": 4, "staleness": 1}})["update"]
    config = world.config(tmp_path / "run", update=update)
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        train(config)
    saved = [
        (json.loads((folder / "state.json").read_text())["updates_done"], load_file(folder / "optimizer.safetensors"))
        for folder in (tmp_path / "run" / "checkpoints").glob("update-*")
    ]
    assert [int(state["step_count"]) for _, state in saved] == [2 * done for done, _ in saved]
    monkeypatch.setattr(Learner, "_step", step)
    run(config)
    assert [line["update"] for line in records(config, "metrics")] == [1, 2, 3, 4]


def test_the_survivors_of_an_engine_that_died_are_not_learned_from(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = HFModel.sample

    async def dying(self: HFModel, *arguments: Any, **settings: Any) -> Any:
        if settings["trajectory_id"].startswith("2/") and not settings["trajectory_id"].startswith("2/0"):
            raise EngineError("the engine is gone")
        return await sample(self, *arguments, **settings)

    monkeypatch.setattr(HFModel, "sample", dying)
    config = world.config(tmp_path / "run")
    with pytest.raises(InfrastructureError, match=r"update 2: 3 of 6 .* nothing was learned .* the engine is gone"):
        run(config)
    assert [line["update"] for line in records(config, "metrics")] == [1]
    monkeypatch.setattr(HFModel, "sample", sample)
    run(config)
    assert [line["update"] for line in records(config, "metrics")] == [1, 2]


@pytest.mark.parametrize(
    "changes", [{"lora": {"rank": 4}}, {"student": {"dtype": "bfloat16"}}], ids=["lora", "bfloat16"]
)
def test_other_precisions_and_lora_go_on_exactly(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    if "student" in changes:
        changes = {"student": {"path": str(world.student), **changes["student"]}, "guards": {"teacher_self_gap": 0.0}}
    configs = [world.config(tmp_path / name, **changes) for name in ("whole", "stopped")]
    run(configs[0])
    with pytest.raises(asyncio.CancelledError):
        train(configs[1], listener=stop_by("update", 1, cancel))
    run(configs[1])
    assert same_metrics(records(configs[1], "metrics"), records(configs[0], "metrics"))
    ours, theirs, start = weights(configs[1], 2), weights(configs[0], 2), load_file(world.student / "model.safetensors")
    for name in theirs:  # what decodes together depends on the tools' timing, and rounds with it
        tolerance = 1e-2 if theirs[name].dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=1e-5)
    assert set(theirs) == set(start), "a checkpoint is a plain model"
    assert any(not torch.equal(theirs[name].float(), start[name].float()) for name in theirs)


# Stopped and continued -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "update", "how", "error"),
    [
        ("update", 2, cancel, asyncio.CancelledError),
        ("update", 3, cancel, asyncio.CancelledError),
        ("update", 3, crash, LookupError),
        ("update", 1, crash, LookupError),
        ("evaluation", 2, cancel, asyncio.CancelledError),
        ("evaluation", 0, cancel, asyncio.CancelledError),
    ],
    ids=["ctrl-c", "ctrl-c-between-checkpoints", "crash", "crash-before-a-checkpoint", "evaluated", "at-the-start"],
)
def test_a_run_that_was_stopped_and_continued_is_the_run_that_was_not(
    world: World,
    finished: TrainConfig,
    tmp_path: Path,
    event: str,
    update: int,
    how: Callable[[], None],
    error: type[BaseException],
) -> None:
    config = four_updates(world, tmp_path / "run")
    with pytest.raises(error):
        train(config, listener=stop_by(event, update, how))
    state = "failed" if error is LookupError else "interrupted"
    assert read_json(Path(config.run) / "status.json")["state"] == state
    events = run(config)
    if (update, how) != (1, crash):
        assert [name for name, _ in events if name != "warning"][:2] == ["sandbox", "resumed"]
    assert same_metrics(records(config, "metrics"), records(finished, "metrics"))
    assert [line["token_ids"] for line in records(config, "trajectories")] == [
        line["token_ids"] for line in records(finished, "trajectories")
    ]
    ours, theirs = weights(config, 4), weights(finished, 4)
    assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-5


def test_another_config_does_not_continue_the_run(world: World, finished: TrainConfig) -> None:
    other = four_updates(world, Path(finished.run)).model_copy(update={"seed": 6})
    with pytest.raises(ConfigError, match="seed"):
        run(other)


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(world: World, tmp_path: Path) -> None:
    """SIGINT to the command itself: exit code 130, the last whole update saved, no traceback."""
    config = world.config(tmp_path / "run", update={"num_updates": 40, "optimizer_steps": 1})
    toml = tmp_path / "run.toml"
    toml.write_text("")  # everything comes as overrides, so that the config is this one to the letter
    overrides = [f"{key}={value}" for key, value in _flat(json.loads(dump(config)))]
    command = [sys.executable, "-m", "sod", "train", str(toml), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True)
    try:
        _wait_for_update(Path(config.run), 2, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert "the same command goes on from there" in output
    status = read_json(Path(config.run) / "status.json")
    assert status["state"] == "interrupted"
    saved = max(path.name for path in (Path(config.run) / "checkpoints").glob("update-*"))
    updates = [line["update"] for line in records(config, "metrics") if "reward" in line]
    assert updates == list(range(1, int(saved.removeprefix("update-")) + 1))
    assert 2 <= len(updates) < 40
    told: Events = []

    def listen(event: str, values: Mapping[str, Any]) -> None:
        told.append((event, values))
        if event == "update":
            cancel()

    with pytest.raises(asyncio.CancelledError):
        train(config, listener=listen)
    assert told[1] == ("resumed", {"update": len(updates)})
    assert told[2][1]["update"] == len(updates) + 1


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys with TOML values; what is None is left out."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, json.dumps(value)


def _wait_for_update(run: Path, update: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        path = run / "metrics.jsonl"
        if path.exists() and any(line.get("update", 0) >= update for line in read_records(path)):
            return
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"update {update} did not come: {process.communicate()[0]}")


# Refusals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "method"), [("student", "sod"), ("teacher", "sod"), ("teacher", "opd")])
def test_a_student_that_is_its_own_teacher_is_refused(world: World, tmp_path: Path, model: str, method: str) -> None:
    """Also where sampler and scorer round differently, so that no log-ratio is exactly 0 (the model `teacher`)."""
    same = {"path": str(world.root / model if model == "teacher" else world.student)}
    config = world.config(tmp_path / "run", method=method, student=same, teacher=same)
    with pytest.raises(SignalError, match=r"must disagree with the student somewhere.*the student itself"):
        run(config)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert "SignalError" in read_json(tmp_path / "run" / "status.json")["reason"]


def test_a_teacher_of_another_vocabulary_is_refused(
    world: World, tmp_path: Path, tokenizer: Any, tiny_module: Callable[[int], Any]
) -> None:
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["<|new|>"])
    tiny_module(1).save_pretrained(tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="must share one vocabulary"):
        run(world.config(tmp_path / "run", teacher={"path": str(tmp_path / "other")}))


@pytest.mark.parametrize("self_gap", [0.0, 0.05])
def test_a_teacher_that_says_one_number_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, self_gap: float
) -> None:
    """With and without the check at the start."""
    asleep = Teacher(scorer=ScriptedScorer(-2.5), vocabulary_size=640)
    monkeypatch.setattr("sod.train.teachers_of", lambda *_, **__: Teachers(default=asleep))
    config = world.config(tmp_path / "run", guards={"teacher_self_gap": self_gap})
    with pytest.raises(SignalError, match=r"must differ between tokens, got the same, -2\.5000"):
        run(config)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_teacher_whose_engine_disagrees_with_itself_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = Teacher(scorer=ScriptedScorer(lambda _, places: [-0.01 * p for p in places]), vocabulary_size=640)
    monkeypatch.setattr("sod.train.teachers_of", lambda *_, **__: Teachers(default=noisy))
    with pytest.raises(SignalError, match=r"log-probs of its own samples must agree .* within 0.05 nats"):
        run(world.config(tmp_path / "run"))


def test_problems_that_are_too_long_can_be_left_out_and_are_counted(world: World, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in world.problems.read_text(encoding="utf-8").splitlines()]
    rows[1]["messages"] = [{"role": "user", "content": "word " * 6000}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    heard = run(world.config(tmp_path / "run", data={"path": str(path), "too_long": "leave_out"}))
    assert any(
        f"1 of {len(rows)} problems left out" in values["message"] for name, values in heard if name == "warning"
    )
    played = {record["problem_id"] for record in read_trajectories(tmp_path / "run")}
    assert rows[1]["id"] not in played


def test_a_prompt_that_is_too_long_is_refused_before_the_first_update(world: World, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its prompt must be at most 20 tokens"):
        run(world.config(tmp_path / "run", agent={"max_prompt_tokens": 20}))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


# Guards --------------------------------------------------------------------------------------------------------------


class Falling:
    """Rewards every trajectory of the first update, and none after."""

    def __init__(self) -> None:
        self.num_graded = 0

    async def score(self, problem: Problem, trajectory: Trajectory) -> Score:
        del problem, trajectory
        self.num_graded += 1
        right = self.num_graded <= 6
        return Score(value=float(right), correct=right, reason="a test")


@pytest.mark.parametrize("action", ["stop", "warn", "off"])
def test_a_collapsing_run_is_stopped_with_its_checkpoint_written(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr("sod.train.make_rewards", lambda _config, **_settings: {"math": Falling()})
    guards = {"on_alarm": action, "window": 1, "tool_call_floor": 0.0, "failed_call_ceiling": 1.0}
    config = world.config(tmp_path / "run", guards=guards, update={"num_updates": 3})
    if action == "stop":
        with pytest.raises(CollapseError, match="stopped at update 2: mean reward fell from 1 to 0"):
            run(config)
        assert (tmp_path / "run" / "checkpoints" / "update-000002" / "model").is_dir()
        assert "CollapseError" in read_json(tmp_path / "run" / "status.json")["reason"]
    else:
        alarms = [values["update"] for event, values in run(config) if event == "alarm"]
        assert alarms == ([2] if action == "warn" else [])  # said once, though it goes on
    written = [line["update"] for line in records(config, "metrics") if "alarm" in line]
    assert written == {"stop": [2], "warn": [2], "off": []}[action]


class NoSandbox:
    """A sandbox that never works."""

    layers = ("none",)

    def __init__(self, _config: object) -> None:
        pass

    async def __aenter__(self) -> NoSandbox:
        return self

    async def __aexit__(self, *_error: object) -> None:
        pass

    async def run(self, code: str, **_settings: Any) -> Any:
        del code
        raise SandboxError("no fork server")


def test_a_run_whose_sandbox_fails_stops_and_says_why(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was lost is recorded with the reason; too much of it, or all of it, ends the run."""
    monkeypatch.setattr("sod.train.make_sandbox", NoSandbox)
    config = world.config(tmp_path / "run", update={"prompts": 4, "num_updates": 3}, guards={"on_alarm": "off"})
    with pytest.raises(
        (CollapseError, InfrastructureError), match=r"no fault of the student|were lost.*no fork server"
    ):
        run(config)
    lost = [line for line in records(config, "trajectories") if line["stop_reason"] == "infrastructure"]
    assert len(lost) >= 3
    assert all("score" not in line and "no fork server" in line["detail"] for line in lost)


def test_problems_that_are_trained_and_evaluated_on_are_told(world: World, tmp_path: Path) -> None:
    config = four_updates(world, tmp_path / "run")
    shared = {"evaluation": {"path": config.data.path, "limit": 1}, "update": {"num_updates": 1, "evaluate_every": 1}}
    events = run(world.config(tmp_path / "shared", **shared))
    (message,) = [values["message"] for name, values in events if name == "warning"]
    assert message.startswith("1 of ")
    assert "training problems are also in the evaluation" in message

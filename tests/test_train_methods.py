"""Whole runs of the methods beside SOD, on tiny models: privileged copies, several teachers, rubrics, divergences."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from chat_server import ChatServer, attempt_of
from sod.chat import Chat, load_tokenizer
from sod.config import ModelConfig, TrainConfig
from sod.data import load_problems
from sod.errors import CollapseError, ConfigError, DataError, ModelError, SignalError
from sod.models.hf import HFModel
from sod.records import trajectory_of
from sod.runs import read_json
from sod.teachers import Teacher, privilege_of
from sod.tools import CHANGED, make_tools
from sod.train import train
from sod.types import Trajectory
from whole_runs import World, cancel, make_world, records, run, same_metrics, stop_by, weights

pytestmark = pytest.mark.usefixtures("one_thread")

SECRET = "zyxwvutsrq"
"""Stands in the solutions and hints, which only the teacher is shown."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, tiny_module: Callable[[int], Any]) -> World:
    """As in test_train, but each problem has a source, a solution and a hint; `other` is a second teacher."""
    made = make_world(tmp_path_factory.mktemp("world"), tokenizer, tiny_module)
    tiny_module(2).save_pretrained(made.root / "other")
    tokenizer.save_pretrained(made.root / "other")
    rows = [json.loads(line) for line in made.problems.read_text().splitlines()]
    for row in rows:
        row |= {"source": "even" if int(row["id"]) % 2 == 0 else "odd", "hint": f"{SECRET}: print it."}
        row |= {"solution": f"{SECRET}: 6*7 is 42."}
    made.problems.write_text("\n".join(map(json.dumps, rows)))
    return made


def stopped_and_continued(config: TrainConfig, *, after: int) -> None:
    """Ctrl-C after an update, and the same command again."""
    with pytest.raises(asyncio.CancelledError):
        train(config, listener=stop_by("update", after, cancel))
    assert read_json(Path(config.run) / "status.json")["state"] == "interrupted"
    run(config)


def trajectories(config: TrainConfig, update: int) -> list[tuple[Trajectory, dict[str, Any]]]:
    lines = [line for line in records(config, "trajectories") if line["update"] == update]
    return [(trajectory_of(line), line) for line in lines]


def checkpoint(config: TrainConfig, update: int) -> Path:
    return Path(config.run) / "checkpoints" / f"update-{update:06d}"


def chat_of(config: TrainConfig) -> Chat:
    tools = make_tools(config.tool, sandbox=None)
    return Chat(load_tokenizer(config.student.path), tools=[tool.schema for tool in tools.values()])


# The student's own copy, shown more ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Copied:
    """A method with its teacher, as a run has it."""

    method: str
    kind: str
    lora: bool

    def config(self, world: World, run: Path) -> TrainConfig:
        changes: dict[str, Any] = {"lora": {"rank": 4}} if self.lora else {}
        update = {"num_updates": 3, "save_every": 1, "teacher_scoring": "step" if self.lora else "trajectory"}
        teaching = {"student_copy": self.kind, "ema_decay": 0.5}
        return world.config(run, teacher=None, method=self.method, teaching=teaching, update=update, **changes)


COPIES = [
    Copied("opsd_gt", "frozen", False),
    Copied("opsd_gt", "ema", True),
    Copied("opsd_hint", "frozen", True),
    Copied("opsd_hint", "ema", False),
]


@dataclass(frozen=True)
class CopiedRun:
    """A run of 3 updates that nothing interrupted, and what it was of."""

    of: Copied
    config: TrainConfig


@pytest.fixture(scope="module", params=COPIES, ids=lambda each: f"{each.method}-{each.kind}{'-lora' * each.lora}")
def copied(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> CopiedRun:
    config = request.param.config(world, tmp_path_factory.mktemp("copied") / "run")
    run(config)
    return CopiedRun(request.param, config)


def test_a_run_taught_by_the_students_copy_goes_on_exactly(world: World, copied: CopiedRun, tmp_path: Path) -> None:
    config = copied.of.config(world, tmp_path / "run")
    stopped_and_continued(config, after=2)
    assert same_metrics(records(config, "metrics"), records(copied.config, "metrics"))
    last = [checkpoint(each, 3) for each in (config, copied.config)]
    files = ["model/model.safetensors", "optimizer.safetensors"]
    assert all((folder / "teacher.safetensors").exists() is (copied.of.kind == "ema") for folder in last)
    for file in [*files, *(["teacher.safetensors"] if copied.of.kind == "ema" else [])]:
        ours, theirs = (load_file(folder / file) for folder in last)
        assert ours.keys() == theirs.keys()
        assert max(float((ours[name].float() - theirs[name].float()).abs().max()) for name in ours) < 1e-5, file


def test_the_copy_says_something_else_than_the_student(copied: CopiedRun) -> None:
    terms = [line["teacher_term"] for line in records(copied.config, "metrics")]
    assert len(terms) == 3
    assert min(terms) > 1e-4


def test_nothing_of_what_the_teacher_is_shown_is_written(copied: CopiedRun) -> None:
    """Not in a record, a prompt or a checkpoint of the run."""
    files = [path for path in Path(copied.config.run).rglob("*") if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    chat = chat_of(copied.config)
    assert SECRET not in "".join(chat.text(trajectory.token_ids) for trajectory, _ in trajectories(copied.config, 3))


def copy_weights(world: World, copied: CopiedRun, *, updates: int) -> HFModel:
    """The teacher's model as it must be after so many updates, made of what the run saved of the student."""
    model = HFModel.load(ModelConfig(path=str(world.student)))
    for update in range(1, updates + 1) if copied.of.kind == "ema" else ():
        student = weights(copied.config, update)
        with torch.no_grad():
            for name, weight in model.module.named_parameters():
                weight.lerp_(student[name], 0.5)
    return model


def test_the_copy_is_what_the_setting_says(world: World, copied: CopiedRun) -> None:
    """Its log-probs of the last update are those of the first weights, or of the average of the two updates before.

    An average of LoRA's factors is none of the weights, so that there the two agree only about.
    """
    model = copy_weights(world, copied, updates=2)
    privilege = privilege_of(copied.config.teaching.shows, chat=chat_of(copied.config))
    teacher = Teacher(scorer=model, vocabulary_size=640, privilege=privilege)
    problems = {problem.id: problem for problem in load_problems(copied.config.data)}

    async def score() -> None:
        for trajectory, line in trajectories(copied.config, 3):
            scored = await teacher.logprobs(trajectory, problem=problems[trajectory.problem_id])
            tolerance = 1e-2 if copied.of.lora and copied.of.kind == "ema" else 2e-4
            assert line["teacher_logprobs"] == pytest.approx(scored, abs=tolerance)

    asyncio.run(score())


def test_a_copy_needs_what_it_is_to_be_shown(world: World, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in world.problems.read_text().splitlines()]
    bare = tmp_path / "bare.jsonl"
    bare.write_text("\n".join(json.dumps({**row, "hint": "" if row["id"] == "3" else row["hint"]}) for row in rows))
    with pytest.raises(DataError, match=r"a hint of every problem, got none of 1 of 5, the first 3; write hints"):
        run(world.config(tmp_path / "a", teacher=None, method="opsd_hint", data={"path": str(bare)}))
    with pytest.raises(ConfigError, match="own weights teach, got"):
        world.config(tmp_path / "b", method="opsd_gt")
    room = {"max_prompt_tokens": 1000, "max_response_tokens": 1790}
    with pytest.raises(ModelError, match="positions of the teacher"):
        run(world.config(tmp_path / "c", teacher=None, method="opsd_hint", agent=room))


class Heard(Exception):  # noqa: N818 - no failure
    """A warning: nothing after it is waited for."""


def heard(event: str, values: Mapping[str, Any]) -> None:
    if event == "warning":
        raise Heard(values["message"])


def test_hints_that_hold_the_answer_and_settings_that_do_nothing_are_said(world: World, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in world.problems.read_text().splitlines()]
    told = tmp_path / "told.jsonl"
    told.write_text("\n".join(json.dumps({**row, "hint": f"It comes to {row['answer']}."}) for row in rows))
    hints = {"teacher": None, "method": "opsd_hint"}
    with pytest.raises(Heard, match="5 of the first 5 hints hold the final answer"):
        train(world.config(tmp_path / "a", **hints, data={"path": str(told)}), listener=heard)
    with pytest.raises(Heard, match=r"weights.delta = 0.5 does nothing with weights.rule = \"uniform\""):
        train(world.config(tmp_path / "b", **hints, weights={"delta": 0.5}), listener=heard)


def test_a_tool_that_changes_between_sessions_is_said(world: World, tmp_path: Path) -> None:
    file = tmp_path / "my_tool.py"
    file.write_text(
        "from sod.tools import CodeInterpreter\n\n"
        "def make(config, sandbox):\n    return CodeInterpreter(sandbox, config=config)\n"
    )
    config = world.config(tmp_path / "run", tool={"make": f"{file}:make"})
    with pytest.raises(asyncio.CancelledError):
        train(config, listener=stop_by("update", 1, cancel))
    file.write_text(file.read_text() + "# mended\n")
    events = run(config)
    assert [values["message"] for name, values in events if name == "warning"] == [CHANGED]


def test_a_frozen_copy_teaches_while_samples_are_drawn_ahead(world: World, tmp_path: Path) -> None:
    """With LoRA they share their base: one thread trains beside it while another scores."""
    update = {"num_updates": 3, "staleness": 1}
    config = world.config(tmp_path / "run", teacher=None, method="opsd_gt", lora={"rank": 4}, update=update)
    run(config)
    assert [line["staleness"] for line in records(config, "metrics")] == [0.0, 1.0, 1.0]


def test_another_teacher_can_be_shown_the_answer_too(world: World, tmp_path: Path) -> None:
    found = {}
    for shows in ("prompt", "answer"):
        config = world.config(tmp_path / shows, method="opd", teaching={"shows": shows}, update={"num_updates": 1})
        run(config)
        found[shows] = [line["teacher_logprobs"] for _, line in trajectories(config, 1)]
    assert [len(each) for each in found["prompt"]] == [len(each) for each in found["answer"]]
    assert found["prompt"] != found["answer"]


# Trust after a failed call -------------------------------------------------------------------------------------------


def test_trust_is_earned_over_updates_and_outlives_a_stop(world: World, tmp_path: Path) -> None:
    """Half of the calls fail on purpose. Weights of steps after a failed one are those of eq 7 times the trust."""
    update = {"num_updates": 4, "samples": 4}
    settings = {"weights": {"after_failure": "earned"}, "tool": {"fault_share": 0.5}, "update": update}
    config, again = (world.config(tmp_path / name, **settings) for name in ("run", "again"))
    run(config)
    factors = [line["trust_after_failure"] for line in records(config, "metrics")]
    assert len(factors) == 4
    num_after = 0
    for number, factor in enumerate(factors, start=1):
        assert 0.0 <= factor <= 1.0
        for trajectory, line in trajectories(config, number):
            failed = [any(result.status != "ok" for result in turn.results) for turn in trajectory.turns]
            for step, weight in enumerate(line["weight"]):
                expected = min(line["divergence"][0] / max(line["divergence"][step], 1e-6), 1.2)
                expected *= factor if any(failed[:step]) else 1.0
                assert weight == pytest.approx(expected, rel=1e-2, abs=1e-5)
                num_after += any(failed[:step])
    assert num_after > 3
    stopped_and_continued(again, after=2)
    assert same_metrics(records(again, "metrics"), records(config, "metrics"))


def test_a_rule_may_silence_the_teacher_for_a_whole_update(world: World, tmp_path: Path) -> None:
    """Far from its teacher a student of `sod_threshold` learns from outcomes alone: no reason to end the run."""
    config = world.config(tmp_path / "run", method="sod_threshold", weights={"threshold": 0.0})
    run(config)
    lines = records(config, "metrics")
    assert [line["teacher_term"] for line in lines] == [0.0, 0.0]
    assert min(line["divergence"] for line in lines) > 0.01


# Several teachers ----------------------------------------------------------------------------------------------------


def taught_by_two(world: World, run: Path) -> TrainConfig:
    teachers = {"odd": {"path": str(world.root / "other")}}
    return world.config(run, teachers=teachers, update={"num_updates": 3, "prompts": 3, "optimizer_steps": 1})


def test_two_teachers_by_the_source_of_a_problem(world: World, tmp_path: Path) -> None:
    config = taught_by_two(world, tmp_path / "run")
    assert [name for name, _ in run(config)] == ["sandbox", "update", "update", "update"]
    lines = [each for update in (1, 2, 3) for each in trajectories(config, update)]
    asked = {trajectory.problem_id for trajectory, _ in lines}
    assert asked == {str(number) for number in range(5)}
    models = [HFModel.load(ModelConfig(path=str(path))) for path in (world.teacher, world.root / "other")]

    async def score() -> None:
        for trajectory, line in lines:
            model = models[int(trajectory.problem_id) % 2]
            scored = await model.score(trajectory.token_ids, positions=trajectory.sampled_positions)
            assert line["teacher_logprobs"] == pytest.approx(scored, abs=2e-4)

    asyncio.run(score())
    again = taught_by_two(world, tmp_path / "again")
    stopped_and_continued(again, after=1)
    assert same_metrics(records(again, "metrics"), records(config, "metrics"))


def test_a_source_without_a_teacher_or_a_problem_is_told_at_the_start(world: World, tmp_path: Path) -> None:
    teachers = {name: {"path": str(world.root / "other")} for name in ("odd", "old")}
    with pytest.raises(DataError, match="no teacher for 'even' and no default; there are teachers for: 'odd', 'old'"):
        run(world.config(tmp_path / "a", teacher=None, teachers=teachers))
    events = run(world.config(tmp_path / "b", teachers=teachers, update={"num_updates": 1}))
    warnings = [values["message"] for name, values in events if name == "warning"]
    assert warnings == ["no problem has the source 'old' of [teachers.old]"]


def test_each_teacher_is_checked_at_the_start(world: World, tmp_path: Path, tokenizer: Any) -> None:
    """Also one that a config names second: it is of the student's language, or refused."""
    broken = tmp_path / "broken"
    HFModel.load(ModelConfig(path=str(world.teacher))).module.save_pretrained(broken)
    tokenizer.save_pretrained(broken)
    template = (broken / "chat_template.jinja").read_text()
    (broken / "chat_template.jinja").write_text(template + "\n{# another #}")
    with pytest.raises(ModelError, match="must share one chat template"):
        run(world.config(tmp_path / "a", teachers={"odd": {"path": str(broken)}}))


# Rubrics -------------------------------------------------------------------------------------------------------------


FAILED = {"text": 'Goes on after "the tool failed".', "points": 2}


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """One of its criteria is met by those trajectories alone whose call failed on purpose."""
    with ChatServer() as serving:
        serving.criteria[2] = FAILED
        yield serving


def with_rubrics(world: World, run: Path, server: ChatServer, *, num_updates: int = 3, **rubrics: Any) -> TrainConfig:
    section = {"url": server.url, "model": "judge", "teacher_answers": 2, **rubrics}
    tool, update = {"fault_share": 0.5}, {"num_updates": num_updates}
    return world.config(run, method="ropd", teacher=None, rubrics=section, tool=tool, update=update)


def by_rule(line: Mapping[str, Any]) -> float:
    """What the server's criteria are worth for a trajectory, as it looks for what they quote."""
    shown = json.dumps(line["turns"], ensure_ascii=False)
    points = {"42": 5, "6*7": 3, "the tool failed": 2, "boxed": 1}
    return sum(each for word, each in points.items() if word in shown) / (sum(points.values()) + 1e-6)


def test_rewards_of_rubrics(world: World, tmp_path: Path, server: ChatServer) -> None:
    config = with_rubrics(world, tmp_path / "run", server)
    run(config)
    values = set()
    for update in (1, 2, 3):
        lines = trajectories(config, update)
        assert [line["score"]["value"] for _, line in lines] == pytest.approx([by_rule(line) for _, line in lines])
        metrics = records(config, "metrics")[update - 1]
        assert metrics["reward"] == pytest.approx(sum(by_rule(line) for _, line in lines) / 6)
        assert metrics["accuracy"] == sum(line["score"]["correct"] for _, line in lines) / 6
        values |= {line["score"]["value"] for _, line in lines}
    assert len(values) > 1, "trajectories of this test must differ in what they are worth"
    groups = [(line["update"], line["group"]) for line in records(config, "rubrics")]
    assert sorted(groups) == [(update, group) for update in (1, 2, 3) for group in (0, 1)]
    assert server.asked["teacher"] == 2 * 5, "each of the five problems is answered twice in the whole run"
    start, end = load_file(world.student / "model.safetensors"), weights(config, 3)
    assert max(float((end[name] - start[name]).abs().max()) for name in start) > 1e-5


def test_a_rollout_that_cannot_be_judged_is_dropped_and_is_no_failure_of_the_world(
    world: World, tmp_path: Path, server: ChatServer
) -> None:
    run(with_rubrics(world, tmp_path / "before", server, num_updates=1))
    longest = max(map(attempt_of, server.of("verdict")), key=len)
    server.baffling = lambda attempt: attempt == longest
    config = with_rubrics(world, tmp_path / "run", server, num_updates=1)
    run(config)
    (metrics,) = records(config, "metrics")
    assert 1 <= metrics["unjudged"] <= 2, "siblings may say the same"
    assert metrics["num_trajectories"] == 6 - metrics["unjudged"]
    assert metrics["infrastructure_failures"] == 0
    dropped = [line for line in records(config, "trajectories") if "score" not in line]
    assert len(dropped) == metrics["unjudged"]
    assert all("must answer in the form that was asked for" in line["detail"] for line in dropped)


def test_a_budget_ends_the_run_and_more_of_it_goes_on(world: World, tmp_path: Path, server: ChatServer) -> None:
    """With the whole updates saved, and nothing asked twice."""
    whole = with_rubrics(world, tmp_path / "whole", server)
    run(whole)
    needed = len(server.requests)
    config = with_rubrics(world, tmp_path / "run", server, max_requests=needed - 4)
    with pytest.raises(CollapseError, match=rf"rubrics.max_requests = {needed - 4}, and that many are sent; raise"):
        run(config)
    assert [line["update"] for line in records(config, "metrics")] == [1, 2]
    assert read_json(checkpoint(config, 2) / "state.json") == {"updates_done": 2}
    assert "BudgetError" in read_json(Path(config.run) / "status.json")["reason"]
    with pytest.raises(CollapseError, match="max_requests"):
        run(config)
    events = run(with_rubrics(world, tmp_path / "run", server, max_requests=needed))
    assert ("resumed", {"update": 2}) in events
    assert len(server.requests) == 2 * needed
    assert same_metrics(records(config, "metrics"), records(whole, "metrics"))
    assert [line["token_ids"] for line in records(config, "trajectories")] == [
        line["token_ids"] for line in records(whole, "trajectories")
    ]
    groups = [(line["update"], line["group"]) for line in records(config, "rubrics")]
    assert sorted(groups) == [(update, group) for update in (1, 2, 3) for group in (0, 1)]


def test_a_teacher_can_measure_beside_rubrics(world: World, tmp_path: Path, server: ChatServer) -> None:
    section = {"url": server.url, "model": "judge", "teacher_answers": 1}
    config = world.config(tmp_path / "run", method="ropd", rubrics=section, update={"num_updates": 1})
    run(config)
    assert records(config, "metrics")[0]["divergence"] > 0.01


# Divergences of whole distributions ----------------------------------------------------------------------------------


def logprobs(model: HFModel, trajectory: Trajectory) -> Tensor:
    """Of every token of the vocabulary before each position, by one plain forward."""
    with torch.no_grad():
        logits = model.module(input_ids=torch.tensor([trajectory.token_ids])).logits[0]
    return logits.double().log_softmax(-1).roll(1, 0)


def kls(world: World, trajectory: Trajectory) -> Tensor:
    """KL(student || teacher) before each position, under the models that the run began with."""
    student, teacher = (
        logprobs(HFModel.load(ModelConfig(path=str(path))), trajectory) for path in (world.student, world.teacher)
    )
    return (student.exp() * (student - teacher)).sum(-1)


def step_values(trajectory: Trajectory, values: Tensor, chosen: list[bool] | None = None) -> list[float]:
    """The mean over each step's tokens, or over those that are chosen where it has some."""
    found = []
    for number in range(trajectory.num_steps):
        places = [place for place, step in enumerate(trajectory.step) if step == number]
        some = [place for place in places if chosen is not None and chosen[place]]
        found.append(float(values[some or places].mean()))
    return found


def test_gkd_learns_from_the_divergence(world: World, tmp_path: Path) -> None:
    """Its loss at the first optimizer step is the mean divergence; stopped and continued it is the same run."""
    update = {"num_updates": 3, "optimizer_steps": 1}
    config, again = (world.config(tmp_path / name, method="gkd", update=update) for name in ("run", "again"))
    run(config)
    lines = records(config, "metrics")
    assert all(line["loss"] == pytest.approx(line["teacher_loss"]) for line in lines)
    found = [(trajectory, kls(world, trajectory)) for trajectory, _ in trajectories(config, 1)]
    values = torch.cat([values[list(trajectory.sampled_positions)] for trajectory, values in found])
    assert lines[0]["teacher_loss"] == pytest.approx(float(values.mean()), rel=1e-4)
    assert lines[2]["teacher_loss"] < lines[0]["teacher_loss"]
    stopped_and_continued(again, after=1)
    assert same_metrics(records(again, "metrics"), lines)


def test_gkd_beside_samples_that_are_drawn_ahead(world: World, tmp_path: Path) -> None:
    """The teacher scores and is compared with at the same time, in two threads."""
    config = world.config(tmp_path / "run", method="gkd", update={"num_updates": 3, "staleness": 1})
    run(config)
    assert [line["staleness"] for line in records(config, "metrics")] == [0.0, 1.0, 1.0]


def test_gkd_of_a_student_that_is_its_own_teacher_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(SignalError, match="must disagree with the student somewhere"):
        run(world.config(tmp_path / "run", method="gkd", teacher={"path": str(world.student)}))


@pytest.mark.parametrize(("kind", "top_k"), [("kl", 64), ("top_k_kl", 8)])
def test_steps_are_weighed_by_the_kl(world: World, tmp_path: Path, kind: str, top_k: int) -> None:
    measure = {"divergence": kind, "top_k": top_k}
    config = world.config(tmp_path / "run", weights=measure, update={"num_updates": 1})
    run(config)
    for trajectory, line in trajectories(config, 1):
        by_hand = step_values(trajectory, kls(world, trajectory))
        if kind == "kl":
            assert line["divergence"] == pytest.approx(by_hand, rel=1e-3)
        else:  # what is told apart less cannot differ more
            assert all(0 < some <= whole * 1.001 for some, whole in zip(line["divergence"], by_hand, strict=True))
        first = line["divergence"][0]
        assert line["weight"] == pytest.approx([min(first / each, 1.2) for each in line["divergence"]], rel=1e-3)


@pytest.mark.parametrize("scope", ["calls", "reasoning"])
def test_steps_are_weighed_by_a_part_of_their_tokens(world: World, tmp_path: Path, scope: str) -> None:
    config = world.config(tmp_path / "run", weights={"scope": scope}, update={"num_updates": 1})
    run(config)
    chat, differ = chat_of(config), 0
    for trajectory, line in trajectories(config, 1):
        gaps = torch.zeros(len(trajectory.token_ids), dtype=torch.float64)
        for place, logprob in zip(trajectory.sampled_positions, line["teacher_logprobs"], strict=True):
            gaps[place] = abs(logprob - trajectory.rollout_logprobs[place])
        inside = [False] * len(trajectory.token_ids)
        for turn in trajectory.turns:
            inside[turn.start : turn.end] = chat.call_mask(trajectory.token_ids[turn.start : turn.end])
        chosen = [is_call is (scope == "calls") for is_call in inside]
        by_hand = step_values(trajectory, gaps, chosen)
        assert line["divergence"] == pytest.approx(by_hand, rel=1e-3, abs=1e-4)
        differ += by_hand != pytest.approx(step_values(trajectory, gaps), rel=1e-3)
    assert differ, "some step of this test must have tokens of both kinds"

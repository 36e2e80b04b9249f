"""examples/miniature: its tables, figures and the teacher's worth, on made-up runs and small real ones."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.agent import Agent, make_agent
from sod.config import AgentConfig, RewardConfig, SamplingConfig, ToolConfig
from sod.errors import DataError
from sod.models.hf import HFModel
from sod.models.scripted import ScriptedSampler, ScriptedScorer
from sod.report.patterns import pattern
from sod.rewards import make_rewards
from sod.sandbox.scripted import ScriptedSandbox
from sod.types import Problem, Trajectory

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "examples" / "miniature"
sys.path.insert(0, str(EXAMPLE))

import figures  # noqa: E402
import outcomes  # noqa: E402
import results  # noqa: E402
import study  # noqa: E402
import value  # noqa: E402
import world  # noqa: E402

LIMITS = AgentConfig(max_turns=9, max_prompt_tokens=64, max_response_tokens=240, max_malformed_calls=2)
TOOL = ToolConfig(make=f"{EXAMPLE}/world.py:calculator", max_observation_tokens=24)
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "7 *8 +4"},), answer="60")


# ---- a made-up study

PLAYED = {
    "token_ids": [1, 2],
    "num_prompt_tokens": 1,
    "step": [-1, 0],
    "rollout_logprobs": [0.0, -0.1],
    "turns": [],
    "stop_reason": "answered",
    "policy_version": 0,
    "detail": "",
}


def write_evaluation(path: Path, rows: Sequence[Sequence[bool]], *, calls: float = 4.0, complete: bool = True) -> None:
    """`rows[p]` are the verdicts of problem p."""
    path.mkdir(parents=True)
    records = [
        {**PLAYED, "benchmark": "test", "problem_id": f"p{p}", "sample": n, "score": {"correct": bool(each)}}
        for p, row in enumerate(rows)
        for n, each in enumerate(row)
    ]
    (path / "trajectories.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    numbers = {"k": len(rows[0]), "tool_calls": calls}
    (path / "evaluation.json").write_text(json.dumps({"complete": complete, "benchmarks": {"test": numbers}}))


def write_training(
    path: Path, *, updates: int = 12, alarm: int | None = None, divergence: Sequence[float] = (0.02, 0.9, 0.01, 0.001)
) -> None:
    """A finished run whose every trajectory has these divergences, the last one of an answer."""
    path.mkdir(parents=True)
    numbers = {"accuracy": 0.5, "entropy": 0.1, "tool_calls": 4.0, "failed_turns": 10, "retried": 9}
    lines: list[Mapping[str, Any]] = [{"update": update, **numbers} for update in range(1, updates + 1)]
    lines += [{"update": alarm, "alarm": "retries", "message": ""}] if alarm else []
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    (path / "status.json").write_text('{"state": "finished"}')
    (path / "run.json").write_text('{"command": "train", "sessions": [{"git_commit": "abc"}]}')
    turns = [{"text": "", "calls": [{}], "results": [{"status": "ok"}]} for _ in divergence[1:]]
    record = {
        "problem_id": "p",
        "score": {"correct": True},
        "turns": [*turns, {"text": "", "calls": [], "results": []}],
    }
    record |= {"divergence": list(divergence), "weight": [1.0] * len(divergence)}
    text = "".join(f"{json.dumps({'update': update, **record})}\n" for update in range(1, updates + 1))
    (path / "trajectories.jsonl").write_text(text)


@pytest.fixture
def made_up(tmp_path: Path) -> Path:
    """20 problems, 2 seeds. GRPO gets all right, OPD none, SOD of the naive world half; some seeds are missing."""
    out = tmp_path / "out"
    right, wrong = [[True, True]] * 20, [[False, False]] * 20
    for seed in (0, 1):
        write_evaluation(out / "start" / "small" / f"seed-{seed}", [[True, False]] * 5 + [[False, False]] * 15)
        for place, method, rows in (
            ("any", "grpo", right),
            ("naive", "opd", wrong),
            ("naive", "sod", [[True, False], [True, True], [False, False], [True, False]] * 5),
            ("knowing", "sod", right),
        ):
            run = out / "runs" / place / "small" / method / f"seed-{seed}"
            write_training(run, alarm=7 + seed if method == "opd" else None)
            if (place, seed) != ("knowing", 1):
                write_evaluation(run.with_name(f"{run.name}-evaluation"), rows)
    return out


def test_tables_say_what_is_there_and_what_is_missing(made_up: Path) -> None:
    tables = results.make_tables(outcomes.read_study(made_up))
    rows = {(row.world, row.cell.method): row for row in tables.main}
    sod = rows["naive", "sod"]
    assert sod.average.value == 0.5
    assert sod.differences["opd"].interval.value == 0.5
    assert sod.differences["grpo"].interval.value == -0.5
    assert sod.differences["start"].interval.value == pytest.approx(0.5 - 0.125)
    assert rows["knowing", "grpo"].cell is rows["naive", "grpo"].cell
    assert rows["knowing", "sod"].cell.missing == {1: "not evaluated"}
    page = results.markdown(tables, command="the command")
    assert "| SOD | 1 of 2 (seed 1: not evaluated) | 100.0 [" in page
    assert "(problems only)" in page
    assert "| OPSD_gt | 0 of 2 | **missing**: not run |" in page
    assert "retries 2/2 (update 7, 8)" in page
    assert "| 4.00 | 90 | none |" in page  # 10 updates of 9 among 10 failed turns
    assert page.count("`abc`") == 1


def test_a_comparison_in_both_worlds_counts_once(made_up: Path) -> None:
    tables = results.make_tables(outcomes.read_study(made_up))
    # Of two seeds: GRPO, OPD, SOD against the start; GRPO against OPD; SOD against both. The other world's SOD has one.
    assert tables.families["main"] == 3 + 1 + 2
    alone = next(row for row in tables.main if (row.world, row.cell.method) == ("knowing", "sod"))
    assert (alone.differences["start"].p_value, alone.differences["start"].holm) == (None, None)
    naive, knowing = (
        next(row for row in tables.main if (row.world, row.cell.method) == (name, "grpo")) for name in outcomes.WORLDS
    )
    assert naive.differences["start"] == knowing.differences["start"]
    opd = next(row for row in tables.main if (row.world, row.cell.method) == ("naive", "opd"))
    assert opd.differences["grpo"].holm == naive.differences["opd"].holm


def test_where_sod_does_not_help_is_made_of_the_rows(made_up: Path) -> None:
    page = results.markdown(results.make_tables(outcomes.read_study(made_up)), command="")
    below, rest = page.split("Below, beyond noise: ")[1].split("Not told apart: ")
    assert below.startswith("1.")
    assert "world naive, student small: SOD against GRPO: **-50.0" in below
    above = rest.split("Above, beyond noise: ")[1]
    assert "world naive, student small: SOD against OPD: **+50.0" in above
    assert "world knowing, student small: SOD against OPD" in above.split("Not compared")[1]
    # One seed is right everywhere, the other is not there: of one seed nothing is told.
    alone = rest.split("Of one seed, which cannot tell: 1.")[1]
    assert "world knowing, student small: SOD against GRPO: +0.0 [+0.0, +0.0] (1 seed)" in alone
    assert "**" not in alone.split("##")[0]


def test_seeds_that_were_asked_for_are_missing_too(made_up: Path) -> None:
    cell = outcomes.read_study(made_up, seeds=(0, 1, 2)).cell("naive", "small", "sod")
    assert cell.count == "2 of 3 (seed 2: not run)"


def test_pages_say_what_seeds_are_and_no_path_of_a_machine(made_up: Path, tmp_path: Path) -> None:
    write = tmp_path / "written"
    argv = [
        sys.executable,
        str(EXAMPLE / "results.py"),
        "--out",
        str(made_up),
        "--write",
        str(write),
        "--seeds",
        "0",
        "1",
    ]
    subprocess.run(argv, check=True, capture_output=True)
    page, numbers = (write / "miniature.md").read_text(), json.loads((write / "miniature.json").read_text())
    assert numbers["command"] == "python examples/miniature/results.py --out DIR --seeds 0 1"
    assert str(tmp_path) not in page
    assert outcomes.SHARED in page
    assert outcomes.DESIGNED_HERE in page
    row = next(each for each in numbers["main"] if (each["world"], each["method"]) == ("naive", "sod"))
    found = row["differences"]["opd"]
    assert {"p_value", "p_problems_seeds_fixed", "holm", "beyond_noise"} <= set(found)
    assert found["p_value"] <= found["holm"] < 0.05


def test_an_empty_folder_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must hold runs of study\.py"):
        outcomes.read_study(tmp_path)


# ---- estimates


def of_seeds(rows: torch.Tensor) -> outcomes.Cell:
    """A method whose problem means are `rows[seed, problem]`."""
    rest: dict[str, Any] = {"path": Path(), "samples": 4, "tool_calls": 0.0, "alarms": {}, "commit": ""}
    rest |= {"failed_turns": 0, "retried": 0}
    by_seed = {
        seed: outcomes.Outcome(means={f"p{p}": mean for p, mean in enumerate(row)}, **rest)
        for seed, row in enumerate(rows.tolist())
    }
    return outcomes.Cell(method="m", place="naive", outcomes=by_seed, missing={})


def test_p_knows_of_seeds() -> None:
    """Two methods that are alike, 3 seeds x 150 problems x 4 samples, seeds with a standard deviation of 3 points.

    p < .05 in about 3 % of 100 draws. Signs flipped by problem take the seeds as fixed and say so in about 30 %.
    """
    generator = torch.Generator().manual_seed(2)

    def method(easy_P: torch.Tensor) -> outcomes.Cell:
        share_SP = (easy_P + 0.03 * torch.randn(3, 1, generator=generator)).clamp(0.02, 0.98)
        return of_seeds(torch.stack([torch.bernoulli(share_SP, generator=generator) for _ in range(4)]).mean(0))

    found = []
    for _ in range(100):
        easy_P = (0.25 * torch.randn(150, generator=generator) + 0.5).clamp(0.05, 0.95)
        each = outcomes.difference(method(easy_P), method(easy_P))
        assert each is not None
        found.append(each)
    p_values = [each.p_value or 0.0 for each in found]
    assert sum(p < 0.05 for p in p_values) <= 10
    assert sum(each.p_problems_seeds_fixed < 0.05 for each in found) >= 20
    without_0 = [each.interval.low > 0.0 or each.interval.high < 0.0 for each in found]
    assert without_0 == [p < 0.05 for p in p_values]


def test_p_of_a_difference_that_is_there() -> None:
    easy_P = torch.linspace(0.1, 0.6, 60)
    seed_S = torch.tensor([[-0.01], [0.0], [0.012]])
    found = outcomes.difference(of_seeds(easy_P + 0.3 + seed_S), of_seeds(easy_P.expand(3, 60)))
    assert found is not None
    assert found.p_value is not None
    assert found.interval.freedom == 2
    assert 1e-5 < found.p_value < 0.002
    assert not found.beyond_noise  # until it is corrected within a family
    assert replace(found, holm=0.04).beyond_noise
    alike = outcomes.difference(of_seeds(easy_P.expand(3, 60)), of_seeds(easy_P.expand(3, 60)))
    assert alike is not None
    assert alike.p_value == 1.0


def test_rank_correlation_with_ties() -> None:
    assert value.spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert value.spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1.0)
    assert value.spearman([1, 1, 1], [1, 2, 3]) != value.spearman([1, 1, 1], [1, 2, 3])  # not a number


# ---- the three patterns


@pytest.mark.parametrize(
    ("divergences", "name"),
    [
        ([0.02, 0.1, 0.2], "stable"),
        ([0.02, 0.9, 1.2], "erroneous"),
        ([0.02, 0.9, 0.01], "recovery"),
        ([0.9], "erroneous"),
        ([], None),
    ],
)
def test_every_trajectory_that_calls_is_in_one_class(divergences: Sequence[float], name: str | None) -> None:
    assert pattern(divergences, unit=0.02) == name


def test_figures_of_a_study_without_models(made_up: Path, tmp_path: Path) -> None:
    plan = figures.Plan(study=outcomes.read_study(made_up), size="small", folder=tmp_path / "images")
    names = ["figure-3-gains", "figure-4-training", "figure-5-patterns", "figure-6-shares", "value"]
    missing = figures.draw_all(plan, names=names)
    assert [name for name in names if missing[name]] == ["value"]
    for name in names[:-1]:
        assert (plan.folder / f"{name}.png").stat().st_size > 5000
        assert "<svg" in (plan.folder / f"{name}.svg").read_text()
    captions = (plan.folder / "README.md").read_text()
    assert "recovery, some above, but not the last; u is the median d_1 of the first update. u = 0.02 nats" in captions
    assert captions.count(outcomes.SHARED) == captions.count(outcomes.DESIGNED_HERE) == 3
    assert "Missing: value" in captions
    # d of the calls: .02 .9 .01, the answer's left out
    last = figures.class_numbers(plan)["naive"]["sod"]["last"]
    assert last["recovery"] == {"share": 1.0, "accuracy": 1.0}
    assert last["stable"]["share"] == 0.0


# ---- going on from a step


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return world.make_tokenizer()


def make(tokenizer: Any, turns: Sequence[str], *, fault_share: float = 0.0) -> Agent:
    """An agent that says these turns, and goes on with the last one."""
    stop = tokenizer.encode("<|im_end|>", add_special_tokens=False)

    def reply(_token_ids: tuple[int, ...], turn: int) -> list[int]:
        return tokenizer.encode(turns[min(turn, len(turns) - 1)], add_special_tokens=False) + stop

    return make_agent(
        sampler=ScriptedSampler(reply),
        tokenizer=tokenizer,
        sandbox=ScriptedSandbox([]),
        limits=LIMITS,
        tool=TOOL.model_copy(update={"fault_share": fault_share}),
        sampling=SamplingConfig(),
    )


def call(expression: str) -> str:
    return f'<tool_call>\n{{"name": "calculate", "arguments": {{"x": "{expression}"}}}}\n</tool_call>'


@pytest.mark.parametrize("fault_share", [0.0, 0.6])
def test_a_dialogue_so_far_is_the_very_tokens_of_the_trajectory(tokenizer: Any, fault_share: float) -> None:
    agent = make(tokenizer, [call("7*8"), f"so\n{call('56+4')}", call("7*"), "\\boxed{60}"], fault_share=fault_share)
    trajectory = asyncio.run(agent.run(PROBLEM, seed=3))
    assert trajectory.num_steps == 4
    for step in range(trajectory.num_steps):
        going_on = value.problem_at(agent, PROBLEM, trajectory, step)
        assert going_on is not None
        assert agent.chat.prompt_ids(going_on.messages) == trajectory.token_ids[: trajectory.turns[step].start]
    assert len(going_on.messages) == 7  # question, three calls, three results
    assert going_on.messages[1]["tool_calls"][0]["function"]["arguments"] == {"x": "7*8"}


def test_a_dialogue_of_other_tokens_is_left_out(tokenizer: Any) -> None:
    agent = make(tokenizer, [call("7*8"), "\\boxed{56}"])
    trajectory = asyncio.run(agent.run(PROBLEM))
    tokens = list(trajectory.token_ids)
    tokens[trajectory.turns[0].start] += 1
    other = replace(trajectory, token_ids=tuple(tokens))
    assert value.problem_at(agent, PROBLEM, other, 0) is not None
    assert value.problem_at(agent, PROBLEM, other, 1) is None


def test_going_on_has_what_is_left_of_the_limits(tokenizer: Any) -> None:
    agent = make(tokenizer, ["<tool_call>\n{}\n</tool_call>", call("7*8"), "\\boxed{56}"])
    trajectory = asyncio.run(agent.run(PROBLEM))
    limits = value.agent_at(agent, trajectory, 2).limits
    assert (limits.max_turns, limits.max_malformed_calls) == (7, 1)
    assert limits.max_prompt_tokens == trajectory.turns[2].start
    used = trajectory.turns[2].start - trajectory.num_prompt_tokens
    assert limits.max_response_tokens == 240 - used


def test_the_teacher_takes_one_step_and_the_student_the_rest(tokenizer: Any) -> None:
    """A student that only ever answers 56; its teacher calls, then would answer 60 if it were asked again."""
    student = make(tokenizer, ["\\boxed{56}"])
    teacher = make(tokenizer, [call("56+4"), "\\boxed{60}"])
    relayed = replace(student, sampler=value.Relay(teacher.sampler, student.sampler))
    trajectory = asyncio.run(relayed.run(PROBLEM))
    assert [turn.text for turn in trajectory.turns] == [call("56+4"), "\\boxed{56}"]
    assert teacher.sampler.released == student.sampler.released == ["/p/0"]


def measured(tokenizer: Any, trajectory: Trajectory) -> list[value.Line]:
    """By a student that always answers 56, and a teacher that always answers 60."""
    student, teacher = make(tokenizer, ["\\boxed{56}"]), make(tokenizer, ["\\boxed{60}"])
    bench = value.Bench(
        agent=student,
        relay=value.Relay(teacher.sampler, student.sampler),
        teacher=ScriptedScorer(lambda _ids, positions: [-1.5] * len(positions)),
        rewards=make_rewards(RewardConfig(), sandbox=ScriptedSandbox([])),
        samples=3,
        seed=0,
    )
    return asyncio.run(value.measure(bench, PROBLEM, trajectory, correct=True))


def test_worth_of_a_teacher_that_knows_the_answer(tokenizer: Any) -> None:
    agent = make(tokenizer, [call("7*"), call("7*8"), "\\boxed{60}"])
    lines = measured(tokenizer, asyncio.run(agent.run(PROBLEM)))
    assert [each["where"] for each in lines] == ["before", "right after", "later"]
    assert [each["divergence"] for each in lines] == [0.5, 0.5, 0.5]  # -1.0 when sampled, -1.5 under the teacher
    assert [each["weight"] for each in lines] == [1.0, 1.0, 1.0]
    assert all(each["own"] == [0, 0, 0] and each["taught"] == [1, 1, 1] for each in lines)
    steps = value.steps_of(lines)
    assert [step.worth for step in steps] == [1.0, 1.0, 1.0]
    assert [step.taken for step in steps] == [0.0, 0.0, 1.0]  # the trajectory itself ended right
    assert [step.worth_taken for step in steps] == [1.0, 1.0, 0.0]
    found = value.summary(lines, unit=0.01)
    large = found["large"]["all"]
    assert (large["num_steps"], large["num_rescuable"], large["num_harmable"]) == (3, 2, 1)
    shares = {name: large[name]["value"] for name in ("rescued", "rescued_own", "harmed", "harmed_own")}
    assert shares == {"rescued": 2 / 3, "rescued_own": 0.0, "harmed": 0.0, "harmed_own": 1 / 3}
    assert (large["rescued_beyond"]["value"], large["harmed_beyond"]["value"]) == (2 / 3, -1 / 3)
    assert found["others"]["num_steps"] == 0
    page = value.markdown({"command": "c", "size": "small", "samples": 3, "seed": 0, "worlds": {"naive": found}})
    assert "| right after one | 1 | - | 0.0 | 100.0 | 0.0 | +100.0 [+100.0, +100.0] |" in page


def test_a_step_without_a_next_share_does_not_count(tokenizer: Any) -> None:
    agent = make(tokenizer, [call("7*8"), call("56+4"), "\\boxed{60}"])
    lines = [dict(each) for each in measured(tokenizer, asyncio.run(agent.run(PROBLEM)))]
    lines[1] |= {"own": None, "taught": None}
    assert [step.taken for step in value.steps_of(lines)] == [1.0]
    with pytest.raises(DataError, match="got 1 of 3 that do not"):
        value.summary(lines, unit=1.0)


def step(problem: int, *, own: float, taught: float, taken: float) -> value.Step:
    return value.Step(
        problem=f"p{problem}", where="before", divergence=1.0, weight=0.1, own=own, taught=taught, taken=taken
    )


def test_a_redraw_is_not_the_teachers_doing() -> None:
    """Ten steps that went wrong and go right on any new try, ten that nothing changes, ten that the teacher harms."""
    unlucky = [step(p, own=0.9, taught=0.9, taken=0.1) for p in range(10)]
    hopeless = [step(p, own=0.1, taught=0.1, taken=0.1) for p in range(10, 20)]
    harmed = [step(p, own=0.8, taught=0.1, taken=0.8) for p in range(20, 30)]
    found = value._changes([*unlucky, *hopeless, *harmed])
    assert found["rescued"] == found["rescued_own"]
    assert found["rescued"]["value"] == pytest.approx(1 / 3)
    assert 0.1 < found["rescued"]["low"] < 1 / 3 < found["rescued"]["high"] < 0.6
    assert found["rescued_beyond"]["value"] == 0.0
    assert found["harmed_beyond"]["value"] == pytest.approx(1 / 3)
    assert found["harmed_beyond"]["low"] > 0.1
    cells = value._changed(found)
    assert (cells[1], cells[5]) == ("20", "10")
    assert cells[7] == "0.0"  # none: no resample has another share


def test_steps_on_disk_are_of_one_setting(tmp_path: Path) -> None:
    path = tmp_path / "value" / "small" / "naive.jsonl"
    assert value._lines(path, {"samples": 2}) == []
    with path.open("a") as file:
        file.write('{"problem": "p"}\n{"problem": "torn')
    assert value._lines(path, {"samples": 2}) == [{"problem": "p"}]
    assert path.read_bytes().endswith(b"}\n")
    with pytest.raises(DataError, match="remove the file"):
        value._lines(path, {"samples": 3})


# ---- everything, small and real


@pytest.mark.slow
def test_a_small_study_from_runs_to_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real training and evaluation of a shipped student, then value, tables and all figures."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(study, "TEST_SAMPLES", 2)
    out, models = tmp_path / "out", EXAMPLE / "models"
    for name, count in (("train", 12), ("test", 6)):
        world.write_jsonl(out / "data" / f"{name}.jsonl", world.rows(count, seed=name))
    shutil.copytree(models / "naive", out / "teachers" / "naive" / "checkpoints" / "update-000001" / "model")
    run = out / "runs" / "naive" / "small" / "sod" / "seed-0"
    study.evaluate(out, out / "start" / "small" / "seed-0", model=models / "small", seed=0)
    settings = {
        "method": "sod",
        "student.path": models / "small",
        "teacher.path": out / "teachers" / "naive" / "checkpoints" / "update-000001" / "model",
        "tool.fault_share": 0.2,
        "update.num_updates": 2,
    }
    study.learn(out, run, seed=0, settings=settings)
    study.evaluate(out, run.with_name("seed-0-evaluation"), model=study.last_model(run), seed=0)

    found = outcomes.read_study(out)
    order = value.Order(study=found, size="small", world="naive", num_problems=4, samples=2, seed=0)
    said: list[str] = []
    unit = asyncio.run(value.measure_world(order, say=said.append))
    whole = order.file.read_bytes()
    assert said == ["naive: 4 of 4 trajectories"]
    assert asyncio.run(value.measure_world(order, say=said.append)) == pytest.approx(unit)
    assert order.file.read_bytes() == whole
    _forget_last(order.file)
    asyncio.run(value.measure_world(order, say=said.append))
    assert said[1:] == ["naive: 4 of 4 trajectories"]
    lines = [each for each in map(json.loads, order.file.read_text().splitlines()) if "settings" not in each]
    assert sum(each["own"] is None for each in lines) == 0
    summary = {"worlds": {"naive": value.summary(lines, unit=unit)}}
    (out / "value" / "small.json").write_text(json.dumps(value._finite(summary)))

    plan = figures.Plan(study=found, size="small", folder=tmp_path / "images")
    assert not any(figures.draw_all(plan).values())
    records = figures.first_records(run, num_updates=1)
    assert figures.teacher_entropies(run, records[:3])[2] == pytest.approx(
        _plain_entropies(records[2], models), abs=1e-3
    )
    page = results.markdown(results.make_tables(found), command="")
    assert "| SOD | 1 of 1 |" in page

    other = {**json.loads((run / "config.json").read_text()), "teacher": {"path": str(models / "knowing")}}
    (run / "config.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="was the teacher trained again"):
        figures.teacher_entropies(run, records)


def _forget_last(path: Path) -> None:
    """As a kill while the last trajectory was written would leave it: its last step is torn."""
    text = path.read_bytes()
    path.write_bytes(text[: len(text) - 20])


def _plain_entropies(record: Mapping[str, Any], models: Path) -> list[float]:
    """One forward of the whole sequence, the entropy of every distribution, means by step."""
    from sod.config import ModelConfig

    module = HFModel.load(ModelConfig(path=str(models / "naive"))).module
    with torch.no_grad():
        logits_TV = module(torch.tensor([record["token_ids"]])).logits[0].float()
    entropy_T = torch.distributions.Categorical(logits=logits_TV).entropy()
    step = torch.tensor(record["step"])
    return [float(entropy_T[(step == k).nonzero()[:, 0] - 1].mean()) for k in range(int(step.max()) + 1)]

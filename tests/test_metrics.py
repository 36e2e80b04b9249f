"""The numbers of an update, against numbers counted by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.algorithm import spread, step_divergence, step_weights
from sod.batch import collate
from sod.metrics import STATUS_SHARES, lost_metrics, signal_metrics, tool_seconds, trajectory_metrics
from sod.models.scripted import ScriptedScorer
from sod.rollouts import Harvest
from sod.sandbox import ExecutionResult
from sod.trackers.names import GROUPS, grouped
from sod.types import Score, StopReason, ToolCall, ToolResult, ToolStatus, Trajectory, Turn
from stage import ANSWER, STOP, WRONG, Stage, asking
from whole_runs import make_world, run

ERROR = ExecutionResult(status="error", stdout="", stderr="NameError: x", exit_code=1)


@pytest.fixture
def harvest(stage: Callable[..., Stage]) -> Harvest:
    """Four siblings: right after one call, wrong after an error, a malformed call then no answer, an empty result."""
    turns = {
        "1/0/p/0": [asking("6*7"), ANSWER],
        "1/0/p/1": [asking("x"), WRONG],
        "1/0/p/2": [f"<tool_call>no</tool_call>{STOP}", f"Well.{STOP}"],
        "1/0/p/3": [asking("y = 1"), asking("6*7"), ANSWER],
    }
    results = {"6*7": "42", "x": ERROR, "y = 1": ""}
    scene = stage(turns, lambda code: results[code], logprobs=-1.0, limits={"max_turns": 2})
    scorer = ScriptedScorer(lambda _, places: [-1.0 - 0.01 * (place % 7) for place in places])
    return asyncio.run(scene.collector(scorer, samples=4).collect(1))


def test_what_the_trajectories_did(harvest: Harvest) -> None:
    rollouts = harvest.rollouts
    metrics = trajectory_metrics([r.trajectory for r in rollouts], [r.score for r in rollouts])
    lengths = [len(rollout.trajectory.sampled_positions) for rollout in rollouts]
    expected = {
        "num_trajectories": 4,
        "reward": 0.25,
        "accuracy": 0.25,
        "answered": 0.75,
        "out_of_turns": 0.25,
        "out_of_tokens": 0.0,
        "malformed_call_limit": 0.0,
        "turns": 2.0,
        "num_calls": 4,  # the last turn's call of sample 3 was not run
        "tool_calls": 1.0,
        "failed_calls": 2,
        "ok_share": 0.5,
        "malformed_share": 0.25,
        "error_share": 0.25,
        "timeout_share": 0.0,
        "empty_share": 0.25,
        "failed_turns": 2,  # of samples 1 and 2, which answered and gave up
        "retried": 0,
        "sampled_tokens": sum(lengths) / 4,
    }
    assert {key: metrics[key] for key in expected} == pytest.approx(expected)
    assert metrics["response_tokens"] > metrics["sampled_tokens"]


def trajectory(statuses: Sequence[ToolStatus], *, stop_reason: StopReason = StopReason.ANSWERED) -> Trajectory:
    """One whose calls went so; the n-th ran n seconds and waited n / 10 before."""
    results = tuple(
        ToolResult(status=status, text="x", wall_s=float(number), queue_s=number / 10)
        for number, status in enumerate(statuses, start=1)
    )
    turn = Turn(text="t", start=1, end=2, results=results)
    return Trajectory(
        problem_id="p",
        sample=0,
        token_ids=(5, 6),
        num_prompt_tokens=1,
        step=(-1, 0),
        rollout_logprobs=(0.0, -1.0),
        turns=(turn,),
        stop_reason=stop_reason,
    )


def test_every_status_has_its_share_and_together_they_are_all_calls() -> None:
    """The n-th status happens n times."""
    told = [status for status in ToolStatus if status is not ToolStatus.INFRASTRUCTURE]
    assert set(STATUS_SHARES) == set(told)
    calls = [status for times, status in enumerate(told, start=1) for _ in range(times)]
    metrics = trajectory_metrics([trajectory(calls)], [Score(value=1.0, correct=True, reason="")])
    for times, status in enumerate(told, start=1):
        assert metrics[STATUS_SHARES[status]] == pytest.approx(times / len(calls))
    assert sum(metrics[name] for name in STATUS_SHARES.values()) == pytest.approx(1.0)
    assert metrics["failed_calls"] == len(calls) - calls.count(ToolStatus.OK)


OK, ERRED, NONE = (ToolStatus.OK,), (ToolStatus.OK, ToolStatus.ERROR), ()


def played(*turns: Sequence[ToolStatus], last_is_call: bool = False) -> Trajectory:
    """Turns whose calls ended so; one without results has no call, but for a last one that was not run."""
    made = []
    for number, statuses in enumerate(turns):
        is_call = bool(statuses) or (last_is_call and number == len(turns) - 1)
        calls = (ToolCall(name="f", arguments={}),) * (len(statuses) or is_call)
        results = tuple(ToolResult(status=status, text="x") for status in statuses)
        made.append(Turn(text="t", start=1, end=2, calls=calls, results=results))
    return dataclasses.replace(trajectory([]), turns=tuple(made))


@pytest.mark.parametrize(
    ("turns", "failed", "retried"),
    [
        ((ERRED, OK, NONE), 1, 1),
        ((ERRED, NONE), 1, 0),
        ((ERRED, ERRED, NONE), 2, 1),
        ((OK, OK, NONE), 0, 0),
        ((OK, ERRED), 0, 0),  # the episode ended there: nobody knows
        ((NONE,), 0, 0),
    ],
)
def test_what_follows_a_turn_whose_call_failed(
    turns: tuple[Sequence[ToolStatus], ...], failed: int, retried: int
) -> None:
    right = Score(value=1.0, correct=True, reason="")
    metrics = trajectory_metrics([played(*turns), played(ERRED, NONE, last_is_call=True)], [right, right])
    assert (metrics["failed_turns"], metrics["retried"]) == (failed + 1, retried + 1)


def test_any_status_but_ok_is_a_failure_to_recover_from() -> None:
    for status in set(ToolStatus) - {ToolStatus.OK, ToolStatus.INFRASTRUCTURE}:
        metrics = trajectory_metrics([played([status], OK, NONE)], [Score(value=1.0, correct=True, reason="")])
        assert (metrics["failed_turns"], metrics["retried"]) == (1, 1)


def test_what_the_world_spoiled() -> None:
    by_sandbox = trajectory([ToolStatus.OK, ToolStatus.INFRASTRUCTURE], stop_reason=StopReason.INFRASTRUCTURE)
    by_engine = trajectory([ToolStatus.OK], stop_reason=StopReason.INFRASTRUCTURE)
    assert lost_metrics([by_sandbox, by_engine], num_calls=7) == {
        "infrastructure_failures": 2,
        "lost_calls": 3,
        "infrastructure_share": 0.1,
    }
    assert set(lost_metrics([], num_calls=0).values()) == {0.0}


def test_seconds_of_the_calls_that_ran() -> None:
    calls = [ToolStatus.OK, ToolStatus.TIMEOUT, ToolStatus.ERROR, ToolStatus.MALFORMED_CALL]
    seconds = tool_seconds([trajectory(calls), trajectory([ToolStatus.OK])])
    assert seconds == pytest.approx({"run_s": 1.75, "run_max_s": 3.0, "queue_s": 0.175, "queue_max_s": 0.3})
    assert set(tool_seconds([trajectory([ToolStatus.MALFORMED_CALL])]).values()) == {0.0}


def test_no_calls_at_all_is_no_division_by_zero(stage: Callable[..., Stage]) -> None:
    (rollout,) = asyncio.run(stage([ANSWER]).collector(samples=1).collect(1)).rollouts
    metrics = trajectory_metrics([rollout.trajectory], [rollout.score])
    assert (metrics["tool_calls"], metrics["malformed_share"], metrics["reward"]) == (0.0, 0.0, 1.0)


def test_what_the_teacher_said(harvest: Harvest, stage: Callable[..., Stage]) -> None:
    batch = collate(harvest.rollouts, need_teacher=True)
    student = batch.rollout_logprobs_BT
    divergence = step_divergence(student, batch.teacher_logprobs_BT, batch.step_BT)
    weight = step_weights(divergence)
    controls = stage([]).agent.chat.control_token_ids
    correct = torch.tensor([rollout.score.correct for rollout in harvest.rollouts])
    metrics = signal_metrics(
        batch,
        student_logprobs_BT=student,
        divergence_BK=divergence,
        weight_BK=weight,
        term_BT=spread(weight, batch.step_BT) * (batch.teacher_logprobs_BT - student),
        correct_B=correct,
        control_token_ids=controls,
    )
    by_step: dict[tuple[int, int], list[float]] = {}
    ratios, control_ratios, terms = [], [], []
    for row, rollout in enumerate(harvest.rollouts):
        trajectory = rollout.trajectory
        for place in trajectory.sampled_positions:
            ratio = -0.01 * (place % 7)
            by_step.setdefault((row, trajectory.step[place]), []).append(abs(ratio))
            ratios.append(ratio)
            terms.append(abs(ratio) * weight[row, trajectory.step[place]].item())
            if trajectory.token_ids[place] in controls:
                control_ratios.append(ratio)
    means = {key: sum(values) / len(values) for key, values in by_step.items()}
    assert metrics["divergence"] == pytest.approx(sum(means.values()) / len(means), rel=1e-4)
    right = [value for (row, _), value in means.items() if correct[row]]
    wrong = [value for (row, _), value in means.items() if not correct[row]]
    assert metrics["divergence_correct"] == pytest.approx(sum(right) / len(right), rel=1e-4)
    assert metrics["divergence_wrong"] == pytest.approx(sum(wrong) / len(wrong), rel=1e-4)
    assert metrics["divergence_step_2"] == pytest.approx(sum(means[row, 1] for row in range(4)) / 4, rel=1e-4)
    assert metrics["log_ratio"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-4)
    assert metrics["log_ratio_min"] == pytest.approx(-0.06, rel=1e-4)
    assert metrics["log_ratio_control"] == pytest.approx(sum(control_ratios) / len(control_ratios), rel=1e-4)
    assert metrics["teacher_term"] == pytest.approx(sum(terms) / len(terms), rel=1e-4)
    assert metrics["weight_step_1"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_nothing_to_average_is_zero_and_not_nan(harvest: Harvest) -> None:
    """All trajectories right, and no control token anywhere."""
    batch = collate(harvest.rollouts[:1], need_teacher=True)
    batch = dataclasses.replace(batch, token_BT=torch.full_like(batch.token_BT, 300))
    divergence = step_divergence(batch.rollout_logprobs_BT, batch.teacher_logprobs_BT, batch.step_BT)
    metrics = signal_metrics(
        batch,
        student_logprobs_BT=batch.rollout_logprobs_BT,
        divergence_BK=divergence,
        weight_BK=step_weights(divergence),
        term_BT=torch.zeros_like(batch.rollout_logprobs_BT),
        correct_B=torch.tensor([True]),
        control_token_ids=[1, 2],
    )
    assert (metrics["divergence_wrong"], metrics["log_ratio_control"], metrics["log_ratio_control_min"]) == (0, 0, 0)


# ---- the table of all of them

SOMETIMES = {"unjudged", "teacher_loss", "gpu_gib", "host_gib", "straggler_s", "num_tokens", "elapsed_s"}
SOMETIMES |= {"agreement_after_failure", "agreement_elsewhere", "agreement_at_openings"}
"""With rubrics, divergences of distributions, a GPU, Linux, staleness, in a cold start; where enough calls failed."""
OF_EVAL = {"num_missing", "correct"}
"""Only `sod eval` tells them."""


def documented() -> dict[str, dict[str, str]]:
    """Group -> name -> unit of the table in docs/metrics.md; `a_1` ... `a_3` in a row stands for three."""
    table: dict[str, dict[str, str]] = {}
    for row in (Path(__file__).parents[1] / "docs" / "metrics.md").read_text(encoding="utf-8").splitlines():
        if not row.startswith("| `"):
            continue
        names, group, writer, unit, meaning = (cell.strip() for cell in row.strip("|").split(" | "))
        assert writer, row
        assert meaning, row
        listed = re.findall(r"`([^`]+)`", names)
        if "..." in names:
            stem, last = re.fullmatch(r"(.*_)(\d+)", listed[1]).groups()  # type: ignore[union-attr]
            listed = [f"{stem}{number}" for number in range(1, int(last) + 1)]
        table.setdefault(group, {}).update(dict.fromkeys(listed, unit))
    return table


def test_the_document_has_every_metric_with_its_group_and_unit() -> None:
    table = documented()
    assert set(table.pop("-")) == {"update", "evaluate_s", "tools", "by_samples", "tool_status", "stop_reasons"}
    assert table == {group: dict(names) for group, names in GROUPS.items()}


def test_a_real_run_tells_what_the_table_has(tmp_path: Path, tokenizer: Any, tiny_module: Callable[[int], Any]) -> None:
    """Nothing that it does not name, and nothing in it that nobody tells."""
    world = make_world(tmp_path, tokenizer, tiny_module)
    update = {"num_updates": 1, "prompts": 2, "samples": 3, "evaluate_every": 1}
    events = run(
        world.config(tmp_path / "run", update=update, evaluation={"path": str(world.problems)}, evaluation_samples=2)
    )
    (told,) = (values for event, values in events if event == "update")
    names = {name.partition("/")[2] for name in grouped(told) if not name.startswith("other/")}
    assert [name for name in grouped(told) if name.startswith("other/")] == []
    expected = {name for group, each in GROUPS.items() if group != "evaluation" for name in each}
    missing = {name for name in expected - names if not re.search(r"_step_[2-8]$", name)}
    assert missing <= SOMETIMES
    evaluations = [values for event, values in events if event == "evaluation"]
    assert len(evaluations) == 2
    others = {"update", "by_samples", "tool_status", "stop_reasons"}
    assert set(evaluations[0]) - others == set(GROUPS["evaluation"]) - OF_EVAL

"""Terms that training adds to a verdict: each by itself, off by default, and what is right never changes."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.config.episode import FAULT_DETAIL
from sod.rewards.math import MathReward
from sod.rewards.shaping import Shaped, Shaping, overlong
from sod.types import Problem, Score, StopReason, ToolResult, ToolStatus, Trajectory, Turn

RIGHT = Score(value=1.0, correct=True, reason="boxed 3 equals 3", answer="3")
WRONG = Score(value=0.0, correct=False, reason="boxed 4 is not 3", answer="4")
NOTHING = Score(value=0.0, correct=False, reason="no \\boxed answer in the final turn")
LIMIT = 100
ALL = Shaping(
    wrong=-1.0,
    no_answer=0.2,
    overlong_factor=1.0,
    overlong_buffer=20,
    failed_call=0.05,
    failed_call_limit=0.1,
    tool_bonus=0.15,
)


def trajectory(
    *statuses: ToolStatus, num_tokens: int = 10, text: str = "", stop_reason: StopReason = StopReason.ANSWERED
) -> Trajectory:
    results = tuple(ToolResult(status=status, text="") for status in statuses)
    turns = (Turn(text="", start=0, end=0, results=results), Turn(text=text, start=0, end=0))
    return Trajectory(
        problem_id="p",
        sample=0,
        token_ids=(0,) * (num_tokens + 3),
        num_prompt_tokens=3,
        step=(-1,) * (num_tokens + 3),
        rollout_logprobs=(0.0,) * (num_tokens + 3),
        turns=turns,
        stop_reason=stop_reason,
    )


def shaped(shaping: Shaping, score: Score, episode: Trajectory, **settings: Any) -> Score:
    return shaping.apply(score, episode, max_response_tokens=LIMIT, **settings)


FAILED = [ToolStatus.ERROR, ToolStatus.TIMEOUT, ToolStatus.MALFORMED_CALL, ToolStatus.OUTPUT_LIMIT]
SCORES = st.sampled_from([RIGHT, WRONG, NOTHING, replace(WRONG, value=0.5)])
EPISODES = st.builds(
    lambda statuses, num_tokens: trajectory(*statuses, num_tokens=num_tokens),
    st.lists(st.sampled_from(list(ToolStatus)), max_size=4),
    st.integers(0, 120),
)


@given(SCORES, EPISODES)
def test_all_terms_off_return_the_very_score(score: Score, episode: Trajectory) -> None:
    assert shaped(Shaping(), score, episode) is score


def test_the_terms_are_off_by_default_and_named_as_in_the_config() -> None:
    from sod.config import ShapingConfig

    assert {field.name for field in fields(Shaping)} == set(ShapingConfig.model_fields)
    assert Shaping(**ShapingConfig().model_dump()) == Shaping()


@pytest.mark.parametrize(
    ("shaping", "score", "value", "term"),
    [
        (Shaping(wrong=-1.0), WRONG, -1.0, "wrong -1"),
        (Shaping(wrong=-1.0), RIGHT, 1.0, ""),
        (Shaping(wrong=-1.0), replace(WRONG, value=0.75), 0.5, "wrong -0.25"),
        (Shaping(wrong=0.1), NOTHING, 0.1, "wrong +0.1"),
        (Shaping(no_answer=0.2), NOTHING, -0.2, "no answer -0.2"),
        (Shaping(no_answer=0.2), WRONG, 0.0, ""),
        (Shaping(no_answer=0.2), RIGHT, 1.0, ""),
        (Shaping(no_answer=0.2), replace(RIGHT, answer=None), 1.0, ""),
    ],
)
def test_terms_of_the_answer(shaping: Shaping, score: Score, value: float, term: str) -> None:
    result = shaped(shaping, score, trajectory())
    assert result.value == pytest.approx(value)
    assert result.reason == (f"{score.reason}; shaping: {term}" if term else score.reason)


@pytest.mark.parametrize(
    ("num_tokens", "value"), [(0, 0.0), (80, 0.0), (81, -0.05), (90, -0.5), (99, -0.95), (100, -1.0), (140, -1.0)]
)
def test_overlong_is_equation_13_of_dapo(num_tokens: int, value: float) -> None:
    assert overlong(num_tokens, limit=100, buffer=20) == pytest.approx(value)
    shaping = Shaping(overlong_factor=0.5, overlong_buffer=20)
    assert shaped(shaping, RIGHT, trajectory(num_tokens=num_tokens)).value == pytest.approx(1.0 + 0.5 * value)


@given(st.integers(0, 300), st.integers(1, 200), st.integers(0, 300))
def test_overlong_falls_and_stays_between_its_ends(num_tokens: int, limit: int, buffer: int) -> None:
    value = overlong(num_tokens, limit=limit, buffer=buffer)
    assert -1.0 <= overlong(num_tokens + 1, limit=limit, buffer=buffer) <= value <= 0.0
    assert (value == -1.0) is (num_tokens >= limit)
    assert value == 0.0 or num_tokens > min(limit - buffer, limit - 1)


@pytest.mark.parametrize(
    ("statuses", "value", "term"),
    [
        ([], 1.0, ""),
        ([ToolStatus.OK], 1.15, "tool bonus +0.15"),
        ([ToolStatus.OK, ToolStatus.OK], 1.15, "tool bonus +0.15"),
        ([ToolStatus.ERROR], 0.95, "failed calls -0.05"),
        (FAILED, 0.9, "failed calls -0.1"),
        ([ToolStatus.INFRASTRUCTURE], 1.0, ""),
        ([ToolStatus.ERROR, ToolStatus.OK], 1.1, "failed calls -0.05, tool bonus +0.15"),
    ],
)
def test_terms_of_the_tool(statuses: list[ToolStatus], value: float, term: str) -> None:
    shaping = Shaping(failed_call=0.05, tool_bonus=0.15)
    result = shaped(shaping, RIGHT, trajectory(*statuses))
    assert result.value == pytest.approx(value)
    assert result.reason.partition("; shaping: ")[2] == term
    assert shaped(Shaping(tool_bonus=0.15), WRONG, trajectory(*statuses)) is WRONG


def test_a_call_that_failed_on_purpose_is_not_the_students() -> None:
    own, drawn = trajectory(ToolStatus.ERROR), trajectory(ToolStatus.ERROR)
    results = (ToolResult(status=ToolStatus.ERROR, text="", detail=FAULT_DETAIL), *own.tool_results)
    drawn = replace(drawn, turns=(replace(drawn.turns[0], results=results), drawn.turns[1]))
    shaping = Shaping(failed_call=0.05)
    assert shaped(shaping, RIGHT, drawn) == shaped(shaping, RIGHT, own)
    only = replace(drawn, turns=(replace(drawn.turns[0], results=results[:1]), drawn.turns[1]))
    assert shaped(shaping, RIGHT, only) is RIGHT


@given(SCORES, EPISODES)
def test_terms_add_up_and_nothing_else_changes(score: Score, episode: Trajectory) -> None:
    result = shaped(ALL, score, episode)
    alone = [
        shaped(replace(Shaping(overlong_buffer=20), **{name: getattr(ALL, name)}), score, episode).value - score.value
        for name in ("wrong", "no_answer", "overlong_factor", "failed_call", "tool_bonus")
    ]
    assert result.value == pytest.approx(score.value + sum(alone))
    assert (result.correct, result.answer) == (score.correct, score.answer)
    assert result.reason.startswith(score.reason)
    assert result.reason.count("; shaping: ") == (result.value != score.value or any(alone))


def test_a_trajectory_that_the_world_failed_is_left_alone() -> None:
    episode = trajectory(ToolStatus.ERROR, num_tokens=200, stop_reason=StopReason.INFRASTRUCTURE)
    assert shaped(ALL, NOTHING, episode) is NOTHING


@pytest.mark.parametrize(
    "settings",
    [
        {"wrong": 1.0},
        {"wrong": float("nan")},
        {"no_answer": -0.1},
        {"overlong_factor": float("inf")},
        {"overlong_buffer": -1},
        {"failed_call": -1.0},
        {"tool_bonus": -0.1},
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Shaping(**settings)


class Fixed:
    """A reward that says what it was given."""

    def __init__(self, score: Score) -> None:
        self._score = score

    async def score(self, problem: Problem, trajectory: Trajectory) -> Score:
        del problem, trajectory
        return self._score


def test_shaped_knows_an_answer_in_code() -> None:
    """Code has no `Score.answer`; whether there was one is seen in the text."""
    reward = Shaped(Fixed(NOTHING), Shaping(no_answer=0.2), max_response_tokens=LIMIT)
    problem = Problem(id="p", messages=(), answer="", grader="code")
    block, open_block = "```python\nprint(3)\n```", "```python\nprint(3)"
    values = [
        asyncio.run(reward.score(asked, trajectory(text=text))).value
        for asked in (problem, replace(problem, grader="math"))
        for text in (block, open_block)
    ]
    assert values == [0.0, -0.2, -0.2, -0.2]


def test_shaped_around_a_real_reward() -> None:
    reward = Shaped(MathReward(), ALL, max_response_tokens=LIMIT)
    problem = Problem(id="p", messages=(), answer="3")
    episode = trajectory(ToolStatus.OK, ToolStatus.ERROR, num_tokens=90, text=r"\boxed{3}")
    score = asyncio.run(reward.score(problem, episode))
    assert (score.correct, score.answer, score.value) == (True, "3", pytest.approx(1.0 - 0.5 - 0.05 + 0.15))
    assert score.reason == "boxed 3 equals 3; shaping: overlong -0.5, failed calls -0.05, tool bonus +0.15"

"""A teacher's signal is checked before anything is learned from it."""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sod.errors import EngineError, ModelError, SignalError
from sod.models.scripted import ScriptedScorer
from sod.teachers import MIN_TOKENS_TO_JUDGE, Teacher, check_same_language, check_signal
from stage import ANSWER, Stage, asking

GOOD = [-0.1 * index for index in range(20)]


def check(values: Sequence[float], *, num_expected: int = 20) -> None:
    check_signal(values, num_expected=num_expected, vocabulary_size=640)


def test_a_models_log_probs_pass() -> None:
    check(GOOD)
    check([*GOOD[1:], 1e-6])  # rounding above 0
    check([-1e4, *GOOD[1:]])  # a token the teacher would never say is a signal


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GOOD[:-1], "one log-prob for each of 20 sampled tokens, got 19"),
        ([], "got 0"),
        ([*GOOD[1:], math.nan], "must be finite and at most 0, got nan"),
        ([*GOOD[1:], -math.inf], "got -inf"),
        ([*GOOD[1:], 0.3], "got 0.3 .1 of 20 such"),
        ([-math.log(640)] * 20, "a uniform guess"),
        ([-2.5] * 20, "the same, -2.5000"),
        ([0.0] * 20, "the same"),
    ],
)
def test_what_cannot_be_a_models_is_refused(values: list[float], message: str) -> None:
    with pytest.raises(SignalError, match=message):
        check(values)


def test_a_short_trajectory_can_be_constant_by_chance() -> None:
    few = MIN_TOKENS_TO_JUDGE - 1
    check([-2.5] * few, num_expected=few)
    check([], num_expected=0)


def test_a_teacher_scores_the_sampled_positions_at_its_temperature(stage: Callable[..., Stage]) -> None:
    trajectory = stage([asking(), ANSWER], ["42"]).play()
    scorer = ScriptedScorer(lambda _, places: [-place / 100 for place in places])
    scored = asyncio.run(Teacher(scorer=scorer, vocabulary_size=640, temperature=0.7).logprobs(trajectory))
    assert scored == tuple(-place / 100 for place in trajectory.sampled_positions)
    assert (scorer.calls[0].positions, scorer.calls[0].temperature) == (trajectory.sampled_positions, 0.7)
    assert scorer.calls[0].token_ids == trajectory.token_ids


def test_a_sleeping_teacher_is_found_on_the_first_trajectory(stage: Callable[..., Stage]) -> None:
    trajectory = stage([asking(), ANSWER], ["42"]).play()
    teacher = Teacher(scorer=ScriptedScorer(-math.log(640)), vocabulary_size=640)
    with pytest.raises(SignalError, match="uniform guess"):
        asyncio.run(teacher.logprobs(trajectory))


def test_a_teacher_that_fails_says_so(stage: Callable[..., Stage]) -> None:
    trajectory = stage([ANSWER]).play()
    teacher = Teacher(scorer=ScriptedScorer(lambda *_: [math.nan]), vocabulary_size=640)
    with pytest.raises(EngineError):
        asyncio.run(teacher.logprobs(trajectory))


def by_place(_token_ids: Sequence[int], places: Sequence[int]) -> list[float]:
    return [-place / 100 for place in places]


def _by_step(stage: Stage, scorer: ScriptedScorer) -> Any:
    """One update of one trajectory, its steps scored while its tools run."""
    teacher = Teacher(scorer=scorer, vocabulary_size=640, by_step=True)
    return asyncio.run(stage.collector(teacher=teacher, samples=1).collect(1))


def test_scoring_by_step_gives_what_scoring_the_whole_gives(stage: Callable[..., Stage]) -> None:
    scorer = ScriptedScorer(by_place)
    rollout = _by_step(stage([asking(), asking("1+1"), ANSWER], ["42", "2"]), scorer).rollouts[0]
    assert rollout.teacher_logprobs == tuple(-place / 100 for place in rollout.trajectory.sampled_positions)
    assert [len(call.positions) for call in scorer.calls] == [rollout.trajectory.step.count(step) for step in (0, 1, 2)]
    assert {call.trajectory_id for call in scorer.calls} == {"1/0/p/0"} == set(scorer.released)


def test_a_step_is_scored_while_its_tool_runs(stage: Callable[..., Stage]) -> None:
    scorer, seen = ScriptedScorer(by_place, latency_s=0.02), []

    def tool(_code: str) -> str:
        seen.append(len(scorer.calls))
        return "42"

    on_stage = stage([asking(), asking("1+1"), ANSWER], tool)
    run = on_stage.sandbox.run

    async def later(*args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.05)
        return await run(*args, **kwargs)

    on_stage.sandbox.run = later
    _by_step(on_stage, scorer)
    assert seen == [1, 2], "when a tool ends, its step must have been asked for"


def test_steps_of_a_trajectory_are_scored_one_after_the_other(stage: Callable[..., Stage]) -> None:
    """A later step continues the keys and values of the one before: asked for together, it would find none."""
    running, most = 0, 0

    class Counting(ScriptedScorer):
        async def score(self, *args: Any, **kwargs: Any) -> tuple[float, ...]:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await super().score(*args, **kwargs)
            finally:
                running -= 1

    scorer = Counting(by_place, latency_s=0.05)
    _by_step(stage([asking(), asking("1+1"), ANSWER], ["42", "2"]), scorer)
    assert (len(scorer.calls), most) == (3, 1)


def test_a_teacher_that_fails_at_a_step_loses_the_trajectory(stage: Callable[..., Stage]) -> None:
    scorer = ScriptedScorer(lambda ids, places: [math.nan] if len(scorer.calls) == 2 else by_place(ids, places))
    harvest = _by_step(stage([asking(), ANSWER], ["42"]), scorer)
    assert (len(harvest.rollouts), len(harvest.lost)) == (0, 1)
    assert "must return" in harvest.lost[0].detail
    assert scorer.released == ["1/0/p/0"]


def test_a_lost_trajectory_leaves_nothing_at_the_teacher(stage: Callable[..., Stage]) -> None:
    scorer = ScriptedScorer(by_place, latency_s=3.0)
    harvest = _by_step(stage({"1/0/p/0": [asking()]}, ["42"]), scorer)  # the script ends: an engine that fails
    assert len(harvest.lost) == 1
    assert scorer.released == ["1/0/p/0"]


def test_a_copy_of_the_tokenizer_speaks_the_same_language(tokenizer: Any) -> None:
    check_same_language(tokenizer, copy.deepcopy(tokenizer))


def _more_tokens(tokenizer: Any) -> None:
    tokenizer.add_tokens(["<|new|>"])


def _other_special(tokenizer: Any) -> None:
    tokenizer.eos_token = "<|endoftext|>"


def _other_template(tokenizer: Any) -> None:
    tokenizer.chat_template += "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_more_tokens, r"share one vocabulary, got 641 and 640 tokens that differ in 1 entries, the first '<\|new\|>'"),
        (_other_special, "share their special tokens"),
        (_other_template, "share one chat template"),
    ],
)
def test_another_language_is_refused_and_the_difference_named(
    tokenizer: Any, change: Callable[[Any], None], message: str
) -> None:
    other = copy.deepcopy(tokenizer)
    change(other)
    with pytest.raises(ModelError, match=message):
        check_same_language(tokenizer, other)


def test_the_same_tokens_under_other_numbers_are_another_vocabulary(tokenizer: Any) -> None:
    class Swapped:
        all_special_tokens = tokenizer.all_special_tokens
        chat_template = tokenizer.chat_template

        def get_vocab(self) -> dict[str, int]:
            vocabulary = dict(tokenizer.get_vocab())
            vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]
            return vocabulary

    with pytest.raises(ModelError, match="differ in 4 entries"):
        check_same_language(tokenizer, Swapped())

"""Lists become tensors at the right places, and micro-batches cover them once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sod.batch import Rollout, collate, microbatches
from sod.errors import SignalError
from sod.types import Score, StopReason, ToolResult, ToolStatus, Trajectory, Turn


def turns_of(steps: list[int], statuses: dict[int, list[ToolStatus]]) -> tuple[Turn, ...]:
    """A turn for every step, whose calls ended as said."""
    turns = []
    for number in range(max(steps) + 1):
        start, length = steps.index(number), steps.count(number)
        results = tuple(ToolResult(status=status, text="x") for status in statuses.get(number, ()))
        turns.append(Turn(text="t", start=start, end=start + length, results=results))
    return tuple(turns)


def rollout(
    steps: list[int],
    *,
    teacher: list[float] | None = None,
    reward: float = 1.0,
    group: int = 0,
    statuses: dict[int, list[ToolStatus]] | None = None,
) -> Rollout:
    """A trajectory whose token i is 10 + i and whose sampled tokens have log-prob -i. `statuses` are of calls, by
    step."""
    trajectory = Trajectory(
        problem_id=f"p{group}",
        sample=0,
        token_ids=tuple(range(10, 10 + len(steps))),
        num_prompt_tokens=1,
        step=tuple(steps),
        rollout_logprobs=tuple(-float(place) if step >= 0 else 0.0 for place, step in enumerate(steps)),
        turns=turns_of(steps, statuses or {}),
        stop_reason=StopReason.ANSWERED,
    )
    score = Score(value=reward, correct=reward > 0, reason="")
    scored = None if teacher is None else tuple(teacher)
    return Rollout(trajectory=trajectory, group=group, score=score, teacher_logprobs=scored)


LONG = rollout([-1, 0, 0, -1, 1], teacher=[-0.1, -0.2, -0.3], reward=0.5, group=3)
SHORT = rollout([-1, -1, 0], teacher=[-0.4], group=1)


def test_everything_stands_at_its_token() -> None:
    batch = collate([LONG, SHORT], need_teacher=True)
    assert batch.token_BT.tolist() == [[10, 11, 12, 13, 14], [10, 11, 12, 0, 0]]
    assert batch.step_BT.tolist() == [[-1, 0, 0, -1, 1], [-1, -1, 0, -1, -1]]
    assert batch.rollout_logprobs_BT.tolist() == [[0, -1, -2, 0, -4], [0, 0, -2, 0, 0]]
    assert batch.mask_BT.tolist() == [[False, True, True, False, True], [False, False, True, False, False]]
    nan = math.nan
    expected = torch.tensor([[nan, -0.1, -0.2, nan, -0.3], [nan, nan, -0.4, nan, nan]])
    assert torch.allclose(batch.teacher_logprobs_BT, expected, equal_nan=True)
    assert batch.reward_B.tolist() == [0.5, 1.0]
    assert batch.group_B.tolist() == [3, 1]
    assert batch.length_B.tolist() == [5, 3]
    assert batch.num_trajectories == 2


OK, ERROR = ToolStatus.OK, ToolStatus.ERROR


def test_a_step_failed_when_one_of_its_calls_did() -> None:
    """Whatever kept it from going well; and where there is no such step nothing failed."""
    long = rollout([-1, 0, -1, 1, -1, 2], statuses={0: [OK, ERROR], 1: [OK, OK]})
    assert collate([long, SHORT]).failed_BK.tolist() == [[True, False, False], [False, False, False]]
    for status in set(ToolStatus) - {OK}:
        assert collate([rollout([-1, 0, -1, 1], statuses={1: [status]})]).failed_BK.tolist() == [[False, True]]


def test_calls_are_marked_turn_by_turn() -> None:
    """The mask is asked of each turn's own tokens, and stands at their places; nobody who asks has none."""
    asked: list[tuple[int, ...]] = []

    def even(token_ids: Sequence[int]) -> list[bool]:
        asked.append(tuple(token_ids))
        return [token_id % 2 == 0 for token_id in token_ids]

    batch = collate([LONG, SHORT], call_mask=even)
    assert asked == [(11, 12), (14,), (12,)]
    assert batch.call_BT.tolist() == [[False, False, True, False, True], [False, False, True, False, False]]
    assert not collate([LONG, SHORT]).call_BT.any()


def test_rows_are_cut_to_the_longest_of_them() -> None:
    batch = collate([LONG, SHORT, LONG])
    short = batch.rows(torch.tensor([1]))
    assert short.token_BT.tolist() == [[10, 11, 12]]
    assert short.group_B.tolist() == [1]
    assert (batch.failed_BK.shape, short.failed_BK.shape) == ((3, 2), (1, 1))
    assert batch.rows(torch.tensor([2, 1])).step_BT.tolist() == [batch.step_BT[2].tolist(), batch.step_BT[1].tolist()]


def test_a_trajectory_without_the_teacher_is_named() -> None:
    bare = rollout([-1, 0], group=7)
    with pytest.raises(SignalError, match=r"got 1 of 2 without .the first of problem p7"):
        collate([LONG, bare], need_teacher=True)
    assert collate([LONG, bare]).teacher_logprobs_BT[1].isnan().all()


def test_teacher_log_probs_of_the_wrong_number_are_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="zip"):
        collate([rollout([-1, 0, 0], teacher=[-0.1])])


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 120))
def test_micro_batches_cover_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    parts = [part.tolist() for part in microbatches(torch.tensor(lengths), max_tokens=budget)]
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    for part in parts:
        assert sum(lengths[row] for row in part) <= budget or len(part) == 1
    ordered = [lengths[row] for part in parts for row in part]
    assert ordered == sorted(ordered), "rows of like length must stand together"


def test_micro_batches_by_hand() -> None:
    parts = microbatches(torch.tensor([5, 2, 4]), max_tokens=8)
    assert [part.tolist() for part in parts] == [[1, 2], [0]]


def test_siblings_share_a_micro_batch() -> None:
    parts = microbatches(torch.tensor([5, 2, 4, 3]), max_tokens=8, group_B=torch.tensor([1, 0, 0, 1]))
    assert [part.tolist() for part in parts] == [[1, 2], [3, 0]]

"""Trajectories + scores + teacher log-probs -> tensors: the one place where lists become tensors.

Shapes: B trajectory, T token, K step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from torch import Tensor

from sod.errors import SignalError
from sod.models.grouping import token_runs
from sod.types import Score, Trajectory

CallMask: TypeAlias = Callable[[Sequence[int]], Sequence[bool]]
"""A turn's tokens -> whether each is inside a tool call."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One finished trajectory with what was said about it. `group` numbers its problem within the update."""

    trajectory: Trajectory
    group: int
    score: Score
    teacher_logprobs: tuple[float, ...] | None = None
    teacher_entropies: tuple[float, ...] | None = None
    """In nats, of the teacher's distributions at the same tokens; None where its engine does not have them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Right-padded trajectories. Every tensor has one row per trajectory."""

    token_BT: Tensor
    """int64; prompt, sampled tokens and observations; padding is 0."""
    step_BT: Tensor
    """int64; -1 where the student did not sample the token, padding included."""
    rollout_logprobs_BT: Tensor
    """float32; under the engine that sampled; 0 outside steps."""
    teacher_logprobs_BT: Tensor
    """float32; under the teacher; NaN where it did not score, so that a use of it cannot go unnoticed."""
    reward_B: Tensor
    """float32."""
    failed_BK: Tensor
    """bool; True where a call of the step failed by the student's or the tool's doing."""
    call_BT: Tensor
    """bool; True inside a tool call; all False where nobody asked."""
    group_B: Tensor
    """int64."""
    length_B: Tensor
    """int64; tokens without padding."""

    @property
    def mask_BT(self) -> Tensor:
        """True where the student sampled the token."""
        return self.step_BT >= 0

    @property
    def num_trajectories(self) -> int:
        """B."""
        return self.token_BT.shape[0]

    def rows(self, index: Tensor) -> Batch:
        """The given trajectories, cut to the tokens and steps of the longest of them."""
        cut = {"BT": int(self.length_B[index].max()), "BK": int(self.step_BT[index].max()) + 1}
        return Batch(
            **{
                name: tensor[index, : cut[name[-2:]]] if name[-2:] in cut else tensor[index]
                for name, tensor in self._tensors().items()
            }
        )

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def collate(rollouts: Sequence[Rollout], *, need_teacher: bool = False, call_mask: CallMask | None = None) -> Batch:
    """Lists -> tensors. `call_mask` tells which of a turn's tokens are tool calls (`Chat.call_mask`).

    Raises SignalError when `need_teacher` and a trajectory has no teacher log-probs: training would silently be GRPO.
    """
    assert rollouts, "an empty update has no batch"
    if need_teacher:
        _require_teacher(rollouts)
    trajectories = [rollout.trajectory for rollout in rollouts]
    longest = max(len(trajectory.token_ids) for trajectory in trajectories)
    teacher = [_spread_teacher(rollout) for rollout in rollouts]
    return Batch(
        token_BT=pad([trajectory.token_ids for trajectory in trajectories], longest, 0, torch.int64),
        step_BT=pad([trajectory.step for trajectory in trajectories], longest, -1, torch.int64),
        rollout_logprobs_BT=pad([t.rollout_logprobs for t in trajectories], longest, 0.0, torch.float32),
        teacher_logprobs_BT=pad(teacher, longest, float("nan"), torch.float32),
        failed_BK=pad(
            [[turn.failed for turn in t.turns] for t in trajectories],
            max(t.num_steps for t in trajectories),
            False,
            torch.bool,
        ),
        call_BT=pad([_in_calls(t, call_mask) for t in trajectories], longest, False, torch.bool),
        reward_B=torch.tensor([rollout.score.value for rollout in rollouts], dtype=torch.float32),
        group_B=torch.tensor([rollout.group for rollout in rollouts]),
        length_B=torch.tensor([len(trajectory.token_ids) for trajectory in trajectories]),
    )


def microbatches(length_B: Tensor, *, max_tokens: int, group_B: Tensor | None = None) -> Iterator[Tensor]:
    """Row indices in parts of at most `max_tokens` tokens, padding not counted; rows of like length stand together.

    `lengths [5 2 4], max_tokens 8 -> [1 2] [0]`. A row longer than `max_tokens` stands alone. With `group_B` siblings
    stand together, whose prompt is then read once; it counts for each all the same.
    """
    order = torch.argsort(length_B, stable=True)
    if group_B is not None:
        order = order[torch.argsort(group_B[order], stable=True)]
    for run in token_runs(length_B[order].tolist(), max_tokens=max_tokens):
        yield order[run.start : run.stop]


def _in_calls(trajectory: Trajectory, call_mask: CallMask | None) -> list[bool]:
    """By token: whether it is inside a tool call."""
    inside = [False] * len(trajectory.token_ids)
    if call_mask is None:
        return inside
    for turn in trajectory.turns:
        inside[turn.start : turn.end] = call_mask(trajectory.token_ids[turn.start : turn.end])
    return inside


def _require_teacher(rollouts: Sequence[Rollout]) -> None:
    missing = [rollout.trajectory.problem_id for rollout in rollouts if rollout.teacher_logprobs is None]
    if missing:
        raise SignalError(
            f"every trajectory must carry teacher log-probs, got {len(missing)} of {len(rollouts)} without (the first "
            f"of problem {missing[0]}); without them this would be plain GRPO"
        )


def _spread_teacher(rollout: Rollout) -> list[float]:
    """Teacher log-probs put at their tokens' places, NaN elsewhere."""
    values = [float("nan")] * len(rollout.trajectory.token_ids)
    if rollout.teacher_logprobs is not None:
        for position, logprob in zip(rollout.trajectory.sampled_positions, rollout.teacher_logprobs, strict=True):
            values[position] = logprob
    return values


def pad(rows: Sequence[Sequence[float]], longest: int, padding: float, dtype: torch.dtype) -> Tensor:
    """Rows of numbers as one (B, longest) tensor, filled up on the right."""
    padded = torch.full((len(rows), longest), padding, dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = torch.tensor(row, dtype=dtype)
    return padded

"""Steps of a trajectory: numbering them, averaging over them, spreading a value back onto their tokens.

Shapes: B trajectory, T token, K step, N packed token.
"""

from __future__ import annotations

import torch
from torch import Tensor


def number_steps(mask_BT: Tensor, *, trajectory_N: Tensor | None = None) -> Tensor:
    """Step id of every token: each run of ones in the mask is one step.

    `mask [0 1 1 0 1] -> step [-1 0 0 -1 1]`

    Args:
        mask_BT: 1 (or True) where the student sampled the token; (B,T), or (N,) with `trajectory_N`.
        trajectory_N: for packed tokens, the trajectory of each; a trajectory's tokens are contiguous. Numbering starts
            anew, and a run ends, at each border.

    Returns:
        int64 of the mask's shape, -1 outside steps.
    """
    sampled = mask_BT.bool()
    start = sampled.clone()
    start[..., 1:] &= ~sampled[..., :-1]
    if trajectory_N is None:
        return torch.where(sampled, start.cumsum(-1) - 1, -1)
    border = torch.ones_like(sampled)
    border[1:] = trajectory_N[1:] != trajectory_N[:-1]
    start |= sampled & border
    count = start.cumsum(0)
    # Runs before each trajectory's first token, carried along it: counts only grow, so a running maximum does it.
    before = torch.where(border, count - start.long(), 0).cummax(0).values
    return torch.where(sampled, count - before - 1, -1)


def step_divergence(
    student_logprobs_BT: Tensor,
    teacher_logprobs_BT: Tensor,
    step_BT: Tensor,
    *,
    num_steps: int | None = None,
    trajectory_N: Tensor | None = None,
    num_trajectories: int | None = None,
) -> Tensor:
    """d_k: mean |log p_student - log p_teacher| over the tokens of step k (eq 6).

    `gaps [.1 .3 | .4], step [0 0 1] -> [.2 .4]`. Tokens outside steps never count, whatever stands there (NaN too).

    Args:
        student_logprobs_BT: log-probs of the sampled tokens before the update; (B,T), or (N,) with `trajectory_N`.
        teacher_logprobs_BT: the teacher's, of the same tokens.
        step_BT: step ids, -1 outside steps.
        num_steps: K; counted when not given, which waits for the device.
        trajectory_N, num_trajectories: for packed tokens; the number is counted when not given.

    Returns:
        (B,K) in nats, NaN where a trajectory has no such step. Sums are kept in float64, so that steps of 20k tokens
        do not drift.
    """
    gap_BT = torch.where(step_BT >= 0, (student_logprobs_BT - teacher_logprobs_BT).abs(), 0.0)
    return step_means(
        gap_BT, step_BT, num_steps=num_steps, trajectory_N=trajectory_N, num_trajectories=num_trajectories
    )


def step_means(
    value_BT: Tensor,
    step_BT: Tensor,
    *,
    num_steps: int | None = None,
    trajectory_N: Tensor | None = None,
    num_trajectories: int | None = None,
) -> Tensor:
    """Mean of a value over the tokens of each step: (B,K), NaN where there is no such step. Arguments as above."""
    if num_steps is None:
        num_steps = int(step_BT.max()) + 1 if step_BT.numel() else 0
    if trajectory_N is not None and num_trajectories is None:
        num_trajectories = int(trajectory_N.max()) + 1 if trajectory_N.numel() else 0
    num_rows = step_BT.shape[0] if num_trajectories is None else num_trajectories
    # One more column takes the tokens outside steps, so that no boolean indexing (a device wait) is needed.
    column_BT = torch.where(step_BT >= 0, step_BT, num_steps)
    shape = (num_rows, num_steps + 1)
    dtype = torch.promote_types(value_BT.dtype, torch.float64)
    total = _add_up(value_BT.to(dtype), column_BT, trajectory_N, shape)
    count = _add_up(torch.ones_like(value_BT, dtype=torch.float32), column_BT, trajectory_N, shape)
    return (total / count)[:, :num_steps].to(value_BT.dtype)


def openings(step_BT: Tensor) -> Tensor:
    """Step ids of the first token of each step, -1 elsewhere. `step [-1 0 0 -1 1 1 1] -> [-1 0 -1 -1 1 -1 -1]`."""
    before_BT = torch.nn.functional.pad(step_BT[..., :-1], (1, 0), value=-1)
    return torch.where(step_BT != before_BT, step_BT, -1)


def _add_up(value: Tensor, column: Tensor, trajectory_N: Tensor | None, shape: tuple[int, int]) -> Tensor:
    zeros = torch.zeros(shape, dtype=value.dtype, device=value.device)
    if trajectory_N is None:
        return zeros.scatter_add(1, column, value)
    return zeros.view(-1).scatter_add(0, trajectory_N * shape[1] + column, value).view(shape)


def spread(value_BK: Tensor, step_BT: Tensor, *, trajectory_N: Tensor | None = None) -> Tensor:
    """Put a step's value on each of its tokens; 0 outside steps.

    `value [.5 .9], step [-1 0 0 -1 1] -> [0 .5 .5 0 .9]`
    """
    if value_BK.shape[1] == 0:
        return torch.zeros(step_BT.shape, dtype=value_BK.dtype, device=value_BK.device)
    column = step_BT.clamp(min=0)
    value = value_BK.gather(1, column) if trajectory_N is None else value_BK[trajectory_N, column]
    return torch.where(step_BT >= 0, value, 0.0)


def trajectory_sums(value_BT: Tensor, *, trajectory_N: Tensor | None = None) -> Tensor:
    """Put the sum over a trajectory on each of its tokens. `value [1 2 | 5] -> [3 3 | 5]`"""
    if trajectory_N is None:
        return value_BT.sum(-1, keepdim=True).expand_as(value_BT)
    num_trajectories = int(trajectory_N.max()) + 1 if trajectory_N.numel() else 0
    total_B = value_BT.new_zeros(num_trajectories).index_add(0, trajectory_N, value_BT)
    return total_B[trajectory_N]

"""Advantages: the outcome's within a group, and the teacher's on every sampled token.

Shapes: B trajectory, T token, K step, N packed token, P problem.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sod.algorithm.steps import spread, step_divergence
from sod.algorithm.weights import step_weights


def group_advantages(reward_B: Tensor, group_B: Tensor, *, epsilon: float = 1e-6, divide_by_std: bool = True) -> Tensor:
    """A_i = (r_i - mean of the group) / (std of the group + epsilon) (eq 2).

    The standard deviation is the unbiased one; a group of one has mean 0 and standard deviation 1, as in the released
    code. `reward [1 0 | 1], group [7 7 9] -> [.707 -.707 | 1]`

    Args:
        reward_B: rewards of trajectories.
        group_B: group ids, any integers, in any order.
        divide_by_std: False leaves out the division.
    """
    _, group_B = torch.unique(group_B, return_inverse=True)
    num_groups = group_B.max() + 1 if group_B.numel() else 0
    reward = reward_B.double()
    zeros_P = torch.zeros(int(num_groups), dtype=torch.float64, device=reward_B.device)
    count_P = zeros_P.scatter_add(0, group_B, torch.ones_like(reward))
    mean_P = zeros_P.scatter_add(0, group_B, reward) / count_P
    deviation = reward - mean_P[group_B]
    variance_P = zeros_P.scatter_add(0, group_B, deviation.square()) / (count_P - 1)
    single_B = (count_P == 1)[group_B]
    advantage_B = torch.where(single_B, reward, deviation)
    if divide_by_std:
        std_B = torch.where(single_B, 1.0, variance_P.sqrt()[group_B])
        advantage_B = advantage_B / (std_B + epsilon)
    return advantage_B.to(reward_B.dtype)


def distilled_advantages(
    advantage_B: Tensor,
    student_logprobs_BT: Tensor,
    teacher_logprobs_BT: Tensor,
    step_BT: Tensor,
    *,
    coef: float = 1.0,
    delta: float = 0.2,
    epsilon: float = 1e-6,
    weight_BK: Tensor | None = None,
    weight_BT: Tensor | None = None,
    log_ratio_BT: Tensor | None = None,
    trajectory_N: Tensor | None = None,
) -> Tensor:
    """A_t = A + coef * w_k * (log p_teacher - log p_student) on the tokens of step k; 0 outside steps (eq 9, 10).

    Args:
        advantage_B: the outcome's advantage of each trajectory (zeros for pure distillation).
        student_logprobs_BT: before the update; (B,T), or (N,) with `trajectory_N`.
        teacher_logprobs_BT: of the same tokens.
        step_BT: step ids, -1 outside steps.
        coef: factor of the teacher's term; 0 leaves GRPO.
        delta, epsilon: of `step_weights`.
        weight_BK: other weights of steps than the published ones (ones for OPD).
        weight_BT: weights of tokens, instead.
        log_ratio_BT: what stands in the place of log p_teacher - log p_student (`bounded_log_ratios`).

    Returns:
        The advantages, detached, of the shape of `step_BT`.
    """
    with torch.no_grad():
        num_rows = advantage_B.shape[0]
        if weight_BK is None and weight_BT is None:
            divergence_BK = step_divergence(
                student_logprobs_BT,
                teacher_logprobs_BT,
                step_BT,
                trajectory_N=trajectory_N,
                num_trajectories=None if trajectory_N is None else num_rows,
            )
            weight_BK = step_weights(divergence_BK, delta=delta, epsilon=epsilon)
        outcome_BT = advantage_B[:, None] if trajectory_N is None else advantage_B[trajectory_N]
        if weight_BK is not None:
            weight_BT = spread(weight_BK, step_BT, trajectory_N=trajectory_N)
        assert weight_BT is not None
        if log_ratio_BT is None:
            log_ratio_BT = teacher_logprobs_BT - student_logprobs_BT
        return torch.where(step_BT >= 0, outcome_BT + coef * weight_BT * log_ratio_BT, 0.0)


def bounded_log_ratios(
    log_ratio_BT: Tensor,
    *,
    floor: float | None = None,
    ceiling: float | None = None,
    region: float | None = None,
    outside: Literal["mask", "clip"] = "mask",
) -> Tensor:
    """log p_teacher - log p_student, kept from being as large as one token can make it.

    A token with p_teacher = 1e-8 weighs 18 where the outcome weighs about 1. `log-ratios [-18 .5], floor -2 -> [-2 .5]`
    (REOPOLD); `region 1 -> [0 .5]`, and with outside = "clip" `[-1 .5]` (TrOPD without its forward KL).

    Args:
        log_ratio_BT: in nats.
        floor, ceiling: smallest and largest value; None is off.
        region: what is larger in size than this lies outside the trust region; None is off.
        outside: "mask" makes it 0, "clip" cuts it to the border.
    """
    log_ratio_BT = log_ratio_BT.clamp(min=floor, max=ceiling) if (floor, ceiling) != (None, None) else log_ratio_BT
    if region is None:
        return log_ratio_BT
    if outside == "clip":
        return log_ratio_BT.clamp(-region, region)
    return torch.where(log_ratio_BT.abs() <= region, log_ratio_BT, 0.0)

"""Truncated importance weights: what was sampled by other log-probs than those that are trained.

Shapes: B trajectory, T token, N packed token.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from sod.algorithm.losses import MAX_LOG_RATIO
from sod.algorithm.steps import trajectory_sums


def importance_weights(
    student_logprobs_BT: Tensor,
    rollout_logprobs_BT: Tensor,
    mask_BT: Tensor,
    *,
    level: Literal["token", "sequence"],
    cap: float = 2.0,
    mask_above: bool = False,
    trajectory_N: Tensor | None = None,
) -> Tensor:
    """w_t = min(p_student / p_rollout, cap) by token, or w = min(product over the trajectory's tokens, cap).

    An engine rounds otherwise than the trainer, and with staleness it samples from older weights; the expectation over
    its samples is put right by the ratio, which is cut so that its variance stays bounded (Ionides 2008).
    `p_student / p_rollout [1.5 4], cap 2 -> [1.5 2]`, with `mask_above` [1.5 0].

    Args:
        student_logprobs_BT: of the model that is trained, before the update.
        rollout_logprobs_BT: of the engine that sampled.
        mask_BT: 1 where the student sampled the token.
        level: "token", or "sequence": one weight for all tokens of a trajectory.
        cap: at least 1.
        mask_above: weights above the cap become 0 instead of the cap.
        trajectory_N: for packed tokens under "sequence".

    Returns:
        Of the shape of `mask_BT`, detached; 0 outside the mask.
    """
    with torch.no_grad():
        mask = mask_BT.bool()
        log_ratio_BT = torch.where(mask, student_logprobs_BT - rollout_logprobs_BT, 0.0)
        if level == "sequence":
            log_ratio_BT = trajectory_sums(log_ratio_BT, trajectory_N=trajectory_N)
        weight_BT = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        above = weight_BT > cap
        weight_BT = torch.where(above, 0.0 if mask_above else cap, weight_BT)
        return torch.where(mask, weight_BT, 0.0)

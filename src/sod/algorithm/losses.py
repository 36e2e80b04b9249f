"""The clipped policy loss. Shapes: B trajectory, T token, N packed token."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut at this size before exp, so that one broken token cannot make the loss infinite."""


class LossResult(NamedTuple):
    """A loss and what was clipped, all reduced alike: results of micro-batches with one denominator add up."""

    loss: Tensor
    """The loss to minimise."""
    clip_fraction: Tensor
    """Share of tokens whose ratio was clipped."""
    dual_clip_fraction: Tensor
    """Share of tokens with a negative advantage that met the dual clip."""
    approx_kl: Tensor
    """Mean of old minus new log-prob, in nats."""


def policy_loss(
    logprobs_BT: Tensor,
    rollout_logprobs_BT: Tensor,
    advantage_BT: Tensor,
    mask_BT: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    clip_dual: float = 3.0,
    reduction: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: float | Tensor | None = None,
    trajectory_N: Tensor | None = None,
    importance_BT: Tensor | None = None,
) -> LossResult:
    """PPO's clipped loss with a higher upper clip and a dual clip.

    With r = exp(new - old): max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), and for A < 0 at most -A clip_dual.

    Args:
        logprobs_BT: log-probs under the model that is trained; gradients flow through these alone.
        rollout_logprobs_BT: log-probs that the ratio is against (before the update).
        advantage_BT: per token.
        mask_BT: 1 where the student sampled the token.
        clip_dual: above 1 + clip_high; 0 is off.
        reduction: "token-mean" over all tokens, "sequence-mean" over trajectories of their token means.
        denominator: what the sum is divided by: tokens or trajectories of the *whole* optimizer step, when this call
            sees a part of it. Counted from the mask when not given.
        trajectory_N: for packed tokens under "sequence-mean".
        importance_BT: factor of each token's loss (`importance_weights`); none is 1.
    """
    mask = mask_BT.bool()
    log_ratio = torch.where(mask, logprobs_BT - rollout_logprobs_BT, 0.0)
    advantage = torch.where(mask, advantage_BT, 0.0)
    ratio = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    plain = -advantage * ratio
    bounded = -advantage * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    clipped = torch.maximum(plain, bounded)
    loss, met_dual = clipped, torch.zeros_like(mask)
    if clip_dual > 0.0:
        ceiling = -advantage * clip_dual
        met_dual = (advantage < 0.0) & (clipped > ceiling)
        loss = torch.where(advantage < 0.0, torch.minimum(clipped, ceiling), clipped)
    if importance_BT is not None:
        loss = loss * importance_BT
    weight = token_shares(mask, reduction=reduction, denominator=denominator, trajectory_N=trajectory_N)
    return LossResult(
        loss=(loss * weight).sum(),
        clip_fraction=((bounded > plain) * weight).sum().detach(),
        dual_clip_fraction=(met_dual * weight).sum().detach(),
        approx_kl=-(log_ratio * weight).sum().detach(),
    )


def token_shares(
    mask: Tensor,
    *,
    reduction: Literal["token-mean", "sequence-mean"] = "token-mean",
    denominator: float | Tensor | None = None,
    trajectory_N: Tensor | None = None,
) -> Tensor:
    """What each token counts for in a loss; shares sum to 1 over the optimizer step. Arguments as of `policy_loss`.

    `mask [1 0 1 1] -> [1/3 0 1/3 1/3]` under "token-mean".
    """
    if reduction == "token-mean":
        total = mask.sum().clamp(min=1) if denominator is None else denominator
        return mask / total
    if reduction != "sequence-mean":
        raise ValueError(f'reduction must be "token-mean" or "sequence-mean", got {reduction!r}')
    if trajectory_N is None:
        length = mask.sum(-1, keepdim=True)
        num_trajectories = (length > 0).sum().clamp(min=1) if denominator is None else denominator
        return mask / length.clamp(min=1) / num_trajectories
    count = torch.bincount(trajectory_N[mask])
    num_trajectories = (count > 0).sum().clamp(min=1) if denominator is None else denominator
    length = torch.nn.functional.pad(count, (0, 1)).clamp(min=1)
    return mask / length[trajectory_N.clamp(max=count.shape[0])] / num_trajectories

"""How far the teacher is trusted: at each step (B,K), or at each token (B,T).

`step_weights` is the paper's rule; the others are its ablations and rivals. All return weights that are NaN where there
is no such step, or 0 outside steps, and are to be multiplied by the log-ratio.

Shapes: B trajectory, T token, K step, N packed token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sod.algorithm.steps import spread, trajectory_sums


def step_weights(
    divergence_BK: Tensor,
    *,
    delta: float | None = 0.2,
    epsilon: float = 1e-6,
    anchor_B: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """w_k = min((d_1 + epsilon) / (d_k + epsilon), 1 + delta), so w_1 = 1 (eq 7).

    The paper writes a product of ratios of neighbouring steps; it telescopes to this, and the cap is put on the result.
    `divergence [.2 .4 .1], delta .2 -> [1 .5 1.2]`. NaN (no such step) stays NaN.

    Args:
        divergence_BK: d_k in nats.
        delta: a weight is at most 1 + delta; None is no cap.
        epsilon: in nats. Far below the scale of d the weight is a cliff, near it a slope.
        anchor_B: what stands in the place of d_1, in nats (`median_anchor`).
        floor: a weight is at least this.
    """
    anchor_BK = divergence_BK[:, :1] if anchor_B is None else anchor_B[:, None]
    weight_BK = ((anchor_BK + epsilon) / (divergence_BK + epsilon)).clamp(min=floor)
    return _capped(weight_BK, delta)


def median_anchor(divergence_BK: Tensor) -> Tensor:
    """The median first step's divergence, for every trajectory: one that began badly is not the measure of its end.

    `d_1 [.01 .02 .9] -> [.02 .02 .02]`. Trajectories without a step do not count.
    """
    first_B = divergence_BK[:, 0]
    return first_B.nanmedian().expand_as(first_B)


def uniform_weights(divergence_BK: Tensor) -> Tensor:
    """1 at every step: plain OPD. `d [.2 .4 NaN] -> [1 1 NaN]`."""
    return torch.where(divergence_BK.isnan(), divergence_BK, 1.0)


def decayed_weights(failed_BK: Tensor, divergence_BK: Tensor, *, decay: float = 0.9) -> Tensor:
    """decay^(k - e) from the first step e on that failed, 1 before it. `failed [0 1 0 0] -> [1 1 .9 .81]`.

    A decay of 0 masks all that comes after the first error: `[1 1 0 0]`.

    Args:
        failed_BK: True where a call of the step failed.
        divergence_BK: tells which steps there are.
    """
    since_BK = (failed_BK.cumsum(1) > 0).cumsum(1)  # 1 at the first failed step, then 2, 3, ...
    age_BK = (since_BK - 1).clamp(min=0)
    weight_BK = torch.full_like(divergence_BK, decay).pow(age_BK)
    return torch.where(divergence_BK.isnan(), divergence_BK, weight_BK)


def threshold_weights(divergence_BK: Tensor, *, threshold: float) -> Tensor:
    """1 where d_k is at most the threshold (nats), else 0. `d [.1 .6], threshold .5 -> [1 0]`."""
    weight_BK = (divergence_BK <= threshold).to(divergence_BK.dtype)
    return torch.where(divergence_BK.isnan(), divergence_BK, weight_BK)


def shuffled_weights(weight_BK: Tensor, *, seed: int) -> Tensor:
    """The same weights dealt out at random over the steps after the first: as large by step, but they know nothing.

    `[[1 .2 .9]] -> [[1 .9 .2]]` for some seeds. First steps keep theirs, which is 1 by eq 7.
    """
    later_BK = ~weight_BK.isnan()
    later_BK[:, 0] = False
    dealt = weight_BK.clone()
    values = weight_BK[later_BK]
    order = torch.randperm(values.numel(), generator=torch.Generator().manual_seed(seed))
    dealt[later_BK] = values[order.to(values.device)]
    return dealt


def token_weights(
    gap_BT: Tensor,
    divergence_BK: Tensor,
    step_BT: Tensor,
    *,
    delta: float | None = 0.2,
    epsilon: float = 1e-6,
    trajectory_N: Tensor | None = None,
) -> Tensor:
    """Eq 7 with each token's own gap in the place of d_k: min((d_1 + epsilon) / (gap_t + epsilon), 1 + delta).

    `d_1 .2, gaps [.1 .4] -> [1.2 .5]`; (B,T), 0 outside steps.
    """
    first_BT = spread(divergence_BK[:, :1].expand_as(divergence_BK), step_BT, trajectory_N=trajectory_N)
    weight_BT = _capped((first_BT + epsilon) / (gap_BT + epsilon), delta)
    return torch.where(step_BT >= 0, weight_BT, 0.0)


def prefix_weights(
    gap_BT: Tensor, step_BT: Tensor, *, gamma: float = 1.0, trajectory_N: Tensor | None = None
) -> Tensor:
    """IW-OPD: 1 + gamma (1 - sum of the gaps before t / sum of all gaps): less, the more was already off.

    `gaps [.1 .3 0], gamma 1 -> [2 1.75 1]`; (B,T), 0 outside steps. A trajectory without any gap has 1 + gamma.
    """
    inside_BT = step_BT >= 0
    gap_BT = torch.where(inside_BT, gap_BT, 0.0)
    total_BT = trajectory_sums(gap_BT, trajectory_N=trajectory_N)
    before_BT = gap_BT.cumsum(-1) - gap_BT
    if trajectory_N is not None:  # a cumulative sum over packed tokens runs on: take off what stood before the border
        start = torch.ones_like(inside_BT)
        start[1:] = trajectory_N[1:] != trajectory_N[:-1]
        before_BT = before_BT - torch.where(start, before_BT, 0.0).cummax(0).values
    share_BT = before_BT / total_BT.clamp(min=torch.finfo(gap_BT.dtype).tiny)
    return torch.where(inside_BT, 1.0 + gamma * (1.0 - share_BT), 0.0)


def first_steps(weight_BT: Tensor, step_BT: Tensor, *, num_steps: int) -> Tensor:
    """TCOD: the teacher speaks at the first `num_steps` steps only. `step [0 1 2], num_steps 2 -> keeps [1 1 0]`."""
    return torch.where(step_BT < num_steps, weight_BT, 0.0)


def outcome_weights(
    divergence_BK: Tensor, reward_B: Tensor, *, num_bins: int = 8, delta: float | None = 0.2, prior: float = 4.0
) -> Tensor:
    """Trust by experience: how well trajectories ended that have a step of such a divergence, against all steps.

    The update's steps are cut into bins of equal number by their divergence. A bin's weight is its mean reward over the
    mean reward of all steps, at most 1 + delta: where steps of large divergence end badly, they count little, and where
    they end as well as others, as much. `d [.1 .1 | .8 .9], reward [1 0], 2 bins -> [1.2 1.2 | 0 0]` without prior.

    Args:
        reward_B: from 0 (failure) to 1 (success); others are brought to that range.
        prior: steps of average reward that each bin is thought to have besides its own.
    """
    lowest, highest = reward_B.min(), reward_B.max()
    reward_B = (reward_B - lowest) / (highest - lowest).clamp(min=1e-12)
    there_BK = ~divergence_BK.isnan()
    divergence_N, reward_N = divergence_BK[there_BK], reward_B[:, None].expand_as(divergence_BK)[there_BK]
    mean = reward_N.mean()
    if divergence_N.numel() == 0 or highest == lowest:
        return uniform_weights(divergence_BK)
    bin_N = divergence_N.argsort().argsort() * num_bins // divergence_N.numel()
    total_bins = torch.zeros(num_bins, dtype=reward_N.dtype, device=reward_N.device)
    count = total_bins.index_add(0, bin_N, torch.ones_like(reward_N)) + prior
    rate = (total_bins.index_add(0, bin_N, reward_N) + prior * mean) / count
    weight_BK = divergence_BK.clone()
    weight_BK[there_BK] = _capped(rate[bin_N] / mean, delta).to(divergence_BK.dtype)
    return weight_BK


def _capped(weight: Tensor, delta: float | None) -> Tensor:
    """At most 1 + delta."""
    return weight if delta is None else weight.clamp(max=1.0 + delta)

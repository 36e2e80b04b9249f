"""What each token is to learn from: an update's batch -> divergence, weights, advantages, as the config says.

The one place where settings meet the formulas of `sod.algorithm`.

Shapes: B trajectory, T token, K step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sod.algorithm import (
    after_failure,
    agreement,
    bounded_log_ratios,
    decayed_weights,
    distilled_advantages,
    earned_trust,
    first_steps,
    group_advantages,
    importance_weights,
    median_anchor,
    openings,
    outcome_weights,
    prefix_weights,
    shuffled_weights,
    spread,
    step_means,
    step_weights,
    threshold_weights,
    token_weights,
    uniform_weights,
)
from sod.algorithm.divergences import k3
from sod.batch import Batch
from sod.config import ObjectiveConfig, TrainConfig, WeightConfig

__all__ = ["NO_EVIDENCE", "Credit", "Trust", "assign_credit"]


TRUST_WINDOW = 10
"""Updates over which agreements are averaged: one alone is mostly noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trust:
    """What the latest updates told of the teacher after failed calls, against elsewhere."""

    here: tuple[float, ...] = ()
    elsewhere: tuple[float, ...] = ()
    opening: tuple[float, ...] = ()
    """Of the first tokens of the steps after a failed call."""

    def after(self, *, here: float, elsewhere: float, opening: float = math.nan) -> Trust:
        """With one more update's agreements."""
        return Trust(
            here=(*self.here, here)[-TRUST_WINDOW:],
            elsewhere=(*self.elsewhere, elsewhere)[-TRUST_WINDOW:],
            opening=(*self.opening, opening)[-TRUST_WINDOW:],
        )

    @property
    def value(self) -> float:
        """0 to 1. Updates in which there was nothing to tell from do not count; without any other it is 0."""
        return earned_trust(_mean(self.here), _mean(self.elsewhere), opening=_mean(self.opening))

    @property
    def metrics(self) -> dict[str, float]:
        """The latest update's agreements, where there was something to tell from."""
        latest = {f"agreement_{place}": values[-1] for place, values in self._by_place().items()}
        told = {name: value for name, value in latest.items() if not math.isnan(value)}
        return {**told, "trust_after_failure": self.value}

    def after_metrics(self, metrics: Mapping[str, float]) -> Trust:
        """With an update that is known by its `metrics`: how a run that goes on gets its memory back."""
        here, elsewhere, opening = (metrics.get(f"agreement_{place}", math.nan) for place in self._by_place())
        return self.after(here=here, elsewhere=elsewhere, opening=opening)

    def _by_place(self) -> dict[str, tuple[float, ...]]:
        return {"after_failure": self.here, "elsewhere": self.elsewhere, "at_openings": self.opening}


def _mean(values: Sequence[float]) -> float:
    told = [value for value in values if not math.isnan(value)]
    return sum(told) / len(told) if told else 0.0


NO_EVIDENCE = Trust()
"""Before the first update."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """What each token is to learn from, with the numbers it was made of (NaN where there is no teacher)."""

    student_logprobs_BT: Tensor
    """Log-probs before the update."""
    divergence_BK: Tensor
    weight_BK: Tensor
    """Means over a step's tokens where weights are by token."""
    weight_BT: Tensor
    """0 outside steps."""
    log_ratio_BT: Tensor
    """As it was used: within its bounds."""
    advantage_BT: Tensor
    importance_BT: Tensor
    """Factor of each token's loss; 1 throughout when `objective.importance` is off."""
    trust: Trust
    """This update included."""


def assign_credit(
    batch: Batch,
    config: TrainConfig,
    *,
    student_logprobs_BT: Tensor,
    update: int,
    seed: int = 0,
    divergence_BT: Tensor | None = None,
    trust: Trust = NO_EVIDENCE,
) -> Credit:
    """Credit of the whole update, before anything is learned from it.

    Args:
        student_logprobs_BT: before the update.
        update: its number, from 1.
        seed: of weights that are drawn.
        divergence_BT: by token, where d_k is made of whole distributions (`weights.divergence`).
        trust: what earlier updates told of the teacher.
    """
    objective, weights = config.objective, config.weights
    log_ratio_BT = batch.teacher_logprobs_BT - student_logprobs_BT
    if divergence_BT is None:
        divergence_BT = _token_divergences(batch, student_logprobs_BT, weights)
    divergence_BK = step_means(divergence_BT, _in_scope(batch, weights.scope))
    weight_BT = _weights(batch, weights, log_ratio_BT.abs(), divergence_BK, seed=seed)
    trust = _trust(batch, config, log_ratio_BT, earlier=trust)
    if weights.after_failure != "as_others":
        factor = 0.0 if weights.after_failure == "silent" else trust.value
        factor_BK = torch.where(after_failure(batch.failed_BK), factor, 1.0)
        weight_BT = weight_BT * spread(factor_BK, batch.step_BT)
    if weights.curriculum:
        weight_BT = first_steps(weight_BT, batch.step_BT, num_steps=1 + (update - 1) // weights.curriculum)
    log_ratio_BT = _bounded(log_ratio_BT, objective)
    return Credit(
        student_logprobs_BT=student_logprobs_BT,
        divergence_BK=divergence_BK,
        weight_BK=step_means(weight_BT, batch.step_BT),
        weight_BT=weight_BT,
        log_ratio_BT=log_ratio_BT,
        advantage_BT=_advantages(batch, config, student_logprobs_BT, weight_BT, log_ratio_BT),
        importance_BT=_importance(batch, objective, student_logprobs_BT),
        trust=trust,
    )


def _token_divergences(batch: Batch, student_logprobs_BT: Tensor, weights: WeightConfig) -> Tensor:
    """Of the sampled tokens."""
    if weights.divergence == "k3":
        return k3(student_logprobs_BT, batch.teacher_logprobs_BT)
    assert weights.divergence == "gap", f'weights.divergence = "{weights.divergence}" needs whole distributions'
    return (student_logprobs_BT - batch.teacher_logprobs_BT).abs()


def _in_scope(batch: Batch, scope: Literal["step", "calls", "reasoning"]) -> Tensor:
    """Step ids of the tokens that a step's divergence is the mean over.

    A step without tokens in scope keeps all of its own: `step [0 0 1 1], call [1 0 0 0] -> calls: [0 -1 1 1]`.
    """
    if scope == "step":
        return batch.step_BT
    chosen_BT = batch.call_BT if scope == "calls" else ~batch.call_BT
    any_BK = step_means(chosen_BT.float(), batch.step_BT).nan_to_num(0.0) > 0.0
    whole_BT = ~spread(any_BK.float(), batch.step_BT).bool()
    return torch.where(chosen_BT | whole_BT, batch.step_BT, -1)


def _weights(batch: Batch, weights: WeightConfig, gap_BT: Tensor, divergence_BK: Tensor, *, seed: int) -> Tensor:
    """The rule's weights, by token."""
    delta = None if weights.delta == "off" else weights.delta
    if weights.rule == "prefix":
        return prefix_weights(gap_BT, batch.step_BT, gamma=weights.gamma)
    if weights.rule == "token_ratio":
        return token_weights(gap_BT, divergence_BK, batch.step_BT, delta=delta, epsilon=weights.epsilon)
    if weights.rule == "uniform":
        weight_BK = uniform_weights(divergence_BK)
    elif weights.rule == "decay":
        weight_BK = decayed_weights(batch.failed_BK, divergence_BK, decay=weights.decay)
    elif weights.rule == "threshold":
        weight_BK = threshold_weights(divergence_BK, threshold=weights.threshold)
    elif weights.rule == "outcome":
        weight_BK = outcome_weights(divergence_BK, batch.reward_B, delta=delta)
    else:
        weight_BK = step_weights(
            divergence_BK,
            delta=delta,
            epsilon=weights.epsilon,
            anchor_B=median_anchor(divergence_BK) if weights.anchor == "median" else None,
            floor=weights.floor,
        )
        if weights.rule == "random":
            weight_BK = shuffled_weights(weight_BK, seed=seed)
    return spread(weight_BK, batch.step_BT)


def _trust(batch: Batch, config: TrainConfig, log_ratio_BT: Tensor, *, earlier: Trust) -> Trust:
    """With how the teacher's approval goes along with outcomes in this update."""
    approval_BK = step_means(log_ratio_BT, batch.step_BT)
    opening_BK = step_means(log_ratio_BT, openings(batch.step_BT), num_steps=approval_BK.shape[1])
    advantage_B = _outcomes(batch, config, divide_by_std=True)
    after_BK = after_failure(batch.failed_BK)
    return earlier.after(
        here=float(agreement(approval_BK, advantage_B, after_BK)),
        elsewhere=float(agreement(approval_BK, advantage_B, ~after_BK)),
        opening=float(agreement(opening_BK, advantage_B, after_BK)),
    )


def _bounded(log_ratio_BT: Tensor, objective: ObjectiveConfig) -> Tensor:
    return bounded_log_ratios(
        log_ratio_BT,
        floor=None if objective.log_ratio_floor == "off" else objective.log_ratio_floor,
        ceiling=None if objective.log_ratio_ceiling == "off" else objective.log_ratio_ceiling,
        region=None if objective.trust_region == "off" else objective.trust_region,
        outside=objective.outside,
    )


def _outcomes(batch: Batch, config: TrainConfig, *, divide_by_std: bool) -> Tensor:
    """Advantages within groups. What failures of the world left of a group alone has no sibling to be compared with,
    and its outcome says nothing; a run that plays each problem once has the published rule, its reward."""
    epsilon = config.objective.advantage_epsilon
    advantage_B = group_advantages(batch.reward_B, batch.group_B, epsilon=epsilon, divide_by_std=divide_by_std)
    if config.update.samples == 1:
        return advantage_B
    _, group_B, count_P = torch.unique(batch.group_B, return_inverse=True, return_counts=True)
    return torch.where(count_P[group_B] > 1, advantage_B, 0.0)


def _advantages(
    batch: Batch,
    config: TrainConfig,
    student_logprobs_BT: Tensor,
    weight_BT: Tensor,
    log_ratio_BT: Tensor,
) -> Tensor:
    """The terms that are switched on, by token."""
    objective = config.objective
    advantage_B = torch.zeros_like(batch.reward_B)
    if objective.outcome:
        advantage_B = _outcomes(batch, config, divide_by_std=objective.divide_by_std)
    if objective.coef == 0.0 or objective.signal == "divergence":  # then the teacher's term is not an advantage
        return torch.where(batch.mask_BT, advantage_B[:, None], 0.0)
    return distilled_advantages(
        advantage_B,
        student_logprobs_BT,
        batch.teacher_logprobs_BT,
        batch.step_BT,
        coef=objective.coef,
        weight_BT=weight_BT,
        log_ratio_BT=log_ratio_BT,
    )


def _importance(batch: Batch, objective: ObjectiveConfig, student_logprobs_BT: Tensor) -> Tensor:
    if objective.importance == "off":
        return batch.mask_BT.float()
    return importance_weights(
        student_logprobs_BT,
        batch.rollout_logprobs_BT,
        batch.mask_BT,
        level=objective.importance,
        cap=objective.importance_cap,
        mask_above=objective.importance_mask,
    )

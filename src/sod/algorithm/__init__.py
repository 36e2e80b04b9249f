"""The method, as pure tensor functions: step ids -> divergence -> weights -> advantages -> loss.

Torch and the standard library only; no config, no I/O, so that any trainer can call it. Every function takes padded
(B,T) tensors, or packed (N,) tensors with `trajectory_N`, the trajectory each token belongs to.

    step_BT = number_steps(mask_BT)                                        # [0 1 1 0 1] -> [-1 0 0 -1 1]
    divergence_BK = step_divergence(student_logprobs_BT, teacher_logprobs_BT, step_BT)       # eq 6
    weight_BK = step_weights(divergence_BK, delta=0.2)                                       # eq 7
    advantage_B = group_advantages(reward_B, group_B)                                        # eq 2
    advantage_BT = distilled_advantages(advantage_B, student_logprobs_BT, teacher_logprobs_BT, step_BT)  # eq 9, 10
    policy_loss(logprobs_BT, rollout_logprobs_BT, advantage_BT, mask_BT).loss.backward()
"""

from sod.algorithm.advantages import bounded_log_ratios, distilled_advantages, group_advantages
from sod.algorithm.importance import importance_weights
from sod.algorithm.losses import LossResult, policy_loss, token_shares
from sod.algorithm.steps import number_steps, openings, spread, step_divergence, step_means
from sod.algorithm.trust import after_failure, agreement, earned_trust
from sod.algorithm.weights import (
    decayed_weights,
    first_steps,
    median_anchor,
    outcome_weights,
    prefix_weights,
    shuffled_weights,
    step_weights,
    threshold_weights,
    token_weights,
    uniform_weights,
)

__all__ = [
    "LossResult",
    "after_failure",
    "agreement",
    "bounded_log_ratios",
    "decayed_weights",
    "distilled_advantages",
    "earned_trust",
    "first_steps",
    "group_advantages",
    "importance_weights",
    "median_anchor",
    "number_steps",
    "openings",
    "outcome_weights",
    "policy_loss",
    "prefix_weights",
    "shuffled_weights",
    "spread",
    "step_divergence",
    "step_means",
    "step_weights",
    "threshold_weights",
    "token_shares",
    "token_weights",
    "uniform_weights",
]

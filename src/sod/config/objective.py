"""The objective: what a token is to learn from, and how far the teacher is trusted there."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from sod.config.section import Count, Fraction, NonNegative, Positive, Section

Bound: TypeAlias = float | Literal["off"]


class ObjectiveConfig(Section):
    """What a token's advantage is made of: equations 2, 9 and 10 of the paper, and the clipped loss."""

    outcome: bool = True
    """Add the outcome's advantage within its group (GRPO)."""
    coef: NonNegative = 1.0
    """Factor of the teacher's term; 0 leaves it out."""
    signal: Literal["log_ratio", "divergence"] = "log_ratio"
    """What the teacher's term is: the log-ratio of the sampled token, as an advantage; or a divergence between the two
    whole next-token distributions (GKD), added to the loss. The latter needs a teacher with engine = "hf"."""
    beta: Fraction = 1.0
    """Of signal = "divergence", a generalised Jensen-Shannon divergence: 0 is KL(teacher || student), 1 KL(student ||
    teacher), 0.5 treats both alike."""
    top_k: Annotated[int, Field(ge=0)] = 0
    """Of signal = "divergence": tell only the teacher's k most likely tokens apart; 0 is the whole vocabulary."""
    log_ratio_floor: Bound = "off"
    """Log-ratios below this, in nats, count as this (REOPOLD)."""
    log_ratio_ceiling: Bound = "off"
    """Log-ratios above this, in nats, count as this."""
    trust_region: Annotated[float, Field(gt=0.0)] | Literal["off"] = "off"
    """Log-ratios larger in size than this, in nats, lie outside the region in which the teacher is believed (TrOPD)."""
    outside: Literal["mask", "clip"] = "mask"
    """What becomes of log-ratios outside the trust region: nothing, or its border."""
    advantage_epsilon: Positive = 1e-6
    """Added to the group's standard deviation."""
    divide_by_std: bool = True
    """Divide the outcome advantage by the group's standard deviation."""
    clip_low: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: NonNegative = 0.28
    """The ratio is clipped above at 1 + clip_high."""
    clip_dual: Annotated[float, Field(ge=0.0)] = 3.0
    """A negative advantage's loss is at most clip_dual times its size; 0 is off."""
    reduction: Literal["token-mean", "sequence-mean"] = "token-mean"
    """Mean over all student tokens of an optimizer step, or over trajectories of their token means."""
    importance: Literal["off", "token", "sequence"] = "off"
    """Weigh the loss by p_before / p_rollout, the training model before the update against the sampler: by token, or by
    trajectory with the product over its tokens."""
    importance_cap: Annotated[float, Field(ge=1.0)] = 2.0
    """Importance weights are cut at this size."""
    importance_mask: bool = False
    """Weights above the cap count as 0 instead of the cap: those tokens or trajectories teach nothing."""

    @model_validator(mode="after")
    def _bounds_around_zero(self) -> Self:
        floor = -math.inf if self.log_ratio_floor == "off" else self.log_ratio_floor
        ceiling = math.inf if self.log_ratio_ceiling == "off" else self.log_ratio_ceiling
        if not floor <= 0.0 <= ceiling:
            raise ValueError(
                "log_ratio_floor must be at most 0 and log_ratio_ceiling at least 0, or agreement itself would be "
                f"moved, got {self.log_ratio_floor} and {self.log_ratio_ceiling}"
            )
        return self

    @model_validator(mode="after")
    def _dual_clip_above_one(self) -> Self:
        if 0.0 < self.clip_dual <= 1.0 + self.clip_high:
            raise ValueError(
                f"clip_dual must be 0 (off) or above 1 + clip_high = {1.0 + self.clip_high:g}, "
                f"got {self.clip_dual:g}; the published value is 3.0"
            )
        return self


WeightRule: TypeAlias = Literal[
    "uniform",
    "ratio",
    "decay",
    "threshold",
    "random",
    "token_ratio",
    "prefix",
    "outcome",
]


class WeightConfig(Section):
    """How far the teacher is trusted at each step: equations 6 and 7 of the paper, ablations and rivals."""

    rule: WeightRule = "ratio"
    """"ratio" is eq 7; "uniform" is 1 everywhere; "decay" falls after the first failed call; "threshold" is 1 up to a
    divergence and then 0; "random" deals eq 7's weights out at random; "token_ratio" is eq 7 by token; "prefix" falls
    with the gaps before a token (IW-OPD); "outcome" asks how often steps of such a divergence end well."""
    delta: NonNegative | Literal["off"] = 0.2
    """Weights of eq 7 are at most 1 + delta."""
    epsilon: Positive = 1e-6
    """Added to both divergences of eq 7, in nats: far below d's scale the weight is a cliff, near it a slope."""
    anchor: Literal["first", "median"] = "first"
    """What eq 7 measures a step's divergence by: the trajectory's own first step, or the update's median first step."""
    floor: Fraction = 0.0
    """Weights of eq 7 are at least this."""
    decay: Fraction = 0.9
    """Of rule = "decay": the weight is decay^(steps since the first failed call); 0 masks what comes after it."""
    threshold: NonNegative = 0.5
    """Of rule = "threshold", in nats."""
    gamma: NonNegative = 1.0
    """Of rule = "prefix": the first token's weight is 1 + gamma, the last one's 1."""
    after_failure: Literal["as_others", "silent", "earned"] = "as_others"
    """Trust at steps after the first failed call, a factor of the rule's weight: 1, 0, or as far as the teacher's
    approval there goes along with how trajectories end, against how it does elsewhere, and its approval of the steps'
    first tokens does not go against it."""
    curriculum: Annotated[int, Field(ge=0)] = 0
    """The teacher speaks at the first step only, and at one more after every so many updates (TCOD); 0 is off."""
    divergence: Literal["gap", "k3", "kl", "top_k_kl"] = "gap"
    """What d_k is the mean of: |log p_student - log p_teacher| of the sampled tokens (eq 6), its low-variance estimate
    k3, or KL(student || teacher) of the whole distributions or of the teacher's `top_k` tokens. The last two need a
    teacher with engine = "hf"."""
    top_k: Count = 64
    """Of divergence = "top_k_kl"."""
    scope: Literal["step", "calls", "reasoning"] = "step"
    """Tokens of a step that d_k is the mean over: all, those of its tool calls, or all others. A step without such
    tokens is measured by all of its tokens."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if self.rule == "token_ratio" and self.divergence != "gap":
            raise ValueError(
                'rule = "token_ratio" measures a token\'s gap by d_1, which must be of gaps too, got divergence = '
                f'"{self.divergence}"; leave it out'
            )
        return self

    @property
    def of_distributions(self) -> bool:
        """Whether d_k needs more than the log-probs of the sampled tokens."""
        return self.divergence in ("kl", "top_k_kl")

"""Weigh and step: an update's batch -> credit for every token -> optimizer steps on the student.

Shapes: B trajectory, T token, K step, N packed token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sod.algorithm import (
    distilled_advantages,
    group_advantages,
    importance_weights,
    policy_loss,
    step_divergence,
    step_weights,
)
from sod.batch import Batch, microbatches
from sod.config import TrainConfig
from sod.errors import SignalError
from sod.models.hf import HFModel
from sod.models.logprobs import TokenLogprobs
from sod.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Credit:
    """What each token is to learn from, with the numbers it was made of (all NaN without a teacher)."""

    student_logprobs_BT: Tensor
    """Log-probs before the update."""
    divergence_BK: Tensor
    weight_BK: Tensor
    advantage_BT: Tensor
    importance_BT: Tensor
    """Factor of each token's loss; 1 throughout when `objective.importance` is off."""


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Turns batches into optimizer steps, as `method` and `objective` of the config say."""

    config: TrainConfig
    student: HFModel
    optimizer: Optimizer

    def credit(self, batch: Batch) -> Credit:
        """Divergence, weights and advantages of the whole update, before anything is learned from it."""
        terms, objective = self.config.terms, self.config.objective
        student_logprobs_BT = self._student_logprobs(batch)
        divergence_BK = step_divergence(student_logprobs_BT, batch.teacher_logprobs_BT, batch.step_BT)
        weight_BK = step_weights(divergence_BK, delta=objective.delta, epsilon=objective.epsilon)
        if not terms.step_weights:
            weight_BK = torch.where(weight_BK.isnan(), weight_BK, 1.0)
        advantage_B = torch.zeros_like(batch.reward_B)
        if terms.outcome:
            advantage_B = group_advantages(
                batch.reward_B,
                batch.group_B,
                epsilon=objective.advantage_epsilon,
                divide_by_std=objective.divide_by_std,
            )
        advantage_BT = torch.where(batch.mask_BT, advantage_B[:, None], 0.0)
        if terms.teacher:
            advantage_BT = distilled_advantages(
                advantage_B,
                student_logprobs_BT,
                batch.teacher_logprobs_BT,
                batch.step_BT,
                coef=objective.coef,
                weight_BK=weight_BK,
            )
        return Credit(
            student_logprobs_BT=student_logprobs_BT,
            divergence_BK=divergence_BK,
            weight_BK=weight_BK,
            advantage_BT=advantage_BT,
            importance_BT=self._importance(batch, student_logprobs_BT),
        )

    def _importance(self, batch: Batch, student_logprobs_BT: Tensor) -> Tensor:
        objective = self.config.objective
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

    def learn(self, batch: Batch, credit: Credit, *, seed: int) -> dict[str, float]:
        """Deal the trajectories out among the update's optimizer steps and take them.

        Returns means over the steps: loss, clip_fraction, dual_clip_fraction, approx_kl, entropy, grad_norm, lr.
        Raises SignalError when an advantage is not finite; the weights are then untouched.
        """
        if not credit.advantage_BT.isfinite().all():
            raise SignalError(
                "every advantage must be finite, got NaN or infinity; look at the rewards and the teacher's log-probs "
                "in trajectories.jsonl"
            )
        order = torch.randperm(batch.num_trajectories, generator=torch.Generator().manual_seed(seed))
        hands = [hand for hand in order.tensor_split(self.config.update.optimizer_steps) if len(hand)]
        totals: dict[str, float] = defaultdict(float)
        for hand in hands:
            for key, value in self._step(batch, credit, hand).items():
                totals[key] += value / len(hands)
        return dict(totals)

    def _step(self, batch: Batch, credit: Credit, hand: Tensor) -> dict[str, float]:
        """One optimizer step on the trajectories in `hand`, in micro-batches that add up to it."""
        sums: dict[str, float] = defaultdict(float)
        mask_BT = batch.mask_BT[hand]
        num_tokens, num_trajectories = float(mask_BT.sum()), float(mask_BT.any(1).sum())
        per_token = self.config.objective.reduction == "token-mean"
        for rows, piece in self._pieces(batch, hand):
            result = self._logprobs(piece)
            loss = self._loss(result, piece, credit, rows, denominator=num_tokens if per_token else num_trajectories)
            for key, value in loss.items():
                sums[key] += value
            sums["entropy"] += float(result.entropy_N.sum()) / num_tokens
        lr = self.optimizer.lr
        return {**sums, "grad_norm": self.optimizer.step(), "lr": lr}

    def _loss(
        self, result: TokenLogprobs, piece: Batch, credit: Credit, rows: Tensor, *, denominator: float
    ) -> dict[str, float]:
        """Loss and gradient of one micro-batch."""
        objective, device = self.config.objective, result.logprobs_N.device
        mask_BT = piece.mask_BT
        width = mask_BT.shape[1]
        loss = policy_loss(
            result.logprobs_N,
            credit.student_logprobs_BT[rows, :width][mask_BT].to(device),
            credit.advantage_BT[rows, :width][mask_BT].to(device),
            torch.ones_like(result.logprobs_N, dtype=torch.bool),
            clip_low=objective.clip_low,
            clip_high=objective.clip_high,
            clip_dual=objective.clip_dual,
            reduction=objective.reduction,
            denominator=denominator,
            trajectory_N=mask_BT.nonzero()[:, 0].to(device),
            importance_BT=credit.importance_BT[rows, :width][mask_BT].to(device),
        )
        loss.loss.backward()  # type: ignore[no-untyped-call]
        return {key: float(value.detach()) for key, value in loss._asdict().items()}

    def _student_logprobs(self, batch: Batch) -> Tensor:
        """Log-probs before the update: the sampler's own, or a forward of the training model when asked for."""
        if self.config.update.student_logprobs == "rollout":
            return batch.rollout_logprobs_BT
        logprobs_BT = torch.zeros_like(batch.rollout_logprobs_BT)
        for rows, piece in self._pieces(batch, torch.arange(batch.num_trajectories)):
            with torch.no_grad():
                result = self._logprobs(piece)
            part_BT = torch.zeros_like(piece.rollout_logprobs_BT)
            part_BT[piece.mask_BT] = result.logprobs_N.cpu()
            logprobs_BT[rows, : part_BT.shape[1]] = part_BT
        return logprobs_BT

    def _pieces(self, batch: Batch, hand: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        limit = self.config.update.tokens_per_microbatch
        for part in microbatches(batch.length_B[hand], max_tokens=limit, group_B=batch.group_B[hand]):
            yield hand[part], batch.rows(hand[part])

    def _logprobs(self, piece: Batch) -> TokenLogprobs:
        device = self.student.device
        return self.student.token_logprobs(
            piece.token_BT.to(device), piece.mask_BT.to(device), temperature=self.config.sampling.temperature
        )

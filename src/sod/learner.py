"""Weigh and step: an update's batch -> credit for every token -> optimizer steps on the student.

Shapes: B trajectory, T token, K step, N packed token.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from sod.agent import draw_seed
from sod.algorithm import policy_loss, token_shares
from sod.algorithm.divergences import divergence
from sod.batch import Batch, microbatches
from sod.config import TrainConfig
from sod.credit import NO_EVIDENCE, Credit, Trust, assign_credit
from sod.errors import SignalError
from sod.models.divergence import Divergence, TokenDivergences, token_divergences
from sod.models.hf import HFModel
from sod.models.logprobs import TokenLogprobs
from sod.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class Learner:
    """Turns batches into optimizer steps, as `method` and `objective` of the config say."""

    config: TrainConfig
    student: HFModel
    optimizer: Optimizer
    teacher: HFModel | None = None
    """For divergences of whole distributions, which its log-probs of the sampled tokens do not give."""
    trust: Trust = NO_EVIDENCE
    """What earlier updates told of the teacher."""

    def credit(self, batch: Batch, *, update: int = 1) -> Credit:
        """Divergence, weights and advantages of the whole update, before anything is learned from it."""
        return assign_credit(
            batch,
            self.config,
            student_logprobs_BT=self._student_logprobs(batch),
            update=update,
            seed=draw_seed("weights", self.config.seed, update),
            divergence_BT=self._token_divergences(batch) if self.config.weights.of_distributions else None,
            trust=self.trust,
        )

    def _token_divergences(self, batch: Batch) -> Tensor:
        """KL(student || teacher) of the distribution before every sampled token, before the update."""
        weights = self.config.weights
        top_k = weights.top_k if weights.divergence == "top_k_kl" else 0
        kind = partial(divergence, kind="reverse_kl", top_k=top_k)
        return self._before(batch, lambda piece: self._compared(piece, kind).divergence_N)

    def learn(self, batch: Batch, credit: Credit, *, seed: int) -> dict[str, float]:
        """Deal the trajectories out among the update's optimizer steps and take them.

        Returns means over the steps: loss, clip_fraction, dual_clip_fraction, approx_kl, entropy, grad_norm, lr, and
        teacher_loss where a divergence is learned from. Raises SignalError when an advantage, or a weight of a
        divergence, is not finite; the model is then untouched.
        """
        self._check(credit)
        order = torch.randperm(batch.num_trajectories, generator=torch.Generator().manual_seed(seed))
        hands = [hand for hand in order.tensor_split(self.config.update.optimizer_steps) if len(hand)]
        totals: dict[str, float] = defaultdict(float)
        for hand in hands:
            for key, value in self._step(batch, credit, hand).items():
                totals[key] += value / len(hands)
        return dict(totals)

    @property
    def _compares(self) -> bool:
        """Whether a divergence of whole distributions is in the loss."""
        return self.config.objective.signal == "divergence" and self.config.learns_from_teacher

    def _check(self, credit: Credit) -> None:
        used = {"advantage": credit.advantage_BT}
        if self._compares:  # whose weights are in no advantage
            used["weight"] = credit.weight_BT
        for name, values_BT in used.items():
            if not values_BT.isfinite().all():
                raise SignalError(
                    f"every {name} must be finite, got NaN or infinity; look at the rewards and the teacher's "
                    "log-probs in trajectories.jsonl"
                )

    def _step(self, batch: Batch, credit: Credit, hand: Tensor) -> dict[str, float]:
        """One optimizer step on the trajectories in `hand`, in micro-batches that add up to it."""
        sums: dict[str, float] = defaultdict(float)
        mask_BT = batch.mask_BT[hand]
        num_tokens, num_trajectories = float(mask_BT.sum()), float(mask_BT.any(1).sum())
        per_token = self.config.objective.reduction == "token-mean"
        for rows, piece in self._pieces(batch, hand):
            denominator = num_tokens if per_token else num_trajectories
            if self._compares:
                result: TokenLogprobs | TokenDivergences = self._compared(piece, self._learned_divergence)
            else:
                result = self._logprobs(piece)
            loss = self._loss(result, piece, credit, rows, denominator=denominator)
            for key, value in loss.items():
                sums[key] += value
            sums["entropy"] += float(result.entropy_N.sum()) / num_tokens
        lr = self.optimizer.lr
        return {**sums, "grad_norm": self.optimizer.step(), "lr": lr}

    def _loss(
        self,
        result: TokenLogprobs | TokenDivergences,
        piece: Batch,
        credit: Credit,
        rows: Tensor,
        *,
        denominator: float,
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
        numbers = {key: float(value.detach()) for key, value in loss._asdict().items()}
        total = loss.loss
        if isinstance(result, TokenDivergences):
            weight_N = objective.coef * (credit.weight_BT * credit.importance_BT)[rows, :width][mask_BT].to(device)
            share_N = token_shares(
                torch.ones_like(weight_N, dtype=torch.bool),
                reduction=objective.reduction,
                denominator=denominator,
                trajectory_N=mask_BT.nonzero()[:, 0].to(device),
            )
            teacher_loss = (share_N * weight_N * result.divergence_N).sum()
            total = total + teacher_loss
            numbers |= {"loss": float(total.detach()), "teacher_loss": float(teacher_loss.detach())}
        total.backward()  # type: ignore[no-untyped-call]
        return numbers

    def _student_logprobs(self, batch: Batch) -> Tensor:
        """Log-probs before the update: the sampler's own, or a forward of the training model when asked for."""
        if self.config.update.student_logprobs == "rollout":
            return batch.rollout_logprobs_BT
        return self._before(batch, lambda piece: self._logprobs(piece).logprobs_N)

    @torch.no_grad()
    def _before(self, batch: Batch, values_of: Callable[[Batch], Tensor]) -> Tensor:
        """Values (N,) of a piece's sampled tokens, for the whole batch in its shape, without gradients; 0 elsewhere."""
        values_BT = torch.zeros_like(batch.rollout_logprobs_BT)
        for rows, piece in self._pieces(batch, torch.arange(batch.num_trajectories)):
            part_BT = torch.zeros_like(piece.rollout_logprobs_BT)
            part_BT[piece.mask_BT] = values_of(piece).float().cpu()
            values_BT[rows, : part_BT.shape[1]] = part_BT
        return values_BT

    def _pieces(self, batch: Batch, hand: Tensor) -> Iterator[tuple[Tensor, Batch]]:
        limit = self.config.update.tokens_per_microbatch
        for part in microbatches(batch.length_B[hand], max_tokens=limit, group_B=batch.group_B[hand]):
            yield hand[part], batch.rows(hand[part])

    @property
    def _learned_divergence(self) -> Divergence:
        objective = self.config.objective
        return partial(divergence, kind="jsd", beta=objective.beta, top_k=objective.top_k)

    def _compared(self, piece: Batch, kind: Divergence) -> TokenDivergences:
        assert self.teacher is not None, "divergences of whole distributions need the teacher's model"
        device = self.student.device
        return token_divergences(
            self.student,
            self.teacher,
            piece.token_BT.to(device),
            piece.mask_BT.to(device),
            divergence=kind,
            temperature=self.config.sampling.temperature,
        )

    def _logprobs(self, piece: Batch) -> TokenLogprobs:
        device = self.student.device
        return self.student.token_logprobs(
            piece.token_BT.to(device), piece.mask_BT.to(device), temperature=self.config.sampling.temperature
        )

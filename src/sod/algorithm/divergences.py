"""Divergences between the student's and the teacher's whole next-token distributions.

Arguments are natural log-probs of every token, `log_softmax(logits / temperature)`. Half precision is computed in
float32, float64 stays. Gradients flow into both arguments: detach the teacher's.

A log-prob, -inf too, counts as at least `LOWEST_LOGPROB`: 0 * inf cannot arise, and a token that one side rules out
costs much instead of everything.

Shapes: N token, V vocabulary, K the teacher's most likely tokens and, last, all others as one.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sod.algorithm.losses import MAX_LOG_RATIO

LOWEST_LOGPROB = -1e4
"""Far below what a model's logits can say, and far above where a loss of float32 stops being a number."""

Kind = Literal["reverse_kl", "forward_kl", "jsd"]


def divergence(
    student_logprobs_NV: Tensor, teacher_logprobs_NV: Tensor, *, kind: Kind = "jsd", beta: float = 0.5, top_k: int = 0
) -> Tensor:
    """One of the divergences below for every token (N,), in nats.

    Args:
        kind: "reverse_kl" KL(P_S || P_T), "forward_kl" KL(P_T || P_S), or "jsd".
        beta: of "jsd", 0 to 1; the others ignore it.
        top_k: tell only so many of the teacher's tokens apart (`coarse`); 0 is the whole vocabulary.
    """
    student, teacher = student_logprobs_NV, teacher_logprobs_NV
    if top_k:
        student, teacher = coarse(student, teacher, top_k=top_k)
    if kind == "reverse_kl":
        return kl(student, teacher)
    if kind == "forward_kl":
        return kl(teacher, student)
    if kind == "jsd":
        return jsd(student, teacher, beta=beta)
    raise ValueError(f'kind must be "reverse_kl", "forward_kl" or "jsd", got {kind!r}')


def kl(logprobs_NV: Tensor, other_logprobs_NV: Tensor) -> Tensor:
    """KL(P || Q) = sum of p (log p - log q) for every token (N,). `p [.5 .5], q [.25 .75] -> .144`

    `kl(student, teacher)`, the reverse KL, is what log p_S - log p_T of a token that the student samples has for its
    expectation; it wants the student where the teacher is. `kl(teacher, student)`, the forward KL, wants it wherever
    the teacher is.
    """
    return _mean_gap(_finite(logprobs_NV), _finite(other_logprobs_NV))


def jsd(student_logprobs_NV: Tensor, teacher_logprobs_NV: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence (GKD, arXiv 2306.13649, eq 1) for every token (N,).

    beta KL(P_T || M) + (1 - beta) KL(P_S || M) with M = beta P_T + (1 - beta) P_S; at most the entropy in nats of a
    coin that falls on beta. `student [1 0], teacher [0 1], beta .5 -> .693`

    By this formula both ends would be 0. Divided by beta it goes to the forward KL(P_T || P_S) as beta falls to 0,
    divided by 1 - beta to the reverse KL(P_S || P_T) as beta rises to 1. `beta` 0 and 1 are therefore these two KLs
    themselves, as in TRL. Value and gradient jump there: just above 0 they are about beta times those of the forward
    KL, not about those.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be from 0 (forward KL) to 1 (reverse KL), got {beta}")
    if beta == 0.0:
        return kl(teacher_logprobs_NV, student_logprobs_NV)
    if beta == 1.0:
        return kl(student_logprobs_NV, teacher_logprobs_NV)
    student, teacher = _finite(student_logprobs_NV), _finite(teacher_logprobs_NV)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return beta * _mean_gap(teacher, mixture) + (1.0 - beta) * _mean_gap(student, mixture)


class CoarseLogprobs(NamedTuple):
    """Two distributions over the same K outcomes."""

    student_logprobs_NK: Tensor
    teacher_logprobs_NK: Tensor


def coarse(student_logprobs_NV: Tensor, teacher_logprobs_NV: Tensor, *, top_k: int) -> CoarseLogprobs:
    """Both distributions over the teacher's `top_k` most likely tokens, and one more outcome for all the rest.

    `teacher [.6 .1 .3], student [.2 .5 .3], top_k 1 -> teacher [.6 .4], student [.2 .8]`. Nothing is cut off or scaled,
    so a divergence of these is a divergence: 0 for equal distributions, never above that of the whole vocabulary (what
    is told apart less cannot differ more), and rising with `top_k`. 0 does not mean equal: the rest is seen as one.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_k >= teacher_logprobs_NV.shape[-1]:
        return CoarseLogprobs(student_logprobs_NV, teacher_logprobs_NV)
    index_NK = teacher_logprobs_NV.topk(top_k, dim=-1).indices
    return CoarseLogprobs(_coarsened(student_logprobs_NV, index_NK), _coarsened(teacher_logprobs_NV, index_NK))


def k3(student_logprobs_N: Tensor, teacher_logprobs_N: Tensor) -> Tensor:
    """exp(r) - 1 - r with r = log p_T - log p_S of sampled tokens: Schulman's estimate of the reverse KL.

    Its mean over tokens that the student samples is KL(P_S || P_T), like that of -r, but it is never negative and
    varies less where the two are close. `r [0 .5 -.5] -> [0 .149 .107]`. r is cut at `MAX_LOG_RATIO`, so that exp stays
    a number. A figure to look at, or a reward; not a loss: the mean of its gradient is the forward KL's.
    """
    log_ratio_N = (_finite(teacher_logprobs_N) - _finite(student_logprobs_N)).clamp(max=MAX_LOG_RATIO)
    return torch.expm1(log_ratio_N) - log_ratio_N


def _finite(logprobs: Tensor) -> Tensor:
    """At least float32, and no lower than `LOWEST_LOGPROB`."""
    return logprobs.to(torch.promote_types(logprobs.dtype, torch.float32)).clamp(min=LOWEST_LOGPROB)


def _mean_gap(logprobs_NV: Tensor, other_logprobs_NV: Tensor) -> Tensor:
    return (logprobs_NV.exp() * (logprobs_NV - other_logprobs_NV)).sum(-1)


def _coarsened(logprobs_NV: Tensor, index_NK: Tensor) -> Tensor:
    # The rest is added up, not taken from 1: what the likely tokens leave of 1 is lost in rounding.
    logprobs_NV = _finite(logprobs_NV)
    rest_N1 = logprobs_NV.scatter(-1, index_NK, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs_NV.gather(-1, index_NK), rest_N1], dim=-1)

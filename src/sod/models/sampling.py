"""One draw per row: what a row draws is decided by its seed, the token's position and the row's logits, nothing else.

Shapes: R row, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Draw", "draw", "mix", "uniform"]

_MASK = (1 << 64) - 1
# The constants of splitmix64 (Steele, Lea, Flood 2014), as signed integers where tensors hold them.
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
_UNIT = 2.0**-53


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """Drawn tokens with their log-probabilities before top-p / top-k cuts, in float32."""

    token_R: Tensor
    logprob_R: Tensor


def mix(seed: int) -> int:
    """A seed of any size as a well-mixed signed 64-bit integer, so that neighbouring seeds share nothing."""
    state = (seed + _GOLDEN) & _MASK
    state = ((state ^ (state >> 30)) * _MULTIPLY_1) & _MASK
    state = ((state ^ (state >> 27)) * _MULTIPLY_2) & _MASK
    return _signed(state ^ (state >> 31))


def uniform(mixed_seed_R: Tensor, position_R: Tensor) -> Tensor:
    """Numbers in [0, 1), float64, each decided by its (mixed) seed and position alone: splitmix64 as a counter."""
    state_R = mixed_seed_R + (position_R + 1) * _signed(_GOLDEN)
    state_R = (state_R ^ _shift(state_R, 30)) * _signed(_MULTIPLY_1)
    state_R = (state_R ^ _shift(state_R, 27)) * _signed(_MULTIPLY_2)
    state_R = state_R ^ _shift(state_R, 31)
    return _shift(state_R, 11).double() * _UNIT


def draw(
    logits_RV: Tensor,
    uniform_R: Tensor,
    *,
    temperature_R: Tensor | None = None,
    top_p_R: Tensor | None = None,
    top_k_R: Tensor | None = None,
    greedy_R: Tensor | None = None,
) -> Draw:
    """Invert each row's cumulative distribution at its uniform number.

    `temperature_R` (None is 1 throughout) is 1 for greedy rows. `top_p_R` (1 is off) and `top_k_R` (the vocabulary size
    or more is off) come together or not at all; `greedy_R` marks rows that take the most likely token. The order is
    temperature, top-k, top-p.
    """
    logits_RV = logits_RV.float() if temperature_R is None else logits_RV.float() / temperature_R[:, None]
    logprobs_RV = torch.log_softmax(logits_RV, dim=-1)
    probs_RV = logprobs_RV.exp()
    if top_p_R is not None and top_k_R is not None:
        probs_RV = _cut(probs_RV, top_p_R=top_p_R, top_k_R=top_k_R)
    cdf_RV = probs_RV.cumsum(-1, dtype=torch.float64)
    target_R1 = uniform_R[:, None] * cdf_RV[:, -1:]
    # right=True: the first token whose cumulative probability exceeds the target, so never one of probability 0.
    token_R1 = torch.searchsorted(cdf_RV, target_R1, right=True).clamp_(max=logits_RV.shape[-1] - 1)
    if greedy_R is not None:
        token_R1 = torch.where(greedy_R[:, None], logprobs_RV.argmax(-1, keepdim=True), token_R1)
    return Draw(token_R=token_R1[:, 0], logprob_R=logprobs_RV.gather(-1, token_R1)[:, 0])


def _cut(probs_RV: Tensor, *, top_p_R: Tensor, top_k_R: Tensor) -> Tensor:
    """Probabilities with everything outside top-k, then outside top-p of what is left, set to 0; not renormalised.

    Rows without cuts are left alone to the bit. Probabilities stay in vocabulary order, so that a row draws the same
    token whether or not its neighbours are cut.
    """
    sorted_RV, index_RV = probs_RV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(probs_RV.shape[-1], device=probs_RV.device)
    sorted_RV = sorted_RV.masked_fill(rank_V >= top_k_R[:, None], 0.0)
    before_RV = sorted_RV.cumsum(-1, dtype=torch.float64) - sorted_RV
    limit_R1 = top_p_R[:, None].double() * sorted_RV.sum(-1, keepdim=True, dtype=torch.float64)
    limit_R1 = limit_R1.masked_fill(top_p_R[:, None] >= 1.0, torch.inf)
    return torch.zeros_like(probs_RV).scatter_(-1, index_RV, sorted_RV.masked_fill(before_RV >= limit_R1, 0.0))


def _shift(value_R: Tensor, bits: int) -> Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (value_R >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value

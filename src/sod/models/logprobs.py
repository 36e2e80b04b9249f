"""Log-probs of given tokens from hidden states, the head applied in chunks: no (tokens x vocabulary) tensor.

Shapes: N packed token, E hidden width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from sod.models.network import Network

__all__ = ["TokenLogprobs", "head_logprobs"]

_CHUNK_ELEMENTS = 1 << 24  # of float32 logits: 64 MiB


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenLogprobs:
    """Natural log-probs of given tokens (float32, differentiable) and the entropy in nats of the distributions they
    come from (float32, no gradient; empty when it was not asked for)."""

    logprobs_N: Tensor
    entropy_N: Tensor


def head_logprobs(
    network: Network, hidden_NE: Tensor, token_N: Tensor, *, temperature_N: Tensor, entropy: bool = True
) -> TokenLogprobs:
    """log-softmax(head(hidden) / temperature) at `token_N`, in float32.

    With gradients and more than one chunk, a chunk's logits are computed again in the backward pass instead of kept.
    """
    chunk = max(1, _CHUNK_ELEMENTS // network.vocab_size)
    run = partial(_chunk, network, entropy=entropy)
    if torch.is_grad_enabled() and len(token_N) > chunk:
        run = partial(checkpoint, run, use_reentrant=False)
    fields = (hidden_NE, token_N, temperature_N)
    results = [run(*piece) for piece in zip(*(torch.split(field, chunk) for field in fields), strict=True)]
    return TokenLogprobs(
        logprobs_N=torch.cat([logprobs_N for logprobs_N, _ in results]),
        entropy_N=torch.cat([entropy_N for _, entropy_N in results]),
    )


def _chunk(
    network: Network, hidden_NE: Tensor, token_N: Tensor, temperature_N: Tensor, *, entropy: bool
) -> tuple[Tensor, Tensor]:
    logprobs_NV = torch.log_softmax(network.logits(hidden_NE).float() / temperature_N[:, None], dim=-1)
    return logprobs_NV.gather(-1, token_N[:, None])[:, 0], _entropy(logprobs_NV) if entropy else token_N.new_empty(0)


@torch.no_grad()
def _entropy(logprobs_NV: Tensor) -> Tensor:
    return -(logprobs_NV.exp() * logprobs_NV.clamp(min=torch.finfo(torch.float32).min)).sum(-1)  # 0 * -inf is 0

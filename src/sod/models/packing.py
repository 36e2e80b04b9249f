"""Sequences laid end to end: no padding in the linear layers, attention within each sequence only.

The attention below is registered with transformers under one name and decides by what a forward hands it: with a
`Packing` it attends within each sequence, without one it is transformers' own. So one module decodes rows and reads
packed sequences at the same time, in two threads.

Shapes: B sequence, N packed token, H head, T token, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sod.models.cache import Parked

__all__ = ["ATTENTION", "PackedCache", "Packing"]

ATTENTION = "sod"
"""The name to set as a module's attention implementation."""

_LITTLE_PADDING = 1 / 16  # about what a call of attention for every sequence costs small models on a CPU


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Packing:
    """How the tokens of a forward fall into sequences: `num_kept[b]` that were computed before, `num_new[b]` now."""

    num_kept: tuple[int, ...]
    num_new: tuple[int, ...]
    boundary_new: Tensor
    """int32 (B + 1): where each sequence's queries begin, `num_new [3 2] -> [0 3 5]`."""
    boundary_all: Tensor
    """The same of its keys."""
    key_index: Tensor | None = None
    """Where every sequence's keys stand among the new ones, when some continue another sequence of this forward."""

    @classmethod
    def of(cls, num_new: Sequence[int], *, num_kept: Sequence[int] | None = None, device: torch.device) -> Packing:
        """Sequences in the order of their tokens, each of at least one new token."""
        assert all(count > 0 for count in num_new), "every packed sequence must have a token"
        kept = tuple(num_kept or [0] * len(num_new))
        total = [before + now for before, now in zip(kept, num_new, strict=True)]
        return cls(
            num_kept=kept,
            num_new=tuple(num_new),
            boundary_new=torch.tensor([0, *accumulate(num_new)], dtype=torch.int32, device=device),
            boundary_all=torch.tensor([0, *accumulate(total)], dtype=torch.int32, device=device),
        )

    @classmethod
    def branching(cls, num_new: Sequence[int], *, stem: Sequence[int | None], device: torch.device) -> Packing:
        """Sequences of which some continue another: `num_new [3 2 1], stem [- 0 0]` are 3, 3 + 2 and 3 + 1 long."""
        if all(each is None for each in stem):
            return cls.of(num_new, device=device)
        start = [0, *accumulate(num_new)]
        keys: list[int] = []
        for index, each in enumerate(stem):
            keys += [] if each is None else range(start[each], start[each + 1])
            keys += range(start[index], start[index + 1])
        num_kept = [0 if each is None else num_new[each] for each in stem]
        packing = cls.of(num_new, num_kept=num_kept, device=device)
        return replace(packing, key_index=torch.tensor(keys, device=device))

    @property
    def num_keys(self) -> tuple[int, ...]:
        """Keys of each sequence."""
        return tuple(before + now for before, now in zip(self.num_kept, self.num_new, strict=True))

    @property
    def nearly_even(self) -> bool:
        """Whether sequences that begin are so much of one length that rows of the longest would hold little padding."""
        padded = len(self.num_new) * max(self.num_new)
        return not any(self.num_kept) and padded <= (1 + _LITTLE_PADDING) * sum(self.num_new)

    def inside(self) -> Tensor:
        """(B, T) where tokens stand when every sequence is a row: `num_new [3 2] -> [[1 1 1] [1 1 0]]`."""
        device = self.boundary_new.device
        length_B = torch.tensor(self.num_new, device=device)
        return torch.arange(max(self.num_new), device=device) < length_B[:, None]

    def positions(self) -> Tensor:
        """(1, N) position of every new token: `num_kept [0 4], num_new [3 2] -> [0 1 2 4 5]`."""
        device = self.boundary_new.device
        num_new = torch.tensor(self.num_new, device=device)
        offset = torch.tensor(self.num_kept, device=device) - self.boundary_new[:-1]
        return (torch.arange(sum(self.num_new), device=device) + offset.repeat_interleave(num_new))[None]


class PackedCache(Cache):
    """What was kept of the sequences of one packed forward, and what is to be kept of it.

    `kept[b]` is None for a sequence that begins; keys and values of its first `wanted[b]` tokens will come again.
    """

    def __init__(self, packing: Packing, *, kept: Sequence[Parked | None], wanted: Sequence[int]) -> None:
        super().__init__(layers=[])
        self._packing = packing
        self._kept = kept
        self._wanted = wanted
        self._layers_of: list[list[Tensor]] = [[] for _ in wanted]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Takes the new (1, H, N, D) of a layer; returns all keys and values, each sequence's kept ones first."""
        del args, kwargs
        new = torch.split(torch.cat([key_states, value_states]), list(self._packing.num_new), dim=2)
        whole = [self._with_kept(index, layer_idx, piece) for index, piece in enumerate(new)]
        for index, piece in enumerate(whole):
            if wanted := self._wanted[index]:  # in memory of its own: a view would hold the whole batch's
                self._layers_of[index].append(piece[:, :, :wanted].clone(memory_format=torch.contiguous_format))
        both = torch.cat(whole, dim=2)
        return both[:1], both[1:]

    def _with_kept(self, index: int, layer: int, piece: Tensor) -> Tensor:
        kept, num_kept = self._kept[index], self._packing.num_kept[index]
        return piece if kept is None else torch.cat([kept.kv[layer][:, :, :num_kept], piece], dim=2)

    def parked(self, index: int, token_ids: tuple[int, ...]) -> Parked | None:
        """What to keep of a sequence whose tokens begin with `token_ids`; None when nothing is wanted of it."""
        if not self._wanted[index]:
            return None
        return Parked(token_ids=token_ids[: self._wanted[index]], kv=tuple(self._layers_of[index]))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: (1, H, N, D) in, (1, N, H, D) out. Without a packing, transformers' own."""
    if packing is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    scale = kwargs.get("scaling")
    if packing.key_index is not None:
        key, value = key.index_select(2, packing.key_index), value.index_select(2, packing.key_index)
    if _has_kernel(query):
        return _attend_varlen(query, key, value, packing, scale=scale), None
    return _attend_each(query, key, value, packing, scale=scale), None


def _has_kernel(query: Tensor) -> bool:
    """Whether torch's attention over sequences of different lengths takes these tensors."""
    if not query.is_cuda or query.dtype not in (torch.float16, torch.bfloat16) or query.shape[-1] % 8:
        return False
    return query.shape[-1] <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


def _attend_varlen(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, scale: float | None) -> Tensor:
    """One kernel for all sequences; window (-1, 0) is causal, the last query seeing the last key."""
    from torch.nn.attention.varlen import varlen_attn

    packed = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        packing.boundary_new,
        packing.boundary_all,
        max(packing.num_new),
        max(packing.num_keys),
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(packed, Tensor)
    return packed[None]


def _attend_each(query: Tensor, key: Tensor, value: Tensor, packing: Packing, *, scale: float | None) -> Tensor:
    """One call for every run of sequences of one length: quicker on a CPU than to pad where lengths differ."""
    shapes = zip(packing.num_kept, packing.num_new, strict=True)
    runs = [(num_kept, num_new, len(list(run))) for (num_kept, num_new), run in groupby(shapes)]
    new = [count * num_new for _, num_new, count in runs]
    whole = [count * (num_kept + num_new) for num_kept, num_new, count in runs]
    # split, not slices: the gradients of all pieces then become one tensor, not one of full size each
    pieces = zip(torch.split(query, new, 2), torch.split(key, whole, 2), torch.split(value, whole, 2), strict=True)
    outputs = []
    for (num_kept, num_new, count), (queries, keys, values) in zip(runs, pieces, strict=True):
        attended = torch.nn.functional.scaled_dot_product_attention(
            _rows(queries, count),
            _rows(keys, count),
            _rows(values, count),
            attn_mask=_seen(num_new, num_kept=num_kept, device=query.device) if num_kept else None,
            is_causal=not num_kept,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _seen(num_new: int, *, num_kept: int, device: torch.device) -> Tensor:
    """(T, S) whether new token t sees key s: `num_new 2, num_kept 1 -> [[1 1 0] [1 1 1]]`."""
    return torch.ones(num_new, num_kept + num_new, dtype=torch.bool, device=device).tril(num_kept)


def _rows(states: Tensor, count: int) -> Tensor:
    """(1, H, count * T, D) -> (count, H, T, D); models lay tokens out before heads, so that nothing is copied."""
    _, heads, _, width = states.shape
    return states.transpose(1, 2).reshape(count, -1, heads, width).transpose(1, 2)


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)

"""What a packed forward reads of padded rows: a prompt that several rows begin with is read once.

Shapes: B row, T token, N packed token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sod.models.packing import Packing

__all__ = ["Reading", "read_rows"]

_WORTH_SHARING = 16  # tokens; a shorter prompt is read again sooner than looked up


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """The tokens to read, and where each row's tokens stand among them (0 for those that are not read)."""

    token_N: Tensor
    packing: Packing
    place_BT: Tensor


def read_rows(token_BT: Tensor, mask_BT: Tensor) -> Reading:
    """Rows up to the token before their last masked one: what comes after predicts nothing that is wanted.

    Tokens before the first masked one are a row's prompt. Siblings share it, also in the backward pass, which adds up
    what they say of it: `token [a b c] [a b d], mask [0 0 1] -> read a b once`. Rows without a masked token are not
    read, but for the first where no row has one: a forward needs a token.
    """
    device, width = token_BT.device, token_BT.shape[1]
    layout = _Layout()
    place_BT = torch.zeros(mask_BT.shape, dtype=torch.int64)
    for (prompt, *_), rows in _siblings(token_BT, mask_BT).items():
        shared = prompt if len(rows) > 1 and prompt >= _WORTH_SHARING else 0
        stem = layout.add(range(rows[0][0] * width, rows[0][0] * width + shared), stem=None) if shared else None
        for row, length in rows:
            if stem is not None:
                place_BT[row, :shared] = torch.arange(layout.start[stem], layout.start[stem] + shared)
            if length > shared:
                index = layout.add(range(row * width + shared, row * width + length), stem=stem)
                place_BT[row, shared:length] = torch.arange(layout.start[index], layout.num_tokens)
    return Reading(
        token_N=token_BT.flatten()[torch.tensor(layout.source, device=device)],
        packing=Packing.branching(layout.num_new, stem=layout.stem, device=device),
        place_BT=place_BT.to(device),
    )


@dataclass(kw_only=True, slots=True)
class _Layout:
    """Sequences laid end to end: where each comes from in the flat rows, where it begins, and what it continues."""

    source: list[int] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    num_new: list[int] = field(default_factory=list)
    stem: list[int | None] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        return len(self.source)

    def add(self, tokens: range, *, stem: int | None) -> int:
        """Append a sequence; returns its number."""
        self.start.append(len(self.source))
        self.source += tokens
        self.num_new.append(len(tokens))
        self.stem.append(stem)
        return len(self.num_new) - 1


def _siblings(token_BT: Tensor, mask_BT: Tensor) -> dict[tuple[int, ...], list[tuple[int, int]]]:
    """(row, tokens to read) of the rows that begin with the same prompt, by (its length, *its tokens)."""
    place_T = torch.arange(token_BT.shape[1], device=token_BT.device)
    prompt_B = mask_BT.int().argmax(1).tolist()
    length_B = (place_T * mask_BT).amax(1).tolist()
    if not any(length_B):
        length_B[0] = 1
    found: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for row, (prompt, length) in enumerate(zip(prompt_B, length_B, strict=True)):
        if length:
            key = (prompt, *token_BT[row, :prompt].tolist())
            found.setdefault(key, []).append((row, length))
    return found

"""A turn, and what its row needs at every step, as tensors with a row per entry.

Shapes: R row, T token position, V vocabulary, S stop token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sod.config import SamplingConfig
from sod.errors import EngineError
from sod.models.sampling import draw, mix, uniform
from sod.types import Completion

__all__ = ["RowState", "Turn"]

_TOKEN, _LENGTH, _END, _SEED, _TOP_K, _GREEDY = range(6)
_NO_TOKEN = -1


@dataclass(eq=False, kw_only=True, slots=True)
class Turn:
    """One turn, waiting or running. When it is over, `result` is its completion or what went wrong."""

    token_ids: tuple[int, ...]
    end: int
    """Longest sequence it may reach, in tokens."""
    stop_token_ids: tuple[int, ...]
    sampling: SamplingConfig
    trajectory_id: str
    seed: int
    policy_version: int
    dropped: bool = False
    """Nobody waits for it any more."""
    released: bool = False
    """Its trajectory is over, so nothing is kept of it."""
    num_reused: int = 0
    """Tokens whose keys and values were there when it entered."""
    base: int = 0
    """Its length less the decoder's count of steps: lengths are known without asking the device."""
    drawn: tuple[int, ...] = ()
    """What it had sampled when it had to give its row up; `token_ids` has it, too."""
    drawn_logprobs: tuple[float, ...] = ()
    result: Completion | EngineError | None = None


class RowState:
    """Last token, length, limits and settings of every row; what it sampled so far; its attention mask."""

    def __init__(self, device: torch.device, *, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        self.drop()

    def drop(self) -> None:
        """Give the memory back."""
        self._integers = torch.zeros(0, 6, dtype=torch.int64, device=self._device)
        self._floats = torch.zeros(0, 2, device=self._device)
        self._stop = torch.full((0, 1), _NO_TOKEN, device=self._device)
        self._sampled = torch.zeros(0, 0, dtype=torch.int64, device=self._device)
        self._logprob = torch.zeros(0, 0, device=self._device)
        self.mask = torch.zeros(0, 0, dtype=self._dtype, device=self._device)
        self._cut = self._scaled = self._any_greedy = False

    def reserve(self, *, rows: int, tokens: int) -> None:
        """Take this shape; what is stored inside it is kept."""
        if (rows, tokens) == tuple(self.mask.shape):
            return
        self._integers = _grown(self._integers, (rows, 6))
        self._floats = _grown(self._floats, (rows, 2))
        self._stop = _grown(self._stop, (rows, self._stop.shape[1]), fill=_NO_TOKEN)
        self._sampled = _grown(self._sampled, (rows, tokens))
        self._logprob = _grown(self._logprob, (rows, tokens))
        self.mask = _grown(self.mask, (rows, tokens), fill=-torch.inf)

    def append(self, turns: Sequence[Turn], *, first: int) -> None:
        """Fill rows `first` on. Each sees all its tokens; the next draw is at its length."""
        last = first + len(turns)
        num_stop = max(len(turn.stop_token_ids) for turn in turns)
        if num_stop > self._stop.shape[1]:
            self._stop = _grown(self._stop, (len(self._stop), num_stop), fill=_NO_TOKEN)
        width = self._stop.shape[1]
        stop = [[*turn.stop_token_ids, *[_NO_TOKEN] * (width - len(turn.stop_token_ids))] for turn in turns]
        self._stop[first:last] = torch.tensor(stop, device=self._device)
        self._integers[first:last] = torch.tensor([_integers(turn) for turn in turns], device=self._device)
        floats = [(turn.sampling.temperature or 1.0, turn.sampling.top_p) for turn in turns]
        self._floats[first:last] = torch.tensor(floats, device=self._device)
        position_T = torch.arange(self.mask.shape[1], device=self._device)
        unseen_RT = position_T >= self._integers[first:last, _LENGTH, None]
        self.mask[first:last] = torch.zeros_like(self.mask[first:last]).masked_fill_(unseen_RT, -torch.inf)

    def move(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy rows onto others."""
        source_R = torch.tensor(sources, device=self._device)
        target_R = torch.tensor(targets, device=self._device)
        for field in (self._integers, self._floats, self._stop, self._sampled, self._logprob, self.mask):
            field.index_copy_(0, target_R, field.index_select(0, source_R))

    def describe(self, turns: Sequence[Turn]) -> None:
        """Note what the running turns need of a draw, so that a step does not look: cuts, temperatures, greedy rows."""
        kinds = {id(turn.sampling): turn.sampling for turn in turns}.values()
        self._cut = any(sampling.top_p < 1.0 or sampling.top_k for sampling in kinds)
        self._scaled = any(sampling.temperature not in (0.0, 1.0) for sampling in kinds)
        self._any_greedy = any(sampling.temperature == 0.0 for sampling in kinds)

    def token(self, num_rows: int) -> Tensor:
        """Last token of each row."""
        return self._integers[:num_rows, _TOKEN]

    def see_last(self, num_rows: int) -> Tensor:
        """Let each row attend to its last token; returns that token's position."""
        position_R = self._integers[:num_rows, _LENGTH] - 1
        self.mask[:num_rows].scatter_(1, position_R[:, None], 0.0)
        return position_R

    def draw(self, logits_RV: Tensor, *, first: int) -> list[int]:
        """Draw the next token of rows `first` on. Returns the rows whose turn is over."""
        rows = slice(first, first + len(logits_RV))
        state = self._integers[rows]
        position_R = state[:, _LENGTH].clone()
        drawn = draw(
            logits_RV,
            uniform(state[:, _SEED], position_R),
            temperature_R=self._floats[rows, 0] if self._scaled else None,
            top_p_R=self._floats[rows, 1] if self._cut else None,
            top_k_R=state[:, _TOP_K] if self._cut else None,
            greedy_R=state[:, _GREEDY] > 0 if self._any_greedy else None,
        )
        self._sampled[rows].scatter_(1, position_R[:, None], drawn.token_R[:, None])
        self._logprob[rows].scatter_(1, position_R[:, None], drawn.logprob_R[:, None])
        state[:, _TOKEN] = drawn.token_R
        state[:, _LENGTH] += 1
        over_R = (drawn.token_R[:, None] == self._stop[rows]).any(1) | (state[:, _LENGTH] >= state[:, _END])
        return [first + row for row in over_R.nonzero()[:, 0].tolist()]

    def sampled(self, row: int, *, begin: int, end: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Tokens and log-probs that a row sampled at positions begin..end-1."""
        return tuple(self._sampled[row, begin:end].tolist()), tuple(self._logprob[row, begin:end].tolist())


def _integers(turn: Turn) -> list[int]:
    sampling = turn.sampling
    top_k = sampling.top_k or 1 << 62
    return [turn.token_ids[-1], len(turn.token_ids), turn.end, mix(turn.seed), top_k, int(sampling.temperature == 0.0)]


def _grown(old: Tensor, shape: tuple[int, int], *, fill: float = 0) -> Tensor:
    new = torch.full(shape, fill, dtype=old.dtype, device=old.device)
    rows, columns = min(len(old), shape[0]), min(old.shape[1], shape[1])
    new[:rows, :columns] = old[:rows, :columns]
    return new

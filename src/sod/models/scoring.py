"""Requests for log-probs, taken together: sorted by length, padded little, one micro-batch a round.

Shapes: B request, T token, E hidden width, N packed token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sod.errors import EngineError
from sod.models.grouping import length_groups
from sod.models.logprobs import head_logprobs
from sod.models.network import Network

__all__ = ["Request", "Scoring"]


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """One sequence whose tokens at `positions` (ascending, at least 1) are wanted."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    temperature: float
    dropped: bool = False
    result: tuple[float, ...] | EngineError | None = None

    @property
    def num_inputs(self) -> int:
        """Tokens the model must read: those before the last position."""
        return self.positions[-1]


class Scoring:
    """The queue of requests."""

    def __init__(self, network: Network, *, tokens_per_forward: int) -> None:
        self._network = network
        self._tokens_per_forward = tokens_per_forward
        self._arrived: list[Request] = []
        self._batches: list[list[Request]] = []

    @property
    def busy(self) -> bool:
        """Whether a request waits."""
        return bool(self._arrived or self._batches)

    def put(self, request: Request) -> None:
        """Queue a request."""
        self._arrived.append(request)

    def clear(self) -> list[Request]:
        """Drop everything, after a failure; returns the requests that were not answered."""
        requests = [*self._arrived, *(request for batch in self._batches for request in batch)]
        self._arrived, self._batches = [], []
        return requests

    def iterate(self) -> list[Request]:
        """One micro-batch. Returns the requests that were answered."""
        if not self._batches:
            self._batch_arrived()
        if not self._batches:
            return []
        batch = self._batches[-1]
        for request, values in zip(batch, self._score(batch), strict=True):
            request.result = values
        self._batches.pop()  # after the forward: if it fails, clear() still finds the requests
        return batch

    def _batch_arrived(self) -> None:
        requests = sorted((r for r in self._arrived if not r.dropped), key=lambda request: request.num_inputs)
        self._arrived = []
        groups = length_groups([request.num_inputs for request in requests], max_tokens=self._tokens_per_forward)
        self._batches = [[requests[index] for index in group] for group in groups]

    @torch.inference_mode()
    def _score(self, batch: Sequence[Request]) -> list[tuple[float, ...]]:
        device = self._network.device
        width = batch[-1].num_inputs
        rows = [[*r.token_ids[: r.num_inputs], *[0] * (width - r.num_inputs)] for r in batch]
        hidden_BTE = self._network.hidden(torch.tensor(rows, device=device))
        # Token i is predicted by the hidden state before it.
        index = [row * width + position - 1 for row, request in enumerate(batch) for position in request.positions]
        token_ids = [request.token_ids[position] for request in batch for position in request.positions]
        temperatures = [request.temperature for request in batch for _ in request.positions]
        scored = head_logprobs(
            self._network,
            hidden_BTE.flatten(0, 1)[torch.tensor(index, device=device)],
            torch.tensor(token_ids, device=device),
            temperature_N=torch.tensor(temperatures, device=device),
            entropy=False,
        )
        values = iter(scored.logprobs_N.tolist())
        return [tuple(next(values) for _ in request.positions) for request in batch]

"""Requests for log-probs, taken together: packed, so many tokens a forward, reusing what was kept of a trajectory.

Everything but `compute` belongs to one thread; `compute`, which touches no queue, may run in another.

Shapes: B request, T token, E hidden width, N packed token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import accumulate, islice

import torch
from torch import Tensor

from sod.errors import EngineError
from sod.models import TokenScores
from sod.models.cache import Parked, ParkingLot, common_prefix
from sod.models.grouping import token_runs
from sod.models.logprobs import head_logprobs
from sod.models.network import Network
from sod.models.packing import PackedCache, Packing

__all__ = ["Request", "Scored", "Scoring"]

_WORTH_KEEPING = 16  # tokens; a shorter prompt is read again sooner than looked up


@dataclass(eq=False, kw_only=True, slots=True)
class Request:
    """One sequence whose tokens at `positions` (ascending, at least 1) are wanted."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    temperature: float
    trajectory_id: str = ""
    """Keys and values are kept under it; with "" nothing is."""
    entropy: bool = False
    """Entropies are wanted too."""
    dropped: bool = False
    """Nobody waits for it any more."""
    keeps_prompt: bool = False
    """What comes before its first position is kept for its siblings."""
    num_reused: int = 0
    """Tokens whose keys and values were kept."""
    result: TokenScores | EngineError | None = None

    @property
    def num_new(self) -> int:
        """Tokens the model must read: those before the last position that are not reused."""
        return self.positions[-1] - self.num_reused

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens whose keys and values siblings can share: all before the one that predicts the first position."""
        return self.token_ids[: self.positions[0] - 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """What one request gave: its log-probs, and what was read of it that may come again."""

    scores: TokenScores
    parked: Parked | None


def _num_to_keep(request: Request) -> int:
    """Tokens of which keys and values are to be kept: the trajectory so far, or its prompt."""
    return request.positions[-1] if request.trajectory_id else len(request.prompt) if request.keeps_prompt else 0


class Scoring:
    """The queue of requests, and what is kept of trajectories that will come again."""

    def __init__(self, network: Network, *, tokens_per_forward: int, parked_bytes: int) -> None:
        self._network = network
        self._tokens_per_forward = tokens_per_forward
        self._parked = ParkingLot(max_bytes=parked_bytes)
        self._prompts = ParkingLot(max_bytes=parked_bytes // 4)
        self._kept: dict[Request, Parked] = {}
        self._arrived: list[Request] = []
        self._batches: list[list[Request]] = []
        self._running: list[Request] = []
        self._stream: torch.cuda.Stream | None = None
        if network.device.type == "cuda":
            self._stream = torch.cuda.Stream(network.device)  # type: ignore[no-untyped-call]
        self.num_computed = 0
        """Tokens read by the model: what reuse saves shows here."""

    @property
    def busy(self) -> bool:
        """Whether a request waits."""
        return bool(self._arrived or self._batches)

    @property
    def num_parked(self) -> int:
        """Trajectories whose keys and values are kept."""
        return len(self._parked)

    def put(self, request: Request) -> None:
        """Queue a request."""
        self._arrived.append(request)

    def release(self, trajectory_id: str) -> None:
        """Forget a trajectory; nothing is kept of its requests that are under way."""
        self._parked.take(trajectory_id)
        for request in self._waiting() + self._running:
            if request.trajectory_id == trajectory_id:
                request.trajectory_id = ""

    def forget(self) -> None:
        """Drop all that is kept: the weights it came from are gone. What runs goes on, and is not kept."""
        self._arrived, self._batches = self._waiting(), []
        for request in self._arrived:
            request.num_reused = 0
        for request in self._running:
            request.trajectory_id, request.keeps_prompt = "", False
        self._kept.clear()
        self._parked.clear()
        self._prompts.clear()

    def clear(self) -> list[Request]:
        """Drop everything, after a failure; returns the requests that were not answered."""
        requests = [*self._running, *self._waiting()]
        self._running, self._arrived, self._batches = [], [], []
        self._kept.clear()
        self._parked.clear()
        self._prompts.clear()
        return requests

    def _waiting(self) -> list[Request]:
        return [*self._arrived, *(request for batch in self._batches for request in batch)]

    def next_batch(self) -> dict[Request, Parked | None]:
        """Requests for one `compute`, with what was kept of them; empty when nobody waits. Then comes `finish`."""
        if not self._batches:
            self._batch_arrived()
        batch = self._batches.pop() if self._batches else []
        kept = {request: self._kept.pop(request, None) for request in batch}
        self._running = [request for request in batch if not request.dropped]
        return {request: kept[request] for request in self._running}

    def finish(self, scored: Sequence[Scored]) -> list[Request]:
        """Take what `compute` returned. Returns the requests that were answered."""
        answered, self._running = self._running, []
        for request, one in zip(answered, scored, strict=True):
            request.result = one.scores
            self.num_computed += request.num_new
            if one.parked is None:
                continue
            if request.keeps_prompt:
                self._prompts.put(request.prompt, one.parked.cut(len(request.prompt)))
            if request.trajectory_id:
                self._parked.put(request.trajectory_id, one.parked)
        return answered

    def _batch_arrived(self) -> None:
        """Requests whose prompt another one reads in this round wait for the next, and find it kept."""
        arrived, self._arrived = self._arrived, []
        requests: list[Request] = []
        prompts: set[tuple[int, ...]] = set()
        for request in arrived:
            if request.dropped:
                continue
            self._reuse(request)
            if request.keeps_prompt and request.prompt in prompts:
                self._arrived.append(request)
                continue
            prompts.add(request.prompt)
            requests.append(request)
        requests.sort(key=lambda request: (request.num_reused, request.num_new))  # runs of one length are quickest
        # Keys and values of what was kept are copied together: they count against the limit like tokens.
        lengths = [request.num_reused + request.num_new for request in requests]
        runs = token_runs(lengths, max_tokens=self._tokens_per_forward)
        self._batches = [[requests[index] for index in run] for run in runs]

    def _reuse(self, request: Request) -> None:
        """Find what was kept of the request's trajectory, else of its prompt, and how much of it holds."""
        parked = self._parked.take(request.trajectory_id) or self._prompts.look(request.prompt)
        request.keeps_prompt = parked is None and len(request.prompt) >= _WORTH_KEEPING
        if parked is None:
            return
        # The last token before the first position is read again: its hidden state gives the first log-prob.
        request.num_reused = min(common_prefix(parked.token_ids, request.token_ids), len(request.prompt))
        if request.num_reused:
            self._kept[request] = parked

    # --- what may run in another thread -------------------------------------------------------------------------

    @torch.inference_mode()
    def compute(self, batch: dict[Request, Parked | None]) -> list[Scored]:
        """One forward."""
        with self._on_stream():
            packing = Packing.of(
                [request.num_new for request in batch],
                num_kept=[request.num_reused for request in batch],
                device=self._network.device,
            )
            wanted = [_num_to_keep(request) for request in batch]
            kept = list(batch.values())
            cache = PackedCache(packing, kept=kept, wanted=wanted) if any(wanted) or any(kept) else None
            scores = self._scores(list(batch), packing, cache)
            return [
                Scored(scores=scores[index], parked=None if cache is None else cache.parked(index, request.token_ids))
                for index, request in enumerate(batch)
            ]

    def _on_stream(self) -> AbstractContextManager[object]:
        """On a GPU a stream of its own, so that forwards of others go on meanwhile; the weights must be there first."""
        if self._stream is None:
            return nullcontext()
        self._stream.wait_stream(torch.cuda.default_stream(self._stream.device))
        return torch.cuda.stream(self._stream)

    def _scores(self, batch: Sequence[Request], packing: Packing, cache: PackedCache | None) -> list[TokenScores]:
        """Of the wanted tokens of each request."""
        new_ids = [token for r in batch for token in r.token_ids[r.num_reused : r.positions[-1]]]
        hidden_NE = self._network.hidden_packed(self._tensor(new_ids), packing=packing, cache=cache)
        # Token i is predicted by the hidden state before it.
        starts = accumulate((r.num_new for r in batch), initial=0)
        offsets = [start - r.num_reused - 1 for start, r in zip(starts, batch, strict=False)]
        index = [offset + position for offset, r in zip(offsets, batch, strict=True) for position in r.positions]
        scored = head_logprobs(
            self._network,
            hidden_NE[self._tensor(index)],
            self._tensor([r.token_ids[position] for r in batch for position in r.positions]),
            temperature_N=self._tensor([r.temperature for r in batch for _ in r.positions]),
            entropy=any(r.entropy for r in batch),
        )
        logprobs, entropies = iter(scored.logprobs_N.tolist()), iter(scored.entropy_N.tolist())
        return [
            TokenScores(
                logprobs=tuple(islice(logprobs, len(r.positions))),
                entropies=tuple(islice(entropies, len(r.positions))) or None,
            )
            for r in batch
        ]

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, device=self._network.device)

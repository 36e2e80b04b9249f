"""Models that play a script: a sampler that says what it is told, a scorer that returns what it is told. No torch.

For tests of everything that takes a Sampler or a Scorer:

    sampler = ScriptedSampler({"0/0": [[5, 6, 2], [7, 2]]})            # two turns of one trajectory
    sampler = ScriptedSampler(lambda token_ids, turn: [turn + 5, 2])   # any trajectory, any number of turns
    scorer = ScriptedScorer(-1.5)
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from sod.config import SamplingConfig
from sod.errors import EngineError
from sod.types import Completion

__all__ = ["Reply", "SampleCall", "ScoreCall", "ScriptedSampler", "ScriptedScorer"]

Reply: TypeAlias = Callable[[tuple[int, ...], int], Sequence[int]]
"""(token_ids so far, turn index from 0) -> token ids of the turn."""

LogprobRule: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...]], Sequence[float]]
"""(token_ids, positions) -> one log-prob per position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCall:
    """What `ScriptedSampler.sample` was asked."""

    token_ids: tuple[int, ...]
    max_tokens: int
    stop_token_ids: frozenset[int]
    sampling: SamplingConfig
    trajectory_id: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreCall:
    """What `ScriptedScorer.score` was asked."""

    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    temperature: float
    trajectory_id: str = ""


class ScriptedSampler:
    """Plays replies, cut as a real sampler would: after the first stop token, or at `max_tokens`.

    `replies` maps a trajectory id to the token ids of its turns in order, or is a function of the tokens so far and the
    turn index. `logprobs` is one number for every token, or a rule of (whole sequence, positions of the reply).
    `latency_s` is waited in every call. `calls` and `released` record what was asked; `policy_version` can be set.

    Raises EngineError when a script has no reply left, is empty or gives none for the trajectory: a test that runs off
    its script should fail.
    """

    def __init__(
        self,
        replies: Mapping[str, Sequence[Sequence[int]]] | Reply,
        *,
        logprobs: float | LogprobRule = -1.0,
        latency_s: float = 0.0,
    ) -> None:
        self._replies = replies
        self._logprobs = logprobs
        self._latency_s = latency_s
        self._num_turns: Counter[str] = Counter()
        self.policy_version = 0
        self.calls: list[SampleCall] = []
        self.released: list[str] = []

    async def sample(
        self,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        stop_token_ids: Collection[int],
        sampling: SamplingConfig,
        trajectory_id: str,
        seed: int,
    ) -> Completion:
        """The trajectory's next reply."""
        call = SampleCall(
            token_ids=tuple(token_ids),
            max_tokens=max_tokens,
            stop_token_ids=frozenset(stop_token_ids),
            sampling=sampling,
            trajectory_id=trajectory_id,
            seed=seed,
        )
        self.calls.append(call)
        turn = self._num_turns[trajectory_id]
        self._num_turns[trajectory_id] += 1
        version = self.policy_version
        await asyncio.sleep(self._latency_s)
        reply = _cut(self._reply(call, turn), max_tokens=max_tokens, stop_token_ids=call.stop_token_ids)
        whole = (*call.token_ids, *reply)
        positions = tuple(range(len(call.token_ids), len(whole)))
        return Completion(
            token_ids=reply,
            logprobs=_values(self._logprobs, whole, positions),
            stopped=reply[-1] in call.stop_token_ids,
            policy_version=version,
        )

    def release(self, trajectory_id: str) -> None:
        """Recorded in `released`; the trajectory's script starts again should it come back."""
        self.released.append(trajectory_id)
        del self._num_turns[trajectory_id]

    def _reply(self, call: SampleCall, turn: int) -> Sequence[int]:
        if callable(self._replies):
            return self._replies(call.token_ids, turn)
        turns = self._replies.get(call.trajectory_id, ())
        if turn >= len(turns):
            raise EngineError(
                f'a script must hold every turn that is asked for, got {len(turns)} turns for trajectory "'
                f'{call.trajectory_id}" and a request for turn {turn}; add a reply'
            )
        return turns[turn]


class ScriptedScorer:
    """Returns given log-probs: one number for every position, or a rule of (token_ids, positions).

    `temperature` is recorded in `calls` and does nothing. `latency_s` is waited in every call: a number, or a rule of
    how many positions are asked for. `released` records what was let go.
    """

    def __init__(
        self, logprobs: float | LogprobRule = -1.0, *, latency_s: float | Callable[[int], float] = 0.0
    ) -> None:
        self._logprobs = logprobs
        self._latency_s = latency_s
        self.calls: list[ScoreCall] = []
        self.released: list[str] = []

    async def score(
        self, token_ids: Sequence[int], *, positions: Sequence[int], temperature: float = 1.0, trajectory_id: str = ""
    ) -> tuple[float, ...]:
        """The rule's log-probs at `positions`."""
        call = ScoreCall(
            token_ids=tuple(token_ids),
            positions=tuple(positions),
            temperature=temperature,
            trajectory_id=trajectory_id,
        )
        self.calls.append(call)
        latency_s = self._latency_s
        await asyncio.sleep(latency_s(len(call.positions)) if callable(latency_s) else latency_s)
        return _values(self._logprobs, call.token_ids, call.positions)

    def release(self, trajectory_id: str) -> None:
        """Recorded in `released`."""
        self.released.append(trajectory_id)


def _cut(reply: Sequence[int], *, max_tokens: int, stop_token_ids: frozenset[int]) -> tuple[int, ...]:
    """`[5, 2, 7], stop {2} -> (5, 2)`."""
    if not reply:
        raise EngineError("a scripted reply must hold at least one token, got none; a model always samples one")
    stops = (index + 1 for index, token in enumerate(reply) if token in stop_token_ids)
    return tuple(reply[: min(next(stops, len(reply)), max_tokens)])


def _values(logprobs: float | LogprobRule, token_ids: tuple[int, ...], positions: tuple[int, ...]) -> tuple[float, ...]:
    if not callable(logprobs):
        return (logprobs,) * len(positions)
    values = tuple(float(value) for value in logprobs(token_ids, positions))
    if len(values) != len(positions) or any(math.isnan(value) for value in values):
        raise EngineError(f"a log-prob rule must return {len(positions)} numbers, got {list(values)}; mend the script")
    return values

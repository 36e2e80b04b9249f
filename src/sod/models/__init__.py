"""Something with weights: it samples, scores, or both. Token ids in, token ids and log-probs out.

`Sampler` and `Scorer` are all that the rest of the package knows of an engine; no engine knows a chat template.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

from sod.config import SamplingConfig
from sod.types import Completion

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EntropyScorer", "LongestSequence", "Model", "Policy", "Sampler", "Scorer", "TokenScores"]


class Sampler(Protocol):
    """Continues token sequences. Calls run concurrently; each is one turn of one trajectory.

    `token_ids` is the whole sequence so far and is the truth; `trajectory_id` lets an engine keep the trajectory's KV
    cache between turns (an engine that kept nothing, or something else, recomputes). `release` says that the trajectory
    is over. `seed` and the position of a token decide its draw, whatever else is in the batch.

    Raises EngineError when the engine fails.
    """

    @property
    def policy_version(self) -> int:
        """Counts weight updates: 0 for the weights that were loaded."""
        ...

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
        """Sample until a stop token (kept, and counted) or `max_tokens`."""
        ...

    def release(self, trajectory_id: str) -> None:
        """Forget what was kept for a trajectory. Unknown ids are ignored."""
        ...


class Scorer(Protocol):
    """Log-probs of given tokens. Calls run concurrently and may be batched together."""

    async def score(
        self, token_ids: Sequence[int], *, positions: Sequence[int], temperature: float = 1.0, trajectory_id: str = ""
    ) -> tuple[float, ...]:
        """Natural log p(token_ids[i] | token_ids[:i]) for i in `positions`, logits divided by `temperature`.

        Positions ascend and are at least 1. A `trajectory_id` says that the same trajectory will come again, longer:
        an engine may keep its KV cache until `release`. Raises EngineError when the engine fails.
        """
        ...

    def release(self, trajectory_id: str) -> None:
        """Forget what was kept for a trajectory. Unknown ids are ignored."""
        ...


class TokenScores(NamedTuple):
    """Of given tokens, one number each: log-probs, and the entropy in nats of the distributions they come from; none
    where an engine has no whole distributions."""

    logprobs: tuple[float, ...]
    entropies: tuple[float, ...] | None = None


@runtime_checkable
class EntropyScorer(Scorer, Protocol):
    """A scorer that has whole distributions."""

    async def score_with_entropy(
        self, token_ids: Sequence[int], *, positions: Sequence[int], temperature: float = 1.0, trajectory_id: str = ""
    ) -> TokenScores:
        """As `score`, and the entropies."""
        ...


class LongestSequence(Protocol):
    """Something with a longest sequence."""

    @property
    def max_length(self) -> int | None:
        """In tokens, prompt and response together; None where a server does not say."""
        ...


class Model(Sampler, Scorer, LongestSequence, Protocol):
    """A model whose weights stay: a teacher, or what is evaluated."""


class Policy(Sampler, LongestSequence, Protocol):
    """A sampler whose weights follow a module that is trained."""

    async def update_weights(self, module: nn.Module) -> None:
        """Take over the module's weights, forget what was computed with the old ones, count the version.

        Raises EngineError when they did not arrive.
        """
        ...

    async def sleep(self) -> None:
        """Nobody samples until the next weights: memory may be given back."""
        ...

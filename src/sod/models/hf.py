"""Any transformers causal language model: one object that samples, scores and trains, on a CPU or one GPU.

    model = HFModel.load(ModelConfig(path="Qwen/Qwen3-0.6B"))
    completion = await model.sample(ids, max_tokens=512, stop_token_ids={151645}, sampling=SamplingConfig(),
                                    trajectory_id="7/0", seed=7)
    model.release("7/0")

Shapes: B trajectory, T token, N packed token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from threading import Lock
from typing import Any, Self

import torch
from torch import Tensor, nn

from sod.config import ModelConfig, SamplingConfig
from sod.errors import EngineError, ModelError
from sod.models import TokenScores
from sod.models.cache import Parked
from sod.models.checkpointing import recomputing
from sod.models.decode import Decoder
from sod.models.logprobs import TokenLogprobs, head_logprobs
from sod.models.lora import full_state, is_lora
from sod.models.network import Network
from sod.models.reading import read_rows
from sod.models.rows import Turn
from sod.models.scoring import Request, Scored, Scoring
from sod.models.tokens import checked_positions, checked_tokens
from sod.models.weights import load_module, save_module
from sod.models.worker import Thread, Worker
from sod.types import Completion

__all__ = ["HFModel", "TokenLogprobs", "default_kv_bytes", "default_parked_bytes"]


class HFModel:
    """Sampler, scorer and trainable model over the same weights.

    `sample` is served by a background task of the running event loop, a round at a time; turns decode together
    (continuous batching) and a trajectory's keys and values are kept between its turns. `score` is served by another
    task, whose forwards run in a thread (on a GPU: a stream) of their own beside the decoding. What a turn draws is
    decided by its seed, positions and logits. Logits of one row differ by rounding with what else is in the batch
    (about 1e-6 in float32), so a draw can differ where its number falls that close to a border.

    The module stays in evaluation mode (dropout off), so that what trains is what samples.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        max_rows: int = 256,
        tokens_per_forward: int = 16384,
        kv_bytes: int | None = None,
        parked_bytes: int | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        """Wrap a transformers causal language model. Raises ModelError for an architecture that does not fit.

        `kv_bytes` bounds the keys and values of turns that decode (what does not fit waits; one turn always runs); by
        default 8 GiB on a CPU, 30 % of a GPU. `parked_bytes` bounds what is kept of trajectories between turns, and as
        much again between scores (the oldest goes first and is computed again); by default 4 GiB on a CPU, a fifth of
        the memory of a GPU. With `gradient_checkpointing`, `token_logprobs` keeps one activation a layer and computes
        the rest again.
        """
        self.module = module.eval()
        self._network = Network(module)
        if parked_bytes is None:
            parked_bytes = default_parked_bytes(self._network.device)
        if kv_bytes is None:
            kv_bytes = default_kv_bytes(self._network.device)
        self._decoder = Decoder(
            self._network,
            max_rows=max_rows,
            tokens_per_forward=tokens_per_forward,
            kv_bytes=kv_bytes,
            parked_bytes=parked_bytes,
        )
        self._scoring = Scoring(self._network, tokens_per_forward=tokens_per_forward, parked_bytes=parked_bytes)
        self._scoring_thread = Thread("sod-scoring")
        self._reading = Lock()
        self._decode_worker = Worker(iterate=self._decode, fail=self._fail_turns)
        self._score_worker = Worker(iterate=self._score, fail=self._fail_requests)
        self._gradient_checkpointing = gradient_checkpointing
        self._turns: dict[Turn, asyncio.Future[Completion]] = {}
        self._requests: dict[Request, asyncio.Future[TokenScores]] = {}
        self._policy_version = 0

    @classmethod
    def load(cls, config: ModelConfig, *, gradient_checkpointing: bool = False) -> Self:
        """Weights from a local directory or the hub; safetensors only. Raises ModelError with the cure."""
        return cls(
            load_module(config),
            max_rows=config.max_rows,
            tokens_per_forward=config.tokens_per_forward,
            kv_bytes=int(config.kv_cache_gib * 2**30) or None,
            gradient_checkpointing=gradient_checkpointing,
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._network.device

    @property
    def vocab_size(self) -> int:
        """Tokens the model knows, padding of the embedding included."""
        return self._network.vocab_size

    @property
    def max_length(self) -> int:
        """Positions the model knows: prompt and response together."""
        return self._network.max_length

    @property
    def policy_version(self) -> int:
        """Counts weight updates: 0 for the weights that were loaded."""
        return self._policy_version

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
        """Sample one turn until a stop token (kept, and counted), `max_tokens`, or the model's own context length.

        Log-probs are those of the tempered distribution before top-p / top-k cuts (temperature 0: of temperature 1).
        Raises EngineError when the engine fails, ModelError for tokens the model cannot take.
        """
        ids = checked_tokens(token_ids, vocab_size=self.vocab_size)
        self._check_room(ids, max_tokens=max_tokens)
        turn = Turn(
            token_ids=ids,
            end=min(len(ids) + max_tokens, self._network.max_length),
            stop_token_ids=tuple(stop_token_ids),
            sampling=sampling,
            trajectory_id=trajectory_id,
            seed=seed,
            policy_version=self._policy_version,
        )
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._turns[turn] = future
        self._decoder.put(turn)
        self._decode_worker.wake()
        try:
            return await future
        except asyncio.CancelledError:
            self._decoder.drop(turn)
            raise
        finally:
            self._turns.pop(turn, None)

    def release(self, trajectory_id: str) -> None:
        """Forget the keys and values of a trajectory. Unknown ids are ignored."""
        self._decoder.release(trajectory_id)
        self._scoring.release(trajectory_id)

    async def score(
        self, token_ids: Sequence[int], *, positions: Sequence[int], temperature: float = 1.0, trajectory_id: str = ""
    ) -> tuple[float, ...]:
        """Natural log p(token_ids[i] | token_ids[:i]) for i in `positions`, logits divided by `temperature`.

        `positions` ascend and are at least 1. Concurrent calls are batched. With a `trajectory_id`, keys and values are
        kept until `release`, and the next request of the trajectory computes only what is new, from the token before
        its first position on. Raises EngineError when the engine fails.
        """
        scores = await self._scored(
            token_ids, positions=positions, temperature=temperature, trajectory_id=trajectory_id, entropy=False
        )
        return scores.logprobs

    async def score_with_entropy(
        self, token_ids: Sequence[int], *, positions: Sequence[int], temperature: float = 1.0, trajectory_id: str = ""
    ) -> TokenScores:
        """As `score`, with the entropy of each distribution: one more pass over its logits."""
        return await self._scored(
            token_ids, positions=positions, temperature=temperature, trajectory_id=trajectory_id, entropy=True
        )

    async def _scored(
        self,
        token_ids: Sequence[int],
        *,
        positions: Sequence[int],
        temperature: float,
        trajectory_id: str,
        entropy: bool,
    ) -> TokenScores:
        wanted = checked_positions(positions, num_tokens=len(token_ids))
        assert temperature > 0.0, f"temperature must be above 0, got {temperature}"
        if not wanted:
            return TokenScores(logprobs=(), entropies=() if entropy else None)
        ids = checked_tokens(token_ids, vocab_size=self.vocab_size)
        request = Request(
            token_ids=ids, positions=wanted, temperature=temperature, trajectory_id=trajectory_id, entropy=entropy
        )
        future: asyncio.Future[TokenScores] = asyncio.get_running_loop().create_future()
        self._requests[request] = future
        self._scoring.put(request)
        self._score_worker.wake()
        try:
            return await future
        finally:
            request.dropped = True
            self._requests.pop(request, None)

    def token_logprobs(self, token_BT: Tensor, mask_BT: Tensor, *, temperature: float = 1.0) -> TokenLogprobs:
        """Log-probs and entropy of the masked tokens: `token [a b c], mask [0 0 1] -> log p(c | a b)`.

        Differentiable in the log-probs; a prompt that several rows share is computed once. Rows are right-padded with
        any valid token; the result has one entry per masked token, row by row. `mask_BT[:, 0]` must be empty: nothing
        predicts a first token.
        """
        hidden_NE, token_N = self.hidden_before(token_BT, mask_BT), token_BT[mask_BT]
        temperature_N = torch.full(token_N.shape, temperature, device=token_N.device)
        return head_logprobs(self._network, hidden_NE, token_N, temperature_N=temperature_N)

    def hidden_before(self, token_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Hidden states (N, E) of the tokens before the masked ones, row by row: what `head` predicts those from."""
        assert not bool(mask_BT[:, 0].any()), "a mask must leave out each row's first token: nothing predicts it"
        reading = read_rows(token_BT, mask_BT)
        with self._recomputing():
            hidden_NE = self._network.hidden_packed(reading.token_N, packing=reading.packing)
        row_N, position_N = mask_BT.nonzero(as_tuple=True)
        return hidden_NE[reading.place_BT[row_N, position_N - 1]]

    @property
    def head(self) -> nn.Module:
        """Hidden states (N, E) -> logits (N, V)."""
        head: nn.Module = self._network.head
        return head

    def _recomputing(self) -> AbstractContextManager[None]:
        on = self._gradient_checkpointing and torch.is_grad_enabled()
        return recomputing(self.module) if on else nullcontext()

    async def update_weights(self, module: nn.Module) -> None:
        """Take over the weights of another module of the same architecture, LoRA merged, and count it. The model's own
        module is taken as it is: its weights have changed in place.

        Call it between turns and scores; a forward of scoring that runs is waited for. Raises ModelError for another
        architecture.
        """
        if module is not self.module:
            with self._reading:
                _copy_weights(module, self.module)
        self.weights_changed()

    async def sleep(self) -> None:
        """Nothing to give back: keys and values went with the last trajectory."""

    def weights_changed(self) -> None:
        """The weights are new: count it and drop kept keys and values. Call it between turns; a turn that runs goes on
        with the old keys and values and carries the old version."""
        self._policy_version += 1
        self._decoder.forget(policy_version=self._policy_version)
        self._scoring.forget()

    def save(self, directory: str | Path) -> None:
        """Write weights (safetensors) and config, replacing the directory whole, or not at all. Raises StorageError."""
        save_module(self.module, directory)

    def _check_room(self, token_ids: tuple[int, ...], *, max_tokens: int) -> None:
        assert max_tokens > 0, f"max_tokens must be at least 1, got {max_tokens}"
        if len(token_ids) >= self._network.max_length:
            raise ModelError(
                f"a sequence to continue must be shorter than the model's {self._network.max_length} positions, got "
                f"{len(token_ids)} tokens; lower agent.max_prompt_tokens or agent.max_response_tokens"
            )

    async def _decode(self) -> bool:
        """One round of the task that decodes: a token for every row."""
        for turn in self._decoder.iterate():
            _settle(self._turns.get(turn), turn.result)
        return self._decoder.busy

    async def _score(self) -> bool:
        """One round of the task that scores: a forward, in its thread."""
        batch = self._scoring.next_batch()
        if batch:
            scored = await self._scoring_thread.run(self._read, batch)
            for request in self._scoring.finish(scored):
                _settle(self._requests.get(request), request.result)
        return self._scoring.busy

    def _read(self, batch: dict[Request, Parked | None]) -> list[Scored]:
        with self._reading:
            return self._scoring.compute(batch)

    def _fail_turns(self, error: BaseException) -> None:
        self._decoder.clear()
        _fail(self._turns, error)

    def _fail_requests(self, error: BaseException) -> None:
        self._scoring.clear()
        _fail(self._requests, error)


def _fail(futures: dict[Any, asyncio.Future[Any]], error: BaseException) -> None:
    """Everybody who waits gets the error, and nothing is left behind."""
    for future in futures.values():
        if isinstance(error, Exception):
            _settle(future, _engine_error(error))
        elif not future.get_loop().is_closed():
            future.cancel()
    futures.clear()


def _settle(future: asyncio.Future[Any] | None, result: object) -> None:
    if future is None or future.done() or future.get_loop().is_closed():
        return
    if isinstance(result, EngineError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _engine_error(error: Exception) -> EngineError:
    cure = "; lower max_rows or tokens_per_forward" if isinstance(error, torch.OutOfMemoryError) else ""
    failed = EngineError(f"the model failed: {type(error).__name__}: {error}{cure}")
    failed.__cause__ = error
    return failed


@torch.no_grad()
def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    assert not is_lora(target), "a module with LoRA of its own cannot take over merged weights"
    new, own = full_state(source), full_state(target)
    differing = [
        name for name in {**new, **own} if name not in new or name not in own or new[name].shape != own[name].shape
    ]
    if differing:
        raise ModelError(
            f"weights must come from the same architecture, got {len(differing)} that differ in name or shape, the "
            f"first {differing[0]}; is the trained model the one that was loaded here?"
        )
    for name, tensor in own.items():
        tensor.copy_(new[name])


def default_kv_bytes(device: torch.device) -> int:
    """Memory for turns that decode: 8 GiB on a CPU, 30 % of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory * 3 // 10
    return 8 << 30


def default_parked_bytes(device: torch.device) -> int:
    """Memory for trajectories whose tool runs: 4 GiB on a CPU, a fifth of a GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // 5
    return 4 << 30

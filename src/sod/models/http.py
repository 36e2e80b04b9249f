"""A model behind an OpenAI-compatible server, `vllm serve` above all: token ids over `/v1/completions`. No torch.

    async with HTTPModel("http://10.0.0.5:8000") as teacher:
        await teacher.score([5, 6, 7], positions=[1, 2])  # (log p(6 | 5), log p(7 | 5 6))

    async with HTTPModel("http://10.0.0.5:8000", roles=["sampler"]) as student:
        await student.sample(ids, max_tokens=512, stop_token_ids={151645}, sampling=SamplingConfig(),
                             trajectory_id="7/0", seed=7)

Only token ids are sent and only token ids are read: text is never tokenised again.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar

from sod.config import SamplingConfig
from sod.errors import ConfigError, EngineError, ModelError
from sod.lifetime import Lifetime
from sod.models.http_replies import PLAIN, WAYS, MissingError, Way, read_completion, read_contexts
from sod.models.seeds import turn_seed
from sod.models.tokens import checked_positions, checked_tokens
from sod.transport import ClosedError, RefusedError, ReplyError, TransientError, Transport, base_url, read_key
from sod.types import Completion

__all__ = ["HTTPModel", "Role"]

_T = TypeVar("_T")
Role: TypeAlias = Literal["scorer", "sampler"]
"""What a server is used for, and so what it must be able to do."""

SCORER: tuple[Role, ...] = ("scorer",)
KEY_VARIABLE = "SOD_API_KEY"
ENDPOINTS = ("/completions", "/v1")
"""What people leave at the end of a base URL."""
INCAPABLE_STATUSES = frozenset({400, 422, 501})
"""HTTP statuses of a server that does not know a field of a request."""
QUOTED_CHARACTERS = 300
"""How much of a list of names goes into a message."""
PROBE_IDS = (10, 11, 12, 13)
"""Tokens that any vocabulary has."""
PROBE_TOKENS = 16
PROBE_TEMPERATURE = 2.0
"""The highest that vLLM takes."""


class _RefusedError(EngineError):
    """The server answered, and will answer the same when asked again. `status` is HTTP's."""

    def __init__(self, message: str, *, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class _IncapableError(_RefusedError):
    """The server does not do what was asked: it said so, or left it out."""


class HTTPModel(Lifetime):
    """Sampler and scorer over `/v1/completions` of one OpenAI-compatible server, whose weights never change.

    `roles` says what `start` must find the server able to do; the other role is looked at when it is first used.

    - "scorer": log-probs of given tokens, by vLLM's `prompt_logprobs`, else by `echo`. With `echo` a server need not
      name the tokens, and then their number is all that can be checked. Log-probs are those of temperature 1; another
      is refused.
    - "sampler": the sampled token ids (vLLM's `return_token_ids`) with their log-probs. Servers give log-probs of
      temperature 1 before top-p / top-k cuts. Those are a completion's at temperature 1 and at temperature 0; another
      temperature is refused. With `vllm serve --logprobs-mode processed_logprobs` and `processed_logprobs=True` any
      temperature works, but then log-probs are of what is left *after* top-p / top-k cuts: do not train with both.
      `exact_logprobs=False` allows everything with whatever the server says: for evaluation, which reads none.

    `model` is the name at the server; "" takes the only one that `/v1/models` lists. `max_concurrent` requests are
    under way at a time, more wait. Each may take `timeout_s` seconds. No connection, a time-out, HTTP 408, 425, 429
    and 5xx are tried again up to `max_retries` times with growing waits, or after the server's Retry-After of at most
    60 s. A reply of more than `max_reply_bytes` is refused.

    A key in the environment variable `api_key_variable` goes along as `Authorization: Bearer`; it is in no message.
    An instance belongs to one event loop.

    Raises ConfigError for settings that cannot be meant, ModelError when the server lacks what a role needs,
    EngineError when it fails.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        roles: Collection[Role] = SCORER,
        processed_logprobs: bool = False,
        exact_logprobs: bool = True,
        max_concurrent: int = 64,
        timeout_s: float = 600.0,
        max_retries: int = 4,
        max_reply_bytes: int = 64 << 20,
        api_key_variable: str = KEY_VARIABLE,
    ) -> None:
        self.url = base_url(
            url, server="a model's server", endpoints=ENDPOINTS, variable=api_key_variable, error=ConfigError
        )
        self._model = model
        self._roles = tuple(roles)
        self._processed_logprobs = processed_logprobs
        self._exact_logprobs = exact_logprobs
        self._timeout_s = timeout_s
        self._key_variable = api_key_variable
        self._transport = Transport(
            read_key(api_key_variable, error=ConfigError),
            max_concurrent=max_concurrent,
            max_retries=max_retries,
            max_reply_bytes=max_reply_bytes,
        )
        self._max_length: int | None = None
        self._way: Way | None = None
        self._ready: set[Role] = set()
        self._is_named = False
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"HTTPModel({self.url!r}, model={self._model!r})"

    @property
    def model(self) -> str:
        """The model's name at the server; "" before `start` where it was not given."""
        return self._model

    @property
    def max_length(self) -> int | None:
        """Positions: prompt and response together, known after `start`; None where the server does not say.

        One fewer than its `max_model_len`: it samples a token after what it scores.
        """
        return self._max_length

    @property
    def scores_by(self) -> str:
        """How the server gives log-probs of given tokens: "prompt_logprobs", "echo", or "" when not looked at."""
        return self._way.name if self._way else ""

    @property
    def policy_version(self) -> int:
        """Always 0: a server's weights do not change."""
        return 0

    async def start(self) -> None:
        """Asks the server for its models and, with a few tokens, for what the roles need. Once; later calls do nothing.

        Raises ConfigError when the model must be named, ModelError when the server lacks what a role needs, EngineError
        when it fails.
        """
        for role in self._roles:
            await self._prepare(role)

    async def aclose(self) -> None:
        """Ends the connections; calls that still run raise EngineError."""
        await self._transport.aclose()

    async def sample(
        self,
        token_ids: Sequence[int],
        *,
        max_tokens: int,
        stop_token_ids: Collection[int],
        sampling: SamplingConfig,
        trajectory_id: str,  # noqa: ARG002 - the server's prefix cache goes by the tokens
        seed: int,
    ) -> Completion:
        """Sample one turn until a stop token (kept, and counted), `max_tokens`, or the end of the server's context.

        Only `stop_token_ids` end a turn, not the server's own end-of-sequence token. The server draws by `seed` and the
        number of tokens so far, so that two turns of a trajectory do not repeat each other's numbers.
        """
        ids = checked_tokens(token_ids, vocab_size=None)
        assert max_tokens > 0, f"max_tokens must be at least 1, got {max_tokens}"
        self._check_temperature(sampling)
        await self._prepare("sampler")
        self._check_room(len(ids) + 1)
        room = max_tokens if self._max_length is None else min(max_tokens, self._max_length - len(ids))
        return await self._complete(ids, max_tokens=room, stop_token_ids=stop_token_ids, sampling=sampling, seed=seed)

    def release(self, trajectory_id: str) -> None:
        """Does nothing: the server looks after its own cache."""

    async def score(
        self,
        token_ids: Sequence[int],
        *,
        positions: Sequence[int],
        temperature: float = 1.0,
        trajectory_id: str = "",  # noqa: ARG002
    ) -> tuple[float, ...]:
        """Natural log p(token_ids[i] | token_ids[:i]) for i in `positions`, which ascend and are at least 1.

        Raises ConfigError for a temperature that is not 1: servers cannot divide the logits of given tokens.
        """
        ids = checked_tokens(token_ids, vocab_size=None)
        wanted = checked_positions(positions, num_tokens=len(ids))
        if temperature != 1.0:
            raise ConfigError(
                f"a teacher behind a server scores at temperature 1 only, got {temperature}; set sampling.temperature "
                "to 1, or load the teacher's weights here"
            )
        if not wanted:
            return ()
        await self._prepare("scorer")
        assert self._way is not None
        needed = ids[: wanted[-1] + 1]  # nothing after the last wanted token bears on it
        self._check_room(len(needed))
        return await self._score_by(self._way, needed, positions=wanted)

    # Requests

    async def _complete(
        self,
        ids: tuple[int, ...],
        *,
        max_tokens: int,
        stop_token_ids: Collection[int],
        sampling: SamplingConfig,
        seed: int,
    ) -> Completion:
        stops = sorted(stop_token_ids)
        body = {
            **PLAIN,
            "prompt": ids,
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": turn_seed(seed, num_tokens=len(ids)),
            "stop_token_ids": stops,
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        read = partial(read_completion, ids=ids, max_tokens=max_tokens, stop_token_ids=frozenset(stops))
        return await self._ask("/v1/completions", body, read=read)

    async def _score_by(self, way: Way, ids: tuple[int, ...], *, positions: Sequence[int]) -> tuple[float, ...]:
        body = {"prompt": ids, "max_tokens": 1, "temperature": 1.0, **way.fields}
        return await self._ask("/v1/completions", body, read=lambda reply: way.read(reply, ids, positions))

    async def _ask(self, path: str, body: Mapping[str, Any] | None = None, *, read: Callable[[Any], _T]) -> _T:
        """What `read` makes of the reply. Raises EngineError; _IncapableError for what the server does not do."""
        url, hidden = self.url + path, self._transport.hidden
        content = None if body is None else json.dumps({"model": self._model, **body}).encode()
        try:
            reply = await self._transport.retried(lambda: self._transport.ask(url, content, timeout_s=self._timeout_s))
            return read(reply)
        except ClosedError as error:
            raise EngineError(f"{self.url}: the model {error}") from None
        except TransientError as error:
            cure = "Is it the URL of a running server, and is it ready?"
            raise EngineError(f"{self.url} must answer {path}, got {error}. {cure}") from None
        except RefusedError as error:
            kind = _IncapableError if error.status in INCAPABLE_STATUSES else _RefusedError
            raise kind(f"{url} answered {error}{self._cure(error)}", status=error.status) from None
        except MissingError as error:
            raise _IncapableError(hidden(f"{url}: {error}")) from None
        except ReplyError as error:
            raise EngineError(hidden(f"{url}: {error}")) from None

    def _cure(self, refused: RefusedError) -> str:
        if refused.status in (401, 403):
            return f"; put the server's key into the environment variable {self._key_variable}"
        if refused.status == 404:
            return "; the URL must be the base URL of the server, and the model one that it serves"
        # Of a prompt that just fills its context vLLM says that max_tokens must be more than the 0 it makes of it.
        if refused.status == 400 and re.search("context|max_tokens", str(refused).lower()):
            return "; lower agent.max_response_tokens or agent.max_prompt_tokens, or serve a larger --max-model-len"
        return ""

    # What the server can do

    async def _prepare(self, role: Role) -> None:
        """Finds out once that the server can do it."""
        if role in self._ready:
            return
        async with self._starting:
            if not self._is_named:
                await self._find_model()
                self._is_named = True
            if role not in self._ready:
                await (self._find_way() if role == "scorer" else self._check_sampling())
                self._ready.add(role)

    async def _find_model(self) -> None:
        """Its name and its context length, from /v1/models, which a server needs only if the name was not given."""
        try:
            contexts = await self._ask("/v1/models", read=read_contexts)
        except _RefusedError as error:
            if self._model and error.status == 404:
                return
            raise
        hidden = self._transport.hidden
        names = hidden(json.dumps(list(contexts)))[:QUOTED_CHARACTERS]
        if not self._model and len(contexts) != 1:
            raise ConfigError(f"{self.url} must serve one model, got {names}; name the one to use")
        name = self._model or next(iter(contexts))
        if name not in contexts:
            raise ConfigError(f'{self.url} must serve the model "{name}", got {names}; name one of these')
        context = contexts[name]
        self._model, self._max_length = hidden(name), None if context is None else context - 1

    async def _find_way(self) -> None:
        """The first way of scoring that works for a few tokens."""
        answers = []
        for way in WAYS:
            try:
                await self._score_by(way, PROBE_IDS, positions=range(1, len(PROBE_IDS)))
            except _IncapableError as error:
                answers.append(f"asked by {way.name}: {error}")
            else:
                self._way = way
                return
        raise ModelError(
            f"a teacher's server must return log-probs of given tokens, got {'; '.join(answers)}. "
            "Serve the teacher with `vllm serve MODEL --max-logprobs 20`, or load its weights here"
        )

    async def _check_sampling(self) -> None:
        """That token ids and log-probs come back, and that the log-probs are of the kind that was said."""
        probe = SamplingConfig(temperature=PROBE_TEMPERATURE)
        try:
            drawn = await self._complete(PROBE_IDS, max_tokens=PROBE_TOKENS, stop_token_ids=(), sampling=probe, seed=0)
        except _IncapableError as error:
            raise ModelError(
                f"a server that samples must return token ids with their log-probs, got {error}. Serve the model with "
                "`vllm serve MODEL` (0.10.2 or later, for return_token_ids), or load its weights here; a teacher "
                "samples only for the check at the start, which guards.teacher_self_gap = 0 leaves out"
            ) from None
        if self._exact_logprobs:
            await self._check_kind(drawn)

    async def _check_kind(self, drawn: Completion) -> None:
        """Are log-probs those of temperature 1, or of the temperature? Both of the same tokens tell.

        Raw ones differ from scores by rounding, those of temperature 2 by half of the logits' spread.
        """
        ids = PROBE_IDS + drawn.token_ids
        positions = range(len(PROBE_IDS), len(ids))
        try:
            scores = await self._score_by(WAYS[0], ids, positions=positions)
        except _IncapableError:
            return  # a server that scores nothing cannot be asked
        if len(scores) < 2 or not (spread := statistics.pstdev(scores)):
            return
        differences = [logprob - score for logprob, score in zip(drawn.logprobs, scores, strict=True)]
        is_processed = statistics.pstdev(differences) > 0.25 * spread
        if is_processed != self._processed_logprobs:
            got, flag = (f"{PROBE_TEMPERATURE:g}", "with") if is_processed else ("1", "without")
            raise ConfigError(
                f"processed_logprobs must be what {self.url} does, got {self._processed_logprobs} and log-probs of "
                f"temperature {got} for tokens drawn at temperature {PROBE_TEMPERATURE:g}; set it to {is_processed}, "
                f"since the server runs {flag} --logprobs-mode processed_logprobs"
            )

    def _check_temperature(self, sampling: SamplingConfig) -> None:
        if self._exact_logprobs and not self._processed_logprobs and sampling.temperature not in (0.0, 1.0):
            raise ConfigError(
                "a server gives log-probs of temperature 1, so sampling.temperature must be 1 (or 0), got "
                f"{sampling.temperature}; or run `vllm serve --logprobs-mode processed_logprobs` and set "
                "processed_logprobs; or set exact_logprobs to False where nobody trains on them"
            )

    def _check_room(self, num_tokens: int) -> None:
        if self._max_length is not None and num_tokens > self._max_length:
            raise ModelError(
                f"a sequence must be at most the {self._max_length} positions that {self.url} serves (one of its "
                f"max_model_len is for a token after it), got {num_tokens} tokens; serve a larger --max-model-len, or "
                "lower agent.max_prompt_tokens or agent.max_response_tokens"
            )

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
import email.utils
import hashlib
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from sod.config import SamplingConfig
from sod.errors import ConfigError, EngineError, ModelError
from sod.types import Completion

if TYPE_CHECKING:
    import httpx

__all__ = ["HTTPModel", "Role"]

Role: TypeAlias = Literal["scorer", "sampler"]
"""What a server is used for, and so what it must be able to do."""

SCORER: tuple[Role, ...] = ("scorer",)
KEY_VARIABLE = "SOD_API_KEY"
CONNECT_TIMEOUT_S = 10.0
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 30.0
LONGEST_RETRY_AFTER_S = 60.0
"""A server that asks for more is asked again earlier."""
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses that mean "later"."""
INCAPABLE_STATUSES = frozenset({400, 422, 501})
"""HTTP statuses of a server that does not know a field of a request."""
QUOTED_CHARACTERS = 300
"""How much of a server's own words goes into a message of ours."""
ERROR_BYTES = 65536
PROBE_IDS = (10, 11, 12, 13)
"""Tokens that any vocabulary has."""
PROBE_TOKENS = 16
PROBE_TEMPERATURE = 4.0
FLOOR = -9999.0
"""What vLLM writes for minus infinity."""
HIGHEST = 1e-4
"""A log-prob is at most 0, give or take rounding."""
_PLAIN: Mapping[str, Any] = MappingProxyType(
    # Named although most are usual: what a request leaves out, vLLM takes from the model's generation_config.json.
    {
        "n": 1,
        "stream": False,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
)


@dataclass(frozen=True, slots=True)
class _Key:
    """The API key, which shows in no repr."""

    value: str = field(repr=False)


class _TransientError(Exception):
    """An attempt that failed and may be made again, after `retry_after_s` if the server named it."""

    def __init__(self, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _ReplyError(Exception):
    """A reply is not what it must be."""


class _RefusedError(EngineError):
    """The server answered, and will answer the same when asked again. `status` is HTTP's."""

    def __init__(self, message: str, *, status: int = 200) -> None:
        super().__init__(message)
        self.status = status


class _IncapableError(_RefusedError):
    """The server does not do what was asked: it said so, or left it out."""


class _MissingError(_ReplyError):
    """A reply lacks what was asked for."""


class HTTPModel:
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
        self.url = _base_url(url, key_variable=api_key_variable)
        self._model = model
        self._roles = tuple(roles)
        self._processed_logprobs = processed_logprobs
        self._exact_logprobs = exact_logprobs
        self._max_concurrent = max_concurrent
        self._timeout_s = timeout_s
        self._max_retries = max_retries
        self._max_reply_bytes = max_reply_bytes
        self._key_variable = api_key_variable
        self._key = _key(api_key_variable)
        self._max_context: int | None = None
        self._way: _Way | None = None
        self._ready: set[Role] = set()
        self._is_named = False
        self._free = asyncio.Semaphore(max_concurrent)
        self._starting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    def __repr__(self) -> str:
        return f"HTTPModel({self.url!r}, model={self._model!r})"

    @property
    def model(self) -> str:
        """The model's name at the server; "" before `start` where it was not given."""
        return self._model

    @property
    def max_context(self) -> int | None:
        """Positions that the server allows, known after `start`; None where it does not say (`max_model_len`).

        A sequence to score must be one token shorter: the server samples a token after it.
        """
        return self._max_context

    @property
    def scores_by(self) -> str:
        """How the server gives log-probs of given tokens: "prompt_logprobs", "echo", or "" when not looked at."""
        return self._way.name if self._way else ""

    @property
    def policy_version(self) -> int:
        """Always 0: a server's weights do not change."""
        return 0

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Asks the server for its models and, with a few tokens, for what the roles need. Once; later calls do nothing.

        Raises ConfigError when the model must be named, ModelError when the server lacks what a role needs, EngineError
        when it fails.
        """
        for role in self._roles:
            await self._prepare(role)

    async def aclose(self) -> None:
        """Ends the connections; calls that still run raise EngineError."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

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
        ids = _checked(token_ids)
        assert max_tokens > 0, f"max_tokens must be at least 1, got {max_tokens}"
        self._check_temperature(sampling)
        await self._prepare("sampler")
        self._check_room(ids)
        room = max_tokens if self._max_context is None else min(max_tokens, self._max_context - len(ids))
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
        ids, wanted = _checked(token_ids), tuple(positions)
        if temperature != 1.0:
            raise ConfigError(
                f"a teacher behind a server scores at temperature 1 only, got {temperature}; set sampling.temperature "
                "to 1, or load the teacher's weights here"
            )
        if not wanted:
            return ()
        assert wanted[0] >= 1, f"positions must be at least 1, got {wanted[0]}"
        assert wanted[-1] < len(ids), f"positions must be below {len(ids)}, got {wanted[-1]}"
        assert all(a < b for a, b in pairwise(wanted)), "positions must ascend"
        await self._prepare("scorer")
        assert self._way is not None
        needed = ids[: wanted[-1] + 1]  # nothing after the last wanted token bears on it
        self._check_room(needed)
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
            **_PLAIN,
            "prompt": ids,
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "seed": _turn_seed(seed, num_tokens=len(ids)),
            "stop_token_ids": stops,
            "ignore_eos": True,
            "logprobs": 0,
            "return_token_ids": True,
            "skip_special_tokens": False,
        }
        choice = await self._choice(body)
        with self._reading():
            return _completion(choice, ids=ids, max_tokens=max_tokens, stop_token_ids=frozenset(stops))

    async def _score_by(self, way: _Way, ids: tuple[int, ...], *, positions: Sequence[int]) -> tuple[float, ...]:
        choice = await self._choice({"prompt": ids, "max_tokens": 1, "temperature": 1.0, **way.fields})
        with self._reading():
            return way.read(choice, ids, positions)

    async def _choice(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The one choice of a reply of /v1/completions."""
        reply = await self._ask("/v1/completions", {"model": self._model, **body})
        with self._reading():
            choices = _field(reply, "choices", list)
            if len(choices) != 1 or not isinstance(choices[0], dict):
                raise _ReplyError(f"choices must hold one choice, got {len(choices)}")
            return choices[0]

    async def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The reply as JSON. Runs in a task of its own so that `aclose` can end it."""
        if self._closed:
            raise EngineError(f"{self.url}: a model that is closed answers nothing; make a new HTTPModel")
        task = asyncio.create_task(self._ask_with_retries(path, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._closed and not (current and current.cancelling()):
                raise EngineError(f"{self.url}: the model was closed while a request was under way") from None
            raise

    async def _ask_with_retries(self, path: str, body: Mapping[str, Any] | None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        reasons: list[str] = []
        wait_s = 0.0
        for attempt in range(1 + self._max_retries):
            await asyncio.sleep(wait_s)
            async with self._free:
                try:
                    return await self._attempt(path, content)
                except _TransientError as failure:
                    reasons.append(str(failure))
                    wait_s = max(_backoff_s(attempt), failure.retry_after_s)
        raise EngineError(
            self._without_key(
                f"{self.url} must answer {path}, got in {len(reasons)} tries: {'; '.join(dict.fromkeys(reasons))}. "
                "Is it the URL of a running server, and is it ready?"
            )
        )

    async def _attempt(self, path: str, content: bytes | None) -> Any:
        """One request. Raises _TransientError for what may be tried again, EngineError for what may not."""
        import httpx

        if self._client is None:
            self._client = _client(self._key, max_concurrent=self._max_concurrent)
        method = "GET" if content is None else "POST"
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(method, self.url + path, content=content) as response,
            ):
                limit = self._max_reply_bytes if response.status_code == 200 else ERROR_BYTES
                reply = await _read(response, limit=limit)
        except TimeoutError:
            raise _TransientError(f"no answer within {self._timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _TransientError(f"{type(error).__name__}: {error}") from None
        if response.status_code != 200:
            raise self._refusal(path, response, reply)
        if len(reply) > limit:
            raise EngineError(f"{self.url}: a reply to {path} must be at most {limit} bytes, got more; raise the limit")
        try:
            return json.loads(reply)
        except (ValueError, RecursionError):
            said = self._quoted(reply[:ERROR_BYTES].decode("utf-8", "replace"))
            raise EngineError(f"{self.url}: a reply to {path} must be JSON, got {said}") from None

    def _refusal(self, path: str, response: httpx.Response, body: bytes) -> Exception:
        """What an HTTP status other than 200 means, with the server's own words."""
        status = response.status_code
        said = _said(body)
        quoted = self._quoted(said)
        if status in TRANSIENT_STATUSES:
            wait_s = _retry_after_s(response.headers.get("Retry-After", ""))
            return _TransientError(f"HTTP {status} {quoted}", retry_after_s=wait_s)
        cure = {
            401: f"; put the server's key into the environment variable {self._key_variable}",
            403: f"; put the server's key into the environment variable {self._key_variable}",
            404: "; the URL must be the base URL of the server, and the model one that it serves",
        }.get(status, "")
        if status == 400 and "context" in said.lower():
            cure = "; lower agent.max_response_tokens or agent.max_prompt_tokens, or serve a larger --max-model-len"
        kind = _IncapableError if status in INCAPABLE_STATUSES else _RefusedError
        return kind(f"{self.url}{path} answered HTTP {status} {quoted}{cure}", status=status)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever is wrong with a reply is an EngineError that names the server; what is missing, _IncapableError."""
        try:
            yield
        except _MissingError as error:
            raise _IncapableError(self._without_key(f"{self.url}: {error}")) from None
        except _ReplyError as error:
            raise EngineError(self._without_key(f"{self.url}: {error}")) from None

    def _quoted(self, text: str) -> str:
        """The beginning of a server's own words. The key goes first: half of it would not be found."""
        return repr(self._without_key(text)[:QUOTED_CHARACTERS])

    def _without_key(self, text: str) -> str:
        """A server may quote the key, plain or escaped."""
        key = self._key.value
        for form in {key, repr(key)[1:-1], json.dumps(key)[1:-1]} - {""}:
            text = text.replace(form, "[key]")
        return text

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
            listed = await self._ask("/v1/models")
        except _RefusedError as error:
            if self._model and error.status == 404:
                return
            raise
        with self._reading():
            contexts = _contexts(listed)
        names = self._without_key(json.dumps(list(contexts)))[:QUOTED_CHARACTERS]
        if not self._model and len(contexts) != 1:
            raise ConfigError(f"{self.url} must serve one model, got {names}; name the one to use")
        name = self._model or next(iter(contexts))
        if name not in contexts:
            raise ConfigError(f'{self.url} must serve the model "{name}", got {names}; name one of these')
        self._model, self._max_context = self._without_key(name), contexts[name]

    async def _find_way(self) -> None:
        """The first way of scoring that works for a few tokens."""
        answers = []
        for way in _WAYS:
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
                f"a student's server must return token ids with their log-probs, got {error}. Serve it with "
                "`vllm serve MODEL` (0.10.2 or later, for return_token_ids), or load its weights here"
            ) from None
        if self._exact_logprobs:
            await self._check_kind(drawn)

    async def _check_kind(self, drawn: Completion) -> None:
        """Are log-probs those of temperature 1, or of the temperature? Both of the same tokens tell.

        Raw ones differ from scores by rounding, those of temperature 4 by three quarters of the logits' spread.
        """
        ids = PROBE_IDS + drawn.token_ids
        positions = range(len(PROBE_IDS), len(ids))
        try:
            scores = await self._score_by(_WAYS[0], ids, positions=positions)
        except _IncapableError:
            return  # a server that scores nothing cannot be asked
        if len(scores) < 2 or not (spread := statistics.pstdev(scores)):
            return
        differences = [logprob - score for logprob, score in zip(drawn.logprobs, scores, strict=True)]
        is_processed = statistics.pstdev(differences) > 0.4 * spread
        if is_processed != self._processed_logprobs:
            got, flag = ("temperature 4", "with") if is_processed else ("temperature 1", "without")
            raise ConfigError(
                f"processed_logprobs must be what {self.url} does, got {self._processed_logprobs} and log-probs of "
                f"{got} for tokens drawn at temperature 4; set it to {is_processed}, since the server runs {flag} "
                "--logprobs-mode processed_logprobs"
            )

    def _check_temperature(self, sampling: SamplingConfig) -> None:
        if self._exact_logprobs and not self._processed_logprobs and sampling.temperature not in (0.0, 1.0):
            raise ConfigError(
                "a server gives log-probs of temperature 1, so sampling.temperature must be 1 (or 0), got "
                f"{sampling.temperature}; or run `vllm serve --logprobs-mode processed_logprobs` and set "
                "processed_logprobs; or set exact_logprobs to False where nobody trains on them"
            )

    def _check_room(self, ids: tuple[int, ...]) -> None:
        """The server adds a token to every sequence, also to one that is only scored."""
        if self._max_context is not None and len(ids) >= self._max_context:
            raise ModelError(
                f"a sequence must be shorter than the {self._max_context} positions that {self.url} serves, got "
                f"{len(ids)} tokens; serve a larger --max-model-len, or lower agent.max_response_tokens"
            )


# Settings


def _base_url(url: str, *, key_variable: str) -> str:
    """The URL without /v1: "http://10.0.0.5:8000/v1/" -> "http://10.0.0.5:8000"."""
    import httpx

    cure = "give the base URL of a running server such as http://10.0.0.5:8000"
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError, AttributeError):
        raise ConfigError(
            f"the URL of a model's server must be one, got {str(url).rpartition('@')[2]!r}; {cure}"
        ) from None
    if parsed.userinfo:
        raise ConfigError(f"the URL of {parsed.host!r} must not hold a password; put the key into {key_variable}")
    if parsed.query or parsed.fragment:  # not shown: a key may be in it
        raise ConfigError(f"the URL of {parsed.host!r} must end with its path, got more; {cure}")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"the URL of a model's server must name an http(s) server, got {url!r}; {cure}")
    return str(parsed).rstrip("/").removesuffix("/completions").removesuffix("/v1").rstrip("/")


def _key(variable: str) -> _Key:
    key = _Key(os.environ.get(variable, "").strip())
    if not all("!" <= character <= "~" for character in key.value):
        raise ConfigError(f"{variable} must be visible ASCII characters without spaces; correct or unset it")
    return key


def _client(key: _Key, *, max_concurrent: int) -> httpx.AsyncClient:
    import httpx

    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if key.value:
        headers["Authorization"] = f"Bearer {key.value}"
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the whole exchange has its own limit
        limits=httpx.Limits(
            max_connections=None,
            max_keepalive_connections=max_concurrent,
            keepalive_expiry=3.0,  # before servers close them: uvicorn does after 5 s
        ),
    )


def _checked(token_ids: Sequence[int]) -> tuple[int, ...]:
    ids = tuple(token_ids)
    if not ids or min(ids) < 0:
        got = f"{min(ids)}" if ids else "no tokens"
        raise ModelError(f"token ids must be 0 or more, got {got}; does the tokenizer belong to the model?")
    return ids


def _turn_seed(seed: int, *, num_tokens: int) -> int:
    """63 bits from both: a server starts a seed's numbers anew in every request, so no two turns may share one."""
    digest = hashlib.blake2b(f"{seed}/{num_tokens}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


# Waiting


def _backoff_s(attempt: int) -> float:
    """`0 -> 0.125 .. 0.375, 1 -> 0.25 .. 0.75`."""
    return min(FIRST_BACKOFF_S * 2.0**attempt, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)


def _retry_after_s(header: str) -> float:
    """Seconds that a Retry-After names, as a number or a date, at most 60: "2" -> 2.0; 0.0 for none."""
    try:
        wait_s = float(header)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return min(max(wait_s, 0.0), LONGEST_RETRY_AFTER_S) if math.isfinite(wait_s) else 0.0


# Replies: nothing in them is trusted to be what it should be


async def _read(response: httpx.Response, *, limit: int) -> bytes:
    """The body as it came over the wire, or its beginning of a little over `limit` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def _said(body: bytes) -> str:
    """The message of an error, wherever servers put it: {"error": {"message": "too long"}} -> "too long"."""
    try:
        reply = json.loads(body)
        while isinstance(reply, dict):
            reply = next((reply[name] for name in ("error", "message", "detail") if name in reply), str(reply))
        return reply if isinstance(reply, str) else json.dumps(reply)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")


def _contexts(listed: Any) -> dict[str, int | None]:
    """The models that /v1/models lists, each with its context length if it has one."""
    contexts: dict[str, int | None] = {}
    for entry in _field(listed, "data", list):
        context = entry.get("max_model_len") if isinstance(entry, dict) else None
        contexts[_field(entry, "id", str)] = context if type(context) is int and context > 0 else None
    return contexts


def _prompt_logprobs(choice: Mapping[str, Any], ids: tuple[int, ...], positions: Sequence[int]) -> tuple[float, ...]:
    """vLLM's: null, then for each position a mapping that has the position's token: {"6": {"logprob": -1.2}}."""
    listed = _asked_for(choice, "prompt_logprobs")
    _check_count("prompt_logprobs", listed, expected=[len(ids)])
    if listed[0] is not None:
        raise _ReplyError(
            f"prompt_logprobs must begin with null: nothing predicts a first token; got {_flat(listed[0])}"
        )
    for position, entry in enumerate(listed[1:], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get(str(ids[position])), dict):
            raise _ReplyError(
                f"prompt_logprobs[{position}] must hold the token that was sent, {ids[position]}, got {_shown(entry)}; "
                "log-probs that belong to other tokens cannot be used"
            )
    return tuple(_logprob(listed[position][str(ids[position])].get("logprob")) for position in positions)


def _echoed_logprobs(choice: Mapping[str, Any], ids: tuple[int, ...], positions: Sequence[int]) -> tuple[float, ...]:
    """The `echo` way: one log-prob per token sent, the first null, then that of the token sampled after them."""
    logprobs = choice.get("logprobs")
    listed = _asked_for(logprobs if isinstance(logprobs, dict) else {}, "token_logprobs")
    if len(listed) <= 1:  # a server that ignores `echo` tells of the sampled token only
        raise _MissingError(f"token_logprobs must be those of the {len(ids)} tokens sent too, got {len(listed)}")
    _check_count("token_logprobs", listed, expected=[len(ids), len(ids) + 1])
    if listed[0] is not None:
        raise _ReplyError(
            f"token_logprobs must begin with null: nothing predicts a first token; got {_flat(listed[0])}"
        )
    _check_prompt(choice, ids)
    return tuple(_logprob(listed[position]) for position in positions)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Way:
    """One way to ask for log-probs of given tokens, and to read the answer."""

    name: str
    fields: Mapping[str, Any]
    read: Callable[[Mapping[str, Any], tuple[int, ...], Sequence[int]], tuple[float, ...]]


_WAYS = (
    _Way(name="prompt_logprobs", fields={**_PLAIN, "prompt_logprobs": 0}, read=_prompt_logprobs),
    # Only fields that every server knows; 1 because some take 0 for none.
    _Way(name="echo", fields={"echo": True, "logprobs": 1}, read=_echoed_logprobs),
)


def _completion(
    choice: Mapping[str, Any], *, ids: tuple[int, ...], max_tokens: int, stop_token_ids: frozenset[int]
) -> Completion:
    """What was sampled, checked: `token_ids [5 2], token_logprobs [-1.5 -0.1], finish_reason "stop"`, stop token 2."""
    drawn = _asked_for(choice, "token_ids")
    logprobs = choice.get("logprobs")
    listed = _asked_for(logprobs if isinstance(logprobs, dict) else {}, "token_logprobs")
    _check_prompt(choice, ids)
    if not 1 <= len(drawn) <= max_tokens or not all(type(token) is int and token >= 0 for token in drawn):
        raise _ReplyError(f"token_ids must be 1 to {max_tokens} token ids, got {len(drawn)}: {_shown(drawn)}")
    _check_count("token_logprobs", listed, expected=[len(drawn)])
    if early := [token for token in drawn[:-1] if token in stop_token_ids]:
        raise _ReplyError(
            f"a turn must end at its first stop token, got more after {early[0]}; the server must heed stop_token_ids"
        )
    stopped = drawn[-1] in stop_token_ids
    reason = choice.get("finish_reason")
    wanted = sorted(stop_token_ids)[:8]
    if not stopped and reason != "length":
        raise _ReplyError(
            f"a turn must end with one of the stop tokens {wanted} or for its length, got token {drawn[-1]} and "
            f"finish_reason {_shown(reason)}; the server must not stop by itself, nor leave the stop token out"
        )
    return Completion(token_ids=tuple(drawn), logprobs=tuple(map(_logprob, listed)), stopped=stopped)


def _asked_for(mapping: Mapping[str, Any], name: str) -> list[Any]:
    """A list that is there if the server knows what was asked of it."""
    if mapping.get(name) is None:
        raise _MissingError(f"a reply must hold {name}, got none")
    listed: list[Any] = _field(mapping, name, list)
    return listed


def _check_count(name: str, listed: Sequence[Any], *, expected: Sequence[int]) -> None:
    if len(listed) not in expected:
        raise _ReplyError(f"{name} must have {expected[0]} entries, one per token, got {len(listed)}")


def _check_prompt(choice: Mapping[str, Any], ids: tuple[int, ...]) -> None:
    """Servers that cut or extend a prompt say so, if they say what the prompt was."""
    seen = choice.get("prompt_token_ids")
    if seen is not None and seen != list(ids):
        got = len(seen) if isinstance(seen, list) else _shown(seen)
        raise _ReplyError(f"the server must read the {len(ids)} tokens that were sent, got others ({got})")


def _logprob(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not FLOOR < value <= HIGHEST:
        raise _ReplyError(
            f"a log-prob must be a finite number of at most 0, got {_shown(value)}; check the server's weights "
            "and that its --logprobs-mode is no kind of logits"
        )
    return float(value)


def _field(mapping: Any, name: str, kind: type[Any]) -> Any:
    """`mapping[name]`, which must be of this type."""
    value = mapping.get(name) if isinstance(mapping, dict) else None
    if type(value) is not kind:  # a bool is no int here
        raise _ReplyError(f"{name} in a reply must be {kind.__name__}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """A piece of a reply for a message, its beginning: [1, [2, 3]] -> [1, [..]]. Strings are whole or not there."""
    if isinstance(value, list | dict):
        pieces = [_flat(piece) for piece in list(value)[:5]]
        inside = ", ".join(pieces + [".."] * (len(value) > 5))
        return f"[{inside}]" if isinstance(value, list) else f"{{{inside}}}"
    return _flat(value)


def _flat(value: Any) -> str:
    if isinstance(value, list | dict):
        return "[..]" if isinstance(value, list) else "{..}"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{type(value).__name__} of {len(text)} characters"

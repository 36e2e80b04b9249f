"""One chat model behind an OpenAI-compatible server: `/v1/chat/completions`, with a cache before it and a budget.

async with ChatClient("https://api.host", variable="SOD_RUBRIC_KEY", ...) as client:
    answer = await client.answer(question)   # from the cache if it was asked before, also by another process
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Collection, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from sod.errors import ConfigError, InfrastructureError
from sod.models.http_replies import read_contexts
from sod.rubrics.answers import Answer, AnswerCache, Question
from sod.rubrics.budget import Budget, Hold
from sod.transport import (
    ClosedError,
    RefusedError,
    ReplyError,
    ServerError,
    TransientError,
    Transport,
    base_url,
    field,
    read_key,
    shown,
)
from sod.types import Message

__all__ = ["ChatClient", "RubricError"]

logger = logging.getLogger(__name__)

ENDPOINTS = ("/chat/completions", "/v1")
"""What people leave at the end of a base URL."""
MAX_RETRIES = 4
MAX_REPLY_BYTES = 8 << 20
MAX_COUNT = 1 << 40
"""No request uses more tokens: a server that says so is not believed."""
CHARS_PER_TOKEN = 4
"""Where nobody counted tokens."""
_NOT_BILLED = ("HTTP ", "Connect")
"""How a failure begins for which nothing can be charged: the server refused, or was never reached."""


class RubricError(InfrastructureError):
    """The server of the teacher, the rubricator or the verifier failed: no fault of the student."""


class ChatClient:
    """Asks one server. `variable` is the environment variable of its key, which is in no message, repr or cache entry.

    `max_concurrent` requests are under way at a time, each for at most `timeout_s`. No connection, a time-out, HTTP
    408, 425, 429 and 5xx are tried again four times with growing waits, or after the server's Retry-After of at most
    60 s; every try counts in the budget. Equal questions that are asked at once are one request. An instance belongs to
    one event loop.

    Raises ConfigError for settings that cannot be meant, RubricError when the server fails, BudgetError and
    StorageError as they are.
    """

    def __init__(
        self,
        url: str,
        *,
        variable: str,
        cache: AnswerCache,
        budget: Budget,
        limit_field: str = "max_tokens",
        max_concurrent: int = 16,
        timeout_s: float = 600.0,
        max_retries: int = MAX_RETRIES,
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        self.url = base_url(url, server="a rubric's server", endpoints=ENDPOINTS, variable=variable, error=ConfigError)
        self._variable = variable
        self._cache = cache
        self._budget = budget
        self._limit_field = limit_field
        self._timeout_s = timeout_s
        self._transport = Transport(
            read_key(variable, error=ConfigError),
            max_concurrent=max_concurrent,
            max_retries=max_retries,
            max_reply_bytes=max_reply_bytes,
        )
        self._pending: dict[str, _Pending] = {}
        self._told_of_usage = False

    def __repr__(self) -> str:
        return f"ChatClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the connections; calls that still run raise RubricError."""
        await self._transport.aclose()

    async def check(self, models: Collection[str]) -> None:
        """That the server is there, takes the key and serves the models, where it lists any: /v1/models costs nothing.

        Raises ConfigError for a key or a model that it does not know, RubricError when it does not answer.
        """
        try:
            listed = await self._transport.retried(
                lambda: self._transport.ask(f"{self.url}/v1/models", timeout_s=self._timeout_s)
            )
            known = read_contexts(listed)
        except RefusedError as error:
            if error.status in (401, 403):
                raise ConfigError(f"{self.url} answered {error}{self._cure(error)}") from None
            return  # many services list nothing
        except ReplyError:
            return
        except (ServerError, ClosedError) as error:
            raise self._failed(error) from None
        if unknown := sorted(set(models) - set(known)):
            names = self._transport.hidden(shown(sorted(known)))
            raise ConfigError(f'{self.url} must serve the model "{unknown[0]}", got {names}; name one that it serves')

    async def answer(self, question: Question) -> Answer:
        """What the model answers, or answered when it was asked this before."""
        return self._cache.find(question) or await self._once(question)

    async def _once(self, question: Question) -> Answer:
        """One request for all who ask this now; when the last of them is cancelled, so is the request."""
        pending = self._pending.get(question.key)
        if pending is None:
            pending = self._pending[question.key] = _Pending(self._ask(question))
        pending.waiting += 1
        try:
            return await asyncio.shield(pending.task)
        finally:
            pending.waiting -= 1
            if not pending.waiting:
                self._pending.pop(question.key, None)
                pending.task.cancel()  # does nothing to one that is done

    async def _ask(self, question: Question) -> Answer:
        body = {
            "model": question.model,
            "messages": [dict(message) for message in question.messages],
            "temperature": question.temperature,
            self._limit_field: question.max_tokens,
            "n": 1,
            "stream": False,
        }
        content = json.dumps(body).encode()
        try:
            answer = await self._transport.retried(lambda: self._try(question, content))
        except (ServerError, ClosedError) as error:
            raise self._failed(error) from None
        self._cache.keep(question, answer)
        return answer

    async def _try(self, question: Question, content: bytes) -> Answer:
        prompt_tokens = _estimated(_chars(question.messages))
        async with self._budget.hold(prompt_tokens, question.max_tokens, purpose=question.purpose) as hold:
            try:
                reply = await self._transport.ask(f"{self.url}/v1/chat/completions", content, timeout_s=self._timeout_s)
            except (TransientError, RefusedError) as error:
                # One that was broken off may have been worked on, and is then charged: it stays counted in full.
                if isinstance(error, RefusedError) or str(error).startswith(_NOT_BILLED):
                    hold.settle(prompt_tokens=0, completion_tokens=0)
                raise
            return self._read(reply, hold, prompt_tokens=prompt_tokens)

    def _read(self, reply: Any, hold: Hold, *, prompt_tokens: int) -> Answer:
        """The answer of a reply, and what it cost, which counts also where the answer is none."""
        usage = _usage(reply)
        if usage is not None:
            hold.settle(prompt_tokens=usage[0], completion_tokens=usage[1])
        text, finish_reason = _said(reply)
        text = self._transport.hidden(text).encode("utf-8", "replace").decode()
        if usage is None:
            usage = prompt_tokens, _estimated(len(text))
            hold.settle(prompt_tokens=usage[0], completion_tokens=usage[1], estimated=True)
            self._tell_of_usage()
        return Answer(
            text=text,
            finish_reason=finish_reason,
            prompt_tokens=usage[0],
            completion_tokens=usage[1],
            estimated=hold.cost.estimated_tokens > 0,
        )

    def _tell_of_usage(self) -> None:
        if not self._told_of_usage:
            self._told_of_usage = True
            logger.warning("%s reports no usage; tokens are counted as characters / %d", self.url, CHARS_PER_TOKEN)

    def _failed(self, error: ServerError | ClosedError) -> RubricError:
        message = self._transport.hidden(str(error))
        if isinstance(error, ClosedError):
            return RubricError(f"{self.url}: the client {message}")
        if isinstance(error, TransientError):
            return RubricError(f"{self.url} must answer, got {message}. Is it the URL of a running server?")
        if isinstance(error, RefusedError):
            return RubricError(f"{self.url} answered {message}{self._cure(error)}")
        return RubricError(f"{self.url}: {message}")

    def _cure(self, refused: RefusedError) -> str:
        if refused.status in (401, 403):
            return f"; put the server's key into the environment variable {self._variable}"
        if refused.status == 404:
            return "; the URL must be the base URL of the server, and the model one that it serves"
        if refused.status in (400, 422):
            return (
                "; if it is about a limit's name or a temperature, see rubrics.limit_field and the temperatures; if "
                "about length, lower rubrics.max_rollout_chars or rubrics.teacher_answers"
            )
        return ""


class _Pending:
    """A request that is under way, and how many wait for it."""

    def __init__(self, work: Coroutine[Any, Any, Answer]) -> None:
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(_heard)
        self.waiting = 0


def _heard(task: asyncio.Task[Answer]) -> None:
    """An error that nobody waits for any more is no news."""
    if not task.cancelled():
        task.exception()


# Replies: nothing in them is trusted to be what it should be


def _said(reply: Any) -> tuple[str, str]:
    """Text and finish_reason of the one choice. Raises ReplyError."""
    choices = field(reply, "choices", list)
    if len(choices) != 1:
        raise ReplyError(f"choices must hold one choice, got {len(choices)}")
    reason = choices[0].get("finish_reason") if isinstance(choices[0], dict) else None
    text = field(choices[0], "message", dict).get("content")
    if not isinstance(text, str) or not text.strip():
        raise ReplyError(
            f"a message must hold text, got {shown(text)} with finish_reason {shown(reason)}; if its thoughts took all "
            "the room, raise rubrics.max_answer_tokens"
        )
    return text, reason if isinstance(reason, str) else ""


def _usage(reply: Any) -> tuple[int, int] | None:
    """Tokens of prompt and reply, None where the server does not say."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    return (prompt, completion) if 0 <= min(prompt, completion) <= max(prompt, completion) <= MAX_COUNT else None


def _chars(messages: Sequence[Message]) -> int:
    return sum(len(str(message.get("content") or "")) for message in messages)


def _estimated(num_chars: int) -> int:
    return math.ceil(num_chars / CHARS_PER_TOKEN)

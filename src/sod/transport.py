"""JSON over HTTP with servers that may fail, stall or lie. Knows neither models nor sandboxes.

    key = read_key("SOD_API_KEY", error=ConfigError)
    transport = Transport(key, max_concurrent=64, max_retries=4, max_reply_bytes=1 << 20)
    listed = await transport.retried(lambda: transport.ask("http://10.0.0.5:8000/v1/models", timeout_s=60.0))
    models = field(listed, "data", list)

ServerError             a server did not do its part
|- TransientError       it may when asked again: no connection, no answer in time, HTTP 429, 5xx, ...
|- RefusedError         it answered with another HTTP status, and would again
`- ReplyError           what it answered is not what it must be
   `- TooLongError
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import os
import random
import re
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from sod.errors import SodError

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")

CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 3.0
"""Less than after what servers close a connection: uvicorn does after 5 s."""
FIRST_BACKOFF_S = 0.25
LONGEST_BACKOFF_S = 30.0
LONGEST_RETRY_AFTER_S = 60.0
"""A server that asks for more is asked again earlier."""
BUSY_STATUSES = frozenset({408, 425, 429})
"""HTTP statuses below 500 that mean "later"."""
QUOTED_CHARACTERS = 300
"""How much of a server's own words goes into a message of ours."""
ERROR_BYTES = 65536
_PLACEHOLDER = re.compile(r"[<>{}\s]|\.\.\.|x{3}|\byour\b|change[-_]?me|placeholder|\bexample\.(com|org|net)\b", re.I)


class ServerError(Exception):
    """A server did not do its part."""


class TransientError(ServerError):
    """It may when it is asked again, not before `wait_s` if it said so."""

    def __init__(self, reason: str, *, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class RefusedError(ServerError):
    """It answered with an HTTP `status`, and will answer the same when asked again."""

    def __init__(self, reason: str, *, status: int) -> None:
        super().__init__(reason)
        self.status = status


class ReplyError(ServerError):
    """What it answered is not what it must be."""


class TooLongError(ReplyError):
    """A reply went beyond the limit."""


class ClosedError(Exception):
    """The transport was closed, by us. Its text is a predicate: "was closed ..."."""


# Settings


def base_url(url: str, *, server: str, endpoints: Sequence[str], variable: str, error: type[SodError]) -> str:
    """A base URL as it is used, without the `endpoints`: "http://10.0.0.5:8000/v1/" -> "http://10.0.0.5:8000".

    `server` says whose URL it is, `variable` where a key belongs. Raises `error` for what cannot be meant, and shows
    nothing of it that may be secret.
    """
    import httpx

    got = repr(str(url).rpartition("@")[2])
    cure = "give the base URL of a running server such as http://10.0.0.5:8080"
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError, AttributeError):
        raise error(f"the URL of {server} must be one, got {got}; {cure}") from None
    if parsed.userinfo:
        raise error(f"the URL of {parsed.host!r} must not hold a password; put the key into {variable}")
    if parsed.query or parsed.fragment:
        raise error(f"the URL of {parsed.host!r} must end with its path, got more; {cure}")
    if parsed.scheme not in ("http", "https") or not parsed.host or _PLACEHOLDER.search(url.strip()):
        raise error(f"the URL of {server} must name a real http(s) server, got {got}; {cure}")
    base = str(parsed).rstrip("/")
    for endpoint in endpoints:
        base = base.removesuffix(endpoint)
    return base.rstrip("/")


def read_key(variable: str, *, error: type[SodError]) -> str:
    """The key in an environment variable, "" for none. Raises `error`, without showing it, if no header can hold it."""
    key = os.environ.get(variable, "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise error(f"{variable} must be visible ASCII characters without spaces; correct or unset it")
    return key


# Exchanges


class Transport:
    """Connections that are kept, requests that are tried again, and an end to all of them.

    The `key` goes along as `Authorization: Bearer`, "" for none; it is in no message and no repr. `max_concurrent`
    requests of `retried` are under way at a time, more wait. A reply may have `max_reply_bytes`. An instance belongs to
    one event loop.
    """

    def __init__(self, key: str, *, max_concurrent: int, max_retries: int, max_reply_bytes: int) -> None:
        self._key = key
        self._max_concurrent = max_concurrent
        self._max_retries = max_retries
        self._max_reply_bytes = max_reply_bytes
        self._free = asyncio.Semaphore(max_concurrent)
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

    async def ask(self, url: str, content: bytes | None = None, *, timeout_s: float) -> Any:
        """One exchange, the reply as JSON: GET, or POST with the JSON in `content`. Raises ServerError."""
        import httpx

        if self._client is None:
            self._client = self._new_client()
        method = "GET" if content is None else "POST"
        try:
            async with asyncio.timeout(timeout_s), self._client.stream(method, url, content=content) as response:
                limit = self._max_reply_bytes if response.status_code == 200 else ERROR_BYTES
                body = await _read(response, limit=limit)
        except TimeoutError:
            raise TransientError(f"no answer within {timeout_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise TransientError(f"{type(error).__name__}: {self.hidden(str(error))}") from None
        if response.status_code != 200:
            raise self._refusal(response, body)
        if len(body) > limit:
            raise TooLongError(f"a reply must be at most {limit} bytes, got more; raise the limit")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            got = self._quoted(body[:ERROR_BYTES].decode("utf-8", "replace"))
            raise ReplyError(f"a reply must be JSON, got {got}") from None

    async def retried(self, attempt: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """What `attempt` returns, made again after growing waits for each TransientError, `max_retries` times.

        Raises the last one with all reasons, other errors at once, and ClosedError when `aclose` was called.
        """
        if self.closed:
            raise ClosedError("is closed and answers nothing")
        try:
            return await self.start_task(self._tries(attempt))
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self.closed and not (current and current.cancelling()):
                raise ClosedError("was closed while a request was under way") from None
            raise

    def start_task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """A task that `aclose` ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def disconnect(self) -> None:
        """Ends the connections; the next request makes new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def aclose(self) -> None:
        """Ends all tasks and connections; calls of `retried` that still run raise ClosedError."""
        self.closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.disconnect()

    def hidden(self, text: str) -> str:
        """The text without the key, which a server may quote, plain or escaped."""
        for form in {self._key, repr(self._key)[1:-1], json.dumps(self._key)[1:-1]} - {""}:
            text = text.replace(form, "[key]")
        return text

    async def _tries(self, attempt: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        reasons: list[str] = []
        wait_s = 0.0
        for number in range(1 + self._max_retries):
            await asyncio.sleep(wait_s)
            async with self._free:
                try:
                    return await attempt()
                except TransientError as failure:
                    reasons.append(str(failure))
                    wait_s = max(_backoff_s(number), failure.wait_s)
        raise TransientError(f"in {len(reasons)} tries: {'; '.join(dict.fromkeys(reasons))}")

    def _new_client(self) -> httpx.AsyncClient:
        import httpx

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=self._max_concurrent, keepalive_expiry=KEEPALIVE_S
        )
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)  # the whole exchange has its own limit
        return httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)

    def _refusal(self, response: httpx.Response, body: bytes) -> ServerError:
        """What an HTTP status other than 200 means, with the server's own words."""
        status = response.status_code
        reason = f"HTTP {status} {self._quoted(_said(body))}"
        if status in BUSY_STATUSES or (status >= 500 and status != 501):  # "not implemented" will not pass
            return TransientError(reason, wait_s=_retry_after_s(response.headers.get("Retry-After", "")))
        return RefusedError(reason, status=status)

    def _quoted(self, text: str) -> str:
        """The beginning of a server's own words. The key goes first: half of it would not be found."""
        return repr(self.hidden(text)[:QUOTED_CHARACTERS])


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


def _backoff_s(number: int) -> float:
    """`0 -> 0.125 .. 0.375, 1 -> 0.25 .. 0.75`."""
    return min(FIRST_BACKOFF_S * 2.0**number, LONGEST_BACKOFF_S) * random.uniform(0.5, 1.5)


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


def field(mapping: Any, name: str, kind: type[_T]) -> _T:
    """`mapping[name]`, which must be of this type. Raises ReplyError."""
    value = mapping.get(name) if isinstance(mapping, dict) else None
    if type(value) is not kind:  # a bool is no int here
        raise ReplyError(f"{name} in a reply must be {kind.__name__}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
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

"""SandboxFusion servers as a `Sandbox`: one POST /run_code per call, spread over several servers.

    async with FusionSandbox(["http://10.0.0.5:8080"]) as sandbox:
        result = await sandbox.run("print(1 + 2)")  # status "ok", stdout "3\\n"

The code does not go as the request's `code`: that is a loader of ours, and the code is one of its files. A server
reads the pipes only when the process has ended, so 200 KB of output stall it until the time limit; files have no such
end, and what was printed before a time limit comes back. The server's `memory_limit_MB` makes every thread's stack as
large as the limit, which breaks threads and numpy; the loader sets the limits itself.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import io
import itertools
import json
import logging
import math
import os
import random
import re
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from sod.errors import SandboxError
from sod.sandbox import cell, fusion_loader
from sod.sandbox.fusion_loader import head_and_tail
from sod.sandbox.protocol import ExecutionResult, ExecutionStatus

if TYPE_CHECKING:
    import httpx

__all__ = ["FusionSandbox"]

logger = logging.getLogger(__name__)
_T = TypeVar("_T")

BACKEND = "fusion"
TOKEN_VARIABLE = "SOD_SANDBOX_TOKEN"
CONNECT_TIMEOUT_S = 10.0
PROBE_TIMEOUT_S = 15.0
FIRST_BACKOFF_S = 0.25
LONGEST_EJECTION_S = 60.0
BUSY_STATUSES = (408, 425, 429)
"""HTTP statuses below 500 that mean "later"."""
MARK_BYTES = 64
"""Room for the line that says how much was left out."""
QUOTED_CHARACTERS = 300
"""How much of a server's own words goes into a message of ours."""
_PLACEHOLDER = re.compile(r"[<>{}\s]|\.\.\.|x{3}|\byour\b|change[-_]?me|placeholder|\bexample\.(com|org|net)\b", re.I)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Limits:
    """What a call may use and give back."""

    memory_mb: int
    max_file_mb: int
    max_output_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """One call, ready to be sent. `directory` is where its files are, below the server's working directory."""

    body: bytes
    directory: str
    timeout_s: float


@dataclass(kw_only=True, slots=True, eq=False)
class _Server:
    """One base URL and what we know of it. `last_pick` counts picks over all servers: round robin among equals."""

    url: str
    num_running: int = 0
    last_pick: int = 0
    ejected: bool = False


class _ServerError(Exception):
    """A server did not do its part. Trying again may help unless `final`."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class _ReplyTooLongError(Exception):
    """A reply went beyond the limit."""


class FusionSandbox:
    """Runs code on SandboxFusion servers, or on `sod sandbox serve`.

    Isolation between calls is the servers' matter, which is why results carry no level but `isolation == ("fusion",)`.
    In the mode that SandboxFusion ships with, "none", calls that run at a time share /tmp, processes, the network and
    the server's environment variables.

    A call may add `memory_mb` MiB of address space and write files of `max_file_mb` MiB each; its output is limited by
    the same. `max_output_bytes` of stdout and of stderr come back, head and tail; of code that was killed or left by
    `os._exit` the output must first fit into `max_reply_bytes`, otherwise the status is output_limit and it is lost.
    `max_concurrent` requests are under way at a time, over all `urls`; more wait, which is `queue_s`.

    What a server fails at (no connection, HTTP 408, 425, 429, 5xx, no answer within the time limit plus
    `queue_allowance_s`, SandboxError, a reply that is none) is tried again up to `max_retries` times, on another server
    if there is one, then given back as sandbox_error. Such a server is left out, unless all are, until it runs
    `print(1)` again; that is first tried after `ejection_s`. What the code does is never tried again.

    A token in the environment variable SOD_SANDBOX_TOKEN goes along as `Authorization: Bearer`. An instance belongs to
    one event loop. Raises SandboxError for URLs that cannot be meant.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        memory_mb: int = 1024,
        max_file_mb: int = 64,
        max_output_bytes: int = 65536,
        max_concurrent: int = 32,
        queue_allowance_s: float = 60.0,
        max_retries: int = 3,
        ejection_s: float = 2.0,
        max_reply_bytes: int = 8 << 20,
    ) -> None:
        self._servers = [_Server(url=url) for url in base_urls(urls)]
        self._token = bearer_token()
        self._limits = _Limits(memory_mb=memory_mb, max_file_mb=max_file_mb, max_output_bytes=max_output_bytes)
        self._max_concurrent = max_concurrent
        self._queue_allowance_s = queue_allowance_s
        self._max_retries = max_retries
        self._ejection_s = ejection_s
        self._max_reply_bytes = max_reply_bytes
        self._free = asyncio.Semaphore(max_concurrent)
        self._picks = itertools.count(1)
        self._starting = asyncio.Lock()
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def layers(self) -> tuple[str, ...]:
        """What is known of how calls are confined: that it is the servers' matter."""
        return (BACKEND,)

    def __repr__(self) -> str:
        return f"FusionSandbox({[server.url for server in self._servers]})"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Runs `print(1)` on every server, once. Servers that fail are left out until they do it; one must.

        Raises SandboxError with every server's reason when none does.
        """
        async with self._starting:
            if self._client is not None or self._closed:
                return
            self._client = _client(token=self._token, max_concurrent=self._max_concurrent)
            try:
                problems = await asyncio.gather(*(self._problem(server) for server in self._servers))
                if all(problems):
                    raise SandboxError(_no_server(self._servers, problems))
            except BaseException:  # a cancelled check is none either
                client, self._client = self._client, None
                await client.aclose()
                raise
            for server, problem in zip(self._servers, problems, strict=True):
                if problem:
                    self._eject(server, problem)

    async def aclose(self) -> None:
        """Ends the connections; calls that still run come back as cancelled."""
        self._closed = True
        async with self._starting:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._client is not None:
                await self._client.aclose()

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",
        timeout_s: float = 10.0,
        files: Mapping[str, bytes] | None = None,
        echo_last_expression: bool = False,
    ) -> ExecutionResult:
        """Runs `code` in a fresh process of one of the servers. Starts the sandbox if need be.

        Raises ValueError for a `timeout_s` that is not positive or a name in `files` that leaves the directory,
        SandboxError when no server passes the check at the start.
        """
        request = _request(
            code,
            stdin=stdin,
            timeout_s=timeout_s,
            files=files or {},
            echo_last_expression=echo_last_expression,
            limits=self._limits,
        )
        await self.start()
        submitted = time.monotonic()
        result = await self._run_with_retries(request)
        return replace(result, queue_s=max(0.0, time.monotonic() - submitted - result.wall_s))

    async def _run_with_retries(self, request: _Request) -> ExecutionResult:
        failures: list[str] = []
        failed: list[_Server] = []
        for attempt in range(1 + self._max_retries):
            if attempt:
                await asyncio.sleep(FIRST_BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            async with self._free:
                if self._closed:
                    return _without_output("cancelled", "the sandbox is closed")
                server = self._pick(failed)
                try:
                    result = await self._run_on(server, request)
                except _ServerError as failure:
                    failures.append(f"{server.url}: {failure}")
                    failed.append(server)
                    if failure.final:
                        break
                    self._eject(server, str(failure))
                else:
                    return replace(result, detail="; ".join([*failures, *([result.detail] if result.detail else [])]))
        return _without_output("sandbox_error", "; ".join(failures))

    async def _run_on(self, server: _Server, request: _Request) -> ExecutionResult:
        """One attempt, in a task of its own so that `aclose` can end it. Raises _ServerError."""
        total_s = request.timeout_s + self._queue_allowance_s
        task = asyncio.create_task(self._post(server, request, total_s=total_s))
        self._remember(task)
        server.num_running += 1
        try:
            return await task
        except _ReplyTooLongError:
            # A server that lies could as well have named a verdict; one that does not had so much output to tell of.
            return _without_output("output_limit", f"{server.url}: a reply of over {self._max_reply_bytes} bytes")
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if self._closed and not (current and current.cancelling()):
                return _without_output("cancelled", "the sandbox was closed")
            raise
        finally:
            server.num_running -= 1

    async def _post(self, server: _Server, request: _Request, *, total_s: float) -> ExecutionResult:
        import httpx

        assert self._client is not None
        url = f"{server.url}/run_code"
        started = time.monotonic()
        try:
            async with asyncio.timeout(total_s), self._client.stream("POST", url, content=request.body) as response:
                limit = self._max_reply_bytes if response.status_code == 200 else QUOTED_CHARACTERS
                body = await _read(response, limit=limit)
        except TimeoutError:
            raise _ServerError(f"no answer within {total_s:g} s") from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _ServerError(f"{type(error).__name__}: {error}") from None
        if response.status_code != 200:
            raise _http_failure(response.status_code, body)
        if len(body) > limit:
            raise _ReplyTooLongError
        elapsed_s = time.monotonic() - started
        return _result(body, request=request, elapsed_s=elapsed_s, limits=self._limits)

    # Which server

    def _pick(self, failed: Sequence[_Server]) -> _Server:
        """The least busy server that is well, of equals the one not picked the longest. If none is well, any."""
        well = [server for server in self._servers if not server.ejected]
        candidates = well or [server for server in self._servers if server not in failed] or self._servers
        server = min(candidates, key=lambda server: (server.num_running, server.last_pick))
        server.last_pick = next(self._picks)
        return server

    def _eject(self, server: _Server, reason: str) -> None:
        if server.ejected or self._closed or len(self._servers) == 1:
            return
        server.ejected = True
        logger.warning("sandbox server %s left out until it runs print(1) again: %s", server.url, reason)
        self._remember(asyncio.create_task(self._readmit(server)))

    async def _readmit(self, server: _Server) -> None:
        wait_s = self._ejection_s
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.8, 1.2))
            if not await self._problem(server):
                server.ejected = False
                logger.warning("sandbox server %s is back", server.url)
                return
            wait_s = min(2 * wait_s, LONGEST_EJECTION_S)

    async def _problem(self, server: _Server) -> str:
        """Why the server cannot run `print(1)`, "" if it can."""
        request = _request(
            "print(1)", stdin="", timeout_s=10.0, files={}, echo_last_expression=False, limits=self._limits
        )
        try:
            result = await self._post(server, request, total_s=PROBE_TIMEOUT_S)
        except _ServerError as failure:
            return str(failure)
        except _ReplyTooLongError:
            return f"a reply of over {self._max_reply_bytes} bytes to print(1)"
        if (result.status, result.stdout) == ("ok", "1\n"):
            return ""
        shown = (result.stdout + result.stderr)[:QUOTED_CHARACTERS]
        return f"print(1) ended as {result.status} with {shown!r}; it must print 1 through fetch_files"

    def _remember(self, task: asyncio.Task[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# Settings


def base_urls(urls: Sequence[str]) -> list[str]:
    """Base URLs as they are used: "http://10.0.0.5:8080/run_code/" -> "http://10.0.0.5:8080".

    Raises SandboxError for none, and for one that is empty, a placeholder, not http(s) or that holds a password.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given:
        raise SandboxError("FusionSandbox needs the URL of a server, got none; give one such as http://10.0.0.5:8080")
    return list(dict.fromkeys(_base_url(url) for url in given))


def _base_url(url: str) -> str:
    import httpx

    cure = "give the base URL of a running server such as http://10.0.0.5:8080"
    try:
        parsed = httpx.URL(url.strip())
    except (httpx.InvalidURL, TypeError, AttributeError):
        raise SandboxError(f"the URL of a sandbox server must be one, got {url!r}; {cure}") from None
    if parsed.userinfo:
        raise SandboxError(f"the URL of {parsed.host!r} must not hold a password; put a token into {TOKEN_VARIABLE}")
    if parsed.scheme not in ("http", "https") or not parsed.host or _PLACEHOLDER.search(url.strip()):
        raise SandboxError(f"the URL of a sandbox server must name a real http(s) server, got {url!r}; {cure}")
    if parsed.query or parsed.fragment:
        raise SandboxError(f"the URL of a sandbox server must end with its path, got {url!r}; {cure}")
    return str(parsed).rstrip("/").removesuffix("/run_code").rstrip("/")


def bearer_token() -> str:
    """The token in the environment, "" for none. Raises SandboxError, without showing it, if no header can hold it."""
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise SandboxError(f"{TOKEN_VARIABLE} must be visible ASCII characters without spaces; correct or unset it")
    return token


def _client(*, token: str, max_concurrent: int) -> httpx.AsyncClient:
    import httpx

    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(
        headers=headers,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),  # the whole exchange has its own limit
        limits=httpx.Limits(
            max_connections=None,
            max_keepalive_connections=max_concurrent,
            keepalive_expiry=3.0,  # before servers close them, many after 5 s
        ),
    )


def _no_server(servers: Sequence[_Server], problems: Sequence[str]) -> str:
    found = "; ".join(f"{server.url}: {problem}" for server, problem in zip(servers, problems, strict=True))
    return (
        f"at least one sandbox server must run print(1), got: {found}. Correct the URLs, or start a server: "
        "`sod sandbox serve`, or the image of SandboxFusion"
    )


# Requests


def _request(
    code: str,
    *,
    stdin: str,
    timeout_s: float,
    files: Mapping[str, bytes],
    echo_last_expression: bool,
    limits: _Limits,
) -> _Request:
    """The body to send. Raises ValueError as `FusionSandbox.run` does."""
    if not (timeout_s > 0 and math.isfinite(timeout_s)):
        raise ValueError(f"timeout_s must be a positive number of seconds, got {timeout_s}")
    directory = f".sod-{secrets.token_hex(8)}"
    contents = {
        "cell.py": _source(cell).encode(),
        "code": code.encode("utf-8", "surrogatepass"),
        "stdin": stdin.encode("utf-8", "replace"),
        **{f"work/{_checked(name)}": content for name, content in files.items()},
    }
    settings = {
        "directory": directory,
        "echo_last_expression": echo_last_expression,
        "memory_bytes": limits.memory_mb << 20,
        "file_bytes": limits.max_file_mb << 20,
        "max_output_bytes": limits.max_output_bytes,
    }
    body = {
        "language": "python",
        "code": f"{_source(fusion_loader)}\n\nmain(json.loads({json.dumps(settings)!r}))\n",
        "run_timeout": timeout_s,
        "files": {f"{directory}/{name}": base64.b64encode(content).decode() for name, content in contents.items()},
        "fetch_files": [f"{directory}/{name}" for name in ("stdout", "stderr", "report")],
        # SandboxFusion ignores this. `sod sandbox serve` reads what the loader is to do and does it itself.
        "sod": {"directory": directory, "echo_last_expression": echo_last_expression},
    }
    return _Request(body=json.dumps(body).encode(), directory=directory, timeout_s=timeout_s)


@functools.cache
def _source(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")


def _checked(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"names in files must be relative and stay in the directory, got {name!r}")
    return name


# Replies: nothing in them is trusted to be what it should be


async def _read(response: httpx.Response, *, limit: int) -> bytes:
    """The body as it came over the wire, or its beginning of a little over `limit` bytes."""
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > limit:
            break
    return bytes(body)


def _http_failure(status_code: int, body: bytes) -> _ServerError:
    said = body[:QUOTED_CHARACTERS].decode("utf-8", "replace")
    cure = {
        401: f"; set {TOKEN_VARIABLE} to the server's token",
        403: f"; set {TOKEN_VARIABLE} to the server's token",
        404: "; the URL must be the base URL of a SandboxFusion server",
    }.get(status_code, "")
    final = status_code < 500 and status_code not in BUSY_STATUSES
    return _ServerError(f"HTTP {status_code} {said!r}{cure}", final=final)


def _result(body: bytes, *, request: _Request, elapsed_s: float, limits: _Limits) -> ExecutionResult:
    """What a reply says of a run. Raises _ServerError when the server failed or the reply is not what it must be."""
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise _ServerError(f"a reply must be JSON, got {body[:QUOTED_CHARACTERS]!r}") from None
    status = _field(reply, "status", str)
    if status not in ("Success", "Failed"):
        message = reply.get("message") if status == "SandboxError" else None
        raise _ServerError(f"{_quoted(status)}: {_quoted(message)}")
    run = _field(reply, "run_result", dict)
    fetched = _fetched(_field(reply, "files", dict), directory=request.directory)
    verdict = _verdict(run, fetched=fetched)
    stdout, stdout_truncated = _text(fetched, "stdout", limit=limits.max_output_bytes)
    stderr, stderr_truncated = _text(fetched, "stderr", limit=limits.max_output_bytes)
    return replace(
        verdict,
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=stdout_truncated,
        stderr_truncated=stderr_truncated,
        wall_s=_wall_s(run.get("execution_time"), elapsed_s=elapsed_s),
    )


def _verdict(run: Mapping[str, Any], *, fetched: Mapping[str, bytes]) -> ExecutionResult:
    """How the run ended, without its output."""
    ended = _field(run, "status", str)
    if ended == "TimeLimitExceeded":
        return _without_output("timeout", "")
    if ended != "Finished":
        raise _ServerError(f"run_result.status {_quoted(ended)}")
    code = _field(run, "return_code", int)
    if not -signal.NSIG < code < 256:
        raise _ServerError(f"return_code must be an exit code or minus a signal, got {str(code)[:20]}")
    complaint = run.get("stderr")
    if code and complaint and "stdout" not in fetched:
        raise _ServerError(f"the loader failed: {_quoted(complaint)}")
    detail = "" if "stdout" in fetched else "no output came back"
    verdict = _without_output(_status(code, told=_report(fetched)), detail)
    if code < 0:
        return replace(verdict, signal=_signal_name(-code))
    return replace(verdict, exit_code=1 if code in (cell.MEMORY_ERROR_EXIT, cell.DISK_ERROR_EXIT) else code)


def _wall_s(told: Any, *, elapsed_s: float) -> float:
    """The server's word, where it can be: it is a number and no more than we waited."""
    is_number = isinstance(told, int | float) and not isinstance(told, bool)
    return float(told) if is_number and 0 <= told <= elapsed_s else elapsed_s


def _status(code: int, *, told: Mapping[str, Any]) -> ExecutionStatus:
    if told.get("output_limit") is True:
        return "output_limit"
    if code < 0:
        return "crashed"
    known: Mapping[int, ExecutionStatus] = {
        0: "ok",
        cell.MEMORY_ERROR_EXIT: "memory_limit",
        cell.DISK_ERROR_EXIT: "disk_limit",
    }
    return known.get(code, "error")


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _fetched(files: Mapping[str, Any], *, directory: str) -> dict[str, bytes]:
    """Those of our files that came back."""
    found = {}
    for name in ("stdout", "stderr", "report"):
        content = files.get(f"{directory}/{name}")
        if content is None:
            continue
        try:
            found[name] = base64.b64decode(content, validate=True)
        except (ValueError, TypeError):
            raise _ServerError(f"files must be base64, got {_quoted(content)}") from None
    return found


def _report(fetched: Mapping[str, bytes]) -> Mapping[str, Any]:
    """What the loader wrote when the code had ended. Code could write it too: it is about output only."""
    with contextlib.suppress(ValueError, RecursionError):
        told = json.loads(fetched.get("report", b"{}"))
        if isinstance(told, dict):
            return told
    return {}


def _text(fetched: Mapping[str, bytes], name: str, *, limit: int) -> tuple[str, bool]:
    """One stream and whether something of it was left out, by the loader or here."""
    content = fetched.get(name, b"")
    was_cut = _report(fetched).get(f"{name}_truncated") is True
    if not (was_cut and len(content) <= limit + MARK_BYTES):
        content, cut_here = head_and_tail(io.BytesIO(content), limit)
        was_cut = was_cut or cut_here
    return content.decode("utf-8", "replace"), was_cut


def _field(mapping: Any, name: str, kind: type[_T]) -> _T:
    """`mapping[name]`, which must be of this type. Raises _ServerError."""
    value = mapping.get(name) if isinstance(mapping, dict) else None
    if type(value) is not kind:  # a bool is no int here
        raise _ServerError(f"{name} in a reply must be {kind.__name__}, got {_quoted(value)}")
    return value


def _quoted(value: Any) -> str:
    """A server's own words for a message: their end, which is where a traceback says what it is about."""
    return repr(value[-QUOTED_CHARACTERS:]) if isinstance(value, str) else type(value).__name__


def _without_output(status: ExecutionStatus, detail: str) -> ExecutionResult:
    return ExecutionResult(status=status, stdout="", stderr="", backend=BACKEND, isolation=(BACKEND,), detail=detail)

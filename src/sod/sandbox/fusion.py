"""SandboxFusion servers as a `Sandbox`: one POST /run_code per call, spread over several servers.

    async with FusionSandbox(["http://10.0.0.5:8080"]) as sandbox:
        result = await sandbox.run("print(1 + 2)")  # status "ok", stdout "3\\n"

What is sent and what comes back is in fusion_exchange.py.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from sod.errors import SandboxError
from sod.sandbox.fusion_exchange import BACKEND, Limits, Request, make_request, read_result, without_output
from sod.sandbox.protocol import ExecutionResult
from sod.transport import (
    ClosedError,
    RefusedError,
    ServerError,
    TooLongError,
    TransientError,
    Transport,
    base_url,
    read_key,
)

__all__ = ["FusionSandbox"]

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "SOD_SANDBOX_TOKEN"
CURES = {
    401: f"; set {TOKEN_VARIABLE} to the server's token",
    403: f"; set {TOKEN_VARIABLE} to the server's token",
    404: "; the URL must be the base URL of a SandboxFusion server",
}
PROBE_TIMEOUT_S = 15.0
LONGEST_EJECTION_S = 60.0
QUOTED_CHARACTERS = 300
"""How much of a server's own words goes into a message: their end, where a traceback says what it is about."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Server:
    """One base URL and what we know of it. `last_pick` counts picks over all servers: round robin among equals."""

    url: str
    num_running: int = 0
    last_pick: int = 0
    ejected: bool = False


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
        self._transport = Transport(
            bearer_token(),
            max_concurrent=max_concurrent,
            max_retries=max_retries,
            max_reply_bytes=max_reply_bytes,
        )
        self._limits = Limits(memory_mb=memory_mb, max_file_mb=max_file_mb, max_output_bytes=max_output_bytes)
        self._queue_allowance_s = queue_allowance_s
        self._ejection_s = ejection_s
        self._max_reply_bytes = max_reply_bytes
        self._picks = itertools.count(1)
        self._starting = asyncio.Lock()
        self._started = False

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
            if self._started or self._transport.closed:
                return
            try:
                problems = await asyncio.gather(*(self._problem(server) for server in self._servers))
                if all(problems):
                    raise SandboxError(_no_server(self._servers, problems))
            except BaseException:  # a cancelled check is none either
                await self._transport.disconnect()
                raise
            self._started = True
            for server, problem in zip(self._servers, problems, strict=True):
                if problem:
                    self._eject(server, problem)

    async def aclose(self) -> None:
        """Ends the connections; calls that still run come back as cancelled."""
        async with self._starting:
            await self._transport.aclose()

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
        request = make_request(
            code,
            stdin=stdin,
            timeout_s=timeout_s,
            files=files,
            echo_last_expression=echo_last_expression,
            limits=self._limits,
        )
        await self.start()
        submitted = time.monotonic()
        failures: list[tuple[_Server, str]] = []
        try:
            result = await self._transport.retried(lambda: self._attempt(request, failures))
        except ClosedError as error:
            result = without_output("cancelled", f"the sandbox {error}")
        except ServerError:  # each is in `failures`
            result = without_output("sandbox_error", "")
        told = [f"{server.url}: {reason}" for server, reason in failures]
        detail = "; ".join([*told, *([result.detail] if result.detail else [])])
        return replace(result, detail=detail, queue_s=max(0.0, time.monotonic() - submitted - result.wall_s))

    async def _attempt(self, request: Request, failures: list[tuple[_Server, str]]) -> ExecutionResult:
        """One attempt on one server; adds to `failures`. Raises TransientError where another may help."""
        server = self._pick([server for server, _ in failures])
        server.num_running += 1
        try:
            return await self._post(server, request, total_s=request.timeout_s + self._queue_allowance_s)
        except TooLongError:
            # A server that lies could as well have named a verdict; one that does not had so much output to tell of.
            return without_output("output_limit", f"{server.url}: a reply of over {self._max_reply_bytes} bytes")
        except ServerError as error:
            reason = self._reason(error)
            failures.append((server, reason))
            if isinstance(error, RefusedError):
                raise
            self._eject(server, reason)
            raise TransientError(reason) from None
        finally:
            server.num_running -= 1

    async def _post(self, server: _Server, request: Request, *, total_s: float) -> ExecutionResult:
        started = time.monotonic()
        reply = await self._transport.ask(f"{server.url}/run_code", request.body, timeout_s=total_s)
        return read_result(reply, request=request, elapsed_s=time.monotonic() - started, limits=self._limits)

    def _reason(self, error: ServerError) -> str:
        """For a message, without the token; only then cut, since half a token would not be found."""
        cure = CURES.get(error.status, "") if isinstance(error, RefusedError) else ""
        told = self._transport.hidden(f"{error}{cure}")
        return (
            told
            if len(told) <= 2 * QUOTED_CHARACTERS
            else f"{told[: QUOTED_CHARACTERS // 2]} .. {told[-QUOTED_CHARACTERS:]}"
        )

    # Which server

    def _pick(self, failed: Sequence[_Server]) -> _Server:
        """The least busy server that is well, of equals the one not picked the longest. If none is well, any."""
        well = [server for server in self._servers if not server.ejected]
        candidates = well or [server for server in self._servers if server not in failed] or self._servers
        server = min(candidates, key=lambda server: (server.num_running, server.last_pick))
        server.last_pick = next(self._picks)
        return server

    def _eject(self, server: _Server, reason: str) -> None:
        if server.ejected or self._transport.closed or len(self._servers) == 1:
            return
        server.ejected = True
        logger.warning("sandbox server %s left out until it runs print(1) again: %s", server.url, reason)
        self._transport.start_task(self._readmit(server))

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
        request = make_request("print(1)", limits=self._limits)
        try:
            result = await self._post(server, request, total_s=PROBE_TIMEOUT_S)
        except TooLongError:
            return f"a reply of over {self._max_reply_bytes} bytes to print(1)"
        except ServerError as error:
            return self._reason(error)
        if (result.status, result.stdout) == ("ok", "1\n"):
            return ""
        got = (result.stdout + result.stderr)[:QUOTED_CHARACTERS]
        return f"print(1) ended as {result.status} with {got!r}; it must print 1 through fetch_files"


# Settings


def base_urls(urls: Sequence[str]) -> list[str]:
    """Base URLs as they are used: "http://10.0.0.5:8080/run_code/" -> "http://10.0.0.5:8080".

    Raises SandboxError for none, and for one that is empty, a placeholder, not http(s) or that holds a password.
    """
    given = [urls] if isinstance(urls, str) else list(urls)
    if not given:
        raise SandboxError("FusionSandbox needs the URL of a server, got none; give one such as http://10.0.0.5:8080")
    return list(
        dict.fromkeys(
            base_url(
                url, server="a sandbox server", endpoints=["/run_code"], variable=TOKEN_VARIABLE, error=SandboxError
            )
            for url in given
        )
    )


def bearer_token() -> str:
    """The token in the environment, "" for none. Raises SandboxError, without showing it, if no header can hold it."""
    return read_key(TOKEN_VARIABLE, error=SandboxError)


def _no_server(servers: Sequence[_Server], problems: Sequence[str]) -> str:
    found = "; ".join(f"{server.url}: {problem}" for server, problem in zip(servers, problems, strict=True))
    return (
        f"at least one sandbox server must run print(1), got: {found}. Correct the URLs, or start a server: "
        "`sod sandbox serve`, or the image of SandboxFusion"
    )

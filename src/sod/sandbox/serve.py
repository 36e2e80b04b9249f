"""Any `Sandbox` behind SandboxFusion's HTTP contract, so that other machines and frameworks can use it.

    async with LocalSandbox() as sandbox:
        await serve(sandbox, port=8080)  # POST /run_code, GET /v1/ping

| request field                | what is done with it                                                           |
|------------------------------|--------------------------------------------------------------------------------|
| code, stdin, files           | as SandboxFusion does; files stay in the working directory                     |
| language                     | "python"; another is answered with status Failed and a message                 |
| run_timeout                  | the time limit, at most `max_timeout_s`                                        |
| compile_timeout              | nothing: there is nothing to compile                                           |
| memory_limit_MB              | nothing: the limit is the sandbox's own, which a caller can neither raise nor lower |
| fetch_files                  | nothing comes back, and the reply's message says so                            |
| sod                          | what FusionSandbox's loader would do is done here, its files do come back      |

A verdict of the sandbox that SandboxFusion has no word for is told by the return code: 251 for memory_limit, 252 for
disk_limit, -9 for output_limit; `message` names it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import ipaddress
import json
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from sod.errors import SandboxError
from sod.sandbox import cell
from sod.sandbox.fusion import TOKEN_VARIABLE, bearer_token
from sod.sandbox.protocol import ExecutionResult, Sandbox

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["application", "serve"]

INSTALL = 'pip install "sod-distill[serve]"'
NO_FETCH = "fetch_files is not supported: print what you want back"
GRACE_S = 2
"""How long requests that are under way may go on when the server is told to end."""


class LoaderOrder(BaseModel):
    """What FusionSandbox's loader is to do with the files below `directory`."""

    directory: str
    echo_last_expression: bool


class RunCodeRequest(BaseModel):
    """The body of POST /run_code; fields that are not named here are ignored, as SandboxFusion does."""

    code: str
    language: str
    run_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    compile_timeout: float = 10.0
    memory_limit_MB: int = -1
    stdin: str | None = None
    files: dict[str, str | None] = {}
    fetch_files: list[str] = []
    sod: LoaderOrder | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Program:
    """What to run. `directory` is where FusionSandbox looks for its files, "" for other clients."""

    code: str
    stdin: str
    files: Mapping[str, bytes]
    echo_last_expression: bool
    directory: str


class _RefusedError(Exception):
    """A request that is answered with an HTTP status and a sentence."""

    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(detail)
        self.status_code = status_code


async def serve(
    sandbox: Sandbox,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    max_timeout_s: float = 120.0,
    max_body_bytes: int = 32 << 20,
    announce: Callable[[str], object] = print,
) -> None:
    """Serves until it is cancelled or the process gets SIGINT or SIGTERM. `announce` gets the URL; port 0 is any free.

    Whoever reaches the address can run code. So an address that other machines reach needs a token in the environment
    variable SOD_SANDBOX_TOKEN, which callers then send as `Authorization: Bearer TOKEN`. It goes over the wire as it
    is: beyond a network you trust, put TLS before it.
    Raises SandboxError without a token that is needed, for an address that is taken, and when uvicorn is missing.
    """
    token = bearer_token()
    if not token and not is_loopback(host):
        raise SandboxError(
            f"a sandbox that other machines reach needs a token, got none for {host}; "
            f"set {TOKEN_VARIABLE} to a secret here and at the callers, or bind 127.0.0.1"
        )
    app = application(sandbox, token=token, max_timeout_s=max_timeout_s, max_body_bytes=max_body_bytes)
    server = _uvicorn_server(app)
    with _listener(host, port) as listener:
        announce(_url(listener))
        await _until_ended(server, listener)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address: "127.0.0.1", "::1" and "localhost" are, "0.0.0.0" is not."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def application(
    sandbox: Sandbox, *, token: str = "", max_timeout_s: float = 120.0, max_body_bytes: int = 32 << 20
) -> Starlette:
    """The ASGI app. With a `token`, /run_code without it is answered with 401; /v1/ping is open."""
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse
        from starlette.routing import Route
    except ModuleNotFoundError as error:
        raise SandboxError(f"serving a sandbox needs {error.name}; install it with: {INSTALL}") from None

    async def run_code(request: Request) -> Response:
        try:
            _authorize(request, token=token)
            asked = _parsed(await _body(request, max_bytes=max_body_bytes), max_timeout_s=max_timeout_s)
            answer = await _unless_gone(request, _answer(sandbox, asked))
        except _RefusedError as refused:
            headers = {"WWW-Authenticate": "Bearer"} if refused.status_code == 401 else {}
            return JSONResponse({"detail": str(refused)}, status_code=refused.status_code, headers=headers)
        return JSONResponse(answer)

    async def ping(_: Request) -> Response:
        return JSONResponse("pong")

    return Starlette(routes=[Route("/run_code", run_code, methods=["POST"]), Route("/v1/ping", ping)])


# Listening


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError) as error:
        raise SandboxError(
            f"the sandbox must listen on {host}, port {port}, got: {error}; choose another port, 0 for any that is free"
        ) from None
    # Connections inherit it. asyncio sets it only where the socket names its protocol; without it a reply takes 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _uvicorn_server(app: Starlette) -> uvicorn.Server:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise SandboxError(f"serving a sandbox needs {error.name}; install it with: {INSTALL}") from None
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    return uvicorn.Server(config)


async def _until_ended(server: uvicorn.Server, listener: socket.socket) -> None:
    """Until a signal ends uvicorn. When we are cancelled, uvicorn is ended first and gives requests GRACE_S."""
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        server.should_exit = True
        await asyncio.wait({serving})
        raise


# Requests


def _authorize(request: Request, *, token: str) -> None:
    """Raises _RefusedError without the token; takes the same time wherever a wrong one differs."""
    given = request.headers.get("authorization", "").encode("latin-1")
    if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
        raise _RefusedError(401, "this sandbox wants the header Authorization: Bearer TOKEN, with its own token")
    # A page in a browser on this machine can send forms to a loopback address, but this type only if we let it.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _RefusedError(415, "the Content-Type of a request must be application/json")


async def _body(request: Request, *, max_bytes: int) -> bytes:
    """The whole body. Raises _RefusedError as soon as it is longer than `max_bytes`."""
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise _RefusedError(413, f"a request must have at most {max_bytes} bytes")
    except ClientDisconnect:
        raise _RefusedError(400, "the caller hung up") from None
    return bytes(body)


def _parsed(body: bytes, *, max_timeout_s: float) -> RunCodeRequest:
    try:
        asked = RunCodeRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise _RefusedError(422, f"{where}: {first['msg']}") from None
    if asked.run_timeout > max_timeout_s:
        raise _RefusedError(422, f"run_timeout must be at most {max_timeout_s:g} s here, got {asked.run_timeout:g}")
    return asked


async def _unless_gone(request: Request, answer: Coroutine[Any, Any, Mapping[str, Any]]) -> Mapping[str, Any]:
    """The answer; when the caller hangs up first, the run is cancelled, which ends its process."""
    answering = asyncio.create_task(answer)
    gone = asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise _RefusedError(400, "the caller hung up")
        return answering.result()
    finally:
        answering.cancel()
        gone.cancel()
        await asyncio.wait({answering, gone})


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# Answers


async def _answer(sandbox: Sandbox, asked: RunCodeRequest) -> Mapping[str, Any]:
    if asked.language != "python":
        return _reply("Failed", message=f'language must be "python" here, got {asked.language[:40]!r}')
    program = _program(asked)
    try:
        result = await sandbox.run(
            program.code,
            stdin=program.stdin,
            timeout_s=asked.run_timeout,
            files=program.files,
            echo_last_expression=program.echo_last_expression,
        )
    except ValueError as error:
        raise _RefusedError(422, str(error)) from None
    except SandboxError as error:
        return _failed(str(error))
    if result.status in ("sandbox_error", "cancelled"):
        return _failed(result.detail or result.status)
    notes: list[str] = [result.status] if result.status in ("memory_limit", "disk_limit", "output_limit") else []
    if asked.fetch_files and not program.directory:
        notes.append(NO_FETCH)
    return _told(result, message="; ".join(notes), directory=program.directory)


def _program(asked: RunCodeRequest) -> _Program:
    """What a request asks for; of FusionSandbox's requests, what its loader would have run."""
    files = {name: _decoded(name, content) for name, content in asked.files.items() if content is not None}
    if asked.sod is None:
        return _Program(code=asked.code, stdin=asked.stdin or "", files=files, echo_last_expression=False, directory="")
    directory = asked.sod.directory
    try:
        code = files[f"{directory}/code"].decode("utf-8", "surrogatepass")
        stdin = files[f"{directory}/stdin"].decode("utf-8", "replace")
    except (KeyError, UnicodeDecodeError) as error:
        raise _RefusedError(422, f"sod.directory must hold code and stdin in UTF-8, got {error!r}") from None
    work = f"{directory}/work/"
    return _Program(
        code=code,
        stdin=stdin,
        files={name.removeprefix(work): content for name, content in files.items() if name.startswith(work)},
        echo_last_expression=asked.sod.echo_last_expression,
        directory=directory,
    )


def _decoded(name: str, content: str) -> bytes:
    try:
        return base64.b64decode(content, validate=True)
    except ValueError as error:
        raise _RefusedError(422, f"files.{name[:80]} must be base64, got: {error}") from None


def _told(result: ExecutionResult, *, message: str, directory: str) -> Mapping[str, Any]:
    """A result in SandboxFusion's words. FusionSandbox finds the output where its loader would have put it."""
    timed_out = result.status == "timeout"
    run_result = {
        "status": "TimeLimitExceeded" if timed_out else "Finished",
        "execution_time": result.wall_s,
        "return_code": None if timed_out else _return_code(result),
        "stdout": "" if directory else result.stdout,
        "stderr": "" if directory else result.stderr,
    }
    return _reply(
        "Success" if result.status == "ok" else "Failed",
        message=message,
        run_result=run_result,
        files=_loader_files(result, directory=directory) if directory else {},
    )


def _loader_files(result: ExecutionResult, *, directory: str) -> Mapping[str, str]:
    report = {
        "stdout_truncated": result.stdout_truncated,
        "stderr_truncated": result.stderr_truncated,
        "output_limit": result.status == "output_limit",
    }
    contents = {"stdout": result.stdout, "stderr": result.stderr, "report": json.dumps(report)}
    return {
        f"{directory}/{name}": base64.b64encode(text.encode("utf-8", "replace")).decode()
        for name, text in contents.items()
    }


def _return_code(result: ExecutionResult) -> int:
    named = {
        "ok": 0,
        "memory_limit": cell.MEMORY_ERROR_EXIT,
        "disk_limit": cell.DISK_ERROR_EXIT,
        "output_limit": -signal.SIGKILL,
    }
    if result.status in named:
        return named[result.status]
    if result.signal is not None:
        return -signal.Signals.__members__.get(result.signal, signal.SIGKILL)
    return result.exit_code or 1


def _failed(detail: str) -> Mapping[str, Any]:
    """The sandbox itself failed: FusionSandbox and the official client try again."""
    run_result = {"status": "Error", "execution_time": None, "return_code": None, "stdout": None, "stderr": detail}
    return _reply("SandboxError", message=detail, run_result=run_result)


def _reply(
    status: str,
    *,
    message: str,
    run_result: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Mapping[str, Any]:
    return {
        "status": status,
        "message": message,
        "compile_result": None,
        "run_result": run_result,
        "executor_pod_name": os.environ.get("MY_POD_NAME"),
        "files": files or {},
    }

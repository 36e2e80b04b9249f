"""What FusionSandbox sends to POST /run_code, and what a reply means.

The code does not go as the request's `code`: that is a loader of ours, and the code is one of its files. A server
reads the pipes only when the process has ended, so 200 KB of output stall it until the time limit; files have no such
end, and what was printed before a time limit comes back. The server's `memory_limit_MB` makes every thread's stack as
large as the limit, which breaks threads and numpy; the loader sets the limits itself.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import io
import json
import secrets
import signal
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from sod.sandbox import cell, fusion_loader
from sod.sandbox.fusion_loader import head_and_tail
from sod.sandbox.protocol import ExecutionResult, ExecutionStatus
from sod.sandbox.request import check_request
from sod.sandbox.verdict import EXIT_STATUS, shown_exit_code, signal_name
from sod.transport import ReplyError, field, shown

__all__ = ["BACKEND", "Limits", "Request", "make_request", "read_result", "without_output"]

BACKEND = "fusion"
MARK_BYTES = 64
"""Room for the line that says how much was left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a call may use and give back."""

    memory_mb: int
    max_file_mb: int
    max_output_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One call, ready to be sent. `directory` is where its files are, below the server's working directory."""

    body: bytes
    directory: str
    timeout_s: float


def make_request(
    code: str,
    *,
    limits: Limits,
    stdin: str = "",
    timeout_s: float = 10.0,
    files: Mapping[str, bytes] | None = None,
    echo_last_expression: bool = False,
) -> Request:
    """The body to send. Raises ValueError as `check_request` does."""
    check_request(timeout_s=timeout_s, files=files or {})
    directory = f".sod-{secrets.token_hex(8)}"
    contents = {
        "cell.py": _source(cell).encode(),
        "code": code.encode("utf-8", "surrogatepass"),
        "stdin": stdin.encode("utf-8", "replace"),
        **{f"work/{name}": content for name, content in (files or {}).items()},
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
    return Request(body=json.dumps(body).encode(), directory=directory, timeout_s=timeout_s)


@functools.cache
def _source(module: ModuleType) -> str:
    assert module.__file__ is not None
    return Path(module.__file__).read_text(encoding="utf-8")


# Replies: nothing in them is trusted to be what it should be


def read_result(reply: Any, *, request: Request, elapsed_s: float, limits: Limits) -> ExecutionResult:
    """What a reply says of a run. Raises ReplyError when the server failed or the reply is not what it must be."""
    status = field(reply, "status", str)
    if status not in ("Success", "Failed"):
        message = reply.get("message") if status == "SandboxError" else None
        raise ReplyError(f"{_quoted(status)}: {_quoted(message)}")
    run = field(reply, "run_result", dict)
    fetched = _fetched(field(reply, "files", dict), directory=request.directory)
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
    ended = field(run, "status", str)
    if ended == "TimeLimitExceeded":
        return without_output("timeout", "")
    if ended != "Finished":
        raise ReplyError(f"run_result.status {_quoted(ended)}")
    code = field(run, "return_code", int)
    if not -signal.NSIG < code < 256:
        raise ReplyError(f"return_code must be an exit code or minus a signal, got {str(code)[:20]}")
    complaint = run.get("stderr")
    if code and complaint and "stdout" not in fetched:
        raise ReplyError(f"the loader failed: {_quoted(complaint)}")
    detail = "" if "stdout" in fetched else "no output came back"
    verdict = without_output(_status(code, told=_report(fetched)), detail)
    if code < 0:
        return replace(verdict, signal=signal_name(-code))
    return replace(verdict, exit_code=shown_exit_code(code))


def _wall_s(told: Any, *, elapsed_s: float) -> float:
    """The server's word, where it can be: it is a number and no more than we waited."""
    is_number = isinstance(told, int | float) and not isinstance(told, bool)
    return float(told) if is_number and 0 <= told <= elapsed_s else elapsed_s


def _status(code: int, *, told: Mapping[str, Any]) -> ExecutionStatus:
    if told.get("output_limit") is True:
        return "output_limit"
    return "crashed" if code < 0 else EXIT_STATUS.get(code, "error")


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
            raise ReplyError(f"files must be base64, got {_quoted(content)}") from None
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


def _quoted(value: Any) -> str:
    """A server's own words, whole: who tells them on cuts them."""
    return repr(value) if isinstance(value, str) else shown(value)


def without_output(status: ExecutionStatus, detail: str) -> ExecutionResult:
    return ExecutionResult(status=status, stdout="", stderr="", backend=BACKEND, isolation=(BACKEND,), detail=detail)

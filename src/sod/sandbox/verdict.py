"""From facts to an ExecutionResult: what the kernel and the fork server's clock said of an end, in one word."""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sod.sandbox.cell import DISK_ERROR_EXIT, MEMORY_ERROR_EXIT
from sod.sandbox.channel import Facts
from sod.sandbox.memory_files import MAX_BYTES, Output, read_output
from sod.sandbox.protocol import ExecutionResult, ExecutionStatus

__all__ = ["Limits", "Outputs", "failure", "result_of_cell", "result_of_process", "shown_exit_code", "signal_name"]

BACKEND = "local"
EXIT_STATUS: Mapping[int, ExecutionStatus] = {0: "ok", MEMORY_ERROR_EXIT: "memory_limit", DISK_ERROR_EXIT: "disk_limit"}
"""Every other exit code is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Those a verdict depends on."""

    timeout_s: float
    memory_mb: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """What a call wrote to stdout and stderr."""

    stdout: Output
    stderr: Output

    @classmethod
    def read(cls, stdout: int, stderr: int, *, keep_bytes: int) -> Outputs:
        """From the two memory files."""
        return cls(stdout=read_output(stdout, keep_bytes=keep_bytes), stderr=read_output(stderr, keep_bytes=keep_bytes))

    @property
    def full(self) -> bool:
        """Whether one of them has reached its limit."""
        return max(self.stdout.num_bytes, self.stderr.num_bytes) >= MAX_BYTES

    def fields(self) -> dict[str, Any]:
        """By the names of ExecutionResult."""
        return {
            "stdout": self.stdout.text,
            "stderr": self.stderr.text,
            "stdout_truncated": self.stdout.truncated,
            "stderr_truncated": self.stderr.truncated,
        }


def failure(detail: str, *, cancelled: bool = False) -> ExecutionResult:
    """The sandbox did not run the code, or not to its end."""
    status: ExecutionStatus = "cancelled" if cancelled else "sandbox_error"
    return ExecutionResult(status=status, stdout="", stderr="", backend=BACKEND, detail=detail)


def result_of_process(
    facts: Facts, outputs: Outputs, *, limits: Limits, submitted: float, layers: tuple[str, ...]
) -> ExecutionResult:
    """Of a process that has ended. `submitted` is when the caller asked, on the monotonic clock."""
    if facts["failure"]:
        return failure(facts["failure"], cancelled=facts["killed_for"] == "cancelled")
    code: int = facts["code"]
    return ExecutionResult(
        status=_status(facts, outputs, limits=limits),
        exit_code=None if code < 0 else shown_exit_code(code),
        signal=signal_name(-code) if code < 0 else None,
        wall_s=facts["wall_s"],
        cpu_s=facts["cpu_s"],
        queue_s=max(0.0, facts["started"] - submitted),
        max_rss_mb=facts["max_rss_mb"],
        backend=BACKEND,
        isolation=layers,
        **outputs.fields(),
    )


def result_of_cell(facts: Facts, outputs: Outputs, *, queue_s: float, layers: tuple[str, ...]) -> ExecutionResult:
    """Of a cell after which its session lives on. Its exit code is the session's own word."""
    code: int = facts["exit_code"]
    status = "output_limit" if outputs.full else facts["killed_for"] or EXIT_STATUS.get(code, "error")
    return ExecutionResult(
        status=status,
        exit_code=shown_exit_code(code),
        wall_s=facts["wall_s"],
        queue_s=queue_s,
        backend=BACKEND,
        isolation=layers,
        **outputs.fields(),
    )


def signal_name(number: int) -> str:
    """ "SIGSEGV", or "SIG35" where the number has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def shown_exit_code(exit_code: int) -> int:
    """Our own codes stand for an exception, which `python code.py` would report as 1."""
    return 1 if exit_code in (MEMORY_ERROR_EXIT, DISK_ERROR_EXIT) else exit_code


def _status(facts: Facts, outputs: Outputs, *, limits: Limits) -> ExecutionStatus:
    """`facts["code"]` is the exit code, or minus the signal."""
    code: int = facts["code"]
    killed_for: ExecutionStatus | Literal[""] = facts["killed_for"]
    if outputs.full:
        return "output_limit"
    if killed_for and (code < 0 or killed_for != "crashed"):  # its time was up, say, even if it then ended by itself
        return killed_for
    if code >= 0:
        return EXIT_STATUS.get(code, "error")
    if -code == signal.SIGKILL and facts["cpu_s"] >= math.ceil(limits.timeout_s) + 0.5:
        return "timeout"  # by RLIMIT_CPU: several threads
    if -code == signal.SIGKILL and facts["max_rss_mb"] >= limits.memory_mb // 2:
        return "memory_limit"  # by the kernel's out-of-memory killer
    return "crashed"

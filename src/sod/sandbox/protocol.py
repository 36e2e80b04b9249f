"""What every sandbox offers, and how it says what happened.

A verdict comes from the kernel and the parent's clock, never from bytes the code wrote. A failure of the sandbox itself
is `sandbox_error`: it is retried by the tool and never shown to the student.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

__all__ = ["ExecutionResult", "ExecutionStatus", "Sandbox"]

ExecutionStatus: TypeAlias = Literal[
    "ok",
    "error",
    "timeout",
    "memory_limit",
    "disk_limit",
    "output_limit",
    "crashed",
    "cancelled",
    "sandbox_error",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutionResult:
    """How one piece of code ended.

    `exit_code` is None when a signal ended it (`signal` then names it). `queue_s` is the time before the code started,
    not charged to it. `stdout` and `stderr` are capped, head and tail kept. `isolation` names the level, then what the
    kernel enforced: `("A", "userns", ..., "seccomp")`. `session_lost` says that variables of earlier cells are gone.
    `detail` is for people, not for the model.
    """

    status: ExecutionStatus
    stdout: str
    stderr: str
    exit_code: int | None = None
    signal: str | None = None
    wall_s: float = 0.0
    cpu_s: float | None = None
    queue_s: float = 0.0
    max_rss_mb: int | None = None
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    backend: str = ""
    isolation: tuple[str, ...] = ()
    session_lost: bool = False
    detail: str = ""


class Sandbox(Protocol):
    """Runs one piece of Python, isolated from the host and from every other piece."""

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",
        timeout_s: float = 10.0,
        files: Mapping[str, bytes] | None = None,
        echo_last_expression: bool = False,
    ) -> ExecutionResult:
        """Run `code` in a fresh process. Never raises for what the code does.

        `echo_last_expression` prints the value of a last statement that is an expression, as a REPL does (`cell.py`).
        """
        ...

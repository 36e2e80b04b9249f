"""A sandbox that runs nothing: it plays given results. For tests and for looking at an agent without its tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from sod.sandbox.protocol import ExecutionResult

__all__ = ["ScriptedSandbox"]

Played: TypeAlias = ExecutionResult | str
"""A whole result, or what an ok one has on stdout."""


class ScriptedSandbox:
    """Plays results in order, or those that a function of the code gives. `codes` lists what it was asked to run.

    `ScriptedSandbox(["3\\n"])` answers the first call with stdout "3\\n" and fails the test on a second one.
    `ScriptedSandbox(lambda code: str(len(code)))` answers every call.
    """

    def __init__(self, script: Iterable[Played] | Callable[[str], Played]) -> None:
        self.codes: list[str] = []
        self._play = script if callable(script) else _in_order(script)

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",  # noqa: ARG002
        timeout_s: float = 10.0,  # noqa: ARG002
        files: Mapping[str, bytes] | None = None,  # noqa: ARG002
        echo_last_expression: bool = False,  # noqa: ARG002
    ) -> ExecutionResult:
        """The next result. AssertionError when the script is used up."""
        self.codes.append(code)
        played = self._play(code)
        if isinstance(played, str):
            return ExecutionResult(status="ok", stdout=played, stderr="", exit_code=0, backend="scripted")
        return played


def _in_order(script: Iterable[Played]) -> Callable[[str], Played]:
    results = list(script)
    remaining = iter(results)

    def play(code: str) -> Played:
        for result in remaining:
            return result
        raise AssertionError(f"the script has {len(results)} results and all are used up, got one more call: {code!r}")

    return play

"""The code interpreter as the student sees it: echo of the last expression, observations, statuses, malformed calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sod.config import ToolConfig
from sod.errors import SandboxError
from sod.sandbox import ExecutionResult, ExecutionStatus
from sod.sandbox.local import LocalSandbox
from sod.sandbox.scripted import ScriptedSandbox
from sod.tools import CodeInterpreter, call_tool, render, strip_fence
from sod.types import MalformedCall, ToolCall, ToolResult, ToolStatus

Ask = Callable[[str], ToolResult]


@pytest.fixture(scope="module")
def ask() -> Iterator[Ask]:
    """`ask(code)` through a real sandbox with a limit of 1 s."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=1, memory_mb=256)
        tool = CodeInterpreter(sandbox, config=ToolConfig(timeout_s=1.0), memory_mb=256)
        yield lambda code: runner.run(tool.call({"code": code}))
        runner.run(sandbox.aclose())


def result(status: ExecutionStatus = "ok", *, stdout: str = "", stderr: str = "", **fields: Any) -> ExecutionResult:
    return ExecutionResult(status=status, stdout=stdout, stderr=stderr, **fields)


def interpreter(sandbox: ScriptedSandbox, **settings: Any) -> CodeInterpreter:
    return CodeInterpreter(sandbox, config=ToolConfig(**settings))


# The value of a last expression

ENDINGS = [
    ("x = 1", "[no output]"),
    ("a = 1\nb = a + 1", "[no output]"),
    ("1 + 1", "2"),
    ("x = 2\nx + 1  # a note", "3"),
    ("x = 2\nx * 2\n# the end\n", "4"),
    ("x = 1; x + 1", "2"),
    ("x = 1;", "[no output]"),
    ("5;", "5"),
    ("1, 2", "(1, 2)"),
    ("(y := 5)", "5"),
    ("[y := 5, y + 1]", "[5, 6]"),
    ("None", "[no output]"),
    ("print(1)", "1"),
    ("print(1)\n2", "1\n2"),
    ("3\n4", "4"),
    ("max(\n    1,\n    2,\n)", "2"),
    ("'é' + '数'  # 数", "'é数'"),
    ("é = '数'; é; é * 2", "'数数'"),
    ("'''a\nb'''", "'a\\nb'"),
    ("def f():\n    return 1", "[no output]"),
    ("def f():\n    return 1\nf()", "1"),
    ("for i in range(2): print(i)", "0\n1"),
    ("if True:\n    7", "[no output]"),
    ("import math\nmath.sqrt(4)", "2.0"),
    ("assert True", "[no output]"),
    ("x = [1]\ndel x", "[no output]"),
    ("with open('f', 'w') as f: f.write('a')", "[no output]"),
    ("x = 1\\\n + 2\nx", "3"),
    ("lambda: 0", "<function <lambda> at"),
    ("x = 3\nf'{x!r:>4}'", "'   3'"),
    ("if __name__ == '__main__':\n    print('main')", "main"),
    ("from __future__ import annotations\n1 if True else 2", "1"),
    ("x = 0\nwhile x < 3: x += 1\nx", "3"),
    ("\t", "[no output]"),
    ("'\\ud800'", "'\\ud800'"),
]


@pytest.mark.parametrize(("code", "shown"), ENDINGS)
def test_echo(ask: Ask, code: str, shown: str) -> None:
    answer = ask(code)
    assert answer.status == ToolStatus.OK
    assert answer.text.startswith(shown) if "lambda" in code else answer.text == shown


def test_no_echo() -> None:
    async def main() -> str:
        async with LocalSandbox(workers=1) as sandbox:
            tool = CodeInterpreter(sandbox, config=ToolConfig(echo_last_expression=False))
            return (await tool.call({"code": "print(1)\n2"})).text

    assert asyncio.run(main()) == "1"


def test_a_failing_last_expression_shows_the_line_as_it_was_written(ask: Ask) -> None:
    answer = ask("é = 0\n\n(1 +\n 2 / é)  # note")
    assert answer.status == ToolStatus.ERROR
    assert answer.text == (
        '[stderr]\nTraceback (most recent call last):\n  File "<code>", line 4, in <module>\n'
        "    2 / é)  # note\n    ~~^~~\nZeroDivisionError: division by zero\n\n[exit code 1]"
    )


def test_indentation_is_kept_and_its_errors_are_told(ask: Ask) -> None:
    assert ask("def f(x):\n    if x:\n        return 1\n    return 2\nf(0)").text == "2"
    answer = ask("    x = 1\n    x")
    assert answer.status == ToolStatus.ERROR
    assert 'File "<code>", line 1\n    x = 1\nIndentationError: unexpected indent' in answer.text


# Fences


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\nx\n```", "x = 1\nx"),
        ("```\nx\n```\n", "x"),
        ("\n ```py \n  x\n```  ", "  x"),
        ("```python\nprint('''\n```\n''')\n```", "print('''\n```\n''')"),
        ("```python\r\nx\r\n```", "x"),
        ("x = '```'", "x = '```'"),
        ("```python\nx", "```python\nx"),
        ("x\n```", "x\n```"),
        ("look:\n```python\nx\n```", "look:\n```python\nx\n```"),
        ("```\n```", ""),
        ("  x", "  x"),
    ],
)
def test_one_outer_fence_is_stripped(text: str, code: str) -> None:
    assert strip_fence(text) == code


def test_a_fenced_call_runs(ask: Ask) -> None:
    assert ask("```python\nx = 20\nx + 1\n```").text == "21"


# Observations


@pytest.mark.parametrize(
    ("ran", "text"),
    [
        (result(), "[no output]"),
        (result(stdout="3\n"), "3"),
        (result(stdout="  3\n\n"), "  3"),
        (result(stderr="careful\n"), "[stderr]\ncareful"),
        (result(stdout="1\n", stderr="careful\n"), "1\n\n[stderr]\ncareful"),
        (result("error", stdout="1\n", stderr="E: x\n", exit_code=1), "1\n\n[stderr]\nE: x\n\n[exit code 1]"),
        (result("error", exit_code=3), "[exit code 3]"),
        (result("crashed", signal="SIGSEGV"), "[crashed: SIGSEGV]"),
        (result("timeout", stdout="1\n"), "1\n\n[timed out after 10 s; output above is partial]"),
        (result("timeout"), "[timed out after 10 s; no output]"),
        (result("memory_limit"), "[memory limit 1024 MB exceeded]"),
        (result("disk_limit"), "[disk limit exceeded]"),
        (result("output_limit", stdout="x"), "x\n\n[killed: too much output]"),
    ],
)
def test_render(ran: ExecutionResult, text: str) -> None:
    assert render(ran, timeout_s=10.0, memory_mb=1024) == text


def test_render_without_a_known_memory_limit() -> None:
    assert render(result("memory_limit"), timeout_s=0.5) == "[memory limit exceeded]"
    assert render(result("timeout"), timeout_s=0.5) == "[timed out after 0.5 s; no output]"


@pytest.mark.parametrize(
    ("code", "status", "last_line"),
    [
        ("1 / 0", ToolStatus.ERROR, "[exit code 1]"),
        ("import ctypes\nctypes.string_at(0)", ToolStatus.ERROR, "[crashed: SIGSEGV]"),
        ("print('a')\nwhile True: pass", ToolStatus.TIMEOUT, "[timed out after 1 s; output above is partial]"),
        ("bytearray(1 << 30)", ToolStatus.MEMORY_LIMIT, "[memory limit 256 MB exceeded]"),
        ("while True: print('x' * 1_000_000)", ToolStatus.OUTPUT_LIMIT, "[killed: too much output]"),
        ("print(1)", ToolStatus.OK, "1"),
    ],
)
def test_statuses_of_real_runs(ask: Ask, code: str, status: ToolStatus, last_line: str) -> None:
    answer = ask(code)
    assert answer.status == status
    assert answer.text.splitlines()[-1] == last_line
    assert answer.wall_s > 0


# The sandbox's own failures


@pytest.mark.parametrize("status", ["sandbox_error", "cancelled"])
def test_infrastructure_failures_are_retried_and_never_shown(status: ExecutionStatus) -> None:
    failure = result(status, stdout="half", detail="server 3 is down")
    sandbox = ScriptedSandbox([failure, failure, result(stdout="3\n")])
    answer = asyncio.run(interpreter(sandbox, infrastructure_retries=2).call({"code": "x"}))
    assert (answer.status, answer.text) == (ToolStatus.OK, "3")
    assert answer.detail == f"{status}: server 3 is down; {status}: server 3 is down"

    sandbox = ScriptedSandbox(lambda _: failure)
    answer = asyncio.run(interpreter(sandbox, infrastructure_retries=2).call({"code": "x"}))
    assert (answer.status, answer.text) == (ToolStatus.INFRASTRUCTURE, "")
    assert answer.detail.count("server 3 is down") == 3
    assert len(sandbox.codes) == 3


def test_a_sandbox_that_raises_is_infrastructure_too() -> None:
    def play(_: str) -> str:
        raise SandboxError("connection refused")

    sandbox = ScriptedSandbox(play)
    answer = asyncio.run(interpreter(sandbox, infrastructure_retries=0).call({"code": "x"}))
    assert (answer.status, answer.detail) == (ToolStatus.INFRASTRUCTURE, "connection refused")
    assert len(sandbox.codes) == 1


# Calls


def test_schema() -> None:
    tool = interpreter(ScriptedSandbox([]), name="python")
    function = tool.schema["function"]
    assert (tool.name, function["name"], tool.schema["type"]) == ("python", "python", "function")
    assert function["parameters"]["required"] == ["code"]
    assert function["parameters"]["properties"]["code"]["type"] == "string"


def test_a_good_call() -> None:
    sandbox = ScriptedSandbox(["3\n"])
    tools = {"code_interpreter": interpreter(sandbox)}
    answer = asyncio.run(call_tool(tools, ToolCall(name="code_interpreter", arguments={"code": "1 + 2"})))
    assert (answer.status, answer.text) == (ToolStatus.OK, "3")
    assert sandbox.codes == ["1 + 2"]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (MalformedCall(text="{", reason="the JSON ends early"), "the JSON ends early"),
        (ToolCall(name="calculator", arguments={}), 'there is no tool "calculator"; available: code_interpreter'),
        (ToolCall(name="code_interpreter", arguments={}), 'argument "code" is missing'),
        (ToolCall(name="code_interpreter", arguments={"Code": "1"}), 'argument "code" is missing'),
        (ToolCall(name="code_interpreter", arguments={"code": "1", "n": 1}), 'unknown argument "n"'),
        (
            ToolCall(name="code_interpreter", arguments={"code": 1}),
            'argument "code" must be of type string, got integer',
        ),
        (ToolCall(name="code_interpreter", arguments={"code": True}), "must be of type string, got boolean"),
        (ToolCall(name="code_interpreter", arguments={"code": None}), "must be of type string, got null"),
        (ToolCall(name="code_interpreter", arguments={"code": ["1"]}), "must be of type string, got array"),
        (ToolCall(name="code_interpreter", arguments="1"), "arguments must be an object, got string"),  # type: ignore[arg-type]
    ],
)
def test_malformed_calls_are_told_and_run_nothing(call: ToolCall | MalformedCall, sentence: str) -> None:
    sandbox = ScriptedSandbox([])
    answer = asyncio.run(call_tool({"code_interpreter": interpreter(sandbox)}, call))
    assert answer.status == ToolStatus.MALFORMED_CALL
    assert answer.text.startswith("[malformed tool call: ")
    assert sentence in answer.text
    assert sandbox.codes == []
    if "argument" in sentence:
        assert 'it takes {"code": string}' in answer.text


def test_no_tools_at_all() -> None:
    answer = asyncio.run(call_tool({}, ToolCall(name="f", arguments={})))
    assert answer.text == '[malformed tool call: there is no tool "f"; available: none]'

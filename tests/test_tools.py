"""The code interpreter as the student sees it: what becomes of a last line, observations, statuses, malformed calls."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import pytest

from sod.config import SFTConfig, ToolConfig, parse
from sod.errors import ConfigError, SandboxError
from sod.sandbox import ExecutionResult, ExecutionStatus
from sod.sandbox.local import LocalSandbox
from sod.sandbox.scripted import ScriptedSandbox
from sod.sft import tokenize
from sod.tools import (
    CodeInterpreter,
    Tool,
    as_released,
    call_tool,
    cut_as_published,
    interpreter_schema,
    make_tools,
    merge_notices,
    render,
    source_digest,
    strip_fence,
)
from sod.traces import Trace
from sod.types import MalformedCall, ToolCall, ToolResult, ToolStatus

Mode: TypeAlias = Literal["repl", "off", "retool"]
ROOT = Path(__file__).parents[1]
MODES: tuple[Mode, ...] = ("repl", "off", "retool")
Ask = Callable[[str], ToolResult]
AskAs = Callable[[str, Mode], ToolResult]


@pytest.fixture(scope="module")
def ask_as() -> Iterator[AskAs]:
    """`ask_as(code, mode)` through a real sandbox with a limit of 1 s."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=1, memory_mb=256, disk_mb=8, max_output_bytes=4000)

        def ask_as(code: str, mode: Mode) -> ToolResult:
            tool = CodeInterpreter(sandbox, config=ToolConfig(timeout_s=1.0, mode=mode), memory_mb=256)
            return runner.run(tool.call({"code": code}))

        yield ask_as
        runner.run(sandbox.aclose())


@pytest.fixture(scope="module")
def ask(ask_as: AskAs) -> Ask:
    """`ask(code)` in the default mode."""
    return lambda code: ask_as(code, "repl")


class Listening(ScriptedSandbox):
    """Also hears whether it was asked to echo."""

    def __init__(self, script: list[str]) -> None:
        super().__init__(script)
        self.echoes: list[bool] = []

    async def run(self, code: str, *, echo_last_expression: bool = False, **settings: Any) -> ExecutionResult:
        self.echoes.append(echo_last_expression)
        return await super().run(code, **settings)


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


def test_no_echo(ask_as: AskAs) -> None:
    assert ask_as("print(1)\n2", "off").text == "1"


BROKEN = [
    # ending, code, shown by mode "off", by "repl", the error that "retool" makes of it
    ("assignment", "a = 1\nb = a + 1", "", "", "TypeError: 'b' is an invalid keyword argument for print()"),
    ("loop on one line", "for i in range(2): print(i)", "0\n1", "0\n1", "SyntaxError: invalid syntax"),
    ("loop", "for i in range(2):\n    print(i)", "0\n1", "0\n1", "IndentationError: expected an indented block"),
    ("guarded call", "if __name__ == '__main__': print('main')", "main", "main", "SyntaxError: invalid syntax"),
    ("comment", "x = 2\nx + 1\n# the end", "", "3", "SyntaxError: '(' was never closed"),
    ("note", "x = 2\nx + 1  # a note", "", "3", "SyntaxError: '(' was never closed"),
    ("call over lines", "max(\n    1,\n    2,\n)", "", "2", "TypeError: '>' not supported"),
    ("def", "def f(): return 1", "", "", "SyntaxError: invalid syntax"),
    ("import", "import math", "", "", "SyntaxError: invalid syntax"),
    ("assert", "assert True", "", "", "SyntaxError: invalid syntax"),
    ("del", "x = [1]\ndel x", "", "", "SyntaxError: invalid syntax"),
    ("with", "with open('f', 'w') as f: f.write('a')", "", "", "SyntaxError: invalid syntax"),
    ("two statements", "x = 1; x + 1", "", "2", "SyntaxError: invalid syntax"),
    ("text over lines", "x = 1\n'''a\nb\n'''", "", "'a\\nb\\n'", "SyntaxError: unmatched ')'"),
]
WHOLE = [
    # ending, code, shown by mode "off", by "repl", by "retool"
    ("operator", "1 + 1", "", "2", "2"),
    ("name", "x = 3\nx", "", "3", "3"),
    ("name, blank lines", "x = 3\nx\n\n", "", "3", "3"),
    ("print", "print(1)", "1", "1", "1"),
    ("call", "def f():\n    return 1\nf()", "", "1", "1"),
    ("tuple", "1, 2", "", "(1, 2)", "1 2"),
    ("text", "'a'", "", "'a'", "a"),
    ("f-string", "x = 3\nf'{x}'", "", "'3'", "3"),
    ("None", "None", "", "", "None"),
]


def test_the_released_rule_breaks_14_of_23_ordinary_endings() -> None:
    """As the survey counted; the next two tests run both tables."""
    assert (len(BROKEN), len(WHOLE)) == (14, 9)
    assert len({code for _, code, *_ in BROKEN + WHOLE}) == 23


@pytest.mark.parametrize(("code", "off", "repl", "error"), [case[1:] for case in BROKEN], ids=[c[0] for c in BROKEN])
def test_endings_that_retool_breaks(ask_as: AskAs, code: str, off: str, repl: str, error: str) -> None:
    for mode, shown in (("off", off), ("repl", repl)):
        answer = ask_as(code, cast(Mode, mode))
        assert (answer.status, answer.text) == (ToolStatus.OK, shown or "[no output]")
    answer = ask_as(code, "retool")
    assert answer.status == ToolStatus.ERROR
    assert error in answer.text


@pytest.mark.parametrize(("code", "off", "repl", "retool"), [case[1:] for case in WHOLE], ids=[c[0] for c in WHOLE])
def test_endings_that_retool_prints(ask_as: AskAs, code: str, off: str, repl: str, retool: str) -> None:
    for mode, shown in (("off", off), ("repl", repl), ("retool", retool)):
        answer = ask_as(code, cast(Mode, mode))
        assert (answer.status, answer.text) == (ToolStatus.OK, shown or "[no output]")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x", "print(x)"),
        ("x\n\n", "print(x)\n\n"),
        ("x\n  ", "x\nprint(  )"),  # a line of spaces is not empty
        ("", ""),
        ("\n", "\n"),
        ("    x", "print(    x)"),
        ("printed", "printed"),  # begins with "print"
        ("# note", "print(# note)"),
        ("a\r\nb\r\n", "a\r\nprint(b\r)\n"),
        ("```python\nx = 1\nx\n```", "x = 1\nprint(x)"),
        ("```py\nx\n```", "print(x)"),
        ("look:\n```python\n  x\n```\n```python\ny\n```", "print(x)"),  # the first of them, wherever it is
        ("s = '```python```'\ns", ""),
        ("```\nx\n```", "```\nx\nprint(```)"),
        ("```python3\nx\n```", "3\nprint(x)"),
    ],
)
def test_the_released_rule_to_the_letter(text: str, code: str) -> None:
    assert as_released(text) == code


@pytest.mark.parametrize(("mode", "run"), [("repl", "x"), ("off", "x"), ("retool", "print(x)")])
def test_what_each_mode_asks_of_the_sandbox(mode: Mode, run: str) -> None:
    sandbox = Listening(["3\n"])
    asyncio.run(interpreter(sandbox, mode=mode).call({"code": "```py\nx\n```"}))
    assert sandbox.codes == [run]
    assert sandbox.echoes == [mode == "repl"]


def test_the_student_is_told_of_a_value_that_is_shown() -> None:
    told = {mode: interpreter_schema(ToolConfig(mode=mode))["function"]["description"] for mode in MODES}
    assert "last line that is an expression" in told["repl"]
    assert told["retool"] == told["repl"]
    assert "expression" not in told["off"]


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
        ("raise SystemExit(3)", ToolStatus.ERROR, "[exit code 3]"),
        ("import ctypes\nctypes.string_at(0)", ToolStatus.CRASHED, "[crashed: SIGSEGV]"),
        ("print('a')\nwhile True: pass", ToolStatus.TIMEOUT, "[timed out after 1 s; output above is partial]"),
        ("bytearray(1 << 30)", ToolStatus.MEMORY_LIMIT, "[memory limit 256 MB exceeded]"),
        ("with open('f', 'wb') as f: f.write(bytes(32 << 20))", ToolStatus.DISK_LIMIT, "[disk limit exceeded]"),
        ("while True: print('x' * 1_000_000)", ToolStatus.OUTPUT_LIMIT, "[killed: too much output]"),
        ("print(1)", ToolStatus.OK, "1"),
    ],
)
def test_statuses_of_real_runs(ask: Ask, code: str, status: ToolStatus, last_line: str) -> None:
    answer = ask(code)
    assert answer.status == status
    assert answer.text.splitlines()[-1] == last_line
    assert answer.wall_s > 0


def test_a_traceback_has_the_students_frames_and_the_one_that_raised(ask: Ask) -> None:
    answer = ask("import json\ndef load(text):\n    return json.loads(text)\nload('{')")
    frames = [line.strip() for line in answer.text.splitlines() if line.strip().startswith("File ")]
    assert frames[:2] == ['File "<code>", line 4, in <module>', 'File "<code>", line 3, in load']
    assert len(frames) == 3
    assert "sod" not in answer.text
    assert answer.text.endswith("(char 1)\n\n[exit code 1]")


# What was cut


@pytest.mark.parametrize(
    ("code", "first", "last"),
    [
        ("print('a' * 9000)", "a" * 2000, "a" * 1999),
        ("import sys\nsys.stderr.write('b' * 9000)\nNone", f"[stderr]\n{'b' * 2000}", "b" * 2000),
        ("import sys\nprint('a' * 9000)\nsys.stderr.write('b' * 9000)\nNone", "a" * 2000, f"[stderr]\n{'b' * 2000}"),
        ("print('a' * 9000)\n1 / 0", "a" * 2000, "ZeroDivisionError: division by zero\n\n[exit code 1]"),
    ],
    ids=["stdout", "stderr", "both", "stdout of an error"],
)
def test_one_line_says_that_the_sandbox_cut(ask: Ask, code: str, first: str, last: str) -> None:
    text = ask(code).text
    assert text.startswith(f"{first}\n[... ")
    assert text.endswith(last)
    assert len(re.findall(r"^\[\.\.\. .* \.\.\.\]$", text, re.MULTILINE)) == 1


def test_where_both_streams_were_cut_one_notice_stands_for_both() -> None:
    notice = "\n[... 9 bytes left out ...]\n"
    cut = {"stdout_truncated": True, "stderr_truncated": True}
    ran = result("error", stdout=f"1{notice}2\n", stderr=f"3{notice}4\n", exit_code=1, **cut)
    assert render(ran, timeout_s=1.0) == "1\n[... output cut ...]\n\n[stderr]\n4\n\n[exit code 1]"
    said = result(stdout=f"1{notice}2\n", stderr=f"3{notice}4\n")
    assert render(said, timeout_s=1.0) == f"1{notice}2\n\n[stderr]\n3{notice}4", "what the code says is no notice"


@pytest.mark.parametrize(
    ("text", "merged"),
    [
        ("1", "1"),
        ("1\n[... 5 tokens cut ...]\n2", "1\n[... 5 tokens cut ...]\n2"),
        ("1\n[... 9 bytes left out ...]\n2\n[... 5 tokens cut ...]\n3", "1\n[... output cut ...]\n3"),
        ("1\n[... 5 tokens cut ...]\n2\n[... 9 bytes left out ...]\n3", "1\n[... output cut ...]\n3"),
        ("1 [... 9 bytes left out ...] 2\n[... 5 tokens cut ...]\n3",) * 2,
    ],
)
def test_notices_are_merged(text: str, merged: str) -> None:
    assert merge_notices(text) == merged


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("", ""),
        ("7" * 256, "7" * 256),
        ("7" * 257, "7" * 128 + "...(truncated)..." + "7" * 128),
        ("a" * 200 + "b" * 200, "a" * 128 + "...(truncated)..." + "b" * 128),
        ("数" * 300, "数" * 128 + "...(truncated)..." + "数" * 128),
        ("é" * 256, "é" * 256),  # characters, not bytes
        ("e\u0301" * 129, "e\u0301" * 64 + "...(truncated)..." + "e\u0301" * 64),
        ("🙂" * 257, "🙂" * 128 + "...(truncated)..." + "🙂" * 128),
        ("\ud800x", "?x"),
    ],
)
def test_the_published_cut_to_the_letter(text: str, cut: str) -> None:
    assert cut_as_published(text) == cut


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


# A tool of your own


def test_the_documents_example_works(tmp_path: Path) -> None:
    (text,) = re.findall(r"```python[^\n]*\n(.*?)```", (ROOT / "docs" / "tools.md").read_text(), re.DOTALL)
    path = tmp_path / "capitals.py"
    path.write_text(text, encoding="utf-8")
    tools = own(f"{path}:capital")
    for country, answer in (("Japan", (ToolStatus.OK, "Tokyo")), ("Mu", (ToolStatus.ERROR, "no such country"))):
        found = asyncio.run(call_tool(tools, ToolCall(name="capital", arguments={"country": country})))
        assert (found.status, found.text) == answer


SEARCH = """\
from __future__ import annotations
from dataclasses import dataclass
from sod.types import ToolResult, ToolStatus

@dataclass
class Search:
    limit: float
    sandbox: object
    name: str = "search"

    @property
    def schema(self):
        properties = {"query": {"type": "string"}, "page": {"type": ["integer", "null"]}, "kind": {"enum": ["a", "b"]}}
        parameters = {"type": "object", "properties": properties}
        function = {"name": self.name, "description": "Looks up.", "parameters": parameters}
        return {"type": "function", "function": function}

    async def call(self, arguments):
        return ToolResult(status=ToolStatus.OK, text=f"{arguments['query']} in {self.limit:g} s")

def search(config, sandbox):
    return Search(config.timeout_s, sandbox)

def nothing(config, sandbox):
    return print

def fails(config, sandbox):
    raise LookupError("a mistake in it")

LIMIT = 3
"""


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    path = tmp_path / "my_search.py"
    path.write_text(SEARCH, encoding="utf-8")
    return path


def own(make: str, sandbox: Any = None) -> Mapping[str, Tool]:
    return make_tools(ToolConfig(make=make, timeout_s=7.0), sandbox=sandbox)


def test_a_tool_made_by_a_file(search_file: Path) -> None:
    """It gets the section and the sandbox; its calls go where the interpreter's go."""
    sandbox = ScriptedSandbox([])
    tools = own(f"{search_file}:search", sandbox)
    assert list(tools) == ["search"]
    assert cast("Any", tools["search"]).sandbox is sandbox
    answer = asyncio.run(call_tool(tools, ToolCall(name="search", arguments={"query": "x", "page": 2})))
    assert (answer.status, answer.text) == (ToolStatus.OK, "x in 7 s")
    assert own("", sandbox)["code_interpreter"].schema == interpreter_schema(ToolConfig(timeout_s=7.0))
    assert make_tools(ToolConfig(enabled=False), sandbox=None) == {}


def test_a_tool_made_by_a_module(search_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(search_file.parent))
    assert own("my_search:search")["search"].name == "search"


def test_a_tool_is_known_again_by_its_source(search_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(search_file.parent))
    own("my_search:search")
    by_file, by_module = ToolConfig(make=f"{search_file}:search"), ToolConfig(make="my_search:search")
    before = source_digest(by_file)
    assert len(before) == 16
    assert source_digest(by_module) == before
    search_file.write_text(SEARCH + "LIMIT = 4", encoding="utf-8")
    assert source_digest(by_file) != before
    assert source_digest(ToolConfig()) == ""


def test_calls_of_a_tool_of_your_own_are_checked_too(search_file: Path) -> None:
    """Its schema says no type of `kind`, two of `page`, and nothing that is required."""
    tools = own(f"{search_file}:search")
    for arguments, sentence in (
        ({"query": 1}, 'argument "query" must be of type string, got integer'),
        ({"q": "x"}, 'unknown argument "q" in the call of "search"; it takes {"query": string, "page":'),
    ):
        answer = asyncio.run(call_tool(tools, ToolCall(name="search", arguments=arguments)))
        assert answer.status == ToolStatus.MALFORMED_CALL
        assert sentence in answer.text
    good = ToolCall(name="search", arguments={"query": "x", "page": None, "kind": 3})
    assert asyncio.run(call_tool(tools, good)).status == ToolStatus.OK


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("FILE", "must be FILE.py:FUNCTION or MODULE:FUNCTION"),  # no colon, unless of a drive
        ("search", "must be FILE.py:FUNCTION or MODULE:FUNCTION, got 'search': that names no module"),
        (".tools:search", "that names no module"),
        ("no_such_module_q7:search", "No module named 'no_such_module_q7'; give the file's path"),
        ("gone.py:search", "no such file: gone.py; give the file's path"),
        ("sod.gone:search", "No module named 'sod.gone'; give the file's path"),
        ("FILE:find", "there is no function 'find' in "),
        ("FILE:LIMIT", "there is no function 'LIMIT' in "),
        ("FILE:", "there is no function '' in "),
        ("FILE:nothing", "must make a tool with a name, a schema and a call (sod.tools.Tool), got builtin_function"),
    ],
)
def test_a_wrong_name_is_one_clear_error(search_file: Path, make: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        own(make.replace("FILE", str(search_file)))
    assert "tool.make" in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


FAULTY = """\
from sod.types import ToolResult, ToolStatus

def schema(name, **parameters):
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}

class Find:
    name = "find"
    schema = schema("find", type="object", properties={})

    async def call(self, arguments):
        return ToolResult(status=ToolStatus.OK, text="found")

def make(**changes):
    return lambda config, sandbox: type("Changed", (Find,), changes)()

def no_result(result):
    async def call(self, arguments):
        return result
    return call

async def raises(self, arguments):
    raise KeyError("a bug")

good = make()
bare = make(schema={"name": "find", "parameters": {}})
text = make(schema="find")
renamed = make(name="search")
nameless = make(schema=schema(None), name=None)
without = make(schema=schema("find"))
listed = make(schema=schema("find", properties=["a"]))
flat = make(schema=schema("find", properties={"a": "string"}))
waits = make(call=lambda self, arguments: "found")
raising = make(call=raises)
plain = make(call=no_result("found"))
worded = make(call=no_result(ToolResult(status="ok", text="found")))
textless = make(call=no_result(ToolResult(status=ToolStatus.OK, text=None)))
"""


@pytest.fixture
def faulty_file(tmp_path: Path) -> Path:
    path = tmp_path / "faulty.py"
    path.write_text(FAULTY, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("bare", "got keys name, parameters; put name, description and parameters under function"),
        ("text", "got a str; put name"),
        ("renamed", "must give one name, got 'search' and 'find': .* make them equal"),
        ("nameless", "must give one name, got None and None"),
        ("without", r"got keys \(none\); give each argument's schema by its name, none as \{\}"),
        ("listed", "got keys properties; give each"),
        ("flat", "got keys properties; give each"),
        ("waits", "call must be a coroutine function, got another; write async def call"),
    ],
)
def test_a_tool_that_could_not_be_called_is_refused_before_the_run(faulty_file: Path, make: str, words: str) -> None:
    assert "find" in own(f"{faulty_file}:good")
    with pytest.raises(ConfigError, match=words):
        own(f"{faulty_file}:{make}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        ("raising", "the tool 'find' raised KeyError: 'a bug' (faulty.py, line 22); mend the tool"),
        ("plain", "must return a ToolResult of a ToolStatus and a text, got str; mend the tool"),
        ("worded", "got 'ok' and 'found'; mend the tool"),
        ("textless", "and None; mend the tool"),
    ],
)
def test_a_fault_of_the_tool_in_a_call_is_nobody_elses(faulty_file: Path, make: str, words: str) -> None:
    answer = asyncio.run(call_tool(own(f"{faulty_file}:{make}"), ToolCall(name="find", arguments={})))
    assert (answer.status, answer.text) == (ToolStatus.INFRASTRUCTURE, "")
    assert words in answer.detail


@pytest.mark.parametrize("where", ["FILE", "half_made"])
def test_what_a_file_imports_in_vain_is_no_wrong_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    path = tmp_path / "half_made.py"
    path.write_text("import no_such_module_q7\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    with pytest.raises(ConfigError, match=r"was found, but what it imports was not: .*no_such_module_q7.*install that"):
        own(f"{where.replace('FILE', str(path))}:search")
    assert set(sys.modules) == before, "nothing half made is left"


def test_an_error_of_a_file_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "reads.py"
    path.write_text("open('no_such_table_q7.csv')\n")
    with pytest.raises(FileNotFoundError, match="no_such_table_q7"):
        own(f"{path}:search")
    assert not [name for name in sys.modules if name.startswith("sod_tool_reads")]


def test_two_files_of_one_name_are_two_modules(search_file: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / search_file.name
    other.write_text(SEARCH)
    first, second = (type(own(f"{path}:search")["search"]).__module__ for path in (search_file, other))
    assert first != second
    assert Path(str(sys.modules[first].__file__)) == search_file
    assert Path(str(sys.modules[second].__file__)) == other


def test_a_mistake_in_the_function_is_its_own(search_file: Path) -> None:
    with pytest.raises(LookupError, match="a mistake in it"):
        own(f"{search_file}:fails")


def test_a_cold_start_shows_the_tool_of_your_own(search_file: Path, tokenizer: Any) -> None:
    """And makes it without a sandbox."""
    messages = (
        {"role": "user", "content": "Start with 6."},
        {"role": "assistant", "content": "It is 6."},
    )
    settings = {"run": "r", "student": {"path": "s"}, "traces": "t", "tool": {"make": f"{search_file}:search"}}
    config = parse(SFTConfig, settings)
    told: list[Any] = []
    (record,) = tokenize([Trace(messages=messages)], tokenizer, config=config, listener=lambda *each: told.append(each))
    shown = tokenizer.decode(record.token_ids)
    assert '"name": "search"' in shown
    assert "code_interpreter" not in shown
    assert told == []

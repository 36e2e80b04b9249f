"""What the student may call: the `Tool` protocol and the code interpreter on a `Sandbox`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from sod.config import ToolConfig
from sod.errors import ConfigError, SandboxError
from sod.sandbox import ExecutionResult, ExecutionStatus, Sandbox
from sod.types import MalformedCall, ToolCall, ToolResult, ToolStatus

__all__ = [
    "CHANGED",
    "CodeInterpreter",
    "Tool",
    "as_released",
    "call_tool",
    "cut_as_published",
    "make_tools",
    "merge_notices",
    "refusal",
    "source_digest",
    "strip_fence",
]


@runtime_checkable
class Tool(Protocol):
    """Something the student can call."""

    @property
    def name(self) -> str:
        """What a call names it by."""
        ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """OpenAI function schema, as chat templates take it: {"type": "function", "function": {...}}."""
        ...

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Does it. `arguments` fit the schema."""
        ...


class CodeInterpreter:
    """One function of one string, `code`, run as a Python program in a fresh process of the sandbox.

    `config.mode` says what becomes of its last line: "x = 2\\nx + 1" shows "3" (repl), nothing (off), or is run as
    "x = 2\\nprint(x + 1)" (retool, see `as_released`).

    The observation is stdout, then stderr below `[stderr]`, then one line in brackets unless all went well:
    `"3\\n\\n[stderr]\\n...ZeroDivisionError: division by zero\\n\\n[exit code 1]"`. `memory_mb` is only for that line.
    """

    def __init__(self, sandbox: Sandbox | None, *, config: ToolConfig, memory_mb: int | None = None) -> None:
        self.name = config.name
        self.schema = interpreter_schema(config)
        self._sandbox = sandbox
        self._config = config
        self._memory_mb = memory_mb

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Runs `arguments["code"]`. A failure of the sandbox itself is tried again, then INFRASTRUCTURE."""
        mode = self._config.mode
        code = as_released(arguments["code"]) if mode == "retool" else strip_fence(arguments["code"])
        sandbox = self._sandbox
        assert sandbox is not None, "a tool without a sandbox is only to be shown"
        failures: list[str] = []
        for _ in range(1 + self._config.infrastructure_retries):
            try:
                result = await sandbox.run(code, timeout_s=self._config.timeout_s, echo_last_expression=mode == "repl")
            except SandboxError as error:
                failures.append(str(error))
                continue
            if status := _TOOL_STATUS.get(result.status):
                return self._observation(result, status=status, failures=failures)
            failures.append(f"{result.status}: {result.detail}")
        return ToolResult(status=ToolStatus.INFRASTRUCTURE, text="", detail="; ".join(failures))

    def _observation(self, result: ExecutionResult, *, status: ToolStatus, failures: list[str]) -> ToolResult:
        return ToolResult(
            status=status,
            text=render(result, timeout_s=self._config.timeout_s, memory_mb=self._memory_mb),
            wall_s=result.wall_s,
            queue_s=result.queue_s,
            detail="; ".join([*failures, *([result.detail] if result.detail else [])]),
        )


_TOOL_STATUS: Mapping[ExecutionStatus, ToolStatus] = {
    "ok": ToolStatus.OK,
    "error": ToolStatus.ERROR,
    "crashed": ToolStatus.CRASHED,
    "timeout": ToolStatus.TIMEOUT,
    "memory_limit": ToolStatus.MEMORY_LIMIT,
    "disk_limit": ToolStatus.DISK_LIMIT,
    "output_limit": ToolStatus.OUTPUT_LIMIT,
}
"""What the student is told of; the rest is the sandbox's own failure."""

_FENCE = re.compile(r"\s*```[\w.+-]*[ \t]*\r?\n(?P<code>.*?)\r?\n?[ \t]*```\s*", re.DOTALL)


def strip_fence(code: str) -> str:
    """The code inside one markdown fence around all of it: "```python\\nx\\n```" -> "x". Anything else stays."""
    match = _FENCE.fullmatch(code)
    return match["code"] if match else code


_RELEASED_FENCE = re.compile(r"```py(?:thon)?(.*?)```", re.DOTALL)


def as_released(code: str) -> str:
    """What the released code makes of a program before it runs it, kept with its faults so that they can be measured.

    The text in the first python fence anywhere, without the space around it; then the last line that is not empty is
    wrapped unless it begins with "print": "x = 2\\nx + 1" -> "x = 2\\nprint(x + 1)", which prints 3. But
    "b = a + 1" -> "print(b = a + 1)" is an error that the student did not make.
    """
    fenced = _RELEASED_FENCE.search(code)
    lines = (fenced[1].strip() if fenced else code).split("\n")
    last = max((index for index, line in enumerate(lines) if line), default=None)
    if last is not None and not lines[last].startswith("print"):
        lines[last] = f"print({lines[last]})"
    return "\n".join(lines)


PUBLISHED_CHARACTERS = 256
"""Length of an observation in the published setting, without its notice."""


def cut_as_published(text: str) -> str:
    """The first and last 128 characters of a text of more than 256: "a..." -> "aaa...(truncated)...aaa"."""
    text = text.encode("utf-8", "replace").decode("utf-8")  # no tokenizer takes half a surrogate pair
    if len(text) <= PUBLISHED_CHARACTERS:
        return text
    half = PUBLISHED_CHARACTERS // 2
    return f"{text[:half]}...(truncated)...{text[-half:]}"


_SANDBOX_NOTICE = re.compile(r"\n\[\.\.\. \d+ bytes left out \.\.\.\]\n")
_NOTICE = re.compile(r"\n\[\.\.\. \d+ (?:bytes left out|tokens cut) \.\.\.\]\n")


def merge_notices(text: str) -> str:
    """One line says that something was cut, where the sandbox and the limit in tokens both left a notice.

    What stands between the first and the last goes too: "1 [... 9 bytes left out ...] 7 [... 5 tokens cut ...] 9"
    -> "1 [... output cut ...] 9", each notice being a line of its own.
    """
    notices = list(_NOTICE.finditer(text))
    if len(notices) < 2:
        return text
    return f"{text[: notices[0].start()]}\n[... output cut ...]\n{text[notices[-1].end() :]}"


def render(result: ExecutionResult, *, timeout_s: float, memory_mb: int | None = None) -> str:
    """What the student sees of a run: see CodeInterpreter. Never empty."""
    stdout, stderr = _streams(result)
    parts = [stdout] if stdout else []
    if stderr:
        parts.append(f"[stderr]\n{stderr}")
    line = _status_line(result, timeout_s=timeout_s, memory_mb=memory_mb, has_output=bool(parts))
    return "\n\n".join([*parts, line] if line else parts)


def _streams(result: ExecutionResult) -> tuple[str, str]:
    """stdout and stderr. Where both were cut, one notice stands for the end of the one and the start of the other."""
    stdout, stderr = result.stdout, result.stderr
    if result.stdout_truncated and result.stderr_truncated:
        start, *_ = _SANDBOX_NOTICE.split(stdout, maxsplit=1)
        *_, end = _SANDBOX_NOTICE.split(stderr)
        stdout, stderr = f"{start}\n[... output cut ...]", end
    return stdout.rstrip(), stderr.rstrip()


def _status_line(result: ExecutionResult, *, timeout_s: float, memory_mb: int | None, has_output: bool) -> str:
    partial = "; output above is partial" if has_output else "; no output"
    size = "" if memory_mb is None else f" {memory_mb} MB"
    lines: Mapping[ExecutionStatus, str] = {
        "ok": "" if has_output else "[no output]",
        "error": f"[exit code {result.exit_code}]",
        "crashed": f"[crashed: {result.signal}]",
        "disk_limit": "[disk limit exceeded]",
        "timeout": f"[timed out after {timeout_s:g} s{partial}]",
        "memory_limit": f"[memory limit{size} exceeded]",
        "output_limit": "[killed: too much output]",
    }
    return lines[result.status]


def interpreter_schema(config: ToolConfig) -> Mapping[str, Any]:
    shown = "Anything printed"
    if config.mode != "off":
        shown += ", and the value of a last line that is an expression,"
    return {
        "type": "function",
        "function": {
            "name": config.name,
            "description": f"Runs Python code in a fresh process. {shown} is returned. Nothing is kept between calls.",
            "parameters": {
                "type": "object",
                "properties": {"code": {"type": "string", "description": "The Python code to run."}},
                "required": ["code"],
                "additionalProperties": False,
            },
        },
    }


Maker: TypeAlias = Callable[[ToolConfig, Sandbox | None], Tool]
"""What `tool.make` names. In a cold start, which calls nothing, there is no sandbox."""


def make_tools(config: ToolConfig, *, sandbox: Sandbox | None) -> Mapping[str, Tool]:
    """The student's tools by name, as the config says: the code interpreter, one of your own, or none.

    Raises ConfigError when `tool.make` names nothing that makes a tool, or what it makes could not be called. What that
    does in its own code is its own: an error of it is raised as it is.
    """
    if not config.enabled:
        return {}
    make: Maker = _maker(config.make) if config.make else _interpreter
    tool = make(config, sandbox)
    if not isinstance(tool, Tool):
        raise ConfigError(
            f"tool.make = {config.make!r} must make a tool with a name, a schema and a call (sod.tools.Tool), got "
            f"{type(tool).__name__}"
        )
    if fault := _fault(tool):
        raise ConfigError(f"tool.make = {config.make!r} makes a tool of which {fault}")
    return {tool.name: tool}


def _fault(tool: Tool) -> str:
    """What would keep the student from calling the tool, "" when nothing does. Found before a run, not at a call."""
    function = tool.schema.get("function") if isinstance(tool.schema, Mapping) else None
    if not isinstance(function, Mapping):
        return (
            f'schema must be {{"type": "function", "function": {{...}}}}, got {_shape(tool.schema)}; put name, '
            "description and parameters under function"
        )
    if not isinstance(tool.name, str) or function.get("name") != tool.name:
        return (
            f"name and schema must give one name, got {tool.name!r} and {function.get('name')!r}: calls by the "
            "schema's would find nothing; make them equal"
        )
    parameters = function.get("parameters")
    known = parameters.get("properties") if isinstance(parameters, Mapping) else None
    if not isinstance(known, Mapping) or not all(isinstance(each, Mapping) for each in known.values()):
        return (
            f'the schema\'s parameters must be {{"type": "object", "properties": {{NAME: {{...}}}}}}, got '
            f"{_shape(parameters)}; give each argument's schema by its name, none as {{}}"
        )
    if not inspect.iscoroutinefunction(tool.call):
        return "call must be a coroutine function, got another; write async def call(self, arguments)"
    return ""


def _shape(value: Any) -> str:
    """`keys name, parameters` or `a list`."""
    if not isinstance(value, Mapping):
        return f"a {type(value).__name__}"
    return f"keys {', '.join(map(str, value)) or '(none)'}"


CHANGED = "the file of tool.make is another than in the session before: results before and after are of two tools"
"""Said when a run goes on and its `source_digest` is another."""


def source_digest(config: ToolConfig) -> str:
    """A hash of the file that `tool.make` names, by which a run knows the tool again; "" for the code interpreter and
    for what has no source. Only after `make_tools`, which refuses what is not there."""
    where = config.make.rpartition(":")[0]
    found = where if where.endswith(".py") else getattr(sys.modules.get(where), "__file__", None)
    return hashlib.sha256(Path(found).read_bytes()).hexdigest()[:16] if found and Path(found).is_file() else ""


def _interpreter(config: ToolConfig, sandbox: Sandbox | None) -> Tool:
    return CodeInterpreter(sandbox, config=config)


def _maker(name: str) -> Maker:
    """`my_tools.py:search` or `my_package.tools:search` -> the function."""
    where, _, function = name.rpartition(":")
    maker = vars(_module(where, name=name)).get(function)
    if not callable(maker):
        raise ConfigError(f"tool.make = {name!r}: there is no function {function!r} in {where}")
    return cast("Maker", maker)


def _module(where: str, *, name: str) -> ModuleType:
    """The file or module. What its code raises is raised as it is, but for an import in vain, which gets the cure."""
    wrong = _wrong_place(where)
    try:
        if not wrong:
            return _module_of(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    except ImportError as error:
        if not _is_missing(where, error):
            raise ConfigError(
                f"tool.make = {name!r}: {where} was found, but what it imports was not: {error}; install that, or mend "
                "the import"
            ) from error
        wrong = str(error)
    raise ConfigError(
        f"tool.make must be FILE.py:FUNCTION or MODULE:FUNCTION, got {name!r}: {wrong}; give the file's path from "
        "where the command is run"
    )


def _wrong_place(where: str) -> str:
    """Why a place can hold no maker, "" when it may."""
    if where.endswith(".py"):
        return "" if Path(where).is_file() else f"no such file: {where}"
    return "that names no module" if not where or where.startswith(".") else ""  # relative to nothing


def _is_missing(where: str, error: ImportError) -> bool:
    """The module itself or a package around it is not there, and not something that its code imports."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    return not where.endswith(".py") and missing is not None and f"{where}.".startswith(f"{missing}.")


def _module_of(path: Path) -> ModuleType:
    """A file as a module. It is registered, because dataclasses look their module up: by its whole path, as two folders
    may have a file of one name, and only if its code ran to the end."""
    digest = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    name = f"sod_tool_{path.stem}_{digest[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a name that ends with .py is of Python source"
    assert spec.loader is not None, "a file has a loader"
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


async def call_tool(tools: Mapping[str, Tool], call: ToolCall | MalformedCall) -> ToolResult:
    """Answers one call of the student. `tools` is by name.

    A call that cannot be read, names no tool or has wrong arguments is answered with a sentence on what is wrong. A
    fault of a tool of one's own is none of the student's: INFRASTRUCTURE, and what it was in `detail`.
    """
    refused = refusal(tools, call)
    if refused is not None:
        return refused
    assert isinstance(call, ToolCall), "what could not be read is refused"
    tool = tools[call.name]
    return await (tool.call(call.arguments) if isinstance(tool, CodeInterpreter) else _guarded(tool, call.arguments))


async def _guarded(tool: Tool, arguments: Mapping[str, Any]) -> ToolResult:
    """A call of code that is not ours: whatever goes wrong in it costs one trajectory, not the run."""
    try:
        result: object = await tool.call(arguments)
    except Exception as error:  # not ours to know which
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        detail = f"the tool {tool.name!r} raised {type(error).__name__}: {error} ({where}); mend the tool"
        return ToolResult(status=ToolStatus.INFRASTRUCTURE, text="", detail=detail)
    if isinstance(result, ToolResult) and isinstance(result.status, ToolStatus) and isinstance(result.text, str):
        return result
    got = type(result).__name__ if not isinstance(result, ToolResult) else f"{result.status!r} and {result.text!r:.40}"
    detail = f"the tool {tool.name!r} must return a ToolResult of a ToolStatus and a text, got {got}; mend the tool"
    return ToolResult(status=ToolStatus.INFRASTRUCTURE, text="", detail=detail)


def refusal(tools: Mapping[str, Tool], call: ToolCall | MalformedCall) -> ToolResult | None:
    """What a call is answered with that no tool can be given; None for a good one."""
    if isinstance(call, MalformedCall):
        return _malformed(call.reason)
    tool = tools.get(call.name)
    if tool is None:
        return _malformed(f'there is no tool "{call.name}"; available: {", ".join(tools) or "none"}')
    complaint = _complaint(call.arguments, parameters=tool.schema["function"]["parameters"])
    return _malformed(f'{complaint} in the call of "{call.name}"; {_usage(tool)}') if complaint else None


def _malformed(reason: str) -> ToolResult:
    return ToolResult(status=ToolStatus.MALFORMED_CALL, text=f"[malformed tool call: {reason}]")


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": Mapping,
    "null": type(None),
}


def _complaint(arguments: Any, *, parameters: Mapping[str, Any]) -> str:
    """What is wrong with the arguments, "" when nothing is. Reads types, `required` and unknown names of the schema; a
    schema of yours may leave out `required` and types, and what it says beyond them is your tool's to check."""
    if not isinstance(arguments, Mapping):
        return f"arguments must be an object, got {_type_name(arguments)}"
    known: Mapping[str, Any] = parameters.get("properties", {})
    for name in parameters.get("required", ()):
        if name not in arguments:
            return f'argument "{name}" is missing'
    for name, value in arguments.items():
        if name not in known:
            return f'unknown argument "{name}"'
        wanted = known[name].get("type")
        if not _fits(value, wanted):
            return f'argument "{name}" must be of type {wanted}, got {_type_name(value)}'
    return ""


def _fits(value: Any, wanted: Any) -> bool:
    if not isinstance(wanted, str) or wanted not in _TYPES:  # several types, or none
        return True
    is_number_type = wanted in ("integer", "number")
    return isinstance(value, _TYPES[wanted]) and not (is_number_type and isinstance(value, bool))


def _type_name(value: Any) -> str:
    return next((name for name in ("boolean", *_TYPES) if _fits(value, name)), type(value).__name__)


def _usage(tool: Tool) -> str:
    parameters = tool.schema["function"]["parameters"]
    known = parameters.get("properties", {})
    wanted = ", ".join(f'"{name}": {value.get("type", "any")}' for name, value in known.items())
    return f"it takes {{{wanted}}}"

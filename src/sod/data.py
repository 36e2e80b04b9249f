r"""Files of rows -> Problems and traces.

    problems = load_problems(DataConfig(path="gsm8k/test.jsonl", limit=100))
    problems[0].answer, problems.skipped -> "18", {}

Reads .jsonl, .json (a list) and .parquet, the first two also as .gz. `format = "auto"` decides by the columns of the
first row. Whether a question gets the instruction is decided per row. A row that lacks its columns is an error; one
that nobody can grade (an empty answer, code tests) is left out, counted and named in `ProblemSet.skipped`.
"""

from __future__ import annotations

import ast
import gzip
import json
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, overload

from sod.config import DataConfig
from sod.errors import DataError
from sod.types import Message, Problem

__all__ = [
    "INSTRUCTION",
    "ProblemSet",
    "Trace",
    "TraceSet",
    "gsm8k_traces",
    "load_problems",
    "load_traces",
    "read_rows",
]

INSTRUCTION = (
    "Please reason step by step, call the code tool when it helps, and put your final answer within \\boxed{answer}."
)
"""What is put after a bare question when `DataConfig.instruction` is unset."""

Row: TypeAlias = Mapping[str, Any]

_COLUMNS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "verl": (("data_source", "prompt", "reward_model"), ("data_source", "problem", "ground_truth")),
    "aime": (("input", "output"), ("Problem", "Answer")),
    "gsm8k": (("question", "answer"),),
    "math": (("problem", "answer"),),
    "sod": (("messages", "answer"), ("question", "answer"), ("problem", "answer")),
}
"""Columns that a format needs: any one of its tuples."""

_MATH_COLUMNS = frozenset({"subject", "level", "type", "difficulty", "unique_id", "solution"})
_ROLES = frozenset({"system", "user", "assistant", "tool"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemSet(Sequence[Problem]):
    """The problems of a file, in its order. `skipped` counts the rows left out by the reason why."""

    problems: tuple[Problem, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Problem, ...]: ...
    def __getitem__(self, index: int | slice) -> Problem | tuple[Problem, ...]:
        return self.problems[index]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """A finished dialogue to learn from.

    Every message has `role` and `content` (a string); an assistant's calls are in `tool_calls` as
    {"type": "function", "function": {"name": ..., "arguments": {...}}}. `tools` are the schemas it was offered.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceSet(Sequence[Trace]):
    """Traces made from rows. `dropped` counts the rows left out by the reason why."""

    traces: tuple[Trace, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.traces)

    @overload
    def __getitem__(self, index: int) -> Trace: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Trace, ...]: ...
    def __getitem__(self, index: int | slice) -> Trace | tuple[Trace, ...]:
        return self.traces[index]


class _SkippedRowError(Exception):
    """This row cannot be used; the others can."""


class _RowError(Exception):
    """This row breaks the promise of its format. The message says what must hold and what was got."""


# ---- problems


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    """What a format reads from a row; `bare` says that nobody has told the model yet how to answer."""

    messages: tuple[Message, ...]
    bare: bool
    answer: str
    source: str
    id: str = ""
    grader: str = "math"
    metadata: Mapping[str, Any] = field(default_factory=dict)


def load_problems(config: DataConfig, *, system: str = "") -> ProblemSet:
    """Read the problems of `config.path`; `system` is put before every problem that has no system message.

    Raises DataError, one message: missing or empty file, unknown layout, missing columns, a bad line (with its
    number), a row without an answer (with its number), two rows with one id, no usable row.
    """
    path = _file(config.path)
    kind: str = config.format
    problems: list[Problem] = []
    skipped: Counter[str] = Counter()
    ids: set[str] = set()
    for number, row in read_rows(path):
        kind = _checked_format(path, kind, row) if not problems and not skipped else kind
        try:
            draft = _READERS[kind](row, path.name.partition(".")[0])
            problem = _problem(draft, number, config.instruction, system)
        except _SkippedRowError as reason:
            skipped[str(reason)] += 1
            continue
        except _RowError as fault:
            raise DataError(f"{path}, row {number}: {fault}") from None
        if problem.id in ids:
            raise DataError(f"{path}, row {number}: an id must be given once, got {problem.id!r} again; rename one")
        ids.add(problem.id)
        problems.append(problem)
        if len(problems) == config.limit:
            break
    if not problems:
        raise DataError(f"{path} must hold a problem that can be graded, got none; left out: {_counts(skipped)}")
    return ProblemSet(problems=tuple(problems), skipped=dict(skipped))


def _problem(draft: _Draft, number: int, instruction: str | None, system: str) -> Problem:
    messages = list(draft.messages)
    text = INSTRUCTION if instruction is None else instruction
    if draft.bare and text:
        question = messages[-1]
        messages[-1] = {**question, "content": f"{question['content'].rstrip()}\n\n{text}"}
    if system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Problem(
        id=draft.id or f"{draft.source}-{number}",
        messages=tuple(messages),
        answer=draft.answer,
        grader=draft.grader,
        source=draft.source,
        metadata=draft.metadata,
    )


def _checked_format(path: Path, kind: str, row: Row) -> str:
    """The layout of the file, by its first row. "auto" finds it; a named one must have its columns."""
    found = _detected(row) if kind == "auto" else kind
    if found and any(set(columns) <= row.keys() for columns in _COLUMNS[found]):
        return found
    wanted = {kind: _COLUMNS[kind]} if kind in _COLUMNS else _COLUMNS
    layouts = "; ".join(f"{name}: {' or '.join(', '.join(c) for c in columns)}" for name, columns in wanted.items())
    raise DataError(
        f"{path} must have the columns of a known layout ({layouts}), got {', '.join(row) or 'none'}; "
        "rename the columns or set data.format"
    )


def _detected(row: Row) -> str:
    for kind in ("verl", "aime"):
        if any(set(columns) <= row.keys() for columns in _COLUMNS[kind]):
            return kind
    if {"question", "answer"} <= row.keys() and "####" in str(row["answer"]):
        return "gsm8k"
    if {"problem", "answer"} <= row.keys() and _MATH_COLUMNS & row.keys():
        return "math"
    return "sod"


def _read_sod(row: Row, stem: str) -> _Draft:
    own = row.get("messages")
    messages = _prompt(own) if own is not None else _question(row, "question", "problem")
    known = {"id", "messages", "question", "problem", "answer", "grader", "source", "metadata"}
    rest = {key: value for key, value in row.items() if key not in known and value is not None}
    return _Draft(
        id=str(row["id"]) if row.get("id") is not None else "",
        messages=messages,
        bare=own is None and _is_bare(messages),
        answer=_answer(row, "answer"),
        grader=str(row.get("grader") or "math"),
        source=str(row.get("source") or stem),
        metadata={**rest, **(row.get("metadata") or {})},
    )


def _read_gsm8k(row: Row, _stem: str) -> _Draft:
    messages = _question(row, "question")
    solution = _answer(row, "answer")
    return _Draft(
        messages=messages,
        bare=_is_bare(messages),
        answer=_gsm8k_answer(solution),
        source="gsm8k",
        metadata={"solution": solution},
    )


def _gsm8k_answer(solution: str) -> str:
    """`... #### 1,234 -> 1234`."""
    _, marker, answer = solution.rpartition("####")
    if not marker or not answer.strip():
        raise _RowError(f'the answer must end with "#### N", got ...{solution[-40:]!r}')
    return answer.strip().replace(",", "")


def _read_aime(row: Row, stem: str) -> _Draft:
    messages = _question(row, "input", "Problem")
    answer = _answer(row, "output", "Answer")
    if not re.fullmatch(r"[0-9]{1,3}", answer):
        raise _RowError(f"an AIME answer must be an integer from 0 to 999, got {answer!r}")
    return _Draft(messages=messages, bare=_is_bare(messages), answer=str(int(answer)), source=stem)


def _read_math(row: Row, stem: str) -> _Draft:
    messages = _question(row, "problem")
    metadata = {key: row[key] for key in sorted(_MATH_COLUMNS & row.keys()) if row[key] is not None}
    return _Draft(
        messages=messages, bare=_is_bare(messages), answer=_answer(row, "answer"), source=stem, metadata=metadata
    )


def _read_verl(row: Row, stem: str) -> _Draft:
    source = str(row.get("data_source") or stem)
    reward_model = _decoded(row.get("reward_model")) or {}
    truth = reward_model if "reward_model" in row else row
    if not isinstance(truth, Mapping):
        raise _RowError(f"reward_model must be an object with ground_truth, got {truth!r:.60}")
    answer = _answer(truth, "ground_truth")
    if source.startswith("train-code") or _is_code_truth(answer):
        raise _SkippedRowError("code ground truth: no grader for it yet")
    if row.get("ability") == "qa":
        raise _SkippedRowError("ability qa: no grader for free text")
    messages = _prompt(row["prompt"]) if row.get("prompt") is not None else _question(row, "problem")
    kept = ("ability", "extra_info", "instance_id")
    metadata = {key: _decoded(row[key]) for key in kept if row.get(key) is not None}
    return _Draft(messages=messages, bare=_is_bare(messages), answer=answer, source=source, metadata=metadata)


_READERS: Mapping[str, Callable[[Row, str], _Draft]] = {
    "sod": _read_sod,
    "verl": _read_verl,
    "gsm8k": _read_gsm8k,
    "aime": _read_aime,
    "math": _read_math,
}


def _is_bare(messages: Sequence[Message]) -> bool:
    r"""No message says \boxed yet. In some published files "\b" was read as a backspace; that counts as said."""
    return not any("\\boxed" in message["content"] or "\boxed" in message["content"] for message in messages)


def _is_code_truth(answer: str) -> bool:
    """Tests instead of an answer: {inputs, outputs} or {test_code, entry_point} as JSON."""
    if not answer.startswith("{"):
        return False
    value = _decoded(answer)
    return isinstance(value, dict) and ("inputs" in value or "test_code" in value)


def _answer(row: Row, *names: str) -> str:
    """The reference as text. An empty one is skipped (published files have some), an absent one is a fault."""
    present = [name for name in names if name in row]
    if not present:
        raise _RowError(f"a row must have an answer ({' or '.join(names)}), got only {', '.join(row) or 'nothing'}")
    value = row[present[0]]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _SkippedRowError(f"{present[0]} is empty")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _RowError(f"{present[0]} must be a text or a number, got {value!r:.60}")
    return str(value).strip()


def _question(row: Row, *names: str) -> tuple[Message, ...]:
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value.strip():
            return ({"role": "user", "content": value},)
    raise _RowError(f"a row must have a question ({' or '.join(names)}), got only {', '.join(row) or 'nothing'}")


def _prompt(value: Any) -> tuple[Message, ...]:
    """Messages that end with the user's, from a list, its JSON, or a plain text."""
    decoded = _decoded(value)
    messages = _messages([{"role": "user", "content": decoded}] if isinstance(decoded, str) else decoded)
    if not messages or messages[-1]["role"] != "user":
        raise _RowError(f"a prompt must end with a user message, got roles {[message['role'] for message in messages]}")
    return messages


# ---- traces


def load_traces(path: str | Path) -> list[Trace]:
    """Read traces from a file with a `messages` column (and optionally `tools`); nulls that parquet pads are dropped.

    Raises DataError: missing or empty file, no such column, a trace (by row number) with an unknown role, no
    assistant turn, or a tool message that answers no call.
    """
    source = _file(str(path))
    traces: list[Trace] = []
    for number, row in read_rows(source):
        if "messages" not in row:
            raise DataError(
                f"{source}, row {number}: a trace must have the column messages, got {', '.join(row) or 'none'}; "
                "rename the column, or make traces first"
            )
        try:
            traces.append(_trace(row))
        except _RowError as fault:
            raise DataError(f"{source}, row {number}: {fault}") from None
    return traces


def _trace(row: Row) -> Trace:
    messages = _messages(_decoded(row["messages"]))
    roles = [message["role"] for message in messages]
    if "assistant" not in roles:
        raise _RowError(f"a trace must have an assistant message to learn from, got roles {roles}")
    asked = False
    for message in messages:
        if message["role"] == "tool" and not asked:
            raise _RowError(f"a tool message must follow an assistant's tool_calls, got roles {roles}")
        asked = message["role"] == "tool" or bool(message.get("tool_calls"))
    tools = _decoded(row.get("tools")) or []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise _RowError(f"tools must be a list of schemas, got {tools!r:.60}")
    return Trace(messages=messages, tools=tuple(_without_nulls(tool) for tool in tools))


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _RowError(f"messages must be a list of {{role, content}}, got {value!r:.60}")
    return tuple(_message(item) for item in value)


def _message(item: Any) -> Message:
    message = _without_nulls(item)
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise _RowError(f"a message must have a role out of {', '.join(sorted(_ROLES))}, got {item!r:.80}")
    content = message.get("content", "")
    if not isinstance(content, str):
        raise _RowError(f"a message's content must be text, got {content!r:.60}")
    calls = [_call(call) for call in message.get("tool_calls") or ()]
    rest = {key: message[key] for key in message if key not in ("role", "content", "tool_calls")}
    return {"role": message["role"], "content": content, **rest, **({"tool_calls": calls} if calls else {})}


def _call(call: Any) -> dict[str, Any]:
    """One call in the nested form; arguments that come as JSON text are read."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise _RowError(f"a tool call must have a function with a name, got {call!r:.80}")
    name, arguments = function["name"], _decoded(function.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise _RowError(f"a tool call must have arguments that are an object, got {call!r:.80}")
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


# ---- GSM8K as tool traces

_ANNOTATION = re.compile(r"<<(.*?)>>", re.DOTALL)
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_MAX_EXPONENT = 64

_OPERATORS: Mapping[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}


def gsm8k_traces(rows: Iterable[Row], *, tool_name: str, instruction: str | None = None) -> TraceSet:
    r"""Turn calculator annotations into tool calls: `so 48/2 = <<48/2=24>>24 clips. #### 24` becomes

        assistant  "so 48/2 = "            calls tool_name(code="print(48/2)")
        tool       "24.0"                  (what Python prints, not what the annotation says)
        assistant  "24 clips.\n\\boxed{24}"

    `instruction` is put after the question as in `load_problems` (unset: INSTRUCTION, "": nothing). A row is dropped
    when it has no annotation, or one whose expression is no arithmetic or does not give its value.
    Raises DataError for a row without question or "#### N".
    """
    traces: list[Trace] = []
    dropped: Counter[str] = Counter()
    for number, row in enumerate(rows, start=1):
        try:
            draft = _read_gsm8k(row, "gsm8k")
            prompt = _problem(draft, number, instruction, "").messages
            turns = _annotated_turns(draft.metadata["solution"], tool_name, draft.answer)
        except _SkippedRowError as reason:
            dropped[str(reason)] += 1
            continue
        except _RowError as fault:
            raise DataError(f"GSM8K row {number}: {fault}") from None
        traces.append(Trace(messages=(*prompt, *turns)))
    return TraceSet(traces=tuple(traces), dropped=dict(dropped))


def _annotated_turns(solution: str, tool_name: str, answer: str) -> list[Message]:
    body = solution.rpartition("####")[0].rstrip()
    pieces = _ANNOTATION.split(body)  # text, annotation, text, annotation, ..., text
    if len(pieces) == 1:
        raise _SkippedRowError("no annotation")
    messages: list[Message] = []
    for text, annotation in zip(pieces[0::2], pieces[1::2], strict=False):
        expression, observation = _checked_annotation(annotation)
        function = {"name": tool_name, "arguments": {"code": f"print({expression})"}}
        calls = [{"type": "function", "function": function}]
        messages.append({"role": "assistant", "content": text, "tool_calls": calls})
        messages.append({"role": "tool", "content": observation})
    final = f"{pieces[-1].rstrip()}\n\\boxed{{{answer}}}".lstrip("\n")
    return [*messages, {"role": "assistant", "content": final}]


def _checked_annotation(annotation: str) -> tuple[str, str]:
    """`48/2=24 -> ("48/2", "24.0")`: the expression as Python reads it, and what it prints."""
    expression, equals, stated = _THOUSANDS.sub("", annotation).rpartition("=")
    expression, stated = expression.strip(), stated.strip()
    if not equals or not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)", stated):
        raise _SkippedRowError("an annotation without a value")
    try:
        value = _arithmetic(expression)
    except (SyntaxError, ValueError, ArithmeticError, RecursionError):
        raise _SkippedRowError("an annotation that is no arithmetic") from None
    if not _agrees(value, stated):
        raise _SkippedRowError("an annotation with a wrong value")
    return expression, repr(value)


def _agrees(value: int | float, stated: str) -> bool:
    """Equal, or equal when rounded to the decimals that are stated: 1/3 is 0.33, but 5/3 is not 2."""
    decimals = len(stated.partition(".")[2])
    tolerance = 0.5 * 10**-decimals if decimals else 0.0
    return abs(value - float(stated)) <= tolerance + 1e-9 * max(1.0, abs(value))


def _arithmetic(expression: str) -> int | float:
    """Value of numbers, + - * / // % ** and parentheses. ValueError for anything else."""
    return _node_value(ast.parse(expression, mode="eval").body)


def _node_value(node: ast.AST) -> int | float:
    if isinstance(node, ast.Constant):
        return _real(node.value)
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _real(_OPERATORS[type(node.op)](_node_value(node.operand)))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _node_value(node.left), _node_value(node.right)
        if isinstance(node.op, ast.Pow) and abs(right) > _MAX_EXPONENT:
            raise ValueError("the exponent is too large")
        return _real(_OPERATORS[type(node.op)](left, right))
    raise ValueError(f"{type(node).__name__} is no arithmetic")


def _real(value: Any) -> int | float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise ValueError("no number of a usable size")
    number: int | float = value
    return number


# ---- files


def read_rows(path: str | Path) -> Iterator[tuple[int, Row]]:
    """Rows of a .jsonl, .json or .parquet file (the first two also .gz) with their numbers from 1 (the line, in JSONL).

    Raises DataError: missing or empty file, unknown ending, a line or file that cannot be read.
    """
    source = _file(str(path))
    name = source.name.removesuffix(".gz")
    reader = _ENDINGS.get(Path(name).suffix)
    if reader is None or (reader is _parquet_rows and name != source.name):
        raise DataError(f"{source} must end with .jsonl, .json, .jsonl.gz, .json.gz or .parquet; convert or rename it")
    number = 0
    try:
        for number, row in reader(source):
            if not isinstance(row, dict):
                raise DataError(f"{source}, row {number}: a row must be an object, got {row!r:.60}; fix the line")
            yield number, row
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{source} cannot be read: {error}; fetch the file again") from None
    if number == 0:
        raise DataError(f"{source} must hold rows, got an empty file; fetch the file again")


def _file(path: str) -> Path:
    if path.startswith("demo:"):
        raise DataError(
            f"{path} must be a file, got a name of the embedded world; `sod demo` makes that, give a .jsonl"
        )
    source = Path(path)
    if not source.is_file():
        got = "a directory" if source.is_dir() else "no such file"
        raise DataError(f"{path} must be a file, got {got}; give the path of a .jsonl or .parquet file")
    return source


def _text_lines(path: Path) -> Iterator[str]:
    unpack: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with unpack(path, "rt", encoding="utf-8-sig") as lines:
        yield from lines


def _jsonl_rows(path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: must be JSON, got {line.strip()!r:.60}; {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    text = "".join(_text_lines(path))
    try:
        rows = json.loads(text) if text.strip() else []
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{path}: must be JSON, got a fault: {error}; is it .jsonl?") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: must be a list of objects, got {type(rows).__name__}; put the rows into a list")
    yield from enumerate(rows, start=1)


def _parquet_rows(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {key: _without_nulls(value) for key, value in row.items()}
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} must be a parquet file, got a fault: {error}; fetch the file again") from None


_ENDINGS: Mapping[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".parquet": _parquet_rows,
}


def _decoded(value: Any) -> Any:
    """JSON objects and lists that a file holds as text; everything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        return value


def _counts(skipped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} rows ({reason})" for reason, count in skipped.items()) or "nothing"

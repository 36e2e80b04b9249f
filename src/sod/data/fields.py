"""What a field of a row must hold: answers, questions, messages. The two errors say whether a row's fault is fatal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sod.data.files import Row, names_of, without_nulls
from sod.types import Message

__all__ = [
    "RowError",
    "SkippedRowError",
    "answer_of",
    "decoded",
    "dumped",
    "letter_of",
    "messages_of",
    "plain",
    "prompt_of",
    "question_of",
    "reference_of",
    "text_of",
]

_ROLES = frozenset({"system", "user", "assistant", "tool"})


class SkippedRowError(Exception):
    """This row cannot be used; the others can. The message is the reason it is counted under."""


class RowError(Exception):
    """This row breaks the promise of its format. The message says what must hold and what was got."""


def decoded(value: Any) -> Any:
    """JSON objects and lists that a file holds as text; everything else as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value, parse_int=_integer)
    except (ValueError, RecursionError):
        return value


def _integer(digits: str) -> int | str:
    """What has more digits than Python reads (4,300) stays text: tests of big integers are tests all the same."""
    try:
        return int(digits)
    except ValueError:
        return digits


def dumped(value: Any, name: str) -> str:
    """A field as JSON text; a text is taken for that already."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise RowError(f"{name} must be what JSON can hold, got something else in it") from None


def plain(value: Any) -> str | None:
    """One text or number as text: `["999"] -> "999"`, `638.0 -> "638"`; "" for an empty one, None for all else."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        return str(value).strip()
    except ValueError:  # more digits than Python writes
        return None


def letter_of(value: str) -> str:
    """`"(c)" -> "C"`, from A to J; "" for anything else."""
    found = value.strip().strip("().").upper()
    return found if len(found) == 1 and "A" <= found <= "J" else ""


def answer_of(row: Row, *names: str) -> str:
    """The reference as text. An empty one is skipped (published files have some), an absent one is a fault."""
    present = [name for name in names if name in row]
    if not present:
        raise RowError(f"a row must have an answer ({' or '.join(names)}), got only {names_of(row)}")
    answer = plain(row[present[0]])
    if answer is None:
        raise RowError(f"{present[0]} must be a text or a number, got a {type(row[present[0]]).__name__}")
    if not answer:
        raise SkippedRowError(f"{present[0]} is empty")
    return answer


def reference_of(row: Row, name: str) -> str:
    """What a teacher may be shown, a solution or a hint; "" where the row has none. The message never quotes it."""
    reference = plain(row.get(name))
    if reference is None:
        raise RowError(f"{name} must be a text, got a {type(row[name]).__name__}")
    return reference


def text_of(row: Row, name: str) -> str:
    """A field that must be there and hold text. The message never quotes it: some benchmarks must not be shown."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise RowError(f"{name} must be a text, got {'nothing' if value is None else type(value).__name__}")
    return value


def question_of(row: Row, *names: str) -> tuple[Message, ...]:
    """The first of `names` that is there, as the user's message. An empty one is skipped, an absent one is a fault."""
    present = [name for name in names if name in row]
    if not present:
        raise RowError(f"a row must have a question ({' or '.join(names)}), got only {names_of(row)}")
    filled = [name for name in present if plain(row[name]) != ""]
    if not filled:
        raise SkippedRowError(f"{present[0]} is empty")
    return ({"role": "user", "content": text_of(row, filled[0])},)


def prompt_of(value: Any) -> tuple[Message, ...]:
    """Messages that end with the user's, from a list, its JSON, or a plain text."""
    read = decoded(value)
    messages = messages_of([{"role": "user", "content": read}] if isinstance(read, str) else read)
    if not messages or messages[-1]["role"] != "user":
        raise RowError(f"a prompt must end with a user message, got roles {[message['role'] for message in messages]}")
    return messages


def messages_of(value: Any) -> tuple[Message, ...]:
    """Messages in one form: content is text, calls are nested with their arguments read, nulls are gone."""
    if not isinstance(value, list) or not value:
        raise RowError(f"messages must be a list of {{role, content}}, got {value!r:.60}")
    return tuple(_message(item) for item in value)


def _message(item: Any) -> Message:
    message = without_nulls(item)
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError(f"a message must have a role out of {', '.join(sorted(_ROLES))}, got {item!r:.80}")
    content = _content(message.get("content", ""))
    calls = [_call(call) for call in _calls(message.get("tool_calls"))]
    rest = {key: message[key] for key in message if key not in ("role", "content", "tool_calls")}
    return {"role": role, "content": content, **rest, **({"tool_calls": calls} if calls else {})}


def _content(value: Any) -> str:
    """Text, also where it comes as OpenAI's list of text parts."""
    if isinstance(value, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in value):
        value = "".join(str(part.get("text", "")) for part in value)
    if not isinstance(value, str):
        raise RowError(f"a message's content must be text, got {value!r:.60}")
    return value


def _calls(value: Any) -> list[Any]:
    if value and not isinstance(value, list):
        raise RowError(f"tool_calls must be a list of calls, got {value!r:.60}")
    return value or []


def _call(call: Any) -> dict[str, Any]:
    """One call in the nested form; arguments that come as JSON text are read."""
    function = call.get("function", call) if isinstance(call, dict) else call
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"a tool call must have a function with a name, got {call!r:.80}")
    name, arguments = function["name"], decoded(function.get("arguments", {}))
    if not isinstance(arguments, dict):
        raise RowError(f"a tool call must have arguments that are an object, got {call!r:.80}")
    return {"type": "function", "function": {"name": name, "arguments": arguments}}

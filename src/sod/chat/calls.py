"""Tool calls in the text of a turn: Hermes' form, read strictly, a fault said to the student in a sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sod.types import MalformedCall, ToolCall

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
FORM = '<tool_call>{"name": ..., "arguments": {...}}</tool_call>'
_MARK = re.compile("<think>|<tool_call>")
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(strict=False)


class _UnreadableCallError(Exception):
    """Why a call cannot be read, as a sentence for the student."""


@dataclass(frozen=True, slots=True)
class CallAt:
    call: ToolCall | MalformedCall
    start: int
    end: int


def parse_calls(text: str, *, in_thought: bool = False) -> tuple[ToolCall | MalformedCall, ...]:
    """Hermes tool calls of one turn, in order; never raises.

    `<tool_call>{"name": "f", "arguments": {"x": 1}}</tool_call>` -> `(ToolCall(name="f", arguments={"x": 1}),)`.
    The JSON decides where a call ends, so strings may hold tags and braces; raw line breaks in strings and arguments
    given as a JSON string are accepted. What cannot be read is a MalformedCall with a reason. Calls inside
    `<think>...</think>` do not count (an open block reaches to the end); `in_thought` says that the turn starts in one.
    """
    return tuple(found.call for found in calls_in(text, in_thought=in_thought))


def calls_in(text: str, *, in_thought: bool) -> Iterator[CallAt]:
    """The calls of a turn with where each stands in its text; those within thoughts are none."""
    position = _end_of_thought(text, 0) if in_thought else 0
    while mark := _MARK.search(text, position):
        if mark.group() == _OPEN:
            found = _call_at(text, mark.start())
            yield found
            position = found.end
        else:
            position = _end_of_thought(text, mark.end())


def _end_of_thought(text: str, position: int) -> int:
    end = text.find("</think>", position)
    return len(text) if end < 0 else end + len("</think>")


def _call_at(text: str, start: int) -> CallAt:
    """The call whose opening tag is at `start`."""
    try:
        decoded = _decode_json(text, start + len(_OPEN))
        call = _checked_call(decoded.value)
        return CallAt(call, start, decoded.end)
    except _UnreadableCallError as fault:
        end = _end_of_unreadable(text, start + len(_OPEN))
        return CallAt(MalformedCall(text=text[start:end], reason=f"{fault} Write {FORM}."), start, end)


@dataclass(frozen=True, slots=True)
class _Decoded:
    value: object
    end: int


def _decode_json(text: str, body: int) -> _Decoded:
    """The JSON value at `body`, which the closing tag must follow; `end` is after that tag."""
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, body))
    except json.JSONDecodeError as error:
        if text.find(_CLOSE, body) < 0:
            raise _UnreadableCallError(f"The tool call has no closing {_CLOSE} tag.") from None
        near = text[error.pos : error.pos + 20]
        raise _UnreadableCallError(
            f"The tool call is not valid JSON: {error.msg} at character {error.pos - body}, near {near!r}."
        ) from None
    except (ValueError, RecursionError):  # an integer of thousands of digits, brackets nested thousands deep
        raise _UnreadableCallError("The tool call has a number that is too long or is nested too deeply.") from None
    end = _skip_space(text, end)
    if text.startswith(_CLOSE, end):
        return _Decoded(value, end + len(_CLOSE))
    if text.find(_CLOSE, end) < 0:
        raise _UnreadableCallError(f"The tool call has no closing {_CLOSE} tag.")
    raise _UnreadableCallError(
        f"The tool call must be one JSON object, but more text follows it at character {end - body}: "
        f"{text[end : end + 20]!r}."
    )


def _skip_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def _end_of_unreadable(text: str, body: int) -> int:
    """Reading goes on after the closing tag, or at the next opening tag when that comes first."""
    next_open = text.find(_OPEN, body)
    limit = len(text) if next_open < 0 else next_open
    close = text.find(_CLOSE, body, limit)
    return limit if close < 0 else close + len(_CLOSE)


def _checked_call(value: object) -> ToolCall:
    if not isinstance(value, dict):
        raise _UnreadableCallError(f"The tool call must be a JSON object, got {kind_of(value)}.")
    name = value.get("name")
    if not isinstance(name, str) or not name:
        got = kind_of(name) if "name" in value else "none"
        raise _UnreadableCallError(f'The tool call must have a "name" that is a non-empty string, got {got}.')
    if "arguments" not in value:
        raise _UnreadableCallError('The tool call must have "arguments", got none.')
    arguments = value["arguments"]
    if isinstance(arguments, str):
        arguments = _arguments_from_string(arguments)
    if not isinstance(arguments, dict):
        raise _UnreadableCallError(f'"arguments" must be a JSON object, got {kind_of(arguments)}.')
    _need_unicode(name, arguments)
    return ToolCall(name=name, arguments=arguments)


def _arguments_from_string(text: str) -> object:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise _UnreadableCallError('"arguments" must be a JSON object, got a string that is not JSON.') from None


def _need_unicode(name: str, arguments: Mapping[str, Any]) -> None:
    """JSON can spell half a surrogate pair, which no tool could be sent."""
    try:
        json.dumps([name, arguments], ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise _UnreadableCallError("The tool call has an unpaired surrogate such as \\ud800 in a string.") from None
    except (ValueError, RecursionError):
        raise _UnreadableCallError("The tool call has a number that is too long or is nested too deeply.") from None


def kind_of(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")

"""A hook of mkdocs: `<!-- every setting -->` becomes the reference of all settings, made of sod.config.

A section is written where it first occurs; its heading says where else it stands. Sentences are the docstrings of the
fields, types and defaults what pydantic holds of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from html import escape
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sod.config import FREE, EvalConfig, HintsConfig, Section, SFTConfig, TracesConfig, TrainConfig

MARK = "<!-- every setting -->"
COMMANDS: Mapping[str, type[Section]] = {
    "train": TrainConfig,
    "sft": SFTConfig,
    "eval": EvalConfig,
    "hints": HintsConfig,
    "traces": TracesConfig,
}
CONTINUED = ("train", "eval")
"""Commands whose runs go on with other values of FREE."""


@dataclass(kw_only=True)
class Place:
    """A section and every (command, dotted name) it stands at; the root of a command has the name ""."""

    kind: type[Section]
    at: list[tuple[str, str]] = field(default_factory=list)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the settings in it."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def reference() -> str:
    """All settings as Markdown."""
    places = sections()
    return "\n".join(line for place in places.values() for line in _written(place, places))


def sections() -> dict[type[Section], Place]:
    """Every section in the order in which a reader of the commands' configs meets it."""
    found: dict[type[Section], Place] = {}
    for command, kind in COMMANDS.items():
        _walk(kind, command, "", found)
    return found


def _walk(kind: type[Section], command: str, name: str, found: dict[type[Section], Place]) -> None:
    found.setdefault(kind, Place(kind=kind)).at.append((command, name))
    for key, value in kind.model_fields.items():
        inner, suffix = _section_of(value.annotation)
        if inner is not None:
            _walk(inner, command, ".".join(filter(None, (name, key + suffix))), found)


def _section_of(annotation: Any) -> tuple[type[Section] | None, str]:
    """The section that a field holds, and what its name has behind it: `dict[str, ModelConfig] -> ".NAME"`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, ""
    for each in get_args(annotation):
        inner, _ = _section_of(each)
        if inner is not None:
            return inner, ".NAME" if get_origin(annotation) is dict else ""
    return None, ""


def _written(place: Place, places: Mapping[type[Section], Place]) -> Iterator[str]:
    command, name = place.at[0]
    heading = f"### `[{name}]`" if name else f"## `sod {command}`"
    yield f"{heading} {{ #{_anchor(place)} }}\n"
    yield f"{_prose((place.kind.__doc__ or '').strip())}\n"
    if len(place.at) > 1 or (name and command != "train"):
        yield f"Stands at: {_standing(place.at)}.\n"
    yield '<div class="settings" markdown>\n'
    yield "| key | type | default | |"
    yield "|---|---|---|---|"
    for key, value in place.kind.model_fields.items():
        dotted = ".".join(filter(None, (name, key)))
        cell = f'<a id="{command}.{dotted}"></a>`{key}`'
        told = _prose(value.description or "") + _may_change(place.at, key)
        yield f"| {cell} | {worded(value, places)} | {_default(value)} | {told} |"
    yield "\n</div>\n"


def _anchor(place: Place) -> str:
    command, name = place.at[0]
    return f"{command}-{name.replace('.', '-').lower()}" if name else f"sod-{command}"


def _standing(at: Sequence[tuple[str, str]]) -> str:
    """`[student] and [teacher] of sod train; [model] of sod eval`."""
    by_command: dict[str, list[str]] = {}
    for command, name in at:
        by_command.setdefault(command, []).append(f"`[{name}]`")
    return "; ".join(f"{', '.join(names)} of `sod {command}`" for command, names in by_command.items())


def _may_change(at: Sequence[tuple[str, str]], key: str) -> str:
    """Of settings that a run may be continued with other values of."""
    names = [".".join(filter(None, (name, key))) for command, name in at if command in CONTINUED]
    free = any(fnmatchcase(name, f"{pattern}*") for name in names for pattern in FREE if pattern != "run")
    free = free or (key == "run" and "run" in names)
    return " *May change when a run is continued.*" if free else ""


# ---- types in words


def worded(value: FieldInfo, places: Mapping[type[Section], Place]) -> str:
    """A field's type: `Annotated[int, Ge(1)] -> whole number, at least 1`."""
    return _worded(value.annotation, value.metadata, places)


def _worded(annotation: Any, bounds: Sequence[Any], places: Mapping[type[Section], Place]) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _worded(inner[0], [*_constraints(inner[1:]), *bounds], places)
    if origin in (Union, UnionType):
        return " or ".join(_worded(each, bounds, places) for each in inner)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(each)}`" for each in inner)
    if origin is tuple:
        return _list_of(inner, places)
    if origin is dict:
        return f"sections by name: {_worded(inner[1], (), places)}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"[section](#{_anchor(places[annotation])})"
    return _PLAIN[annotation] + "".join(f", {each}" for each in map(_bound, bounds) if each)


_PLAIN: Mapping[Any, str] = {
    bool: "`true` or `false`",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "none",
}


def _constraints(metadata: Sequence[Any]) -> list[Any]:
    """A Field(...) within Annotated holds its bounds in its own metadata."""
    return [bound for each in metadata for bound in getattr(each, "metadata", [each])]


def _list_of(inner: Sequence[Any], places: Mapping[type[Section], Place]) -> str:
    if inner[-1] is Ellipsis:
        return f"list of: {_worded(inner[0], (), places)}"
    return f"list of {len(inner)}: {_worded(inner[0], (), places)}"


def _bound(constraint: Any) -> str:
    for name, words in (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below")):
        limit = getattr(constraint, name, None)
        if limit is not None:
            return f"{words} {limit:g}"
    return "not empty" if getattr(constraint, "min_length", 0) else ""


# ---- defaults and sentences


def _default(value: FieldInfo) -> str:
    if value.is_required():
        return "**must be given**"
    default = value.get_default(call_default_factory=True)
    assert default is not PydanticUndefined
    if isinstance(default, Section):
        told = {key: getattr(default, key) for key in default.model_fields_set}
        return f"`{{ {', '.join(f'{key} = {_toml(each)}' for key, each in told.items())} }}`" if told else ""
    return "" if default == {} else f"`{_toml(default)}`" if default is not None else "none"


def _toml(value: Any) -> str:
    """As a config file has it: `True -> true`, `1e-06 -> 1e-6`, `("numpy",) -> ["numpy"]`."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return re.sub(r"e-0(\d)", r"e-\1", repr(value))
    return json.dumps(value, ensure_ascii=False)


def _prose(text: str) -> str:
    """A docstring in a cell: on one line, nothing of it markup but its `code`."""
    pieces = " ".join(text.split()).split("`")
    for place in range(0, len(pieces), 2):
        pieces[place] = re.sub(r"[|*_\[\]]", lambda each: f"&#{ord(each[0])};", escape(pieces[place], quote=False))
    return "`".join(pieces)

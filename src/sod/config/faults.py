"""What pydantic found wrong, as sentences: what must hold, what was got, the nearest key that exists."""

from __future__ import annotations

import datetime
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo


def sentences(kind: type[BaseModel], fault: Any) -> list[str]:
    """One fault that pydantic found as lines for people; a missing section is a line for each key it needs."""
    keys = [str(key) for key in fault["loc"]]
    if keys and keys[-1] == "literal['off']":  # the other member of a union has its line, which names this one
        return []
    or_off = " or off (in TOML in quotes)" if keys and keys[-1] in ("float", "constrained-float") else ""
    keys = keys[:-1] if or_off else keys
    dotted = ".".join(keys)
    if fault["type"] == "extra_forbidden":
        return [_unknown(kind, keys)]
    if fault["type"] == "missing" and not isinstance(fault["loc"][-1], int):
        return [_missing(kind, name) for name in _required(kind, dotted)]
    if fault["type"] == "value_error":
        message = str(fault["ctx"]["error"])
        return [f"{dotted}: {message}" if dotted else message]
    if fault["type"] == "missing":  # an entry of a list
        return [f'"{".".join(keys[:-1])}" must be a list of more entries, got {shown(fault["input"])}']
    rule = _RULES.get(fault["type"], fault["msg"])
    must = rule.format(key=dotted, **fault.get("ctx", {})).replace("'", '"')
    return [f'"{dotted}" must be {must}{or_off}, got {shown(fault["input"])}']


_RULES: Mapping[str, str] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text (in TOML in quotes)",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "too_long": "a list of {max_length} entries",
    "too_short": "a list of at least {min_length} entries",
    "model_type": "a section ([{key}] in TOML)",
    "literal_error": "{expected}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
}
"""What must hold, by pydantic's name of the fault."""


def shown(value: Any) -> str:
    """A value as TOML would have it: `True -> true`, `None -> none`."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the date or time {value}"
    return f"{json.dumps(value, ensure_ascii=False, default=str):.200}"


def _missing(kind: type[BaseModel], dotted: str) -> str:
    description = _field(kind, dotted).description or ""
    return f'"{dotted}" must be given, got none; add it to the TOML file or as {dotted}=... ({description.rstrip(".")})'


def _field(kind: type[BaseModel], dotted: str) -> FieldInfo:
    """The field of a dotted key, a section or a leaf."""
    name, _, rest = dotted.partition(".")
    annotation = kind.model_fields[name].annotation
    if not rest:
        return kind.model_fields[name]
    if get_origin(annotation) is dict:  # [teachers.NAME]: the name is yours, dots included
        rest = rest.rpartition(".")[2]
    return _field(next(each for each in (annotation, *get_args(annotation)) if _is_section(each)), rest)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _required(kind: type[BaseModel], dotted: str) -> list[str]:
    """The key itself, or the keys a section needs: `student -> [student.path]`."""
    inside = [name for name, leaf in _leaves(kind).items() if name.startswith(f"{dotted}.") and leaf.is_required()]
    return inside or [dotted]


def _unknown(kind: type[BaseModel], keys: Sequence[str]) -> str:
    """Names the nearest key: one of this section that it shortens or lengthens, one of the same name anywhere, or one
    of a like name, here before elsewhere: `weights.eps -> weights.epsilon`, although there is `rubrics.eps`."""
    dotted, leaves = ".".join(keys), _leaves(kind)
    sections = {".".join(name.split(".")[:depth]) for name in leaves for depth in range(1, name.count(".") + 1)}
    known = [*sorted(sections), *leaves]
    beside = [name for name in known if name.split(".")[:-1] == keys[:-1]]
    same = sorted(
        (name for name in known if name.split(".")[-1] == keys[-1]),
        key=lambda name: (_may_be_left_out(kind, name), name.count(".")),
    )
    near = _begun_alike(keys[-1], beside) or next(iter(same), "")
    near = near or _of_like_name(keys[-1], beside) or _of_like_name(keys[-1], known)
    hint = f'the nearest is "{near}"' if near else f"known here are {', '.join(beside)}"
    return f'unknown key "{dotted}"; {hint}'


def _may_be_left_out(kind: type[BaseModel], dotted: str) -> bool:
    """Whether a config can lack the section: what it always has is meant more often."""
    return type(None) in get_args(kind.model_fields[dotted.partition(".")[0]].annotation)


def _begun_alike(key: str, known: Sequence[str]) -> str:
    """`eps, [weights.delta, weights.epsilon] -> weights.epsilon`; "" when none begins so."""
    names = {dotted.rpartition(".")[2]: dotted for dotted in reversed(known)}
    alike = [name for name in names if min(len(key), len(name)) > 2 and (name.startswith(key) or key.startswith(name))]
    return names[min(alike, key=lambda name: abs(len(name) - len(key)))] if alike else ""


def _of_like_name(name: str, known: Sequence[str]) -> str:
    """`lrr, [optimizer.lr, sampling.top_p] -> optimizer.lr`; "" when none is like it."""
    by_last = {dotted.rpartition(".")[2]: dotted for dotted in reversed(known)}
    return next((by_last[last] for last in difflib.get_close_matches(name, by_last, n=1)), "")


def _leaves(kind: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key with its field: `{"run": ..., "student.path": ...}`."""
    leaves: dict[str, FieldInfo] = {}
    for name, field in kind.model_fields.items():
        options = [field.annotation, *get_args(field.annotation)]
        section = next((each for each in options if isinstance(each, type) and issubclass(each, BaseModel)), None)
        of_list = "[]" if get_origin(field.annotation) is tuple else ""  # no dotted override reaches into a list
        leaves |= _leaves(section, f"{prefix}{name}{of_list}.") if section else {f"{prefix}{name}": field}
    return leaves

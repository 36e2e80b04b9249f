"""What of a config is not the published setting: every key whose value is not the default of its field.

differences({"method": "opd", "optimizer": {"lr": 1e-4}}, command="train")  ->  optimizer.lr: 1e-06, here 0.0001
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic_core import PydanticUndefined, to_jsonable_python

from sod.config import METHODS, PRESETS, EvalConfig, Section, SFTConfig, TrainConfig
from sod.config.methods import DEFAULTS
from sod.report.untrusted import mapping

KINDS: Mapping[str, type[Section]] = {"train": TrainConfig, "sft": SFTConfig, "eval": EvalConfig}
NOTHING = object()
"""Stands for a setting without a default: a path, say."""
_MAX_DEPTH = 8


def differences(config: Mapping[str, Any], *, command: str) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (default, value here). A key that is unknown, or has no default, has NOTHING for it.

    The run's own directory is left out: it says nothing.
    """
    found = dict(_differences(config, KINDS.get(command), prefix="", depth=0))
    found.pop("run", None)
    return found


def _differences(
    values: Mapping[str, Any], kind: type[Section] | None, *, prefix: str, depth: int
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key, value in values.items():
        field = kind.model_fields.get(key) if kind else None
        default, inner = NOTHING, None
        if field is not None:
            inner = _section_in(field.annotation)
            given = field.get_default(call_default_factory=True, validated_data={})
            default = NOTHING if given is PydanticUndefined else to_jsonable_python(given)
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and depth < _MAX_DEPTH:
            named = inner is not None and default == {}  # [teachers.NAME]: the names are the user's own
            if named:
                for each, section in value.items():
                    yield from _differences(mapping(section), inner, prefix=f"{name}.{each}.", depth=depth + 2)
            else:
                yield from _differences(value, inner, prefix=f"{name}.", depth=depth + 1)
        elif default is NOTHING or not _same(default, value):
            yield name, (default, value)


def _section_in(annotation: Any) -> type[Section] | None:
    """The section of `ModelConfig`, `ModelConfig | None` and `dict[str, ModelConfig]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for each in get_args(annotation) if (found := _section_in(each))), None)


def _same(default: Any, value: Any) -> bool:
    """`1.0` and `1` are one value, `true` and `1` are not."""
    return bool(default == value) and isinstance(default, bool) == isinstance(value, bool)


def set_by(config: Mapping[str, Any], key: str) -> str:
    """Who sets a key: `method "opd"`, `preset "stable"`, or the user, for whom it is empty."""
    method, preset = str(config.get("method")), str(config.get("preset"))
    own = METHODS.get(method)
    if key in DEFAULTS.get(method, {}) or (own is not None and key in own.settings):
        return f'method "{method}"'
    return f'preset "{preset}"' if key in PRESETS.get(preset, {}) else ""

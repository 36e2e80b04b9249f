"""TOML and dotted overrides -> a checked config, and back to JSON."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sod.config.faults import sentences, shown
from sod.config.section import Section
from sod.errors import ConfigError

_FREE_OF_MODELS = ("max_rows", "tokens_per_forward", "kv_cache_gib")
_FREE_OF_SERVERS = ("server.url", "server.max_concurrent", "server.timeout_s")
_BUDGET = ("max_requests", "max_tokens")
FREE = (
    "run",
    "price.",
    "tracking.",
    "agent.max_concurrent",
    "sandbox.workers",
    "sandbox.concurrent_per_worker",
    "sandbox.urls",
    *(f"rubrics.{key}" for key in ("url", "teacher_url", *_BUDGET, "max_concurrent", "timeout_s", "cache")),
    *(
        f"{model}.{key}"
        for model in ("model", "student", "teacher", "teachers.*")
        for key in (*_FREE_OF_MODELS, *_FREE_OF_SERVERS)
    ),
)
"""Settings that may change when a run is continued: where and how fast it runs, not what it draws and learns. Patterns
of the beginning of a key."""

AnyConfig = TypeVar("AnyConfig", bound=Section)


def load(kind: type[AnyConfig], path: str | Path | None, *, overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a TOML file, apply dotted overrides, check everything.

    `overrides` are `key.sub=value` with TOML values: `["optimizer.lr=1e-5", "method=opd", "teacher=none"]`.
    Raises ConfigError (a ValueError of this package) with one line per fault.
    """
    values = _read_toml(Path(path)) if path is not None else {}
    return overridden(kind, values, overrides=overrides, where="the command line" if path is None else str(path))


def overridden(kind: type[AnyConfig], values: Mapping[str, Any], *, overrides: Sequence[str], where: str) -> AnyConfig:
    """A nested mapping with dotted overrides on top, checked. Raises ConfigError."""
    changed = copy.deepcopy(dict(values))
    for override in overrides:
        _apply_override(changed, override)
    return parse(kind, changed, where=where)


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted name as overrides: `{"run": Path("runs/a"), "seed": 1} -> ['run="runs/a"', 'seed=1']`.

    Values are written as TOML's, which JSON's are too: a string stays one whatever it looks like.
    """
    return [f"{key}={json.dumps(value, ensure_ascii=False, default=str)}" for key, value in settings.items()]


def parse(kind: type[AnyConfig], values: Mapping[str, Any], *, where: str = "the config") -> AnyConfig:
    """Check a nested mapping. Raises ConfigError with one line per fault."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        lines = [line for fault in error.errors(include_url=False) for line in sentences(kind, fault)]
    if len(lines) == 1:
        raise ConfigError(f"{where}: {lines[0]}")
    raise ConfigError(f"{where} has {len(lines)} faults:" + "".join(f"\n  {line}" for line in lines))


def dump(config: Section) -> str:
    """The resolved config as JSON, every default spelled out."""
    return json.dumps(config.model_dump(mode="json"), indent=2) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; give the path of a TOML file") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: must be a readable file, got: {error.strerror}; give the path of a TOML file"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8 text, got: {error}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: must be TOML, got a fault: {error}; text values need quotes") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    """`optimizer.lr=1e-5` sets values["optimizer"]["lr"]; `teacher=none` removes the teacher."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"an override must look like key.sub=value, got {override!r}")
    section = values
    for depth, key in enumerate(keys[:-1], start=1):
        section = section.setdefault(key, {})
        if not isinstance(section, dict):
            name = ".".join(keys[:depth])
            raise ConfigError(f'the override {override!r} needs "{name}" to be a section, got {shown(section)}')
    section[keys[-1]] = _override_value(text.strip())


def _override_value(text: str) -> Any:
    """`1e-5 -> 0.00001`, `[0.9, 0.95] -> [0.9, 0.95]`, `none -> None`; what is not TOML is text: `opd -> "opd"`."""
    if text == "none":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text  # a line break would start another key

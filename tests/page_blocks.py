"""The blocks of a documentation page, each run, or read by the real command line with its real config: `Page.take`."""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import json
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from typer.main import get_command

import sod.config
from site_scripts import ROOT, Fence, commands
from sod import cli
from sod.config import EvalConfig, HintsConfig, SFTConfig, TrainConfig, parse
from sod.errors import ConfigError

FOLDERS = ("benchmarks", "dev", "docs", "examples", "scripts", "src", "tests")


class LoadedError(Exception):
    """The command line and its config were read: the command need not go on."""


@dataclass
class Page:
    """One page: its directory, and what its Python has defined."""

    name: str
    directory: Path
    monkeypatch: pytest.MonkeyPatch
    names: dict[str, Any] = field(default_factory=dict)

    def take(self, fence: Fence) -> None:
        """Run or read one block."""
        kind = {"sh": "bash", "jsonl": "json", "": "bash" if _is_command(fence.text) else "text"}
        getattr(self, f"_{kind.get(fence.language, fence.language)}", self._unknown)(fence)

    def _unknown(self, fence: Fence) -> None:
        pytest.fail(f"a block must be bash, toml, python, json or text, got {fence.language}")

    def _text(self, fence: Fence) -> None:
        known = "|".join(name.split()[0] for name, _ in commands())
        assert not re.search(rf"^[$ ]*sod ({known})\b", fence.text, re.MULTILINE), "commands belong into ```bash"

    def _json(self, fence: Fence) -> None:
        for line in fence.text.splitlines():
            json.loads(line)
        self._write(fence.title, fence.text)

    def _toml(self, fence: Fence) -> None:
        values = tomllib.loads(fence.text)
        named = re.match(r"# (\S+\.toml):", fence.text)
        self._write(fence.title or (named[1] if named else "run.toml" if "run" in values else ""), fence.text)
        faults = [fault for kind, base in BASES if (fault := _fault(kind, _merged(base, values)))]
        assert len(faults) < len(BASES), "\n".join(faults)

    def _python(self, fence: Fence) -> None:
        self._write(fence.title, fence.text)
        for code, expected in _statements(fence.text):
            value = eval(code, self.names)
            value = asyncio.run(value) if inspect.iscoroutine(value) else value
            assert not expected or value == ast.literal_eval(expected), f"{value!r} must be {expected}"

    def _bash(self, fence: Fence) -> None:
        for words in called(fence.text):
            assert words[0] in CHECKS or words[0] == "sod", f"{words[0]}: no check; add one or say why it is not run"
            for word in words[1:]:
                _check_path(word)
            if words[0] == "sod":
                self.sod(words[1:])
            else:
                CHECKS[words[0]](words[1:])

    def _write(self, name: str, text: str) -> None:
        if name:
            (self.directory / name).write_text(text, encoding="utf-8")

    def sod(self, words: Sequence[str]) -> None:
        """A command of ours: for real where it is cheap, else up to the point where its config is read, or, without
        one, its words."""
        group, name = get_command(cli.app), " ".join(words[:2]) if words[0] == "sandbox" else words[0]
        command = dict(commands(group))[name]
        if not _is_cheap(words) and name in CONFIGURED:
            self.monkeypatch.setattr(sod.config, "load", _loading(sod.config.reading.load))
            self.monkeypatch.setattr(cli, "_regrade", _only_read)
        elif not _is_cheap(words):
            command.callback = _only_read
        try:
            code = group.main(list(words), standalone_mode=False)
            assert _is_cheap(words), f"sod {name} must have read its config and stopped"
            assert not code
        except LoadedError:
            pass
        finally:
            self.monkeypatch.setattr(sod.config, "load", sod.config.reading.load)


CONFIGURED = {"train", "memory", "sft", "hints", "eval", "traces", "sandbox serve"}
"""Commands that read a config before they do anything. All others are read only, but for what is cheap."""


def _is_cheap(words: Sequence[str]) -> bool:
    """What is run for real: the list of methods, and traces of files that the page shows."""
    return words[0] == "methods" or (words[0] == "traces" and Path(words[1]).exists())


def _loading(load: Callable[..., Any]) -> Callable[..., Any]:
    def stop(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        raise LoadedError

    return stop


def _only_read(*_: Any, **__: Any) -> None:
    raise LoadedError


def _is_command(text: str) -> bool:
    words = text.split()
    return bool(words) and (words[0] in CHECKS or (words[0] == "sod" and len(words) > 1 and words[1].isalpha()))


# ---- shell


RECORD = """
record() { printf '%s\\0' "$#" "$@" >> "$CALLS"; }
command_not_found_handle() { record "$@"; }
for name in sod make python pip bash hf source .; do eval "$name() { record $name \\"\\$@\\"; }"; done
"""


def called(block: str) -> list[list[str]]:
    """The commands of a block with their words, after the shell has read quotes, loops and comments; none is run."""
    calls = Path("calls").absolute()
    calls.unlink(missing_ok=True)
    environment = {"PATH": "", "CALLS": str(calls), "SOD_DATA_DIR": "data", "HOME": "/nowhere"}
    shell = subprocess.run(
        ["/bin/bash", "-eu", "-c", RECORD + block], env=environment, capture_output=True, text=True, timeout=60
    )
    assert shell.returncode == 0, shell.stderr
    words = iter(calls.read_text(encoding="utf-8").split("\0")[:-1])
    return [[next(words) for _ in range(int(count))] for count in words]


def _check_path(word: str) -> None:
    """What stands in the repository is there, what the demo leaves is what the demo leaves, and checkpoints have the
    names that they are given."""
    path = word.rpartition("=")[2]
    if path.split("/")[0] in FOLDERS and "*" not in path:
        assert (ROOT / path).exists(), f"{path} is not in the repository"
    if path.startswith("runs/demo/"):
        assert path in _left_by_the_demo(), f"the demo leaves no {path}"
    if "/checkpoints/" in path:
        assert re.search(r"/checkpoints/(update-\d{6}|final)/model$", path), f"{path}: no checkpoint has this name"


def _left_by_the_demo() -> set[str]:
    from sod.demo.story import METHODS, Place, Scale

    place = Place(directory=Path("runs/demo"), seed=0, scale=Scale())
    runs = [place.run(name) for name in (*METHODS, "report")]
    evaluations = [place.evaluation(name) for name in ("start", *METHODS)]
    return {str(path) for path in (*runs, *evaluations, "runs/demo/data/train.jsonl", "runs/demo/data/test.jsonl")}


def _check_make(words: Sequence[str]) -> None:
    """Targets and variables that the Makefile or the set-up knows."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    setup = makefile + (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        known = rf"\$[({{]?{name}\b" if is_variable else rf"^{name}:"
        assert re.search(known, setup if is_variable else makefile, re.MULTILINE), f"make knows no {name}"


def _check_python(words: Sequence[str]) -> None:
    """A script of the repository and the flags that its source names; or `-m pytest FILE`."""
    script = words[2] if words[0] == "-m" else words[0]
    assert words[0] != "-m" or words[1] == "pytest", f"python -m {words[1]}: no check"
    strings = {
        node.value
        for node in ast.walk(ast.parse((ROOT / script).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unknown = [word for word in words[1:] if word.startswith("--") and word not in strings and words[0] != "-m"]
    assert not unknown, f"{script} has no {unknown}"


def _check_pip(words: Sequence[str]) -> None:
    """Our own distribution with extras that there are."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert words[0] == "install"
    for word in words[1:]:
        wanted = re.fullmatch(r"(?:sod-distill|\.)(?:\[([\w,-]+)\])?", word)
        assert wanted, f"pip install {word}: no check; say why it is not run"
        assert set((wanted[1] or "report").split(",")) <= extras.keys(), f"{word}: extras are {', '.join(extras)}"


CHECKS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "make": _check_make,
    "python": _check_python,
    "pip": _check_pip,
    "bash": lambda words: _check_path(words[0]),
    "for": lambda _: None,
}


# ---- TOML and Python

_MODELS = {"student": {"path": "student"}, "teacher": {"path": "teacher"}}
BASES: Sequence[tuple[type[sod.config.Section], Mapping[str, Any]]] = [
    (TrainConfig, {"run": "run", "data": {"path": "problems.jsonl"}, **_MODELS}),
    (TrainConfig, {"run": "run", "data": {"path": "problems.jsonl"}, "student": {"path": "student"}}),
    (SFTConfig, {"run": "run", "traces": "traces.jsonl", "student": {"path": "student"}}),
    (EvalConfig, {"run": "run", "benchmarks": ["aime24"], "model": {"path": "model"}}),
    (HintsConfig, {"out": "hints.jsonl", "data": {"path": "problems.jsonl"}, "model": {"path": "model"}}),
]
"""What a part of a config is put into: it must fit one of them."""


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _fault(kind: type[sod.config.Section], values: Mapping[str, Any]) -> str:
    try:
        parse(kind, values)
    except ConfigError as error:
        return f"{kind.__name__}: {error}"
    return ""


def _statements(text: str) -> Iterator[tuple[CodeType, str]]:
    """Each statement compiled, and the literal in the comment behind an expression: `1 + 1  # 2`; "" for none."""
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr):
            expected = comments.get(statement.end_lineno or 0, "")
            expression = ast.Expression(statement.value)
            yield (
                compile(expression, "page", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT),
                expected if _is_literal(expected) else "",
            )
        else:
            module = ast.Module([statement], [])
            yield compile(module, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), ""


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True

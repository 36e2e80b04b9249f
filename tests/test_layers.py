"""What stays light, what stays small: imports in a fresh process, the command's start, names and lengths.

Who may import whom is import-linter's to check (`make check`, contracts in pyproject.toml).
"""

from __future__ import annotations

import ast
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import sod

SOURCE = Path(sod.__file__).parent
COMMAND = Path(sys.executable).with_name("sod")
HEAVY = {"torch", "transformers", "vllm", "trl", "verl", "datasets", "matplotlib", "pyarrow"}
LIGHT = [
    "sod",
    "sod.agent",
    "sod.chat",
    "sod.cli",
    "sod.config",
    "sod.data",
    "sod.models",
    "sod.models.scripted",
    "sod.rewards",
    "sod.rewards.math",
    "sod.runs",
    "sod.sandbox.local",
    "sod.tools",
    "sod.view",
]
MAX_FUNCTION_LINES = 40
MAX_HELP_S = 0.5


@pytest.mark.parametrize("module", LIGHT)
def test_import_stays_light(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == []


@pytest.mark.parametrize("command", [[str(COMMAND)], [sys.executable, "-m", "sod"]], ids=["sod", "python -m sod"])
def test_help_answers_at_once(command: list[str]) -> None:
    wall_s = []
    for _ in range(10):
        start = time.perf_counter()
        process = subprocess.run([*command, "--help"], capture_output=True, text=True, timeout=60)
        wall_s.append(time.perf_counter() - start)
        assert process.returncode == 0, process.stderr
        assert "demo" in process.stdout
        if wall_s[-1] < MAX_HELP_S:
            return
    pytest.fail(f"--help must answer within {MAX_HELP_S} s, the best of {len(wall_s)} was {min(wall_s):.2f} s")


def test_no_module_is_a_drawer() -> None:
    stems = {path.relative_to(SOURCE).with_suffix("").parts for path in SOURCE.rglob("*.py")}
    assert {"utils", "common", "helpers", "base"}.isdisjoint(part for parts in stems for part in parts)


def test_functions_are_short() -> None:
    long = {name: lines for name, lines in _function_lines() if lines > MAX_FUNCTION_LINES}
    assert all(name.startswith("train.py:") for name in long), long
    assert len(long) <= 1, f"one training loop may be longer than {MAX_FUNCTION_LINES} lines, got {long}"


def test_functions_are_counted_without_their_docstring() -> None:
    tree = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    x = 1\n    return x\n')
    assert _lines(tree.body[0]) == 3


def _function_lines() -> Iterator[tuple[str, int]]:
    """("train.py:run", 38) for every function of the package."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{path.relative_to(SOURCE)}:{node.name}", _lines(node)


def _lines(function: ast.stmt) -> int:
    """Lines from `def` to the end, the docstring's not counted."""
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    end = function.end_lineno or function.lineno
    docstring = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    documented = (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1 if docstring else 0
    return end - function.lineno + 1 - documented

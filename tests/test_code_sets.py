"""HumanEval and MBPP in the local sandbox: every reference solution passes its own tests there, no broken one does."""

from __future__ import annotations

import ast
import asyncio
import gzip
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sod.errors import SandboxError
from sod.sandbox import ExecutionResult, LocalSandbox
from sod.sandbox.local import Isolation

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")
"""Some of MBPP's solutions have them, and we parse those too."""
PATIENT_S = 120.0
"""The limit of one program: far from what it takes on the busiest machine."""
END = "every assertion held"
"""What a program prints last, so that one that leaves early with exit code 0 does not count as passed."""
BROKEN = "BrokenOnPurpose"
MAX_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """A program in three parts: the solution, a solution that only raises BROKEN, and the tests."""

    name: str
    solution: str
    broken: str
    tests: str


def stub(names: set[str]) -> str:
    """Functions that raise BROKEN: `{"f"}` -> "class BrokenOnPurpose(Exception): ... def f(*_, **__): raise ..."."""
    functions = (f"def {name}(*_, **__):\n    raise {BROKEN}('{name}')\n" for name in sorted(names))
    return "\n".join([f"class {BROKEN}(Exception):\n    pass\n", *functions])


def human_eval(data_dir: Path) -> list[Exercise]:
    """A row's prompt ends in a signature and the solution is its body; `check(candidate)` holds the assertions."""
    with gzip.open(data_dir / "code" / "HumanEval.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [human_eval_exercise(row) for row in rows]


def human_eval_exercise(row: Mapping[str, Any]) -> Exercise:
    solution = row["prompt"] + row["canonical_solution"]
    return Exercise(
        name=row["task_id"],
        solution=solution,
        broken=f"{solution}\n{stub({row['entry_point']})}",
        tests=f"{row['test']}\ncheck({row['entry_point']})\n",
    )


def mbpp(data_dir: Path) -> list[Exercise]:
    """A row has a whole program with Windows line ends, and a list of assertions."""
    lines = (data_dir / "code" / "mbpp.jsonl").read_text(encoding="utf-8").splitlines()
    return [mbpp_exercise(json.loads(line)) for line in lines]


def mbpp_exercise(row: Mapping[str, Any]) -> Exercise:
    tests = "\n".join([row["test_setup_code"], *row["test_list"]])
    tested = {node.id for node in ast.walk(ast.parse(tests)) if isinstance(node, ast.Name)}
    defined = {node.name for node in ast.parse(row["code"]).body if isinstance(node, ast.FunctionDef)}
    return Exercise(
        name=f"MBPP/{row['task_id']}",
        solution=row["code"],
        broken=f"{row['code']}\n{stub(defined & tested)}",
        tests=tests,
    )


LEVELS: tuple[Isolation, ...] = ("auto", "B")
CODE_SETS: dict[str, tuple[Callable[[Path], list[Exercise]], int]] = {
    "HumanEval": (human_eval, 164),
    "MBPP": (mbpp, 974),
}
for_each_code_set = pytest.mark.parametrize("code_set", ["HumanEval", pytest.param("MBPP", marks=pytest.mark.slow)])


def run_all(programs: list[str], *, isolation: Isolation) -> list[ExecutionResult]:
    """All at once in one sandbox, in the order given."""

    async def run() -> list[ExecutionResult]:
        async with LocalSandbox(isolation=isolation) as sandbox:
            calls = (sandbox.run(f"{program}\nprint({END!r})\n", timeout_s=PATIENT_S) for program in programs)
            return await asyncio.gather(*calls)

    try:
        return asyncio.run(run())
    except SandboxError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"level {isolation} is not possible here: {error}")


def described(name: str, result: ExecutionResult) -> str:
    return f"{name}: {result.status} {result.detail} {result.stdout[-100:]!r} {result.stderr[-300:]!r}"


def is_pass(result: ExecutionResult) -> bool:
    return result.status == "ok" and result.stdout.endswith(f"{END}\n")


def is_broken(result: ExecutionResult) -> bool:
    """Ended by the stub's own exception: an infrastructure failure or a typing error of ours is not a failed test."""
    last_line = result.stderr.rstrip("\n").rpartition("\n")[2]
    return result.status == "error" and END not in result.stdout and last_line.startswith(BROKEN)


@pytest.mark.parametrize("isolation", LEVELS)
@for_each_code_set
def test_every_reference_solution_passes_its_tests(data_dir: Path, code_set: str, isolation: Isolation) -> None:
    read, num_rows = CODE_SETS[code_set]
    exercises = read(data_dir)
    assert len(exercises) == num_rows
    results = run_all([f"{one.solution}\n{one.tests}" for one in exercises], isolation=isolation)
    failed = [
        described(one.name, result) for one, result in zip(exercises, results, strict=True) if not is_pass(result)
    ]
    assert not failed, f"{len(failed)} of {num_rows} failed, among them\n" + "\n".join(failed[:MAX_SHOWN])


@for_each_code_set
def test_no_broken_solution_passes_its_tests(data_dir: Path, code_set: str) -> None:
    read, num_rows = CODE_SETS[code_set]
    exercises = read(data_dir)
    results = run_all([f"{one.broken}\n{one.tests}" for one in exercises], isolation="auto")
    odd = [described(one.name, result) for one, result in zip(exercises, results, strict=True) if not is_broken(result)]
    assert not odd, f"{len(odd)} of {num_rows} did not end in {BROKEN}, among them\n" + "\n".join(odd[:MAX_SHOWN])

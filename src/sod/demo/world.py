"""The embedded world: chains of arithmetic that take several dependent tool calls, and traces that solve them.

A problem reads "A counter shows 47. Step 1: add 385. Step 2: multiply by 6. What is the final number?"; a trace solves
it one call a step, each call using the result before. Numbers are drawn, so no problem can be memorised; some calls in
the traces fail (a function used before its import) and are repaired, so that a student learns what an error looks like.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sod.types import Message, Problem

TOOL_NAME = "code_interpreter"
SOURCE = "demo"
FAILED_CALL_SHARE = 0.3
"""Share of the traces' calls to `gcd` that forget the import first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """One kind of step: how problems word it, what the code is, what it gives, and which operands suit a value."""

    wordings: tuple[str, ...]
    code: str
    apply: Callable[[int, int], int]
    operand: Callable[[random.Random, int], int]
    needs_import: str = ""


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        wordings=("add {n}", "increase it by {n}", "put {n} more on top"),
        code="{value}+{n}",
        apply=lambda value, n: value + n,
        operand=lambda rng, _: rng.randint(11, 989),
    ),
    Operation(
        wordings=("subtract {n}", "take away {n}", "decrease it by {n}"),
        code="{value}-{n}",
        apply=lambda value, n: value - n,
        operand=lambda rng, value: rng.randint(1, max(1, min(value, 989))),
    ),
    Operation(
        wordings=("multiply by {n}", "make it {n} times as large", "scale it up by {n}"),
        code="{value}*{n}",
        apply=lambda value, n: value * n,
        operand=lambda rng, _: rng.randint(2, 19),
    ),
    Operation(
        wordings=("divide by {n} and drop the remainder", "split it into {n} equal whole parts and keep one"),
        code="{value}//{n}",
        apply=lambda value, n: value // n,
        operand=lambda rng, _: rng.randint(2, 19),
    ),
    Operation(
        wordings=("keep the remainder after division by {n}", "reduce it modulo {n}"),
        code="{value}%{n}",
        apply=lambda value, n: value % n,
        operand=lambda rng, _: rng.randint(23, 997),
    ),
    Operation(
        wordings=("take the greatest common divisor with {n}", "replace it by its largest common factor with {n}"),
        code="gcd({value},{n})",
        apply=math.gcd,
        operand=lambda rng, value: max(2, rng.randint(1, 9) * math.gcd(value, rng.choice((12, 30, 36, 60, 84)))),
        needs_import="from math import gcd",
    ),
)

OPENINGS = ("Start with {n}.", "A counter shows {n}.", "Take the number {n}.", "There are {n} coins in a box.")
NUMBERINGS = ("Step {k}:", "{k})")
QUESTIONS = ("What is the final number?", "What do you get?", "How much is it in the end?")
SMALLEST, LARGEST = 10, 99_999


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of a chain: `operation` with operand `n` takes `value` to `result`."""

    operation: Operation
    n: int
    value: int
    result: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chain:
    """A problem with its solution."""

    text: str
    steps: tuple[Step, ...]

    @property
    def answer(self) -> int:
        """The last step's result."""
        return self.steps[-1].result


def draw_chain(rng: random.Random, *, min_steps: int = 2, max_steps: int = 5) -> Chain:
    """Draw a chain; the same generator state gives the same chain."""
    start = rng.randint(12, 998)
    steps: list[Step] = []
    num_steps = rng.randint(min_steps, max_steps)
    while len(steps) < num_steps:
        value = steps[-1].result if steps else start
        operation = rng.choice(OPERATIONS)
        n = operation.operand(rng, value)
        result = operation.apply(value, n)
        if _suits(result) and result != value:
            steps.append(Step(operation=operation, n=n, value=value, result=result))
    numbering = rng.choice(NUMBERINGS)
    sentences = [rng.choice(OPENINGS).format(n=start)]
    for k, step in enumerate(steps, start=1):
        sentences.append(f"{numbering.format(k=k)} {rng.choice(step.operation.wordings).format(n=step.n)}.")
    sentences.append(rng.choice(QUESTIONS))
    return Chain(text=" ".join(sentences), steps=tuple(steps))


def problems(count: int, *, seed: int) -> Iterator[Problem]:
    """Problems in a fixed order. Different seeds share none but by chance."""
    for index, chain in enumerate(_chains(count, seed=seed)):
        messages = ({"role": "user", "content": chain.text},)
        yield Problem(id=f"{SOURCE}-{seed}-{index}", messages=messages, answer=str(chain.answer), source=SOURCE)


def traces(count: int, *, seed: int, slips: float = 0.0) -> Iterator[list[Message]]:
    """Dialogues that solve problems, one call a step, some calls failing first.

    `slips` is the share of steps that the demonstrator gets wrong: skipped, or done with another operation. The student
    of the demo is cold-started on a careless demonstrator, so that it can do every step but often does not.
    """
    rng = random.Random(f"{SOURCE}-solutions-{seed}")
    for chain in _chains(count, seed=seed):
        yield [{"role": "user", "content": chain.text}, *_solution(chain.steps, rng, slips=slips)]


def _chains(count: int, *, seed: int) -> Iterator[Chain]:
    rng = random.Random(f"{SOURCE}-{seed}")
    for _ in range(count):
        yield draw_chain(rng)


def _solution(steps: Sequence[Step], rng: random.Random, *, slips: float) -> Iterator[Message]:
    value = steps[0].value
    for number, step in enumerate(steps, start=1):
        operation: Operation | None = step.operation
        if slips and rng.random() < slips:
            operation = _slip(step, value, rng)
        if operation is not None:
            yield from _step(number, operation, value, step.n, rng)
            value = operation.apply(value, step.n)
    yield {"role": "assistant", "content": f"The answer is \\boxed{{{value}}}."}


def _slip(step: Step, value: int, rng: random.Random) -> Operation | None:
    """What a careless demonstrator does instead of a step: nothing, or another operation that suits the numbers."""
    others = [other for other in OPERATIONS if other is not step.operation and _suits(other.apply(value, step.n))]
    return rng.choice(others) if others and rng.random() < 0.5 else None


def _suits(value: int) -> bool:
    return SMALLEST <= value <= LARGEST


def _step(number: int, operation: Operation, value: int, n: int, rng: random.Random) -> Iterator[Message]:
    """The call or calls of one step with what comes back."""
    code = operation.code.format(value=value, n=n)
    needed = operation.needs_import
    if needed and rng.random() < FAILED_CALL_SHARE:
        yield _call(f"Step {number}.", code)
        yield {"role": "tool", "content": name_error(code)}
        yield _call("It needs an import.", f"{needed}\n{code}")
    else:
        yield _call(f"Step {number}.", f"{needed}\n{code}" if needed else code)
    yield {"role": "tool", "content": str(operation.apply(value, n))}


def _call(text: str, code: str) -> Message:
    function = {"name": TOOL_NAME, "arguments": {"code": code}}
    return {"role": "assistant", "content": text, "tool_calls": [{"type": "function", "function": function}]}


def name_error(code: str) -> str:
    """What the interpreter shows when the function that `code` calls was not imported."""
    name = code.partition("(")[0]
    return (
        f'[stderr]\nTraceback (most recent call last):\n  File "<code>", line 1, in <module>\n    {code}\n'
        f"    {'^' * len(name)}\nNameError: name '{name}' is not defined\n\n[exit code 1]"
    )

"""The miniature world: chains of arithmetic for a calculator, small enough to train a hundred students in an evening.

A problem reads "47 +385 *6 -12"; it is solved from left to right, one call of the calculator a step, each with the
result before. A dialogue has about a hundred tokens, since everything that does not vary is one token: the opening of a
call, the frame of an observation. The calculator is a real tool of the agent (`tool.make`), computed in this process.

`traces` are dialogues for the cold start: a careless demonstrator takes wrong steps, and one who knows that the
calculator may fail (`tool.fault_share`) calls it again. In some the demonstrator is shown the answer or a hint, as a
privileged teacher is, and is careful then.
"""

from __future__ import annotations

import json
import operator
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from sod.agent import FAULT
from sod.config import ToolConfig
from sod.config.teaching import Shows
from sod.demo.pretrained import small_qwen3, train_tokenizer
from sod.sandbox import Sandbox
from sod.teachers import VIEWS
from sod.types import Message, Problem, ToolResult, ToolStatus

NAME = "calculate"
OPERATORS: Mapping[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.floordiv,
    "%": operator.mod,
}
LARGEST = 9999
LENGTHS = (2, 5)
"""Fewest and most steps of a problem."""
PRIVILEGES: tuple[Shows, ...] = ("answer", "hint")
TAGS = ("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
VOCABULARY_SIZE = 576
SIZES: Mapping[str, Mapping[str, int]] = {
    "small": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192},
    "large": {"hidden_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 240},
    "teacher": {"hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 288},
}
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{{ tools[0].function.name }}(x)<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' %}<|im_start|>user
{{ message.content }}<|im_end|>
{% elif message.role == 'system' %}<|im_start|>system
{{ message.content }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{{ message.content }}
{%- for call in message.tool_calls or [] %}
{%- if message.content or not loop.first %}{{- '\\n' }}{%- endif %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}
<tool_response>
{{ message.content }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


# ---- the tool


class Calculator:
    """`47+385 -> 432`, `7/0 -> division by zero`, `7* -> cannot be read`: two whole numbers and an operator."""

    name = NAME
    readable: ClassVar = re.compile(r"\d{1,9}[-+*/%]\d{1,9}")
    """Expressions that are computed, from left to right."""
    schema: Mapping[str, Any] = {
        "type": "function",
        "function": {
            "name": NAME,
            "description": "Computes A+B, A-B, A*B, A/B (rounded down) or A%B of whole numbers.",
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "string", "description": "What to compute: 12+7"}},
                "required": ["x"],
            },
        },
    }

    async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
        """The result, or what is wrong, as the student sees it."""
        if self.readable.fullmatch(arguments["x"]) is None:
            return ToolResult(status=ToolStatus.ERROR, text="cannot be read")
        first, *rest = re.findall(r"\d+|\D", arguments["x"])
        value = int(first)
        for symbol, operand in zip(rest[::2], map(int, rest[1::2]), strict=True):
            if symbol in "/%" and operand == 0:
                return ToolResult(status=ToolStatus.ERROR, text="division by zero")
            value = OPERATORS[symbol](value, operand)
        return ToolResult(status=ToolStatus.OK, text=str(value))


def calculator(_config: ToolConfig, _sandbox: Sandbox | None) -> Calculator:
    """For `tool.make`."""
    return Calculator()


# ---- problems and traces


Steps: TypeAlias = list[tuple[str, int]]


def chains(count: int, *, seed: str, lengths: tuple[int, int] = LENGTHS) -> Iterator[tuple[int, Steps]]:
    """(start, [(operator, operand), ...]) with every result between 0 and LARGEST."""
    rng = random.Random(f"miniature-{seed}")
    for _ in range(count):
        value = start = rng.randint(2, 99)
        steps: Steps = []
        for _ in range(rng.randint(*lengths)):
            symbol = rng.choice([each for each in OPERATORS if _operands(each, value)])
            operand = rng.choice(_operands(symbol, value))
            value = OPERATORS[symbol](value, operand)
            steps.append((symbol, operand))
        yield start, steps


def _operands(symbol: str, value: int) -> range:
    """Those that keep the result between 0 and LARGEST and change it."""
    limits = {
        "+": range(2, min(100, LARGEST - value)),
        "-": range(2, min(100, value)),
        "*": range(2, min(20, LARGEST // max(1, value) + 1)),
        "/": range(2, min(20, value)),
        "%": range(2, min(100, value)),
    }
    return limits[symbol]


def rows(count: int, *, seed: str, lengths: tuple[int, int] = LENGTHS) -> Iterator[dict[str, Any]]:
    """Problems as rows of a data file."""
    for index, (start, steps) in enumerate(chains(count, seed=seed, lengths=lengths)):
        value = start
        for symbol, operand in steps:
            value = OPERATORS[symbol](value, operand)
        yield {
            "id": f"{seed}-{index}",
            "messages": [{"role": "user", "content": question(start, steps)}],
            "answer": str(value),
            "hint": hint(start, steps),
            "source": "miniature",
        }


def question(start: int, steps: Steps) -> str:
    """`(47, [("+", 385), ("*", 6)]) -> "47 +385 *6"`."""
    return " ".join([str(start), *(f"{symbol}{operand}" for symbol, operand in steps)])


def hint(start: int, steps: Steps) -> str:
    """What comes out of the first step: `(47, [("+", 385), ("*", 6)]) -> "432"`."""
    symbol, operand = steps[0]
    return str(OPERATORS[symbol](start, operand))


def traces(
    count: int, *, seed: str, slips: float = 0.0, faults: float = 0.0, shown: float = 0.0
) -> Iterator[list[Message]]:
    """Dialogues that solve problems. `slips` is the share of steps that are skipped or done with another operator,
    `faults` the share of calls that the tool fails, which are then made again, `shown` the share of dialogues whose
    demonstrator is shown the answer or a hint and slips nowhere."""
    rng = random.Random(f"miniature-traces-{seed}")
    problems = (_problem(row) for row in rows(count, seed=seed))
    for (start, steps), problem in zip(chains(count, seed=seed), problems, strict=True):
        sees = rng.random() < shown
        messages = list(VIEWS[rng.choice(PRIVILEGES) if sees else "prompt"](problem))
        value = start
        for symbol, operand in steps:
            if not sees and rng.random() < slips:
                if rng.random() < 0.5:
                    continue
                symbol = rng.choice([each for each in OPERATORS if each != symbol])
            call = call_of(f"{value}{symbol}{operand}")
            while rng.random() < faults:
                messages += [call, {"role": "tool", "content": FAULT}]
            value = max(0, OPERATORS[symbol](value, operand))
            messages += [call, {"role": "tool", "content": str(value)}]
        yield [*messages, {"role": "assistant", "content": f"\\boxed{{{value}}}"}]


def _problem(row: Mapping[str, Any]) -> Problem:
    return Problem(id=row["id"], messages=tuple(row["messages"]), answer=row["answer"], hint=row["hint"])


def call_of(expression: str) -> Message:
    """What a demonstrator says who has it computed."""
    function = {"name": NAME, "arguments": {"x": expression}}
    return {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}


def write_jsonl(path: Path, values: Iterator[Any]) -> Path:
    """One JSON value a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


# ---- tokenizer and models


def write_model(size: str, directory: Path, *, seed: int) -> Path:
    """A freshly initialised Qwen3 of a size with the world's tokenizer, ready for its cold start."""
    small_qwen3(SIZES[size], vocabulary_size=VOCABULARY_SIZE, max_length=512, seed=seed).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


def make_tokenizer() -> Any:
    """Byte-level BPE: digits and operators stand alone, and what never varies became one token."""
    return train_tokenizer(
        _corpus(),
        pattern=r" ?[-+*/%](?=\d)|\d",
        vocabulary_size=VOCABULARY_SIZE,
        tags=TAGS,
        template=TEMPLATE,
    )


def _corpus() -> Iterator[str]:
    """What stands between the tags, digits left out."""
    pieces = [
        f'\n{{"name": "{NAME}", "arguments": {{"x": "',
        '"}}\n',
        "\nuser\n",
        "user\n",
        "\nassistant\n",
        "assistant\n",
        f"system\n{NAME}(x)",
        "\n",
        f"\n{FAULT}\n",
        "\ncannot be read\n",
        "\ndivision by zero\n",
        "\\boxed{",
        "}",
        *(f" {symbol}1" for symbol in OPERATORS),
        *(_words(shows) for shows in PRIVILEGES),
    ]
    for _ in range(50):
        yield from pieces


def _words(shows: Shows) -> str:
    """What a privileged teacher reads behind the question."""
    problem = Problem(id="", messages=({"role": "user", "content": ""},), answer="1", hint="1")
    return str(VIEWS[shows](problem)[-1]["content"])

"""Which problems, and how their answers are graded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sod.config.section import Count, NonNegative, Positive, Section


class DataConfig(Section):
    """Which problems: a file, a benchmark by name, or a benchmark from your own copy.

    As text: "problems.jsonl", "aime24", "gpqa_diamond=my_copy.csv".
    """

    path: str = ""
    """A file of rows (.jsonl, .json, .csv, each also as .gz, or .parquet), or hub:OWNER/NAME/FILES; "" takes the
    benchmark's own from the hub."""
    benchmark: str = ""
    """A benchmark's name, which decides layout, prompt and grader; "" is none."""
    format: Literal["auto", "sod", "verl", "gsm8k", "aime", "math", "gpqa", "humaneval", "mbpp", "livecodebench"] = (
        "auto"
    )
    """Layout of a row; "auto" decides by its columns, a benchmark has its own."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Take the first so many problems; 0 takes all."""
    too_long: Literal["refuse", "leave_out"] = "refuse"
    """A problem of more than agent.max_prompt_tokens ends the run at its start, or is left out of the training data and
    counted. Nothing is left out of an evaluation."""
    instruction: str | None = None
    """Text put after a bare question (one that brings no prompt of its own); unset takes the one for its kind."""
    wording: Literal["default", "released"] = "default"
    """"released" words questions as the code released with the paper does, graded code tests shown: to compare with."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return _named_data(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        if not self.path and not self.benchmark:
            raise ValueError('problems need a path or a benchmark, got neither; set path = "problems.jsonl"')
        if self.benchmark and self.format != "auto":
            raise ValueError(
                f'a benchmark has its own layout, got benchmark = "{self.benchmark}" and format = "{self.format}"; '
                "leave one out"
            )
        if self.wording == "released" and self.instruction is not None:
            raise ValueError('wording = "released" has its own instruction, got another; leave one out')
        return self


def _named_data(text: str) -> dict[str, str]:
    """`aime24` is a benchmark, `aime24=my.jsonl` one from a file, everything else a file."""
    name, equals, path = text.partition("=")
    if re.fullmatch(r"[A-Za-z0-9_]+", name) and not Path(text).is_file():
        return {"benchmark": name, "path": path} if equals else {"benchmark": name}
    return {"path": text}


class ShapingConfig(Section):
    """What training adds to a verdict's 1 or 0. Every term is off at 0; what is right never changes."""

    wrong: Annotated[float, Field(lt=1.0)] = 0.0
    """Value of a wrong answer; -1 gives the {-1, 1} of the released code."""
    no_answer: NonNegative = 0.0
    """Taken off where the final turn has no answer that can be read."""
    overlong_factor: NonNegative = 0.0
    """Taken off a response of agent.max_response_tokens; falls linearly to 0 over overlong_buffer tokens before it."""
    overlong_buffer: Count = 4096
    """Tokens before the limit over which the punishment rises; not used with overlong_factor = 0."""
    failed_call: NonNegative = 0.0
    """Taken off for each tool call that failed by the student's doing."""
    failed_call_limit: NonNegative = 0.1
    """Most that failed calls may take off together."""
    tool_bonus: NonNegative = 0.0
    """Added to a right answer for which a tool call succeeded."""


class RewardConfig(Section):
    """How answers are graded, and what training makes of the verdict."""

    math_timeout_s: Positive = 2.0
    """Seconds that comparing two mathematical answers may take; what takes longer is not equal."""
    test_timeout_s: Positive = 6.0
    """Seconds that one test of a code answer may run; 6 is LiveCodeBench's own."""
    code_fraction: bool = False
    """A code answer is worth the share of its tests that pass, all of them run; off: 1 when all pass, else 0."""
    shaping: ShapingConfig = ShapingConfig()
    """What training adds to the verdict."""

"""`sod traces` and `sod eval`: what they read and write."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from sod.config.episode import AgentConfig, SandboxConfig, ToolConfig
from sod.config.models import ModelConfig, SamplingConfig
from sod.config.problems import DataConfig, RewardConfig, ShapingConfig
from sod.config.section import Count, FromList, NonNegative, Section
from sod.config.tracking import TrackingConfig


class TracesConfig(Section):
    """`sod traces`: published traces of tool use, run again."""

    sources: Annotated[tuple[str, ...], FromList, Field(min_length=1)]
    """Files of rows: .jsonl, .json, .csv, each also as .gz, or .parquet."""
    out: Annotated[str, Field(min_length=1)]
    """The file of traces to write, a .jsonl."""
    format: Literal["auto", "gsm8k", "mathcoder", "retool", "tool_messages"] = "auto"
    """How a row records its calls; "auto" looks at each row."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Take the first so many rows; 0 takes all."""
    instruction: str | None = None
    """Text put after a bare question; unset takes the one for mathematics, "" is off."""
    tool: ToolConfig = ToolConfig()
    """The tool that the student will have: it runs the calls and cuts what comes back."""
    sandbox: SandboxConfig = SandboxConfig()
    """Where the calls run."""

    @model_validator(mode="after")
    def _lines(self) -> Self:
        if not self.out.endswith(".jsonl"):
            raise ValueError(f'out must end with .jsonl, got "{self.out}"')
        return self

    @model_validator(mode="after")
    def _code_interpreter(self) -> Self:
        if self.tool.make or self.tool.fault_share:
            raise ValueError(
                "the calls of published traces are programs, which the code interpreter runs and which never fail on "
                f'purpose, got tool.make = "{self.tool.make}" and tool.fault_share = {self.tool.fault_share:g}; unset '
                "them"
            )
        return self


class PriceConfig(Section):
    """What a run costs, to be summed up in its results; nothing is charged or limited."""

    prompt_tokens: NonNegative = 0.0
    """Of a million tokens that the model reads, prompts and observations, each turn's context anew; 0 is off."""
    sampled_tokens: NonNegative = 0.0
    """Of a million tokens that the model writes; 0 is off."""
    hour: NonNegative = 0.0
    """Of an hour of the machine; 0 is off."""


class EvalSamplingConfig(SamplingConfig):
    """How the next token is drawn, by default as in the published evaluation."""

    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    """Keep the smallest set of tokens whose probability reaches it; 1 is off."""


class EvalConfig(Section):
    """`sod eval`: a model on benchmarks, with tools."""

    run: Annotated[str, Field(min_length=1)]
    """Run directory."""
    seed: int = 0
    """Decides every draw."""
    model: ModelConfig
    """The model that is evaluated."""
    benchmarks: Annotated[tuple[DataConfig, ...], FromList, Field(min_length=1)]
    """What it is evaluated on: names, files, NAME=FILE, or tables with more settings; as text, with commas between."""
    limit: Annotated[int, Field(ge=0)] = 0
    """Take the first so many problems of each benchmark that has no limit of its own; 0 takes all."""
    samples: Count = 32
    """Samples per problem: the k of avg@k."""
    sampling: EvalSamplingConfig = EvalSamplingConfig()
    """How the model draws."""
    agent: AgentConfig = AgentConfig()
    """The limits of one episode."""
    tool: ToolConfig = ToolConfig()
    """The code interpreter as the model sees it."""
    sandbox: SandboxConfig = SandboxConfig()
    """Where the model's code and the tests of code answers run."""
    rewards: RewardConfig = RewardConfig()
    """How answers are graded. Shaping terms are for training and refused here."""
    price: PriceConfig = PriceConfig()
    """What a run costs, to be summed up in its results."""
    tracking: TrackingConfig = TrackingConfig()
    """Who is told of the numbers beside the run's own files."""

    @field_validator("benchmarks", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [value] if Path(value).is_file() else [name.strip() for name in value.split(",") if name.strip()]

    @model_validator(mode="after")
    def _only_verdicts(self) -> Self:
        if self.rewards.shaping != ShapingConfig():
            raise ValueError(
                "rewards.shaping changes what training pays, not what is right; leave it out of `sod eval`"
            )
        if any(data.too_long != "refuse" for data in self.benchmarks):
            raise ValueError(
                'too_long = "leave_out" would make a benchmark easier, so it is for training data only; leave it out '
                "of `sod eval` and raise agent.max_prompt_tokens"
            )
        return self

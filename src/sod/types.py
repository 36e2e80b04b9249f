"""What crosses a border: Problem -> Completion -> ToolResult -> Turn -> Trajectory -> Score.

All records are frozen. A Trajectory *is* its tokens: what was sampled is never rendered again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""One chat message: {"role": ..., "content": ...}, as chat templates take it."""


class StopReason(StrEnum):
    """Why an episode ended."""

    ANSWERED = "answered"
    OUT_OF_TOKENS = "out_of_tokens"
    OUT_OF_TURNS = "out_of_turns"
    MALFORMED_CALL_LIMIT = "malformed_call_limit"
    INFRASTRUCTURE = "infrastructure"

    @property
    def sentence(self) -> str:
        """The reason as a sentence for people: `StopReason.ANSWERED.sentence -> "The student ended ..."`."""
        return _STOP_SENTENCES[self]


_STOP_SENTENCES: Mapping[StopReason, str] = {
    StopReason.ANSWERED: "The student ended a turn without calling a tool: its final answer.",
    StopReason.OUT_OF_TOKENS: "The response reached its token limit, observations included.",
    StopReason.OUT_OF_TURNS: "The student used all its turns and was still calling tools.",
    StopReason.MALFORMED_CALL_LIMIT: "Too many tool calls could not be read.",
    StopReason.INFRASTRUCTURE: "A tool or engine failed through no fault of the student; the trajectory is dropped.",
}


class ToolStatus(StrEnum):
    """How one tool call went. All but INFRASTRUCTURE are told to the student."""

    OK = "ok"
    ERROR = "error"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    MEMORY_LIMIT = "memory_limit"
    DISK_LIMIT = "disk_limit"
    OUTPUT_LIMIT = "output_limit"
    MALFORMED_CALL = "malformed_call"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One task with its reference answer.

    `messages` is what the student is shown, as chat messages; `answer` is what the grader compares with, in the
    form that `grader` ("math", ...) reads; `source` names the data set and routes rewards and teachers. `solution` and
    `hint` ("" is none) are for teachers alone: the student never sees them, and no record or `repr` holds them.
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    grader: str = "math"
    source: str = ""
    solution: str = field(default="", repr=False)
    hint: str = field(default="", repr=False)
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What a sampler returned for one turn.

    `token_ids` are the sampled tokens, the stop token included when one was sampled (`stopped` is then True; False
    means that the token budget ended the turn). `logprobs[i]` is the natural log-probability of `token_ids[i]` under
    the distribution it was drawn from (temperature applied, before top-p / top-k cuts).
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    policy_version: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """A call the student wrote that could be read."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class MalformedCall:
    """A call the student wrote that could not be read; `reason` is a sentence it is told."""

    text: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolResult:
    """What came back from one call. `text` is what the student sees; `detail` is for people only."""

    status: ToolStatus
    text: str
    wall_s: float = 0.0
    queue_s: float = 0.0
    detail: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """One step of an episode as people read it.

    `start` and `end` bound the turn's sampled tokens in `Trajectory.token_ids`; `results[i]` answers `calls[i]`.
    """

    text: str
    start: int
    end: int
    calls: tuple[ToolCall | MalformedCall, ...] = ()
    results: tuple[ToolResult, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether one of its calls did. What was never called, failed nowhere."""
        return any(result.status is not ToolStatus.OK for result in self.results)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trajectory:
    """One episode. The tokens are the truth; `turns` is a reading aid.

    `token_ids`, `step` and `rollout_logprobs` have one entry per token, prompt included. `step[i]` is -1 where the
    student did not sample token i (prompt, observations) and counts 0, 1, ... over the turns it did sample;
    `rollout_logprobs[i]` is 0.0 where `step[i]` is -1.
    """

    problem_id: str
    sample: int
    token_ids: tuple[int, ...]
    num_prompt_tokens: int
    step: tuple[int, ...]
    rollout_logprobs: tuple[float, ...]
    turns: tuple[Turn, ...]
    stop_reason: StopReason
    policy_version: int = 0
    detail: str = ""

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.step), len(self.rollout_logprobs)}
        assert len(lengths) == 1, f"token_ids, step and rollout_logprobs must be equally long, got {lengths}"

    @property
    def num_steps(self) -> int:
        """Number of turns the student sampled."""
        return max(self.step, default=-1) + 1

    @property
    def sampled_positions(self) -> tuple[int, ...]:
        """Indices of the tokens the student sampled: `step [-1 0 0 -1 1] -> (1, 2, 4)`."""
        return tuple(index for index, step in enumerate(self.step) if step >= 0)

    @property
    def num_response_tokens(self) -> int:
        """Tokens after the prompt, observations included."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """All tool results in order."""
        return tuple(result for turn in self.turns for result in turn.results)

    @property
    def final_text(self) -> str:
        """Text of the last turn, the only place an answer is looked for; empty when nothing was sampled."""
        return self.turns[-1].text if self.turns else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A grader's verdict. `value` is the reward; `answer` what was read from the final turn; `reason` says why."""

    value: float
    correct: bool
    reason: str
    answer: str | None = None

"""Scripted episodes over the demo's real tokenizer and chat template: what a test says is what the student samples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from sod.agent import Agent, make_agent
from sod.chat import Tokenizer
from sod.config import AgentConfig, SamplingConfig, ToolConfig, UpdateConfig
from sod.models.scripted import LogprobRule, Reply, ScriptedSampler, ScriptedScorer
from sod.rewards.math import MathReward
from sod.rollouts import Collector
from sod.sandbox.scripted import Played, ScriptedSandbox
from sod.teachers import Teacher, Teachers
from sod.types import Problem, Trajectory

STOP = "<|im_end|>"
PROBLEM = Problem(id="p", messages=({"role": "user", "content": "Start with 6. Multiply by 7."},), answer="42")
ANSWER = f"The answer is \\boxed{{42}}.{STOP}"
WRONG = f"The answer is \\boxed{{41}}.{STOP}"


def call(code: str, *, name: str = "code_interpreter") -> str:
    """A tool call as the template writes it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': {'code': code}})}\n</tool_call>"


def asking(code: str = "6*7") -> str:
    """A whole turn that calls the tool."""
    return f"Step 1.\n{call(code)}{STOP}"


class Stage:
    """One student that says `turns`, in one sandbox that answers with `results`, for any number of episodes.

    `turns` are texts for every trajectory, texts by trajectory id ("update/group/problem/sample"), or a reply rule on
    tokens. `limits`, `tool` and `sampling` are settings of the configs.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        turns: Sequence[str] | Mapping[str, Sequence[str]] | Reply,
        results: Iterable[Played] | Callable[[str], Played] = (),
        *,
        logprobs: float | LogprobRule = -1.0,
        sandbox: Any = None,
        limits: Mapping[str, Any] | None = None,
        tool: Mapping[str, Any] | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.sampler = ScriptedSampler(self._replies(turns), logprobs=logprobs)
        self.sandbox = sandbox or ScriptedSandbox(results)
        self.agent: Agent = make_agent(
            sampler=self.sampler,
            tokenizer=tokenizer,
            sandbox=self.sandbox,
            limits=AgentConfig(**(limits or {})),
            tool=ToolConfig(**(tool or {})),
            sampling=SamplingConfig(**(sampling or {})),
        )

    def play(self, problem: Problem = PROBLEM, *, key: str = "0", **settings: Any) -> Trajectory:
        """One episode."""
        return asyncio.run(self.agent.run(problem, key=key, **settings))

    def collector(
        self, scorer: ScriptedScorer | None = None, *, prompts: int = 1, samples: int = 2, **settings: Any
    ) -> Collector:
        """Plays updates over one problem."""
        teachers = None if scorer is None else Teachers(default=Teacher(scorer=scorer, vocabulary_size=640))
        fields: dict[str, Any] = {"problems": [PROBLEM], "rewards": {"math": MathReward()}, "seed": 0, **settings}
        sizes = UpdateConfig(prompts=prompts, samples=samples, optimizer_steps=1)
        return Collector(**{"agent": self.agent, "teachers": teachers, "sizes": sizes, **fields})

    def ids(self, text: str) -> tuple[int, ...]:
        """Text as the student would most likely sample it."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def text(self, token_ids: Iterable[int]) -> str:
        """Tokens as text, control tokens included."""
        return self.agent.chat.text(tuple(token_ids))

    def shown(self, trajectory: Trajectory) -> str:
        """Everything after the prompt that the student did not sample: what it was told."""
        tokens = zip(trajectory.token_ids, trajectory.step, strict=True)
        return self.text(token for token, step in list(tokens)[trajectory.num_prompt_tokens :] if step < 0)

    def _replies(self, turns: Any) -> Any:
        if callable(turns):
            return turns
        if isinstance(turns, Mapping):
            return {key: [self.ids(text) for text in texts] for key, texts in turns.items()}
        return lambda _token_ids, turn: self.ids(turns[turn])

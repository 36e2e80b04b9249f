"""One episode: sample -> read -> call -> append, until a StopReason. Knows no teacher, reward or algorithm."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from sod.chat import Chat, Reading, Tokenizer
from sod.config import AgentConfig, SamplingConfig, ToolConfig
from sod.config.episode import FAULT_DETAIL
from sod.errors import DataError, EngineError, InfrastructureError
from sod.models import Sampler
from sod.sandbox import Sandbox
from sod.tools import Tool, call_tool, cut_as_published, make_tools, merge_notices, refusal
from sod.types import (
    Completion,
    MalformedCall,
    Problem,
    StopReason,
    ToolCall,
    ToolResult,
    ToolStatus,
    Trajectory,
    Turn,
)

Result = TypeVar("Result")

OnStep: TypeAlias = Callable[[Sequence[int], Sequence[int]], None]
"""(all tokens so far, positions of the step that was just sampled): told before the step's tools run."""


MAX_SEED = (1 << 63) - 1

FAULT = "[the tool failed: no answer]"
"""What the student sees of a call that fails on purpose (`tool.fault_share`)."""


@dataclass(frozen=True, kw_only=True)
class Agent:
    """Everything an episode needs besides its problem: shared by all episodes of a run."""

    sampler: Sampler
    chat: Chat
    tools: Mapping[str, Tool]
    limits: AgentConfig
    tool_limits: ToolConfig
    sampling: SamplingConfig

    def prompt(self, problem: Problem) -> tuple[int, ...]:
        """The problem as tokens. Raises DataError when it is longer than `max_prompt_tokens`."""
        token_ids = self.chat.prompt_ids(problem.messages)
        limit = self.limits.max_prompt_tokens
        if len(token_ids) > limit:
            raise DataError(
                f"problem {problem.id}: its prompt must be at most {limit} tokens, got {len(token_ids)}; "
                "raise agent.max_prompt_tokens or leave the problem out"
            )
        return token_ids

    def fits(self, problem: Problem) -> bool:
        """Whether its prompt has at most `max_prompt_tokens`."""
        return len(self.chat.prompt_ids(problem.messages)) <= self.limits.max_prompt_tokens

    async def run(
        self,
        problem: Problem,
        *,
        sample: int = 0,
        seed: int = 0,
        key: str = "",
        on_step: OnStep = lambda _token_ids, _positions: None,
    ) -> Trajectory:
        """Play one episode.

        `sample` numbers the sibling, `seed` decides its draws, `key` makes the trajectory's id unique when the same
        sibling is played again (another update), `on_step` hears of each step before its tools run. Failures of engine
        or sandbox end the episode with StopReason.INFRASTRUCTURE and what was sampled so far; everything else is the
        student's doing.
        """
        episode = _Episode(agent=self, seed=seed, trajectory_id=f"{key}/{problem.id}/{sample}", on_step=on_step)
        episode.see(self.prompt(problem))
        num_prompt_tokens = len(episode.token_ids)
        detail = ""
        try:
            reason = await episode.play()
        except InfrastructureError as error:
            reason, detail = StopReason.INFRASTRUCTURE, str(error)
        finally:
            self.sampler.release(episode.trajectory_id)
        return Trajectory(
            problem_id=problem.id,
            sample=sample,
            token_ids=tuple(episode.token_ids),
            num_prompt_tokens=num_prompt_tokens,
            step=tuple(episode.step),
            rollout_logprobs=tuple(episode.rollout_logprobs),
            turns=tuple(episode.turns),
            stop_reason=reason,
            policy_version=episode.policy_version,
            detail=detail,
        )


@dataclass(kw_only=True)
class _Episode:
    """The growing token record of one episode. Tokens are only ever appended."""

    agent: Agent
    seed: int
    trajectory_id: str
    on_step: OnStep
    token_ids: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    rollout_logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    num_response_tokens: int = 0
    num_malformed: int = 0
    policy_version: int = 0

    async def play(self) -> StopReason:
        """Turn after turn; returns why it ended."""
        limits = self.agent.limits
        while True:
            completion = await self._sample(limits.max_response_tokens - self.num_response_tokens)
            reading = self.agent.chat.read(completion.token_ids)
            start = len(self.token_ids)
            self._sampled(completion)
            if not completion.stopped:
                self._close_turn(reading, start)
                return StopReason.OUT_OF_TOKENS
            if not reading.calls:
                self._close_turn(reading, start)
                return StopReason.ANSWERED
            if len(self.turns) + 1 == limits.max_turns:
                self._close_turn(reading, start)
                return StopReason.OUT_OF_TURNS
            results = await self._call(reading.calls)
            self._close_turn(reading, start, results)
            _raise_infrastructure(results)
            reason = self._observe(results)
            if reason is not None:
                return reason

    async def _sample(self, max_tokens: int) -> Completion:
        agent = self.agent
        completion = await agent.sampler.sample(
            self.token_ids,
            max_tokens=max_tokens,
            stop_token_ids=agent.chat.stop_token_ids,
            sampling=agent.sampling,
            trajectory_id=self.trajectory_id,
            seed=self.seed,
        )
        if not completion.token_ids or len(completion.token_ids) != len(completion.logprobs):
            raise EngineError(
                f"an engine must return at least one token and a log-prob for each, got "
                f"{len(completion.token_ids)} tokens and {len(completion.logprobs)} log-probs"
            )
        if not self.turns:
            self.policy_version = completion.policy_version
        return completion

    async def _call(self, calls: Sequence[ToolCall | MalformedCall]) -> tuple[ToolResult, ...]:
        """Run the calls of a turn at once."""
        return tuple(await run_all(self._timed_call(call, index) for index, call in enumerate(calls)))

    async def _timed_call(self, call: ToolCall | MalformedCall, index: int) -> ToolResult:
        start = time.perf_counter()
        if self._fails_on_purpose(index) and refusal(self.agent.tools, call) is None:
            return ToolResult(status=ToolStatus.ERROR, text=FAULT, detail=FAULT_DETAIL)
        result = await call_tool(self.agent.tools, call)
        return ToolResult(
            status=result.status,
            text=self._shortened(result.text),
            wall_s=result.wall_s or time.perf_counter() - start,
            queue_s=result.queue_s,
            detail=result.detail,
        )

    def _fails_on_purpose(self, index: int) -> bool:
        share = self.agent.tool_limits.fault_share
        return share > 0.0 and draw_seed("fault", self.seed, len(self.turns), index) < share * MAX_SEED

    def _shortened(self, text: str) -> str:
        """An observation within its limit; when something of it is missing, one line says so."""
        limits = self.agent.tool_limits
        if limits.observation_cut == "paper":
            return cut_as_published(text)
        cut = self.agent.chat.cut(text, max_tokens=limits.max_observation_tokens)
        return cut if cut == text else merge_notices(cut)

    def _observe(self, results: Sequence[ToolResult]) -> StopReason | None:
        """Append the observations; returns the reason when the episode must end instead."""
        limits = self.agent.limits
        self.num_malformed += sum(result.status is ToolStatus.MALFORMED_CALL for result in results)
        if self.num_malformed > limits.max_malformed_calls:
            return StopReason.MALFORMED_CALL_LIMIT
        observation = self.agent.chat.observation_ids([result.text for result in results])
        # A turn needs room for one token after the observation, or it is not worth showing.
        if self.num_response_tokens + len(observation) >= limits.max_response_tokens:
            return StopReason.OUT_OF_TOKENS
        self.num_response_tokens += len(observation)
        self.see(observation)
        return None

    def _close_turn(self, reading: Reading, start: int, results: tuple[ToolResult, ...] = ()) -> None:
        turn = Turn(text=reading.text, start=start, end=len(self.token_ids), calls=reading.calls, results=results)
        self.turns.append(turn)

    def see(self, token_ids: Sequence[int]) -> None:
        """Append tokens the student did not sample."""
        self.token_ids += token_ids
        self.step += [-1] * len(token_ids)
        self.rollout_logprobs += [0.0] * len(token_ids)

    def _sampled(self, completion: Completion) -> None:
        self.token_ids += completion.token_ids
        self.step += [len(self.turns)] * len(completion.token_ids)
        self.rollout_logprobs += completion.logprobs
        self.num_response_tokens += len(completion.token_ids)
        self.on_step(self.token_ids, range(len(self.token_ids) - len(completion.token_ids), len(self.token_ids)))


def _raise_infrastructure(results: Sequence[ToolResult]) -> None:
    """A failure of the sandbox is never an observation: the episode ends and says why."""
    for result in results:
        if result.status is ToolStatus.INFRASTRUCTURE:
            raise InfrastructureError(result.detail or result.text)


def make_agent(
    *,
    sampler: Sampler,
    tokenizer: Tokenizer,
    sandbox: Sandbox,
    limits: AgentConfig,
    tool: ToolConfig,
    sampling: SamplingConfig,
) -> Agent:
    """An agent with its tool (or none, when `tool.enabled` is off), as the configs say."""
    tools = make_tools(tool, sandbox=sandbox)
    chat = Chat(
        tokenizer, tools=[each.schema for each in tools.values()], thinking=limits.thinking, system=limits.system
    )
    return Agent(sampler=sampler, chat=chat, tools=tools, limits=limits, tool_limits=tool, sampling=sampling)


def draw_seed(*parts: object) -> int:
    """A seed from whatever names a draw: `draw_seed(seed, update, problem.id, sample)`. The same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


async def run_all(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Run coroutines at once, results in order. The first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]

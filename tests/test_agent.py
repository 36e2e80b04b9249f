"""Details of the agent that are no rules of an episode: concurrency, cancellation, failures, seeds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from sod.agent import draw_seed, run_all
from sod.models.scripted import ScriptedSampler
from sod.sandbox import ExecutionResult
from sod.types import Completion, StopReason, ToolStatus
from stage import ANSWER, PROBLEM, STOP, Stage, asking, call

MakeStage = Callable[..., Stage]


class SlowSandbox:
    """Sleeps as many seconds as the code says, then prints it; `ended` lists codes in the order they ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.cancelled: list[str] = []

    async def run(
        self,
        code: str,
        *,
        stdin: str = "",
        timeout_s: float = 10.0,
        files: Mapping[str, bytes] | None = None,
        echo_last_expression: bool = False,
    ) -> ExecutionResult:
        del stdin, timeout_s, files, echo_last_expression
        try:
            await asyncio.sleep(float(code))
        except asyncio.CancelledError:
            self.cancelled.append(code)
            raise
        self.ended.append(code)
        return ExecutionResult(status="ok", stdout=code, stderr="")


def test_the_calls_of_a_turn_run_at_once_and_are_shown_in_order(stage: MakeStage) -> None:
    sandbox = SlowSandbox()
    scene = stage([f"{call('0.2')}{call('0.1')}{call('0.15')}{STOP}", ANSWER], sandbox=sandbox)
    start = time.perf_counter()
    trajectory = scene.play()
    assert time.perf_counter() - start < 0.4
    assert sandbox.ended == ["0.1", "0.15", "0.2"]
    assert [result.text for result in trajectory.tool_results] == ["0.2", "0.1", "0.15"]
    assert all(result.wall_s > 0 for result in trajectory.tool_results)


def test_episodes_do_not_wait_for_each_others_tools(stage: MakeStage) -> None:
    scene = stage([asking("0.1"), ANSWER], sandbox=SlowSandbox())

    async def play_many() -> None:
        await run_all(scene.agent.run(PROBLEM, sample=sample) for sample in range(20))

    start = time.perf_counter()
    asyncio.run(play_many())
    assert time.perf_counter() - start < 1.0


def test_a_bad_call_beside_a_good_one_is_answered_in_its_place(stage: MakeStage) -> None:
    scene = stage([f"{call('6*7')}<tool_call>no</tool_call>{call('1', name='x')}{STOP}", ANSWER], ["42"])
    trajectory = scene.play()
    malformed = ToolStatus.MALFORMED_CALL
    assert [result.status for result in trajectory.tool_results] == [ToolStatus.OK, malformed, malformed]
    assert trajectory.stop_reason is StopReason.ANSWERED


def test_every_malformed_call_of_a_turn_counts(stage: MakeStage) -> None:
    scene = stage([f"{'<tool_call>no</tool_call>' * 3}{STOP}"], limits={"max_malformed_calls": 2})
    trajectory = scene.play()
    assert trajectory.stop_reason is StopReason.MALFORMED_CALL_LIMIT
    assert "is not valid JSON" in trajectory.tool_results[-1].text


def test_a_trajectory_is_released_however_it_ends(stage: MakeStage) -> None:
    for turns in ([ANSWER], {}, [asking("x")]):
        scene = stage(turns, lambda _: ExecutionResult(status="sandbox_error", stdout="", stderr="", detail="gone"))
        scene.play(key="k")
        assert scene.sampler.released == ["k/p/0"]


def test_cancelling_an_episode_releases_it_and_stops_its_calls(stage: MakeStage) -> None:
    sandbox = SlowSandbox()
    scene = stage([f"{call('30')}{call('31')}{STOP}", ANSWER], sandbox=sandbox)

    async def start_and_cancel() -> None:
        task = asyncio.create_task(scene.agent.run(PROBLEM, key="k"))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(start_and_cancel())
    assert scene.sampler.released == ["k/p/0"]
    assert sorted(sandbox.cancelled) == ["30", "31"]


def test_a_fault_in_one_call_leaves_no_other_call_running(stage: MakeStage) -> None:
    sandbox = SlowSandbox()
    scene = stage([f"{call('not a number')}{call('30')}{STOP}"], sandbox=sandbox)

    async def play() -> None:
        with pytest.raises(ValueError, match="could not convert"):
            await scene.agent.run(PROBLEM)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []

    asyncio.run(play())


def test_a_programmers_mistake_is_not_taken_for_a_failure_of_the_world(stage: MakeStage) -> None:
    scene = stage([asking(), ANSWER], [])  # the sandbox's script is empty
    with pytest.raises(AssertionError, match="used up"):
        scene.play()
    assert scene.sampler.released == ["0/p/0"]


@pytest.mark.parametrize(
    "completion",
    [
        Completion(token_ids=(), logprobs=(), stopped=True),
        Completion(token_ids=(5, 2), logprobs=(-1.0,), stopped=True),
    ],
)
def test_an_engine_that_returns_nonsense_is_an_engine_failure(stage: MakeStage, completion: Completion) -> None:
    scene = stage([])

    class Nonsense(ScriptedSampler):
        async def sample(self, *_args: Any, **_kwargs: Any) -> Completion:
            return completion

    object.__setattr__(scene.agent, "sampler", Nonsense({}))
    trajectory = scene.play()
    assert trajectory.stop_reason is StopReason.INFRASTRUCTURE
    assert "must return at least one token and a log-prob for each" in trajectory.detail


def test_a_trajectory_carries_the_version_of_its_first_turn(stage: MakeStage) -> None:
    scene = stage([], lambda _: "42")

    def reply(_ids: tuple[int, ...], turn: int) -> tuple[int, ...]:
        scene.sampler.policy_version += 1
        return scene.ids((asking(), ANSWER)[turn])

    scene.sampler._replies = reply
    scene.sampler.policy_version = 3
    assert scene.play().policy_version == 3


def test_without_the_tool_the_prompt_offers_none(stage: MakeStage) -> None:
    scene = stage([asking(), ANSWER], tool={"enabled": False})
    trajectory = scene.play()
    assert "code_interpreter" not in scene.text(trajectory.token_ids[: trajectory.num_prompt_tokens])
    assert "available: none" in trajectory.tool_results[0].text


def test_the_system_message_of_the_config_is_shown(stage: MakeStage) -> None:
    scene = stage([ANSWER], limits={"system": "Be brief."})
    trajectory = scene.play()
    assert "Be brief." in scene.text(trajectory.token_ids[: trajectory.num_prompt_tokens])


def test_a_seed_is_the_same_on_every_machine_and_differs_with_every_part() -> None:
    assert draw_seed("rollout", 0, 1, 0, "p", 0) == 6240752851674928144
    seeds = {draw_seed("rollout", 0, update, problem, sample) for update in "12" for problem in "ab" for sample in "01"}
    assert len(seeds) == 8
    assert draw_seed("1", 2) != draw_seed(1, "2")


def test_run_all_keeps_order_and_raises_the_first_failure_as_it_is() -> None:
    cancelled: list[int] = []

    async def work(number: int) -> int:
        try:
            await asyncio.sleep(0.01 * (3 - number))
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        if number == 2:
            raise LookupError("two")
        return number

    assert asyncio.run(run_all(work(number) for number in (0, 1))) == [0, 1]
    with pytest.raises(LookupError, match="two"):
        asyncio.run(run_all(work(number) for number in (0, 1, 2)))
    assert sorted(cancelled) == [0, 1]


def test_no_torch_comes_along() -> None:
    code = "import sys, sod.agent; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

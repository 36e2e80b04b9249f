"""Details of the agent that are no rules of an episode: concurrency, cancellation, failures, seeds."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from sod.agent import FAULT, draw_seed, run_all
from sod.config import ToolConfig
from sod.models.scripted import ScriptedSampler
from sod.sandbox import ExecutionResult
from sod.sandbox.local import LocalSandbox
from sod.tools import interpreter_schema
from sod.types import Completion, StopReason, ToolResult, ToolStatus
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


# The length of an observation


@pytest.mark.parametrize(
    ("written", "seen"),
    [
        ("7" * 256, "7" * 256),
        ("7" * 257, "7" * 128 + "...(truncated)..." + "7" * 128),
        ("数" * 100 + "🙂" * 200, "数" * 100 + "🙂" * 28 + "...(truncated)..." + "🙂" * 128),
        ("\ud800" * 300, "?" * 128 + "...(truncated)..." + "?" * 128),
    ],
)
def test_the_published_cut_counts_characters_and_nothing_else(stage: MakeStage, written: str, seen: str) -> None:
    tool = {"observation_cut": "paper", "max_observation_tokens": 16}
    scene = stage([asking(), ANSWER], [written], tool=tool)
    trajectory = scene.play()
    assert trajectory.tool_results[0].text == seen
    first, second = trajectory.turns
    observation = scene.agent.chat.observation_ids([seen])
    assert trajectory.token_ids[first.end : second.start] == observation
    assert trajectory.step == (
        *(-1,) * trajectory.num_prompt_tokens,
        *(0,) * len(scene.ids(asking())),
        *(-1,) * len(observation),
        *(1,) * len(scene.ids(ANSWER)),
    )
    assert set(trajectory.rollout_logprobs[first.end : second.start]) == {0.0}


def test_a_published_observation_still_has_to_fit_the_context(stage: MakeStage) -> None:
    room = {"max_response_tokens": 200}
    scene = stage([asking(), ANSWER], ["数" * 300], limits=room, tool={"observation_cut": "paper"})
    trajectory = scene.play()
    assert trajectory.stop_reason is StopReason.OUT_OF_TOKENS
    assert (trajectory.num_steps, scene.shown(trajectory)) == (1, "")


@pytest.fixture(scope="module")
def small_outputs() -> Iterator[tuple[asyncio.Runner, LocalSandbox]]:
    """A real sandbox that keeps 400 bytes of each stream, and the loop it lives in."""
    with asyncio.Runner() as runner:
        sandbox = LocalSandbox(workers=1, max_output_bytes=400, preload=())
        yield runner, sandbox
        runner.run(sandbox.aclose())


NOTICE = re.compile(r"^\[\.\.\. (\d+ bytes left out|\d+ tokens cut|output cut) \.\.\.\]$", re.MULTILINE)
LONG_ERROR = "import sys\nprint('a' * 900)\nsys.stderr.write('b' * 390)\nNone"


@pytest.mark.parametrize(
    ("code", "max_tokens", "notices"),
    [
        ("print('a' * 390)", 2000, []),
        ("print('a' * 390)", 200, ["tokens cut"]),
        ("print('a' * 900)", 2000, ["bytes left out"]),
        ("print('a' * 900)", 200, ["tokens cut"]),  # the sandbox's notice stood where the tokens were cut
        (LONG_ERROR, 2000, ["bytes left out"]),
        (LONG_ERROR, 750, ["output cut"]),  # and here it stood before
        (f"{LONG_ERROR}\nsys.stderr.write('b' * 900)\nNone", 2000, ["output cut"]),
        (f"{LONG_ERROR}\nsys.stderr.write('b' * 900)\n1 / 0", 300, ["tokens cut"]),
    ],
)
def test_one_line_says_that_something_was_cut(
    stage: MakeStage, small_outputs: tuple[asyncio.Runner, LocalSandbox], code: str, max_tokens: int, notices: list[str]
) -> None:
    runner, sandbox = small_outputs
    scene = stage([asking(code), ANSWER], sandbox=sandbox, tool={"max_observation_tokens": max_tokens})
    trajectory = runner.run(scene.agent.run(PROBLEM))
    (shown,) = trajectory.tool_results
    assert [notice.lstrip("0123456789 ") for notice in NOTICE.findall(shown.text)] == notices
    assert len(scene.ids(shown.text)) <= max_tokens
    assert shown.text.startswith("a")
    assert shown.text.endswith("[exit code 1]" if "1 / 0" in code else "b" if "b" in code else "a")
    assert shown.text in scene.shown(trajectory)


# Calls that fail on purpose


def faults(stage: MakeStage, share: float, seeds: range, *, turns: int = 3) -> dict[int, list[bool]]:
    """By seed: which of an episode's calls failed, two in each turn but the last."""
    scene = stage([f"{call('1')}{call('2')}{STOP}"] * turns + [ANSWER], lambda code: code, tool={"fault_share": share})
    found = {}
    for seed in seeds:
        results = scene.play(seed=seed).tool_results
        assert [r.status is ToolStatus.ERROR for r in results] == [r.text == FAULT for r in results]
        assert {r.text for r in results} <= {FAULT, "1", "2"}
        found[seed] = [result.text == FAULT for result in results]
    assert len(scene.sandbox.codes) == sum(not failed for each in found.values() for failed in each)
    return found


def test_that_share_of_calls_fails_on_purpose(stage: MakeStage) -> None:
    """Each by itself: in every turn, at every place of it, in some episodes and not in others."""
    found = faults(stage, 0.3, range(200))
    failed = [failed for each in found.values() for failed in each]
    assert len(failed) == 1200
    assert 0.25 < sum(failed) / len(failed) < 0.35  # 3.8 standard deviations
    by_place = [sum(each[place] for each in found.values()) for place in range(6)]
    assert all(35 < number < 90 for number in by_place), by_place
    assert faults(stage, 0.3, range(200)) == found, "the same ones for the same seed"


def test_no_call_or_every_call_fails_on_purpose(stage: MakeStage) -> None:
    assert not any(any(each) for each in faults(stage, 0.0, range(20)).values())
    assert all(all(each) for each in faults(stage, 1.0, range(20)).values())


def test_the_student_is_shown_that_the_tool_failed(stage: MakeStage) -> None:
    scene = stage([asking(), ANSWER], ["42"], tool={"fault_share": 1.0})
    trajectory = scene.play()
    (result,) = trajectory.tool_results
    assert (result.status, result.text, result.detail) == (ToolStatus.ERROR, FAULT, "tool.fault_share")
    assert FAULT in scene.shown(trajectory)
    assert trajectory.stop_reason is StopReason.ANSWERED


@pytest.mark.parametrize(
    "bad",
    ["<tool_call>no</tool_call>", call("1", name="x"), '<tool_call>\n{"name": "code_interpreter", "arguments": {}}\n'],
    ids=["unreadable", "unknown", "without-arguments"],
)
def test_a_malformed_call_never_fails_on_purpose(stage: MakeStage, bad: str) -> None:
    """It would be told of the wrong fault, and its own would not be counted."""
    scene = stage(
        [f"{bad}{STOP}", f"{bad}{STOP}", ANSWER], tool={"fault_share": 1.0}, limits={"max_malformed_calls": 1}
    )
    trajectory = scene.play()
    assert {result.status for result in trajectory.tool_results} == {ToolStatus.MALFORMED_CALL}
    assert trajectory.stop_reason is StopReason.MALFORMED_CALL_LIMIT


def test_a_fault_of_a_tool_of_ones_own_drops_the_trajectory_and_nothing_else(stage: MakeStage) -> None:
    """It ends as a failure of the world does; the student is never shown it."""

    class Faulty:
        name = "code_interpreter"
        schema = interpreter_schema(ToolConfig())

        async def call(self, arguments: Mapping[str, Any]) -> ToolResult:
            raise ValueError(f"a bug at {arguments['code']}")

    scene = stage([asking(), ANSWER])
    scene.agent = replace(scene.agent, tools={"code_interpreter": Faulty()})
    trajectory = scene.play()
    assert trajectory.stop_reason is StopReason.INFRASTRUCTURE
    assert "the tool 'code_interpreter' raised ValueError: a bug at 6*7 (test_agent.py, line " in trajectory.detail
    assert "bug" not in scene.shown(trajectory)


# Settings and helpers


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

    async def work(number: int, *, seconds: float) -> int:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        return number

    async def fail() -> int:
        await asyncio.sleep(0)  # the others have begun
        raise LookupError("two")

    assert asyncio.run(run_all(work(number, seconds=0.01 * (3 - number)) for number in (0, 1))) == [0, 1]
    with pytest.raises(LookupError, match="two"):
        asyncio.run(run_all([work(0, seconds=30.0), work(1, seconds=30.0), fail()]))
    assert sorted(cancelled) == [0, 1]


def test_no_torch_comes_along() -> None:
    code = "import sys, sod.agent; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Scripted models keep a real engine's contract."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

import pytest

from sod.config import SamplingConfig
from sod.errors import EngineError
from sod.models import Sampler, Scorer
from sod.models.scripted import ScriptedSampler, ScriptedScorer
from sod.types import Completion

STOP = 2


async def ask(sampler: Sampler, token_ids: list[int], *, trajectory_id: str = "a", max_tokens: int = 9) -> Completion:
    return await sampler.sample(
        token_ids,
        max_tokens=max_tokens,
        stop_token_ids={STOP},
        sampling=SamplingConfig(),
        trajectory_id=trajectory_id,
        seed=3,
    )


def test_replies_come_in_order_and_per_trajectory() -> None:
    sampler = ScriptedSampler({"a": [[5, STOP], [6, STOP]], "b": [[7, STOP]]}, logprobs=-0.5)

    async def play() -> list[Completion]:
        return [await ask(sampler, [1]), await ask(sampler, [1], trajectory_id="b"), await ask(sampler, [1, 5, 2, 9])]

    first, other, second = asyncio.run(play())
    assert (first.token_ids, other.token_ids, second.token_ids) == ((5, STOP), (7, STOP), (6, STOP))
    assert first.logprobs == (-0.5, -0.5)
    assert first.stopped
    assert [call.token_ids for call in sampler.calls] == [(1,), (1,), (1, 5, 2, 9)]


def test_a_reply_is_cut_at_its_stop_token_and_at_max_tokens() -> None:
    sampler = ScriptedSampler(lambda *_: [5, 6, STOP, 8])
    whole, cut = asyncio.run(ask(sampler, [1])), asyncio.run(ask(sampler, [1], max_tokens=2))
    assert (whole.token_ids, whole.stopped) == ((5, 6, STOP), True)
    assert (cut.token_ids, cut.stopped) == ((5, 6), False)
    assert len(cut.logprobs) == 2


def test_a_function_sees_the_tokens_and_the_turn() -> None:
    sampler = ScriptedSampler(lambda token_ids, turn: [token_ids[-1] + 1, turn + 10])
    assert asyncio.run(ask(sampler, [4])).token_ids == (5, 10)
    assert asyncio.run(ask(sampler, [4, 5, 10])).token_ids == (11, 11)


def test_a_logprob_rule_sees_the_reply_in_place() -> None:
    sampler = ScriptedSampler(
        {"a": [[5, STOP]]}, logprobs=lambda ids, positions: [-ids[p] - p / 100 for p in positions]
    )
    assert asyncio.run(ask(sampler, [1, 1])).logprobs == pytest.approx((-5.02, -2.03))


def test_release_starts_the_script_again() -> None:
    sampler = ScriptedSampler({"a": [[5, STOP]]})
    asyncio.run(ask(sampler, [1]))
    sampler.release("a")
    sampler.release("unknown")
    assert asyncio.run(ask(sampler, [1])).token_ids == (5, STOP)
    assert sampler.released == ["a", "unknown"]


@pytest.mark.parametrize("replies", [{}, {"a": []}, {"a": [[]]}])
def test_running_off_the_script_is_an_error(replies: dict[str, list[list[int]]]) -> None:
    with pytest.raises(EngineError, match="must hold"):
        asyncio.run(ask(ScriptedSampler(replies), [1]))


def test_latency_is_waited_concurrently() -> None:
    sampler = ScriptedSampler(lambda *_: [STOP], latency_s=0.1)

    async def play() -> None:
        await asyncio.gather(*(ask(sampler, [1], trajectory_id=str(index)) for index in range(20)))

    start = time.perf_counter()
    asyncio.run(play())
    assert 0.1 <= time.perf_counter() - start < 1.0


def test_a_completion_carries_the_version_its_turn_began_with() -> None:
    sampler = ScriptedSampler(lambda *_: [STOP], latency_s=0.01)

    async def play() -> Completion:
        task = asyncio.ensure_future(ask(sampler, [1]))
        await asyncio.sleep(0)
        sampler.policy_version = 4
        return await task

    assert asyncio.run(play()).policy_version == 0
    assert asyncio.run(ask(sampler, [1])).policy_version == 4


def test_a_scorer_returns_one_value_per_position() -> None:
    constant: Scorer = ScriptedScorer(-1.5)
    rule = ScriptedScorer(lambda ids, positions: [-float(ids[p]) for p in positions])
    assert asyncio.run(constant.score([1, 2, 3], positions=[1, 2])) == (-1.5, -1.5)
    assert asyncio.run(rule.score([1, 2, 3], positions=[2], temperature=0.7)) == (-3.0,)
    assert rule.calls[0].temperature == 0.7


def test_a_rule_of_the_wrong_length_is_an_error() -> None:
    with pytest.raises(EngineError, match="must return 2 numbers"):
        asyncio.run(ScriptedScorer(lambda *_: [-1.0]).score([1, 2, 3], positions=[1, 2]))


def test_no_torch_comes_along() -> None:
    code = "import sys, sod.models.scripted; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""vLLM in processes of its own, on a processor: the real engine beside transformers. `make test-vllm` runs these.

One engine serves all tests that leave its weights alone; it takes half a minute to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Coroutine, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from sod.agent import make_agent
from sod.chat import load_tokenizer
from sod.config import (
    AgentConfig,
    ModelConfig,
    SamplingConfig,
    SandboxConfig,
    ToolConfig,
    TrainConfig,
    VLLMConfig,
    parse,
)
from sod.demo import world
from sod.errors import ConfigError, EngineError, InfrastructureError, ModelError
from sod.models.hf import HFModel
from sod.models.vllm import _check_taken
from sod.models.vllm_worker import shape_and_sum
from sod.runs import read_records
from sod.sandbox import make_sandbox
from sod.train import train
from sod.types import Completion, StopReason

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

TEACHER = Path(str(files("sod.demo") / "weights" / "teacher"))
"""The demo's teacher: it solves nearly all problems, in several turns. vLLM does not take the student's heads of 24."""
SMALL = VLLMConfig(compile=False)
ROOM = {"max_rows": 64, "tokens_per_forward": 2048, "kv_cache_gib": 0.25}
IDS = tuple(range(10, 310))
NOISE = 0.3
"""What other weights differ by, as a share of a layer's spread: a student that errs now and then."""
Result = TypeVar("Result")


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{"path": str(TEACHER), "engine": "vllm", "vllm": SMALL, **ROOM, **changes})


class Engine:
    """A vLLM that lives in an event loop of its own thread, so that many tests can ask it."""

    def __init__(self) -> None:
        from sod.models.vllm import VLLMModel

        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.model = VLLMModel(config())
        self(self.model.__aenter__())

    def __call__(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=300)

    def close(self) -> None:
        self(self.model.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    started = Engine()
    yield started
    started.close()


@pytest.fixture(scope="module")
def transformers_model() -> HFModel:
    return HFModel.load(ModelConfig(path=str(TEACHER), device="cpu", dtype="float32"))


def sample(engine: Engine, ids: tuple[int, ...] = IDS, **changes: Any) -> Completion:
    settings = {"max_tokens": 24, "stop_token_ids": {2}, "sampling": SamplingConfig(), "trajectory_id": "t", "seed": 1}
    return engine(engine.model.sample(ids, **{**settings, **changes}))


def score(engine: Engine, ids: tuple[int, ...], start: int, **changes: Any) -> tuple[float, ...]:
    return engine(engine.model.score(ids, positions=range(start, len(ids)), **changes))


# ---- sampling and scoring


def test_scores_are_those_of_transformers(engine: Engine, transformers_model: HFModel) -> None:
    expected = asyncio.run(transformers_model.score(IDS, positions=range(1, len(IDS))))
    assert score(engine, IDS, 1) == pytest.approx(expected, abs=1e-4)


def test_scores_at_some_positions(engine: Engine) -> None:
    some = (7, 8, 120, 299)
    every = score(engine, IDS, 1)
    assert engine(engine.model.score(IDS, positions=some)) == pytest.approx([every[place - 1] for place in some])
    assert engine(engine.model.score(IDS, positions=())) == ()


def test_sampled_log_probs_are_scores_of_the_same_tokens(engine: Engine) -> None:
    drawn = sample(engine)
    whole = IDS + drawn.token_ids
    assert drawn.logprobs == pytest.approx(score(engine, whole, len(IDS)), abs=1e-4)


@pytest.mark.parametrize("sampling", [{"top_p": 0.6}, {"top_k": 3}, {"temperature": 0.0}])
def test_log_probs_are_of_temperature_one_before_any_cut(engine: Engine, sampling: Mapping[str, Any]) -> None:
    drawn = sample(engine, sampling=SamplingConfig(**sampling))
    assert drawn.logprobs == pytest.approx(score(engine, IDS + drawn.token_ids, len(IDS)), abs=1e-4)


def test_greedy_is_transformers_greedy(engine: Engine, transformers_model: HFModel) -> None:
    greedy = {
        "max_tokens": 40,
        "stop_token_ids": {2},
        "sampling": SamplingConfig(temperature=0.0),
        "trajectory_id": "g",
        "seed": 0,
    }
    prompt = tuple(load_tokenizer(str(TEACHER)).encode("<|im_start|>user\nStart with 6. Add 7.<|im_end|>\n"))
    ours = asyncio.run(transformers_model.sample(prompt, **greedy))
    assert engine(engine.model.sample(prompt, **greedy)).token_ids == ours.token_ids


def test_a_seed_repeats_and_turns_of_one_seed_share_nothing(engine: Engine) -> None:
    first = sample(engine)
    assert sample(engine).token_ids == first.token_ids
    assert sample(engine, seed=2).token_ids != first.token_ids
    doubled = IDS + IDS  # another turn with the same seed
    assert sample(engine, doubled).token_ids != first.token_ids


def test_a_stop_token_is_kept_and_ends_the_turn(engine: Engine) -> None:
    free = sample(engine, stop_token_ids=())
    stop = free.token_ids[5]
    stopped = sample(engine, stop_token_ids={stop})
    end = free.token_ids.index(stop) + 1
    assert (stopped.token_ids, stopped.stopped) == (free.token_ids[:end], True)
    assert (free.stopped, len(free.token_ids)) == (False, 24)


def test_a_turn_ends_with_the_context(engine: Engine) -> None:
    room = 5
    ids = tuple(10 + index % 600 for index in range(engine.model.max_length - room))
    drawn = sample(engine, ids, max_tokens=100, stop_token_ids=())
    assert (len(drawn.token_ids), drawn.stopped) == (room, False)


@pytest.mark.parametrize("ids", [(), (-1, 5), (5, 640), tuple([5] * 2047)])
def test_tokens_the_model_cannot_take(engine: Engine, ids: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="token"):
        sample(engine, ids)
    assert sample(engine).token_ids, "the engine is still there"


def test_scores_of_another_temperature_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match=r"temperature 1 only, got 0\.7"):
        score(engine, IDS, 1, temperature=0.7)


# ---- what is kept between turns


def test_a_turn_finds_the_turn_before_in_the_prefix_cache(engine: Engine) -> None:
    ids = tuple(300 + index % 300 for index in range(400))
    drawn = sample(engine, ids)
    before = engine.model.num_reused
    sample(engine, (*ids, *drawn.token_ids, 11, 12, 13))
    assert engine.model.num_reused - before >= 384, "whole blocks of 128 tokens"


def test_scoring_step_by_step_gives_what_scoring_at_once_gives(engine: Engine) -> None:
    ids = tuple(20 + (7 * index) % 600 for index in range(600))
    whole = score(engine, ids, 200)
    before = engine.model.num_reused
    steps = [
        score(engine, ids[:end], start, trajectory_id="by step") for start, end in ((200, 290), (300, 420), (450, 600))
    ]
    places = [*range(200, 290), *range(300, 420), *range(450, 600)]
    assert [value for step in steps for value in step] == pytest.approx([whole[p - 200] for p in places], abs=1e-4)
    assert engine.model.num_reused - before == 256 + 384, "whole blocks of 128 tokens of what was read before"
    engine.model.release("by step")


def test_twins_do_not_find_each_others_scores(engine: Engine) -> None:
    """Log-probs of cached tokens are not computed: two trajectories of the same tokens must not share a cache."""
    ids = tuple(30 + (11 * index) % 600 for index in range(300))
    first = score(engine, ids, 5, trajectory_id="one")
    assert score(engine, ids, 5, trajectory_id="other") == pytest.approx(first, abs=1e-4)
    again = score(engine, ids, 5, trajectory_id="one")  # the same request again finds what it wants in the cache
    assert again == pytest.approx(first, abs=1e-4)


# ---- episodes


def test_episodes_with_real_tools(engine: Engine) -> None:
    """The demo's teacher solves its problems through vLLM as it does through transformers."""
    problems = list(world.problems(16, seed=99))

    async def play() -> list[Any]:
        async with make_sandbox(SandboxConfig(preload=(), memory_mb=256)) as sandbox:
            agent = make_agent(
                sampler=engine.model,
                tokenizer=load_tokenizer(str(TEACHER)),
                sandbox=sandbox,
                limits=AgentConfig(max_turns=12, max_response_tokens=600),
                tool=ToolConfig(timeout_s=10.0),
                sampling=SamplingConfig(),
            )
            return await asyncio.gather(*(agent.run(problem, seed=n) for n, problem in enumerate(problems)))

    trajectories = engine(play())
    right = [
        f"\\boxed{{{problem.answer}}}" in trajectory.final_text
        for problem, trajectory in zip(problems, trajectories, strict=True)
    ]
    assert sum(right) >= 14
    assert {trajectory.stop_reason for trajectory in trajectories} <= {StopReason.ANSWERED, StopReason.OUT_OF_TOKENS}
    assert sum(len(trajectory.tool_results) for trajectory in trajectories) >= 32
    longest = max(trajectories, key=lambda trajectory: trajectory.num_steps)
    scored = engine(engine.model.score(longest.token_ids, positions=longest.sampled_positions))
    sampled = [longest.rollout_logprobs[place] for place in longest.sampled_positions]
    assert scored == pytest.approx(sampled, abs=1e-3), "no token drifted over the turns"


# ---- new weights, and failures: engines of their own


def other_weights() -> Any:
    module = HFModel.load(ModelConfig(path=str(TEACHER), device="cpu", dtype="float32")).module
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(NOISE * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return module


async def _with_new_weights() -> dict[str, Any]:
    from sod.models.vllm import VLLMModel

    module = other_weights()
    settings = {"stop_token_ids": (), "sampling": SamplingConfig(), "trajectory_id": "t", "seed": 1}
    seen: dict[str, Any] = {}
    async with VLLMModel(config()) as model:
        seen["before"] = await model.sample(IDS, max_tokens=24, **settings)
        under_way = asyncio.create_task(model.sample(IDS, max_tokens=1000, **settings))
        await asyncio.sleep(0.5)
        await model.update_weights(module)
        seen["after"] = await model.sample(IDS, max_tokens=24, **settings)
        seen["scores"] = await model.score(IDS, positions=range(1, len(IDS)))
        seen["under way"] = await under_way
        seen["expected"] = await HFModel(module).score(IDS, positions=range(1, len(IDS)))
        with torch.no_grad():
            module.get_input_embeddings().weight.zero_()
        seen["version"] = model.policy_version

        async def takes_nothing(*_arguments: Any, **_settings: Any) -> Any:
            return [{name: shape_and_sum(parameter) for name, parameter in module.named_parameters()}]

        model._engine.collective_rpc = takes_nothing  # as it says, the new weights are there; it computes with the old
        with pytest.raises(EngineError, match=r"log-probs of a few tokens must agree .* computes with others"):
            await model.update_weights(module)
        with pytest.raises(EngineError, match="of no use any more"):
            await model.sample(IDS, max_tokens=1, **settings)
    with pytest.raises(EngineError, match="not running"):
        await model.sample(IDS, max_tokens=1, **settings)
    return seen


def test_a_worker_that_holds_other_weights_is_found() -> None:
    """A step of 1e-6 of a few numbers is enough; what is fused or sharded cannot be compared and is left out."""
    sent = {"norm": ([4], 4.0), "qkv": ([8, 4], 1.0)}
    _check_taken(sent, [{"norm": ([4], 4.0), "fused": ([9], 3.0), "qkv": ([4, 4], 0.5)}])
    with pytest.raises(EngineError, match="got 1 of 1 that are not, the first norm"):
        _check_taken(sent, [{"norm": ([4], 4.0)}, {"norm": ([4], 4.000002)}])
    with pytest.raises(EngineError, match="got 0 of 0"):
        _check_taken(sent, [{"other": ([4], 4.0)}])


def test_new_weights_arrive_without_a_restart_and_those_that_do_not_are_found() -> None:
    seen = asyncio.run(_with_new_weights())
    assert seen["scores"] == pytest.approx(seen["expected"], abs=1e-4)
    assert seen["before"].token_ids != seen["after"].token_ids
    assert [seen[name].policy_version for name in ("before", "under way", "after")] == [0, 0, 1]
    assert len(seen["under way"].token_ids) == 1000, "a turn under way goes on with the new weights"


def engine_processes() -> set[int]:
    """Children of this process, by their own and their children's parents."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,comm="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    parent = {int(pid): int(ppid) for pid, ppid, command in rows if command != "ps"}
    found: set[int] = {os.getpid()}
    while new := {pid for pid, ppid in parent.items() if ppid in found} - found:
        found |= new
    return found - {os.getpid()}


def kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # a worker ends with its parent
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def test_an_engine_that_dies_answers_everybody() -> None:
    async def die() -> None:
        from sod.models.vllm import VLLMModel

        before = engine_processes()
        async with VLLMModel(config()) as model:
            settings = {"stop_token_ids": (), "sampling": SamplingConfig(), "trajectory_id": "t", "seed": 1}
            turns = [asyncio.create_task(model.sample(IDS, max_tokens=1500, **settings)) for _ in range(4)]
            await asyncio.sleep(1.0)
            kill(engine_processes() - before)
            async with asyncio.timeout(60):
                results = await asyncio.gather(*turns, return_exceptions=True)
            assert [type(result) for result in results] == [EngineError] * 4
            with pytest.raises(EngineError, match="vLLM failed"):
                await model.sample(IDS, max_tokens=1, **settings)
        assert not engine_processes() - before

    asyncio.run(die())


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    from sod.models.vllm import VLLMModel

    async def start() -> None:
        async with VLLMModel(config(path=str(tmp_path))):
            pass

    with pytest.raises(ModelError, match="must be a model in transformers format"):
        asyncio.run(start())


def test_sleep_needs_a_gpu() -> None:
    from sod.models.vllm import VLLMModel

    async def start() -> None:
        async with VLLMModel(config(vllm=SMALL.model_copy(update={"sleep": True}))):
            pass

    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="got no GPU"):
            asyncio.run(start())


@pytest.mark.gpu
def test_a_woken_engine_says_what_it_said_before() -> None:
    async def sleep_and_wake() -> None:
        from sod.models.vllm import VLLMModel

        module = HFModel.load(ModelConfig(path=str(TEACHER), device="cpu", dtype="float32")).module
        settings = SMALL.model_copy(update={"sleep": True, "memory_share": 0.2})
        async with VLLMModel(config(vllm=settings, kv_cache_gib=0.0, dtype="float32")) as model:
            before = await model.score(IDS, positions=range(1, len(IDS)))
            used = torch.cuda.mem_get_info()[0]
            await model.sleep()
            assert torch.cuda.mem_get_info()[0] > used + (1 << 30), "memory was given back"
            await model.update_weights(module)
            assert await model.score(IDS, positions=range(1, len(IDS))) == pytest.approx(before, abs=1e-3)

    asyncio.run(sleep_and_wake())


# ---- training


def run_config(directory: Path, **changes: Any) -> TrainConfig:
    """The demo's teacher trained by its own twin with other weights, in a small world."""
    problems = directory / "problems.jsonl"
    rows = [
        {"id": problem.id, "messages": list(problem.messages), "answer": problem.answer}
        for problem in world.problems(8, seed=1)
    ]
    problems.write_text("\n".join(map(json.dumps, rows)))
    twin = directory / "twin"
    HFModel(other_weights()).save(twin)
    load_tokenizer(str(TEACHER)).save_pretrained(str(twin))
    engine = {"engine": "vllm", **ROOM, "vllm": SMALL.model_dump()}
    update = {"num_updates": 3, "prompts": 4, "samples": 2, "optimizer_steps": 2, "student_logprobs": "recompute"}
    return parse(
        TrainConfig,
        {
            "run": str(directory / "run"),
            "student": {"path": str(twin), "dtype": "float32", **engine},
            "teacher": {"path": str(TEACHER), **changes.pop("teacher", {})},
            "data": {"path": str(problems)},
            "agent": {"max_turns": 6, "max_response_tokens": 300},
            "sandbox": {"preload": [], "memory_mb": 256},
            "optimizer": {"lr": 1e-3},
            "objective": {"importance": "token"},
            "update": {**update, **changes.pop("update", {})},
            **changes,
        },
    )


def updates(config: TrainConfig) -> list[dict[str, Any]]:
    return [each for each in read_records(Path(config.run) / "metrics.jsonl") if "reward" in each]


def test_training_with_vllm_as_student_and_teacher(tmp_path: Path) -> None:
    teacher = {"engine": "vllm", **ROOM, "vllm": SMALL.model_dump()}
    config = run_config(tmp_path, teacher=teacher, update={"teacher_scoring": "step", "num_updates": 2})
    train(config)
    first, second = updates(config)
    for metrics in (first, second):
        assert metrics["rollout_gap"] < 1e-3, "vLLM sampled with the weights that are trained"
        assert metrics["importance"] == pytest.approx(1.0, abs=1e-3)
        assert metrics["staleness"] == 0.0
        assert metrics["num_calls"] > 0
        assert metrics["teacher_term"] > 0.0


def test_training_that_samples_ahead(tmp_path: Path) -> None:
    config = run_config(tmp_path, update={"staleness": 1})
    train(config)
    assert [metrics["staleness"] for metrics in updates(config)] == [0.0, 1.0, 1.0]
    gaps = [metrics["rollout_gap"] for metrics in updates(config)]
    assert gaps[0] < 1e-3 < gaps[1], "the second update's samples are of the weights before the first"


def test_an_engine_that_dies_in_training_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    config = run_config(tmp_path)
    before = engine_processes()

    def kill_after_the_first(event: str, values: Mapping[str, Any]) -> None:
        if event == "update" and values["update"] == 1:
            kill({pid for pid in engine_processes() - before if "VLLM" in _command(pid)})

    with pytest.raises(InfrastructureError):
        train(config, listener=kill_after_the_first)
    train(config)
    assert [metrics["update"] for metrics in updates(config)] == [1, 2, 3]

"""HTTPModel against a real vLLM server on the CPU with the demo's teacher, which was trained to call the tool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

import sod.demo
from sod.agent import make_agent, run_all
from sod.benchmark import run_benchmarks
from sod.chat import load_tokenizer
from sod.config import AgentConfig, EvalConfig, ModelConfig, SamplingConfig, ToolConfig, parse
from sod.demo.world import problems
from sod.errors import ConfigError, EngineError, ModelError
from sod.models import http
from sod.models.hf import HFModel
from sod.models.http import HTTPModel
from sod.sandbox import LocalSandbox
from sod.types import Completion, StopReason, ToolStatus

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

T = TypeVar("T")
MODEL = Path(sod.demo.__file__).parent / "weights" / "teacher"
KEY = "sk-open'sesame"
CONTEXT = 1024
START_S = 300
IDS = [(7 * index) % 600 + 5 for index in range(200)]
CLOSE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running server, the leader of its own process group."""

    process: subprocess.Popen[bytes]
    url: str

    def end(self) -> None:
        """All its processes, whatever they do."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for the whole file; its last test ends it."""
    log = tmp_path_factory.mktemp("vllm") / "log"
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(port),
            env={**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Server(process=process, url=f"http://127.0.0.1:{port}")
    try:
        wait_for_health(started, log)
        yield started
    finally:
        started.end()


def command(port: int) -> list[str]:
    """What `vllm serve` runs; the command itself refuses to start from the wheel for CPUs, whose name is not vllm."""
    options = {
        "model": MODEL,
        "host": "127.0.0.1",
        "port": port,
        "api-key": KEY,
        "dtype": "float32",
        "max-model-len": CONTEXT,
        "max-num-seqs": 16,
        "kv-cache-memory-bytes": 1 << 28,
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager", *words]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait_for_health(server: Server, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.5)
    pytest.fail(f"vLLM must start within {START_S} s, got:\n{log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(autouse=True)
def the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOD_API_KEY", KEY)


@pytest.fixture(scope="module")
def here() -> HFModel:
    """The same weights in this process."""
    return HFModel.load(ModelConfig(path=str(MODEL), dtype="float32"))


def with_model(server: Server, use: Callable[[HTTPModel], Awaitable[T]], **settings: Any) -> T:
    """What `use(model)` returns, within one event loop."""

    async def main() -> T:
        async with HTTPModel(server.url, **{"roles": ["sampler", "scorer"], **settings}) as model:
            return await use(model)

    return asyncio.run(main())


async def draw(
    model: HTTPModel, ids: list[int] = IDS, *, max_tokens: int = 20, stops: Any = (), seed: int = 1, **sampling: Any
) -> Completion:
    return await model.sample(
        ids,
        max_tokens=max_tokens,
        stop_token_ids=stops,
        sampling=SamplingConfig(**sampling),
        trajectory_id="p/0",
        seed=seed,
    )


def test_scores_are_those_of_the_weights(server: Server, here: HFModel) -> None:
    sequences = [IDS[:length] for length in (2, 17, 128, 129, 200)] + [list(reversed(IDS))]

    async def use(model: HTTPModel) -> None:
        assert (model.model, model.scores_by, model.max_length) == (str(MODEL), "prompt_logprobs", CONTEXT - 1)
        for _ in range(2):  # the second time with the server's prefix cache full
            for ids, scores in zip(sequences, await run_all(score_all(model, ids) for ids in sequences), strict=True):
                assert scores == pytest.approx(await score_all(here, ids), abs=CLOSE)
        assert await model.score(IDS, positions=[3, 150]) == pytest.approx(
            await here.score(IDS, positions=[3, 150]), abs=CLOSE
        )

    with_model(server, use)


async def score_all(model: HTTPModel | HFModel, ids: list[int]) -> tuple[float, ...]:
    return await model.score(ids, positions=range(1, len(ids)))


@pytest.mark.parametrize("sampling", [{}, {"top_p": 0.7, "top_k": 20}, {"temperature": 0.0}])
def test_what_was_sampled_has_the_logprobs_it_scores(server: Server, here: HFModel, sampling: dict[str, float]) -> None:
    async def use(model: HTTPModel) -> None:
        drawn = await draw(model, max_tokens=40, **sampling)
        assert (len(drawn.token_ids), drawn.stopped) == (40, False)
        whole = [*IDS, *drawn.token_ids]
        positions = range(len(IDS), len(whole))
        for scorer in (model, here):
            assert drawn.logprobs == pytest.approx(await scorer.score(whole, positions=positions), abs=CLOSE)

    with_model(server, use)


def test_a_stop_token_is_kept_and_no_other_token_stops(server: Server) -> None:
    tokenizer = load_tokenizer(str(MODEL))
    answer = tokenizer.encode("<|im_start|>assistant\nThe answer is \\boxed{42}.", add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")

    async def use(model: HTTPModel) -> None:
        free = await draw(model, max_tokens=60)
        stop = free.token_ids[30]
        stopped = await draw(model, max_tokens=60, stops={stop})
        assert stopped.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
        assert stopped.stopped
        over = await draw(model, answer, max_tokens=30)
        assert over.token_ids[0] == end  # which ends a sequence, says the model's own config
        assert (len(over.token_ids), over.stopped) == (30, False)

    with_model(server, use)


def test_a_seed_repeats_itself_alone_and_among_others(server: Server) -> None:
    async def use(model: HTTPModel) -> None:
        alone = [await draw(model, seed=seed) for seed in range(4)]
        together = await run_all(draw(model, seed=seed % 4) for seed in range(12))
        assert [completion.token_ids for completion in together] == [completion.token_ids for completion in alone] * 3
        assert len({completion.token_ids for completion in alone}) == 4

    with_model(server, use)


def test_two_turns_of_a_trajectory_do_not_share_their_numbers(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server starts a seed's numbers anew in every request: told apart where two prompts are almost the same."""

    async def share_of_equal_draws(model: HTTPModel) -> float:
        first, second = [5, 6] * 40, [5, 6] * 41
        settings = {"max_tokens": 1, "temperature": 2.0}
        drawn = await run_all(draw(model, ids, seed=seed, **settings) for seed in range(60) for ids in (first, second))
        return sum(a.token_ids == b.token_ids for a, b in zip(drawn[::2], drawn[1::2], strict=True)) / 60

    ours = with_model(server, share_of_equal_draws, exact_logprobs=False)
    monkeypatch.setattr(http, "turn_seed", lambda seed, *, num_tokens: seed)  # noqa: ARG005
    same = with_model(server, share_of_equal_draws, exact_logprobs=False)
    assert (ours < 0.4, same > 0.7) == (True, True), (ours, same)


def test_the_kind_of_logprobs_is_found_out(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"temperature 1 for tokens drawn at temperature 2; set it to False"):
        with_model(server, draw, processed_logprobs=True)


def test_the_key_is_needed_and_in_no_message(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_KEY", "sk-wrong")
    for variable in ("OTHER_KEY", "NO_KEY"):
        with pytest.raises(EngineError, match=f"HTTP 401 .*put the server's key into .* {variable}") as caught:
            with_model(server, draw, api_key_variable=variable)
        assert "sk-" not in str(caught.value)


def test_a_context_that_is_full(server: Server) -> None:
    async def use(model: HTTPModel) -> None:
        assert model.max_length == CONTEXT - 1
        long = (IDS * 6)[: CONTEXT - 5]
        completion = await draw(model, long, max_tokens=50)
        assert (len(completion.token_ids), completion.stopped) == (4, False)
        whole = [*long, *completion.token_ids]
        scores = await model.score(whole, positions=range(len(long), len(whole)))
        assert scores == pytest.approx(completion.logprobs, abs=CLOSE)
        with pytest.raises(ModelError, match=f"at most the {CONTEXT - 1} positions .* got {CONTEXT} tokens"):
            await draw(model, whole, max_tokens=1)
        model._max_length = None  # a server that does not say its context
        for length, words in ((CONTEXT, "max_tokens must be"), (2 * CONTEXT, f"maximum context length is {CONTEXT}")):
            with pytest.raises(EngineError, match=f"HTTP 400 .*{words} .*max_response_tokens"):
                await model.score((IDS * 11)[:length], positions=[length - 1])

    with_model(server, use)


def test_episodes_with_tools_in_a_real_sandbox(server: Server) -> None:
    """What the server sampled over several turns is what it scores, observations and all."""

    async def use(model: HTTPModel) -> None:
        async with LocalSandbox(workers=2) as sandbox:
            agent = make_agent(
                sampler=model,
                tokenizer=load_tokenizer(str(MODEL)),
                sandbox=sandbox,
                limits=AgentConfig(max_prompt_tokens=400, max_response_tokens=500, max_turns=8),
                tool=ToolConfig(),
                sampling=SamplingConfig(),
            )
            trajectories = await run_all(agent.run(problem, seed=3) for problem in problems(6, seed=11))
        for trajectory in trajectories:
            assert trajectory.stop_reason is not StopReason.INFRASTRUCTURE, trajectory.detail
            sampled = [position for position, step in enumerate(trajectory.step) if step >= 0]
            scores = await model.score(trajectory.token_ids, positions=sampled)
            assert [trajectory.rollout_logprobs[position] for position in sampled] == pytest.approx(scores, abs=CLOSE)
        results = [result for trajectory in trajectories for result in trajectory.tool_results]
        assert sum(result.status is ToolStatus.OK for result in results) >= 6
        assert sum(trajectory.stop_reason is StopReason.ANSWERED for trajectory in trajectories) >= 4

    with_model(server, use)


@pytest.mark.parametrize("engine", ["server", "vllm"])
def test_an_evaluation_of_any_engine(server: Server, tmp_path: Path, engine: str) -> None:
    """`sod eval` on a server and on vLLM beside it: the demo's teacher solves its world, and nothing is lost."""
    rows = [{"id": each.id, "messages": list(each.messages), "answer": each.answer} for each in problems(6, seed=11)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = {"server": {"url": server.url}} if engine == "server" else {"dtype": "float32", "kv_cache_gib": 0.25}
    if engine == "vllm":
        how["vllm"] = {"compile": False, "max_length": CONTEXT}
    values = {
        "run": str(tmp_path / "run"),
        "model": {"path": str(MODEL), "engine": engine, **how},
        "benchmarks": [str(tmp_path / "sums.jsonl")],
        "samples": 2,
        "sampling": {"temperature": 1.0, "top_p": 1.0},
        "agent": {"max_prompt_tokens": 400, "max_response_tokens": 500, "max_turns": 8},
    }
    result = run_benchmarks(parse(EvalConfig, values))
    numbers = result["benchmarks"]["sums"]
    assert (numbers["num_samples"], numbers["num_failed"]) == (12, 0)
    assert numbers["avg@k"] >= 0.6
    assert numbers["tool_calls"] > 1
    assert result["settings"]["engine"] == engine
    assert KEY not in "".join(path.read_text() for path in (tmp_path / "run").glob("*.json*"))


def test_a_server_that_is_killed_is_an_engine_error_and_no_wait(server: Server) -> None:
    """The last test: there is no server after it."""

    async def use(model: HTTPModel) -> None:
        sampling = [asyncio.create_task(draw(model, max_tokens=800, seed=seed)) for seed in range(20)]
        await asyncio.sleep(0.5)
        assert not any(task.done() for task in sampling)
        os.killpg(server.process.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            failures = await asyncio.gather(*sampling, return_exceptions=True)
        assert {type(failure) for failure in failures} == {EngineError}
        assert "is it ready?" in str(failures[0])
        assert KEY not in "".join(map(str, failures))

    with_model(server, use, max_retries=2)

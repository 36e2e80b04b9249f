"""HTTPModel against a server on the loopback (faulty_completions.py) whose right answers are known."""

from __future__ import annotations

import asyncio
import logging
import math
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any, TypeVar

import pytest

from faulty_completions import FaultyCompletions
from faulty_server import dies_halfway, hangs, hangs_up, never_ends, says, until
from sod import transport
from sod.config import SamplingConfig
from sod.errors import ConfigError, EngineError, ModelError
from sod.models import Sampler, Scorer
from sod.models.http import HTTPModel
from sod.types import Completion

T = TypeVar("T")
IDS = [5, 6, 7, 8, 9]
KEY = "sk-very\"secret'0123456789"


def with_model(
    use: Callable[[FaultyCompletions, HTTPModel], Awaitable[T]],
    *,
    server: dict[str, Any] | None = None,
    **settings: Any,
) -> T:
    """What `use(server, model)` returns, with a server and a started model on it."""

    async def main() -> T:
        async with FaultyCompletions(**server or {}) as behind, HTTPModel(behind.url, **settings) as model:
            return await use(behind, model)

    return asyncio.run(main())


async def draw(model: HTTPModel, *, max_tokens: int = 8, seed: int = 1, stops: Any = (), **sampling: Any) -> Completion:
    return await model.sample(
        IDS,
        max_tokens=max_tokens,
        stop_token_ids=stops,
        sampling=SamplingConfig(**sampling),
        trajectory_id="p/0",
        seed=seed,
    )


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_BACKOFF_S", 0.01)


# Scoring


@pytest.mark.parametrize("way", ["prompt_logprobs", "echo"])
@pytest.mark.parametrize("strict", [False, True])
def test_scores_are_those_of_the_tokens_sent(way: str, strict: bool) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        scorer: Scorer = model
        assert model.scores_by == way
        assert await scorer.score(IDS, positions=[1, 2, 3, 4]) == pytest.approx(server.scores(IDS))
        assert await scorer.score(IDS, positions=[1, 3]) == pytest.approx(server.scores(IDS)[0:3:2])
        assert server.requests[-1]["prompt"] == IDS[:4]  # the last wanted token is the last sent
        assert way in server.requests[-1]
        num_requests = len(server.requests)
        assert await scorer.score(IDS, positions=[]) == ()
        assert len(server.requests) == num_requests

    with_model(use, server={"ways": [way], "strict": strict})


def test_prompt_logprobs_are_preferred_and_looked_for_once() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        await model.start()
        await asyncio.gather(*(model.score(IDS, positions=[4]) for _ in range(5)))
        assert model.scores_by == "prompt_logprobs"
        assert server.paths == ["/v1/models"] + ["/v1/completions"] * 6
        assert not any("echo" in request for request in server.requests)

    with_model(use)


@pytest.mark.parametrize("strict", [False, True])
def test_a_server_that_scores_nothing_is_refused_at_the_start(strict: bool) -> None:
    message = "must return log-probs of given tokens, got asked by prompt_logprobs: .* asked by echo: .*vllm serve"
    with pytest.raises(ModelError, match=message):
        with_model(lambda _, model: model.start(), server={"ways": [], "strict": strict})


def test_a_temperature_other_than_1_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"temperature 1 only, got 0\.6"):
        with_model(lambda _, model: model.score(IDS, positions=[1], temperature=0.6))


def test_positions_must_ascend_from_1() -> None:
    async def use(_: FaultyCompletions, model: HTTPModel) -> None:
        for positions in ([0], [2, 1], [1, 1], [5]):
            with pytest.raises(AssertionError, match="positions must"):
                await model.score(IDS, positions=positions)
        with pytest.raises(ModelError, match="got no tokens"):
            await model.score([], positions=[])

    with_model(use)


def set_prompt_logprob(value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(choice: dict[str, Any]) -> None:
        choice["prompt_logprobs"][2]["7"]["logprob"] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice["prompt_logprobs"].insert(1, choice["prompt_logprobs"][1]), "must have 5 entries.* 6"),
        (lambda choice: choice["prompt_logprobs"].pop(), "must have 5 entries, one per token, got 4"),
        (lambda choice: choice["prompt_logprobs"].reverse(), "must begin with null"),
        (lambda choice: choice["prompt_logprobs"].append(choice["prompt_logprobs"].pop(1)), "token that was sent, 6"),
        (lambda choice: choice["prompt_logprobs"].__setitem__(3, None), "token that was sent, 8, got null"),
        (lambda choice: choice["prompt_logprobs"][3].update({"8": -1.0}), "token that was sent, 8"),
        (lambda choice: choice.update(prompt_logprobs="-1 -2"), "must be list"),
        (set_prompt_logprob(math.nan), "finite number of at most 0, got NaN"),
        (set_prompt_logprob(-math.inf), "got -Infinity"),
        (set_prompt_logprob(-9999.0), "got -9999.0"),
        (set_prompt_logprob(3.5), "got 3.5"),
        (set_prompt_logprob(-(10**400)), "a log-prob must be"),
        (set_prompt_logprob(None), "got null"),
        (set_prompt_logprob(True), "got true"),
        (set_prompt_logprob("-1"), 'got "-1"'),
        (set_prompt_logprob([[[]]]), "a log-prob must be"),
    ],
)
def test_scores_of_a_lying_server_are_refused(change: Any, message: str) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.change = change
        with pytest.raises(EngineError, match=message):
            await model.score(IDS, positions=[1, 2, 3, 4])

    with_model(use)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice["logprobs"]["token_logprobs"].extend([-1.0]), "must have 5 entries.* 7"),
        (lambda choice: choice["logprobs"].update(token_logprobs=[None, -1.0]), "must have 5 entries.* 2"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, -1.0), "must begin with null"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(2, None), "got null"),
        (lambda choice: choice.update(prompt_token_ids=[1, 5, 6, 7, 8]), "the 5 tokens that were sent, got others"),
        (lambda choice: choice.update(logprobs=None), "must hold token_logprobs"),
    ],
)
def test_echoed_scores_of_a_lying_server_are_refused(change: Any, message: str) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.change = change
        with pytest.raises(EngineError, match=message):
            await model.score(IDS, positions=[1, 2, 3, 4])

    with_model(use, server={"ways": ["echo"]})


def test_an_echo_without_a_sampled_token_is_as_good() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.change = lambda choice: choice["logprobs"]["token_logprobs"].pop()
        assert await model.score(IDS, positions=[4]) == pytest.approx(server.scores(IDS)[3:])

    with_model(use, server={"ways": ["echo"]})


# Sampling


def test_a_completion_is_the_servers_tokens_with_their_logprobs() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        sampler: Sampler = model
        assert (model.policy_version, model.scores_by) == (0, "")
        completion = await draw(model)
        whole = [*IDS, *completion.token_ids]
        assert len(completion.token_ids) == 8
        assert completion.logprobs == pytest.approx(server.scores(whole)[len(IDS) - 1 :])
        assert (completion.stopped, completion.policy_version) == (False, 0)
        request = server.requests[-1]
        assert (request["ignore_eos"], request["return_token_ids"]) == (True, True)
        assert (request["repetition_penalty"], request["min_p"], request["top_k"]) == (1.0, 0.0, 0)
        sampler.release("p/0")

    with_model(use, roles=["sampler"])


def test_a_stop_token_ends_a_turn_and_is_kept() -> None:
    async def use(_: FaultyCompletions, model: HTTPModel) -> None:
        free = await draw(model, max_tokens=12)
        stop = free.token_ids[5]
        completion = await draw(model, max_tokens=12, stops={stop})
        assert completion.token_ids == free.token_ids[: free.token_ids.index(stop) + 1]
        assert completion.stopped

    with_model(use, roles=["sampler"])


def test_draws_go_by_the_seed_and_the_number_of_tokens() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        assert await draw(model, seed=3) == await draw(model, seed=3)
        assert await draw(model, seed=3) != await draw(model, seed=4)
        await draw(model, seed=2**90)
        await model.sample(
            [*IDS, 1], max_tokens=1, stop_token_ids=(), sampling=SamplingConfig(), trajectory_id="p/0", seed=3
        )
        seeds = [request["seed"] for request in server.requests[-4:]]
        assert len(set(seeds)) == 4
        assert all(0 <= seed < 2**63 for seed in seeds)

    with_model(use, roles=["sampler"])


def test_raw_logprobs_fit_temperatures_0_and_1_only() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        for sampling in ({"temperature": 0.0}, {"top_p": 0.6, "top_k": 5}):
            completion = await draw(model, **sampling)
            whole = [*IDS, *completion.token_ids]
            assert completion.logprobs == pytest.approx(server.scores(whole)[len(IDS) - 1 :])
        with pytest.raises(ConfigError, match=r"must be 1 \(or 0\), got 0\.6; or run `vllm serve --logprobs-mode"):
            await draw(model, temperature=0.6)

    with_model(use, roles=["sampler"])


def test_processed_logprobs_are_of_the_temperature() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        completion = await draw(model, temperature=0.6)
        whole = [*IDS, *completion.token_ids]
        for index, token in enumerate(completion.token_ids):
            expected = server.logprobs(whole[: len(IDS) + index], temperature=0.6)[token]
            assert completion.logprobs[index] == pytest.approx(expected)

    with_model(use, server={"processed": True}, roles=["sampler"], processed_logprobs=True)


@pytest.mark.parametrize("processed", [False, True])
def test_the_kind_of_logprobs_must_be_the_one_that_was_said(processed: bool) -> None:
    with pytest.raises(ConfigError, match=f"set it to {processed}"):
        with_model(
            lambda _, model: draw(model),
            server={"processed": processed},
            roles=["sampler"],
            processed_logprobs=not processed,
        )


@pytest.mark.parametrize("processed", [False, True])
def test_rounding_does_not_look_like_another_kind_of_logprobs(processed: bool) -> None:
    """bfloat16 logits round by up to 0.06, and differently in sampling and in scoring."""

    def blur(choice: dict[str, Any]) -> None:
        listed = choice["logprobs"]["token_logprobs"] if choice["logprobs"] else []
        listed[:] = [logprob + 0.06 * (-1) ** index - 0.06 for index, logprob in enumerate(listed)]

    async def main() -> None:
        async with FaultyCompletions(processed=processed) as server:
            server.change = blur
            async with HTTPModel(server.url, roles=["sampler"], processed_logprobs=processed) as model:
                assert len((await draw(model)).token_ids) == 8

    asyncio.run(main())


def test_where_nobody_reads_logprobs_any_temperature_will_do() -> None:
    completion = with_model(
        lambda _, model: draw(model, temperature=0.6), roles=["sampler"], exact_logprobs=False, server={"ways": []}
    )
    assert len(completion.token_ids) == 8


def test_a_server_without_token_ids_is_refused_at_the_start() -> None:
    with pytest.raises(
        ModelError, match=r"must return token ids .* must hold token_ids, got none\. Serve the model with"
    ):
        with_model(lambda _, model: model.start(), server={"has_ids": False}, roles=["sampler"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda choice: choice["token_ids"].append(1), "must be 1 to 8 token ids, got 9"),
        (lambda choice: choice["token_ids"].clear(), "got 0"),
        (lambda choice: choice["token_ids"].__setitem__(0, -1), "must be 1 to 8 token ids"),
        (lambda choice: choice["token_ids"].__setitem__(0, "1"), "must be 1 to 8 token ids"),
        (lambda choice: choice["token_ids"].__setitem__(0, 2.0), "must be 1 to 8 token ids"),
        (lambda choice: choice["token_ids"].__setitem__(0, 63), "must end at its first stop token, got more after 63"),
        (lambda choice: choice.update(finish_reason="stop"), 'token .* and finish_reason "stop"'),
        (lambda choice: choice.update(finish_reason="abort"), "abort"),
        (lambda choice: choice["logprobs"]["token_logprobs"].pop(), "must have 8 entries, one per token, got 7"),
        (lambda choice: choice["logprobs"]["token_logprobs"].__setitem__(0, math.nan), "got NaN"),
        (lambda choice: choice.update(prompt_token_ids=[1, *IDS]), "the 5 tokens that were sent, got others"),
        (lambda choice: choice.update(token_ids=None), "must hold token_ids"),
    ],
)
def test_completions_of_a_lying_server_are_refused(change: Any, message: str) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        assert 63 not in (await draw(model)).token_ids
        server.change = change
        with pytest.raises(EngineError, match=message):
            await draw(model, stops=[63])

    with_model(use, roles=["sampler"])


# The model and its context


def test_the_only_model_is_taken_with_its_context() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        assert (model.model, model.max_length) == ("tiny", 99)
        assert {request["model"] for request in server.requests} == {"tiny"}

    with_model(use)


@pytest.mark.parametrize(
    ("names", "model", "message"),
    [
        (["a", "b"], "", r'must serve one model, got \["a", "b"\]; name'),
        ([], "", r"must serve one model, got \[\]"),
        (["a", "b"], "c", r'must serve the model "c", got \["a", "b"\]'),
    ],
)
def test_a_model_that_is_not_clear_is_refused(names: list[str], model: str, message: str) -> None:
    async def main() -> None:
        async with FaultyCompletions() as server:
            server.listed = {"data": [{"id": name} for name in names]}
            with pytest.raises(ConfigError, match=message):
                async with HTTPModel(server.url, model=model):
                    pass

    asyncio.run(main())


@pytest.mark.parametrize("listed", [None, {"data": [{"id": "a"}, {"id": "b", "max_model_len": "long"}]}])
def test_a_named_model_needs_no_context_length(listed: Any) -> None:
    async def main() -> None:
        async with FaultyCompletions() as server:
            server.listed = listed
            async with HTTPModel(f"{server.url}/v1/", model="b") as model:
                assert (model.model, model.max_length) == ("b", None)
                assert len(await model.score(IDS, positions=[4])) == 1

    asyncio.run(main())


@pytest.mark.parametrize("listed", [[], {"data": {}}, {"data": [1]}, {"data": [{"id": 3}]}])
def test_a_list_of_models_that_is_none_is_an_engine_error(listed: Any) -> None:
    async def main() -> None:
        async with FaultyCompletions() as server:
            server.listed = listed or {"x": 1}
            with pytest.raises(EngineError, match="in a reply must be"):
                async with HTTPModel(server.url):
                    pass

    asyncio.run(main())


def test_the_context_is_kept_to() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        completion = await draw(model, max_tokens=50)
        assert (len(completion.token_ids), completion.stopped) == (29 - len(IDS), False)
        whole = [*IDS, *completion.token_ids]
        assert await model.score(whole, positions=range(len(IDS), 29)) == pytest.approx(completion.logprobs)
        assert len(await model.score([1] * 29, positions=[28])) == 1
        num_requests = len(server.requests)
        with pytest.raises(ModelError, match=r"at most the 29 positions .* got 30 tokens"):
            await model.score([1] * 30, positions=[29])
        with pytest.raises(ModelError, match="at most the 29 positions"):
            await model.sample(
                whole, max_tokens=1, stop_token_ids=(), sampling=SamplingConfig(), trajectory_id="", seed=1
            )
        assert len(server.requests) == num_requests

    with_model(use, server={"max_model_len": 30}, roles=["sampler", "scorer"])


def test_a_request_beyond_an_unknown_context_is_refused_once_in_the_servers_words() -> None:
    async def main() -> None:
        async with FaultyCompletions(max_model_len=30) as server:
            server.listed = None
            async with HTTPModel(server.url, model="tiny") as model:
                num_requests = len(server.requests)
                with pytest.raises(EngineError, match=r"HTTP 400 .*maximum context length is 30 .*max_response_tokens"):
                    await model.score([1] * 30, positions=[29])
                assert len(server.requests) == num_requests + 1

    asyncio.run(main())


# Servers that fail


@pytest.mark.parametrize(
    "failure",
    [
        says({"error": {"message": "busy"}}, status="500 Internal Server Error"),
        says(b"<html>bad gateway</html>", status="502 Bad Gateway"),
        says({}, status="503 Service Unavailable"),
        says({}, status="429 Too Many Requests"),
        hangs_up,
        dies_halfway,
    ],
)
def test_what_passes_is_tried_again(failure: Any) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        num_requests = len(server.requests)
        server.script = [failure, failure, failure]
        assert await model.score(IDS, positions=[4]) == pytest.approx(server.scores(IDS)[3:])
        assert len(server.requests) == num_requests + 4

    with_model(use, max_retries=3)


def test_what_does_not_pass_is_given_up() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        num_requests = len(server.requests)
        server.broken = says({"error": {"message": "CUDA error"}}, status="500 Internal Server Error")
        with pytest.raises(EngineError, match="must answer /v1/completions, got in 3 tries: HTTP 500 'CUDA error'"):
            await model.score(IDS, positions=[4])
        assert len(server.requests) == num_requests + 3

    with_model(use, max_retries=2)


@pytest.mark.parametrize(
    ("status", "cure"),
    [("401 Unauthorized", "environment variable SOD_API_KEY"), ("404 Not Found", "base URL"), ("418 Teapot", "")],
)
def test_other_refusals_are_final(status: str, cure: str) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        num_requests = len(server.requests)
        server.broken = says({"detail": "no" * 1000}, status=status)
        with pytest.raises(EngineError, match=f"HTTP {status[:3]} 'nono.*{cure}") as caught:
            await model.score(IDS, positions=[4])
        assert len(server.requests) == num_requests + 1
        assert len(str(caught.value)) < 600

    with_model(use)


def test_the_servers_retry_after_is_waited_for() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.script = [says({}, status="429 Too Many Requests", headers="Retry-After: 0.4\r\n")]
        started = time.monotonic()
        await model.score(IDS, positions=[4])
        assert 0.4 <= time.monotonic() - started < 5

    with_model(use)


def test_retry_after_is_a_number_or_a_date_and_bounded() -> None:
    assert transport._retry_after_s("2") == 2.0
    assert transport._retry_after_s("1e9") == transport.LONGEST_RETRY_AFTER_S
    assert 20 < transport._retry_after_s(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert [transport._retry_after_s(text) for text in ("", "soon", "nan", "inf", "-5", "Mon, 99 Foo 1 x")] == [0.0] * 6


def test_a_server_that_hangs_is_left() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.broken = hangs
        with pytest.raises(EngineError, match=r"in 2 tries: no answer within 0\.3 s"):
            await model.score(IDS, positions=[4])
        await until(lambda: server.num_hung_up == 2)

    with_model(use, timeout_s=0.3, max_retries=1)


def test_no_server_at_all_is_one_clear_error() -> None:
    async def main() -> None:
        async with FaultyCompletions() as server:
            url = server.url
        with pytest.raises(EngineError, match=f"{url} must answer /v1/models, got in 2 tries: ConnectError.*ready"):
            async with HTTPModel(url, max_retries=1):
                pass

    asyncio.run(main())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (says(b"<html>hello"), "must be JSON, got '<html>hello'"),
        (says(b""), "must be JSON"),
        (says(b"[" * 90_000), "must be JSON"),
        (says(b"\xff\xfe"), "must be JSON"),
        (says(b"1" * 10_000), "must be JSON"),
        (says([]), "choices in a reply must be list, got null"),
        (says({"choices": []}), "choices must hold one choice, got 0"),
        (says({"choices": [1]}), "choices must hold one choice, got 1"),
        (says({"choices": [{}, {}]}), "choices must hold one choice, got 2"),
        (says({"choices": {"0": {}}}), "choices in a reply must be list"),
        (never_ends, "must be at most 100000 bytes"),
    ],
)
def test_a_reply_that_is_none_is_refused_at_once(answer: Any, message: str) -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        num_requests = len(server.requests)
        server.broken = answer
        with pytest.raises(EngineError, match=message):
            await model.score(IDS, positions=[4])
        assert len(server.requests) == num_requests + 1

    with_model(use, max_reply_bytes=100_000)


# Concurrency


def test_no_more_than_max_concurrent_requests_are_under_way() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.gate.clear()
        server.most_running = 0
        scoring = [asyncio.create_task(model.score(IDS, positions=[4])) for _ in range(20)]
        await until(lambda: server.num_running == 3)
        server.gate.set()
        assert len(set(await asyncio.gather(*scoring))) == 1
        assert server.most_running == 3

    with_model(use, max_concurrent=3)


def test_a_cancelled_call_leaves_the_server_and_frees_its_place() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.gate.clear()
        scoring = asyncio.create_task(model.score(IDS, positions=[4]))
        await until(lambda: server.num_running == 1)
        scoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scoring
        await until(lambda: server.num_hung_up == 1)
        server.gate.set()
        assert len(await model.score(IDS, positions=[4])) == 1

    with_model(use, max_concurrent=1)


def test_closing_ends_what_runs_and_what_waits_for_another_try() -> None:
    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        server.script = [hangs, says({}, status="503 Service Unavailable", headers="Retry-After: 60\r\n")]
        num_requests = len(server.requests)
        scoring = [asyncio.create_task(model.score(IDS, positions=[4])) for _ in range(2)]
        await until(lambda: len(server.requests) == num_requests + 2)
        await model.aclose()
        results = await asyncio.gather(*scoring, return_exceptions=True)
        assert [type(result) for result in results] == [EngineError] * 2
        assert "was closed while" in str(results[0])
        with pytest.raises(EngineError, match="the model is closed and answers nothing"):
            await model.score(IDS, positions=[4])
        await model.aclose()
        await until(lambda: server.num_running == 0)

    with_model(use)


def test_a_model_made_outside_a_loop_is_used_and_closed_in_one() -> None:
    model = HTTPModel("http://127.0.0.1:1", roles=["sampler", "scorer"], max_concurrent=1)

    async def main() -> None:
        async with FaultyCompletions() as server:
            model.url = server.url  # known only here
            async with model:
                scores = await asyncio.gather(*(model.score(IDS, positions=[4]) for _ in range(3)))
                assert len(set(scores)) == 1
                await draw(model)
            await until(lambda: not server._connections)

    asyncio.run(main())


def test_a_start_that_fails_leaves_no_connection() -> None:
    async def main() -> None:
        async with FaultyCompletions(ways=[]) as server:
            with pytest.raises(ModelError):
                async with HTTPModel(server.url):
                    pass
            await until(lambda: not server._connections)

    asyncio.run(main())


# The key and the URL


def test_the_key_goes_into_the_header_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    errors: list[str] = []

    async def use(server: FaultyCompletions, model: HTTPModel) -> None:
        assert server.headers["authorization"] == f"Bearer {KEY}"
        assert KEY not in repr(model) + repr(vars(model)) + str(server.requests)
        quotes = {"error": {"message": f"{'x' * 290} bad key {KEY}, {KEY}"}}
        for status in ("400 Bad Request", "401 Unauthorized", "500 Internal Server Error"):
            server.broken = says(quotes, status=status)
            errors.append(str(await failure(model)))
        assert "variable MY_KEY" in errors[1]
        for reply in (KEY.encode(), b"x" * 290 + KEY.encode(), quotes, {"choices": [{"prompt_logprobs": KEY}]}):
            server.broken = says(reply)
            errors.append(str(await failure(model)))
        server.listed = {"data": [{"id": KEY}, {"id": "x" * 270 + KEY}]}
        async with HTTPModel(server.url, model="tiny", api_key_variable="MY_KEY") as other:
            errors.append(str(await failure(other)))

    async def failure(model: HTTPModel) -> Exception:
        with pytest.raises((EngineError, ConfigError)) as caught:
            await model.score(IDS, positions=[4])
        return caught.value

    with pytest.raises(ConfigError) as caught:
        with_model(use, api_key_variable="MY_KEY", max_retries=1)
    errors.append(str(caught.value))
    assert len(errors) == 8
    for text in (*errors, caplog.text):
        assert "secret" not in text
        assert "sk-v" not in text


def test_without_a_key_no_header_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOD_API_KEY", raising=False)

    async def use(server: FaultyCompletions, _: HTTPModel) -> None:
        assert "authorization" not in server.headers

    with_model(use)


def test_a_key_that_no_header_can_hold_is_refused_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOD_API_KEY", "secret\nkey")
    with pytest.raises(ConfigError, match="SOD_API_KEY must be visible ASCII") as caught:
        HTTPModel("http://127.0.0.1:1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://10.0.0.5:8000", "http://10.0.0.5:8000"),
        (" http://h:8000/v1/ ", "http://h:8000"),
        ("https://h/llm/v1/completions", "https://h/llm"),
    ],
)
def test_urls_with_and_without_v1_are_one(url: str, base: str) -> None:
    assert HTTPModel(url).url == base


@pytest.mark.parametrize(
    "url",
    [
        *("", "10.0.0.5:8000", "ftp://h", "http://", "http://h:x", "http://<host>:8000", 3),
        *("http://h/v1?key=hidden", "http://h#hidden", "user:hidden@h:8000"),
    ],
)
def test_a_url_that_cannot_be_meant_is_refused(url: Any) -> None:
    with pytest.raises(ConfigError, match="the URL of") as caught:
        HTTPModel(url)
    assert "hidden" not in str(caught.value)


def test_a_password_in_a_url_is_refused_unseen() -> None:
    with pytest.raises(ConfigError, match="must not hold a password; put the key into SOD_API_KEY") as caught:
        HTTPModel("http://user:hidden@h:8000")
    assert "hidden" not in str(caught.value)


def test_importing_takes_neither_torch_nor_httpx() -> None:
    code = "import sys, sod.models.http; print({'torch', 'httpx', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

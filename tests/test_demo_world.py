"""The embedded world: right answers, traces that the real interpreter confirms, models that load as any other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from sod.chat import Chat, load_tokenizer
from sod.config import SandboxConfig, ToolConfig
from sod.demo import world
from sod.demo.pretrained import SIZES, make_tokenizer, write_model
from sod.sandbox import make_sandbox
from sod.tools import CodeInterpreter, interpreter_schema
from sod.types import ToolStatus


def test_problems_depend_on_their_seed_alone() -> None:
    assert list(world.problems(20, seed=1)) == list(world.problems(20, seed=1))
    assert list(world.problems(30, seed=1))[:20] == list(world.problems(20, seed=1))
    texts = {problem.messages[0]["content"] for seed in range(4) for problem in world.problems(500, seed=seed)}
    assert len(texts) == 2000, "problems must not repeat, or a student could memorise them"


def test_every_operation_wording_and_length_occurs() -> None:
    chains = list(world._chains(600, seed=3))
    assert {len(chain.steps) for chain in chains} == {2, 3, 4, 5}
    assert {step.operation for chain in chains for step in chain.steps} == set(world.OPERATIONS)
    text = " ".join(chain.text for chain in chains)
    for operation in world.OPERATIONS:
        for wording in operation.wordings:
            assert wording.partition("{n}")[0] in text


def test_traces_are_what_the_interpreter_says() -> None:
    """Every call of a trace is run for real; its observation and the final answer must be the interpreter's own."""
    traces = list(world.traces(40, seed=5))
    problems = list(world.problems(40, seed=5))

    async def observations() -> list[list[tuple[ToolStatus, str]]]:
        async with make_sandbox(SandboxConfig(preload=())) as sandbox:
            tool = CodeInterpreter(sandbox, config=ToolConfig())
            return [
                [
                    (result.status, result.text)
                    for message in trace
                    for call in message.get("tool_calls", ())
                    for result in [await tool.call(call["function"]["arguments"])]
                ]
                for trace in traces
            ]

    seen = asyncio.run(observations())
    for trace, real, problem in zip(traces, seen, problems, strict=True):
        assert [text for _, text in real] == [m["content"] for m in trace if m["role"] == "tool"]
        assert trace[0]["content"] == problem.messages[0]["content"]
        assert real[-1] == (ToolStatus.OK, problem.answer)
        assert trace[-1]["content"] == f"The answer is \\boxed{{{problem.answer}}}."
    statuses = [status for real in seen for status, _ in real]
    assert ToolStatus.ERROR in statuses, "some calls must fail and be repaired"


def test_the_template_and_tokenizer_hold_for_whole_dialogues() -> None:
    tokenizer = make_tokenizer()
    schema = interpreter_schema(ToolConfig())
    chat = Chat(tokenizer, tools=[schema])
    for trace in world.traces(20, seed=9):
        record = chat.trace_ids(trace)
        whole = tokenizer.apply_chat_template(list(trace), tools=[schema], tokenize=False)
        assert chat.text(record.token_ids) == whole.removesuffix("\n")
        assert max(record.step) + 1 == sum(message["role"] == "assistant" for message in trace)


def test_digits_are_single_tokens() -> None:
    tokenizer = make_tokenizer()
    assert len(tokenizer.encode("90210", add_special_tokens=False)) == 5


@pytest.mark.parametrize("size", sorted(SIZES))
def test_a_written_model_loads_like_any_other(size: str, tmp_path: Path) -> None:
    from sod.config import ModelConfig
    from sod.models.hf import HFModel

    write_model(size, tmp_path / size, seed=0)
    model = HFModel.load(ModelConfig(path=str(tmp_path / size)))
    assert model.vocab_size == len(load_tokenizer(str(tmp_path / size)).get_vocab())

"""Tokens per CPU second of `HFModel.sample` against transformers' `generate`, on a tiny Qwen3.

    python benchmarks/decode.py [--rows 16 64 256] [--tokens 100] [--repeats 5]

Both draw every token at temperature 1 from prompts of 40 tokens. Runs alternate in one process and the median counts,
so that a noisy machine disturbs both alike. Three loads: every row ends at the same length, which suits `generate`
best; lengths spread evenly from a tenth of it to nearly twice, where `generate` runs until the longest; and, for ours
alone, four turns with a tool in between, where rows leave, park and come back. `generate` returns no log-probs here.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from sod.config import SamplingConfig
from sod.models.hf import HFModel

VOCAB = 512
NUM_PROMPT_TOKENS = 40
NUM_TURNS = 4


def tiny_qwen3() -> Qwen3ForCausalLM:
    """3 layers of 128, 4 heads, 0.8 M parameters."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=4096,
    )
    return Qwen3ForCausalLM(config).eval()


async def sample_all(model: HFModel, prompts: list[list[int]], *, budgets: list[int], num_turns: int = 1) -> None:
    """Every prompt continued by its budget in `num_turns` turns, four tokens of observation and 5 ms between."""

    async def one(index: int) -> None:
        token_ids = prompts[index]
        for turn in range(num_turns):
            completion = await model.sample(
                token_ids,
                max_tokens=budgets[index] // num_turns,
                stop_token_ids=(),
                sampling=SamplingConfig(),
                trajectory_id=str(index),
                seed=index,
            )
            token_ids = [*token_ids, *completion.token_ids, *prompts[index][:4]]
            await asyncio.sleep(0.005 * (turn < num_turns - 1))
        model.release(str(index))

    await asyncio.gather(*(one(index) for index in range(len(prompts))))


def generate_all(model: HFModel, prompts: list[list[int]], *, num_tokens: int) -> None:
    """The same with transformers' own loop."""
    token_RT = torch.tensor(prompts)
    model.module.generate(
        token_RT,
        attention_mask=torch.ones_like(token_RT),
        do_sample=True,
        top_k=0,
        max_new_tokens=num_tokens,
        min_new_tokens=num_tokens,
        pad_token_id=0,
    )


def seconds(run: Callable[[], None]) -> float:
    """CPU time of one run, over its threads: what others do on the machine counts less than in wall time."""
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(model: HFModel, *, num_rows: int, num_tokens: int, repeats: int) -> list[float]:
    """Median tokens per CPU second: even lengths by generate and ours, uneven lengths by both, turns by ours."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(1, VOCAB, (num_rows, NUM_PROMPT_TOKENS), generator=generator).tolist()
    even = [num_tokens] * num_rows
    uneven = [num_tokens * (2 + 36 * index // (num_rows - 1)) // 20 for index in range(num_rows)]
    runs: list[tuple[list[int], Callable[[], None]]] = [
        (even, lambda: generate_all(model, prompts, num_tokens=num_tokens)),
        (even, lambda: asyncio.run(sample_all(model, prompts, budgets=even))),
        (uneven, lambda: generate_all(model, prompts, num_tokens=max(uneven))),
        (uneven, lambda: asyncio.run(sample_all(model, prompts, budgets=uneven))),
        (even, lambda: asyncio.run(sample_all(model, prompts, budgets=even, num_turns=NUM_TURNS))),
    ]
    for _, run in runs:
        run()
    times = [[seconds(run) for _, run in runs] for _ in range(repeats)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return [sum(budgets) / median for (budgets, _), median in zip(runs, medians, strict=True)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--tokens", type=int, default=100, help="tokens sampled per row, a multiple of 4")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    model = HFModel(tiny_qwen3(), max_rows=max(arguments.rows))
    print(
        f"tokens per CPU second; {arguments.tokens} tokens a row, {arguments.repeats} runs, {arguments.threads} threads"
    )
    print(f"{'':>6} {'even lengths':^29} {'uneven lengths':^29} {f'{NUM_TURNS} turns':>9}")
    print(f"{'rows':>6} " + f"{'generate':>10} {'ours':>9} {'ratio':>8} " * 2 + f"{'ours':>9}")
    for num_rows in arguments.rows:
        figures = measure(model, num_rows=num_rows, num_tokens=arguments.tokens, repeats=arguments.repeats)
        pairs = [(figures[0], figures[1]), (figures[2], figures[3])]
        columns = "".join(f"{plain:>10.0f} {ours:>9.0f} {ours / plain:>7.2f}x " for plain, ours in pairs)
        print(f"{num_rows:>6} {columns}{figures[4]:>9.0f}")


if __name__ == "__main__":
    main()

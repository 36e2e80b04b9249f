"""Tokens per second of rollouts with tools: transformers here, vLLM beside it, and plain `generate` turn by turn.

    python benchmarks/engine.py [--model DIRECTORY] [--rows 16 64] [--repeats 3] [--dtype float32] [--out FILE]

Each of `rows` trajectories samples `--turns` turns of `--tokens` tokens; after each a real sandbox runs a line of
Python and 32 tokens of observation are appended. Lengths are forced, so that every engine does the same work. All
engines stand in one process and take turns; the first round of each is not counted.

`generate` is what a plain loop does: it waits until every trajectory wants its next turn, pads them on the left, and
reads the whole dialogue again. vLLM is measured where it is installed (see docs/engines.md), compiled and with graphs
unless `--eager`. The default model is the demo's teacher; any directory of a model does.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any

# Before torch: one thread for each engine's process by default.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch

from sod.config import ModelConfig, SamplingConfig, SandboxConfig, VLLMConfig
from sod.models.hf import HFModel
from sod.sandbox import Sandbox, make_sandbox
from sod.types import Completion

NUM_PROMPT_TOKENS = 200
NUM_OBSERVED_TOKENS = 32


class Generate:
    """transformers' own `generate`, a batch a turn: as many turns as `rows` are answered together."""

    def __init__(self, module: Any, *, rows: int) -> None:
        self._module = module
        self._rows = rows
        self._waiting: list[tuple[Sequence[int], int, asyncio.Future[Completion]]] = []

    async def sample(self, token_ids: Sequence[int], *, max_tokens: int, **_settings: Any) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((token_ids, max_tokens, future))
        if len(self._waiting) == self._rows:
            waiting, self._waiting = self._waiting, []
            for (_, _, each), drawn in zip(waiting, self._generate(waiting), strict=True):
                each.set_result(Completion(token_ids=drawn, logprobs=(), stopped=False))
        return await future

    def release(self, trajectory_id: str) -> None:
        """Nothing is kept."""

    def _generate(self, waiting: Sequence[tuple[Sequence[int], int, Any]]) -> list[tuple[int, ...]]:
        longest = max(len(ids) for ids, _, _ in waiting)
        token_RT = torch.tensor([[0] * (longest - len(ids)) + list(ids) for ids, _, _ in waiting])
        mask_RT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids, _, _ in waiting])
        num_tokens = waiting[0][1]
        with torch.inference_mode():
            out_RT = self._module.generate(
                token_RT,
                attention_mask=mask_RT,
                do_sample=True,
                top_k=0,
                max_new_tokens=num_tokens,
                min_new_tokens=num_tokens,
                pad_token_id=0,
            )
        return [tuple(row) for row in out_RT[:, longest:].tolist()]


async def rollouts(engine: Any, sandbox: Sandbox, prompts: Sequence[Sequence[int]], *, turns: int, tokens: int) -> None:
    """All trajectories at once."""

    async def one(index: int) -> None:
        token_ids = list(prompts[index])
        for turn in range(turns):
            completion = await engine.sample(
                token_ids,
                max_tokens=tokens,
                stop_token_ids=_NONE,
                sampling=SamplingConfig(),
                trajectory_id=str(index),
                seed=index,
            )
            assert len(completion.token_ids) == tokens
            if turn < turns - 1:
                await sandbox.run("print(6 * 7)", timeout_s=10.0)
                token_ids += [*completion.token_ids, *prompts[index][:NUM_OBSERVED_TOKENS]]
        engine.release(str(index))

    await asyncio.gather(*(one(index) for index in range(len(prompts))))


_NONE: Collection[int] = ()


async def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Wall times of every engine at every number of rows."""
    config = ModelConfig(path=options.model, device="cpu", dtype=options.dtype, max_rows=max(options.rows))
    results = []
    async with AsyncExitStack() as stack:
        sandbox = await stack.enter_async_context(make_sandbox(SandboxConfig(preload=(), memory_mb=256)))
        model = HFModel.load(config)
        engines: dict[str, Any] = {"hf": model}
        if importlib.util.find_spec("vllm"):
            from sod.models.vllm import VLLMModel

            settings = VLLMConfig(compile=not options.eager, max_length=2000)
            vllm = VLLMModel(config.model_copy(update={"engine": "vllm", "vllm": settings}), scores=False)
            engines["vllm"] = await stack.enter_async_context(vllm)
        for rows in options.rows:
            generator = torch.Generator().manual_seed(0)
            prompts = torch.randint(10, 600, (rows, NUM_PROMPT_TOKENS), generator=generator).tolist()
            engines["generate"] = Generate(model.module, rows=rows)
            times: dict[str, list[float]] = {name: [] for name in engines}
            for repeat in range(options.repeats + 1):
                for name, engine in engines.items():
                    start = time.perf_counter()
                    await rollouts(engine, sandbox, prompts, turns=options.turns, tokens=options.tokens)
                    if repeat:
                        times[name].append(time.perf_counter() - start)
            sampled = rows * options.turns * options.tokens
            results += [{"rows": rows, "engine": name, "tokens": sampled, "times_s": t} for name, t in times.items()]
    return results


def table(results: Sequence[dict[str, Any]]) -> str:
    """Tokens per second, medians with their spread, and the ratio to `generate` at as many rows."""
    lines = ["| rows | engine | tokens/s (min..max) | against generate |", "|---|---|---|---|"]
    for result in results:
        plain = next(r for r in results if r["rows"] == result["rows"] and r["engine"] == "generate")
        speed = [result["tokens"] / seconds for seconds in result["times_s"]]
        ratio = statistics.median(plain["times_s"]) / statistics.median(result["times_s"])
        lines.append(
            f"| {result['rows']} | {result['engine']} | {statistics.median(speed):,.0f} "
            f"({min(speed):,.0f}..{max(speed):,.0f}) | {ratio:.1f}x |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(files("sod.demo") / "weights" / "teacher"))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--rows", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = asyncio.run(measure(options))
    print(table(results))
    if options.out:
        settings = {"model": Path(options.model).name, "dtype": options.dtype, "results": results}
        options.out.write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

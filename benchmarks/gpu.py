"""Teacher scoring and a student's update on one GPU: tokens per second, and share of what the GPU can multiply.

    python benchmarks/gpu.py [--trajectories 16] [--repeats 3] [--gradient-checkpointing] [--out FILE]
    python benchmarks/gpu.py --small        # a check on any machine: the same code on tiny models

Qwen3-0.6B as student and Qwen3-4B as teacher, from their shapes with random weights, bfloat16; trajectories of 2,560
prompt and 4,096 response tokens, sampled throughout. The update is forward, loss, backward, and an optimizer step with
float32 master weights. Floating-point operations are those of the model (forward, and twice as many backward), causal
attention at half, the head at the sampled tokens only; recomputation is not counted as work. The ceiling is the best of
20 products of 8,192 x 8,192 bfloat16 matrices.

Goal: 40 % of the ceiling for scoring, 30 % for the update.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.algorithm import policy_loss
from sod.config import OptimizerConfig
from sod.models.hf import HFModel
from sod.optimizer import Optimizer

COMMON = {"vocab_size": 151936, "head_dim": 128, "num_key_value_heads": 8, "tie_word_embeddings": True}
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3-0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        **COMMON,
    },
    "Qwen3-4B": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        **COMMON,
    },
}
TINY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 2000}


def build(name: str, *, device: torch.device, small: bool) -> Any:
    """A model of random weights, made on its device."""
    config = Qwen3Config(**{**SHAPES[name], **(TINY if small else {})}, max_position_embeddings=40960)
    before = torch.get_default_dtype()
    torch.set_default_dtype(_dtype(small))
    try:
        with device:
            return Qwen3ForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    finally:
        torch.set_default_dtype(before)


def flops(config: Any, *, prompt: int, response: int) -> float:
    """Of one trajectory's forward: layers on all tokens, causal attention, the head on the response."""
    tokens, width = prompt + response, config.hidden_size
    heads = config.num_attention_heads * config.head_dim
    kv_heads = config.num_key_value_heads * config.head_dim
    per_token = 2 * width * (heads + 2 * kv_heads) + 2 * heads * width + 6 * width * config.intermediate_size
    attention = 2 * tokens * tokens * heads  # two products, half of each masked
    layers = config.num_hidden_layers * (tokens * per_token + attention)
    return float(layers + 2 * response * width * config.vocab_size)


def _dtype(small: bool) -> torch.dtype:
    return torch.float32 if small else torch.bfloat16  # processors without bfloat16 emulate it, 30 times slower


def ceiling(device: torch.device, *, small: bool) -> float:
    """Floating-point operations per second of a large matrix product: the best of 20."""
    size = 512 if small else 8192
    left = torch.randn(size, size, device=device, dtype=_dtype(small))
    times = [seconds(lambda: left @ left, device) for _ in range(20)]
    return 2.0 * size**3 / min(times)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def score(model: HFModel, token_BT: torch.Tensor, *, prompt: int) -> None:
    async def all_of_them() -> None:
        positions = range(prompt, token_BT.shape[1])
        await asyncio.gather(*(model.score(row, positions=positions) for row in token_BT.tolist()))

    asyncio.run(all_of_them())


def update(model: HFModel, optimizer: Optimizer, token_BT: torch.Tensor, *, prompt: int, rows: int) -> None:
    """One optimizer step on all trajectories, `rows` at a time."""
    num_tokens = token_BT.shape[0] * (token_BT.shape[1] - prompt)
    for part_BT in token_BT.split(rows):
        mask_BT = torch.zeros_like(part_BT, dtype=torch.bool)
        mask_BT[:, prompt:] = True
        result = model.token_logprobs(part_BT, mask_BT)
        before_N = result.logprobs_N.detach()
        advantage_N = torch.ones_like(before_N)
        policy_loss(
            result.logprobs_N, before_N, advantage_N, advantage_N.bool(), denominator=float(num_tokens)
        ).loss.backward()
    optimizer.step()


def timed(run: Callable[[], Any], device: torch.device, *, repeats: int) -> dict[str, Any]:
    """Wall times after one run that is not counted, and the peak of allocated memory."""
    run()
    if device.type != "cuda":
        return {"times_s": [seconds(run, device) for _ in range(repeats)], "peak_gib": None}
    torch.cuda.reset_peak_memory_stats(device)
    times = [seconds(run, device) for _ in range(repeats)]
    return {"times_s": times, "peak_gib": torch.cuda.max_memory_allocated(device) / 2**30}


def measure(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    prompt, response = (64, 96) if options.small else (2560, 4096)
    top = ceiling(device, small=options.small)
    generator = torch.Generator().manual_seed(0)
    token_BT = torch.randint(10, TINY["vocab_size"], (options.trajectories, prompt + response), generator=generator).to(
        device
    )
    results: dict[str, Any] = {"ceiling_tflops": top / 1e12, "device": _name(device)}
    for phase, name in (("scoring", "Qwen3-4B"), ("update", "Qwen3-0.6B")):
        module = build(name, device=device, small=options.small)
        work = options.trajectories * flops(module.config, prompt=prompt, response=response)
        if phase == "scoring":
            teacher = HFModel(module.requires_grad_(False), tokens_per_forward=options.tokens_per_forward)
            run = partial(score, teacher, token_BT, prompt=prompt)
        else:
            student = HFModel(module, gradient_checkpointing=options.gradient_checkpointing)
            optimizer = Optimizer(module, config=OptimizerConfig(), num_steps=100)
            run = partial(update, student, optimizer, token_BT, prompt=prompt, rows=options.rows)
            work *= 3
        results[phase] = {"model": name, "tokens": token_BT.numel(), **timed(run, device, repeats=options.repeats)}
        results[phase]["share"] = work / statistics.median(results[phase]["times_s"]) / top
        teacher = module = run = None  # its memory is the next phase's
    return results


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def table(results: dict[str, Any]) -> str:
    """One line a phase."""
    lines = [
        f"{results['device']}, {results['ceiling_tflops']:.3g} TFLOP/s of matrix product",
        "| phase | model | tokens/s (min..max) | share of the ceiling | goal | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for phase, goal in (("scoring", 0.40), ("update", 0.30)):
        result = results[phase]
        speed = sorted(result["tokens"] / each for each in result["times_s"])
        peak = "" if result["peak_gib"] is None else f"{result['peak_gib']:.1f}"
        lines.append(
            f"| {phase} | {result['model']} | {statistics.median(speed):,.0f} ({speed[0]:,.0f}..{speed[-1]:,.0f}) | "
            f"{result['share']:.0%} | {goal:.0%} | {peak} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=16)
    parser.add_argument("--rows", type=int, default=4, help="trajectories in one forward and backward")
    parser.add_argument("--tokens-per-forward", type=int, default=32768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if not options.small and not torch.cuda.is_available():
        parser.error("this needs a GPU, and PyTorch sees none; --small checks the code without one")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = measure(options, device)
    print(table(results))
    if options.out:
        options.out.write_text(json.dumps({**vars(options), "out": "", **results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

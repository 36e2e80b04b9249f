"""Time of step numbering, divergence and weights on one published batch, against a plain Python loop.

    python benchmarks/weights.py [--rows 1024] [--tokens 20480] [--repeats 5]

The loop is written for the comparison: one pass over each trajectory, reading tensors element by element as the
released code does. It runs on a few rows and is extrapolated to the batch (its cost is linear in rows).
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from sod.algorithm import number_steps, spread, step_divergence, step_weights


def make_batch(rows: int, tokens: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Masks of alternating sampled runs and observations, about ten steps a trajectory."""
    generator = torch.Generator().manual_seed(seed)
    flip_BT = torch.rand(rows, tokens, generator=generator) < 20 / tokens
    mask_BT = (flip_BT.cumsum(1) % 2) == 0
    student_BT, teacher_BT = (-torch.rand(rows, tokens, generator=generator) for _ in range(2))
    return mask_BT, student_BT, teacher_BT


def by_loop(mask_BT, student_BT, teacher_BT, *, delta: float = 0.2, epsilon: float = 1e-6) -> torch.Tensor:
    """The weights on every token, element by element."""
    weight_BT = torch.zeros_like(student_BT)
    for row in range(mask_BT.shape[0]):
        product, previous, token = 1.0, None, 0
        while token < mask_BT.shape[1]:
            if not mask_BT[row, token].item():
                token += 1
                continue
            start, total = token, 0.0
            while token < mask_BT.shape[1] and mask_BT[row, token].item():
                total += abs(student_BT[row, token].item() - teacher_BT[row, token].item())
                token += 1
            divergence = total / (token - start)
            if previous is not None:
                product *= (previous + epsilon) / (divergence + epsilon)
            weight_BT[row, start:token] = min(product, 1 + delta)
            previous = divergence
    return weight_BT


def vectorised(mask_BT, student_BT, teacher_BT) -> torch.Tensor:
    """The same with the package's functions."""
    step_BT = number_steps(mask_BT)
    return spread(step_weights(step_divergence(student_BT, teacher_BT, step_BT)), step_BT)


def seconds(function, *arguments) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def main() -> None:
    """Print one table: medians and spreads, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=20480)
    parser.add_argument("--loop-rows", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    batch = make_batch(options.rows, options.tokens)
    few = tuple(tensor[: options.loop_rows] for tensor in batch)
    torch.testing.assert_close(vectorised(*few), by_loop(*few), rtol=1e-4, atol=1e-6)
    ours, loop = [], []
    for _ in range(options.repeats):  # interleaved, so that both see the same neighbours
        ours.append(seconds(vectorised, *batch))
        loop.append(seconds(by_loop, *few) * options.rows / options.loop_rows)
    print(f"{options.rows} trajectories x {options.tokens} tokens, {torch.get_num_threads()} threads, float32")
    for name, times in (("vectorised", ours), (f"loop (from {options.loop_rows} rows)", loop)):
        print(f"{name:24} median {statistics.median(times):8.3f} s   min {min(times):8.3f}   max {max(times):8.3f}")
    print(f"ratio of medians         {statistics.median(loop) / statistics.median(ours):8.1f} x   (goal: at least 30)")


if __name__ == "__main__":
    main()

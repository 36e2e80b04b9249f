"""Share of the teacher's time that is hidden behind rollouts: scored at the end, by trajectory, by step.

    python benchmarks/overlap.py [--repeats 5] [--out FILE]                  # scripted latencies
    python benchmarks/overlap.py --real [--repeats 3] [--threads 1]          # two real models and real tools

hidden = 1 - (wall time with teacher - wall time of rollouts alone) / teacher's time alone. "At the end" scores all
trajectories after the last rollout, which hides nothing by definition and gives the teacher's time alone. Runs of all
kinds alternate; medians count.

Scripted: 64 trajectories of 5 turns; a turn takes 20 to 180 ms, a tool 10 to 90 ms, drawn from a seed; 32 episodes run
at once. The teacher does one request at a time, as fast as makes its time 0.45 of the rollouts'.

Real: the demo's student plays 128 problems with a real sandbox, 32 at a time; the teacher is a random Qwen3 of the
demo's vocabulary, `--layers` deep, whose forwards run in a thread of their own. Both get `--threads` threads: with one
each on two cores they can truly overlap.

Goal: at least 90 % hidden when the teacher's time is under half of the rollouts'.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from sod.agent import make_agent
from sod.chat import load_tokenizer
from sod.config import AgentConfig, ModelConfig, SamplingConfig, SandboxConfig, ToolConfig, UpdateConfig
from sod.demo import world
from sod.models.scripted import ScriptedSampler, ScriptedScorer
from sod.rewards.math import MathReward
from sod.rollouts import Collector
from sod.sandbox import make_sandbox
from sod.sandbox.scripted import ScriptedSandbox
from sod.teachers import Teacher, Teachers

STUDENT = str(files("sod.demo") / "weights" / "student")
GOAL = 0.90
ALONE, AT_END, BY_TRAJECTORY, BY_STEP = "rollouts alone", "at the end", "by trajectory", "by step"
KINDS = (ALONE, AT_END, BY_TRAJECTORY, BY_STEP)


@dataclass(frozen=True)
class Scene:
    """Something whose updates are timed: `collector` without a teacher, and the teacher."""

    collector: Collector
    teacher: Teacher

    async def seconds(self, kind: str, update: int) -> float:
        """Wall time of one update's rollouts and scores."""
        start = time.perf_counter()
        teacher = {BY_TRAJECTORY: self.teacher, BY_STEP: replace(self.teacher, by_step=True)}.get(kind)
        teachers = None if teacher is None else Teachers(default=teacher)
        harvest = await replace(self.collector, teachers=teachers).collect(update)
        assert not harvest.lost, harvest.lost[0].detail
        if kind == AT_END:
            start = time.perf_counter()
            await asyncio.gather(*(self.teacher.logprobs(rollout.trajectory) for rollout in harvest.rollouts))
        return time.perf_counter() - start


async def measure(scene: Scene, *, repeats: int) -> dict[str, list[float]]:
    """Wall times by kind. Every repeat plays the same episodes, after one that is not counted."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(repeats + 1):
        for kind in KINDS:
            seconds = await scene.seconds(kind, update=1)
            if repeat:
                times[kind].append(seconds)
    return times


class OneAtATime(ScriptedScorer):
    """A teacher with one place."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(lambda _ids, places: [-place / 1000 for place in places], **settings)
        self._place = asyncio.Lock()

    async def score(self, *arguments: Any, **settings: Any) -> tuple[float, ...]:
        async with self._place:
            return await super().score(*arguments, **settings)


class Latencies:
    """Sampler and sandbox whose every call takes a time that was drawn once."""

    def __init__(self, sampler: ScriptedSampler, sandbox: ScriptedSandbox) -> None:
        self._sample, self._run = sampler.sample, sandbox.run
        self._random = random.Random(0)
        sampler.sample = self.sample  # type: ignore[method-assign]
        sandbox.run = self.run  # type: ignore[method-assign]

    async def sample(self, *arguments: Any, **settings: Any) -> Any:
        await asyncio.sleep(random.Random(f"{settings['seed']}/{len(arguments[0])}").uniform(0.02, 0.18))
        return await self._sample(*arguments, **settings)

    async def run(self, *arguments: Any, **settings: Any) -> Any:
        await asyncio.sleep(self._random.uniform(0.01, 0.09))
        return await self._run(*arguments, **settings)


async def scripted(repeats: int) -> dict[str, list[float]]:
    tokenizer = load_tokenizer(STUDENT)
    call = '<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "6*7"}}\n</tool_call><|im_end|>'
    turns = [tokenizer.encode(text) for text in [call] * 4 + ["The answer is \\boxed{42}.<|im_end|>"]]
    sampler = ScriptedSampler(lambda _ids, turn: turns[turn])
    sandbox = ScriptedSandbox(lambda _code: "42")
    Latencies(sampler, sandbox)
    scene = Scene(
        collector=_collector(sampler, sandbox, tokenizer, prompts=16, samples=4),
        # 64 trajectories of about 5 x 25 sampled tokens take about 1.9 s with 32 at once.
        teacher=Teacher(scorer=OneAtATime(latency_s=lambda count: 0.00011 * count), vocabulary_size=640),
    )
    return await measure(scene, repeats=repeats)


async def real(repeats: int, *, threads: int, layers: int) -> dict[str, list[float]]:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from sod.models.hf import HFModel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = {"hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 4}
    config = Qwen3Config(vocab_size=640, head_dim=64, num_hidden_layers=layers, max_position_embeddings=2048, **shape)
    teacher = HFModel(Qwen3ForCausalLM(config).eval().requires_grad_(False), tokens_per_forward=4096)
    student = HFModel.load(ModelConfig(path=STUDENT, device="cpu"))
    async with make_sandbox(SandboxConfig(preload=(), memory_mb=256)) as sandbox:
        collector = _collector(student, sandbox, load_tokenizer(STUDENT), prompts=32, samples=4)
        scene = Scene(collector=collector, teacher=Teacher(scorer=teacher, vocabulary_size=640))
        return await measure(scene, repeats=repeats)


def _collector(sampler: Any, sandbox: Any, tokenizer: Any, *, prompts: int, samples: int) -> Collector:
    agent = make_agent(
        sampler=sampler,
        tokenizer=tokenizer,
        sandbox=sandbox,
        limits=AgentConfig(max_turns=12, max_response_tokens=600, max_concurrent=32),
        tool=ToolConfig(timeout_s=10.0),
        sampling=SamplingConfig(),
    )
    return Collector(
        agent=agent,
        problems=list(world.problems(prompts, seed=6)),
        rewards={"math": MathReward()},
        teachers=None,
        seed=0,
        sizes=UpdateConfig(prompts=prompts, samples=samples, optimizer_steps=1),
    )


def table(times: Mapping[str, Sequence[float]]) -> str:
    """Medians with their spread, and what is hidden of the teacher."""
    median = {kind: statistics.median(values) for kind, values in times.items()}
    teacher_s = median[AT_END]
    lines = [f"teacher alone {teacher_s:.2f} s, {teacher_s / median[ALONE]:.2f} of rollouts alone"]
    lines += ["| scored | wall s (min..max) | hidden | goal |", "|---|---|---|---|"]
    for kind in (ALONE, BY_TRAJECTORY, BY_STEP):
        values = times[kind]
        hidden = 1.0 - (median[kind] - median[ALONE]) / teacher_s
        share = "" if kind == ALONE else f"{hidden:.0%}"
        goal = "" if kind == ALONE else f"{GOAL:.0%}"
        lines.append(f"| {kind} | {median[kind]:.2f} ({min(values):.2f}..{max(values):.2f}) | {share} | {goal} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    work: Callable[[], Awaitable[dict[str, list[float]]]] = (
        (lambda: real(options.repeats, threads=options.threads, layers=options.layers))
        if options.real
        else (lambda: scripted(options.repeats))
    )
    times = asyncio.run(work())  # type: ignore[arg-type]
    print(table(times))
    if options.out:
        options.out.write_text(json.dumps({"real": options.real, "times_s": times}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Benchmarks: k samples a problem with tools, graded, summed up with intervals.

The same agent, tools and template as in training; nothing here knows a trainer or a teacher.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sod.agent import Agent, draw_seed, run_all
from sod.errors import InfrastructureError
from sod.estimates import Estimate, average_at_k, maj_at_k, pass_at_k
from sod.rewards import Reward, grade
from sod.types import Problem, Score, StopReason, Trajectory

__all__ = ["Evaluation", "Sample", "evaluate", "maj_at_k", "pass_at_k", "summary"]

MAX_ATTEMPTS = 3
"""Tries of one sample when the world fails; after that it is reported as such, never as a wrong answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One graded trajectory. `score` is None when infrastructure failed `MAX_ATTEMPTS` times."""

    problem: Problem
    trajectory: Trajectory
    score: Score | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All samples of a benchmark run, in the order of problems."""

    samples: Sequence[Sample]

    @property
    def graded(self) -> Mapping[str, Sequence[Sample]]:
        """Graded samples by problem id; a problem without any is missing."""
        by_problem: dict[str, list[Sample]] = {}
        for sample in self.samples:
            if sample.score is not None:
                by_problem.setdefault(sample.problem.id, []).append(sample)
        return by_problem

    @property
    def num_failed(self) -> int:
        """Samples lost to infrastructure."""
        return sum(sample.score is None for sample in self.samples)

    @property
    def correct(self) -> list[list[bool]]:
        """Right or wrong, by problem and sample."""
        return [[_score(sample).correct for sample in samples] for samples in self.graded.values()]

    @property
    def average(self) -> Estimate:
        """avg@k with its interval."""
        return average_at_k(self.correct)

    @property
    def problem_means(self) -> Mapping[str, float]:
        """Share of right samples by problem id, for paired tests."""
        return {key: sum(_score(s).correct for s in samples) / len(samples) for key, samples in self.graded.items()}


async def evaluate(
    agent: Agent,
    problems: Sequence[Problem],
    *,
    rewards: Mapping[str, Reward],
    samples: int,
    seed: int = 0,
    done: Mapping[tuple[str, int], Sample] | None = None,
    on_sample: Callable[[Sample], None] = lambda _: None,
) -> Evaluation:
    """Sample every problem `samples` times and grade.

    `done` holds samples of an earlier, interrupted run, by problem id and sample number; they are not drawn again.
    `on_sample` is called as each new one ends. A sample's draws depend on `seed`, its problem and its number alone.
    """
    finished = done or {}
    gate = asyncio.Semaphore(agent.limits.max_concurrent)

    async def one(problem: Problem, number: int) -> Sample:
        if (problem.id, number) in finished:
            return finished[problem.id, number]
        async with gate:
            sample = await _attempt(agent, problem, number, rewards=rewards, seed=seed)
        on_sample(sample)
        return sample

    return Evaluation(samples=await run_all(one(problem, n) for problem in problems for n in range(samples)))


async def _attempt(agent: Agent, problem: Problem, number: int, *, rewards: Mapping[str, Reward], seed: int) -> Sample:
    for attempt in range(MAX_ATTEMPTS):
        draws = draw_seed("evaluation", seed, problem.id, number)
        trajectory = await agent.run(problem, sample=number, seed=draws, key=f"evaluation-{seed}-{attempt}")
        if trajectory.stop_reason is StopReason.INFRASTRUCTURE:
            continue
        try:
            return Sample(problem=problem, trajectory=trajectory, score=await grade(rewards, problem, trajectory))
        except InfrastructureError:
            continue
    return Sample(problem=problem, trajectory=trajectory, score=None)


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The numbers of an evaluation as plain JSON: avg@k with interval, pass@k, maj@k, tools, lengths, stop reasons."""
    graded = list(evaluation.graded.values())
    k = min((len(samples) for samples in graded), default=0)
    if not k:
        return {"num_problems": 0, "num_failed": evaluation.num_failed}
    samples = [sample for group in graded for sample in group]
    results = [result for sample in samples for result in sample.trajectory.tool_results]
    average = evaluation.average
    return {
        "num_problems": len(graded),
        "k": k,
        "num_samples": len(samples),
        "num_failed": evaluation.num_failed,
        "avg@k": average.value,
        "avg@k_low": average.low,
        "avg@k_high": average.high,
        "pass@k": sum(pass_at_k(len(group), sum(_score(s).correct for s in group), k) for group in graded)
        / len(graded),
        "maj@k": sum(_majority(group) for group in graded) / len(graded),
        "tool_calls": len(results) / len(samples),
        "tool_status": dict(Counter(result.status.value for result in results)),
        "stop_reasons": dict(Counter(sample.trajectory.stop_reason.value for sample in samples)),
        "response_tokens": sum(sample.trajectory.num_response_tokens for sample in samples) / len(samples),
    }


def _majority(group: Sequence[Sample]) -> float:
    scores = [_score(sample) for sample in group]
    return maj_at_k([score.answer for score in scores], [score.correct for score in scores])


def _score(sample: Sample) -> Score:
    assert sample.score is not None, "only graded samples are asked for their score"
    return sample.score

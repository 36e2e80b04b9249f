"""`sod eval`: one benchmark run in a run directory, every sample on disk as it ends, continued after a kill."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sod.agent import make_agent
from sod.chat import load_tokenizer
from sod.config import EvalConfig, dump
from sod.data import load_problems
from sod.errors import InfrastructureError
from sod.evaluate import Evaluation, Sample, evaluate, summary
from sod.models.engine import check_context, open_model
from sod.records import score_of, trajectory_of, trajectory_record
from sod.rewards.math import MathReward
from sod.runs import RunDirectory, read_json, read_trajectories
from sod.sandbox import make_sandbox
from sod.types import Problem

Listener = Callable[[str, Mapping[str, Any]], None]
RESULT = "evaluation.json"
NUM_REPORTS = 20
"""Times that a whole run says how far it is."""


def run_benchmark(config: EvalConfig, *, listener: Listener = lambda _event, _values: None) -> dict[str, Any]:
    """Evaluate as the config says and return the summary, which is also in the run's evaluation.json.

    Samples that an interrupted run left on disk are not drawn again, and give the same numbers as if they were.
    """
    with RunDirectory.open(config.run, config_json=dump(config), command="eval") as run:
        if run.finished:
            listener("finished", {"run": config.run})
            return read_json(run.path / RESULT)
        problems = load_problems(config.data)
        if problems.skipped:
            listener("skipped", problems.skipped)
        evaluation = asyncio.run(_evaluate(config, run, list(problems), listener))
        _require_graded(evaluation)
        numbers = {**summary(evaluation), "sampling": config.sampling.model_dump()}
        run.write_json(RESULT, numbers)
        run.finish(f"{len(evaluation.samples)} samples")
        return numbers


async def _evaluate(config: EvalConfig, run: RunDirectory, problems: list[Problem], listener: Listener) -> Evaluation:
    done = samples_on_disk(run, problems)
    total = len(problems) * config.samples
    counter = _Counter(run=run, listener=listener, total=total, done=len(done))
    tokenizer = load_tokenizer(config.model.path)
    async with (
        open_model(config.model, sampling=config.sampling, scores=False) as model,
        make_sandbox(config.sandbox) as sandbox,
    ):
        run.note("sandbox", sandbox.layers)
        listener("sandbox", {"layers": sandbox.layers})
        agent = make_agent(
            tokenizer=tokenizer,
            sampler=model,
            sandbox=sandbox,
            limits=config.agent,
            tool=config.tool,
            sampling=config.sampling,
        )
        # What does not fit is found now, not after hours.
        longest = max(len(agent.prompt(problem)) for problem in problems)
        check_context(
            model,
            longest_prompt=longest,
            max_response_tokens=config.agent.max_response_tokens,
            name=config.model.path,
        )
        return await evaluate(
            agent,
            problems,
            rewards={"math": MathReward()},
            samples=config.samples,
            seed=config.seed,
            done=done,
            on_sample=counter.take,
        )


def _require_graded(evaluation: Evaluation) -> None:
    """A run in which the world failed every time is not finished: the same command tries again."""
    if evaluation.num_failed == len(evaluation.samples):
        detail = evaluation.samples[0].trajectory.detail
        raise InfrastructureError(
            f"some samples must be graded, got none of {len(evaluation.samples)}, the first because: {detail}; "
            "`sod doctor` tests the sandbox; then run the same command again"
        )


def samples_on_disk(run: RunDirectory, problems: list[Problem]) -> dict[tuple[str, int], Sample]:
    """Graded samples of an earlier session, by problem id and sample number."""
    by_id = {problem.id: problem for problem in problems}
    found: dict[tuple[str, int], Sample] = {}
    for record in read_trajectories(run.path) if (run.path / "trajectories.jsonl").exists() else ():
        problem = by_id.get(record["problem_id"])
        if problem is None or "score" not in record:
            continue
        trajectory = trajectory_of(record)
        found[problem.id, trajectory.sample] = Sample(problem=problem, trajectory=trajectory, score=score_of(record))
    return found


def problem_means(run: str | Path) -> dict[str, float]:
    """Share of right samples by problem of a run on disk, for paired tests."""
    verdicts: dict[str, list[bool]] = {}
    for record in read_trajectories(run):
        if "score" in record:
            verdicts.setdefault(record["problem_id"], []).append(record["score"]["correct"])
    return {problem_id: sum(correct) / len(correct) for problem_id, correct in verdicts.items()}


class _Counter:
    """Writes each sample and says now and then how far the run is."""

    def __init__(self, *, run: RunDirectory, listener: Listener, total: int, done: int) -> None:
        self.run, self.listener, self.total, self.done = run, listener, total, done
        self.correct = 0
        self.new = 0

    def take(self, sample: Sample) -> None:
        """One more sample ended."""
        self.run.append("trajectories", trajectory_record(sample.trajectory, update=0, score=sample.score))
        self.done += 1
        self.new += 1
        self.correct += sample.score is not None and sample.score.correct
        if self.done == self.total or self.done % max(1, self.total // NUM_REPORTS) == 0:
            self.listener("progress", {"done": self.done, "total": self.total, "correct": self.correct / self.new})

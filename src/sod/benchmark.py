"""`sod eval`: benchmarks in one run directory, each sample on disk as it ends, continued after a kill."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sod.agent import Agent, make_agent
from sod.chat import Tokenizer, load_tokenizer
from sod.config import FREE, EvalConfig, dump
from sod.data import ProblemSet
from sod.errors import DataError, InfrastructureError
from sod.evaluate import Evaluation, Sample, evaluate
from sod.models import Model
from sod.models.engine import check_context, open_model
from sod.records import sealed, trajectory_record
from sod.results import RESULT, fingerprints, left_by, load_sets, read_fingerprints, result_of, write_fingerprints
from sod.rewards import make_rewards
from sod.runs import RunDirectory, read_json
from sod.sandbox import make_sandbox
from sod.tools import CHANGED, source_digest
from sod.types import Problem, Trajectory

__all__ = ["Listener", "run_benchmarks", "tell_left_out"]

Listener = Callable[[str, Mapping[str, Any]], None]
NUM_REPORTS = 20
"""Times that a whole run says how far it is."""


def run_benchmarks(config: EvalConfig, *, listener: Listener = lambda _event, _values: None) -> dict[str, Any]:
    """Evaluate as the config says and return the result, which is also in the run's evaluation.json.

        {"benchmarks": {"aime24": {"avg@k": ..., ...}, ...}, "average": {"avg@k": ...}, "complete": True, ...}

    Samples that an interrupted run left on disk are not drawn again, and give the same numbers as if they were. A run
    that lost samples is not finished: the same command tries those again.
    """
    with RunDirectory.open(config.run, config_json=dump(config), command="eval", free=FREE) as run:
        if run.finished and (run.path / RESULT).exists():
            listener("finished", {"run": config.run})
            return read_json(run.path / RESULT)
        sets = load_sets(config)
        for problems in sets:
            tell_left_out(problems, listener)
        _hold_problems(run, sets)
        evaluation, settings = asyncio.run(_evaluate(config, run, sets, listener))
        _require_graded(evaluation)
        result = result_of(sets, evaluation.samples, config=config, run=run.path, settings=settings)
        run.write_json(RESULT, result)
        _end(run, evaluation)
        return result


def tell_left_out(problems: ProblemSet, listener: Listener) -> None:
    """Rows that nobody can grade, and a benchmark that is not the published one."""
    if problems.skipped:
        listener("skipped", problems.left_out)
    found = len(problems) + sum(problems.skipped.values())
    if problems.expected and problems.expected != found:
        message = f"{problems.name} is published with {problems.expected} problems, got {found}; is it the right file?"
        listener("warning", {"message": message})


def _hold_problems(run: RunDirectory, sets: Sequence[ProblemSet]) -> None:
    """A run is not continued on other problems, nor on other references with old verdicts."""
    now = {each.name: fingerprints(each) for each in sets}
    for name, before in read_fingerprints(run.path).items() if (run.path / "trajectories.jsonl").exists() else ():
        here = now.get(name, {})
        others = [key for key, old in before.items() if key not in here or here[key].prompt != old.prompt]
        if others or len(here) != len(before):
            got = f"{len(others)} others ({others[0]}, ...)" if others else f"{len(here)} instead of {len(before)}"
            raise DataError(
                f"{run.path} must go on with the problems of {name} that it began with, got {got}; was the file "
                "changed? give another run directory"
            )
        corrected = [key for key, old in before.items() if here[key].answer != old.answer]
        if corrected:
            raise DataError(
                f"{run.path} has verdicts by other references of {name} ({corrected[0]}, {len(corrected)} in all); "
                f"grade them again first: sod eval --regrade {run.path}"
            )
    write_fingerprints(run, sets)


async def _evaluate(
    config: EvalConfig, run: RunDirectory, sets: Sequence[ProblemSet], listener: Listener
) -> tuple[Evaluation, dict[str, Any]]:
    problems = [problem for each in sets for problem in each]
    left = left_by(run.path, problems)
    total = len(problems) * config.samples
    progress = _Progress(run=run, sets=sets, listener=listener, total=total, done=len(left.done))
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
        if not run.note("tool", source_digest(config.tool)):
            listener("warning", {"message": CHANGED})
        rewards = make_rewards(config.rewards, sandbox=sandbox)
        _check_prompts(agent, model, problems, config)
        progress.start()
        evaluation = await evaluate(
            agent,
            problems,
            rewards=rewards,
            samples=config.samples,
            seed=config.seed,
            done=left.done,
            ungraded=left.ungraded,
            on_sample=progress.take,
        )
        progress.clock()
        return evaluation, _settings(config, tokenizer, agent)


def _check_prompts(agent: Agent, model: Model, problems: Sequence[Problem], config: EvalConfig) -> None:
    """What does not fit is found now, not after hours."""
    check_context(
        model,
        longest_prompt=max(len(agent.prompt(problem)) for problem in problems),
        max_response_tokens=config.agent.max_response_tokens,
        name=config.model.path,
    )


def _require_graded(evaluation: Evaluation) -> None:
    """A run in which the world failed every time is not finished: the same command tries again."""
    if evaluation.num_failed == len(evaluation.samples):
        raise InfrastructureError(
            f"some samples must be graded, got none of {len(evaluation.samples)}, the first because: "
            f"{evaluation.samples[0].detail}; `sod doctor` tests the sandbox; then run the same command again"
        )


def _end(run: RunDirectory, evaluation: Evaluation) -> None:
    lost = [sample for sample in evaluation.samples if sample.score is None]
    if lost:
        run.interrupt(
            f"{len(lost)} of {len(evaluation.samples)} samples were lost, the first because: {lost[0].detail:.200}; "
            "the same command tries them again"
        )
    else:
        run.finish(f"{len(evaluation.samples)} samples")


def _settings(config: EvalConfig, tokenizer: Tokenizer, agent: Agent) -> dict[str, Any]:
    """What somebody needs to say the same number again."""
    template = tokenizer.chat_template
    text = template if isinstance(template, str) else json.dumps(template)
    return {
        "model": config.model.path,
        "engine": config.model.engine,
        "samples": config.samples,
        "seed": config.seed,
        "sampling": config.sampling.model_dump(),
        "agent": config.agent.model_dump(),
        "tools": [dict(tool.schema) for tool in agent.tools.values()],
        "chat_template_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


class _Progress:
    """Writes each sample, and says now and then how far the run is and how long it took."""

    def __init__(
        self, *, run: RunDirectory, sets: Sequence[ProblemSet], listener: Listener, total: int, done: int
    ) -> None:
        self.run, self.listener, self.total, self.done = run, listener, total, done
        self.homes = {problem.id: each for each in sets for problem in each}
        self.correct = 0
        self.new = 0
        self.since = 0.0

    def start(self) -> None:
        """From here on time counts: loading is not the model's speed."""
        self.since = time.perf_counter()
        self.listener("progress", {"done": self.done, "total": self.total})

    def take(self, sample: Sample, trajectory: Trajectory) -> None:
        """One more sample ended."""
        home = self.homes[sample.problem.id]
        record = trajectory_record(trajectory, update=0, score=sample.score)
        record = {"benchmark": home.name, **(sealed(record) if home.private else record)}
        self.run.append("trajectories", record)
        self.done += 1
        self.new += 1
        self.correct += sample.score is not None and sample.score.correct
        if self.done == self.total or self.done % max(1, self.total // NUM_REPORTS) == 0:
            self.clock()
            self.listener("progress", {"done": self.done, "total": self.total, "correct": self.correct / self.new})

    def clock(self) -> None:
        """Write down the time since the last word, so that a kill loses little of it."""
        now = time.perf_counter()
        self.run.append("timing", {"update": 0, "evaluate_s": round(now - self.since, 3)})
        self.since = now

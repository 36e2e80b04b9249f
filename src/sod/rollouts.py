"""One update's trajectories: sampled, graded, and scored by the teacher the moment each ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from sod.agent import Agent, draw_seed, run_all
from sod.batch import Rollout
from sod.config import UpdateConfig
from sod.errors import InfrastructureError, StorageError
from sod.models import TokenScores
from sod.rewards import Reward, grade
from sod.rubrics import RubricJudge, UnusableReplyError
from sod.teachers import Supervision, Teachers
from sod.types import Problem, Score, StopReason, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class Harvest:
    """What an update sampled. Neither `lost` nor `unjudged` trajectories are trained on."""

    rollouts: Sequence[Rollout]
    lost: Sequence[Trajectory]
    """They met a failure of the world."""
    unjudged: Sequence[Trajectory] = ()
    """The model that judges said nothing usable of them."""

    @property
    def dropped(self) -> Sequence[Trajectory]:
        """All that were played and are not trained on."""
        return [*self.lost, *self.unjudged]


@dataclass(frozen=True, kw_only=True)
class Collector:
    """Plays the episodes of updates. Which problems and which draws depends on `seed` and the update's number alone."""

    agent: Agent
    problems: Sequence[Problem]
    rewards: Mapping[str, Reward]
    teachers: Teachers | None
    seed: int
    sizes: UpdateConfig
    judge: RubricJudge | None = None
    """Says what the rollouts of a problem are worth when all of them are there."""

    async def collect(self, update: int) -> Harvest:
        """All episodes of an update at once; tools, sampling, grading and teacher overlap between them."""
        gate = asyncio.Semaphore(self.agent.limits.max_concurrent)
        groups = await run_all(
            self._play(problem, update=update, group=group, gate=gate)
            for group, problem in enumerate(self.draw_problems(update))
        )
        return Harvest(
            rollouts=[each for group in groups for each in group.rollouts],
            lost=[each for group in groups for each in group.lost],
            unjudged=[each for group in groups for each in group.unjudged],
        )

    async def _play(self, problem: Problem, *, update: int, group: int, gate: asyncio.Semaphore) -> Harvest:
        """The siblings of one problem."""
        results = await run_all(
            self._roll_out(problem, update=update, group=group, sample=sample, gate=gate)
            for sample in range(self.sizes.samples)
        )
        harvest = Harvest(
            rollouts=[each for each in results if isinstance(each, Rollout)],
            lost=[each for each in results if isinstance(each, Trajectory)],
        )
        if self.judge is None or not harvest.rollouts:
            return harvest
        return await _judged(harvest, self.judge, problem, about={"update": update, "group": group})

    def draw_problems(self, update: int) -> list[Problem]:
        """The update's problems, from shuffled passes over the data; updates count from 1."""
        count, size = self.sizes.prompts, len(self.problems)
        places = range((update - 1) * count, update * count)
        orders = {
            number: random.Random(draw_seed("order", self.seed, number)).sample(range(size), size)
            for number in {place // size for place in places}
        }
        return [self.problems[orders[place // size][place % size]] for place in places]

    async def _roll_out(
        self, problem: Problem, *, update: int, group: int, sample: int, gate: asyncio.Semaphore
    ) -> Rollout | Trajectory:
        seed = draw_seed("rollout", self.seed, update, group, problem.id, sample)
        key = f"{update}/{group}"
        async with _follow(self.teachers, f"{key}/{problem.id}/{sample}", problem=problem) as supervision:
            on_step = supervision.see if supervision else _nobody_watches
            async with gate:
                trajectory = await self.agent.run(problem, sample=sample, seed=seed, key=key, on_step=on_step)
            if trajectory.stop_reason is StopReason.INFRASTRUCTURE:
                return trajectory
            try:
                judged: list[Any] = await run_all(
                    [grade(self.rewards, problem, trajectory), _scores(supervision, trajectory)]
                )
            except InfrastructureError as error:  # nobody could grade or score it: lost, not wrong
                return _lost(trajectory, error)
        score, scores = judged
        return Rollout(
            trajectory=trajectory,
            group=group,
            score=score,
            teacher_logprobs=scores and scores.logprobs,
            teacher_entropies=scores and scores.entropies,
        )


async def _judged(harvest: Harvest, judge: RubricJudge, problem: Problem, *, about: Mapping[str, Any]) -> Harvest:
    """A group with what the judge says it is worth. What nobody could judge is dropped: it is not worthless."""
    rollouts = harvest.rollouts
    trajectories = [rollout.trajectory for rollout in rollouts]
    try:
        scores = await judge.judge(problem, trajectories, [rollout.score for rollout in rollouts], about=about)
    except StorageError:
        raise
    except UnusableReplyError as error:
        return replace(harvest, rollouts=(), unjudged=[_lost(trajectory, error) for trajectory in trajectories])
    except InfrastructureError as error:
        lost = [_lost(trajectory, error) for trajectory in trajectories]
        return replace(harvest, rollouts=(), lost=[*harvest.lost, *lost])
    pairs = list(zip(rollouts, scores, strict=True))
    return replace(
        harvest,
        rollouts=[replace(rollout, score=score) for rollout, score in pairs if isinstance(score, Score)],
        unjudged=[_lost(rollout.trajectory, error) for rollout, error in pairs if not isinstance(error, Score)],
    )


def _lost(trajectory: Trajectory, error: InfrastructureError) -> Trajectory:
    return replace(trajectory, stop_reason=StopReason.INFRASTRUCTURE, detail=str(error))


def _follow(
    teachers: Teachers | None, trajectory_id: str, *, problem: Problem
) -> AbstractAsyncContextManager[Supervision | None]:
    return nullcontext() if teachers is None else teachers.follow(trajectory_id, problem=problem)


def _nobody_watches(token_ids: Sequence[int], positions: Sequence[int]) -> None:
    """Without a teacher, steps are nobody's business."""


async def _scores(supervision: Supervision | None, trajectory: Trajectory) -> TokenScores | None:
    return None if supervision is None else await supervision.scores(trajectory)

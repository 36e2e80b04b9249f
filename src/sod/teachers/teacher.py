"""A model that scores the student's own tokens: a whole trajectory when it ends, or each step while its tool runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from sod.models import EntropyScorer, Scorer, TokenScores
from sod.teachers.alignment import SAME_PROMPT, Aligned, Alignment
from sod.teachers.signal import check_signal
from sod.teachers.views import Privilege
from sod.types import Problem, Trajectory

__all__ = ["PROBE_EPISODES", "Supervision", "Teacher"]

PROBE_EPISODES = 4
"""Episodes of the check at the start: the teacher's own samples, scored again by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """A scorer with what is needed to trust its numbers.

    `temperature` is the one the student was sampled at: both sides of a log-ratio are scaled alike. With `by_step` a
    trajectory that is followed is scored while it is under way. With a `privilege` the teacher reads the student's
    tokens behind a prompt of its own, and must be told the problem.
    """

    scorer: Scorer
    vocabulary_size: int
    temperature: float = 1.0
    by_step: bool = False
    privilege: Privilege | None = None

    @property
    def unprivileged(self) -> Teacher:
        """The same teacher, shown what the student is shown: for trajectories that it sampled itself."""
        return replace(self, privilege=None)

    async def logprobs(self, trajectory: Trajectory, *, problem: Problem | None = None) -> tuple[float, ...]:
        """The teacher's log-probs of the student's tokens, one per sampled position.

        Raises SignalError when they are missing, not finite, constant or uniform, or would be of other tokens;
        EngineError when the engine fails.
        """
        return (await self.scores_by(self.alignment(problem), trajectory)).logprobs

    async def scores_by(self, alignment: Alignment, trajectory: Trajectory) -> TokenScores:
        """As `logprobs`, of a problem whose alignment is there already; with entropies where the engine has them."""
        scores = await self.scores_of(alignment.of(trajectory.token_ids, positions=trajectory.sampled_positions))
        return self.checked(scores, trajectory)

    async def scores_of(self, aligned: Aligned, *, trajectory_id: str = "") -> TokenScores:
        """What the engine says of these tokens, at the student's temperature."""
        scorer, ids, places = self.scorer, aligned.token_ids, aligned.positions
        if isinstance(scorer, EntropyScorer):
            return await scorer.score_with_entropy(
                ids, positions=places, temperature=self.temperature, trajectory_id=trajectory_id
            )
        logprobs = await scorer.score(ids, positions=places, temperature=self.temperature, trajectory_id=trajectory_id)
        return TokenScores(logprobs=logprobs)

    def alignment(self, problem: Problem | None) -> Alignment:
        """How the student's tokens stand behind the prompt that the teacher is shown of the problem."""
        if self.privilege is None:
            return SAME_PROMPT
        assert problem is not None, "a teacher that is shown more than the student must be told the problem"
        return self.privilege.alignment(problem)

    def checked(self, scores: TokenScores, trajectory: Trajectory) -> TokenScores:
        """The same scores, if their log-probs can be a model's of this trajectory. Raises SignalError."""
        num_expected = len(trajectory.sampled_positions)
        check_signal(scores.logprobs, num_expected=num_expected, vocabulary_size=self.vocabulary_size)
        return scores

    def longest_prompt(self, problems: Sequence[Problem]) -> int:
        """The longest prompt of its own, in tokens; 0 where it is shown the student's. Raises DataError when a problem
        lacks what is shown."""
        return 0 if self.privilege is None else self.privilege.longest_prompt(problems)

    @asynccontextmanager
    async def follow(self, trajectory_id: str, *, problem: Problem | None = None) -> AsyncIterator[Supervision]:
        """Supervise one trajectory. What is still asked of the engine at the end of the context is given up."""
        supervision = Supervision(teacher=self, trajectory_id=trajectory_id, alignment=self.alignment(problem))
        try:
            yield supervision
        finally:
            await supervision.aclose()


@dataclass(kw_only=True, slots=True)
class Supervision:
    """The teacher beside one trajectory: each step is scored while its tool runs, or all of them at the end.

    Steps of a trajectory are scored one after the other, as each continues the keys and values of the one before.
    """

    teacher: Teacher
    trajectory_id: str
    alignment: Alignment = SAME_PROMPT
    _steps: list[asyncio.Task[TokenScores]] = field(default_factory=list)

    def see(self, token_ids: Sequence[int], positions: Sequence[int]) -> None:
        """A step was sampled at `positions`: have it scored, if the teacher does so by step."""
        if self.teacher.by_step:
            previous = self._steps[-1] if self._steps else None
            scored = self.alignment.of(token_ids, positions=positions)
            self._steps.append(asyncio.create_task(self._score(scored, previous)))

    async def scores(self, trajectory: Trajectory) -> TokenScores:
        """The teacher's log-probs of the student's tokens, checked as by `Teacher.logprobs`, and entropies."""
        if not self.teacher.by_step:
            return await self.teacher.scores_by(self.alignment, trajectory)
        steps = [await step for step in self._steps]
        logprobs = tuple(logprob for step in steps for logprob in step.logprobs)
        entropies = tuple(entropy for step in steps for entropy in step.entropies or ())
        return self.teacher.checked(TokenScores(logprobs=logprobs, entropies=entropies or None), trajectory)

    async def _score(self, scored: Aligned, previous: asyncio.Task[TokenScores] | None) -> TokenScores:
        if previous is not None:
            await asyncio.wait([previous])  # its failure is raised where its scores are read
        return await self.teacher.scores_of(scored, trajectory_id=self.trajectory_id)

    async def aclose(self) -> None:
        """Give up what is still asked of the engine, and let it forget the trajectory."""
        for step in self._steps:
            step.cancel()
        await asyncio.gather(*self._steps, return_exceptions=True)
        if self._steps:
            self.teacher.scorer.release(self.trajectory_id)

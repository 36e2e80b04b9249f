"""Siblings of one prompt -> teacher's answers -> rubric -> verdicts -> scores.

    judge = RubricJudge(config, cache=Path("runs/a/rubrics"), ledger=Path("runs/a/rubrics_spent.jsonl"))
    scores = await judge.judge(problem, trajectories, scores, about={"update": 3, "group": 0})

rubric c1 (3 points), c2 (2), c3 (5); met c1, c3 -> value 8 / (10 + eps)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sod.config.rubrics import RubricConfig
from sod.errors import StorageError
from sod.lifetime import Lifetime
from sod.rubrics.answers import Answer, AnswerCache, Purpose, Question
from sod.rubrics.budget import Budget, BudgetError, Spent
from sod.rubrics.client import ChatClient, RubricError
from sod.rubrics.fences import Piece, answer_pieces, problem_pieces, rollout_pieces
from sod.rubrics.replies import MAX_CRITERION_CHARS, Criterion, Limits, read_rubric, read_verdicts
from sod.rubrics.wording import VERSION, complain, rubric_messages, verdict_messages
from sod.transport import ReplyError
from sod.types import Message, Problem, Score, Trajectory

__all__ = ["Record", "RubricJudge", "UnusableReplyError"]

_T = TypeVar("_T")
Record = Callable[[Mapping[str, Any]], None]
"""Told of each group's rubric and verdicts, as plain JSON values."""

KEY_VARIABLE = "SOD_RUBRIC_KEY"
TEACHER_KEY_VARIABLE = "SOD_RUBRIC_TEACHER_KEY"
SHOWN_CHARS = 60
"""How much of a criterion goes into the reason of a score."""


class UnusableReplyError(RubricError):
    """A model answered twice, and neither answer had the form that was asked for: its server is well, it is weak."""


Judgement: TypeAlias = Score | UnusableReplyError
"""What a trajectory is worth, or why its verdict could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Voice:
    """A model as it is spoken to."""

    client: ChatClient
    purpose: Purpose
    model: str
    temperature: float


class RubricJudge(Lifetime):
    """Scores groups by rubrics. An instance belongs to one event loop; `async with` checks the servers and ends it.

    `cache` is the directory of answers, `ledger` the run's file of what was spent, `record` is called once a group.
    Keys come from SOD_RUBRIC_KEY and, where the teacher has a server of its own, SOD_RUBRIC_TEACHER_KEY: no key goes to
    the other server.

    Raises ConfigError for settings that cannot be meant; RubricError, an InfrastructureError, when a server fails, and
    of these UnusableReplyError when no rubric could be read; BudgetError, which is none, when the budget is used up;
    StorageError when answers or what they cost cannot be written.
    """

    def __init__(
        self, config: RubricConfig, *, cache: Path, ledger: Path, record: Record = lambda _group: None
    ) -> None:
        self._config = config
        self._record = record
        self._budget = Budget(max_requests=config.max_requests, max_tokens=config.max_tokens, ledger=ledger)
        self._answers = AnswerCache(cache)
        own = self._client(config.url, variable=KEY_VARIABLE)
        teacher = self._client(config.teacher_url, variable=TEACHER_KEY_VARIABLE) if config.teacher_url else own
        if teacher.url == own.url:
            teacher = own
        self._teacher = _Voice(
            client=teacher,
            purpose="teacher",
            model=config.teacher_model or config.model,
            temperature=config.teacher_temperature,
        )
        self._rubricator = _Voice(
            client=own, purpose="rubric", model=config.model, temperature=config.rubric_temperature
        )
        self._verifier = _Voice(
            client=own, purpose="verdict", model=config.model, temperature=config.verdict_temperature
        )

    @property
    def spent(self) -> Spent:
        """What the run's requests came to so far, in all its sessions."""
        return self._budget.spent

    async def start(self) -> None:
        """That the servers are there, take the keys and serve the models. It costs nothing."""
        models: dict[ChatClient, set[str]] = {}
        for voice in (self._rubricator, self._verifier, self._teacher):
            models.setdefault(voice.client, set()).add(voice.model)
        for client, names in models.items():
            await client.check(names)

    async def aclose(self) -> None:
        """Ends the connections; calls that still run raise RubricError."""
        for client in {self._rubricator.client, self._teacher.client}:
            await client.aclose()

    async def judge(
        self,
        problem: Problem,
        trajectories: Sequence[Trajectory],
        scores: Sequence[Score],
        *,
        about: Mapping[str, Any] | None = None,
    ) -> list[Judgement]:
        """The scores of one prompt's siblings with the rubric's reward as `value`; `correct` and `answer` stay.

        A verdict that could not be read costs its own trajectory alone. `about` goes in front of what is recorded (the
        update, the group). Any other failure cancels the group's other requests and is raised.
        """
        assert len(trajectories) == len(scores), f"{len(trajectories)} trajectories with {len(scores)} scores"
        if not trajectories:
            return []
        answers = await self._teacher_answers(problem)
        rubric = await self._rubric(problem, answers, trajectories)
        verdicts = await _all(self._verdicts(problem, rubric, trajectory) for trajectory in trajectories)
        judged = [
            met if isinstance(met, UnusableReplyError) else _judged(score, rubric, met, eps=self._config.eps)
            for score, met in zip(scores, verdicts, strict=True)
        ]
        self._record({**(about or {}), **self._group_record(problem, rubric, trajectories, verdicts, judged)})
        return judged

    # Requests

    async def _teacher_answers(self, problem: Problem) -> list[str]:
        """What the teacher says to the prompt as the student was shown it, each answer another draw."""
        messages = [
            {"role": str(message.get("role", "user")), "content": str(message.get("content") or "")}
            for message in problem.messages
        ]
        answers = await _all(
            self._ask(self._teacher, messages, draw=draw) for draw in range(self._config.teacher_answers)
        )
        return [_shown_answer(answer) for answer in answers]

    async def _rubric(
        self, problem: Problem, answers: Sequence[str], trajectories: Sequence[Trajectory]
    ) -> tuple[Criterion, ...]:
        config = self._config
        limits = Limits(
            criteria=(config.min_criteria, config.max_criteria), points=(config.min_points, config.max_points)
        )
        pieces = problem_pieces(problem) + answer_pieces(answers, max_chars=config.max_rollout_chars)
        if config.rubric_for == "group":
            for number, trajectory in enumerate(trajectories, start=1):
                pieces += self._rollout(f"STUDENT ATTEMPT {number}", trajectory)
        messages = rubric_messages(
            pieces,
            has_rollouts=config.rubric_for == "group",
            criteria=limits.criteria,
            points=limits.points,
            max_chars=MAX_CRITERION_CHARS,
        )
        return await self._insist(
            self._rubricator, messages, read=lambda text: read_rubric(text, limits=limits), problem=problem
        )

    async def _verdicts(
        self, problem: Problem, rubric: Sequence[Criterion], trajectory: Trajectory
    ) -> tuple[bool, ...] | UnusableReplyError:
        """All criteria of one rollout in one request. Siblings that say the same are one question."""
        pieces = problem_pieces(problem) + self._rollout("STUDENT ATTEMPT", trajectory)
        messages = verdict_messages(pieces, criteria=[(criterion.id, criterion.text) for criterion in rubric])
        try:
            return await self._insist(
                self._verifier, messages, read=lambda text: read_verdicts(text, criteria=rubric), problem=problem
            )
        except UnusableReplyError as error:
            return error

    def _rollout(self, name: str, trajectory: Trajectory) -> list[Piece]:
        config = self._config
        return rollout_pieces(
            name, trajectory, max_result_chars=config.max_result_chars, max_chars=config.max_rollout_chars
        )

    async def _insist(
        self, voice: _Voice, messages: Sequence[Message], *, read: Callable[[str], _T], problem: Problem
    ) -> _T:
        """What `read` makes of the model's reply, or of a second one after its complaint about the first."""
        answer = await self._ask(voice, messages)
        try:
            return read(answer.text)
        except ReplyError as error:
            first = str(error) + _cut_off(answer)
        answer = await self._ask(voice, complain(messages, reply=answer.text, complaint=first))
        try:
            return read(answer.text)
        except ReplyError as error:
            second = str(error) + _cut_off(answer)
        raise UnusableReplyError(
            f"problem {problem.id}: {voice.model} must answer in the form that was asked for, got twice another: "
            f"{first}; then {second}; raise rubrics.max_answer_tokens if replies were cut, or use a stronger model"
        )

    async def _ask(self, voice: _Voice, messages: Sequence[Message], *, draw: int = 0) -> Answer:
        question = Question(
            purpose=voice.purpose,
            model=voice.model,
            messages=tuple(messages),
            temperature=voice.temperature,
            max_tokens=self._config.max_answer_tokens,
            draw=draw,
        )
        return await voice.client.answer(question)

    def _client(self, url: str, *, variable: str) -> ChatClient:
        config = self._config
        return ChatClient(
            url,
            variable=variable,
            cache=self._answers,
            budget=self._budget,
            limit_field=config.limit_field,
            max_concurrent=config.max_concurrent,
            timeout_s=config.timeout_s,
        )

    # Records

    def _group_record(
        self,
        problem: Problem,
        rubric: Sequence[Criterion],
        trajectories: Sequence[Trajectory],
        verdicts: Sequence[Sequence[bool] | UnusableReplyError],
        judged: Sequence[Judgement],
    ) -> dict[str, Any]:
        return {
            "problem_id": problem.id,
            "wording": VERSION,
            "model": self._config.model,
            "teacher_model": self._teacher.model,
            "rubric": [{"id": each.id, "text": each.text, "points": each.points} for each in rubric],
            "verdicts": [
                {"sample": trajectory.sample, **_verdict_record(rubric, met, score)}
                for trajectory, met, score in zip(trajectories, verdicts, judged, strict=True)
            ],
        }


def _verdict_record(
    rubric: Sequence[Criterion], met: Sequence[bool] | UnusableReplyError, score: Judgement
) -> dict[str, Any]:
    if isinstance(met, UnusableReplyError) or isinstance(score, UnusableReplyError):
        return {"unusable": str(met)}
    named = [criterion.id for criterion, is_met in zip(rubric, met, strict=True) if is_met]
    return {"met": named, "value": round(score.value, 6), "correct": score.correct}


def _judged(score: Score, rubric: Sequence[Criterion], met: Sequence[bool], *, eps: float) -> Score:
    """`points 3 2 5, met yes no yes -> 8 / (10 + eps)`."""
    good = [criterion for criterion, is_met in zip(rubric, met, strict=True) if is_met]
    points, total = sum(each.points for each in good), sum(each.points for each in rubric)
    named = "; ".join(f"{each.id} ({each.points}) {each.text[:SHOWN_CHARS]}" for each in good)
    reason = f"{len(good)} of {len(rubric)} criteria met, {points} of {total} points" + (f": {named}" if good else "")
    return replace(score, value=points / (total + eps), reason=reason)


def _shown_answer(answer: Answer) -> str:
    """The teacher's words without hidden thoughts; an answer that ran out of room says so at its end."""
    text = answer.text.rpartition("</think>")[2].strip() or answer.text
    return f"{text}\n[... the answer was cut here for its length ...]" if answer.finish_reason == "length" else text


def _cut_off(answer: Answer) -> str:
    return " (the reply was cut for its length)" if answer.finish_reason == "length" else ""


async def _all(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Results in order. A failure cancels the rest, which would cost money; of several the one is told that must end
    the run."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as failures:
        told = sorted(failures.exceptions, key=lambda error: not isinstance(error, (BudgetError, StorageError)))
        raise told[0] from None
    return [task.result() for task in tasks]

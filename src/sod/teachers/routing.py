"""Several teachers: which one supervises a problem is decided by the problem's source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from sod.errors import DataError
from sod.teachers.teacher import Supervision, Teacher
from sod.types import Problem, Trajectory

__all__ = ["Share", "Teachers"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One teacher's part: the problems it supervises, and what it is called in messages."""

    name: str
    teacher: Teacher
    problems: tuple[Problem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Teachers:
    """Teachers by the source of a problem, exactly as its row says it; `default` has all other problems.

    by_source {"math_dapo": a}, default b: "math_dapo" -> a, "math_dapo2" -> b.
    """

    by_source: Mapping[str, Teacher] = field(default_factory=dict)
    default: Teacher | None = None

    def of(self, problem: Problem) -> Teacher:
        """The problem's teacher. Raises DataError when there is none."""
        teacher = self.by_source.get(problem.source, self.default)
        if teacher is None:
            raise DataError(self._missing([problem]))
        return teacher

    def shares(self, problems: Sequence[Problem]) -> list[Share]:
        """Every teacher that has problems here, with them, to be checked like one alone.

        Raises DataError, one message with all their sources, when some problems have no teacher.
        """
        missing = [problem for problem in problems if problem.source not in self.by_source]
        if missing and self.default is None:
            raise DataError(self._missing(missing))
        mine: dict[int, list[Problem]] = {}
        for problem in problems:
            mine.setdefault(id(self.of(problem)), []).append(problem)
        return [
            Share(name=self._name(each[0]), teacher=self.of(each[0]), problems=tuple(each)) for each in mine.values()
        ]

    def unused(self, problems: Sequence[Problem]) -> list[str]:
        """Sources that have a teacher and no problem: most likely misspelt, and then their problems are another's."""
        return sorted(self.by_source.keys() - {problem.source for problem in problems})

    async def logprobs(self, trajectory: Trajectory, *, problem: Problem) -> tuple[float, ...]:
        """As `Teacher.logprobs`, of the problem's teacher."""
        return await self.of(problem).logprobs(trajectory, problem=problem)

    def follow(self, trajectory_id: str, *, problem: Problem) -> AbstractAsyncContextManager[Supervision]:
        """As `Teacher.follow`, by the problem's teacher."""
        return self.of(problem).follow(trajectory_id, problem=problem)

    def _name(self, problem: Problem) -> str:
        return f"the teacher of {problem.source}" if problem.source in self.by_source else "the teacher"

    def _missing(self, problems: Sequence[Problem]) -> str:
        sources = ", ".join(repr(source) for source in sorted({problem.source for problem in problems}))
        known = ", ".join(repr(source) for source in sorted(self.by_source)) or "none"
        return (
            f"every problem's source must have a teacher, got no teacher for {sources} and no default; there are "
            f"teachers for: {known}; name these sources, or give a default"
        )

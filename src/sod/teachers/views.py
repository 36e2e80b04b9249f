"""What a teacher is shown: the student's prompt, and behind it what the student must find out by itself.

    privilege = privilege_of("answer", chat=chat)
    privilege.longest_prompt(problems)     # in tokens; every problem has an answer to show
    privilege.alignment(problem).shift     # tokens by which the teacher's prompt is longer

A view makes messages of a problem; all the words are here. They come behind the question and its instruction and ask
for the same work in the same form: the teacher scores a solution that does not know the reference, and would find every
step of it strange if it were led to begin with the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from sod.chat import Chat
from sod.config.teaching import Shows
from sod.errors import DataError
from sod.teachers.alignment import Alignment
from sod.types import Message, Problem

__all__ = ["VIEWS", "Privilege", "View", "privilege_of"]

View: TypeAlias = Callable[[Problem], tuple[Message, ...]]
"""Problem -> the messages that a teacher is shown."""

NUM_RECENT = 1024
"""Problems whose prompts are kept as tokens: more than an update has."""

_AGREEMENT = (
    "The solver does not have this. Use it to know where the work has to lead, but do not mention it and do not start "
    "from it: solve the problem step by step as asked above, in the same way and the same form as without it."
)
_WORDS: Mapping[Shows, str] = {
    "answer": "For your eyes only, the correct final answer:\n\n{reference}\n\n" + _AGREEMENT,
    "solution": "For your eyes only, a correct solution:\n\n{reference}\n\n" + _AGREEMENT,
    "hint": "For your eyes only, a hint:\n\n{reference}\n\n" + _AGREEMENT,
}


def _prompt(problem: Problem) -> tuple[Message, ...]:
    return problem.messages


def _with(shows: Shows) -> View:
    """The problem's messages with the reference behind the last one's text."""

    def view(problem: Problem) -> tuple[Message, ...]:
        *before, last = problem.messages
        words = _WORDS[shows].replace("{reference}", _reference(problem, shows))
        return (*before, {**last, "content": f"{last['content']}\n\n{words}"})

    return view


def _reference(problem: Problem, shows: Shows) -> str:
    """The text to show; "" where there is none. Of code the answer is its tests, which are no answer."""
    if shows == "answer":
        return "" if problem.grader == "code" else problem.answer.strip()
    return {"solution": problem.solution, "hint": problem.hint}[shows].strip()


VIEWS: Mapping[Shows, View] = {
    "prompt": _prompt,
    "answer": _with("answer"),
    "solution": _with("solution"),
    "hint": _with("hint"),
}
"""By the name in `TeachingConfig.shows`."""


class _Known(NamedTuple):
    """A problem that was rendered."""

    problem: Problem
    alignment: Alignment


@dataclass(frozen=True, kw_only=True, slots=True)
class Privilege:
    """What a teacher is shown beyond the student. `chat` is the student's own: template, tools, system message."""

    shows: Shows
    chat: Chat
    _recent: dict[str, _Known] = field(default_factory=dict, repr=False, compare=False)

    def alignment(self, problem: Problem) -> Alignment:
        """Both prompts as tokens: those of an update's problems are rendered once for all siblings."""
        known = self._recent.get(problem.id)
        if known is not None and known.problem is problem:
            return known.alignment
        while len(self._recent) >= NUM_RECENT:
            del self._recent[next(iter(self._recent))]
        alignment = self._render(problem)
        self._recent[problem.id] = _Known(problem, alignment)
        return alignment

    def _render(self, problem: Problem) -> Alignment:
        return Alignment(
            student_prompt=self.chat.prompt_ids(problem.messages),
            teacher_prompt=self.chat.prompt_ids(VIEWS[self.shows](problem)),
        )

    def longest_prompt(self, problems: Sequence[Problem]) -> int:
        """The longest of the teacher's prompts in tokens.

        Every problem must have what is shown, and in it no control token, which would end the prompt or answer it.
        Raises DataError, one message: how many have not, and the first. It quotes no problem.
        """
        without = [problem.id for problem in problems if not _reference(problem, self.shows)]
        if without:
            tests = " (of code the answer is its tests, which are not shown)" if self.shows == "answer" else ""
            raise DataError(
                f'a teacher with shows = "{self.shows}" must have a {self.shows} of every problem{tests}, got none of '
                f"{len(without)} of {len(problems)}, the first {without[0]}; {_CURES[self.shows]}"
            )
        longest, steering = 0, []
        for problem in problems:
            alignment = self._render(problem)
            longest = max(longest, len(alignment.teacher_prompt))
            if self._controls(alignment.student_prompt) != self._controls(alignment.teacher_prompt):
                steering.append(problem.id)
        if steering:
            raise DataError(
                f"a {self.shows} must hold no control token of the teacher's template, got some in {len(steering)} of "
                f"{len(problems)} problems, the first {steering[0]}; take them out of the rows"
            )
        return longest

    def _controls(self, token_ids: Sequence[int]) -> list[int]:
        return [token_id for token_id in token_ids if token_id in self.chat.control_token_ids]


_CURES: Mapping[Shows, str] = {
    "answer": "show solutions or hints instead, or give these problems another teacher",
    "solution": "give the rows a column `solution`, or leave them out",
    "hint": "write hints from solutions with `sod hints`, or leave the rows out",
}


def privilege_of(shows: Shows, *, chat: Chat) -> Privilege | None:
    """What the setting means; None for "prompt", where nothing is added and nothing moves."""
    return None if shows == "prompt" else Privilege(shows=shows, chat=chat)

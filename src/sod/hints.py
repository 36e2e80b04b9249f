r"""Hints for a privileged teacher (`shows = "hint"`), written by a model that reads the reference solution.

    count = await make_hints(config)
    count.written, count.without  -> 7031, {"stated the final answer": 442}

A hint must not hold the final answer: the teacher would be told it, and OPSD_hint would be OPSD_gt by another name.
What stands in a hint and could be an answer (numbers and number words, formulas and the sides of their equations, sums,
the answer's own text) is compared with the answer as the grader compares. A hint that holds it, or is of no use, is
asked for once more with the reason; then the row is written without.

Rows are of our own form, one a line in the order of the problems, so that a command that was stopped goes on where the
file ends.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from sod.agent import draw_seed
from sod.chat import Chat, load_tokenizer
from sod.config.teaching import HintsConfig
from sod.data import load_problems
from sod.data.prompts import INSTRUCTIONS
from sod.errors import DataError, StorageError
from sod.models import Sampler
from sod.rewards.choice import letter
from sod.rewards.math import equivalent
from sod.types import Problem

__all__ = ["Hint", "HintCount", "HintWriter", "leaks", "make_hints", "row_of"]

ATTEMPTS = 2
"""A hint that cannot be used is asked for once more."""

OnProgress: TypeAlias = Callable[[int, int], None]
"""Told of (rows done, rows in all)."""

_REQUEST = """\
Here is a problem and a solution of it. Write a hint for somebody who has to solve the problem and will not see the \
solution.

The hint says which idea or which first step the solution rests on, in at most {sentences} sentences, and leaves the \
work to the solver. It must not state the final answer, nor any number, formula or word that is equal to it. Write the \
hint and nothing else.

Problem:
{question}

Solution:
{solution}"""
_AGAIN = "\n\nAn earlier hint was turned down because it {fault}. Write another one."


@dataclass(frozen=True, kw_only=True, slots=True)
class HintCount:
    """What the file holds: rows with a hint, and rows without by the reason why."""

    written: int
    without: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hint:
    """What came of one problem: a hint, or the reason why there is none."""

    text: str = ""
    fault: str = ""


async def make_hints(config: HintsConfig, *, on_progress: OnProgress = lambda _done, _total: None) -> HintCount:
    """Write the config's problems with their hints to `config.out`, or go on where that file ends.

    Raises DataError for problems that cannot be read, are private or have no solution at all, and for a file of other
    rows; ModelError and EngineError as the model does; StorageError when the disk does not take a row.
    """
    from sod.models.engine import open_model

    problems = load_problems(config.data)
    if problems.private:
        raise DataError(f"{problems.name}: texts of these problems must not be written down; take others")
    if not any(problem.solution for problem in problems):
        raise DataError(f"{problems.name} must have solutions to make hints of, got none; give rows with a `solution`")
    file = _HintFile(path=Path(config.out), problems=problems)
    file.resume()
    chat = Chat(load_tokenizer(config.model.path), thinking=config.thinking)
    if file.waiting:
        async with open_model(config.model, sampling=config.sampling, scores=False) as model:
            writer = HintWriter(config=config, sampler=model, chat=chat, max_length=model.max_length)
            await _write_all(file, writer=writer, on_progress=on_progress)
    return HintCount(written=file.written, without=dict(file.without))


async def _write_all(file: _HintFile, *, writer: HintWriter, on_progress: OnProgress) -> None:
    """Hints of all problems that wait, many at a time; rows in order. The first failure ends them all."""
    gate = asyncio.Semaphore(writer.config.max_concurrent)

    async def one(problem: Problem) -> Hint:
        async with gate:
            return await writer.write(problem)

    waiting = file.waiting
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(problem)) for problem in waiting]
            for task in tasks:
                file.append(await task)
                on_progress(file.done, len(file.problems))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None


@dataclass(frozen=True, kw_only=True)
class HintWriter:
    """A model that writes hints. `max_length` is how many tokens it knows; None where nobody says."""

    config: HintsConfig
    sampler: Sampler
    chat: Chat
    max_length: int | None = None

    async def write(self, problem: Problem) -> Hint:
        """A hint that can be used, asked for at most ATTEMPTS times. Raises EngineError when the engine fails."""
        if not problem.solution:
            return Hint(fault="the problem has no solution")
        hint = Hint()
        for attempt in range(ATTEMPTS):
            token_ids = self.chat.prompt_ids([{"role": "user", "content": self._request(problem, hint.fault)}])
            if self.max_length is not None and len(token_ids) + self.config.max_tokens > self.max_length:
                return Hint(fault="problem and solution are too long for the model")
            hint = await self._sampled(problem, token_ids, attempt=attempt)
            if hint.text:
                break
        return hint

    def _request(self, problem: Problem, fault: str) -> str:
        """What the model is asked; the parts are put in one after the other, as they may hold braces."""
        before, rest = _REQUEST.split("{question}")
        asked = before.replace("{sentences}", str(self.config.max_sentences)) + _question(problem)
        asked += rest.replace("{solution}", "") + problem.solution
        return asked + (_AGAIN.replace("{fault}", fault) if fault else "")

    async def _sampled(self, problem: Problem, token_ids: Sequence[int], *, attempt: int) -> Hint:
        key = f"hint/{problem.id}/{attempt}"
        try:
            completion = await self.sampler.sample(
                token_ids,
                max_tokens=self.config.max_tokens,
                stop_token_ids=self.chat.stop_token_ids,
                sampling=self.config.sampling,
                trajectory_id=key,
                seed=draw_seed("hint", self.config.seed, problem.id, attempt),
            )
        finally:
            self.sampler.release(key)
        text = self.chat.read(completion.token_ids).text.rpartition("</think>")[2].strip()
        if not completion.stopped:
            return Hint(fault="was too long")
        if not text:
            return Hint(fault="was empty")
        if self._controls(text) != self._controls("x"):
            return Hint(fault="held tags or control tokens")
        # Comparing may wait for another process.
        return (
            Hint(fault="stated the final answer") if await asyncio.to_thread(leaks, text, problem) else Hint(text=text)
        )

    def _controls(self, text: str) -> list[int]:
        """The control tokens of a prompt that shows the text."""
        token_ids = self.chat.prompt_ids([{"role": "user", "content": text}])
        return [token_id for token_id in token_ids if token_id in self.chat.control_token_ids]


def _question(problem: Problem) -> str:
    """The last message without the instruction that `sod.data` may have put behind it."""
    text = str(problem.messages[-1]["content"])
    for instruction in INSTRUCTIONS.values():
        text = text.removesuffix(instruction)
    return text.strip()


# ---- what would give the answer away

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?\s*%?")
_SUM = re.compile(r"-?\(*\d[\d.,]*(?:\s*[-+*/^\u00d7\u00f7\u22c5]\s*-?\(*\d[\d.,]*\)*)+%?")
_NUMBER_WORD = re.compile(
    r"\b(?:zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|"
    r"eighteen|nineteen|hundred|thousand)\b",
    re.IGNORECASE,
)
"""Those that the grader reads. Not "one", which mostly is no number."""
_FORMULA = re.compile(r"\$\$?(.+?)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\[dt]?frac\s*\{[^{}]*\}\s*\{[^{}]*\}|\\sqrt\s*\{[^{}]*\}")
_EQUATION = re.compile(r"=|\\approx|\\equiv|\u2248")
_DRESS = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_SIGNS = str.maketrans({"\u00d7": "*", "\u22c5": "*", "\u00f7": "/", "\N{MINUS SIGN}": "-"})
_PROGRAM = re.compile(r"```|^\s*(?:def|class|import|from)\s", re.MULTILINE)


def leaks(hint: str, problem: Problem) -> bool:
    r"""Whether the final answer stands in the hint, in whatever form the grader would take it.

    Answer `12`: "you get 12", "twelve", "3 * 4", "$x = 12.0$" do; "multiply by 3" does not. Of a choice the letter or
    the option's text, of code any program.
    """
    if problem.grader == "code":
        return bool(_PROGRAM.search(hint))
    if problem.grader == "choice":
        return _names_option(hint, problem)
    if "\\boxed" in hint or _quotes(hint, problem.answer):
        return True
    return any(equivalent(candidate, problem.answer) for candidate in dict.fromkeys(_candidates(hint)))


def _candidates(hint: str) -> Iterator[str]:
    """Everything in a text that could be an answer by itself."""
    hint = hint.translate(_SIGNS)
    for number in _NUMBER.finditer(hint):
        yield number[0].rstrip(", ")
        if hint[: number.start()].endswith("-"):
            yield "-" + number[0].rstrip(", ")
    for pattern in (_SUM, _NUMBER_WORD, _COMMAND):
        yield from (found[0].rstrip(".,") for found in pattern.finditer(hint))
    for formula in _FORMULA.finditer(hint):
        text = next(group for group in formula.groups() if group is not None)
        yield from (side.strip(" .,;") for side in (text, *_EQUATION.split(text)) if side.strip(" .,;"))


def _quotes(hint: str, answer: str) -> bool:
    """The answer's own characters stand there, however spaced and dressed, and not inside a longer word or number."""
    bare = "".join(_DRESS.sub(r"\1", answer).strip("$ ").casefold().split())
    if not bare:
        return False
    spelt = r"\s*".join(map(re.escape, bare))
    return re.search(rf"(?<![\w.\\]){spelt}(?![\w]|\.\d)", _DRESS.sub(r"\1", hint).casefold()) is not None


def _names_option(hint: str, problem: Problem) -> bool:
    gold, choices = problem.answer.strip().upper(), problem.metadata.get("choices")
    if re.search(rf"[(\[]\s*{gold}\s*[)\]]|\b{gold}\)|\b(?i:option|choice|answer)\s+{gold}\b", hint):
        return True
    if letter(hint) == gold:
        return True
    texts = choices if isinstance(choices, list | tuple) else ()
    place = ord(gold) - ord("A")
    return place < len(texts) and _quotes(hint, str(texts[place]))


# ---- the file


def row_of(problem: Problem, *, hint: str) -> dict[str, Any]:
    """A problem as a row of our own form: what `load_problems` reads from it is the problem with its hint."""
    return {
        "id": problem.id,
        "messages": [dict(message) for message in problem.messages],
        "answer": problem.answer,
        "grader": problem.grader,
        "source": problem.source,
        "solution": problem.solution,
        "hint": hint,
        "metadata": dict(problem.metadata),
    }


@dataclass(kw_only=True)
class _HintFile:
    """Rows that are written, and problems that wait."""

    path: Path
    problems: Sequence[Problem]
    done: int = 0
    written: int = 0
    without: Counter[str] = field(default_factory=Counter)

    @property
    def waiting(self) -> Sequence[Problem]:
        """The problems that have no row yet."""
        return self.problems[self.done :]

    def resume(self) -> None:
        """Take up the rows that an earlier session left; one that was cut short is dropped.

        The file is changed only after everything in it was found to be of these problems. Raises DataError when it is
        not, StorageError when the file cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a+b") as file:
                file.seek(0)
                *lines, tail = file.read().split(b"\n")
                for line in lines:
                    self._take_up(line)
                if tail:
                    self._need_own(tail)
                    file.truncate(file.tell() - len(tail))
        except OSError as error:
            raise StorageError(
                f"{self.path} must be a file that can be written, got: {error}; give another out"
            ) from None

    def _take_up(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # no JSON, no UTF-8
            row = None
        hint = row.get("hint") if isinstance(row, dict) else None
        known = self.done < len(self.problems) and isinstance(hint, str)
        if not known or row != json.loads(_line(self.problems[self.done], str(hint))):
            raise self._another()
        self._count(Hint(text=str(hint), fault="nothing usable in an earlier session"))

    def _need_own(self, tail: bytes) -> None:
        """A last line without its end is what a kill left of our row: behind rows of ours, or by its beginning."""
        if not self.done:
            start = _line(self.problems[0], "").partition(_BEFORE_HINT)[0].encode() if self.problems else b""
            if not start or tail[: len(start)] != start[: len(tail)]:
                raise self._another()

    def _another(self) -> DataError:
        return DataError(
            f"{self.path} must hold the first rows of these problems with their hints, got another as row "
            f"{self.done + 1}; was the data changed? give another out"
        )

    def append(self, hint: Hint) -> None:
        """The next problem's row. Raises StorageError."""
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(_line(self.problems[self.done], hint.text) + "\n")
        except OSError as error:
            raise StorageError(
                f"{self.path}: a row could not be written: {error}; free space and run the same command again"
            ) from error
        self._count(hint)

    def _count(self, hint: Hint) -> None:
        self.done += 1
        if hint.text:
            self.written += 1
        else:
            self.without[hint.fault] += 1


_BEFORE_HINT = '"hint": "'
"""No text holds it: a quotation mark in a text is written with a backslash."""


def _line(problem: Problem, hint: str) -> str:
    """ASCII, as half a surrogate pair has no other form; dates and such, which parquet may hold, as text."""
    return json.dumps(row_of(problem, hint=hint), default=str)

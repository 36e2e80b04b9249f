r"""Rows -> Problems.

    problems = load_problems(DataConfig(path="gsm8k/test.jsonl", limit=100))
    problems[0].answer, problems.skipped -> "18", {}

`format = "auto"` decides by the columns of the first row. Whether a question gets the instruction is decided per row.
A row that nobody can grade (an empty answer, free text) is left out, counted in `ProblemSet.skipped` and named; what
becomes of one that breaks the form, its `Layout` says.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from sod.config import DataConfig
from sod.data.benchmarks import Benchmark, benchmark
from sod.data.code_rows import HUMANEVAL, LIVECODEBENCH, MBPP
from sod.data.drafts import Draft, Layout
from sod.data.fields import RowError, SkippedRowError
from sod.data.files import Row, names_of, read_rows
from sod.data.gpqa_rows import GPQA
from sod.data.hub import fetch
from sod.data.math_rows import AIME, GSM8K, MATH, OWN
from sod.data.prompts import INSTRUCTIONS, starter_of, worded
from sod.data.verl_rows import VERL
from sod.errors import DataError
from sod.types import Problem

__all__ = ["LAYOUTS", "ProblemSet", "load_problems", "shared_questions"]

LAYOUTS: Mapping[str, Layout] = {
    "verl": VERL,
    "livecodebench": LIVECODEBENCH,
    "humaneval": HUMANEVAL,
    "mbpp": MBPP,
    "gpqa": GPQA,
    "aime": AIME,
    "gsm8k": GSM8K,
    "math": MATH,
    "sod": OWN,
}
"""By the name in `DataConfig.format`; "auto" takes the first that recognises the first row."""

_HUB = "hub:"
NUM_NAMED = 3
"""Rows of one fault that are named by their number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProblemSet(Sequence[Problem]):
    """The problems of a benchmark or file, in its order.

    `skipped` counts the rows left out by the reason why, `named` has the first row numbers of each reason. `expected`
    is how many rows the benchmark was published with, to compare with problems and skipped together; 0 where there is
    no such number, or a limit. `questions` has a sum over each bare question by the problem's id: instruction, wording
    and system message do not change it, and a question that is asked twice (MBPP has one) has it twice. What is
    `private` must not be quoted in reports and logs, nor trained on.
    """

    problems: tuple[Problem, ...]
    name: str = ""
    private: bool = False
    skipped: Mapping[str, int] = field(default_factory=dict)
    named: Mapping[str, Sequence[int]] = field(default_factory=dict)
    expected: int = 0
    questions: Mapping[str, str] = field(default_factory=dict)

    @property
    def left_out(self) -> Mapping[str, Any]:
        """What listeners are told of the rows left out: name, counts, first row numbers."""
        return {"name": self.name, "skipped": self.skipped, "named": self.named}

    def __len__(self) -> int:
        return len(self.problems)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Problem, ...]: ...
    def __getitem__(self, index: int | slice) -> Problem | tuple[Problem, ...]:
        return self.problems[index]


def load_problems(config: DataConfig, *, system: str = "") -> ProblemSet:
    """Read the problems of a file or benchmark; `system` is put before every problem that has no system message.

    Raises DataError, one message: missing or empty file, unknown benchmark or layout, missing columns, a bad line (with
    its number), a row that breaks its form (with its number), two rows with one id, no usable row.
    """
    declared = benchmark(config.benchmark) if config.benchmark else None
    reading = _Reading(config=config, name=_name(config), declared=declared, system=system)
    for path, number, row in _rows(config, declared):
        reading.take(path, number, row)
        if config.limit and len(reading.problems) == config.limit:
            break
    if not reading.problems:
        raise DataError(
            f"{config.path or reading.name} must hold a problem that can be graded, got none among {reading.num_rows} "
            f"rows; left out: {reading.reasons()}"
        )
    return ProblemSet(
        problems=tuple(reading.problems),
        name=reading.name,
        private=reading.layout is not None and reading.layout.private,
        skipped=dict(reading.skipped),
        named=reading.named,
        expected=declared.num_problems if declared and not config.limit else 0,
        questions=reading.questions,
    )


def shared_questions(problems: Iterable[Problem], others: Iterable[Problem]) -> list[str]:
    """Ids of `problems` whose question is also among `others`, whatever its spaces, case and instruction."""
    known = {_question(problem) for problem in others}
    return [problem.id for problem in problems if _question(problem) in known]


def _question(problem: Problem) -> str:
    """The last message without what `worded` may have put behind it."""
    text = str(problem.messages[-1]["content"])
    for instruction in INSTRUCTIONS.values():
        text = text.removesuffix(instruction)
    return "".join(text.split()).casefold()


def _name(config: DataConfig) -> str:
    """`runs/x/test.jsonl -> test`, and a benchmark's own name."""
    return config.benchmark or Path(config.path).name.partition(".")[0] or config.path


def _rows(config: DataConfig, declared: Benchmark | None) -> Iterator[tuple[Path, int, Row]]:
    """Rows with their file and number: of the given file, else from the hub."""
    if config.path.startswith(_HUB):
        owner, _, rest = config.path.removeprefix(_HUB).partition("/")
        name, _, pattern = rest.partition("/")
        if not pattern:
            raise DataError(f"{config.path} must be hub:OWNER/NAME/FILES, such as hub:openai/gsm8k/main/test-*.parquet")
        paths = fetch(f"{owner}/{name}", (pattern,))
    elif config.path:
        paths = [Path(config.path)]
    else:
        assert declared is not None, "a config without a path names a benchmark"
        paths = fetch(declared.hub, declared.files)
    for path in paths:
        for number, row in read_rows(path):
            yield path, number, row


@dataclass(kw_only=True)
class _Reading:
    """One pass over the rows."""

    config: DataConfig
    name: str
    declared: Benchmark | None
    system: str
    layout: Layout | None = None
    num_rows: int = 0
    problems: list[Problem] = field(default_factory=list)
    questions: dict[str, str] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[int]] = field(default_factory=dict)

    def take(self, path: Path, number: int, row: Row) -> None:
        """One row: a problem, or a reason why not."""
        self.num_rows += 1
        if self.layout is None:
            self.layout = _layout(path, _names(self.config, self.declared), row)
        if self.declared and not self.declared.keep(row):
            return
        try:
            draft = self.layout.read(row, path.name.partition(".")[0])
        except SkippedRowError as reason:
            self._skip(number, reason)
            return
        except RowError as fault:
            if not self.layout.tolerant:
                raise DataError(f"{path}, row {number}: {fault}") from None
            self._skip(number, fault)
            return
        problem = self._problem(draft)
        if problem.id in self.questions:
            raise DataError(f"{path}, row {number}: an id must be given once, got {problem.id!r} again; rename one")
        self.questions[problem.id] = _sum_of(draft)
        self.problems.append(problem)

    def _skip(self, number: int, fault: Exception) -> None:
        """Counted under what must hold: what was got differs from row to row, and may have to stay private."""
        reason = str(fault).partition(", got")[0]
        self.skipped[reason] += 1
        named = self.named.setdefault(reason, [])
        if len(named) < NUM_NAMED:
            named.append(number)

    def reasons(self) -> str:
        """`2 rows (answer is empty) from row 1 on`."""
        told = [
            f"{count} rows ({reason}) from row {self.named[reason][0]} on" for reason, count in self.skipped.items()
        ]
        return "; ".join(told) or "nothing, all are of another split"

    def _problem(self, draft: Draft) -> Problem:
        text = worded(draft, wording=self.config.wording, instruction=self.config.instruction)
        messages = [*draft.messages[:-1], {**draft.messages[-1], "content": text}]
        if self.system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.system})
        source = self.config.benchmark or draft.source
        return Problem(
            id=draft.id or f"{self.name}-{self.num_rows}",
            messages=tuple(messages),
            answer=draft.answer,
            grader=draft.grader,
            source=source,
            solution=draft.solution,
            hint=draft.hint,
            metadata=draft.metadata,
        )


def _sum_of(draft: Draft) -> str:
    """Of the question before anything was put before or behind it; HumanEval's are told apart by their starter."""
    bare = [*draft.messages, starter_of(draft)]
    return hashlib.sha256(json.dumps(bare, default=str).encode()).hexdigest()[:16]


def _names(config: DataConfig, declared: Benchmark | None) -> Sequence[str]:
    """The layouts that come into question; none is all of them."""
    if declared:
        return declared.layouts
    return () if config.format == "auto" else (config.format,)


def _layout(path: Path, names: Sequence[str], row: Row) -> Layout:
    """The layout of the file, by its first row. Named ones must have their columns, among all it must be recognised."""
    candidates = {name: LAYOUTS[name] for name in names or LAYOUTS}
    for layout in candidates.values():
        if layout.fits(row) and (names or layout.recognise(row)):
            return layout
    wanted = "; ".join(
        f"{name}: {' or '.join(', '.join(columns) for columns in layout.columns)}"
        for name, layout in candidates.items()
    )
    raise DataError(
        f"{path} must have the columns of a known layout ({wanted}), got {names_of(row)}; "
        "rename the columns or set data.format"
    )

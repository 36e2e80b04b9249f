"""Differences between the runs of a report, tested problem by problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from sod.comparison import compare_runs
from sod.errors import SodError
from sod.estimates import Comparison, compare
from sod.report.labels import differing_parts, seed_of, without_seed
from sod.report.over_updates import WINDOW
from sod.report.read import Run
from sod.report.untrusted import line, mapping

MAX_ALL_PAIRS = 5
"""Of so many sides every pair is tested; of more, each against the first."""
MIN_PROBLEMS = 5
"""A test on fewer would be guesswork."""
_DAMAGE = (LookupError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Test:
    """One paired test. `what` is the benchmark; `fault` says why there is no comparison."""

    __test__ = False  # no test of pytest's

    before: str
    after: str
    what: str
    num_problems: int = 0
    means: tuple[float, float] = (0.0, 0.0)
    comparison: Comparison | None = None
    fault: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """Runs that differ in nothing but their seed, by seed; or one run."""

    label: str
    runs: Mapping[Any, Run]


# ---- evaluations


def evaluation_tests(runs: Sequence[Run]) -> list[Test]:
    """`sod eval` runs, in the order given, against each other: by seeds where both sides have the same."""
    sides = sides_of([run for run in runs if run.command == "eval" and run.result])
    return [test for before, after in _pairs(sides) for test in _compared(before, after)]


def sides_of(runs: Sequence[Run]) -> list[Side]:
    """Runs by their path without their own seed, and by the checkpoint they evaluate."""
    groups: dict[tuple[str, str], dict[Any, Run]] = {}
    for run in runs:
        seed = seed_of(run.path, run.config)
        checkpoint = str(mapping(run.config.get("model")).get("path", "")).partition("/checkpoints/")[2]
        group = groups.setdefault((without_seed(run.path, seed), checkpoint), {})
        if seed in group:
            group = groups.setdefault((str(run.path.resolve()), checkpoint), {})
        group[seed] = run
    told = differing_parts([Path(path) for path, _ in groups])
    return [Side(label=_label(group, part), runs=group) for group, part in zip(groups.values(), told, strict=True)]


def _label(runs: Mapping[Any, Run], part: str) -> str:
    """`opd (seeds 0, 1)`, of one run its label."""
    if len(runs) == 1:
        return next(iter(runs.values())).label
    seeds = ", ".join(map(str, sorted(runs)[:8])) + (", ..." if len(runs) > 8 else "")
    return f"{line(part.strip('/*-_ '), width=60) or 'all'} (seeds {seeds})"


def _pairs(sides: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(sides) <= MAX_ALL_PAIRS:
        return list(combinations(sides, 2))
    return [(sides[0], side) for side in sides[1:]]


def _compared(before: Side, after: Side) -> Iterator[Test]:
    seeds = sorted((seed for seed in before.runs if seed in after.runs), key=str)
    if not seeds and len(before.runs) == len(after.runs) == 1:
        olds, news = list(before.runs.values()), list(after.runs.values())
    else:
        olds, news = [before.runs[seed] for seed in seeds], [after.runs[seed] for seed in seeds]
    failed = partial(Test, before=before.label, after=after.label, what="")
    if not olds:
        yield failed(fault="the sides have no seed in common")
        return
    try:
        found = compare_runs([run.path for run in olds], [run.path for run in news])
    except (SodError, OSError, *_DAMAGE) as error:
        yield failed(fault=line(error, width=300))
        return
    for each in found.benchmarks:
        yield Test(
            before=before.label,
            after=after.label,
            what=each.name,
            num_problems=each.num_problems,
            means=(each.before, each.after),
            comparison=each.comparison,
            warnings=found.warnings,
        )


# ---- training


def training_tests(runs: Sequence[Run]) -> list[Test]:
    """Training problems that two runs both had in the same of their last updates."""
    trained = [run for run in runs if run.trained]
    sharing = [pair for pair in combinations(trained, 2) if _share_problems(*pair)]
    if len(sharing) > MAX_ALL_PAIRS * (MAX_ALL_PAIRS - 1) // 2:
        sharing = [pair for pair in sharing if pair[0] is trained[0]]
    return [test for before, after in sharing if (test := _on_training_problems(before, after))]


def _share_problems(before: Run, after: Run) -> bool:
    """Not of other seeds, which drew other problems, nor of other data, where a name may be another problem's."""
    shared = before.trajectories.verdicts.keys() & after.trajectories.verdicts.keys()
    return before.config.get("data") == after.config.get("data") and len(shared) >= MIN_PROBLEMS


def _on_training_problems(before: Run, after: Run) -> Test | None:
    """The mean over a problem's samples is one value; a problem that came up twice is one problem."""
    shared = before.trajectories.verdicts.keys() & after.trajectories.verdicts.keys()
    last = sorted({update for update, _, _ in shared})[-WINDOW:]
    pairs: dict[str, list[tuple[float, float]]] = {}
    for key in sorted(each for each in shared if each[0] in last):
        old, new = (fmean(run.trajectories.verdicts[key].values()) for run in (before, after))
        pairs.setdefault(key[2], []).append((old, new))
    if len(pairs) < MIN_PROBLEMS:
        return None
    olds = [fmean(old for old, _ in each) for each in pairs.values()]
    news = [fmean(new for _, new in each) for each in pairs.values()]
    return Test(
        before=before.label,
        after=after.label,
        what=f"training problems of updates {last[0]}-{last[-1]}",
        num_problems=len(pairs),
        means=(fmean(olds), fmean(news)),
        comparison=compare(olds, news),
    )


# ---- evaluations inside training


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """The difference of two last evaluations of which only means are on record, so that it cannot be paired.

    Its interval takes them for evaluations on different problems: on the same ones it is too wide, not too narrow.
    """

    before: str
    after: str
    updates: tuple[int, int]
    means: tuple[float, float]
    low: float
    high: float


def in_training(runs: Sequence[Run]) -> list[Apart]:
    """Pairs of runs that were evaluated while they trained."""
    needed = {"avg@k", "avg@k_low", "avg@k_high"}
    known = [run for run in runs if run.in_training and run.in_training[-1].numbers.keys() >= needed]
    return [_apart(before, after) for before, after in _pairs(known)]


def _apart(before: Run, after: Run) -> Apart:
    """By the square-and-add rule for intervals that need not be even (Zou and Donner 2008)."""
    old, new = before.in_training[-1], after.in_training[-1]
    (a, a_low, a_high), (b, b_low, b_high) = (
        [each.numbers[name] for name in ("avg@k", "avg@k_low", "avg@k_high")] for each in (old, new)
    )
    return Apart(
        before=before.label,
        after=after.label,
        updates=(old.update, new.update),
        means=(a, b),
        low=b - a - ((b - b_low) ** 2 + (a_high - a) ** 2) ** 0.5,
        high=b - a + ((b_high - b) ** 2 + (a - a_low) ** 2) ** 0.5,
    )

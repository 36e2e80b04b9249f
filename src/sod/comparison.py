"""`sod compare`: two evaluations of the same problems, or of two methods by several seeds, paired.

    found = compare_runs("runs/opd", "runs/sod")
    found = compare_runs(["runs/opd-0", "runs/opd-1", "runs/opd-2"], ["runs/sod-0", "runs/sod-1", "runs/sod-2"])

Two runs say whether these two models differ on other problems; several seeds a side, whether the methods do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, TypeAlias

from sod.errors import DataError
from sod.estimates import Comparison, compare, mean_over_seeds
from sod.results import RESULT, Fingerprint, read_fingerprints, samples_in
from sod.runs import read_json

__all__ = ["BenchmarkComparison", "RunComparison", "compare_runs", "problem_means"]

_EXPECTED = ("run", "model", "benchmarks", "limit", "price")
"""Settings that may differ, or that the pairing looks after itself."""


Paths: TypeAlias = str | Path | Sequence[str | Path]


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkComparison:
    """One benchmark on both sides: mean shares of right samples, and the paired comparison."""

    name: str
    num_problems: int
    before: float
    after: float
    comparison: Comparison


@dataclass(frozen=True, kw_only=True, slots=True)
class RunComparison:
    """`overall` pairs the problems of all benchmarks. What a reader should know beside it is in `warnings`."""

    benchmarks: tuple[BenchmarkComparison, ...]
    overall: Comparison
    pairs: tuple[tuple[Path, Path], ...]
    """The runs, one pair a seed."""
    warnings: tuple[str, ...]


Pair: TypeAlias = tuple[float, float]
"""A problem's share of right samples before and after."""


def compare_runs(before: Paths, after: Paths) -> RunComparison:
    """Compare problem by problem, and seed by seed where there are several: in the order given.

    Raises DataError for what is no evaluation, when the sides have not as many runs, or share no problem.
    """
    sides = [_runs(before), _runs(after)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(
            f"both sides must have as many runs, one a seed, got {len(sides[0])} and {len(sides[1])}; leave the others "
            "out, or compare two runs"
        )
    pairs = list(zip(*sides, strict=True))
    seeds = [_paired(old, new) for old, new in pairs]
    shared = [key for key in seeds[0] if all(key in seed for seed in seeds)]
    if not shared:
        old, new = pairs[0]
        raise DataError(
            f"the runs must share problems of a benchmark, got {', '.join(old.means) or 'none'} in {old.path} and "
            f"{', '.join(new.means) or 'none'} in {new.path}, with no question in common"
        )
    rows = {
        name: [[seed[key] for key in shared if key[0] == name] for seed in seeds]
        for name in dict.fromkeys(name for name, _ in shared)
    }
    warnings = [line for old, new in pairs for line in _warnings(old, new, num_pairs=len(shared))]
    return RunComparison(
        benchmarks=tuple(_benchmark(name, each) for name, each in rows.items()),
        overall=_compared([[seed[key] for key in shared] for seed in seeds]),
        pairs=tuple((old.path, new.path) for old, new in pairs),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _runs(paths: Paths) -> list[_Run]:
    return [_Run.read(Path(path)) for path in ([paths] if isinstance(paths, str | Path) else paths)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    """What is compared of a run."""

    path: Path
    config: Mapping[str, Any]
    complete: bool
    means: Mapping[str, Mapping[str, float]]
    problems: Mapping[str, Mapping[str, Fingerprint]]

    @classmethod
    def read(cls, path: Path) -> _Run:
        command = read_json(path / "run.json").get("command")
        if command != "eval":
            got = f"a run of `sod {command}`" if command else "no run there"
            raise DataError(f"{path} must be a run directory of `sod eval`, got {got}; give its path")
        return cls(
            path=path,
            config=read_json(path / "config.json"),
            complete=bool(read_json(path / RESULT).get("complete")),
            means=problem_means(path),
            problems=read_fingerprints(path),
        )


def problem_means(run: str | Path) -> dict[str, dict[str, float]]:
    """Share of right samples by benchmark and problem of a run on disk, for paired tests."""
    verdicts: dict[str, dict[str, dict[int, bool]]] = {}
    for record in samples_in(Path(run)):
        if "score" in record:
            by_problem = verdicts.setdefault(record.get("benchmark", ""), {})
            by_problem.setdefault(record["problem_id"], {})[record["sample"]] = record["score"]["correct"]
    return {
        name: {problem_id: sum(correct.values()) / len(correct) for problem_id, correct in by_problem.items()}
        for name, by_problem in verdicts.items()
    }


def _paired(old: _Run, new: _Run) -> dict[tuple[str, str], Pair]:
    """By benchmark and problem: those with one id and one question, as an id alone may be a row's number in two
    different files."""
    found: dict[tuple[str, str], Pair] = {}
    for name in [name for name in old.means if name in new.means]:
        before, after = old.problems.get(name, {}), new.problems.get(name, {})
        for key, mean in old.means[name].items():
            known = key in new.means[name] and key in before and key in after
            if known and before[key].question == after[key].question:
                found[name, key] = (mean, new.means[name][key])
    return found


def _warnings(old: _Run, new: _Run, *, num_pairs: int) -> list[str]:
    lines = [f"{run.path} is not complete: some of its samples are missing" for run in (old, new) if not run.complete]
    num_problems = sum(len(each) for run in (old, new) for each in run.means.values())
    if num_problems > 2 * num_pairs:
        lines.append(f"{num_problems - 2 * num_pairs} problems are left out: only one of the runs has their question")
    differing = [key for key in sorted(old.config.keys() | new.config.keys()) if key not in _EXPECTED]
    differing = [key for key in differing if old.config.get(key) != new.config.get(key)]
    if differing:
        lines.append(f"these settings differ between the runs: {', '.join(differing)}")
    for what in ("prompt", "answer"):
        others = _num_other(what, old, new)
        if others:
            lines.append(f"{others} problems have another {what} in the two runs (see data settings)")
    return lines


def _num_other(what: str, old: _Run, new: _Run) -> int:
    """Shared questions that were worded or graded otherwise."""
    return sum(
        getattr(each, what) != getattr(new.problems[name][key], what)
        for name, problems in old.problems.items()
        for key, each in problems.items()
        if key in new.problems.get(name, {}) and each.question == new.problems[name][key].question
    )


def _benchmark(name: str, rows: Sequence[Sequence[Pair]]) -> BenchmarkComparison:
    before, after = (fmean(pair[side] for row in rows for pair in row) for side in (0, 1))
    return BenchmarkComparison(
        name=name, num_problems=len(rows[0]), before=before, after=after, comparison=_compared(rows)
    )


def _compared(rows: Sequence[Sequence[Pair]]) -> Comparison:
    """Of pairs by seed and problem."""
    if len(rows) == 1:
        return compare([before for before, _ in rows[0]], [after for _, after in rows[0]])
    found = mean_over_seeds([[after - before for before, after in row] for row in rows])
    return Comparison(difference=found.value, low=found.low, high=found.high, p_value=found.p_value)

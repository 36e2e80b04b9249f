"""What the study's runs came to: read from their folder, and compared by seed and problem.

A run counts when it was trained and all samples of its evaluation were graded. Every number is made of problem means:
the share of right samples by seed and problem.

Intervals and p are `sod.estimates.mean_over_seeds`: both seeds and problems were drawn. Of a difference they are of one
method's means less the other's, on the seeds and problems that both have. A sign flip of problems takes the seeds as
fixed: of methods that are alike, three seeds each that differ by 1.5, 3 or 6 points, it came below 0.05 in 14, 35 and
50 % of draws. It is kept in the JSON as `p_problems_seeds_fixed`, the p of these very students on other problems.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from sod.comparison import problem_means
from sod.errors import DataError
from sod.estimates import SeedsMean, compare, mean_over_seeds
from sod.metrics import persistence
from sod.records import trajectory_of
from sod.runs import read_json, read_records, read_trajectories

HERE = Path(__file__).parent
BENCHMARK = "test"
WORLDS = ("naive", "knowing")
ANY = "any"
"""Where the runs of methods without an outside teacher lie: they count in both worlds."""
SIZES = ("small", "large")
START = "start"
NAMES = {
    START: "start (SFT)",
    "grpo": "GRPO",
    "opd": "OPD",
    "opsd_gt": "OPSD_gt",
    "opsd_hint": "OPSD_hint",
    "sod": "SOD",
    "stable": "SOD, preset stable",
    "opd_grpo": "uniform w (OPD + GRPO)",
    "sod_decay": "0.9^(k - first error)",
    "sod_mask": "masked after the first error",
    "sod_no_cap": "no upper clip",
    "sod_no_grpo": "without GRPO",
    "sod_random": "ours: weights at random",
    "sod_threshold": "ours: threshold",
    "sod_token": "ours: by token",
    "sod_outcome": "ours: by outcome",
    "iw_opd": "IW-OPD",
    "tcod": "TCOD",
    "reopold": "REOPOLD",
    "tropd": "TrOPD",
    "gkd": "GKD",
}
LAST_UPDATES = 10
"""Updates that "the end of training" is."""
SHARED = (
    "Seeds are those of training runs: all of them train the same cold-started student of a size under the same "
    "teacher of a world, and say nothing of other students, teachers or worlds."
)
DESIGNED_HERE = (
    "The preset `stable` was designed in an earlier version of this same world (dev/LOG.md): what it reaches here is "
    "not out of sample."
)
ALPHA = 0.05


# ---- what is on disk


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One seed of a method: its evaluation, and what its training says."""

    path: Path
    means: Mapping[str, float]
    """Share of right samples by problem."""
    samples: int
    tool_calls: float
    failed_turns: int
    retried: int
    alarms: Mapping[str, int]
    """First update of each rule."""
    commit: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A method in a world at a size. `missing` says of each seed that has no outcome what it lacks."""

    method: str
    place: str
    outcomes: Mapping[int, Outcome]
    missing: Mapping[int, str]

    @property
    def num_seeds(self) -> int:
        """Of those that were asked for."""
        return len(self.outcomes) + len(self.missing)

    @property
    def count(self) -> str:
        """`2 of 3 (seed 1: not evaluated)`."""
        lacks = "; ".join(f"seed {seed}: {what}" for seed, what in self.missing.items())
        return f"{len(self.outcomes)} of {self.num_seeds}" + (f" ({lacks})" if self.outcomes and lacks else "")


@dataclass(frozen=True, kw_only=True)
class Study:
    """A folder of `study.py`."""

    out: Path
    seeds: Sequence[int]
    cells: dict[tuple[str, str, str], Cell] = field(default_factory=dict)

    def cell(self, world: str, size: str, method: str) -> Cell:
        """Read once. A method without an outside teacher has its runs under "any"."""
        place = self._place(world, size, method)
        key = (place, size, method)
        if key not in self.cells:
            self.cells[key] = self._read(place, size, method)
        return self.cells[key]

    def runs(self, world: str, size: str, method: str) -> dict[int, Path]:
        """Training runs by seed, also those that are not evaluated yet."""
        folder = self.out / "runs" / self._place(world, size, method) / size / method
        found = {seed: folder / f"seed-{seed}" for seed in self.seeds}
        return {seed: path for seed, path in found.items() if (path / "metrics.jsonl").exists()}

    def methods(self, size: str) -> list[str]:
        """Those with a folder of this size, in any world."""
        return sorted({path.name for path in self.out.glob(f"runs/*/{size}/*") if path.is_dir()})

    def sizes(self) -> list[str]:
        """Those with runs, small first."""
        found = {path.name for path in [*self.out.glob("runs/*/*"), *self.out.glob(f"{START}/*")]}
        return sorted(found, key=lambda size: (SIZES.index(size) if size in SIZES else len(SIZES), size))

    def _place(self, world: str, size: str, method: str) -> str:
        elsewhere = method == START or (self.out / "runs" / ANY / size / method).is_dir()
        return ANY if elsewhere else world

    def _read(self, place: str, size: str, method: str) -> Cell:
        outcomes, missing = {}, {}
        for seed in self.seeds:
            path = self.out / START / size / f"seed-{seed}"
            if method != START:
                path = self.out / "runs" / place / size / method / f"seed-{seed}"
            found = _outcome(path, trained=method != START)
            if isinstance(found, Outcome):
                outcomes[seed] = found
            else:
                missing[seed] = found
        return Cell(method=method, place=place, outcomes=outcomes, missing=missing)


def read_study(out: Path, *, seeds: Sequence[int] = ()) -> Study:
    """The folder as a study of the given seeds, or of all that anything was run with. Raises DataError for none."""
    pattern = [*out.glob("runs/*/*/*/seed-*"), *out.glob(f"{START}/*/seed-*")]
    found = {int(path.name.split("-")[1]) for path in pattern if path.name.split("-")[1].isdigit()}
    if not found:
        raise DataError(f"{out} must hold runs of study.py, got none; run it first, or give another --out")
    return Study(out=out, seeds=tuple(seeds) or tuple(sorted(found)))


def _outcome(path: Path, *, trained: bool) -> Outcome | str:
    """What a seed came to, or what it lacks in a word."""
    if not path.is_dir():
        return "not run"
    if trained and read_json(path / "status.json").get("state") != "finished":
        return f"training {read_json(path / 'status.json').get('state', 'not begun')}"
    evaluation = path.with_name(f"{path.name}-evaluation") if trained else path
    result = read_json(evaluation / "evaluation.json")
    if not result.get("complete"):
        return "not evaluated" if not result else "evaluation incomplete"
    means, numbers = problem_means(evaluation).get(BENCHMARK), result["benchmarks"].get(BENCHMARK)
    if not means or not numbers:
        return f"no benchmark {BENCHMARK!r}"
    failed, retried = calls_again(path, slice(-LAST_UPDATES, None)) if trained else _persistence(path)
    return Outcome(
        path=path,
        means=means,
        samples=numbers["k"],
        tool_calls=numbers["tool_calls"],
        failed_turns=failed,
        retried=retried,
        alarms=_alarms(path) if trained else {},
        commit=_commit_of(path),
    )


def calls_again(run: Path, which: slice) -> tuple[int, int]:
    """Turns with a failed call in some updates of training, and those that called again."""
    updates = [each for each in read_records(run / "metrics.jsonl") if "accuracy" in each][which]
    return sum(each["failed_turns"] for each in updates), sum(each["retried"] for each in updates)


def _persistence(evaluation: Path) -> tuple[int, int]:
    """The same of an evaluation's trajectories: of the start there is no training to look at."""
    counts = persistence([trajectory_of(record) for record in read_trajectories(evaluation)])
    return counts["failed_turns"], counts["retried"]


def _alarms(run: Path) -> dict[str, int]:
    first: dict[str, int] = {}
    for record in read_records(run / "metrics.jsonl"):
        if "alarm" in record:
            first.setdefault(str(record["alarm"]), record["update"])
    return first


def _commit_of(run: Path) -> str:
    """Of the run's last session; "" when it was not recorded."""
    sessions = read_json(run / "run.json").get("sessions") or [{}]
    return str(sessions[-1].get("git_commit") or "")


# ---- compared


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A method less another, paired by seed and problem. `holm` is p corrected within its family."""

    against: str
    interval: SeedsMean
    p_problems_seeds_fixed: float
    """Of sign flips by problem, means over seeds: of these very students, whatever other seeds would have done."""
    holm: float | None = None

    @property
    def p_value(self) -> float | None:
        """Of the interval's statistic; None of one seed, which tells nothing about others."""
        return self.interval.p_value if self.interval.num_seeds > 1 else None

    @property
    def beyond_noise(self) -> bool:
        """One seed alone cannot be."""
        return self.holm is not None and self.holm < ALPHA


def average(cell: Cell) -> SeedsMean:
    """avg@k of a cell, within [0, 1]."""
    outcomes = list(cell.outcomes.values())
    keys = sorted(set.intersection(*(set(each.means) for each in outcomes)))
    found = mean_over_seeds([[each.means[key] for key in keys] for each in outcomes])
    return replace(found, low=max(0.0, found.low), high=min(1.0, found.high))


def difference(cell: Cell, other: Cell) -> Difference | None:
    """The cell less the other on the seeds and problems that both have; None where there are none."""
    seeds = [seed for seed in cell.outcomes if seed in other.outcomes]
    if not seeds or cell is other:
        return None
    pairs = [(cell.outcomes[seed].means, other.outcomes[seed].means) for seed in seeds]
    keys = sorted(set.intersection(*(set(means) for pair in pairs for means in pair)))
    if not keys:
        raise DataError(f"{cell.method} and {other.method} must share problems, got none; evaluate them on one file")
    before, after = ([fmean(pair[side][key] for pair in pairs) for key in keys] for side in (1, 0))
    return Difference(
        against=other.method,
        interval=mean_over_seeds([[mine[key] - theirs[key] for key in keys] for mine, theirs in pairs]),
        p_problems_seeds_fixed=compare(before, after, num_resamples=100).p_value,  # its interval is not used
    )


# ---- what pages say of them


def commits(outcomes: Sequence[Outcome]) -> list[str]:
    """Those that the runs recorded; where none did, this checkout's, and it says so."""
    recorded = sorted({each.commit for each in outcomes if each.commit})
    num_silent = sum(not each.commit for each in outcomes)
    if recorded and not num_silent:
        return recorded
    here = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    commit = here.stdout.strip() or "unknown"
    return [*recorded, f"{commit} (when these tables were made; {num_silent} runs recorded none)"]


def command_line(parser: argparse.ArgumentParser, given: argparse.Namespace) -> str:
    """What to type for the same page: without defaults, and without where it goes. A folder of one machine is `DIR`."""
    words = ["python", f"examples/miniature/{parser.prog}"]
    for name, value in vars(given).items():
        if name == "write" or value == parser.get_default(name):
            continue
        each = (
            value if isinstance(value, list) else ["DIR" if isinstance(value, Path) and value.is_absolute() else value]
        )
        words += [f"--{name}", *map(str, each)]
    return " ".join(words)

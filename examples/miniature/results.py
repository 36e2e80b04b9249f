"""The study's tables: what every method reached, against the start, GRPO, OPD and SOD, with what is missing.

    python examples/miniature/results.py                   # runs/miniature -> docs/results/miniature.{md,json}

A run counts when it was trained and all samples of its evaluation were graded. Every number is made of problem means:
the share of right samples by seed and problem.

Intervals and p are `sod.estimates.mean_over_seeds`: both seeds and problems were drawn. Of a difference they are of one
method's means less the other's, on the seeds and problems that both have. Bold asks for more, Holm's p below 0.05
within the family of comparisons of one kind of table. Comparisons of one seed have no p, are in no family and never
bold. A sign flip of problems takes the seeds as fixed: of methods that are alike, three seeds each that differ by 1.5,
3 or 6 points, it came below 0.05 in 14, 35 and 50 % of draws. It is kept in the JSON as `p_problems_seeds_fixed`, the p
of these very students on other problems.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from sod.comparison import problem_means
from sod.errors import DataError, SodError
from sod.estimates import SeedsMean, compare, holm, mean_over_seeds
from sod.runs import read_json, read_records, read_trajectories

HERE = Path(__file__).parent
BENCHMARK = "test"
WORLDS = ("naive", "knowing")
WORLD_TEXTS = {
    "naive": "the tool fails in a fifth of its calls, and the teacher has never seen a failed call",
    "knowing": "the tool fails in a fifth of its calls, and the teacher has learned to call again",
}
ANY = "any"
"""Where the runs of methods without an outside teacher lie: they count in both worlds."""
SIZES = ("small", "large")
START = "start"
MAIN = (START, "grpo", "opd", "opsd_gt", "opsd_hint", "sod", "stable")
"""The paper's Table 1, and SOD with the preset `stable`. Other methods that were run and are no ablation follow."""
AGAINST = (START, "grpo", "opd")
ABLATIONS = (
    "opd_grpo",
    "sod_decay",
    "sod_mask",
    "sod_no_cap",
    "sod_no_grpo",
    "opd",
    "sod",
    "sod_random",
    "sod_threshold",
    "sod_token",
    "sod_outcome",
)
"""The paper's order, then this package's."""
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
    failed, retried = _ending(path) if trained else _persistence(path)
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


def _ending(run: Path) -> tuple[int, int]:
    """Turns with a failed call in the last updates of training, and those that called again."""
    updates = [each for each in read_records(run / "metrics.jsonl") if "accuracy" in each][-LAST_UPDATES:]
    return sum(each["failed_turns"] for each in updates), sum(each["retried"] for each in updates)


def _persistence(evaluation: Path) -> tuple[int, int]:
    """The same of an evaluation's trajectories: of the start there is no training to look at."""
    failed = retried = 0
    for record in read_trajectories(evaluation):
        turns = record["turns"]
        for turn, following in itertools.pairwise(turns):
            if any(result["status"] != "ok" for result in turn["results"]):
                failed, retried = failed + 1, retried + bool(following["calls"])
    return failed, retried


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


# ---- estimates


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


# ---- tables


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A line of a table. `average` is None where nothing was evaluated."""

    world: str
    size: str
    cell: Cell
    average: SeedsMean | None
    differences: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Both kinds of tables, and how many comparisons each family has."""

    study: Study
    main: Sequence[Row]
    ablations: Sequence[Row]
    families: Mapping[str, int]


def make_tables(study: Study) -> Tables:
    """All rows, their differences corrected. A comparison that stands in both worlds' tables is one comparison."""
    main, ablations = [], []
    for size in study.sizes():
        others = [name for name in study.methods(size) if name not in {*MAIN, *ABLATIONS}]
        for world in WORLDS:
            main += [_row(study, world, size, method, AGAINST) for method in (*MAIN, *others)]
            ablations += [_row(study, world, size, method, ("sod",)) for method in ABLATIONS]
    main, num_main = _corrected(main)
    ablations, num_ablations = _corrected(ablations)
    families = {"main": num_main, "ablations": num_ablations}
    return Tables(study=study, main=main, ablations=ablations, families=families)


def _row(study: Study, world: str, size: str, method: str, against: Sequence[str]) -> Row:
    cell = study.cell(world, size, method)
    found = {name: difference(cell, study.cell(world, size, name)) for name in against if method != START}
    return Row(
        world=world,
        size=size,
        cell=cell,
        average=average(cell) if cell.outcomes else None,
        differences={name: each for name, each in found.items() if each is not None},
    )


def _corrected(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Rows with Holm's p in their differences, and the number of different comparisons, of two seeds or more."""
    every = {_key(row, name): each.p_value for row in rows for name, each in row.differences.items()}
    p_values = {key: p_value for key, p_value in every.items() if p_value is not None}
    fixed = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    corrected = []
    for row in rows:
        found = {name: replace(each, holm=fixed.get(_key(row, name))) for name, each in row.differences.items()}
        corrected.append(replace(row, differences=found))
    return corrected, len(p_values)


def _key(row: Row, against: str) -> tuple[str, ...]:
    """What makes a comparison: between runs of "any" place it is the same in both worlds, and OPD less GRPO is GRPO
    less OPD."""
    both_any = row.cell.place == ANY and against in {START, "grpo"}
    return (ANY if both_any else row.world, row.size, *sorted((row.cell.method, against)))


# ---- markdown


def markdown(tables: Tables, *, command: str) -> str:
    """The page."""
    return "\n".join(_page(tables, command=command)) + "\n"


def _page(tables: Tables, *, command: str) -> Iterator[str]:
    yield from ["# The study in miniature: results", "", "<!-- Written by results.py; do not edit. -->", ""]
    yield from _facts(tables, command=command)
    for size in tables.study.sizes():
        for world in WORLDS:
            rows = [row for row in tables.main if (row.world, row.size) == (world, size)]
            yield from ["", f"## World {world}, student {size}", "", f"In this world {WORLD_TEXTS[world]}.", ""]
            yield from _main_table(rows)
            yield from ["", f"### Ablations: world {world}, student {size}", ""]
            yield from _ablation_table([row for row in tables.ablations if (row.world, row.size) == (world, size)])
    yield from ["", "## Where SOD does not help", "", *_unhelpful(tables)]
    yield from ["", "## How to read this", "", *_notes(tables)]


def _facts(tables: Tables, *, command: str) -> Iterator[str]:
    study = tables.study
    outcomes = [outcome for cell in study.cells.values() for outcome in cell.outcomes.values()]
    problems = sorted({len(each.means) for each in outcomes})
    samples = sorted({each.samples for each in outcomes})
    yield f"- Command: `{command}`"
    yield f"- Commit: {', '.join(f'`{each}`' for each in commits(outcomes))}"
    yield f"- Seeds: {', '.join(map(str, study.seeds))}"
    yield f"- Evaluation: {_listed(problems)} problems, {_listed(samples)} samples each; {len(outcomes)} evaluated runs"
    yield f"- {SHARED} The start's own seeds are of its evaluation alone."
    yield f"- {DESIGNED_HERE}"


def commits(outcomes: Sequence[Outcome]) -> list[str]:
    """Those that the runs recorded; where none did, this checkout's, and it says so."""
    recorded = sorted({each.commit for each in outcomes if each.commit})
    num_silent = sum(not each.commit for each in outcomes)
    if recorded and not num_silent:
        return recorded
    here = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False)
    commit = here.stdout.strip() or "unknown"
    return [*recorded, f"{commit} (when these tables were made; {num_silent} runs recorded none)"]


def _listed(values: Sequence[int]) -> str:
    return " or ".join(map(str, values)) or "no"


def _main_table(rows: Sequence[Row]) -> Iterator[str]:
    k = max((outcome.samples for row in rows for outcome in row.cell.outcomes.values()), default=0)
    heads = ["method", "seeds", f"avg@{k or 'k'} (%)", *(f"less {NAMES[name]}" for name in AGAINST)]
    yield from _head([*heads, "calls", "called again (%)", "alarms"])
    for row in rows:
        cell = row.cell
        name = NAMES.get(cell.method, cell.method)
        if row.average is None:
            yield _line([name, cell.count, _absent(cell), *["-"] * 6])
            continue
        differences = (_difference(row.differences.get(against)) for against in AGAINST)
        yield _line([name, cell.count, _interval(row.average), *differences, *_behaviour(cell)])


def _ablation_table(rows: Sequence[Row]) -> Iterator[str]:
    if not any(row.average for row in rows if row.cell.method not in MAIN):
        counts = ", ".join(f"{row.cell.method} {row.cell.count}" for row in rows)
        yield f"Missing: none was evaluated. Seeds: {counts}."
        return
    yield from _head(["rule", "method", "seeds", "avg (%)", "less SOD", "calls", "called again (%)", "alarms"])
    for row in rows:
        cell = row.cell
        first = [NAMES.get(cell.method, cell.method), f"`{cell.method}`", cell.count]
        if row.average is None:
            yield _line([*first, _absent(cell), *["-"] * 4])
        else:
            yield _line([*first, _interval(row.average), _difference(row.differences.get("sod")), *_behaviour(cell)])


def _head(names: Sequence[str]) -> Iterator[str]:
    yield _line(names)
    yield _line(["---"] * len(names))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _absent(cell: Cell) -> str:
    """`missing: not run`, by what its seeds lack."""
    return f"**missing**: {', '.join(sorted(set(cell.missing.values())))}"


def _interval(found: SeedsMean) -> str:
    alone = " (problems only)" if found.num_seeds == 1 else ""
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]{alone}"


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    each = found.interval
    text = f"{100 * each.value:+.1f} [{100 * each.low:+.1f}, {100 * each.high:+.1f}]"
    text = f"**{text}**" if found.beyond_noise else text
    if found.p_value is None or found.holm is None:
        return f"{text} (1 seed)"
    return f"{text} p {_p(found.p_value)}, Holm {_p(found.holm)}"


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"


def _behaviour(cell: Cell) -> list[str]:
    """Tool calls, calls again after a failed one, and alarms."""
    outcomes = cell.outcomes.values()
    failed = sum(each.failed_turns for each in outcomes)
    again = f"{100 * sum(each.retried for each in outcomes) / failed:.0f}" if failed else "-"
    alarms = []
    for rule in sorted({rule for each in outcomes for rule in each.alarms}):
        updates = [str(each.alarms[rule]) for each in outcomes if rule in each.alarms]
        alarms.append(f"{rule} {len(updates)}/{len(outcomes)} (update {', '.join(updates)})")
    return [f"{fmean(each.tool_calls for each in outcomes):.2f}", again, "; ".join(alarms) or "none"]


def _unhelpful(tables: Tables) -> Iterator[str]:
    """Rows where SOD, or its stable preset, is below OPD or GRPO, or not told apart from them. Made of the tables."""
    below: list[str] = []
    alike: list[str] = []
    above: list[str] = []
    alone: list[str] = []
    absent: list[str] = []
    for row in tables.main:
        for against in ("opd", "grpo") if row.cell.method in {"sod", "stable"} else ():
            where = f"world {row.world}, student {row.size}: {NAMES[row.cell.method]} against {NAMES[against]}"
            found = row.differences.get(against)
            if found is None:
                absent.append(f"- {where}")
            elif found.p_value is None:
                alone.append(f"- {where}: {_difference(found)}")
            elif not found.beyond_noise:
                alike.append(f"- {where}: {_difference(found)}")
            else:
                (below if found.interval.value < 0 else above).append(f"- {where}: {_difference(found)}")
    for title, lines in (
        ("Below, beyond noise", below),
        ("Not told apart", alike),
        ("Above, beyond noise", above),
        ("Of one seed, which cannot tell", alone),
        ("Not compared, because one of the two is missing", absent),
    ):
        yield from [f"{title}: {len(lines)}.", "", *lines, *([""] if lines else [])]


def _notes(tables: Tables) -> Iterator[str]:
    yield (
        "- avg: mean over seeds and problems. Interval: 95 %, of other seeds on other problems (crossed effects of "
        "seeds and problems, Student's t with Satterthwaite's degrees of freedom: `sod.estimates.mean_over_seeds`). "
        "With one seed: over problems only."
    )
    yield (
        "- less X: percentage points, paired by problem and seed. p: of the interval's own statistic, value / standard "
        f"error under Student's t, so it is below {ALPHA} just where the interval is without 0. Of one seed there is "
        "none."
    )
    yield (
        f"- Holm: p corrected within a family. All differences of the main tables are one family "
        f"({tables.families['main']}), all of the ablation tables another ({tables.families['ablations']}). **Bold**: "
        f"Holm's p below {ALPHA}, from two seeds or more: here called beyond noise. How often p errs is simulated "
        "there: with three seeds it is careful; of two, or where seeds differ by 3 points or more, it is too bold far "
        "out, where Holm looks."
    )
    yield (
        "- Not bold is not the same: three seeds seldom show a difference of a few points, least of all after the "
        "correction. The intervals say what is still possible."
    )
    yield (
        f"- calls: tool calls a trajectory, in the evaluation. called again: share of failed calls after which the "
        f"student called again, in the last {LAST_UPDATES} updates of training; of the start, in its evaluation. "
        "alarms: of the guards, seeds and first update of each."
    )
    yield "- GRPO and OPSD have no outside teacher: their runs, like the start's, are the same in both worlds."


# ---- JSON


def as_json(tables: Tables, *, command: str) -> dict[str, Any]:
    """All numbers, by table and row."""
    outcomes = [outcome for cell in tables.study.cells.values() for outcome in cell.outcomes.values()]
    return {
        "command": command,
        "commits": commits(outcomes),
        "seeds": list(tables.study.seeds),
        "shared": [SHARED, DESIGNED_HERE],
        "families": dict(tables.families),
        "main": [_row_json(row) for row in tables.main],
        "ablations": [_row_json(row) for row in tables.ablations],
    }


def _row_json(row: Row) -> dict[str, Any]:
    outcomes = row.cell.outcomes
    return {
        "world": row.world,
        "size": row.size,
        "method": row.cell.method,
        "seeds": list(outcomes),
        "missing": {str(seed): what for seed, what in row.cell.missing.items()},
        "average": None if row.average is None else asdict(row.average),
        "by_seed": {str(seed): fmean(each.means.values()) for seed, each in outcomes.items()},
        "tool_calls": {str(seed): each.tool_calls for seed, each in outcomes.items()},
        "failed_turns": {str(seed): each.failed_turns for seed, each in outcomes.items()},
        "retried": {str(seed): each.retried for seed, each in outcomes.items()},
        "alarms": {str(seed): dict(each.alarms) for seed, each in outcomes.items()},
        "differences": {
            name: {**asdict(each), "p_value": each.p_value, "beyond_noise": each.beyond_noise}
            for name, each in row.differences.items()
        },
    }


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/miniature"), help="the study's folder")
    parser.add_argument("--write", type=Path, default=Path("docs/results"), help="folder of the tables")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="those that are expected; default: all found")
    given = parser.parse_args()
    command = command_line(parser, given)
    try:
        tables = make_tables(read_study(given.out, seeds=given.seeds))
        given.write.mkdir(parents=True, exist_ok=True)
        (given.write / "miniature.md").write_text(markdown(tables, command=command), encoding="utf-8")
        numbers = json.dumps(as_json(tables, command=command), indent=1)
        (given.write / "miniature.json").write_text(numbers + "\n", encoding="utf-8")
    except SodError as error:
        print(error, file=sys.stderr)
        return 2
    print(given.write / "miniature.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The study's tables: what every method reached, against the start, GRPO, OPD and SOD, with what is missing.

    python examples/miniature/results.py                   # runs/miniature -> docs/results/miniature.{md,json}

Bold is what is beyond noise: Holm's p below 0.05 within the family of comparisons of one kind of table. Comparisons of
one seed have no p, are in no family and never bold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from outcomes import (  # noqa: E402
    ALPHA,
    ANY,
    DESIGNED_HERE,
    LAST_UPDATES,
    NAMES,
    SHARED,
    START,
    WORLDS,
    Cell,
    Difference,
    Study,
    average,
    command_line,
    commits,
    difference,
    read_study,
)

from sod.errors import SodError  # noqa: E402
from sod.estimates import SeedsMean, holm  # noqa: E402

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
WORLD_TEXTS = {
    "naive": "the tool fails in a fifth of its calls, and the teacher has never seen a failed call",
    "knowing": "the tool fails in a fifth of its calls, and the teacher has learned to call again",
}


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

"""Results as tables for the terminal: evaluations, comparisons, methods. They stand wide rather than cut."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sod.report.untrusted import line

if TYPE_CHECKING:
    from sod.comparison import RunComparison
    from sod.estimates import Comparison

WIDE = 100
"""Columns a table of results may take in a narrower terminal: a line that wraps is easier to read than cut cells."""


def print_wide(table: Table, console: Console) -> None:
    """Print it over `WIDE` columns at least."""
    width = max(console.width, WIDE)
    Console(file=console.file, highlight=False, emoji=False, width=width).print(table, crop=False, soft_wrap=True)


def evaluation_table(result: Mapping[str, Any]) -> Table:
    """A row a benchmark of `run_benchmarks`' result, and their mean where there are several."""
    table = _numbers(
        "benchmark", "n", "avg@k", "95 %", "pass@k", "maj@k", "k", "no answer", "calls", "failed", "tokens"
    )
    for name, numbers in result["benchmarks"].items():
        table.add_row(Text(line(name)), *_evaluation_cells(numbers))
    if len(result["benchmarks"]) > 1:
        table.add_row("mean", "", f"{result['average']['avg@k']:.1%}")
    return table


def evaluation_lines(result: Mapping[str, Any]) -> Iterator[str]:
    """What it took, and what is missing from it."""
    cost = result["cost"]
    priced = f", {cost['price']:.2f} in price ({cost['price_per_problem']:.4f} a problem)" if cost["price"] else ""
    yield (
        f"{cost['elapsed_s']:.0f} s ({cost['elapsed_s_per_problem']:.1f} s a problem), {cost['sampled_tokens']:.0f} "
        f"tokens sampled ({cost['sampled_tokens_per_problem']:.0f} a problem){priced}"
    )
    missing = sum(numbers["num_missing"] for numbers in result["benchmarks"].values())
    if missing:
        yield (
            f"Warning: {missing} samples are missing (not drawn yet, or lost to failures of sandbox, engine or grader) "
            "and count as neither right nor wrong; the same `sod eval` tries them again."
        )


def _evaluation_cells(numbers: Mapping[str, Any]) -> list[str]:
    if not numbers["num_problems"]:
        return ["0"]
    calls = sum(numbers["tool_status"].values())
    failed = calls - numbers["tool_status"].get("ok", 0)
    return [
        str(numbers["num_problems"]),
        f"{numbers['avg@k']:.1%}",
        f"[{100 * numbers['avg@k_low']:.1f}, {100 * numbers['avg@k_high']:.1f}]",
        f"{numbers['pass@k']:.1%}",
        "-" if numbers["maj@k"] is None else f"{numbers['maj@k']:.1%}",
        str(numbers["k"]),
        "-" if numbers["no_answer"] is None else f"{numbers['no_answer']:.0%}",
        f"{numbers['tool_calls']:.2f}",
        f"{failed / calls:.0%}" if calls else "-",
        f"{numbers['response_tokens']:.0f}",
    ]


def comparison_table(found: RunComparison) -> Table:
    """A row a benchmark of two evaluations, and all together where there are several."""
    table = _numbers("benchmark", "n", "before", "after", "difference [95 %]", "p")
    rows = [(each.name, each.num_problems, each.before, each.after, each.comparison) for each in found.benchmarks]
    for name, count, old, new, paired in rows:
        before, after = f"{old:.1%}", f"{new:.1%}"
        table.add_row(Text(line(name)), str(count), before, after, _difference(paired), f"{paired.p_value:.2g}")
    if len(rows) > 1:
        total = sum(count for _, count, *_ in rows)
        table.add_row("all", str(total), "", "", _difference(found.overall), f"{found.overall.p_value:.2g}")
    return table


def _difference(paired: Comparison) -> str:
    return f"{100 * paired.difference:+.1f} points [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"


def methods_table() -> Table:
    """Every method with what it sets; a * is what a config may set otherwise."""
    from sod.config import METHODS
    from sod.config.methods import DEFAULTS

    table = _prose("method", "what it is", "source", "sets")
    for name, method in METHODS.items():
        sets = _assigned(method.settings, DEFAULTS.get(name, {}))
        table.add_row(name, Text(method.summary), Text(method.source), Text(sets))
    return table


def presets_table() -> Table:
    """Every preset with what it fills in."""
    from sod.config import PRESETS

    table = _prose("preset", "sets where a config leaves it open")
    for name, settings in PRESETS.items():
        table.add_row(name, Text(_assigned(settings) or "nothing: every default is the published value"))
    return table


def _assigned(settings: Mapping[str, Any], left_open: Mapping[str, Any] | None = None) -> str:
    """Settings as TOML would have them, a line each: `weights.rule = "ratio"`; what can be set otherwise says so."""
    fixed = [f"{dotted} = {json.dumps(value)}" for dotted, value in settings.items()]
    return "\n".join([*fixed, *(f"{dotted} = {json.dumps(value)} *" for dotted, value in (left_open or {}).items())])


def _numbers(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table


def _prose(*names: str) -> Table:
    """Sentences in the middle, which may take several lines."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        is_code = place in (0, len(names) - 1)
        table.add_column(name, no_wrap=is_code, ratio=None if is_code else 2)
    return table

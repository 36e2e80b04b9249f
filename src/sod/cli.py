"""The command `sod`: demo, traces, sft, hints, train, eval, compare, report, methods, memory, sandbox, doctor.

Commands read a config, call one function of the package, and turn its errors into one clear message. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from glob import glob
from io import TextIOWrapper
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from sod import __version__
from sod.errors import SodError

if TYPE_CHECKING:
    from rich.table import Table

    from sod.config import HintsConfig, SandboxConfig, TracesConfig
    from sod.estimates import Comparison


class _Commands(TyperGroup):
    """User mistakes and failures of the world end in one message and exit code 2 or 1, Ctrl-C in 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Here and not around `app()`, which would end at Ctrl-C without a word."""
        with _one_message():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Step-wise on-policy distillation of small tool-using language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
sandbox_app = typer.Typer(help="The sandbox that runs the model's code: check it, serve it.", no_args_is_help=True)
app.add_typer(sandbox_app, name="sandbox")
console = Console(highlight=False, emoji=False)
errors = Console(stderr=True, highlight=False, emoji=False)

ConfigFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run's settings.")]
HintsFile = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="Problems, the model that writes, the file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides: optimizer.lr=1e-5 teacher=none")
]


def main() -> None:
    """Entry point. What a terminal cannot write (half a surrogate pair in a problem's id) is shown as its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


@contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except SodError as error:
        errors.print(Text.assemble((f"{type(error).__name__}:", "bold red"), f" {error}"), soft_wrap=True)
        sys.exit(2 if isinstance(error, ValueError) else 1)
    except KeyboardInterrupt:
        errors.print("Interrupted. What was finished is on disk; the same command goes on from there.")
        sys.exit(130)


def _quiet() -> None:
    """Progress bars and advice of the libraries below would bury ours."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    getLogger("huggingface_hub").setLevel(ERROR)  # it tells of every retry


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"sod {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Step-wise on-policy distillation of small tool-using language models."""
    del version


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--out", help="Where the demo's runs, tables and pictures go.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Decides problems and draws.")] = 0,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Remake the cold-started pair first (about half an hour on 2 cores).")
    ] = False,
) -> None:
    """The whole job on this machine in minutes: evaluate, distil with OPD and SOD, evaluate, compare."""
    _quiet()
    from sod.demo.story import tell

    tell(run, seed=seed, from_scratch=from_scratch, console=console)


@app.command()
def train(config: ConfigFile, overrides: Overrides = None) -> None:
    """Distil or run GRPO by one of `sod methods`, as RUN.toml says; continues an interrupted run."""
    from sod.config import TrainConfig, load

    settings = load(TrainConfig, config, overrides=overrides or ())
    _quiet()
    from sod.train import train as run_training

    run_training(settings, listener=_print_event)
    _say(f"Run directory: {settings.run}   (sod report {settings.run})")


@app.command()
def sft(config: ConfigFile, overrides: Overrides = None) -> None:
    """Cold-start a student on traces, as RUN.toml says."""
    from sod.config import SFTConfig, load

    settings = load(SFTConfig, config, overrides=overrides or ())
    _quiet()
    from sod.sft import final_model
    from sod.sft import sft as run_sft

    run_sft(settings, listener=_print_event)
    _say(f"Model: {final_model(settings.run)}")


@app.command()
def traces(
    sources: Annotated[list[str], typer.Argument(metavar="FILE...", help="Files of published traces.")],
    out: Annotated[Path, typer.Option(help="The traces that `sod sft` reads, as JSON lines.")],
    form: Annotated[
        str, typer.Option("--format", help="auto, gsm8k, mathcoder, retool or tool_messages; auto looks at each row.")
    ] = "auto",
    limit: Annotated[int, typer.Option(help="Take the first so many rows; 0 takes all.")] = 0,
    instruction: Annotated[
        str | None, typer.Option(help="Put after a bare question; the default's when unset.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="tool.timeout_s=5, sandbox.workers=4, ...")
    ] = None,
) -> None:
    """Make traces for the cold start: run every call in the sandbox, keep the traces whose results agree."""
    from sod.config import TracesConfig, load

    changes = _as_overrides({"sources": sources, "out": str(out), "format": form, "limit": limit})
    if instruction is not None:
        changes.append(f"instruction={json.dumps(instruction, ensure_ascii=False)}")
    config = load(TracesConfig, None, overrides=[*changes, *(settings or ())])
    _quiet()
    asyncio.run(_make_traces(config))


async def _make_traces(config: TracesConfig) -> None:
    from rich.progress import Progress

    from sod.sandbox import make_sandbox
    from sod.traces import check_target, make_traces, write_traces

    check_target(config.out)
    async with make_sandbox(config.sandbox) as sandbox:
        _say(sandbox_line(sandbox.layers))
        with Progress(console=errors, transient=True) as bar:
            task = bar.add_task("traces", total=None)
            made = await make_traces(
                config.sources,
                sandbox=sandbox,
                tool=config.tool,
                format=config.format,
                limit=config.limit,
                instruction=config.instruction,
                on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
    write_traces(config.out, made)
    for reason, count in made.dropped.items():
        _say(f"Dropped {count}: {reason}   ({made.named[reason][0]})")
    _say(f"Kept {len(made)} traces ({made.rewritten} with a call made self-contained): {config.out}")


@app.command()
def hints(config: HintsFile, overrides: Overrides = None) -> None:
    """Write hints from reference solutions, for a teacher that is shown them; continues a file that was begun."""
    from sod.config import HintsConfig, load

    settings = load(HintsConfig, config, overrides=overrides or ())
    _quiet()
    asyncio.run(_write_hints(settings))


async def _write_hints(config: HintsConfig) -> None:
    from rich.progress import Progress

    from sod.hints import make_hints

    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task("hints", total=None)
        count = await make_hints(config, on_progress=lambda done, total: bar.update(task, completed=done, total=total))
    for fault, number in count.without.items():
        _say(f"Without a hint {number}: {fault}")
    total = count.written + sum(count.without.values())
    _say(f"{count.written} of {total} problems have a hint: {config.out}")


@app.command("eval")
def evaluate(
    config: Annotated[
        str | None, typer.Argument(metavar="[RUN.toml]", help="Settings; or give the options below.")
    ] = None,
    overrides: Overrides = None,
    model: Annotated[str, typer.Option(help="Directory or hub id of the model.")] = "",
    benchmark: Annotated[
        str, typer.Option(help="Names, files, or NAME=FILE, with commas between: aime24,gpqa_diamond=my.csv,mine.jsonl")
    ] = "",
    k: Annotated[int, typer.Option("-k", help="Samples per problem; 0 keeps the config's.")] = 0,
    limit: Annotated[int, typer.Option(help="Take the first so many problems of each benchmark; 0 takes all.")] = 0,
    run: Annotated[str, typer.Option("--out", help="Run directory.")] = "",
    regrade: Annotated[
        str, typer.Option(metavar="RUN", help="Grade this run's samples again from their raw outputs, without a model.")
    ] = "",
) -> None:
    """Evaluate a model with tools: avg@k, pass@k and maj@k with intervals; continues an interrupted run.

    Benchmarks by name: aime24, aime25, math500, gsm8k, gpqa_diamond, livecodebench_v6, humaneval, mbpp.
    """
    from sod.config import EvalConfig, load

    changes = _as_overrides({"model.path": model, "benchmarks": benchmark, "samples": k, "limit": limit, "run": run})
    if config is not None and "=" in config and not Path(config).exists():  # no RUN.toml: the first override
        changes, config = [*changes, config], None
    if regrade:
        _regrade(regrade, config, [*changes, *(overrides or ())])
        return
    settings = load(EvalConfig, config, overrides=[*changes, *(overrides or ())])
    _quiet()
    from sod.benchmark import run_benchmarks

    result = run_benchmarks(settings, listener=_print_event)
    _print_evaluation(result)
    _say(f"Run directory: {settings.run}")
    if not result["complete"]:
        sys.exit(1)


def _as_overrides(given: Mapping[str, Any]) -> list[str]:
    """Flags that were given as TOML values, which JSON's are too: what the shell gave is a string whatever it looks
    like."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items() if value]


def _regrade(run: str, config: str | None, overrides: Sequence[str]) -> None:
    from sod.errors import ConfigError

    if config is not None:
        raise ConfigError(f"--regrade RUN takes its settings from the run, got {config}; leave the file out")
    _quiet()
    from sod.regrade import CHANGES, regrade

    try:
        _print_evaluation(regrade(run, overrides=overrides, listener=_print_event))
    except KeyboardInterrupt:
        errors.print("Interrupted. The run is as it was.")
        sys.exit(130)
    _say(f"Run directory: {run}   (what changed: {Path(run) / CHANGES})")


@app.command()
def compare(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help='Run directory of an evaluation, or of several seeds: "runs/opd-*".')
    ],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Run directory of another, on the same problems.")],
) -> None:
    """Two evaluations problem by problem: the difference, its interval, and how likely chance alone gives it.

    With a pattern in quotes for each side, one run a seed: two methods, on other seeds and problems.
    """
    from sod.comparison import compare_runs

    found = compare_runs(_matching(before), _matching(after))
    table = _plain_table("benchmark", "n", "before", "after", "difference [95 %]", "p")
    rows = [(each.name, each.num_problems, each.before, each.after, each.comparison) for each in found.benchmarks]
    for name, count, old, new, paired in rows:
        table.add_row(Text(name), str(count), f"{old:.1%}", f"{new:.1%}", _difference(paired), f"{paired.p_value:.2g}")
    if len(rows) > 1:
        total = sum(count for _, count, *_ in rows)
        table.add_row("all", str(total), "", "", _difference(found.overall), f"{found.overall.p_value:.2g}")
    _print_wide(table)
    if len(found.pairs) > 1:
        _say(f"{len(found.pairs)} seeds, paired: " + "; ".join(f"{old} and {new}" for old, new in found.pairs))
    for warning in found.warnings:
        _say(f"Warning: {warning}.")


def _matching(pattern: str) -> list[Path]:
    """A run, or those that a pattern stands for in the order of their names: `"runs/opd-[0-2]"`."""
    path = Path(pattern)
    return [path] if path.exists() else [Path(each) for each in sorted(glob(pattern)) if Path(each).is_dir()] or [path]


def _difference(paired: Comparison) -> str:
    return f"{100 * paired.difference:+.1f} points [{100 * paired.low:+.1f}, {100 * paired.high:+.1f}]"


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; the first run's report/ folder when not given.")
    ] = None,
) -> None:
    """Tables and figures of one or several runs."""
    from sod.report import write_report

    _say(f"Report: {write_report(runs, out)}")


@app.command()
def methods() -> None:
    """Every method and preset of `sod train`: what it is, where it comes from, and what it sets."""
    from sod.config import METHODS, PRESETS
    from sod.config.methods import DEFAULTS

    table = _prose_table("method", "what it is", "source", "sets")
    for name, method in METHODS.items():
        sets = _assigned(method.settings, DEFAULTS.get(name, {}))
        table.add_row(name, Text(method.summary), Text(method.source), Text(sets))
    _print_wide(table)
    _say("")
    table = _prose_table("preset", "sets where a config leaves it open")
    for name, settings in PRESETS.items():
        table.add_row(name, Text(_assigned(settings) or "nothing: every default is the published value"))
    _print_wide(table)
    _say('\nWhat a method sets cannot be set otherwise, but for what has a * here. method = "custom" sets nothing.')


def _assigned(settings: Mapping[str, Any], left_open: Mapping[str, Any] | None = None) -> str:
    """Settings as TOML would have them, a line each: `weights.rule = "ratio"`; what can be set otherwise says so."""
    fixed = [f"{dotted} = {json.dumps(value)}" for dotted, value in settings.items()]
    return "\n".join([*fixed, *(f"{dotted} = {json.dumps(value)} *" for dotted, value in (left_open or {}).items())])


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="Also check this model's tokenizer and template.")] = "",
) -> None:
    """What this machine has, what is missing, and the cure."""
    from sod.doctor import examine

    styles = {"ok": "green", "warn": "yellow", "missing": "red"}
    findings = examine(model or None)
    for finding in findings:
        cure = f"  -> {finding.cure}" if finding.cure else ""
        state = (f"{finding.state:>7}", styles[finding.state])
        _say(Text.assemble(state, f"  {finding.name}: {finding.found}{cure}"))
    if any(finding.state == "missing" and finding.required for finding in findings):
        sys.exit(1)


@app.command()
def memory(config: ConfigFile, overrides: Overrides = None) -> None:
    """What memory the training run of RUN.toml takes, beside what is here; exit code 1 when it does not fit."""
    from sod.config import TrainConfig, load

    settings = load(TrainConfig, config, overrides=overrides or ())
    _quiet()
    from sod.memory import advise, estimate, judge, table

    needed = estimate(settings)
    console.print(table(needed))
    verdicts = judge(needed)
    for verdict in verdicts:
        _say(str(verdict))
        if verdict.state != "fits":
            certain = verdict.state == "does not fit"
            for advice in advise(settings, verdict.device, certain=certain):
                _say(f"  {advice}")
    if any(verdict.state == "does not fit" for verdict in verdicts):
        sys.exit(1)


@sandbox_app.command("check")
def sandbox_check() -> None:
    """Try both levels: what confines code on this machine, and what it could do in spite of it."""
    asyncio.run(_check_levels())


async def _check_levels() -> None:
    from sod.sandbox.check import probe_level

    levels: tuple[Literal["A", "B"], ...] = ("A", "B")
    works = False
    for level in levels:
        _say(f"level {level}")
        probes = []
        async for probe in probe_level(level):
            probes.append(probe)
            mark = ("  holds", "green") if probe.held else ("  FAILS", "bold red")
            _say(Text.assemble(mark, f"  {probe.name}: {probe.found}"))
        works = works or all(probe.held for probe in probes)
    if not works:
        sys.exit(1)


@sandbox_app.command("serve")
def sandbox_serve(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings of [sandbox]: workers=8 memory_mb=512"),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond this machine only with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
) -> None:
    """Offer SandboxFusion's POST /run_code on this machine, run by the local sandbox.

    SOD_SANDBOX_TOKEN in the environment is the bearer token that callers must give.
    """
    from sod.config import SandboxConfig, load

    settings = load(SandboxConfig, None, overrides=overrides or ())
    _quiet()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve_sandbox(settings, host=host, port=port))


async def _serve_sandbox(settings: SandboxConfig, *, host: str, port: int) -> None:
    from sod.sandbox import make_sandbox
    from sod.sandbox.serve import serve

    async with make_sandbox(settings) as sandbox:
        _say(sandbox_line(sandbox.layers))
        await serve(sandbox, host=host, port=port)


def _say(line: str | Text) -> None:
    """One line as it is: paths, ids and messages may hold what rich would take for markup."""
    console.print(line, soft_wrap=True, markup=False)


# ---- events as lines


def _print_event(event: str, values: Mapping[str, Any]) -> None:
    _say(_LINES.get(event, _plain)(values))


def _plain(values: Mapping[str, Any]) -> str:
    return "  ".join(f"{key} {value}" for key, value in values.items())


def _update_line(values: Mapping[str, Any]) -> str:
    parts = [
        f"update {values['update']:>4}",
        f"reward {values['reward']:.3f}",
        f"calls {values['tool_calls']:.2f}",
        f"failed {values['failed_calls'] / max(1, values['num_calls']):.0%}",
        f"entropy {values['entropy']:.3f}",
    ]
    if "divergence" in values:
        parts += [
            f"d {values['divergence']:.3f}",
            f"w {values['weight']:.2f}",
            f"control {values['log_ratio_control']:+.3f}",
        ]
    parts += [f"grad {values['grad_norm']:.3f}", f"{values['total_s']:.1f} s"]
    return "  ".join(parts)


def _step_line(values: Mapping[str, Any]) -> str:
    return (
        f"step {values['update']:>4}/{values['num_updates']}  loss {values['loss']:.4f}  "
        f"grad {values['grad_norm']:.3f}  lr {values['lr']:.2e}  {values['elapsed_s']:.0f} s"
    )


def _evaluation_line(values: Mapping[str, Any]) -> str:
    if not values["num_problems"]:
        return "evaluation: no problem could be graded"
    return (
        f"evaluation after update {values['update']}: avg@{values['k']} {values['avg@k']:.1%} "
        f"[{values['avg@k_low']:.1%}, {values['avg@k_high']:.1%}]  calls {values['tool_calls']:.2f}"
    )


def _alarm_line(values: Mapping[str, Any]) -> Text:
    return Text.assemble(("ALARM", "bold red"), f" at update {values['update']}: {values['message']}")


def sandbox_line(layers: Sequence[str]) -> Text:
    """How code is cut off, loud where it is not: `sandbox level A: userns, pidns, ...`."""
    level, *others = layers
    text = Text(f"sandbox {level if level in ('fusion', 'unsafe') else f'level {level}'}: {', '.join(others)}")
    if level == "unsafe":
        text.stylize("bold red")
        text.append("  CODE RUNS WITH YOUR OWN RIGHTS (sandbox.allow_unsafe)")
    elif level == "B":
        text.append("  (code can start no processes)")
    return text


_LINES: Mapping[str, Callable[[Mapping[str, Any]], str | Text]] = {
    "update": _update_line,
    "step": _step_line,
    "evaluation": _evaluation_line,
    "alarm": _alarm_line,
    "warning": lambda values: f"Warning: {values['message']}",
    "sandbox": lambda values: sandbox_line(values["layers"]),
    "finished": lambda values: f"{values['run']} is finished already; give another `run` to start anew.",
    "resumed": lambda values: f"Continuing after update {values['update']}.",
    "progress": lambda values: (
        f"{values['done']:>6} of {values['total']} samples, {values['correct']:.1%} of the new ones right"
    ),
    "left_out": lambda values: (
        f"Left out {values['too_long']} traces longer than max_tokens and {values['unreadable']} that the template "
        f"cannot write; {values['kept']} are kept."
    ),
    "skipped": lambda values: _skipped_lines(values),
    "regraded": lambda values: (
        f"{values['num_changed']} of {values['num_samples']} verdicts changed: {values['now_right']} now right, "
        f"{values['now_wrong']} now wrong, {values['now_ungraded']} that nobody can grade."
    ),
}


def _skipped_lines(values: Mapping[str, Any]) -> str:
    return "\n".join(
        f"{values['name']}: left out {count} rows: {reason} (row {', '.join(map(str, values['named'][reason]))}"
        f"{', ...' if count > len(values['named'][reason]) else ''})"
        for reason, count in values["skipped"].items()
    )


def _print_evaluation(result: Mapping[str, Any]) -> None:
    """A row a benchmark, then what it took."""
    table = _plain_table(
        "benchmark", "n", "avg@k", "95 %", "pass@k", "maj@k", "k", "no answer", "calls", "failed", "tokens"
    )
    for name, numbers in result["benchmarks"].items():
        table.add_row(Text(name), *_evaluation_cells(numbers))
    if len(result["benchmarks"]) > 1:
        table.add_row("mean", "", f"{result['average']['avg@k']:.1%}")
    _print_wide(table)
    cost = result["cost"]
    priced = f", {cost['price']:.2f} in price ({cost['price_per_problem']:.4f} a problem)" if cost["price"] else ""
    _say(
        f"{cost['elapsed_s']:.0f} s ({cost['elapsed_s_per_problem']:.1f} s a problem), {cost['sampled_tokens']:.0f} "
        f"tokens sampled ({cost['sampled_tokens_per_problem']:.0f} a problem){priced}"
    )
    missing = sum(numbers["num_missing"] for numbers in result["benchmarks"].values())
    if missing:
        _say(
            f"Warning: {missing} samples are missing (not drawn yet, or lost to failures of sandbox, engine or grader) "
            "and count as neither right nor wrong; the same `sod eval` tries them again."
        )


WIDE = 100
"""Columns a table of results may take in a narrower terminal: a line that wraps is easier to read than cut cells."""


def _print_wide(table: Table) -> None:
    Console(highlight=False, emoji=False, width=max(console.width, WIDE)).print(table, crop=False, soft_wrap=True)


def _plain_table(*names: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table


def _prose_table(*names: str) -> Table:
    """Like `_plain_table` for sentences, which may take several lines."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(names):
        is_code = place in (0, len(names) - 1)
        table.add_column(name, no_wrap=is_code, ratio=None if is_code else 2)
    return table


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

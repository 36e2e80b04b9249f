"""The command `sod`: demo | sft | train | eval | report | doctor.

Commands read a config, call one function of the package, and turn its errors into one clear message. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from sod import __version__
from sod.errors import SodError

app = typer.Typer(
    help="Step-wise on-policy distillation of small tool-using language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)

ConfigFile = Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run's settings.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides: optimizer.lr=1e-5 teacher=none")
]


def main() -> None:
    """Entry point: user mistakes and failures of the world end in one message and exit code 1 or 2, Ctrl-C in 130."""
    with _one_message():
        app()


@contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except SodError as error:
        errors.print(f"[bold red]{type(error).__name__}:[/] {escape(str(error))}", soft_wrap=True)
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
    """Distil (sod, opd, opd_grpo) or run GRPO, as RUN.toml says; continues an interrupted run."""
    from sod.config import TrainConfig, load

    settings = load(TrainConfig, config, overrides=overrides or ())
    _quiet()
    from sod.train import train as run_training

    run_training(settings, listener=_print_event)
    console.print(f"Run directory: {settings.run}   (sod report {settings.run})")


@app.command()
def sft(config: ConfigFile, overrides: Overrides = None) -> None:
    """Cold-start a student on traces, as RUN.toml says."""
    from sod.config import SFTConfig, load

    settings = load(SFTConfig, config, overrides=overrides or ())
    _quiet()
    from sod.sft import final_model
    from sod.sft import sft as run_sft

    run_sft(settings, listener=_print_event)
    console.print(f"Model: {final_model(settings.run)}")


@app.command("eval")
def evaluate(
    config: Annotated[
        Path | None, typer.Argument(metavar="[RUN.toml]", help="Settings; or give the options below.")
    ] = None,
    overrides: Overrides = None,
    model: Annotated[str, typer.Option(help="Directory or hub id of the model.")] = "",
    benchmark: Annotated[str, typer.Option(help="A file of problems (.jsonl, .parquet).")] = "",
    k: Annotated[int, typer.Option("-k", help="Samples per problem; 0 keeps the config's.")] = 0,
    run: Annotated[str, typer.Option("--out", help="Run directory.")] = "",
) -> None:
    """Evaluate a model with tools: avg@k with its interval, pass@k, maj@k."""
    from sod.config import EvalConfig, load

    given: dict[str, str | int] = {"model.path": model, "data.path": benchmark, "samples": k, "run": run}
    flags = [f"{key}={_toml(value)}" for key, value in given.items() if value]
    settings = load(EvalConfig, config, overrides=[*flags, *(overrides or ())])
    _quiet()
    from sod.benchmark import run_benchmark

    numbers = run_benchmark(settings, listener=_print_event)
    _print_evaluation(numbers)
    console.print(f"Run directory: {settings.run}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write; the first run's report/ folder when not given.")
    ] = None,
) -> None:
    """Tables and figures of one or several runs."""
    from sod.report import write_report

    console.print(f"Report: {write_report(runs, out)}")


@app.command()
def doctor(
    model: Annotated[str, typer.Option(help="Also check this model's tokenizer and template.")] = "",
) -> None:
    """What this machine has, what is missing, and the cure."""
    _quiet()
    from sod.doctor import examine

    marks = {"ok": "[green]ok[/]", "warn": "[yellow]warn[/]", "missing": "[red]missing[/]"}
    findings = examine(model or None)
    for finding in findings:
        cure = f"  -> {finding.cure}" if finding.cure else ""
        console.print(f"{marks[finding.state]:>7}  {escape(f'{finding.name}: {finding.found}{cure}')}", soft_wrap=True)
    if any(finding.state == "missing" and finding.required for finding in findings):
        sys.exit(1)


def _toml(value: str | int) -> str:
    """A flag as a TOML value: what the shell gave is a string, whatever it looks like."""
    return str(value) if isinstance(value, int) else '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# ---- events as lines


def _print_event(event: str, values: Mapping[str, Any]) -> None:
    line = _LINES.get(event, _plain)(values)
    console.print(line, soft_wrap=True)


def _plain(values: Mapping[str, Any]) -> str:
    return escape("  ".join(f"{key} {value}" for key, value in values.items()))


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
        rf"\[{values['avg@k_low']:.1%}, {values['avg@k_high']:.1%}]  calls {values['tool_calls']:.2f}"
    )


_LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "update": _update_line,
    "step": _step_line,
    "evaluation": _evaluation_line,
    "alarm": lambda values: f"[bold red]ALARM[/] at update {values['update']}: {escape(str(values['message']))}",
    "finished": lambda values: f"{escape(str(values['run']))} is finished already; give another `run` to start anew.",
    "resumed": lambda values: f"Continuing after update {values['update']}.",
    "progress": lambda values: (
        f"{values['done']:>6} of {values['total']} samples, {values['correct']:.1%} of the new ones right"
    ),
}


def _print_evaluation(numbers: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("measure", "value")
    for key, value in numbers.items():
        table.add_row(escape(str(key)), escape(f"{value:.4f}" if isinstance(value, float) else str(value)))
    console.print(table)

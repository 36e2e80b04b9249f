"""The command `sod`: demo | sft | train | eval | report | sandbox | doctor.

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
    from sod.config import SandboxConfig


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
    """Distil (sod, opd, opd_grpo) or run GRPO, as RUN.toml says; continues an interrupted run."""
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


@app.command("eval")
def evaluate(
    config: Annotated[
        str | None, typer.Argument(metavar="[RUN.toml]", help="Settings; or give the options below.")
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
    # A flag as a TOML value, which JSON is too: what the shell gave is a string, whatever it looks like.
    changes = [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in given.items() if value]
    if config is not None and "=" in config and not Path(config).exists():  # no RUN.toml: the first override
        changes, config = [*changes, config], None
    settings = load(EvalConfig, config, overrides=[*changes, *(overrides or ())])
    _quiet()
    from sod.benchmark import run_benchmark

    numbers = run_benchmark(settings, listener=_print_event)
    _print_evaluation(numbers)
    _say(f"Run directory: {settings.run}")


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
    "skipped": lambda values: "\n".join(f"Left out {count} problems: {reason}" for reason, count in values.items()),
}


def _print_evaluation(numbers: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("measure", "value")
    for key, value in numbers.items():
        table.add_row(Text(str(key)), Text(f"{value:.4f}" if isinstance(value, float) else str(value)))
    console.print(table)

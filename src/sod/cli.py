"""The command `sod`: demo, traces, sft, hints, train, eval, compare, report, view, methods, memory, sandbox, doctor.

Commands read a config, call one function of the package, and turn its errors into one clear message. Nothing heavy is
imported before a command needs it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
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
    from sod.config import HintsConfig, SandboxConfig, TracesConfig


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
Plain = Annotated[bool, typer.Option("--plain", help="Lines instead of the live view, as in a file or a pipe.")]


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
        from sod.report.untrusted import clean  # it may quote a row of data, or what a tool printed

        errors.print(Text.assemble((f"{type(error).__name__}:", "bold red"), f" {clean(error)}"), soft_wrap=True)
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
    plain: Plain = False,
) -> None:
    """The whole job on this machine in minutes: evaluate, distil with OPD and SOD, evaluate, compare."""
    _quiet()
    from sod.demo.story import tell

    tell(run, seed=seed, from_scratch=from_scratch, console=console, plain=plain)


@app.command()
def train(config: ConfigFile, overrides: Overrides = None, plain: Plain = False) -> None:
    """Distil or run GRPO by one of `sod methods`, as RUN.toml says; continues an interrupted run."""
    from sod.config import TrainConfig, load

    settings = load(TrainConfig, config, overrides=overrides or ())
    _quiet()
    from sod.progress import watching
    from sod.train import train as run_training

    with watching(settings, console=console, plain=plain) as listener:
        run_training(settings, listener=listener)
    _say(f"Run directory: {settings.run}   (sod report {settings.run})")


@app.command()
def sft(config: ConfigFile, overrides: Overrides = None, plain: Plain = False) -> None:
    """Cold-start a student on traces, as RUN.toml says."""
    from sod.config import SFTConfig, load

    settings = load(SFTConfig, config, overrides=overrides or ())
    _quiet()
    from sod.progress import watching
    from sod.sft import final_model
    from sod.sft import sft as run_sft

    with watching(settings, console=console, plain=plain) as listener:
        run_sft(settings, listener=listener)
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
    from sod.progress.counter import counting
    from sod.progress.lines import sandbox_line
    from sod.sandbox import make_sandbox
    from sod.traces import check_target, make_traces, write_traces

    check_target(config.out)
    async with make_sandbox(config.sandbox) as sandbox:
        _say(sandbox_line(sandbox.layers))
        with counting("traces", console=errors) as on_progress:
            made = await make_traces(
                config.sources,
                sandbox=sandbox,
                tool=config.tool,
                format=config.format,
                limit=config.limit,
                instruction=config.instruction,
                on_progress=on_progress,
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
    from sod.hints import make_hints
    from sod.progress.counter import counting

    with counting("hints", console=errors) as on_progress:
        count = await make_hints(config, on_progress=on_progress)
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
    plain: Plain = False,
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
    from sod.progress import watching

    with watching(settings, console=console, plain=plain) as listener:
        result = run_benchmarks(settings, listener=listener)
        listener("result", result)
    _print_evaluation(result)
    _say(f"Run directory: {settings.run}")
    if not result["complete"]:
        sys.exit(1)


def _as_overrides(given: Mapping[str, Any]) -> list[str]:
    """Flags that were given."""
    from sod.config import as_overrides

    return as_overrides({key: value for key, value in given.items() if value})


def _regrade(run: str, config: str | None, overrides: Sequence[str]) -> None:
    from sod.errors import ConfigError

    if config is not None:
        raise ConfigError(f"--regrade RUN takes its settings from the run, got {config}; leave the file out")
    _quiet()
    from sod.progress.lines import PlainLines
    from sod.regrade import CHANGES, regrade

    try:
        _print_evaluation(regrade(run, overrides=overrides, listener=PlainLines(console)))
    except KeyboardInterrupt:
        errors.print("Interrupted. The run is as it was.")
        sys.exit(130)
    _say(f"Run directory: {run}   (what changed: {Path(run) / CHANGES})")


def _print_evaluation(result: Mapping[str, Any]) -> None:
    from sod.progress.tables import evaluation_lines, evaluation_table, print_wide

    print_wide(evaluation_table(result), console)
    for line in evaluation_lines(result):
        _say(line)


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
    from sod.progress.tables import comparison_table, print_wide

    found = compare_runs(_matching(before), _matching(after))
    print_wide(comparison_table(found), console)
    if len(found.pairs) > 1:
        _say(f"{len(found.pairs)} seeds, paired: " + "; ".join(f"{old} and {new}" for old, new in found.pairs))
    for warning in found.warnings:
        _say(f"Warning: {warning}.")


def _matching(pattern: str) -> list[Path]:
    """A run, or those that a pattern stands for in the order of their names: `"runs/opd-[0-2]"`."""
    path = Path(pattern)
    return [path] if path.exists() else [Path(each) for each in sorted(glob(pattern)) if Path(each).is_dir()] or [path]


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
def view(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    port: Annotated[int, typer.Option(help="Port on this machine (127.0.0.1); 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    out: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write the pages as files instead.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="With --export: so many, the most telling first.")] = 500,
) -> None:
    """Look at trajectories in a browser: filter, read, compare siblings, see what the teacher thought of each token."""
    from sod.errors import ConfigError
    from sod.view import export, serve

    if out is not None:
        if len(runs) > 1:
            raise ConfigError(f"--export writes the pages of one run, got {len(runs)}; give them one by one")
        _say(f"Pages: {export(runs[0], out, limit=limit)}")
        return
    with suppress(KeyboardInterrupt):
        serve(runs, port=port, on_ready=lambda url: _announce(url, browser=browser))


def _announce(url: str, *, browser: bool) -> None:
    _say(f"{url}   (Ctrl-C ends)")
    if browser:
        import webbrowser

        webbrowser.open(url)


@app.command()
def methods() -> None:
    """Every method and preset of `sod train`: what it is, where it comes from, and what it sets."""
    from sod.progress.tables import methods_table, presets_table, print_wide

    print_wide(methods_table(), console)
    _say("")
    print_wide(presets_table(), console)
    _say('\nWhat a method sets cannot be set otherwise, but for what has a * here. method = "custom" sets nothing.')


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
    from sod.progress.lines import sandbox_line
    from sod.sandbox import make_sandbox
    from sod.sandbox.serve import serve

    async with make_sandbox(settings) as sandbox:
        _say(sandbox_line(sandbox.layers))
        await serve(sandbox, host=host, port=port)


def _say(line: str | Text) -> None:
    """One line as it is: paths, ids and messages may hold what rich would take for markup."""
    console.print(line, soft_wrap=True, markup=False)

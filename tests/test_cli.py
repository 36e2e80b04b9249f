"""The command: what it prints, its exit codes, and text that would be markup or could not be printed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sod
from sod import cli
from sod.config import METHODS, PRESETS
from sod.config.methods import DEFAULTS
from sod.errors import CollapseError, ConfigError, DataError, InfrastructureError, SodError, StorageError
from sod.progress.lines import PlainLines

HOSTILE = ["[/]", "[bold", "[/bold]", "x[red]y", "[link=file:///]z", "\\", "a\\[b]", ":bug:", "\x1b[31m", "é汉😀", "\n"]
COMMANDS = ("demo", "train", "sft", "hints", "eval", "report", "view", "doctor", "methods", "memory", "sandbox")

runner = CliRunner()


def sod_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "sod", *arguments]
    return subprocess.run(command, capture_output=True, timeout=120, env=os.environ | environment)


# ---- help and version


def test_version() -> None:
    result = runner.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"sod {sod.__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert command in runner.invoke(cli.app, ["--help"]).stdout
    result = runner.invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"sod {command}" in result.stdout or f"root {command}" in result.stdout


def test_help_of_a_command_imports_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['sod', 'train', '--help']\nfrom sod.cli import main\ntry: main()\nfinally: "
    code += "print([name for name in ('torch', 'transformers', 'pyarrow', 'matplotlib', 'rich.live', 'wandb') "
    code += "if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "RUN.toml" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_no_command_shows_the_help() -> None:
    assert "Usage" in runner.invoke(cli.app, []).output


@pytest.mark.parametrize("arguments", [["dance"], ["train"], ["train", "--fast"], ["eval", "-k", "many"]])
def test_a_wrong_command_line_exits_with_2(arguments: list[str]) -> None:
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "Usage" in result.stderr
    assert "Traceback" not in result.output


# ---- errors and exit codes


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """`sod eval` whose work ends with that error."""

    def fail(*_args: Any, **_settings: Any) -> None:
        raise error

    monkeypatch.setattr("sod.benchmark.run_benchmarks", fail)
    return runner.invoke(cli.app, ["eval", "--model", "m", "--benchmark", "b", "--out", "r"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (DataError("x"), 2),
        (CollapseError("x"), 1),
        (InfrastructureError("x"), 1),
        (StorageError("x"), 1),
    ],
)
def test_an_error_is_one_message(monkeypatch: pytest.MonkeyPatch, error: SodError, code: int) -> None:
    result = failing(monkeypatch, error)
    assert (result.exit_code, result.stderr, result.stdout) == (code, f"{type(error).__name__}: x\n", "")


@pytest.mark.parametrize("text", HOSTILE)
def test_an_error_is_printed_as_it_is_without_escapes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert failing(monkeypatch, DataError(f"a {text} b")).stderr == f"DataError: a {text} b\n".replace("\x1b[31m", "")


def test_a_long_error_stays_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    message = "word " * 100 + "end"
    assert failing(monkeypatch, DataError(message)).stderr == f"DataError: {message}\n"


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(failing(monkeypatch, ZeroDivisionError()).exception, ZeroDivisionError)


def test_ctrl_c_says_what_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    result = failing(monkeypatch, KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "Interrupted. What was finished is on disk; the same command goes on from there.\n"


def test_ctrl_c_in_a_real_process() -> None:
    code = (
        "import sys, time\nimport sod.benchmark\nfrom sod.cli import main\n"
        "def work(*_, **__):\n    print('at work', flush=True)\n    time.sleep(60)\n"
        "sod.benchmark.run_benchmarks = work\n"
        "sys.argv = ['sod', 'eval', '--model', 'm', '--benchmark', 'b', '--out', 'r']\nmain()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr.startswith(b"Interrupted. What was finished is on disk")
    assert stderr.count(b"\n") == 1


# ---- arguments

NUMBERS = {
    "num_problems": 2,
    "k": 4,
    "num_missing": 0,
    "tool_calls": 1.5,
    "response_tokens": 20.0,
    "avg@k": 0.5,
    "avg@k_low": 0.25,
    "avg@k_high": 0.75,
    "pass@k": 0.75,
    "maj@k": None,
    "no_answer": 0.125,
    "tool_status": {"ok": 9, "error": 3},
}
COST = [f"{name}{suffix}" for name in ("elapsed_s", "sampled_tokens", "price") for suffix in ("", "_per_problem")]


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configs that `sod eval` hands on."""
    configs: list[Any] = []

    def take(config: Any, **_settings: Any) -> dict[str, Any]:
        configs.append(config)
        return {
            "benchmarks": {"[bold]x": NUMBERS, "lost": {"num_problems": 0, "num_missing": 3}},
            "average": {"num_benchmarks": 1, "avg@k": 0.5},
            "complete": "incomplete" not in config.run,
            "cost": dict.fromkeys(COST, 1.0),
        }

    monkeypatch.setattr("sod.benchmark.run_benchmarks", take)
    return configs


def test_flags_of_eval_are_settings(taken: list[Any]) -> None:
    name = 'a "model" \\ é😀 [/]'
    result = runner.invoke(
        cli.app, ["eval", "--model", name, "--benchmark", "123, a/b.jsonl", "-k", "7", "--out", "r [/]"]
    )
    assert result.exit_code == 0, result.stderr
    (config,) = taken
    named = [each.benchmark or each.path for each in config.benchmarks]
    assert (config.model.path, named, config.samples, config.run) == (name, ["123", "a/b.jsonl"], 7, "r [/]")
    assert "[bold]x 2 50.0% [25.0, 75.0] 75.0% - 4 12% 1.50 25% 20" in " ".join(result.stdout.split())
    assert "3 samples are missing" in result.stdout
    assert "benchmarks {" not in result.stdout
    assert "Run directory: r [/]" in result.stdout


def test_eval_with_overrides_but_no_file(taken: list[Any]) -> None:
    result = runner.invoke(cli.app, ["eval", "model.path=./m", "benchmarks=d", "run=r", "agent.max_turns=3"])
    assert result.exit_code == 0, result.stderr
    assert (taken[0].model.path, taken[0].agent.max_turns) == ("./m", 3)


def test_overrides_stand_above_flags_and_flags_above_the_file(taken: list[Any], tmp_path: Path) -> None:
    toml = tmp_path / "a=b.toml"
    toml.write_text('run = "r"\nsamples = 1\nmodel.path = "m"\nbenchmarks = "d"\nseed = 4\n')
    result = runner.invoke(cli.app, ["eval", str(toml), "samples=3", "-k", "2", "--model", "n"])
    assert result.exit_code == 0, result.stderr
    assert (taken[0].samples, taken[0].model.path, taken[0].seed) == (3, "n", 4)


def test_regrading_takes_everything_from_the_run(tmp_path: Path) -> None:
    (tmp_path / "a.toml").touch()
    result = runner.invoke(cli.app, ["eval", str(tmp_path / "a.toml"), "--regrade", str(tmp_path)])
    assert (result.exit_code, result.stderr[:13]) == (2, "ConfigError: ")
    assert "leave the file out" in result.stderr
    result = runner.invoke(cli.app, ["eval", "--regrade", str(tmp_path)])
    assert "must be a run directory of `sod eval`, got none there" in result.stderr


def test_a_run_with_missing_samples_ends_with_1(taken: list[Any]) -> None:
    result = runner.invoke(cli.app, ["eval", "--model", "m", "--benchmark", "b", "--out", "incomplete"])
    assert (result.exit_code, len(taken)) == (1, 1)


def test_view_serves_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is how it ends, so it ends without a word."""
    import webbrowser

    import sod.view

    served: list[Any] = []
    opened: list[str] = []

    def serve(runs: Any, *, port: int, on_ready: Any) -> None:
        served.append((runs, port))
        on_ready("http://127.0.0.1:8123/")
        raise KeyboardInterrupt

    monkeypatch.setattr(sod.view, "serve", serve)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    result = runner.invoke(cli.app, ["view", "runs/a", "runs/b", "--port", "8123"])
    assert (result.exit_code, result.stdout) == (0, "http://127.0.0.1:8123/   (Ctrl-C ends)\n"), result.stderr
    assert (served, opened) == ([([Path("runs/a"), Path("runs/b")], 8123)], ["http://127.0.0.1:8123/"])
    assert runner.invoke(cli.app, ["view", "runs/a", "--no-browser"]).exit_code == 0
    assert len(opened) == 1


def test_view_exports_one_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sod.view

    monkeypatch.setattr(sod.view, "export", lambda run, out, *, limit: out / f"{run}-{limit}.html")
    result = runner.invoke(cli.app, ["view", "a", "--export", str(tmp_path), "--limit", "7"])
    assert result.stdout == f"Pages: {tmp_path / 'a-7.html'}\n"
    result = runner.invoke(cli.app, ["view", "a", "b", "--export", str(tmp_path)])
    assert (result.exit_code, result.stderr[:13]) == (2, "ConfigError: ")


def test_compare_needs_two_runs(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["compare", str(tmp_path), str(tmp_path)])
    assert (result.exit_code, result.stderr[:11]) == (2, "DataError: ")


# ---- methods and hints


def test_methods_are_listed_with_what_they_set() -> None:
    """Every method and preset with its sentence, source and settings, whatever the terminal's width."""
    result = runner.invoke(cli.app, ["methods"])
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    starts = {name: next(n for n, line in enumerate(lines) if line.split(" ")[0] == name) for name in METHODS}
    assert list(starts.values()) == sorted(starts.values())
    ends = [*list(starts.values())[1:], lines.index("", max(starts.values()))]
    for (name, start), end in zip(starts.items(), ends, strict=True):
        cells = " ".join(" ".join(lines[start:end]).split())
        for dotted, value in METHODS[name].settings.items():
            assert f"{dotted} = {json.dumps(value)}" in cells, name
        for dotted, value in DEFAULTS.get(name, {}).items():
            assert f"{dotted} = {json.dumps(value)} *" in cells, name
        assert set(METHODS[name].summary.split()) <= set(cells.split()), name
        assert set(METHODS[name].source.split()) <= set(cells.split()), name
    presets = "\n".join(lines[ends[-1] :])
    for name, settings in PRESETS.items():
        assert f"\n{name}" in presets
        assert all(f"{dotted} = {json.dumps(value)}" in presets for dotted, value in settings.items())


def test_methods_need_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['sod', 'methods']\nfrom sod.cli import main\ntry: main()\nfinally: "
    code += "print([name for name in ('torch', 'transformers', 'pyarrow', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done.stderr


def hints_toml(folder: Path, model: Path, *, solution: str = "Six times seven is 42.") -> Path:
    question = {"role": "user", "content": "What is 6 * 7?"}
    rows = [{"id": str(n), "messages": [question], "answer": "42", "solution": solution} for n in range(3)]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    toml = folder / "hints.toml"
    toml.write_text(
        f'out = "{folder / "hints.jsonl"}"\nmax_tokens = 8\n[model]\npath = "{model}"\n'
        f'[data]\npath = "{folder / "problems.jsonl"}"\n'
    )
    return toml


def test_hints_are_written_and_counted(tmp_path: Path, model_dir: Path) -> None:
    """By a real model that knows nothing: 8 tokens are no hint, or one by chance. Again, nothing is asked."""
    toml = hints_toml(tmp_path, model_dir)
    first = runner.invoke(cli.app, ["hints", str(toml)])
    assert first.exit_code == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "hints.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    written = sum(bool(row["hint"]) for row in rows)
    last = f"{written} of 3 problems have a hint: {tmp_path / 'hints.jsonl'}"
    assert first.stdout.splitlines()[-1] == last
    assert written == 3 or "Without a hint" in first.stdout
    again = runner.invoke(cli.app, ["hints", str(toml), "seed=0"])
    assert (again.exit_code, again.stdout.splitlines()[-1]) == (0, last)


def test_hints_are_refused_with_one_message(tmp_path: Path, model_dir: Path) -> None:
    toml = hints_toml(tmp_path, model_dir, solution="")
    result = runner.invoke(cli.app, ["hints", str(toml)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "must have solutions to make hints of" in result.stderr
    result = runner.invoke(cli.app, ["hints", str(toml), "out=hints.csv"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert 'out must end with .jsonl, got "hints.csv"' in result.stderr


# ---- events

UPDATE = {
    "update": 3,
    "num_updates": 20,
    "reward": 0.5,
    "tool_calls": 1.5,
    "failed_calls": 2,
    "num_calls": 8,
    "entropy": 0.7,
    "grad_norm": 0.1,
    "total_s": 2.0,
}
SIGNAL = {"divergence": 0.4, "weight": float("nan"), "log_ratio_control": -0.25}


def shown(capsys: pytest.CaptureFixture[str], event: str, values: Any) -> str:
    PlainLines(cli.console)(event, values)
    return capsys.readouterr().out


def test_an_update_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, "update", UPDATE)
    assert line.split() == (
        "update 3/20 reward 0.500 calls 1.50 failed 25% entropy 0.700 grad 0.100 2.0 s".split()  # noqa: SIM905
    )
    assert "w nan" in shown(capsys, "update", UPDATE | SIGNAL)
    assert "failed 0%" in shown(capsys, "update", UPDATE | {"num_calls": 0, "failed_calls": 0})


def test_an_evaluation_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"num_problems": 2, "update": 5, "k": 4, "avg@k": 0.5, "avg@k_low": 0.25, "avg@k_high": 0.75}
    line = shown(capsys, "evaluation", values | {"tool_calls": 2.0})
    assert line == "evaluation after update 5: avg@4 50.0% [25.0%, 75.0%]  calls 2.00\n"
    assert "no problem could be graded" in shown(capsys, "evaluation", {"num_problems": 0, "update": 5})


def test_a_cold_starts_events(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"update": 1, "num_updates": 9, "loss": 1.25, "grad_norm": 0.5, "lr": 1e-5, "elapsed_s": 3.0}
    assert shown(capsys, "step", values).split()[:4] == ["step", "1/9", "loss", "1.2500"]
    assert "Left out 2 traces longer" in shown(capsys, "left_out", {"too_long": 2, "unreadable": 0, "kept": 3})
    skipped = {"name": "a[/]", "skipped": {"[/] is empty": 9}, "named": {"[/] is empty": [3, 4]}}
    assert shown(capsys, "skipped", skipped) == "a[/]: left out 9 rows: [/] is empty (row 3, 4, ...)\n"


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_printed_harmlessly(capsys: pytest.CaptureFixture[str], text: str) -> None:
    """Markup as it is; what would move the cursor or begin another line is gone."""
    harmless = {"\x1b[31m": "", "\n": ""}.get(text, text)
    alarm = shown(capsys, "alarm", {"update": 1, "message": f"problem{text}!"})
    assert alarm == f"ALARM at update 1: problem{' ' if text == chr(10) else ''}{harmless}!\n"
    assert shown(capsys, "something new", {"problem_id": f"a{harmless}", "n": 1}) == f"problem_id a{harmless}  n 1\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_what_the_terminal_cannot_write_does_not_end_a_run(encoding: str) -> None:
    code = (
        "import sys; sys.argv = ['sod', 'sft', 'x.toml']\nimport sod.config, sod.errors, sod.cli\n"
        "def load(*_, **__):\n"
        "    from sod.progress.lines import PlainLines\n"
        "    PlainLines(sod.cli.console)('finished', {'run': 'problem é'})\n"
        "    raise sod.errors.ConfigError('also \\ud800 é')\n"
        "sod.config.load = load\nsod.cli.main()\n"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, env=environment)
    assert done.returncode == 2, done.stderr
    e = "é".encode() if encoding == "utf-8" else b"\\xe9"
    assert done.stdout.startswith(b"problem " + e + b" is finished already")
    lost = "\ufffd".encode() if encoding == "utf-8" else b"\\ufffd"
    assert done.stderr == b"ConfigError: also " + lost + b" " + e + b"\n"


def test_the_real_command_fails_with_one_message(tmp_path: Path) -> None:
    done = sod_command("train", str(tmp_path / "none.toml"))
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"ConfigError: ")
    assert done.stdout == b""


# ---- the sandbox


def test_sandbox_check_tries_both_levels() -> None:
    done = sod_command("sandbox", "check")
    told = done.stdout.decode()
    level_a, _, level_b = told.partition("level B")
    assert level_a.startswith("level A\n")
    assert done.returncode == 0, told
    for name in ("starts", "an endless loop is ended", "no file of the host", "no network", "20 calls"):
        assert f"holds  {name}: " in level_b, told
    assert "hunter2" not in told


def test_sandbox_check_fails_where_no_level_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from sod.sandbox import channel

    monkeypatch.setattr(channel, "BOOTSTRAP", "import sys; sys.exit('no such luck')")
    result = runner.invoke(cli.app, ["sandbox", "check"])
    assert result.exit_code == 1
    assert result.stdout.count("FAILS  starts: ") == 2
    assert "no such luck" in result.stdout


def test_sandbox_serve_answers_until_it_is_stopped() -> None:
    command = [sys.executable, "-m", "sod", "sandbox", "serve", "--port", "0", "workers=1", "memory_mb=256"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    ) as served:
        assert served.stdout is not None
        assert served.stdout.readline().startswith("sandbox level ")
        url = served.stdout.readline().split()[-1]
        body = json.dumps({"code": "print(6 * 7)", "language": "python"}).encode()
        request = urllib.request.Request(f"{url}/run_code", body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            assert json.load(reply)["run_result"]["stdout"] == "42\n"
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=30) in (0, 130)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--host", "0.0.0.0"], "needs a token"),
        (["worker=3"], "workers"),
        (['urls=["http://your-server"]'], "must name a real"),
    ],
)
def test_sandbox_serve_is_refused_with_one_message(arguments: list[str], complaint: str) -> None:
    done = sod_command("sandbox", "serve", "--port", "0", *arguments)
    assert done.returncode in (1, 2)
    assert complaint in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()

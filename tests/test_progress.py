"""Watching a run: plain lines, the live view's frames at every size, and the view in a real pseudo-terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

import sod.progress
import sod.progress.live
from sod.config import EvalConfig, SFTConfig, TrainConfig, parse
from sod.progress import watching
from sod.progress.counter import counting
from sod.progress.frame import frame, spark
from sod.progress.gauges import plan_of
from sod.progress.lines import PlainLines, line_of
from sod.progress.live import LiveView
from sod.progress.state import RunState

TESTS = Path(__file__).parent
HOSTILE = ["[/]", "[bold", "[bold red]x[/bold red]", "[link=file:///]z", "\\", ":bug:", "\x1b[31m", "\x1b]0;title\x07"]
HOSTILE += ["\x1b[2J\x1b[H", "\r", "\n", "\t", "\x00", "\x9b31m", "\u202e", "é汉😀", "\ud800", "a" * 5000]
UPDATE = {
    "update": 3,
    "num_updates": 20,
    "reward": 0.5,
    "accuracy": 0.25,
    "tool_calls": 1.5,
    "failed_calls": 2,
    "num_calls": 8,
    "failed_turns": 4,
    "retried": 3,
    "error_share": 0.2,
    "malformed_share": 0.05,
    "entropy": 0.7,
    "grad_norm": 0.1,
    "divergence": 0.4,
    "weight": 0.6,
    "log_ratio_control": -0.25,
    "rollout_s": 6.0,
    "learn_s": 3.0,
    "record_s": 0.5,
    "weights_s": 0.0,
    "total_s": 10.0,
    "memory": {"host_gib": 3.25, "gpu_gib": 61.0},
}
EVALUATION = {"update": 2, "num_problems": 2, "k": 4, "avg@k": 0.5, "avg@k_low": 0.25, "avg@k_high": 0.75}
EVALUATION |= {"tool_calls": 2.0}


def config(run: Path | str = "runs/a", **changes: Any) -> TrainConfig:
    sections = {"student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"path": "d"}}
    return parse(TrainConfig, {"run": str(run), **sections, "update": {"num_updates": 20}, **changes})


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> RunState:
    """Twelve updates of ten seconds, the reward rising from 0.1."""
    state = RunState(plan=plan_of(config()), clock=clock)
    state.take("sandbox", {"layers": ["A", "userns"]})
    for number in range(1, 13):
        clock.now += 10.0
        state.take("update", {**UPDATE, "update": number, "reward": number / 10})
    return state


def shown(state: RunState, width: int = 80, height: int = 23) -> list[str]:
    return frame(state, width=width, height=height).plain.split("\n")


# ---- lines


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("event", ["alarm", "warning", "finished", "something new"])
def test_no_text_breaks_a_line(event: str, text: str) -> None:
    out = io.StringIO()
    values = {"update": 1, "message": f"problem {text}!", "run": f"runs/{text}"}
    PlainLines(Console(file=out, width=80))(event, values)
    assert out.getvalue().count("\n") == 1
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\ud800]", out.getvalue())
    if event == "alarm" and text.startswith("[bold red]"):
        assert out.getvalue() == "ALARM at update 1: problem [bold red]x[/bold red]!\n"


def test_every_event_is_a_line() -> None:
    assert str(line_of("update", UPDATE)).startswith("update    3/20  reward 0.500  calls 1.50  failed 25%")
    assert (
        str(line_of("progress", {"done": 3, "total": 9, "correct": 0.5}))
        == "     3 of 9 samples, 50.0% of the new ones right"
    )
    assert str(line_of("resumed", {"update": 4})) == "Continuing after update 4."


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), BrokenPipeError(32, "Broken pipe")])
def test_a_log_that_cannot_be_written_does_not_end_the_run(error: OSError) -> None:
    """In a process of its own, whose stdout rich gives up when its reader is gone."""
    code = (
        "import io, sys, test_progress as t\n"
        "class Gone(io.StringIO):\n"
        f"    def write(self, _): raise OSError({error.errno}, 'gone')\n"
        "with t.watching(t.config(), console=t.Console(file=Gone())) as listen:\n"
        "    listen('update', t.UPDATE)\n"
        "    listen('update', t.UPDATE)\n"
        "print('went on', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=TESTS)
    assert done.stderr == "went on\n"


def test_no_bar_outside_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    with counting("traces", console=Console(file=out)) as on_progress:
        on_progress(1, 2)
    assert out.getvalue() == ""


# ---- the frame


def test_a_frame_shows_the_run(state: RunState) -> None:
    state.take("evaluation", {**EVALUATION, "update": 0, "avg@k": 0.4})
    state.take("evaluation", EVALUATION)
    state.take("warning", {"message": "look out"})
    lines = shown(state)
    text = "\n".join(lines)
    assert lines[0].split() == ["sod", "train", "runs/a,", "method", "sod", "sandbox", "A"]
    assert lines[1].startswith("update 12 of 20  ")
    assert lines[1].endswith("  60%  0:02:00  left 0:01:20")
    rows = {line[:13].strip(): line for line in lines[3:]}
    assert rows["reward"].split()[1::2] == ["1.200", "+0.700"]
    assert "▁" in rows["reward"]
    assert rows["reward"].count("█") == 1
    assert rows["accuracy"].split()[1] == "25.0%"
    assert rows["divergence"].split()[1] == "0.400"
    assert rows["mean weight"].split()[2] == "0.600"
    assert rows["tool calls"].split()[2] == "1.50"
    assert rows["failed"].split()[1] == "25.0%"
    assert "error 20.0%  malformed 5.0%" in text
    assert rows["tried again"].split()[2] == "75.0%"
    assert {"entropy", "gradient"} < set(rows)
    assert rows["last update"].split()[2:4] == ["10.0", "s"]
    assert "█ rollout 60%  ▓ learn 30%  ▒ record 5%" in text
    assert "memory        host 3.2 GiB (peak 3.2)  gpu 61.0 GiB (peak 61.0)" in lines
    assert "evaluation    after update 2: avg@4 50.0% [25.0, 75.0]  +10.0 pt" in lines
    assert lines[-1] == "Warning: look out"


@pytest.mark.parametrize("width", [20, 40, 60, 80, 132])
@pytest.mark.parametrize("height", [1, 4, 14, 23, 60])
def test_a_frame_fits_every_terminal(state: RunState, width: int, height: int) -> None:
    for number, text in enumerate(HOSTILE):
        state.take("alarm" if number % 2 else "warning", {"update": number, "message": f"{text} {number} " * 40})
    state.take("evaluation", EVALUATION)
    lines = shown(state, width, height)
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    if width >= 40:
        assert any(line.startswith("update 12 of 20") for line in lines)
    if height >= 14:
        assert any(line.startswith("ALARM") for line in lines)
        assert any(re.match(r"and \d+ more, all", line) for line in lines)
        assert any(line.startswith("reward") for line in lines)


def test_what_matters_least_is_left_out_first(state: RunState) -> None:
    state.take("alarm", {"update": 12, "message": "tool calls fell"})
    lines = shown(state, 60, 14)
    starts = [line[:13].strip() for line in lines]
    assert {"reward", "accuracy", "divergence", "mean weight", "tool calls", "failed", "tried again"} < set(starts)
    assert "memory" not in starts
    assert lines[-1] == "ALARM at update 12: tool calls fell"


def test_a_warning_that_is_said_again_takes_no_more_room(state: RunState) -> None:
    for _ in range(3):
        state.take("warning", {"message": "the same"})
    assert shown(state)[-1] == "Warning (3 times): the same"


def test_an_alarm_stands_above_later_warnings(state: RunState) -> None:
    state.take("alarm", {"update": 4, "message": "collapse"})
    for number in range(30):
        state.take("warning", {"message": f"warning {number}"})
    lines = shown(state)
    assert lines[-7:] == [
        "ALARM at update 4: collapse",
        *(f"Warning: warning {number}" for number in (29, 28, 27, 26, 25)),
        "and 25 more, all printed at the end",
    ]


def test_a_run_without_teacher_or_failures_has_no_empty_rows(clock: Clock) -> None:
    state = RunState(plan=plan_of(config(method="grpo", teacher=None)), clock=clock)
    bare = {key: UPDATE[key] for key in ("update", "reward", "tool_calls", "entropy", "grad_norm", "total_s")}
    state.take("update", {**bare, "num_calls": 0, "failed_calls": 0, "failed_turns": 0, "retried": 0})
    starts = [line[:13].strip() for line in shown(state)]
    assert {"reward", "tool calls"} < set(starts)
    assert not {"divergence", "mean weight", "failed", "tried again", "memory", "evaluation"} & set(starts)


def test_before_the_first_update(clock: Clock) -> None:
    state = RunState(plan=plan_of(config()), clock=clock)
    clock.now += 75
    assert [line for line in shown(state) if line][1].endswith("0%  0:01:15")


def test_cold_starts_and_evaluations_have_frames_too(clock: Clock) -> None:
    cold = RunState(plan=plan_of(parse(SFTConfig, {"run": "c", "student": {"path": "s"}, "traces": "t"})), clock=clock)
    cold.take("step", {"update": 2, "num_updates": 8, "loss": 1.5, "grad_norm": 0.1, "lr": 1e-5, "elapsed_s": 3.0})
    lines = shown(cold)
    assert lines[1].startswith("step 2 of 8 ")
    assert any(line.split()[:2] == ["loss", "1.5000"] for line in lines)
    assert any("1.00e-05" in line for line in lines)
    settings = parse(EvalConfig, {"run": "e", "model": {"path": "m"}, "benchmarks": ["d"]})
    evaluation = RunState(plan=plan_of(settings), clock=clock)
    evaluation.take("progress", {"done": 5, "total": 50, "correct": 0.4})
    lines = shown(evaluation)
    assert lines[1].startswith("sample 5 of 50 ")
    assert any(line.startswith("right so far") and "40.0%" in line for line in lines)


def test_damaged_values_are_no_reason_to_stop(state: RunState) -> None:
    odd = {"reward": None, "divergence": float("nan"), "weight": "x", "memory": {"host_gib": None, "\x1b[2J": 1.0}}
    state.take("update", {**UPDATE, **odd, "update": 13, "total_s": float("inf"), "num_calls": None})
    lines = shown(state)
    assert any(line.split()[:2] == ["reward", "-"] for line in lines)
    assert "\x1b" not in "".join(lines)


# ---- its parts


def test_the_time_left_is_by_the_median(clock: Clock) -> None:
    """One update of an hour among those of ten seconds changes nothing."""
    state = RunState(plan=plan_of(config()), clock=clock)
    assert state.left_s is None
    clock.now += 500  # loading
    for number, seconds in enumerate([10, 10, 3600, 10, 10], start=1):
        clock.now += seconds
        state.take("update", {**UPDATE, "update": number, "total_s": seconds})
    assert state.left_s == pytest.approx(150)
    clock.now += 4
    assert state.left_s == pytest.approx(146)
    clock.now += 1000
    assert state.left_s == 0


def test_an_evaluations_pace_is_by_sample(clock: Clock) -> None:
    settings = parse(EvalConfig, {"run": "e", "model": {"path": "m"}, "benchmarks": ["d"]})
    state = RunState(plan=plan_of(settings), clock=clock)
    state.take("sandbox", {"layers": ["B"]})
    clock.now += 20
    state.take("progress", {"done": 10, "total": 100, "correct": 0.4})
    assert state.left_s == pytest.approx(180)


def test_what_an_earlier_session_drew_is_no_pace(clock: Clock) -> None:
    """An evaluation that goes on at 800 of 1000 samples, with 25 more in 50 seconds."""
    settings = parse(EvalConfig, {"run": "e", "model": {"path": "m"}, "benchmarks": ["d"]})
    state = RunState(plan=plan_of(settings), clock=clock)
    for done in (825, 850):
        clock.now += 50
        state.take("progress", {"done": done, "total": 1000, "correct": 0.4})
        if done == 825:
            assert state.left_s is None
    assert state.left_s == pytest.approx(300)


@pytest.mark.parametrize(
    ("history", "width", "line"),
    [
        ([0, 1, 2, 3], 4, "▁▃▆█"),
        ([1, 1, 1], 8, "▄▄▄"),
        ([0, None, 7], 8, "▁ █"),
        ([0, 0, 8, 8], 2, "▁█"),
        ([None], 8, ""),
        ([], 8, ""),
        ([-2.0], 8, "▄"),
    ],
)
def test_a_history_is_a_spark(history: list[float | None], width: int, line: str) -> None:
    assert spark(history, width) == line


def test_a_resumed_run_remembers_its_beginning(tmp_path: Path, clock: Clock) -> None:
    rows: list[dict[str, Any]] = [{**UPDATE, "update": number, "reward": 0.1} for number in range(1, 11)]
    rows.insert(5, {"update": 5, "evaluation": {**EVALUATION, "avg@k": 0.25}})
    rows.insert(6, {"update": 5, "alarm": "reward", "message": "old"})
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot JSON\n")
    view = LiveView(plan_of(config(tmp_path)), console=Console(file=io.StringIO(), width=80), clock=clock)
    with view:
        view("resumed", {"update": 10})
        view("update", {**UPDATE, "update": 11, "reward": 0.6})
        lines = shown(view.state)
    assert lines[1].startswith("update 11 of 20")
    assert any(line.startswith("reward") and line.endswith("+0.100") for line in lines)
    assert any("avg@4 25.0%" in line for line in lines)


# ---- the live view


def terminal(width: int = 80, height: int = 24, **settings: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, record=True, **settings)


def play(view: LiveView) -> None:
    view("sandbox", {"layers": ["A", "userns"]})
    for number in range(1, 13):
        view("update", {**UPDATE, "update": number})
    view("alarm", {"update": 12, "message": "tool calls fell [bold]far[/]\x1b[31m"})


def test_the_last_state_stays_and_warnings_are_said_once_more() -> None:
    console = terminal()
    with LiveView(plan_of(config()), console=console) as view:
        play(view)
    told = console.export_text()
    assert told.startswith("sod train runs/a, method sod: loading\nsandbox level A: userns\n")
    last = told[told.rindex("sod train") :].splitlines()
    assert last[1].startswith("update 12 of 20")
    assert "left" not in last[1]
    assert last[-1] == "ALARM at update 12: tool calls fell [bold]far[/]"
    assert sum(line.startswith("ALARM") for line in last) == 1


def test_at_most_four_frames_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []

    def counted(*arguments: Any, **settings: Any) -> Text:
        drawn.append(time.monotonic())
        return frame(*arguments, **settings)

    monkeypatch.setattr(sod.progress.live, "frame", counted)
    with LiveView(plan_of(config()), console=terminal()) as view:
        view("update", UPDATE)
        drawn.clear()
        start = time.monotonic()
        for number in range(2000):
            view("update", {**UPDATE, "update": number})
        took_s = time.monotonic() - start
    assert len(drawn) <= 2 + 5 * took_s, (len(drawn), took_s)


def test_nothing_is_shown_for_a_finished_run() -> None:
    console = terminal()
    with LiveView(plan_of(config()), console=console) as view:
        view("finished", {"run": "runs/a"})
    assert console.export_text().splitlines()[1:] == ["runs/a is finished already; give another `run` to start anew."]


def test_without_colours_it_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    console = terminal()
    with LiveView(plan_of(config()), console=console) as view:
        play(view)
    assert isinstance(console.file, io.StringIO)
    colours = re.findall(r"\x1b\[([\d;]*)m", console.file.getvalue())
    assert colours
    assert not [code for each in colours for code in each.split(";") if code and 30 <= int(code) < 110]
    assert "ALARM" in console.file.getvalue()


def test_a_terminal_that_goes_away_does_not_end_the_run() -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(5, "Input/output error")

    with LiveView(plan_of(config()), console=Console(file=Gone(), force_terminal=True, width=80, height=24)) as view:
        play(view)
    assert view.state.done == 12


def test_lines_are_for_everything_but_a_real_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe with FORCE_COLOR, a dumb terminal and one without UTF-8 get lines."""

    class Tty(io.StringIO):
        encoding = "utf-8"

        def isatty(self) -> bool:
            return True

    def listener(console: Console, **settings: Any) -> str:
        with watching(config(), console=console, **settings) as listen:
            listen("update", UPDATE)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    monkeypatch.setenv("TERM", "xterm")
    line = f"{line_of('update', UPDATE)}\n"
    assert listener(Console(file=io.StringIO())) == line
    assert listener(Console(file=io.StringIO(), force_terminal=True)) == line
    assert listener(Console(file=Tty()), plain=True) == line
    assert "update 3 of 20" in listener(Console(file=Tty(), width=80, height=24))
    monkeypatch.setattr(Tty, "encoding", "ascii")
    assert listener(Console(file=Tty())) == line
    monkeypatch.setattr(Tty, "encoding", "utf-8")
    monkeypatch.setenv("TERM", "dumb")
    assert listener(Console(file=Tty())) == line


# ---- in a real pseudo-terminal

SCRIPT = """
import fcntl, os, struct, sys, termios, time, types
sys.path.insert(0, "tests")
from test_progress import UPDATE
from sod import cli

def resize(height, width):
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

def work(config, *, listener):
    listener("warning", {"message": "early \\x1b[2J[bold]warning[/]"})
    listener("sandbox", {"layers": ["A", "userns"]})
    for number in range(1, 13):
        listener("update", {**UPDATE, "update": number})
        if number == 4:
            print("a library speaks")
            print("a warning for a file", file=sys.stderr)
        if number in (6, 9):
            resize(*((15, 60) if number == 6 else (30, 100)))
            time.sleep(0.3)
    listener("alarm", {"update": 12, "message": "tool calls fell"})
    time.sleep(120)

sys.modules["sod.train"] = types.SimpleNamespace(train=work)
cli._quiet = lambda: None
resize(24, 80)
sys.argv = ["sod", "train", sys.argv[1]]
cli.main()
"""


class Screen:
    """What a terminal would show of a stream: enough of one for what rich writes."""

    def __init__(self) -> None:
        self.rows: list[str] = [""]
        self.row = 0

    def feed(self, stream: str) -> None:
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+|\x1b", stream):
            if part == "\n":
                self.row += 1
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part.endswith("A") and part.startswith("\x1b["):
                self.row = max(0, self.row - int(part[2:-1] or 1))
            elif part == "\x1b[2K":
                self.rows[self.row] = ""
            elif part == "\x1b[2J":
                self.rows, self.row = [""], 0
            elif part[0] not in "\x1b\r":
                self.rows[self.row] += part


def test_in_a_real_terminal_with_resizing_and_ctrl_c(tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text(
        f'run = "{tmp_path / "run"}"\n[student]\npath = "s"\n[teacher]\npath = "t"\n[data]\npath = "d"\n'
        "[update]\nnum_updates = 20\n"
    )
    process, terminal = pty.fork()
    if process == 0:  # the child, which has the terminal
        os.environ |= {"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        os.environ.pop("NO_COLOR", None)
        os.dup2(os.open(tmp_path / "errors", os.O_CREAT | os.O_WRONLY), 2)
        os.execv(sys.executable, [sys.executable, "-c", SCRIPT, str(toml)])
    told = b""
    for chunk in chunks(terminal):
        told += chunk
        if b"tool calls fell" in told and b"\x03" not in told:
            os.write(terminal, b"\x03")
            told += b"\x03"
    _, status = os.waitpid(process, 0)
    stream = told.decode().replace("\x03", "").replace("^C", "")
    assert os.waitstatus_to_exitcode(status) == 130, stream
    hidden = re.findall(r"\x1b\[\?25l(.*?)\x1b\[\?25h", stream, re.DOTALL)
    assert len(hidden) == stream.count("\x1b[?25l"), "the cursor is back"
    assert not any("update" in each for each in hidden), "and never away: what is killed could not bring it back"
    errors = (tmp_path / "errors").read_text(encoding="utf-8").splitlines()
    assert errors == [
        "a warning for a file",
        "Interrupted. What was finished is on disk; the same command goes on from there.",
    ]
    screen = Screen()
    screen.feed(stream)
    rows = [row.rstrip() for row in screen.rows if row.strip()]
    assert sum(row.startswith("update ") for row in rows) == 1, rows
    assert any(row.startswith("update 12 of 20") for row in rows)
    assert sum(row.startswith("reward ") for row in rows) == 1
    assert rows[-2:] == ["Warning: early [bold]warning[/]", "ALARM at update 12: tool calls fell"]
    assert "a library speaks" in stream


def chunks(terminal: int) -> Iterator[bytes]:
    """What comes until the other side is closed."""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:
            return
        if not chunk:
            return
        yield chunk

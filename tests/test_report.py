"""Reports: what they show is right, and nothing that a model or a damaged file holds can break them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.config import SFTConfig, TrainConfig, dump, parse
from sod.errors import ConfigError, DataError, StorageError
from sod.records import sealed
from sod.report import panels, show_trajectory, telling_trajectory, write_report
from sod.report.costs import read_costs
from sod.report.differences import NOTHING, differences
from sod.report.labels import labels_of, seed_of, without_seed
from sod.report.markup import element, joined, text
from sod.report.over_updates import RETRIED, start_and_end
from sod.report.pairs import evaluation_tests, training_tests
from sod.report.panels import moving_mean
from sod.report.read import label_runs, read_run
from sod.report.steps import StepMeans
from sod.report.untrusted import cell, clean, fence, number, read_lines, too_deep
from sod.report.vector import embedded
from sod.runs import RunDirectory

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
PNG = b"\x89PNG\r\n\x1a\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" width="9pt"><g id="a"><path d="M0 0"/></g></svg>'


# ---- making runs


def record(
    *,
    problem: str = "p1",
    update: int = 1,
    correct: bool = True,
    divergence: Sequence[float | None] = (0.1, 0.2),
    weight: Sequence[float | None] = (1.0, 0.5),
    statuses: Sequence[str] = ("ok",),
    text: str = "A step.",
) -> dict[str, Any]:
    """A trajectory record with a turn per divergence; `statuses[i]` is how the call of turn i ended."""
    turns = [
        {
            "text": text,
            "calls": [{"name": "code_interpreter", "arguments": {"code": "1+1"}}] if index < len(statuses) else [],
            "results": [{"status": status, "text": "2"} for status in statuses[index : index + 1]],
        }
        for index in range(len(divergence))
    ]
    return {
        "update": update,
        "problem_id": problem,
        "sample": 0,
        "stop_reason": "answered",
        "score": {"value": float(correct), "correct": correct, "reason": "", "answer": "2"},
        "divergence": list(divergence),
        "weight": list(weight),
        "turns": turns,
    }


def metrics(update: int, **values: float) -> dict[str, float]:
    known = {
        "accuracy": 0.5,
        "reward": 0.5,
        "tool_calls": 2.0,
        "entropy": 0.3,
        "num_trajectories": 4,
        "sampled_tokens": 50,
        "turns": 3.0,
        "response_tokens": 80,
        "num_calls": 8,
        "failed_calls": 2,
        "failed_turns": 2,
        "retried": 2,
        "loss": 0.1,
        "grad_norm": 1.0,
    }
    return {"update": update, **known, **values}


def make_run(
    path: Path, *, method: str = "sod", seed: int = 0, num_updates: int = 2, records: Sequence[Any] = ()
) -> Path:
    values = {"run": str(path), "method": method, "seed": seed, "update": {"num_updates": num_updates}}
    values |= {name: {"path": name} for name in ("student", "teacher", "data")}
    with RunDirectory.open(path, config_json=dump(parse(TrainConfig, values)), command="train") as run:
        for update in range(1, num_updates + 1):
            run.append("metrics", metrics(update))
            run.append("timing", {"update": update, "rollout_s": 2.0, "learn_s": 1.0, "total_s": 4.0})
        for each in records or [record(problem=f"p{index}", correct=index % 2 == 0) for index in range(8)]:
            run.append("trajectories", each)
        run.finish("done")
    return path


def make_evaluation(path: Path, right: Sequence[Sequence[bool]], *, seed: int = 0, benchmark: str = "aime24") -> Path:
    """A finished `sod eval`: `right[i][j]` is sample j of problem i."""
    config = {
        "run": str(path),
        "seed": seed,
        "model": {"path": "m"},
        "benchmarks": [{"benchmark": benchmark}],
        "samples": 2,
    }
    with RunDirectory.open(path, config_json=json.dumps(config), command="eval") as run:
        sums = {f"p{index}": {"question": f"q{index}", "prompt": "x", "answer": "y"} for index in range(len(right))}
        run.write_json("problems.json", {benchmark: sums})
        for index, samples in enumerate(right):
            for sample, correct in enumerate(samples):
                each = record(problem=f"p{index}", correct=correct, update=0)
                run.append("trajectories", {**each, "sample": sample, "benchmark": benchmark})
        mean = sum(sum(samples) / len(samples) for samples in right) / len(right)
        numbers = {"avg@k": mean, "avg@k_low": mean - 0.1, "avg@k_high": mean + 0.1, "num_problems": len(right), "k": 2}
        numbers |= {"num_missing": 0, "num_failed": 0, "no_answer": 0.0}
        run.write_json("evaluation.json", {"benchmarks": {benchmark: numbers}, "complete": True})
        run.finish()
    return path


# ---- reading reports


@dataclass
class Page(HTMLParser):
    """What a report holds: the rows of each table by its caption, alt texts of figures by name, links, all text."""

    source: str
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    figures: dict[str, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    words: str = ""
    _rows: list[list[str]] = field(default_factory=list)
    _caption: str = ""
    _figure: str = ""
    _into: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append("")
            self._into = "cell"
        elif tag == "caption":
            self._into = "caption"
        elif tag == "figure":
            self._figure = str(given["id"]).removeprefix("figure-")
        elif tag == "svg" and self._figure:
            self.figures[self._figure], self._figure = str(given["aria-label"]), ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td", "caption"):
            self._into = ""
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        self.words += data
        if self._into == "cell":
            self._rows[-1][-1] += data
        elif self._into == "caption":
            self._caption += data

    def table(self, beginning: str) -> list[list[str]]:
        """Rows of the one table whose caption begins so, without its header."""
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(beginning)]
        return rows[1:]

    def row(self, beginning: str, first: str) -> list[str]:
        """The row of that table which begins with the cell."""
        (row,) = [row for row in self.table(beginning) if row[0] == first]
        return row[1:]


def report_of(*paths: Path, out: Path | None = None) -> Page:
    return Page(write_report(paths, out).read_text(encoding="utf-8"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of the text alone need not wait for the pictures."""
    monkeypatch.setattr("sod.report.figures.rendered", lambda _figure, kind, **_settings: SVG if kind == "svg" else PNG)


# ---- what is shown


def test_report_of_a_run(tmp_path: Path) -> None:
    path = write_report([make_run(tmp_path / "run")])
    assert path == tmp_path / "run" / "report" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.row("What was run", "trajectories") == ["8 graded, 4 correct, 0 with a failed call"]
    assert page.row("Health", "ending")[1] == "passed finished: done"
    assert page.table("Wall time") == [
        ["rollout", "4.0 s, 50%"],
        ["learn", "2.0 s, 25%"],
        ["other", "2.0 s, 25%"],
        ["total", "8.0 s"],
        ["sampled tokens / s of rollout", "100"],
    ]
    assert list(page.figures) == ["training", "signal", "calls", "length", "steps", "patterns", "time"]
    for name in page.figures:
        assert (path.parent / f"{name}.png").read_bytes().startswith(PNG)
        svg = (path.parent / f"{name}.svg").read_text(encoding="utf-8")
        assert svg in path.read_text(encoding="utf-8")  # drawn once


@pytest.mark.usefixtures("undrawn")
def test_figures_say_what_they_show_in_numbers(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", num_updates=4)
    rows = [metrics(index, accuracy=value) for index, value in enumerate([0.1, 0.3, 0.5, 0.9], start=1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = report_of(path)
    said = "Accuracy (% of trajectories): sod from 20 at the start to 70 at the end, between 10 and 90."
    assert said in page.figures["training"]
    assert "Divergence d_k (nats per token): correct 0.1 at step 1, 0.2 at step 2" in page.figures["steps"]
    assert page.row("Training problems", "Accuracy (% of trajectories)") == ["20.0 → 70.0"]


def test_means_by_step_are_those_of_the_trajectories_that_have_the_step(tmp_path: Path) -> None:
    records = [
        record(problem="a", divergence=[0.1, 0.5], weight=[1.0, 0.2]),
        record(problem="b", divergence=[0.3], weight=[1.0]),
        record(problem="c", correct=False, divergence=[0.7, None], weight=[1.0, None], statuses=["error"]),
    ]
    means = read_run(make_run(tmp_path / "run", records=records)).trajectories.divergence
    curve = {
        outcome: [(p.step, round(p.mean, 6), p.num_trajectories) for p in means.points(outcome)]  # type: ignore[arg-type]
        for outcome in ("correct", "wrong", "failed call")
    }
    assert curve == {
        "correct": [(1, 0.2, 2), (2, 0.5, 1)],
        "wrong": [(1, 0.7, 1)],
        "failed call": [(1, 0.7, 1)],
    }


def test_band_is_over_problems_not_siblings() -> None:
    """Copying every trajectory of a problem must not make the interval narrower."""
    bands = []
    for copies in (1, 10):
        means = StepMeans()
        for problem in range(6):
            for _ in range(copies):
                means.add([0.1 * problem], outcomes=["correct"], problem=str(problem))
        (point,) = means.points("correct")
        assert point.low is not None
        assert point.high is not None
        bands.append((point.low, point.mean, point.high))
    assert bands[0] == pytest.approx(bands[1])
    low, mean, high = bands[0]
    # Six values 0, .1, ... .5: standard deviation .1871, standard error .0764.
    assert (low, mean, high) == pytest.approx((0.25 - 1.96 * 0.07638, 0.25, 0.25 + 1.96 * 0.07638), abs=1e-3)


def test_few_problems_have_no_band() -> None:
    means = StepMeans()
    for problem in range(4):
        means.add([float(problem)], outcomes=["wrong"], problem=str(problem))
    assert means.points("wrong")[0].low is None


@pytest.mark.usefixtures("undrawn")
def test_weights_that_are_all_one_are_said_not_drawn(tmp_path: Path) -> None:
    records = [record(problem=str(index), weight=[1.0, 1.0]) for index in range(3)]
    page = report_of(make_run(tmp_path / "run", method="opd", records=records))
    assert "every step's weight was 1." in page.words
    assert "Weight" not in page.figures["steps"]


@pytest.mark.usefixtures("undrawn")
def test_weights_that_only_average_to_one_are_drawn(tmp_path: Path) -> None:
    records = [record(problem=str(index), weight=[1.0, weight]) for index, weight in enumerate((0.8, 1.2))]
    page = report_of(make_run(tmp_path / "run", records=records))
    assert "every step's weight" not in page.words
    assert "Weight w_k (1: full trust): correct 1 at step 1, 1 at step 2" in page.figures["steps"]


@pytest.mark.usefixtures("undrawn")
def test_run_without_a_teacher_says_so(tmp_path: Path) -> None:
    plain = [{key: value for key, value in record().items() if key not in ("divergence", "weight")}]
    page = report_of(make_run(tmp_path / "run", records=plain))
    assert "no divergence was recorded" in page.words
    assert "trusted more and less" not in page.words
    assert not {"steps", "patterns"} & page.figures.keys()


@pytest.mark.usefixtures("undrawn")
def test_teacher_entropy_is_shown_where_it_is(tmp_path: Path) -> None:
    records = [{**record(problem=str(index)), "teacher_entropy": [0.25, 0.75]} for index in range(3)]
    page = report_of(make_run(tmp_path / "run", records=records))
    assert "Teacher's entropy (nats per token): correct 0.25 at step 1, 0.75 at step 2" in page.figures["steps"]
    assert page.row("sod: Teacher's entropy", "2")[:2] == ["0.750", "3"]


@pytest.mark.usefixtures("undrawn")
def test_patterns_are_counted_by_update(tmp_path: Path) -> None:
    """u is .02, the median d_1 of update 1; high is above 10 u. The last step calls nothing and does not count."""
    plan = {1: [[0.02, 0.03, 0.9], [0.02, 0.9, 0.9]], 2: [[0.02, 0.9, 0.0], [0.9, 0.02, 0.9], [0.1, 0.02, 0.0], [0.1]]}
    records = [
        record(
            problem=str(index), update=update, divergence=divergence, weight=(), statuses=["ok"] * (len(divergence) - 1)
        )
        for update, rows in plan.items()
        for index, divergence in enumerate(rows)
    ]
    path = make_run(tmp_path / "run", records=records)
    counts = read_run(path).trajectories.classes.counts()
    assert {update: dict(each) for update, each in counts.items()} == {
        1: {"stable": 1, "erroneous": 1},
        2: {"erroneous": 1, "recovery": 1, "stable": 1},
    }
    assert (
        "stable (% of calling trajectories): sod from 50 at the start to 33.3 at the end"
        in report_of(path).figures["patterns"]
    )


@pytest.mark.usefixtures("undrawn")
def test_evaluations_and_alarms_are_shown(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", num_updates=10)
    low_high = {"avg@k": 0.25, "avg@k_low": 0.2, "avg@k_high": 0.3, "k": 4, "num_problems": 16}
    lines: list[Mapping[str, Any]] = [
        {"update": 0, "evaluation": low_high},
        {"update": 2, "evaluation": {**low_high, "avg@k": 0.27}},
        {"update": 9, "alarm": "tool_calls", "message": "tool calls fell | far"},
    ]
    with (path / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    page = report_of(path)
    assert page.table("Evaluations")[0][:5] == ["sod", "held out, after update 0", "16", "4", "25.0 % [20.0, 30.0]"]
    assert page.table("Evaluations")[1][4] == "27.0 % [20.0, 30.0]"
    assert "held out 27 [20, 30] at the end" in page.figures["training"]
    assert page.table("Alarms") == [["sod", "9", "tool_calls", "tool calls fell | far"]]
    assert page.row("Health", "tool_calls")[1] == "alarm at update 9; 2 → 2"
    assert page.row("Health", "reward")[1] == "passed 0.5 → 0.5"
    assert "alarm finished; 1 of 8 checks rang: tool_calls." in page.words


@pytest.mark.usefixtures("undrawn")
def test_checks_that_cannot_say_or_are_off(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", num_updates=4)
    config = json.loads((path / "config.json").read_text())
    config["guards"]["reward_floor"] = 0.0
    (path / "config.json").write_text(json.dumps(config))
    page = report_of(path)
    assert page.row("Health", "retries")[1] == "unknown compares from update 10 on"
    assert page.row("Health", "reward")[1].startswith("off")


@pytest.mark.usefixtures("undrawn")
def test_an_alarm_of_another_version_is_a_check_too(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 1, "alarm": "new_rule", "message": "m"}\n')
    assert report_of(path).row("Health", "new_rule")[1] == "alarm at update 1"


def test_report_of_an_evaluation_alone(tmp_path: Path) -> None:
    path = tmp_path / "eval"
    with RunDirectory.open(path, config_json='{"seed": 3, "model": {"path": "m"}}', command="eval") as run:
        run.append("trajectories", record(update=0))
        numbers = {"avg@k": 0.5, "avg@k_low": 0.4, "avg@k_high": 0.6, "num_problems": 9}
        run.append("trajectories", sealed({**record(update=0), "sample": 1}))
        run.write_json("evaluation.json", {"benchmarks": {"aime24": numbers, "own|file": {**numbers, "avg@k": 0.6}}})
        run.finish()
    page = report_of(path)
    assert [row[1::3][:2] for row in page.table("Evaluations")] == [
        ["aime24", "50.0 % [40.0, 60.0]"],
        ["own|file", "60.0 % [40.0, 60.0]"],
    ]
    assert "1 of benchmarks whose texts are not shown" in page.words
    assert list(page.figures) == ["evaluations", "steps", "patterns"]


@pytest.mark.usefixtures("undrawn")
def test_an_evaluation_under_way_shows_what_is_there(tmp_path: Path) -> None:
    path = make_evaluation(tmp_path / "eval", [[True, False], [True, True]])
    (path / "evaluation.json").unlink()
    (path / "status.json").write_text('{"state": "running", "time": "noon"}')
    page = report_of(path)
    assert page.table("Evaluations under way")[0][1:3] == ["aime24", "2"]
    assert page.table("Evaluations under way")[0][3].startswith("75.0 % [")
    assert page.row("Health", "complete")[1].startswith("at work")
    assert "no result yet" in page.words


def test_start_and_end_do_not_overlap() -> None:
    assert start_and_end([1.0, 3.0, 5.0, 9.0]) == (2.0, 7.0)
    assert start_and_end([4.0]) == (4.0, 4.0)
    assert start_and_end([0.0] * 6 + [1.0] * 6) == (0.0, 1.0)


def test_moving_mean_looks_back_only() -> None:
    assert moving_mean([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == pytest.approx([1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
    assert moving_mean([0.0] * 600 + [12.0])[-1] == pytest.approx(12.0 / 10)


def test_a_ratio_leaves_out_updates_without_a_base(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", num_updates=2)
    rows = [metrics(1, retried=3, failed_turns=4), metrics(2, retried=0, failed_turns=0)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert RETRIED.of(read_run(path)) == ([1.0], [75.0])


# ---- time and memory


def test_costs(tmp_path: Path) -> None:
    lines = [
        {"update": 1, "rollout_s": 2.0, "learn_s": 1.0, "total_s": 4.0, "memory": {"host_gib": 1.5, "gpu_gib": 8.0}},
        {"update": 1, "evaluate_s": 5.0},
        {"update": 2, "rollout_s": 3.0, "total_s": 3.0, "memory": {"host_gib": 2.0, "gpu_gib": "x"}},
        {"update": 3, "rollout_s": -1.0, "memory": 7},
    ]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "damaged\n")
    costs = read_costs(tmp_path / "timing.jsonl")
    assert costs.phases == {"rollout": 5.0, "learn": 1.0, "other": 1.0, "evaluate": 5.0}
    assert costs.total_s == 12.0
    assert costs.by_update[1] == {"rollout": 2.0, "learn": 1.0, "other": 1.0, "evaluate": 5.0}
    assert costs.memory == {1: {"host": 1.5, "gpu": 8.0}, 2: {"host": 2.0}}
    assert costs.num_skipped == 1


def test_the_clock_of_a_cold_start_counts_each_session(tmp_path: Path) -> None:
    """Two sessions: 10 s, then 4 s."""
    lines = [{"update": update, "elapsed_s": seconds} for update, seconds in ((1, 5.0), (2, 10.0), (3, 1.0), (4, 4.0))]
    (tmp_path / "timing.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_costs(tmp_path / "timing.jsonl").total_s == 14.0


@pytest.mark.usefixtures("undrawn")
def test_memory_is_shown(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    with (path / "timing.jsonl").open("a") as file:
        file.writelines(
            json.dumps({"update": n, "memory": {"host_gib": n / 2, "gpu_gib": 8.0}}) + "\n" for n in (1, 2, 3)
        )
    page = report_of(path)
    assert page.table("Memory in GiB") == [
        ["sod", "gpu", "8.00", "8.00", "8.00"],
        ["sod", "host", "0.50", "1.50", "1.50"],
    ]
    assert "host (GiB): sod from 0.5 at the start to 1.5 at the end" in page.figures["memory"]
    assert "No memory was recorded." in report_of(make_run(tmp_path / "other")).words


# ---- what was run


def test_differences_from_the_published_setting() -> None:
    values = {"run": "r", "method": "opd", "optimizer": {"lr": 1e-4}, "update": {"samples": 16, "prompts": 8}}
    values |= {name: {"path": name} for name in ("student", "teacher", "data")}
    config = json.loads(dump(parse(TrainConfig, values)))
    config["optimizer"]["novel"] = 3
    config["unheard_of"] = {"deep": [1]}
    assert differences(config, command="train") == {
        "method": ("sod", "opd"),
        "student.path": (NOTHING, "student"),
        "teacher.path": (NOTHING, "teacher"),
        "data.path": ("", "data"),
        "objective.outcome": (True, False),
        "weights.rule": ("ratio", "uniform"),
        "optimizer.lr": (1e-6, 1e-4),
        "optimizer.novel": (NOTHING, 3),
        "update.prompts": (64, 8),
        "unheard_of.deep": (NOTHING, [1]),
    }


def test_differences_of_a_section_that_is_off_when_published() -> None:
    found = differences({"teachers": {"code": {"path": "c", "dtype": "auto"}}, "lora": None}, command="train")
    assert found == {"teachers.code.path": (NOTHING, "c")}
    assert differences({"method": 3, "optimizer": 7}, command="train").keys() == {"method", "optimizer"}
    assert differences({"anything": 1}, command="other") == {"anything": (NOTHING, 1)}


@pytest.mark.usefixtures("undrawn")
def test_differences_are_shown_with_who_set_them(tmp_path: Path) -> None:
    page = report_of(make_run(tmp_path / "a", method="opd"), make_run(tmp_path / "b"), out=tmp_path / "out")
    assert page.row("Settings of sod train", "weights.rule") == ["ratio", 'uniform (method "opd")', "-"]
    assert page.row("Settings of sod train", "update.num_updates") == ["120", "2"]  # one cell: both have it
    assert page.row("What was run", "seed") == ["0"]
    assert "git_commit" not in page.words


# ---- several runs


def test_labels_say_what_differs() -> None:
    def labels(*names: str, methods: Sequence[str], seeds: Sequence[int]) -> list[str]:
        return labels_of([Path("/r") / name for name in names], methods, seeds)

    assert labels("a", "b", methods=["sod", "opd"], seeds=[0, 0]) == ["sod", "opd"]
    assert labels("a", "b", methods=["sod", "sod"], seeds=[0, 1]) == ["sod, seed 0", "sod, seed 1"]
    assert labels("x/sod/0", "y/sod/0", methods=["sod", "sod"], seeds=[0, 0]) == ["sod (x)", "sod (y)"]
    assert labels("sod/0", "fast/0", methods=["sod", "sod"], seeds=[0, 0]) == ["sod", "sod (fast)"]
    evaluations = labels("a/s-0-eval", "b/s-0-eval", "b/s-1-eval", methods=["eval"] * 3, seeds=[0, 0, 1])
    assert evaluations == ["a/s-0", "b/s-0", "b/s-1"]
    assert labels("a/b", "c", methods=["sod", "sod"], seeds=[0, 0]) == ["sod (/r/a/b)", "sod (/r/c)"]
    assert len(set(labels("c", "c", methods=["sod", "sod"], seeds=[0, 0]))) == 2


@pytest.mark.parametrize(
    ("name", "seed", "expected"),
    [
        ("sod-1", 1, "sod-*"),
        ("seed-1-evaluation", 1, "*-evaluation"),
        ("sod-0.6b", 0, "sod-0.6b"),
        ("sod-10", 1, "sod-10"),
        ("sod-1", None, "sod-1"),
    ],
)
def test_seed_taken_out_of_a_path(name: str, seed: int | None, expected: str) -> None:
    assert without_seed(Path("/runs") / name, seed) == f"/runs/{expected}"


@pytest.mark.parametrize(
    ("name", "seed", "model", "expected"),
    [
        ("sod-1", 1, "m", 1),
        ("sod-1-eval", 0, "runs/sod-1/checkpoints/final/model", 1),
        ("sod-2-eval", 0, "runs/sod-1/checkpoints/final/model", 0),
        ("sod-0.6b-1-2", 0, "runs/sod-0.6b-1-2/checkpoints/final/model", 0),
        ("eval", None, "m", None),
    ],
)
def test_seed_of_a_run(name: str, seed: int | None, model: str, expected: int | None) -> None:
    assert seed_of(Path("/runs") / name, {"seed": seed, "model": {"path": model}}) == expected


@pytest.mark.usefixtures("undrawn")
def test_report_of_several_runs(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / method, method=method) for method in ("sod", "opd")]
    path = write_report([*paths, paths[0]], tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    steps = ["divergence-by-step", "weight-by-step"]
    assert list(page.figures) == ["training", "signal", "calls", "length", *steps, "patterns", "time"]
    assert not (paths[0] / "report").exists()


def test_runs_are_compared_on_the_training_problems_both_had(tmp_path: Path) -> None:
    """Update 1 is the only one both have: eight problems, of which the second run gets all right, the first half."""
    before = make_run(tmp_path / "a", records=[record(problem=f"p{n}", correct=n % 2 == 0) for n in range(8)])
    better = [record(problem=f"p{n}") for n in range(8)]
    after = make_run(tmp_path / "b", records=[*better, *(record(problem=f"p{n}", update=2) for n in range(8))])
    runs = [read_run(before), read_run(after)]
    label_runs(runs)
    (found,) = training_tests(runs)
    assert (found.num_problems, found.means, found.what) == (8, (0.5, 1.0), "training problems of updates 1-1")
    assert found.comparison is not None
    assert found.comparison.difference == 0.5
    assert found.comparison.p_value == pytest.approx(2 / 16)  # four pairs that moved: both patterns of one sign


def test_runs_on_other_data_are_not_compared(tmp_path: Path) -> None:
    """Rows of two files may have the same names."""
    runs = [read_run(make_run(tmp_path / name)) for name in "ab"]
    label_runs(runs)
    assert len(training_tests(runs)) == 1
    runs[1].config = {**runs[1].config, "data": {"path": "other.jsonl"}}
    assert training_tests(runs) == []


def test_panels_of_one_quantity_have_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or steps of wrong trajectories, with twice the divergence, would look like those of correct ones."""
    drawn: dict[str, list[Any]] = {}
    draw = panels.picture

    def noted(figure: Any, path: Path, **words: str) -> Any:
        drawn[path.name] = figure.axes
        return draw(figure, path, **words)

    monkeypatch.setattr(panels, "picture", noted)
    records = [record(problem=f"p{n}", correct=n % 2 == 0, divergence=[0.1, 1.0 + n % 2]) for n in range(8)]
    page = report_of(*(make_run(tmp_path / name, records=records) for name in "ab"), out=tmp_path / "out")
    shown = [axes for axes in drawn["divergence-by-step"] if axes.get_visible()]
    assert len(shown) == 2
    assert [axes.get_ylim() for axes in shown] == [(0.0, pytest.approx(2.12))] * 2
    assert {axes.get_ylabel() for axes in shown} == {"Divergence d_k, nats per token"}
    assert "wrong (Divergence d_k, nats per token): " in page.figures["divergence-by-step"]


def test_evaluations_are_compared_by_seeds(tmp_path: Path) -> None:
    low, high = [[True, False]] * 8, [[True, True]] * 6 + [[True, False]] * 2
    paths = [make_evaluation(tmp_path / f"opd-{seed}", low, seed=seed) for seed in (0, 1)]
    paths += [make_evaluation(tmp_path / f"sod-{seed}", high, seed=seed) for seed in (1, 0)]
    runs = [read_run(path) for path in paths]
    label_runs(runs)
    (found,) = evaluation_tests(runs)
    assert (found.before, found.after) == ("opd (seeds 0, 1)", "sod (seeds 0, 1)")
    assert (found.what, found.num_problems, found.means) == ("aime24", 8, (0.5, 0.875))
    assert found.comparison is not None
    assert found.comparison.difference == pytest.approx(0.375)


@pytest.mark.usefixtures("undrawn")
def test_paired_tests_are_in_the_page(tmp_path: Path) -> None:
    paths = [make_evaluation(tmp_path / name, [[right, True]] * 6) for name, right in (("a", False), ("b", True))]
    page = report_of(*paths, out=tmp_path / "out")
    (row,) = page.table("Differences between evaluations")
    assert row[:5] == ["a → b", "aime24", "6", "50.0 %", "100.0 %"]
    assert row[5].startswith("+50.0 [")
    assert row[6:] == ["0.0312", "0.0312"]  # 2 of 64 patterns of signs
    assert "a on aime24 50.0 % [40.0, 60.0]; b on aime24 100.0 %" in page.figures["evaluations"]


@pytest.mark.usefixtures("undrawn")
def test_evaluations_that_share_nothing_say_so(tmp_path: Path) -> None:
    paths = [make_evaluation(tmp_path / name, [[True]], benchmark=name) for name in ("a", "b")]
    (row,) = report_of(*paths, out=tmp_path / "out").table("Differences between evaluations")
    assert row[5].startswith("cannot be compared: the runs must share problems")


@pytest.mark.usefixtures("undrawn")
def test_evaluations_inside_training_are_compared_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / method, method=method) for method in ("opd", "sod")]
    for path, value in zip(paths, (0.4, 0.7), strict=True):
        point = {"avg@k": value, "avg@k_low": value - 0.03, "avg@k_high": value + 0.04}
        with (path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"update": 2, "evaluation": point}) + "\n")
    page = report_of(*paths, out=tmp_path / "out")
    # Square and add: sqrt(3^2 + 4^2) = 5 points on both sides.
    expected = ["opd → sod", "2, 2", "40.0 %", "70.0 %", "+30.0 [+25.0, +35.0]"]
    assert page.table("Last evaluations inside training") == [expected]


@pytest.mark.usefixtures("undrawn")
def test_report_while_a_run_is_under_way(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "status.json").write_text('{"state": "running"}')
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "accur')
    page = report_of(path)
    assert page.row("What was run", "updates") == ["2 of 2"]
    assert page.row("Health", "records")[1] == "passed none skipped"
    assert page.row("Health", "ending")[1].startswith("at work")


# ---- damage and hostility

HOSTILE_LINES = [
    b"[1, 2]",
    b"not json",
    b'{"update": "x"}',
    b'{"update": -1}',
    b'{"update": 1e400}',
    b"[" * 100_000,
    b"\xff\xfe",
    b'{"update": ' + b"9" * 5000 + b"}",
    b"null",
]


@pytest.mark.usefixtures("undrawn")
def test_damaged_lines_are_skipped_and_counted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b"\n".join(HOSTILE_LINES) + b"\n")
    with (path / "trajectories.jsonl").open("ab") as file:
        file.write(b"\n".join(HOSTILE_LINES) + b"\n")
    page = report_of(path)
    count = len(HOSTILE_LINES)
    said = f"alarm lines skipped: {count} in metrics.jsonl, {count} in trajectories.jsonl"
    assert page.row("Health", "records")[1] == said
    assert "8 graded" in page.words


def test_values_of_the_wrong_kind_break_nothing(tmp_path: Path) -> None:
    damaged: list[dict[str, Any]] = [
        {**record(), "divergence": "abc", "weight": [None, "x", True, 1e300]},
        {**record(), "turns": [1, None, {"text": 5, "calls": [3, {"name": None}], "results": [7, {"status": []}]}]},
        {**record(), "turns": []},
        {**record(), "score": 3},
        {**record(), "problem_id": ["x"]},
    ]
    path = make_run(tmp_path / "run", records=damaged)
    (path / "config.json").write_text('{"method": ["$", "|"], "update": 3, "student": "x", "guards": [], "seed": {}}')
    (path / "run.json").write_text('{"sessions": {"a": 1}, "command": null}')
    (path / "status.json").write_text("[]")
    (path / "timing.jsonl").write_text('{"update": -3, "rollout_s": 1e99, "learn_s": "x", "memory": [1]}\n')
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 3, "accuracy": "high", "entropy": null, "evaluation": 7}\n')
        file.write('{"update": 4, "accuracy": 1e999, "tool_calls": NaN, "entropy": -1e308}\n')
        file.write('{"update": 5, "alarm": {"a": 1}, "message": ["\\u001b[2J"]}\n')
    page = report_of(path)
    assert "3 graded" in page.words
    assert "2 in trajectories.jsonl" in page.words
    for each in damaged:
        assert show_trajectory(each)


@pytest.mark.usefixtures("undrawn")
def test_lists_in_lists_without_end_break_nothing(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    deep = "[" * 500 + "]" * 500
    (path / "config.json").write_text(f'{{"method": {deep}}}')
    (path / "run.json").write_text(f'{{"command": "train", "sessions": [{{"fact": {deep}}}]}}')
    with (path / "trajectories.jsonl").open("a") as file:
        wild = record(correct=False, divergence=[0.1, 9.0, 0.1], weight=[1.0, 0.0, 1.0], statuses=["error"])
        file.write(json.dumps({**wild, "problem_id": "deep", "turns": "DEEP"}).replace('"DEEP"', deep) + "\n")
    assert "Problem deep" not in report_of(path).words
    assert [too_deep(value) for value in ([], {"a": [1]}, json.loads(deep))] == [False, False, True]


def test_names_cannot_break_figures_or_tables(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a$b^{|`_")
    (path / "config.json").write_text(json.dumps({"method": "_$\\frac{|`<b>漢\n# x", "seed": "</td>"}))
    page = report_of(path, make_run(tmp_path / "other"), out=tmp_path / "out")
    assert "b" not in page.tags
    assert page.row("What was run", "seed") == ["</td>", "0"]
    assert len({len(row) for row in page.table("Health")}) == 1
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(PNG)


@pytest.mark.usefixtures("undrawn")
def test_model_text_stays_text(tmp_path: Path) -> None:
    said = "</pre><script>alert(1)</script>&lt;b&gt;\x1b[31mred\x1b]0;title\x07\u202e\x00"
    path = make_run(tmp_path / "run", records=[record(text=said, statuses=["error"])])
    page = report_of(path)
    assert "</pre><script>alert(1)</script>&lt;b&gt;red\ufffd" in page.words
    assert "script" not in page.tags
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", page.source)


@given(st.text())
def test_any_text_is_escaped(said: str) -> None:
    whole = element("p", said, title=said)
    assert whole.count("<") == whole.count(">") == 2
    found = Page(whole)
    assert found.words == clean(said)


def test_markup() -> None:
    assert (
        element("td", "a < b", 3, class_="x", aria_label='"', id=None)
        == '<td class="x" aria-label="&quot;">a &lt; b3</td>'
    )
    assert element("br") == "<br>"
    assert joined(["<", element("i", ">")], by=" & ") == "&lt; &amp; <i>&gt;</i>"
    assert text(text("<")) == "&lt;"


def test_only_what_is_known_of_a_drawing_is_embedded() -> None:
    svg = b"""<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 1 1">
    <metadata>m</metadata><style>* {}</style><script>x()</script><!-- c --><image xlink:href="http://x"/>
    <defs><path id="g" d="M0 0"/></defs><use xlink:href="#g" x="1"/><use xlink:href="http://x#g"/>
    <g clip-path="url(#c)" onclick="x()" style="fill: #f00; stroke: url(http://x); behavior: x"><text>t</text></g>
    <path style="fill: url(#h)" d="M1 1"/></svg>"""
    found = embedded(svg, prefix="f", label='"<')
    assert found == (
        '<svg xmlns="http://www.w3.org/2000/svg" width="600pt" viewBox="0 0 1 1" role="img" aria-label="&quot;&lt;" '
        'stroke-linejoin="round" stroke-linecap="butt"><defs><path id="f-g" d="M0 0"/></defs>'
        '<use href="#f-g" x="1"/><use/><g clip-path="url(#f-c)" fill="#f00"/><path fill="url(#f-h)" d="M1 1"/></svg>'
    )
    with pytest.raises(ValueError, match="must be an SVG"):
        embedded(b"<svg", prefix="f", label="")


@given(st.text())
def test_clean_text_is_harmless(text: str) -> None:
    shown = clean(text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", shown)
    assert "\n" not in cell(text)
    assert re.search(r"(?<!\\)\|", cell(text)) is None
    fenced = fence(shown).split("\n")
    assert all(not line.startswith(fenced[-1]) for line in fenced[1:-1])


def test_clean_examples() -> None:
    assert clean("a\x1b[31mb\r\nc\x00\td") == "ab\nc\ufffd    d"
    assert clean("\x1b]8;;http://x\x07link\x1b]8;;\x07") == "link"
    assert clean("\x1b]0;never closed\nkept") == "\nkept"
    assert clean("half \ud800 pair") == "half \ufffd pair"
    assert [number(value) for value in (True, "1", float("nan"), 1e300, 10**400, 3)] == [None] * 5 + [3.0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
hostile_turns = st.lists(
    st.fixed_dictionaries({}, optional={"text": json_values, "calls": json_values, "results": json_values}), max_size=4
)


@settings(max_examples=60)
@given(
    st.fixed_dictionaries(
        {"turns": hostile_turns | json_values},
        optional=dict.fromkeys(("score", "divergence", "weight", "stop_reason", "problem_id", "update"), json_values),
    )
)
def test_any_record_can_be_shown_and_ranked(hostile: dict[str, Any]) -> None:
    shown = show_trajectory(hostile)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown)
    telling_trajectory([hostile, record()])


def test_overlong_line_is_one_damaged_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sod.report.untrusted.MAX_LINE_BYTES", 16)
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"a":1}\n' + b"x" * 100 + b'\n{"a":2}\n{"torn"')
    assert list(read_lines(file)) == [{"a": 1}, None, {"a": 2}]


# ---- one clear message


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "foreign"])
def test_not_a_run_directory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "run"
    if kind == "file":
        path.touch()
    elif kind != "missing":
        path.mkdir()
    if kind == "foreign":
        (path / "photo.jpg").touch()
    with pytest.raises(DataError, match="must be a run directory"):
        write_report([path])


def test_run_without_updates(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (path / "metrics.jsonl").write_text("garbage\n")
    (path / "trajectories.jsonl").unlink()
    with pytest.raises(
        DataError, match=r"at least one update, evaluation or graded sample.*finished.*unreadable lines: 1"
    ):
        write_report([path])
    assert not (path / "report").exists()


def test_no_run_at_all() -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        write_report([])


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r'pip install "sod-distill\[report\]"'):
        write_report([make_run(tmp_path / "run")])


@pytest.mark.parametrize("name", ["config.json", "run.json", "status.json", "timing.jsonl", "trajectories.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = make_run(tmp_path / "run")
    (path / name).unlink()
    os.mkfifo(path / name)
    if name.endswith(".jsonl"):
        with pytest.raises(DataError, match=f"{name} must be a regular file"):
            write_report([path])
    else:
        assert read_run(path).updates


@pytest.mark.usefixtures("undrawn")
def test_links_in_a_run_do_not_choose_where_is_written(tmp_path: Path) -> None:
    path, own = make_run(tmp_path / "run"), tmp_path / "own.txt"
    own.write_text("mine")
    (path / "report").mkdir()
    for name in ("report.html", "time.svg", "time.png"):
        (path / "report" / name).symlink_to(own)
    write_report([path])
    assert own.read_text() == "mine"
    assert (path / "report" / "time.png").read_bytes() == PNG
    linked = make_run(tmp_path / "linked")
    (linked / "report").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="got a link; give --out"):
        write_report([linked])
    assert not (tmp_path / "report.html").exists()
    assert write_report([linked], linked / "report") == linked / "report" / "report.html"  # as was asked for


def test_out_that_cannot_be_written(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    (tmp_path / "taken").touch()
    with pytest.raises(StorageError, match="taken"):
        write_report([path], tmp_path / "taken")


def test_import_is_light() -> None:
    code = (
        "import sys, sod.report, sod.report.write; print(*sorted({'torch', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# ---- one trajectory


def test_telling_trajectory() -> None:
    dull = record(divergence=[0.1, 0.1, 0.1], weight=[1.0, 1.0, 1.0])
    short = record(correct=False, divergence=[0.1, 2.0], weight=[1.0, 0.1])
    wrong = record(correct=False, divergence=[0.1, 0.1, 2.0], weight=[1.0, 1.0, 0.1])
    failed = record(divergence=[0.1, 0.4, 0.2], weight=[1.0, 0.25, 0.5], statuses=["ok", "error"])
    assert telling_trajectory(iter([dull, short, failed, wrong])) is failed
    assert telling_trajectory([dull, wrong, short]) is wrong
    assert telling_trajectory([dull, short]) is short
    assert telling_trajectory([{"turns": []}, {}]) is None


def test_shown_trajectory() -> None:
    text = 'Let me see.\n<tool_call>\n{"name": "code_interpreter", "arguments": {"code": "1+1"}}\n</tool_call>'
    shown = show_trajectory(
        record(text=text, correct=False, divergence=[0.1, 0.4], weight=[1.0, 0.25], statuses=["error"])
    )
    assert "Problem p1, sample 0, update 1: wrong, answer " + '"2".' in shown
    first, second = (line for line in shown.splitlines() if re.match(r" +[12]  ", line))
    assert (first.split()[1], first.split()[3], first.split()[-1]) == ("0.100", "1.000", "error")
    assert (second.count("█"), first.count("█")) == (20 + 5, 5 + 20)
    assert "| Let me see.\ncall: code_interpreter(code)\n> 1+1\nresult: error\n< 2" in shown
    assert "-- step 2 of 2, d = 0.4, w = 0.25 --" in shown


def test_several_calls_of_a_turn_are_shown_as_written() -> None:
    two = record(divergence=[0.1], weight=[1.0])
    text = '<tool_call>{"a"}</tool_call> between <tool_call>{"b"}</tool_call>'
    call = {"name": "x", "arguments": {}}
    two["turns"] = [{"text": text, "calls": [call, call], "results": []}]
    assert f"| {text}" in show_trajectory(two)


def test_student_cannot_forge_lines_of_ours() -> None:
    shown = show_trajectory(record(text="-- step 2 of 2, d = 0, w = 9 --\rresult: ok"))
    assert "\n-- step 2 of 2, d = 0, w = 9" not in shown
    assert "\nresult: ok\n< 2" in shown
    assert shown.count("\nresult: ok") == 1


def test_long_text_is_cut_in_the_middle() -> None:
    shown = show_trajectory(record(text="\n".join(f"line {index}" for index in range(1000))))
    assert "[976 lines left out]" in shown
    assert "| line 0\n" in shown
    assert "| line 999" in shown


# ---- the real thing


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> tuple[Path, Path]:
    """A `sod train` run with evaluations and a `sod sft` run, of random models of the demo's size."""
    from sod.demo import pretrained, world
    from sod.sft import sft
    from sod.train import train

    folder = tmp_path_factory.mktemp("real")
    for size in ("student", "teacher"):
        pretrained.make_model(size, seed=3).save_pretrained(folder / size)
        tokenizer.save_pretrained(folder / size)
    problems = [{"id": p.id, "messages": list(p.messages), "answer": p.answer} for p in world.problems(8, seed=1)]
    traces = [{"messages": list(trace)} for trace in world.traces(4, seed=1)]
    for name, rows in (("problems", problems), ("traces", traces)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    student = {"path": str(folder / "student")}
    values = {
        "run": str(folder / "train"),
        "student": student,
        "teacher": {"path": str(folder / "teacher")},
        "data": {"path": str(folder / "problems.jsonl")},
        "evaluation": {"path": str(folder / "problems.jsonl"), "limit": 2},
        "evaluation_samples": 1,
        "update": {"num_updates": 2, "prompts": 2, "samples": 2, "optimizer_steps": 1, "evaluate_every": 2},
        "agent": {"max_response_tokens": 48},
        "guards": {"teacher_self_gap": 0.0},
        "sandbox": {"workers": 1, "preload": []},
    }
    train(parse(TrainConfig, values))
    cold = {
        "run": str(folder / "sft"),
        "student": student,
        "traces": str(folder / "traces.jsonl"),
        "batch": 2,
        "epochs": 1,
    }
    sft(parse(SFTConfig, cold))
    return folder / "train", folder / "sft"


@pytest.mark.slow
def test_real_runs(real_runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = report_of(*real_runs, out=tmp_path / "out")
    assert {"training", "signal", "calls", "length", "cold-start", "steps", "time"} <= page.figures.keys()
    assert page.row("Health", "records")[1:] == ["passed none skipped"] * 2
    assert "8 graded" in page.words
    (_, after) = page.table("Evaluations")
    assert after[1:3] == ["held out, after update 2", "2"]
    assert after[4].startswith("0.0 % [")
    assert re.fullmatch(r"\d\.\d+ → \d\.\d+", page.row("Cold starts", "sft")[1])
    assert "Step 1 of" in page.words


@pytest.mark.slow
def test_every_recorded_name_is_documented(real_runs: tuple[Path, Path]) -> None:
    """Of a cold start and a training run with evaluations, in all three kinds of lines."""
    rows = [row for row in DOCS.read_text(encoding="utf-8").splitlines() if row.startswith("| `")]
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])}
    recorded: set[str] = set()
    for run in real_runs:
        for each in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
            recorded |= set() if "alarm" in each else set(each.get("evaluation", each))
        for each in map(json.loads, (run / "timing.jsonl").read_text().splitlines()):
            recorded |= set(each) - {"memory"} | set(each.get("memory", {}))
    assert len(recorded) > 50
    assert {re.sub(r"_step_\d+$", "_step_1", name) for name in recorded} <= documented

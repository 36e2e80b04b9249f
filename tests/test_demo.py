"""`sod demo` as a whole, small: every part really runs, and a second call reuses what is finished."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from browser import opened_browser
from sod.demo import coldstart, story
from sod.runs import read_trajectories
from test_view import serving

SCALE = story.Scale(
    num_test=6,
    test_samples=2,
    overrides=("update.num_updates=2", "update.prompts=4", "update.samples=2", "update.optimizer_steps=1"),
)

REPORTED = [
    "Health",
    "Results",
    "Over training",
    "By step",
    "Stable, erroneous, recovery",
    "One trajectory",
    "Where the time went",
    "Where the memory went",
    "What was run",
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    directory = tmp_path_factory.mktemp("demo")
    return directory, tell(directory)


def tell(directory: Path) -> str:
    console = Console(width=140, record=True, force_terminal=False, quiet=False)
    story.tell(directory, seed=3, from_scratch=False, console=console, scale=SCALE)
    return console.export_text()


@pytest.mark.slow
def test_the_demo_tells_its_story(told: tuple[Path, str]) -> None:
    directory, text = told
    for part in ("before distillation", "Distil with OPD", "Distil with SOD", "against the start", "step by step"):
        assert part in text
    place = story.Place(directory=directory, seed=3, scale=SCALE)
    for name in ("start", *story.METHODS):
        numbers = json.loads((place.evaluation(name) / "evaluation.json").read_text())["benchmarks"]["test"]
        assert numbers["num_problems"] == 6
        assert numbers["k"] == 2
        assert f"{100 * numbers['avg@k']:.1f}" in text
    pictures = {path.name for path in place.run("report").glob("*.png")}
    assert any(name.startswith("divergence") for name in pictures)
    assert any(name.startswith("training") for name in pictures)


@pytest.mark.slow
def test_its_trajectories_really_used_tool_and_teacher(told: tuple[Path, str]) -> None:
    directory, _ = told
    place = story.Place(directory=directory, seed=3, scale=SCALE)
    records = list(read_trajectories(place.run("sod")))
    assert len(records) == 2 * 4 * 2
    results = [result for record in records for turn in record["turns"] for result in turn["results"]]
    assert sum(result["status"] == "ok" for result in results) > len(records)
    for record in records:
        assert record["weight"][0] == 1.0
        assert len(record["teacher_logprobs"]) == sum(step >= 0 for step in record["step"])


@pytest.mark.slow
def test_both_methods_start_from_the_same_draws(told: tuple[Path, str]) -> None:
    directory, _ = told
    place = story.Place(directory=directory, seed=3, scale=SCALE)
    first = {
        method: {
            (record["problem_id"], record["sample"]): record["token_ids"]
            for record in read_trajectories(place.run(method))
            if record["update"] == 1
        }
        for method in story.METHODS
    }
    assert first["opd"] == first["sod"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_its_report_and_its_trajectories_open_in_a_browser(told: tuple[Path, str], tmp_path: Path) -> None:
    place = story.Place(directory=told[0], seed=3, scale=SCALE)
    records = list(read_trajectories(place.run("sod")))
    with opened_browser() as browser, serving([place.run("sod"), place.run("opd")], folder=tmp_path) as viewer:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))

        page.goto((place.run("report") / "report.html").as_uri())
        assert page.title() == "Report: opd, sod"
        assert page.locator("h2").all_inner_texts() == REPORTED
        assert page.locator("figure svg").count() >= 8
        assert page.locator("#results table").first.locator("tbody tr").last.inner_text().count("16 (") == 2

        page.goto(viewer.url)
        page.wait_for_selector("table.list")
        assert page.locator("a.open").count() == len(records)
        page.get_by_label("Verdict").select_option("no")
        page.wait_for_function("() => location.hash.includes('correct=no')")
        page.locator("a.open").first.click()
        page.wait_for_selector(".step")
        record = records[int(re.search(r"line (\d+)", page.locator(".summary").inner_text())[1]) - 1]
        assert record["score"]["correct"] is False
        shown = [float(text) for text in page.locator(".bar-value").all_inner_texts()]
        by_step = zip(record["divergence"], record["weight"], record["teacher_entropy"], strict=True)
        kept = [value for values in by_step for value in values]
        assert shown == pytest.approx(kept, rel=1e-2, abs=1e-3)
        assert page.locator(".siblings li").count() == 2
        page.locator(".token").first.hover()
        page.wait_for_selector("#tip", state="visible")
        assert complaints == []


@pytest.mark.slow
def test_a_second_call_reuses_what_is_finished(told: tuple[Path, str]) -> None:
    directory, text = told
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("metrics.jsonl")}
    again = tell(directory)
    assert "finished already" in again
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("metrics.jsonl")} == before
    rows = [line for line in text.splitlines() if line.split()[:1] in (["start"], ["opd"], ["sod"])]
    assert len(rows) == 3
    assert all(row in again for row in rows)


@pytest.mark.slow
def test_from_scratch_makes_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = coldstart.Recipe(num_traces=32, slips=0.2, epochs=1.0, lr=1e-3, seed=1)
    monkeypatch.setattr(coldstart, "RECIPES", {"student": recipe, "teacher": recipe})
    coldstart.cold_start(tmp_path, console=Console(quiet=True))
    assert {path.name for path in (tmp_path / "student").iterdir()} >= {"config.json", "model.safetensors"}
    metrics = [json.loads(line) for line in (tmp_path / "teacher-run" / "metrics.jsonl").read_text().splitlines()]
    assert len(metrics) == 2


def test_the_packaged_pair_is_small() -> None:
    weights = Path(story.__file__).parent / "weights"
    size = sum(path.stat().st_size for path in weights.rglob("*") if path.is_file())
    assert 0 < size <= 4_000_000

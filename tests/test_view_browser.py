"""The trajectory viewer in a real browser: what is shown, how one moves, and that a model's words stay text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from browser import opened_browser
from sod.report import write_report
from sod.view.export import write_export
from test_report import make_run as reported_run
from test_report import metrics
from test_view import HOSTILE, group, lines_of, make_run, serving, trajectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
WAIT_MS = 60_000
MIN_CONTRAST = 4.5
MIN_CONTRAST_OF_FIELDS = 3.0
LONG = "x" * 1_000_000
CONTRAST = """
(selector) => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(selector)].map((node) => {
    const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))];
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  });
}
"""
TEXTS = (
    ".list td, .list th, .quiet, .verdict, .label, .note, .tip dt, .tip dd, .token, .swatch, .code span, pre, a, button"
)


@dataclass
class Watched:
    """A page with everything that must not happen on it."""

    page: Any
    wrongs: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Site:
    """A viewer of two runs, and the records of the first."""

    url: str
    run: Path
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("view")
    hostile = trajectory(
        HOSTILE,
        update=3,
        texts=[f"{HOSTILE}\n```python\n{HOSTILE}\n```\n<tool_call>{HOSTILE}</tool_call>", LONG, "The end."],
        statuses=("error", "ok"),
        observation=HOSTILE + LONG,
        code=HOSTILE,
        divergence=(0.02, 0.5, 0.01),
        weight=(1.0, 0.04, 1.2),
        stop_reason=HOSTILE,
        detail=HOSTILE,
        benchmark=HOSTILE,
        score={"value": 0.0, "correct": False, "reason": HOSTILE, "answer": HOSTILE},
        teacher_entropy=[0.25, None, 0.5],
    )
    records = [*group(1, "p1"), *group(2, "p2"), hostile, *(trajectory(f"q{n}", update=4) for n in range(60))]
    run = make_run(root / "first", records)
    other = {
        key: value
        for key, value in trajectory("alone").items()
        if key not in ("divergence", "weight", "teacher_logprobs")
    }
    with serving([run, make_run(root / "second", [other])], folder=root / "cache") as viewer:
        yield Site(viewer.url, run, records)


@pytest.fixture
def watched(browser: Any) -> Iterator[Watched]:
    """A window whose errors, dialogs and requests are noted; nothing of them may happen."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(WAIT_MS)
    watched = Watched(context.new_page())
    page, wrongs = watched.page, watched.wrongs
    page.on("console", lambda message: message.type in ("error", "warning") and wrongs.append(message.text))
    page.on("pageerror", lambda error: wrongs.append(str(error)))
    page.on("dialog", lambda dialog: (wrongs.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("popup", lambda _: wrongs.append("popup"))
    page.on("request", lambda request: watched.requests.append(request.url))
    yield watched
    context.close()
    assert wrongs == []


def open_at(watched: Watched, url: str, *, shows: str) -> Any:
    watched.page.goto(url)
    watched.page.wait_for_selector(shows)
    return watched.page


def lines(page: Any) -> list[int]:
    return [int(text) for text in page.locator("table.list a.open").all_inner_texts()]


def settle(page: Any, line: int) -> None:
    """Until the trajectory of a line is shown."""
    page.wait_for_function("(line) => document.querySelector('.summary')?.innerText.includes(`line ${line}`)", arg=line)


# ---- the list


def test_list_filters_sorts_and_pages(watched: Watched, site: Site) -> None:
    page = open_at(watched, site.url, shows="table.list")
    assert lines(page) == list(range(1, 51))
    page.locator("nav.pages").get_by_text("Next").click()
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 19")
    assert lines(page)[-1] == 69
    page.get_by_label("Verdict").select_option("no")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 3")
    assert lines(page) == [2, 6, 9]
    page.get_by_label("Order").select_option("-update")
    page.wait_for_function("() => document.querySelector('a.open').innerText === '9'")
    page.get_by_label("Tool status").select_option("error")
    page.get_by_label("Update from").fill("2")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 2")
    assert lines(page) == [9, 6]
    assert "from=2" in page.url
    assert "correct=no" in page.url
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 50")
    page.keyboard.press("/")
    page.keyboard.type('"boxed 2 equals" p2')
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 4")
    assert lines(page) == [5, 6, 7, 8]
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.type("zzz")
    page.wait_for_selector(".empty")
    assert page.locator(".empty").inner_text() == "No trajectory fits these filters."
    assert page.input_value("#search") == '"boxed 2 equals" p2zzz'


def test_other_run_by_the_select(watched: Watched, site: Site) -> None:
    page = open_at(watched, site.url, shows="table.list")
    page.get_by_label("Run").select_option("second")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 1")
    page.locator("a.open").click()
    page.wait_for_selector(".step")
    assert "No teacher scored" in page.locator(".note").first.inner_text()
    assert page.locator(".bar").count() == 0
    assert page.locator(".legend").count() == 0


# ---- a trajectory


def test_trajectory_shows_the_record(watched: Watched, site: Site) -> None:
    record = site.records[1]
    page = open_at(watched, f"{site.url}#/first/2", shows=".step")
    assert page.locator("h1").inner_text() == "Problem p1 · sample 1"
    assert page.locator(".step").count() == len(record["turns"])
    bars = [float(text) for text in page.locator(".bar-value").all_inner_texts()]
    assert bars == [value for pair in zip(record["divergence"], record["weight"], strict=True) for value in pair]
    assert page.locator(".bar-limit").nth(1).inner_text() == "cap 1.2"
    widths = page.evaluate(
        "[...document.querySelectorAll('.fill.w')].map((fill) => fill.getBoundingClientRect().width)"
    )
    assert widths[1] < widths[0] < widths[2]
    assert page.locator(".py-keyword").first.inner_text() == "import"
    assert page.locator(".py-comment").first.inner_text() == "# two"
    assert "boxed 2 equals 2" in page.locator(".summary").inner_text()
    assert "Problem p1" in page.locator(".prompt pre").inner_text()
    siblings = page.locator(".siblings li")
    assert siblings.count() == 4
    assert "✗ wrong" in siblings.nth(1).inner_text()
    assert page.locator(".siblings [aria-current=page]").inner_text() == "sample 1"


def facts(page: Any) -> dict[str, str]:
    page.wait_for_selector("#tip", state="visible")
    names = page.locator("#tip dd").evaluate_all("(all) => all.map((node) => [node.dataset.fact, node.innerText])")
    return dict(names)


def expected(record: dict[str, Any], step: int, at: int) -> tuple[int, float, float, float]:
    sampled = [place for place, number in enumerate(record["step"]) if number >= 0]
    place = record["turns"][step]["start"] + at
    student, teacher = record["rollout_logprobs"][place], record["teacher_logprobs"][sampled.index(place)]
    return record["token_ids"][place], student, teacher, round(teacher - student, 6)


def shown(values: dict[str, str]) -> tuple[int, float, float, float]:
    return int(values["token id"]), float(values["student"]), float(values["teacher"]), float(values["log-ratio"])


def test_token_numbers_are_those_of_the_record(watched: Watched, site: Site) -> None:
    record = site.records[1]
    page = open_at(watched, f"{site.url}#/first/2", shows=".step")
    tokens = page.locator(".step").nth(1).locator(".token")
    for at in (0, 3, 4):
        tokens.nth(at).hover()
        assert shown(facts(page)) == expected(record, 1, at)
    text = page.locator(".step").nth(1).locator(".tokens").inner_text()
    assert "".join(text.split()).replace("↵", "").replace("·", "") == "".join(record["turns"][1]["text"].split())
    page.mouse.move(0, 0)
    tokens.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert shown(facts(page)) == expected(record, 1, 2)
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()
    strong = page.locator(".token.n2, .token.n3, .token.n4")
    assert strong.count() > 0  # a teacher's log-prob of -3 and below against -0.001


def test_comparison(watched: Watched, site: Site) -> None:
    page = open_at(watched, f"{site.url}#/first/1", shows=".step")
    page.keyboard.press("c")
    page.wait_for_function("() => document.querySelector('#pin').innerText === 'Unpin'")
    page.keyboard.press("n")
    page.wait_for_selector(".two")
    titles = page.locator(".column h2").all_inner_texts()
    assert titles == ["Problem p1 · sample 0", "Problem p1 · sample 1"]
    left, right = (page.locator(".column").nth(side).bounding_box() for side in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    link = page.url
    again = open_at(watched, "about:blank", shows="body")
    page = open_at(watched, link, shows=".two")
    assert again.locator(".column h2").all_inner_texts() == titles
    page.keyboard.press("c")
    page.wait_for_selector(".siblings")
    page.locator(".siblings .compare").first.click()
    page.wait_for_selector(".two")


def test_comparison_of_two_runs(watched: Watched, site: Site) -> None:
    """What is pinned stays pinned when another run is chosen."""
    page = open_at(watched, f"{site.url}#/first/2", shows=".step")
    page.locator("#pin").click()
    page.wait_for_function("() => document.querySelector('#pin').innerText === 'Unpin'")
    page.get_by_label("Run").select_option("second")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 1")
    page.locator("a.open").click()
    page.wait_for_selector(".two")
    assert page.locator(".column h2").all_inner_texts() == ["Problem p1 · sample 1", "Problem alone · sample 0"]
    assert page.locator(".column-head > .quiet").all_inner_texts() == ["Pinned · first", "This · second"]


def test_focus_stays_on_what_was_pressed(watched: Watched, site: Site) -> None:
    """The list is drawn anew; who turns its pages or its order by keyboard must not begin at the top again."""
    page = open_at(watched, site.url, shows="table.list")
    page.get_by_role("button", name="Problem").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("th[aria-sort=ascending] >> text=Problem")
    assert page.evaluate("document.activeElement.innerText.trim()") == "Problem ↑"
    page.get_by_role("button", name="Last").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 19")
    page.get_by_role("button", name="First").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 50")
    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.closest('a.open') !== null")


def test_reader_stays_at_the_step_when_it_is_shown_otherwise(watched: Watched, site: Site) -> None:
    page = open_at(watched, f"{site.url}#/first/2", shows=".step")
    page.set_viewport_size({"width": 1200, "height": 400})
    third = page.locator(".step").nth(2)
    third.evaluate("(node) => node.scrollIntoView()")
    for view in ("Text", "Tokens", "Both"):
        page.keyboard.press("t")
        page.wait_for_function(
            "(name) => document.querySelector('.segmented [aria-pressed=true]').innerText === name", arg=view
        )
        top = third.bounding_box()["y"]
        assert 0 <= top <= 200, (view, top)


def test_keys(watched: Watched, site: Site) -> None:
    page = open_at(watched, f"{site.url}#/first?correct=no", shows="table.list")
    page.keyboard.press("j")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("k")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.innerText") == "6"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    settle(page, 6)
    page.keyboard.press("n")
    settle(page, 9)
    page.keyboard.press("p")
    settle(page, 6)
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.dataset.step") == "1"
    page.keyboard.press("t")
    page.wait_for_function("() => document.querySelectorAll('.token').length === 0")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog").is_hidden()
    page.keyboard.press("Escape")
    page.wait_for_selector("table.list")
    assert page.evaluate("document.activeElement.innerText") == "6"  # where one was
    page.goto(site.url)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_everything_has_a_name(watched: Watched, site: Site) -> None:
    for address in ("", "#/first/2"):
        page = open_at(watched, site.url + address, shows="table.list, .step")
        nameless = page.evaluate(
            "[...document.querySelectorAll('button, a, input, select')].filter((node) => !(node.innerText.trim() || "
            "node.getAttribute('aria-label') || node.closest('label'))).map((node) => node.outerHTML)"
        )
        assert nameless == []
        assert page.locator("h1").count() == 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(watched: Watched, site: Site, theme: str) -> None:
    page = watched.page
    page.emulate_media(color_scheme=theme)
    for address, shows in (
        ("#/first", "table.list"),
        ("#/first/2", ".step"),
        ("#/first/9", ".step"),
        ("#/second/1", ".note"),
    ):
        open_at(watched, site.url + address, shows=shows)
        if shows == ".step":
            page.locator(".token").first.focus()
        ratios = page.evaluate(CONTRAST, TEXTS)
        assert len(ratios) > 10
        assert min(ratios) >= MIN_CONTRAST, (address, min(ratios))
    assert set(page.evaluate(CONTRAST, "body")) != {1.0}
    open_at(watched, f"{site.url}#/first", shows="table.list")
    borders = page.evaluate(CONTRAST.replace(").color)", ").borderTopColor)"), "main input, main select")
    assert len(borders) >= 8
    assert min(borders) >= MIN_CONTRAST_OF_FIELDS


def test_theme_by_system_and_by_switch(watched: Watched, site: Site) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    page = open_at(watched, site.url, shows="table.list")
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(colour)
    assert light != dark
    page.locator("#theme").click()  # light
    assert page.evaluate(colour) == light
    page.emulate_media(color_scheme="light")
    page.keyboard.press("d")
    assert page.evaluate(colour) == dark
    page.reload()
    page.wait_for_selector("table.list")
    assert page.evaluate(colour) == dark  # remembered


@pytest.mark.parametrize("address", ["#/first", "#/first/2", "#/first/9", "#/first/9?pin=first:2"])
def test_narrow_window_does_not_scroll_sideways(watched: Watched, site: Site, address: str) -> None:
    watched.page.set_viewport_size({"width": 400, "height": 800})
    page = open_at(watched, site.url + address, shows="table.list, .step")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


# ---- what a model wrote


def test_hostile_words_stay_text(watched: Watched, site: Site) -> None:
    page = open_at(watched, f"{site.url}#/first?from=3&to=3", shows="table.list")
    assert "<script>" in page.locator("table.list").inner_text()
    page.locator("a.open").click()
    page.wait_for_selector(".step")
    folded = page.locator("button.fold:not([aria-expanded=true])")
    while folded.count():
        folded.first.click()
    for view in ("Tokens", "Text"):
        page.get_by_role("button", name=view, exact=True).click()
        page.wait_for_function(
            "(name) => document.querySelector('.segmented [aria-pressed=true]').innerText === name", arg=view
        )
    page.goto(f"{site.url}#/first/9?pin=first:2")
    page.wait_for_selector(".two")
    text = page.locator(".two").inner_text()
    assert "<script>window.hacked = 1; alert(1)</script>" in text
    assert "⟨001B⟩[31mred" in text
    assert "⟨202E⟩gnirts" in text
    assert not re.search("[\\x1b\\u202e\\u2066\\x00]", page.evaluate("document.body.textContent"))
    assert page.evaluate("window.hacked") is None
    assert page.locator("main script, main img, main svg, main iframe, main textarea").count() == 0
    assert {url.split("?")[0].split("#")[0].startswith(site.url) for url in watched.requests} == {True}


def test_megabyte_of_text_is_folded_and_opens(watched: Watched, site: Site) -> None:
    page = open_at(watched, f"{site.url}#/first/9", shows=".step")
    assert page.evaluate("document.querySelector('main').innerText.length") < 50_000
    page.locator(".result button.fold").last.click()
    page.wait_for_function("() => document.querySelector('main').innerText.length > 1000000")
    page.locator(".result button.fold").last.click()
    page.wait_for_function("() => document.querySelector('main').innerText.length < 50000")


def test_hostile_addresses_do_nothing(watched: Watched, site: Site) -> None:
    page = open_at(
        watched,
        f"{site.url}#/<img src=x>/9<script>?pin=<b>:1&text=<img src=x onerror=alert(1)>",
        shows=".empty, table.list",
    )
    assert page.locator("main img, main b").count() == 0
    page.goto(f"{site.url}#/first/99999")
    page.wait_for_selector("[role=alert]")
    assert "no such run or trajectory" in page.locator("[role=alert]").inner_text()
    watched.wrongs[:] = [wrong for wrong in watched.wrongs if "404" not in wrong]  # the browser tells of the answer


# ---- beside the report


def test_report_and_viewer_agree(watched: Watched, tmp_path: Path) -> None:
    """The report reads metrics.jsonl and counts trajectories.jsonl, the viewer asks its index: the same run, the same
    numbers."""
    records = [*group(1), *group(2, "p2", num=2)]
    run = reported_run(tmp_path / "run", records=records)
    rewards = {update: fmean(r["score"]["value"] for r in records if r["update"] == update) for update in (1, 2)}
    (run / "metrics.jsonl").write_bytes(lines_of([metrics(update, reward=rewards[update]) for update in rewards]))
    report = watched.page.context.new_page()
    report.goto(write_report([run], tmp_path / "out").as_uri())
    told = {
        row.locator("th").inner_text(): row.locator("td").first.inner_text()
        for row in report.locator("#results table").first.locator("tbody tr").all()
    }
    patterns = report.locator("#figure-patterns svg").get_attribute("aria-label")
    summary = report.locator("#trajectory summary").inner_text()
    bars = [float(text) for text in report.locator("#trajectory .bar span:last-child").all_inner_texts()]

    with serving([run], folder=tmp_path / "cache") as viewer:

        def listed(filters: str) -> Any:
            watched.page.goto("about:blank")  # or only the address after # would change
            return open_at(watched, f"{viewer.url}#/run?{filters}", shows="table.list")

        num, num_right = (len(lines(listed(filters))) for filters in ("", "correct=yes"))
        assert told["Trajectories (of them right)"] == f"{num} ({num_right})" == "6 (4)"
        shares, means = [], []
        for update in (1, 2):
            page = listed(f"from={update}&to={update}")
            given = page.locator("td[data-title=Reward] .quiet").all_inner_texts()
            means.append(fmean(map(float, given)))
            shares.append(100 * len(lines(listed(f"from={update}&to={update}&pattern=erroneous"))) / len(given))
        assert told["Reward (mean)"] == " → ".join(f"{mean:.3g}" for mean in means) == "0.75 → 0.5"
        said = f"sod from {shares[0]:.3g} at the start to {shares[1]:.3g} at the end"
        assert f"erroneous (% of calling trajectories): {said}" in str(patterns)
        assert shares == [25.0, 50.0]
        problem, update = re.match(r"sod\. Problem (p\d), sample 1, update (\d): wrong", summary).groups()
        page = listed(f"from={update}&to={update}&text={problem}")
        page.locator("tr", has_text=f"{problem} · 1").locator("a.open").click()
        page.wait_for_selector(".step")
        assert [float(text) for text in page.locator(".bar-value").all_inner_texts()] == bars
        assert bars[2:4] == [0.9, 0.02]  # d_2 and w_2
        page.goto("about:blank")


# ---- growing and exported


def test_running_run_is_followed(watched: Watched, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", group(1), state="running")
    with serving([run], folder=tmp_path / "cache") as viewer:
        page = open_at(watched, viewer.url, shows="table.list")
        page.keyboard.press("j")
        with (run / "trajectories.jsonl").open("ab") as file:
            file.write(lines_of(group(2, "p2")))
        page.wait_for_function("() => document.querySelectorAll('a.open').length === 8")
        assert page.evaluate("document.activeElement.innerText") == "1"  # the reader stays where they were
        page.goto("about:blank")


def test_growing_list_leaves_open_choices_open(watched: Watched, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", group(1), state="running")
    with serving([run], folder=tmp_path / "cache") as viewer:
        page = open_at(watched, viewer.url, shows="table.list")
        page.get_by_label("Verdict").click()
        page.wait_for_function("() => document.querySelector('select:open')")
        with (run / "trajectories.jsonl").open("ab") as file:
            file.write(lines_of(group(2, "p2")))
        with page.expect_response(lambda answer: "api/rows" in answer.url and answer.json()["total"] == 8):
            pass
        assert page.evaluate("document.querySelector('select:open') !== null")
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.querySelectorAll('a.open').length === 8")
        page.goto("about:blank")


def test_run_without_trajectories(watched: Watched, tmp_path: Path) -> None:
    with serving([make_run(tmp_path / "run", [])], folder=tmp_path / "cache") as viewer:
        page = open_at(watched, viewer.url, shows=".empty")
        assert "no trajectories yet" in page.locator(".empty").inner_text()


def test_export_opens_from_disk(watched: Watched, site: Site, tmp_path: Path) -> None:
    index = write_export(site.run, tmp_path / "out", limit=9, folder=tmp_path / "cache")
    page = open_at(watched, index.as_uri(), shows="table.list")
    assert "60 were left out" in page.locator(".note").inner_text()
    assert len(lines(page)) == 9
    page.get_by_label("Verdict").select_option("no")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 3")
    page.keyboard.press("/")
    page.keyboard.type("p2")
    page.wait_for_function("() => document.querySelectorAll('a.open').length === 1")
    page.locator("a.open").click()
    page.wait_for_selector(".step")
    page.locator(".step").nth(1).locator(".token").nth(3).hover()
    assert shown(facts(page)) == expected(site.records[5], 1, 3)
    page.goto(f"{index.as_uri()}#/first/9")
    page.wait_for_selector(".step")
    settle(page, 9)
    assert page.evaluate("window.hacked") is None
    assert all(url.startswith((tmp_path / "out").as_uri()) for url in watched.requests)
    assert json.loads((tmp_path / "out" / "sod-view.json").read_text())["limit"] == 9

"""Reports in a real browser: they open from disk without a request or a complaint, in both themes, small, on paper."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from browser import opened_browser
from sod.report import write_report
from test_report import make_evaluation, make_run, metrics, record

pytestmark = pytest.mark.slow

HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\">\"'>--></pre></code>"
    "<style>body{display:none}</style><svg onload=alert(1)>]]>&lt;i&gt;\x00\x1b[31m\u202e\ud800"
)


@dataclass
class Opened:
    """A page with what it asked for and complained of."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with opened_browser() as found:
        yield found


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """`opened(path, color_scheme="dark")`: a file in a fresh page."""
    contexts = []

    def open_page(path: Path, **settings: Any) -> Opened:
        context = browser.new_context(**settings)
        contexts.append(context)
        found = Opened(context.new_page())
        found.page.set_default_timeout(120_000)
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.goto(path.as_uri())
        return found

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, one with an alarm, and two evaluations."""
    folder = tmp_path_factory.mktemp("report")
    plain = [
        record(problem=f"p{n}", update=update, correct=n % 3 == 0, divergence=[0.1, 0.2 * n], statuses=["ok", "error"])
        for update in range(1, 25)
        for n in range(6)
    ]
    runs = [make_run(folder / method, method=method, num_updates=24, records=plain) for method in ("opd", "sod")]
    with (runs[0] / "metrics.jsonl").open("a") as file:
        file.write('{"update": 11, "alarm": "retries", "message": "fewer retries"}\n')
    evaluations = [make_evaluation(folder / name, [[right, True]] * 6) for name, right in (("a", False), ("b", True))]
    return write_report([*runs, *evaluations], folder / "out")


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hostile words wherever a run has words."""
    folder = tmp_path_factory.mktemp("hostile")
    call = {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE, "long": "x" * 1_000_000}}
    turns = [
        {"text": HOSTILE + "y" * 1_000_000, "calls": [call], "results": [{"status": HOSTILE, "text": HOSTILE}]}
    ] * 3
    wild = {**record(divergence=[0.1, 9.0, 0.1], weight=[1.0, 0.0, 1.0]), "problem_id": HOSTILE, "turns": turns}
    wild |= {"score": {"correct": False, "answer": HOSTILE}, "stop_reason": HOSTILE}
    run = make_run(folder / "run", records=[wild, record(statuses=["error"])])
    config = json.loads((run / "config.json").read_text())
    config |= {"method": HOSTILE, "seed": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}}
    (run / "config.json").write_text(json.dumps(config))
    (run / "run.json").write_text(json.dumps({"command": HOSTILE, "sessions": [{HOSTILE: HOSTILE, "argv": [HOSTILE]}]}))
    (run / "status.json").write_text(json.dumps({"state": HOSTILE, "reason": HOSTILE}))
    (run / "evaluation.json").write_text(json.dumps({"benchmarks": {HOSTILE: {"avg@k": 0.5}}}))
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"update": 1, "alarm": HOSTILE, "message": HOSTILE}) + "\n")
        file.write(json.dumps(metrics(3)) + "\n")
    with (run / "timing.jsonl").open("a") as file:
        file.write(json.dumps({"update": 3, f"{HOSTILE}_s": 1.0, "memory": {f"{HOSTILE}_gib": 1.0}}) + "\n")
    return write_report([run], folder / "out")


def test_opens_from_disk_and_asks_for_nothing(report: Path, opened: Callable[..., Opened]) -> None:
    found = opened(report)
    page = found.page
    assert page.title() == "Report: opd, sod, a, b"
    assert found.requests == [report.as_uri()]
    assert found.complaints == []
    verdicts = page.locator(".runs .badge").all_inner_texts()
    assert verdicts == ["alarm", "passed", "passed", "passed"]
    for link in page.locator("nav a").all():
        assert page.locator(str(link.get_attribute("href"))).count() == 1
    figures = page.locator("figure svg[role=img]")
    assert figures.count() >= 8
    for figure in figures.all():
        assert any(letter.isdigit() for letter in str(figure.get_attribute("aria-label")))
        assert figure.bounding_box()["height"] > 100
    assert page.locator("figure figcaption").count() == figures.count()
    assert page.locator("table caption").count() == page.locator("table").count()
    names = page.evaluate("[...document.querySelectorAll('[id]')].map(each => each.id)")
    assert len(names) == len(set(names))  # or one figure would take another's letters


def test_figures_are_drawn_in_colours_of_the_runs(report: Path, opened: Callable[..., Opened]) -> None:
    """The chip beside a run's name and its curves have one colour, and the page's policy lets figures keep theirs."""
    page = opened(report).page
    for place, colour in ((0, "rgb(0, 114, 178)"), (1, "rgb(213, 94, 0)")):
        chip = page.locator(".runs li").nth(place).locator("svg g")
        assert chip.evaluate("node => getComputedStyle(node).fill") == colour
        strokes = page.locator("#figure-training svg path").evaluate_all(
            "nodes => nodes.map(node => getComputedStyle(node).stroke)"
        )
        assert colour in strokes


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_can_be_read_in_both_themes(report: Path, opened: Callable[..., Opened], theme: str) -> None:
    """WCAG AA: 4.5 to 1 for every piece of text against what lies behind it; figures stand on white."""
    page = opened(report, color_scheme=theme).page
    assert page.evaluate(CONTRAST) == []
    assert page.locator("figure .card").first.evaluate("node => getComputedStyle(node).backgroundColor") == (
        "rgb(255, 255, 255)"
    )
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (theme == "light")


def test_a_small_screen_scrolls_tables_not_the_page(report: Path, opened: Callable[..., Opened]) -> None:
    page = opened(report, viewport={"width": 375, "height": 700}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    wide = page.locator(".wide").first
    assert wide.evaluate("node => node.scrollWidth > node.clientWidth")
    page.locator(".wide").first.focus()
    assert wide.evaluate("node => node === document.activeElement")  # by keyboard too


def test_prints(report: Path, opened: Callable[..., Opened]) -> None:
    """On paper it is light whatever the screen is, nothing is cut at the side, and a figure is on one page."""
    page = opened(report, color_scheme="dark", viewport={"width": 700, "height": 1000}).page
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") + pdf.count(b"/Type /Page ") <= 40
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    assert page.locator("nav").is_hidden()
    for figure in page.locator("figure").all():
        assert figure.evaluate("node => getComputedStyle(node).breakInside") == "avoid"


def test_prints_what_is_folded(report: Path, opened: Callable[..., Opened]) -> None:
    """Paper cannot be opened: every number and config stands on it. On a screen they stay folded."""
    page = opened(report).page
    shown = "node => node.checkVisibility({contentVisibilityAuto: true})"
    folded = page.locator("details:not([open])")
    assert folded.count() >= 4
    inner = [each.locator("table, pre, .step").first for each in folded.all()]
    assert not any(each.evaluate(shown) for each in inner)
    screen = page.evaluate("document.documentElement.scrollHeight")
    page.emulate_media(media="print")
    assert all(each.evaluate(shown) for each in inner)
    assert page.evaluate("document.documentElement.scrollHeight") > screen
    boxes = [each.bounding_box() for each in inner]
    assert all(box and box["height"] > 20 for box in boxes)


def test_runs_with_long_names_fit_side_by_side(tmp_path: Path, opened: Callable[..., Opened]) -> None:
    """A column that one must scroll to may hold the alarm."""
    names = [f"a_rather_long_name_of_a_run_with_seed_{seed}" for seed in range(5)]
    runs = [make_evaluation(tmp_path / name, [[True, False]] * 6) for name in names]
    page = opened(write_report(runs, tmp_path / "out"), viewport={"width": 1440, "height": 900}).page
    assert page.locator("#health .wide").evaluate("node => node.scrollWidth <= node.clientWidth")


def test_hostile_words_stay_words(hostile_report: Path, opened: Callable[..., Opened]) -> None:
    found = opened(hostile_report)
    page = found.page
    page.locator("details").evaluate_all("nodes => nodes.forEach(node => node.open = true)")
    assert found.requests == [hostile_report.as_uri()]
    assert found.complaints == []
    assert page.title().startswith("Report: <script>")
    assert page.locator("script, img, iframe, form, main style").count() == 0
    assert page.locator("[onerror], [onload], [onclick]").count() == 0
    words = page.locator("main").inner_text()
    # Method, status, alarm, problem, text, call, result, config: each shows the words, cleaned of what would act.
    assert words.count("<script>document.title = 'taken'</script>") >= 8
    assert not {"\x00", "\x1b", "\u202e", "\ud800"} & set(words)
    assert hostile_report.stat().st_size < 2_000_000  # the long texts are cut
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_the_policy_is_a_second_wall(report: Path, opened: Callable[..., Opened]) -> None:
    """Were something not escaped, the page's own policy would still let no script run and no picture load."""
    (report.parent / "x.png").write_bytes((report.parent / "training.png").read_bytes())
    page = opened(report).page
    blocked = page.evaluate(
        "() => { const node = document.createElement('script'); node.textContent = 'window.ran = true';"
        " document.body.append(node); return window.ran === undefined }"
    )
    assert blocked
    page.evaluate(
        "() => { const node = new Image(); node.src = 'http://127.0.0.1:9/x.png'; document.body.append(node) }"
    )
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    assert page.evaluate("() => [...document.images].every(image => image.naturalWidth === 0)")


CONTRAST = """() => {
  const parts = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => [r, g, b].map(v => linear(v / 255))
    .reduce((sum, v, place) => sum + v * [.2126, .7152, .0722][place], 0);
  const behind = node => {
    for (; node; node = node.parentElement) {
      const ground = parts(getComputedStyle(node).backgroundColor);
      if (ground.length === 3 || ground[3] > 0) return ground;
    }
    return [255, 255, 255];
  };
  const low = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || node.closest('svg')) continue;
    const [a, b] = [light(parts(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.add(node.tagName + '.' + node.className);
  }
  return [...low];
}"""

"""The documentation as a site: it builds strictly, loads nothing from elsewhere, its references name all there is."""

from __future__ import annotations

import html
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from browser import opened_browser
from site_scripts import ROOT, commands, on_page_markdown
from sod.config import EvalConfig, HintsConfig, SFTConfig, TracesConfig, TrainConfig

# ---- the site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    return target


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself when it shows a page; not what a reader may click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "data", "poster") if tag != "a" else ()
        self.found += [value or "" for name, value in attrs if name in names or (tag == "link" and name == "href")]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found, f"{page}: no style sheet, no script?"
        assert [each for each in loads.found if re.match(r"(\w+:)?//", each)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_the_drawing_is_in_the_page_and_says_what_it_shows(site: Path) -> None:
    page = (site / "concepts.html").read_text(encoding="utf-8")
    assert '<svg class="pl"' in page
    for element in re.findall(r'aria-labelledby="(pl-[^"]+)"', page)[0].split():
        assert re.search(rf'id="{element}">[^<]{{20}}', page), element
    assert page.count('<math display="block">') == 5


def test_pages_fit_a_narrow_window(site: Path) -> None:
    """Nothing is cut off but what scrolls in itself; the drawing is seen whole."""
    with opened_browser() as browser:
        page = browser.new_page(viewport={"width": 700, "height": 900})
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.goto((site / "concepts.html").as_uri())
        assert page.locator(".drawing").evaluate("it => it.scrollWidth <= it.clientWidth")


# ---- the references name all there is

ROOTS = {"train": TrainConfig, "sft": SFTConfig, "eval": EvalConfig, "hints": HintsConfig, "traces": TracesConfig}


@dataclass(frozen=True)
class Written:
    """One section of the reference: where it stands, its keys, all its text."""

    places: frozenset[tuple[str, str]]
    keys: frozenset[str]
    text: str


def test_every_setting_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    sections = [_section(block) for block in re.split(r"(?=<h[23] )", page)[1:] if 'id="' in block]
    by_place = {place: section for section in sections for place in section.places}
    wanted = [(command, *each) for command, kind in ROOTS.items() for each in _settings(kind.model_json_schema())]
    assert len(wanted) > 300
    for command, name, key, sentence in wanted:
        section = by_place.get((command, name))
        assert section is not None, f"sod {command}: [{name}] is not in the reference"
        assert key in section.keys, f"sod {command}: {name}.{key} is not in the reference"
        assert sentence in section.text, f"sod {command}: {name}.{key} is not told as its docstring tells it"


def _section(block: str) -> Written:
    heading, _, rest = block.partition("</h")
    first = re.search(r'id="(?:sod-)?(\w+)', heading)
    assert first is not None
    places = {(first[1], "")} if "<h2" in heading else {(first[1], re.findall(r"\[([\w.]+)\]", heading)[0])}
    standing = re.search(r"Stands at: (.*?)</p>", rest, re.DOTALL)
    for part in standing[1].split(";") if standing else ():
        command = re.findall(r"<code>sod (\w+)</code>", part)[0]
        places |= {(command, name) for name in re.findall(r"\[([\w.]+)\]", part)}
    return Written(frozenset(places), frozenset(re.findall(r'<a id="[\w.]+?(\w+)"></a>', rest)), _plain(rest))


def _plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def _settings(schema: Mapping[str, Any], name: str = "", top: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """(section, key, sentence) of every setting, from the JSON schema that pydantic makes of a config."""
    top = top or schema
    for key, value in schema["properties"].items():
        sections = [(top["$defs"][to.rpartition("/")[2]], suffix) for to, suffix in _references(value)]
        told = value.get("description") or sections[0][0]["description"]  # pydantic says the same sentence once
        yield name, key, " ".join(told.replace("`", "").split())
        for inner, suffix in sections:
            if "properties" in inner and (key, suffix) != ("benchmarks", ""):
                yield from _settings(inner, ".".join(filter(None, (name, key + suffix))), top)


def _references(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "$ref" in value:
        yield value["$ref"], ""
    for each in value.get("anyOf", ()):
        yield from _references(each)
    if isinstance(value.get("additionalProperties"), dict):
        yield from ((reference, ".NAME") for reference, _ in _references(value["additionalProperties"]))


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    known = dict(commands())
    assert {"train", "eval", "sandbox check"} <= known.keys()
    blocks = {html.unescape(block.split('"')[0]): _plain(block) for block in page.split('<h2 id="sod-')[1:]}
    for name, command in known.items():
        told = blocks[name.replace(" ", "-")]
        for parameter in command.params:
            assert (parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or "") in told
            assert " ".join((parameter.help or "").replace("`", "").split()) in told, f"sod {name}: {parameter.name}"


def test_public_names_are_in_the_reference(site: Path) -> None:
    import sod.algorithm
    import sod.models
    import sod.sandbox

    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference" / "api").glob("*.html"))
    for module in (sod.algorithm, sod.models, sod.sandbox, sod.config.reading):
        names = getattr(module, "__all__", ["load", "parse", "dump", "overridden"])
        for name in names:
            if not (isinstance(getattr(module, name), type) or inspect.isroutine(getattr(module, name))):
                continue  # a type's alias has no docstring, and is told where it is used
            assert f'id="{module.__name__}.{name}"' in text, f"{module.__name__}.{name}"


def test_lists_and_tables_begin_where_github_lets_them(tmp_path: Path) -> None:
    page, config = SimpleNamespace(file=SimpleNamespace(src_uri="page.md")), {"docs_dir": str(tmp_path)}
    written = "Text:\n- one\n  more\n- two\n\nText:\n| a |\n|---|\n```\ntext\n- no list\n```"
    wanted = "Text:\n\n- one\n  more\n- two\n\nText:\n\n| a |\n|---|\n```\ntext\n- no list\n```"
    assert on_page_markdown(written, page=page, config=config) == wanted
    assert (
        "needs vLLM" in on_page_markdown("<!-- not run: needs vLLM -->", page=page, config=config).partition("<p ")[2]
    )

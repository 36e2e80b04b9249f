"""The shell of the page: head, policy, style, title, contents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sod.report.figures import Picture, look
from sod.report.markup import Html, element, joined, short
from sod.report.style import CSS, POLICY

_MARKS = {
    "o": '<circle cx="26" cy="9" r="5"/>',
    "s": '<path d="M21 4h10v10h-10z"/>',
    "^": '<path d="M26 3l6 11h-12z"/>',
    "D": '<path d="M26 3l6 6-6 6-6-6z"/>',
    "v": '<path d="M26 15l6-11h-12z"/>',
    "P": '<path d="M24 3h4v4h4v4h-4v4h-4v-4h-4v-4h4z"/>',
    "X": '<path d="M21 6l2-2 3 3 3-3 2 2-3 3 3 3-2 2-3-3-3 3-2-2 3-3z"/>',
}
_DASHES = {"-": None, "--": "8 4", ":": "2 3", "-.": "8 3 2 3"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page, with a heading and an address."""

    name: str
    title: str
    parts: Sequence[Html]


def page(title: str, head: Html, sections: Iterable[Section], footer: Html) -> str:
    """The whole document."""
    shown = [section for section in sections if section.parts]
    links = [element("li", element("a", section.title, href=f"#{section.name}")) for section in shown]
    body = [
        element("header", element("h1", short(title, width=300)), head),
        element("nav", element("ul", *links), aria_label="Contents"),
        element("main", *map(_section, shown)),
        element("footer", footer),
    ]
    return "<!doctype html>\n" + element("html", _head(title), element("body", *body), lang="en") + "\n"


def _head(title: str) -> Html:
    return element(
        "head",
        element("meta", charset="utf-8"),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("link", rel="icon", href="data:,"),  # a browser asks a server for one else
        element("title", short(title, width=120)),
        Html(f"<style>{CSS}</style>"),
    )


def _section(section: Section) -> Html:
    return element("section", element("h2", section.title), *section.parts, id=section.name)


def figure(drawn: Picture) -> Html:
    """A picture on its white card, with its caption."""
    card = element("div", drawn.svg, class_="card", tabindex=0, role="region", aria_label=f"figure {drawn.name}")
    caption = element("figcaption", short(drawn.caption, width=2000))
    return element("figure", card, caption, id=f"figure-{drawn.name}")


def details(summary: object, *parts: Html, shown: bool = False) -> Html:
    """A part that opens."""
    return element("details", element("summary", summary), *parts, open="" if shown else None)


def chip(place: int) -> Html:
    """The line and mark that a run has in every figure."""
    style = look(place)
    dash = _DASHES[style.dash]
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return Html(
        '<svg viewBox="0 0 52 18" aria-hidden="true"><rect width="52" height="18" fill="#fff"/>'
        f'<path d="M3 9h46" stroke="{style.colour}" stroke-width="2.5"{dashes}/>'
        f'<g fill="{style.colour}">{_MARKS[style.marker]}</g></svg>'
    )


def paragraph(*children: object, soft: bool = False) -> Html:
    """A paragraph; soft ones say how to read what follows."""
    return element("p", joined(children), class_="soft" if soft else None)

"""HTML from Python, with nothing to forget: what is not markup of ours is escaped.

element("td", "a < b", class_="number")  ->  <td class="number">a &lt; b</td>
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from sod.report.untrusted import clean, line

_VOID = frozenset({"br", "col", "hr", "link", "meta"})


class Html(str):
    """Markup that may stand in a page as it is. Everything else is text: `element` and `text` escape it."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything as text: cleaned of what controls a terminal or turns the reading direction, then escaped."""
    return value if isinstance(value, Html) else Html(html.escape(clean(value)))


def short(value: object, *, width: int = 200) -> Html:
    """Text on one line, cut to `width` characters."""
    return Html(html.escape(line(value, width=width)))


def joined(parts: Iterable[object], *, by: str = "") -> Html:
    """Parts one after the other; what is not markup is escaped."""
    return Html(html.escape(by).join(map(text, parts)))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """One element. `class_` is class, `aria_label` is aria-label; an attribute that is None is left out."""
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(clean(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{given}>" if tag in _VOID else f"<{tag}{given}>{joined(children)}</{tag}>")


def code(value: object, *, width: int = 200) -> Html:
    """A name, path or value as somebody else wrote it; a dash for nothing."""
    shown = short(value, width=width)
    return element("code", shown) if shown else Html("-")


class Spread(Html):
    """A cell over all columns that are left: several runs have the same there."""

    __slots__ = ()


def merged(cells: Sequence[Html]) -> list[Html]:
    """The cells, or one over all of them where they are the same."""
    same = len(cells) > 1 and len(set(cells)) == 1
    return [Spread(cells[0])] if same else list(cells)


def table(
    caption: object, header: Sequence[object], rows: Sequence[Sequence[object]], *, words: Sequence[int] = (0,)
) -> Html:
    """A table in a box of its own to scroll in. Columns in `words` are aligned as text, all others as numbers.

    The first cell of a row is its header: a reader that speaks says it before each number.
    """
    sides = ["words" if column in words else "number" for column in range(len(header))]
    head = element(
        "tr", *(element("th", name, scope="col", class_=side) for name, side in zip(header, sides, strict=True))
    )
    body = [element("tr", *_cells(row, sides)) for row in rows]
    inner = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", inner, class_="wide", tabindex=0, role="region", aria_label="table, scrolls sideways")


def _cells(row: Sequence[object], sides: Sequence[str]) -> Iterator[Html]:
    for column, cell in enumerate(row):
        if column == 0:
            yield element("th", cell, scope="row", class_=sides[column])
        elif isinstance(cell, Spread):
            yield element("td", cell, colspan=len(sides) - column, class_=sides[column])
        else:
            yield element("td", cell, class_=sides[column])

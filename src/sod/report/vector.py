"""An SVG that matplotlib drew -> one that may stand inside a page: known elements and attributes only, no style sheets.

The page's policy refuses style attributes, so `style="fill: #0072b2"` becomes `fill="#0072b2"`. Names of parts get a
prefix, or two figures of one page would take each other's letters.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from xml.etree import ElementTree

from sod.report.markup import Html

_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_ELEMENTS = frozenset({"svg", "g", "defs", "path", "rect", "circle", "use", "clipPath", "pattern"})
_PLAIN = frozenset({"d", "x", "y", "width", "height", "r", "cx", "cy", "transform", "patternUnits"})
_LOOKS = frozenset(
    {"fill", "fill-opacity", "fill-rule", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray"}
    | {"stroke-dashoffset", "stroke-linejoin", "stroke-linecap", "stroke-miterlimit", "opacity"}
)
_NEAR = re.compile(r"url\(#([\w-]+)\)")


def embedded(svg: bytes, *, prefix: str, label: str) -> Html:
    """The figure as an element with `label` for those who cannot see it. Raises ValueError for what is no SVG."""
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise ValueError(f"a figure must be an SVG, got: {error}") from None
    box, width = root.get("viewBox", "0 0 1 1"), root.get("width", "600pt")
    inner = "".join(_element(child, prefix) for child in root)
    # What matplotlib sets for all in a style sheet.
    return Html(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{html.escape(width)}" viewBox="{html.escape(box)}" role="img" '
        f'aria-label="{html.escape(label)}" stroke-linejoin="round" stroke-linecap="butt">{inner}</svg>'
    )


def _element(node: ElementTree.Element, prefix: str) -> str:
    tag = str(node.tag).removeprefix(_SVG)
    if tag not in _ELEMENTS:
        return ""
    attributes = "".join(f' {name}="{html.escape(value)}"' for name, value in _attributes(node, prefix))
    inner = "".join(_element(child, prefix) for child in node)
    return f"<{tag}{attributes}>{inner}</{tag}>" if inner else f"<{tag}{attributes}/>"


def _attributes(node: ElementTree.Element, prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in node.attrib.items():
        if name == "id" and _is_named(node):
            yield "id", f"{prefix}-{value}"
        elif name == _LINK and value.startswith("#"):
            yield "href", f"#{prefix}-{value[1:]}"
        elif name == "style":
            for part in value.split(";"):  # `fill: none; stroke: #000` -> ("fill", "none"), ("stroke", "#000")
                key, _, each = part.partition(":")
                yield from _look(key.strip(), each.strip(), prefix)
        elif name in _PLAIN:
            yield name, value
        else:
            yield from _look(name, value, prefix)


def _is_named(node: ElementTree.Element) -> bool:
    """Groups are named for people; only these are pointed at."""
    return str(node.tag).removeprefix(_SVG) in ("path", "clipPath", "pattern")


def _look(name: str, value: str, prefix: str) -> Iterator[tuple[str, str]]:
    """One property that may stay; what it points at must be in the figure."""
    near = _NEAR.fullmatch(value)
    if near and name in ("fill", "clip-path"):
        yield name, f"url(#{prefix}-{near[1]})"
    elif name in _LOOKS and "url" not in value:
        yield name, value

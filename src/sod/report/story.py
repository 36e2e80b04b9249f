"""One trajectory in the page: each step with its divergence and weight as bars, its text, its call and the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sod.report.markup import Html, element, joined
from sod.report.trajectory import Part, has_failed_call, headline, parts_of, shown_lines, step_values
from sod.report.untrusted import items, mapping

MAX_SHOWN = 24
"""Steps shown; a student that loops fills pages."""
_SAYS = {"|": "the student writes", ">": "", "<": ""}


def story(record: Mapping[str, Any]) -> Html:
    """The trajectory, step by step; its headline is left to the caller."""
    turns = [mapping(turn) for turn in items(record.get("turns"))]
    divergences, weights = step_values(record, "divergence"), step_values(record, "weight")
    most_d = max((value for value in divergences if value is not None), default=0.0)
    most_w = max([1.0, *(value for value in weights if value is not None)])
    steps = []
    for index, turn in enumerate(turns[:MAX_SHOWN]):
        bars = [
            _bar("divergence d", _at(divergences, index), most_d, class_="d"),
            _bar("weight w", _at(weights, index), most_w, class_="w"),
        ]
        title = element("h4", f"Step {index + 1} of {len(turns)}")
        failed = has_failed_call({"turns": [turn]})
        steps.append(element("div", title, *bars, *_parts(turn), class_="step failed" if failed else "step"))
    if len(turns) > MAX_SHOWN:
        steps.append(element("p", f"{len(turns) - MAX_SHOWN} more steps are left out.", class_="soft"))
    return joined(steps)


def summary(record: Mapping[str, Any]) -> Html:
    """The headline on one line."""
    return joined(headline(record).splitlines(), by=" ")


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _bar(name: str, value: float | None, most: float, *, class_: str) -> Html:
    """Name, a bar against the largest of the trajectory (of weights at least 1), and the number."""
    if value is None:
        return Html("")
    width = 100 * min(1.0, max(0.0, value) / most) if most > 0 else 0.0
    rect = element("rect", width=f"{width:.1f}", height=10, class_=class_)
    bar = element("svg", rect, viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true")
    return element("div", element("span", name), bar, element("span", f"{value:.3g}"), class_="bar")


def _parts(turn: Mapping[str, Any]) -> Iterator[Html]:
    for part in parts_of(turn):
        if part.title:
            yield element("p", part.title, class_="label")
        lines = [line for line, _ in shown_lines(part.text)]
        if lines:
            if _SAYS[part.mark] and not part.title:
                yield element("p", _SAYS[part.mark], class_="label")
            yield _shown(part, lines)


def _shown(part: Part, lines: Sequence[str]) -> Html:
    inner = "\n".join(lines)
    return element("pre", element("code", inner) if part.mark == ">" else inner)

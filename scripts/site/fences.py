"""Fenced blocks of a Markdown page: what each is, what it is called, and why it is not run where it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

NOT_RUN = re.compile(r"^<!-- not run: (?P<reason>.+?) -->$")
_OPENING = re.compile(r"^(?P<indent> *)(?P<marks>```+|~~~+) *(?P<language>[\w-]*) *(?P<options>.*)$")
_TITLE = re.compile(r'title="([^"]*)"')


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """One block. `title` is the name of the file it shows, "" where it shows none; `not_run` is the reason that the
    comment above it gives, `<!-- not run: needs vLLM -->`, "" where there is none."""

    language: str
    title: str
    text: str
    line: int
    not_run: str = ""


def fences(markdown: str) -> list[Fence]:
    """The blocks of a page in its order; `line` counts from 1."""
    found: list[Fence] = []
    opened: re.Match[str] | None = None
    start, body, before = 0, [""], ""
    for number, line in enumerate(markdown.splitlines(), start=1):
        if opened is None:
            opened = _OPENING.match(line)
            if opened is None:
                before = line.strip() or before
            start, body = number, []
        elif _closes(line, opened):
            found.append(_fence(opened, body, start, before))
            opened, before = None, ""
        else:
            body.append(line.removeprefix(opened["indent"]))
    return found


def outside(markdown: str) -> Iterator[tuple[str, bool]]:
    """Every line, and whether it stands outside of all blocks; the marks themselves stand inside."""
    opened: re.Match[str] | None = None
    for line in markdown.splitlines():
        if opened is None:
            opened = _OPENING.match(line)
            yield line, opened is None
        else:
            opened = None if _closes(line, opened) else opened
            yield line, False


def _closes(line: str, opened: re.Match[str]) -> bool:
    stripped = line.strip()
    return stripped.startswith(opened["marks"]) and set(stripped) == {opened["marks"][0]}


def _fence(opened: re.Match[str], body: list[str], start: int, before: str) -> Fence:
    title, mark = _TITLE.search(opened["options"]), NOT_RUN.match(before)
    return Fence(
        language=opened["language"],
        title=title[1] if title else "",
        text="\n".join(body) + "\n",
        line=start,
        not_run=mark["reason"] if mark else "",
    )

"""A hook of mkdocs: pages are written for GitHub's Markdown, and the site's differs.

- A list or a table may follow a paragraph without an empty line: one is put between.
- `<!-- not run: needs vLLM -->` above a block is a comment there; here it is a line that readers see, too.
- `![words](assets/NAME.svg)` is a picture there; here it is the drawing itself, which so has the page's colours.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Any

from fences import NOT_RUN, outside

_ITEM = re.compile(r"^([-*+]|\d+\.) ")
_DRAWING = re.compile(r"^!\[(?P<words>[^\]]*)\]\((?P<target>[^)]*assets/[^)]*\.svg)\)$")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page as Python-Markdown wants it."""
    folder = Path(config["docs_dir"], page.file.src_uri).parent
    lines: list[str] = []
    for line, is_prose in outside(markdown):
        before = lines[-1] if lines else ""
        if is_prose and before.strip() and _begins(line, before):
            lines.append("")
        lines.append(_shown(line, folder) if is_prose else line)
    return "\n".join(lines)


def _begins(line: str, before: str) -> bool:
    """Whether a list or a table begins here: `text | - item -> True`, `- item | - item -> False`."""
    if line.startswith("|"):
        return not before.startswith("|")
    return bool(_ITEM.match(line)) and not _ITEM.match(before) and not before.startswith("  ")


def _shown(line: str, folder: Path) -> str:
    mark, drawing = NOT_RUN.match(line), _DRAWING.match(line)
    if mark:
        return f'<p class="not-run">Not run by the tests: {escape(mark["reason"])}.</p>\n'
    if drawing:
        return _drawn((folder / drawing["target"]).read_text(encoding="utf-8"), drawing["words"])
    return line


def _drawn(svg: str, words: str) -> str:
    """The drawing without empty lines, which would end a block of HTML."""
    whole = "\n".join(line for line in svg.splitlines() if line.strip() and not line.startswith("<?xml"))
    return f'<figure class="drawing">\n{whole}\n<figcaption>{escape(words)}</figcaption>\n</figure>\n'

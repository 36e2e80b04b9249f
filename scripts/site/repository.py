"""A hook of mkdocs: links that leave docs/ for the repository lead to a copy on the site.

The site's tree is docs/ laid over the repository's root: `../examples/miniature/README.md` of docs/results.md is the
page examples/miniature/README.md, and what that calls `../../docs/results.md` is results.md. A page's own links are
followed in turn; other files (TOML, Python) are copied as they are. A link to nothing stays as it is, so that a strict
build refuses it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fences import outside
from mkdocs.structure.files import File, Files

_LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?\)")
_HOME = {"README.md": "index.md"}
"""What stands elsewhere on the site."""


def on_files(files: Files, *, config: Any) -> Files:
    """Add what docs/ links to beyond itself."""
    root, docs = Path(config["config_file_path"]).parent, Path(config["docs_dir"])
    added = {file.src_uri for file in files}
    waiting = [_repository_path(file.src_uri, docs, root) for file in files.documentation_pages()]
    waiting += [page for page in _pages_of(config["nav"]) if not (docs / page).exists() and (root / page).exists()]
    while waiting:
        path = waiting.pop()
        uri = _site_uri(path, docs, root)
        if uri not in added:
            added.add(uri)
            files.append(File(path, str(root), config["site_dir"], config["use_directory_urls"]))
        if path.endswith(".md"):
            text = (root / path).read_text(encoding="utf-8")
            waiting += [each for each in _targets(text, path, root) if _site_uri(each, docs, root) not in added]
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Links to files of the repository as links of the site."""
    root, docs = Path(config["config_file_path"]).parent, Path(config["docs_dir"])
    here, folder = _repository_path(page.file.src_uri, docs, root), posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        target = _target(match["target"], here)
        if not (root / target).is_file():
            return match[0]
        return f"]({posixpath.relpath(_site_uri(target, docs, root), folder or '.')}{match['anchor'] or ''})"

    return _in_prose(markdown, lambda line: _LINK.sub(moved, line))


def _in_prose(markdown: str, change: Callable[[str], str]) -> str:
    return "\n".join(change(line) if is_prose else line for line, is_prose in outside(markdown))


def _targets(markdown: str, path: str, root: Path) -> Iterator[str]:
    """Files of the repository that a page links to."""
    for line, is_prose in outside(markdown):
        for match in _LINK.finditer(line) if is_prose else ():
            target = _target(match["target"], path)
            if not target.startswith("..") and (root / target).is_file():
                yield target


def _target(link: str, path: str) -> str:
    """`../examples/a.toml` in `docs/b.md` -> `examples/a.toml`."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(path), link))


def _site_uri(path: str, docs: Path, root: Path) -> str:
    prefix = f"{docs.relative_to(root).as_posix()}/"
    return path.removeprefix(prefix) if path.startswith(prefix) else _HOME.get(path, path)


def _repository_path(uri: str, docs: Path, root: Path) -> str:
    """Where a page of the site stands in the repository."""
    own = docs / uri
    return own.relative_to(root).as_posix() if own.exists() else uri


def _pages_of(nav: Any) -> Iterator[str]:
    """The pages that the navigation names, at any depth."""
    if isinstance(nav, str):
        yield nav
    for each in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _pages_of(each)

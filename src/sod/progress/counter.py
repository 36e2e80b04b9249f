"""A bar for jobs that only count: traces that are run again, hints that are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sod.progress import is_live

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def counting(what: str, *, console: Console) -> Iterator[Callable[[int, int], None]]:
    """Yields what is told (done, total). The bar is gone when the job ends, and never there outside a terminal."""
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not is_live(console)) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

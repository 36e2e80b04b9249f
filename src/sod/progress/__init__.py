"""Events of a run -> a terminal and trackers: `watching` picks who listens.

with watching(config, console=console) as listener:
    train(config, listener=listener)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console

    from sod.config import EvalConfig, SFTConfig, TrainConfig

__all__ = ["Listener", "watching"]

Listener: TypeAlias = Callable[[str, Mapping[str, Any]], None]


@contextmanager
def watching(
    config: TrainConfig | SFTConfig | EvalConfig, *, console: Console, plain: bool = False
) -> Iterator[Listener]:
    """Who is told of a run: a live view where `console` is a terminal, else plain lines; and the config's trackers.

    `plain` takes lines on a terminal too. Raises ConfigError for a tracker that is not installed.
    """
    from sod.trackers import tracking

    with ExitStack() as stack:
        show = stack.enter_context(_view(config, console)) if is_live(console) and not plain else _lines(console)
        track = stack.enter_context(tracking(config, warn=lambda message: show("warning", {"message": message})))

        def listen(event: str, values: Mapping[str, Any]) -> None:
            if event != "result":  # of `sod eval`, which prints it as a table when the view is gone
                show(event, values)
            track(event, values)

        yield listen


def is_live(console: Console) -> bool:
    """A frame needs a terminal that moves the cursor and knows its characters. FORCE_COLOR makes none of a pipe."""
    return (
        console.is_terminal
        and console.file.isatty()
        and not console.is_dumb_terminal
        and not console.options.ascii_only
    )


def _lines(console: Console) -> Listener:
    from sod.progress.lines import PlainLines

    return PlainLines(console)


def _view(config: TrainConfig | SFTConfig | EvalConfig, console: Console) -> Any:
    from sod.progress.gauges import plan_of
    from sod.progress.live import LiveView

    return LiveView(plan_of(config), console=console)

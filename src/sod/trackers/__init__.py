"""Metrics of a run -> TensorBoard, Weights & Biases, trackio, when `[tracking]` asks for them.

    with tracking(config, warn=print) as listener:
        train(config, listener=listener)

Numbers only, by the names of names.py, and the config: no texts, no keys. A tracker that fails is warned of once;
the run goes on and never waits for one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sod.errors import ConfigError

if TYPE_CHECKING:
    from sod.config import EvalConfig, SFTConfig, TrainConfig
    from sod.trackers.memo import Memo
    from sod.trackers.post import Post, Row
    from sod.trackers.tracker import Tracker

__all__ = ["tracking"]

FOLDER = "tracking"
CLOSE_S = 30.0
"""Seconds that trackers have at the end of a run, all together."""


@contextmanager
def tracking(
    config: TrainConfig | SFTConfig | EvalConfig, *, warn: Callable[[str], None]
) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """A listener that tells the config's trackers. `warn` is called in the listener's own thread.

    Raises ConfigError for a tracker that is not installed.
    """
    for name in config.tracking.to:
        _require(name)
    listener = _Listener(config, warn)
    try:
        yield listener
    finally:
        listener.close()


def _require(name: str) -> None:
    """Only looks where it is: importing it may take seconds."""
    if find_spec(name) is None:
        raise ConfigError(
            f'tracking.to = "{name}" needs the package {name}, got none; pip install "sod-distill[trackers]", or take '
            "it out of tracking.to"
        )


class _Listener:
    """Makes rows of events and hands them to every tracker. Nothing is started before there are numbers."""

    def __init__(self, config: TrainConfig | SFTConfig | EvalConfig, warn: Callable[[str], None]) -> None:
        self.config, self.warn = config, warn
        self.finished = False
        self.posts: list[Post] | None = None

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        if not self.config.tracking.to or self.finished:
            return
        self.finished = event == "finished"  # what an old run reports is not sent again
        for row in _rows(event, values):
            if self.posts is None:
                self.posts = _open(self.config)
            for post in self.posts:
                post.put(row)
        self._complain()

    def close(self) -> None:
        """Let all of them finish, at the same time."""
        end = time.monotonic() + CLOSE_S
        for post in self.posts or ():
            post.end()
        for post in self.posts or ():
            post.join(timeout_s=max(0.0, end - time.monotonic()))
        self._complain()

    def _complain(self) -> None:
        """Once for each that has failed."""
        for post in [post for post in self.posts or () if post.failure]:
            assert self.posts is not None
            self.posts.remove(post)
            reason = post.failure.rstrip(".")
            self.warn(f"{post.name} is told nothing any more, because {reason}; the run goes on without it")


def _rows(event: str, values: Mapping[str, Any]) -> Iterator[Row]:
    from sod.trackers.names import evaluated, grouped
    from sod.trackers.post import Row

    if event in ("update", "step"):
        yield Row(event="update", step=values["update"], numbers=grouped(values))
    elif event == "evaluation":
        yield Row(event=event, step=values["update"], numbers=evaluated(values))
    elif event == "progress":
        yield Row(event=event, step=values["done"], numbers=evaluated(values))
    elif event == "result":
        numbers: dict[str, float] = {}
        for name, each in values["benchmarks"].items():
            numbers |= evaluated(each, benchmark=Path(name).name)
        step = sum(each.get("num_samples", 0) for each in values["benchmarks"].values())
        yield Row(event=event, step=step, numbers=numbers)


def _open(config: TrainConfig | SFTConfig | EvalConfig) -> list[Post]:
    from sod.trackers.memo import Memo
    from sod.trackers.post import Post

    folder = Path(config.run) / FOLDER
    return [
        Post(name=name, memo=Memo.read(folder / f"{name}.json"), begin=partial(_begin, name, config))
        for name in config.tracking.to
    ]


def _begin(name: str, config: TrainConfig | SFTConfig | EvalConfig, memo: Memo, step: int) -> Tracker:
    """Import a tracker and start it, in its own thread."""
    from sod.trackers.told import told
    from sod.trackers.tracker import Session

    session = Session(
        folder=memo.path.parent,
        project=config.tracking.project,
        name=config.tracking.name or config.run,
        id=memo.id,
        config=told(config),
        resumes=not memo.is_new,
        start=step,
    )
    tracker: Tracker = import_module(f"sod.trackers.{name}").start(session)
    return tracker

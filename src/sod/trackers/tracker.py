"""What a tracker is, and what it is given when it starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Takes numbers by their full names. It is opened, used and closed in one thread of its own, and may raise anything
    and take as long as it likes: that is the tracker's loss and not the run's."""

    @property
    def replaces(self) -> bool:
        """Whether a step that is told again, by a run that went back to a checkpoint, takes the place of the first."""

    def send(self, numbers: Mapping[str, float], *, step: int) -> None:
        """Numbers of one update (step, sample). Steps come in order within a session."""

    def close(self) -> None:
        """Everything that was sent is on disk or on its way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Session:
    """A run as a tracker is told of it."""

    folder: Path
    """RUN/tracking: what a tracker keeps of the run goes below it."""
    project: str
    name: str
    id: str
    """The same in every session of a run, another for every run; ASCII letters and digits."""
    config: Mapping[str, Any]
    resumes: bool
    """Whether an earlier session told the tracker of this run, and so of its config."""
    start: int
    """Steps from here on are told anew, whatever an earlier session told of them."""

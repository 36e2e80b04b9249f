"""trackio: an SQLite file on this machine, shown by `trackio show`, or a Space when TRACKIO_SPACE_ID names one."""

from __future__ import annotations

from collections.abc import Mapping

import trackio

from sod.trackers.tracker import Session


class Trackio:
    """A run there. It knows runs by name, so ours ends with the id: two runs of one name must not become one."""

    replaces = False

    def __init__(self, session: Session) -> None:
        self._run = trackio.init(
            session.project,
            name=f"{session.name} {session.id}",
            config=dict(session.config),  # in every session: the last one's takes the place of those before
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def send(self, numbers: Mapping[str, float], *, step: int) -> None:
        """A row of the run."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """Write what waits."""
        self._run.finish()


def start(session: Session) -> Trackio:
    """Begin the run, or go on with it."""
    return Trackio(session)

"""TensorBoard: event files in RUN/tracking/tensorboard, for `tensorboard --logdir RUN`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sod.trackers.tracker import Session

FLUSH_S = 10


class TensorBoard:
    """Writes the files itself: torch's own writer would change `avg@k` to `avg_k`."""

    replaces = True

    def __init__(self, session: Session) -> None:
        self._writer = EventFileWriter(str(session.folder / "tensorboard"), flush_secs=FLUSH_S)
        # Readers then forget what an earlier file says of this step and those after.
        self._add(Event(session_log=SessionLog(status=SessionLog.START)), session.start)
        if not session.resumes:
            text = "\n".join(f"    {row}" for row in json.dumps(session.config, indent=2).splitlines())
            self._add(Event(summary=text_pb("config", text)), session.start)

    def _add(self, event: Event, step: int) -> None:
        event.step, event.wall_time = step, time.time()
        self._writer.add_event(event)

    def send(self, numbers: Mapping[str, float], *, step: int) -> None:
        """One event with all of them."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in numbers.items()]
        self._add(Event(summary=Summary(value=values)), step)

    def close(self) -> None:
        """Write what waits, which may raise what the disk said."""
        self._writer.flush()
        self._writer.close()


def start(session: Session) -> TensorBoard:
    """Begin a file for this session."""
    return TensorBoard(session)

"""The view for terminals: one frame that is drawn again in place, at most four times a second.

Lines that are said once (the sandbox, rows left out, what libraries print) stand above the frame and scroll away;
warnings and alarms are in the frame, which never does, and are printed once more when it ends.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.control import Control
from rich.live import Live

from sod.progress.frame import frame, message_line
from sod.progress.gauges import Plan
from sod.progress.lines import line_of
from sod.progress.state import RunState
from sod.report.untrusted import line, read_lines

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

MIN_INTERVAL_S = 0.25
"""Between two frames."""
TICKS_PER_S = 1.0
"""Frames a second while nothing happens: the clocks go on."""
ABOVE = frozenset({"skipped", "left_out", "sandbox", "resumed"})
"""Events that are said once, above the frame."""


class LiveView:
    """A listener that shows a run as it goes. Before the first event there is a line and no frame, which would wipe out
    what engines print while they load. Leaving the block, also by Ctrl-C, leaves the last state there with all warnings
    below it.

        with LiveView(plan_of(config), console=console) as view:
            train(config, listener=view)
    """

    def __init__(self, plan: Plan, *, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.state = RunState(plan=plan, clock=clock)
        self._lock = Lock()
        self._live = _Frames(self._frame, console=console)

    def __enter__(self) -> Self:
        self._say(f"{line(self.state.plan.title)}: loading")
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        with self._lock:
            self.state.ended = True
        # IndexError: rich takes back what it could not set up on a terminal that had gone away.
        with suppress(OSError, IndexError):
            self._live.stop()
        for (event, message), updates in self.state.messages.items():
            self._say(message_line(event, message, updates))

    def __call__(self, event: str, values: Mapping[str, Any]) -> None:
        """Take in one event and show it, now or with the next frame."""
        if event == "finished":
            self._say(line_of(event, values))
            return
        with self._lock:
            self.state.take(event, values)
            if event == "resumed":
                self.state.recall(record for record in read_lines(self._metrics) if record)
        with suppress(OSError):  # a terminal that went away is no reason to stop
            self._live.start()
        if event in ABOVE:
            self._say(line_of(event, values))
        self._live.refresh()

    def _say(self, text: str | Text) -> None:
        with suppress(OSError):
            self.console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)

    @property
    def _metrics(self) -> Path:
        return Path(self.state.plan.run) / "metrics.jsonl"

    def _frame(self) -> Text:
        width, height = self.console.size
        with self._lock:
            return frame(self.state, width=width, height=height - 1)


class _Frames(Live):
    """rich's live display, which draws no more often than it should and begins anew on a terminal that was resized."""

    def __init__(self, make: Callable[[], Text], *, console: Console) -> None:
        super().__init__(
            console=console,
            get_renderable=make,
            refresh_per_second=TICKS_PER_S,
            redirect_stderr=sys.stderr.isatty(),  # what goes to a file goes there
        )
        self._size = console.size
        self._drawn = -MIN_INTERVAL_S

    def start(self, refresh: bool = False) -> None:
        """Begin. The cursor stays: a killed process could not bring it back."""
        is_new = not self.is_started
        super().start(refresh)
        if is_new:
            self.console.show_cursor(True)

    def refresh(self) -> None:
        """Draw, if the last frame is old enough or this one is the last."""
        with self._lock:
            now = time.monotonic()
            if self.is_started and now - self._drawn < MIN_INTERVAL_S:
                return
            self._drawn = now
            size, self._size = self._size, self.console.size
            with suppress(OSError):
                if size != self._size:
                    # The old frame's lines may be wrapped now, so nobody knows how far up it begins.
                    self.console.control(Control.clear(), Control.home())
                super().refresh()

"""What a run has told so far, kept small: histories of the followed numbers, its pace, its warnings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any

from sod.progress.gauges import Gauge, Plan
from sod.report.untrusted import mapping, number

LARGEST_PART = 0.1
"""Of the whole that is done between two reports. More is what sessions before have done, and no pace."""
PACE_OVER = 20
"""The latest units whose median is the pace: one slow update, an evaluation or a checkpoint does not move it."""
MAX_MESSAGES = 1000
"""Different messages that are kept; more are a fault that says itself again and again."""

Values = Mapping[str, Any]


@dataclass(kw_only=True)
class RunState:
    """Fed with events, read by frame.py. `clock` gives seconds."""

    plan: Plan
    clock: Callable[[], float]
    done: int = 0
    total: int | None = None
    latest: Values = field(default_factory=dict)
    """The last update, step or progress as it was told."""
    histories: dict[str, list[float | None]] = field(default_factory=dict)
    """By a gauge's label, a value for every update."""
    first_evaluation: Values = field(default_factory=dict)
    evaluation: Values = field(default_factory=dict)
    peak_gib: dict[str, float] = field(default_factory=dict)
    messages: dict[tuple[str, str], list[int | None]] = field(default_factory=dict)
    """(event, message) -> the updates it came at, None for before the first."""
    layers: tuple[str, ...] = ()
    ended: bool = False
    _paces: deque[float] = field(default_factory=lambda: deque(maxlen=PACE_OVER))

    def __post_init__(self) -> None:
        self.total = self.plan.total
        self.began = self.last = self.clock()
        self.histories = {gauge.label: [] for gauge in self.plan.gauges}

    # ---- events

    def take(self, event: str, values: Values) -> None:
        """One event. What it does not know it leaves alone."""
        if event in ("update", "step", "progress"):
            self._advance(values)
        elif event == "evaluation":
            self.evaluation = values
            self.first_evaluation = self.first_evaluation or values
        elif event in ("warning", "alarm"):
            key = (event, str(values.get("message", "")))
            if key in self.messages or len(self.messages) < MAX_MESSAGES:
                self.messages.setdefault(key, []).append(values.get("update"))
        elif event == "sandbox":
            self.layers = tuple(map(str, values["layers"]))
            self.last = self.clock()  # what was loaded before is not the pace
        elif event == "resumed":
            self.done = int(values["update"])
            self.last = self.clock()

    def recall(self, records: Iterable[Values]) -> None:
        """Histories of the sessions before, from metrics.jsonl."""
        for record in records:
            if "evaluation" in record:
                self.take("evaluation", mapping(record["evaluation"]))
            elif "reward" in record:
                self._follow(record)

    def _advance(self, values: Values) -> None:
        now, before = self.clock(), self.done
        self.done = int(values.get("update", values.get("done", before)))
        self.total = values.get("num_updates", values.get("total", self.total))
        new = self.done - before
        if 0 < new <= max(1.0, LARGEST_PART * (self.total or 0)):
            told = number(values.get("total_s"))  # of an update as such, when it is the first after loading
            self._paces.append(told if told and not self._paces else (now - self.last) / new)
        self.last, self.latest = now, values
        self._follow(values)
        for place, gib in mapping(values.get("memory")).items():
            known = number(gib)
            if known is not None:
                self.peak_gib[place] = max(known, self.peak_gib.get(place, 0.0))

    def _follow(self, values: Values) -> None:
        for gauge in self.plan.gauges:
            self.histories[gauge.label].append(gauge.read(values))

    # ---- what follows from them

    @property
    def elapsed_s(self) -> float:
        """Since the view was opened."""
        return self.clock() - self.began

    @property
    def left_s(self) -> float | None:
        """Until the end at the median pace; None until a unit is done, or when nobody knows how many there are."""
        if not self._paces or self.total is None or self.ended:
            return None
        return max(0.0, median(self._paces) * (self.total - self.done) - (self.clock() - self.last))

    def change(self, gauge: Gauge) -> str:
        """Of the latest window against the first: `"+0.104"`; empty until there are two of them."""
        history, window = self.histories[gauge.label], self.plan.window
        if not gauge.compared or len(history) < 2 * window:
            return ""
        first = [value for value in history[:window] if value is not None]
        latest = [value for value in history[-window:] if value is not None]
        return gauge.change(fmean(first), fmean(latest)) if first and latest else ""

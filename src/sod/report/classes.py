"""Shares of stable, erroneous and recovery trajectories over updates (the rule is that of `patterns`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sod.report.patterns import Pattern, calling_divergences, pattern, unit_of
from sod.report.untrusted import count, items


@dataclass(kw_only=True)
class Classes:
    """Fed record by record. Keeps two numbers a trajectory, as the unit is only known when the first update is read."""

    _calls: list[tuple[int, float, float]] = field(default_factory=list)
    """(update, largest d_k, last d_k) of the calls of each trajectory that calls."""
    _first: int | None = None
    _firsts: list[Mapping[str, Any]] = field(default_factory=list)
    """What the unit is made of: divergences of the lowest update so far."""

    def add(self, record: Mapping[str, Any]) -> None:
        """One graded record; without a divergence it is in no class."""
        update, divergence = count(record.get("update")), items(record.get("divergence"))
        if update is None or not divergence:
            return
        if self._first is None or update < self._first:
            self._first, self._firsts = update, []
        if update == self._first:
            self._firsts.append({"divergence": divergence})
        calls = calling_divergences(record)
        if calls:
            self._calls.append((update, max(calls), calls[-1]))

    @property
    def unit(self) -> float | None:
        """Median d_1 of the first update, in nats."""
        return unit_of(self._firsts)

    def counts(self) -> dict[int, Counter[Pattern]]:
        """Trajectories of each class by update, in order."""
        unit = self.unit
        found: dict[int, Counter[Pattern]] = {}
        for update, largest, last in sorted(self._calls):
            # A class depends on the largest d_k and the last alone.
            kind = None if unit is None else pattern([largest, last], unit=unit)
            if kind is not None:
                found.setdefault(update, Counter())[kind] += 1
        return found

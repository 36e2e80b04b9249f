"""timing.jsonl -> seconds by phase and memory, in total and by update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sod.report.untrusted import count, line, mapping, number, read_lines


@dataclass(kw_only=True)
class Costs:
    """What a run took. Phases have no "_s": `{"rollout": 4.0, "learn": 2.0, "other": 1.0}`."""

    total_s: float = 0.0
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by phase over the whole run; what no phase accounts for is "other"."""
    by_update: dict[int, dict[str, float]] = field(default_factory=dict)
    memory: dict[int, dict[str, float]] = field(default_factory=dict)
    """By update: GiB by place, "host" and "gpu"."""
    num_skipped: int = 0

    @property
    def memory_places(self) -> list[str]:
        """`["gpu", "host"]`."""
        return sorted({place for sizes in self.memory.values() for place in sizes})

    def phase(self, name: str) -> tuple[list[float], list[float]]:
        """Updates and seconds of one phase, 0 where an update had none."""
        updates = sorted(self.by_update)
        return [float(update) for update in updates], [self.by_update[update].get(name, 0.0) for update in updates]


def read_costs(path: Path) -> Costs:
    """The content of a timing.jsonl; empty when there is none. `elapsed_s` of a cold start is a clock: it counts from
    the start of each session, and what it shows before it falls back is added up."""
    costs, before_s, sessions_s = Costs(), 0.0, 0.0
    for record in read_lines(path):
        if record is None:
            costs.num_skipped += 1
            continue
        elapsed_s = max(0.0, number(record.get("elapsed_s")) or 0.0)
        if "elapsed_s" in record:
            sessions_s += before_s if elapsed_s < before_s else 0.0
            before_s = elapsed_s
        _add(costs, record)
    costs.total_s += sessions_s + before_s
    return costs


def _add(costs: Costs, record: Mapping[str, Any]) -> None:
    known = {key: number(value) for key, value in record.items() if key.endswith("_s") and key != "elapsed_s"}
    seconds = {_name(key, "_s"): value for key, value in known.items() if value is not None and value >= 0}
    whole_s = seconds.pop("total", 0.0)
    rest_s = whole_s - sum(seconds.values())
    if seconds and rest_s > 0.005 * whole_s:
        seconds["other"] = rest_s
    costs.total_s += max(whole_s, sum(seconds.values()))
    for name, value in seconds.items():
        costs.phases[name] = costs.phases.get(name, 0.0) + value
    update = count(record.get("update"))
    if update is None:
        return
    if seconds:
        phases = costs.by_update.setdefault(update, {})
        for name, value in seconds.items():
            phases[name] = phases.get(name, 0.0) + value
    _add_memory(costs, update, mapping(record.get("memory")))


def _add_memory(costs: Costs, update: int, record: Mapping[str, Any]) -> None:
    known = {key: number(value) for key, value in record.items() if key.endswith("_gib")}
    sizes = {_name(key, "_gib"): value for key, value in known.items() if value is not None and value >= 0}
    if sizes:
        costs.memory.setdefault(update, {}).update(sizes)


def _name(key: str, unit: str) -> str:
    """A name for legends: of a damaged or hostile file a key may be anything."""
    return line(key.removesuffix(unit), width=24)

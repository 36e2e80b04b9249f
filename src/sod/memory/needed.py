"""What a run takes: item by item, and at its peak."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.table import Table

Phase = Literal["always", "start", "sampling", "learning"]
GIB = float(1 << 30)


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that takes memory, when, and what it is in a sentence."""

    name: str
    device: str
    """ "cpu", "cuda:0"."""
    num_bytes: int
    phase: Phase
    certain: bool
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """All that a run needs. With `overlapping` it learns while it samples, so that both need memory at once."""

    items: tuple[Item, ...]
    overlapping: bool

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that something is on, the CPU last."""
        return tuple(sorted({item.device for item in self.items}, key=lambda name: (name == "cpu", name)))

    def peak_bytes(self, device: str, *, certain: bool = False) -> int:
        """The most that is needed at one time on a device, or the part of it that is certain.

        What is there always 3, while sampling 5, while learning 4 -> 8; overlapping -> 12.
        """
        sums: dict[Phase, int] = {"always": 0, "start": 0, "sampling": 0, "learning": 0}
        for item in self.items:
            if item.device == device and (item.certain or not certain):
                sums[item.phase] += item.num_bytes
        both = sums["sampling"] + sums["learning"] if self.overlapping else max(sums["sampling"], sums["learning"])
        return sums["always"] + max(sums["start"], both)


def table(needed: Estimate) -> Table:
    """Every item, device by device; what is not certain is dim."""
    from rich.table import Column, Table

    rows = Table("item", "where", "when", Column("GiB", justify="right"), "what")
    for device in needed.devices:
        for item in needed.items:
            if item.device == device:
                size = f"{item.num_bytes / GIB:.2f}"
                rows.add_row(item.name, device, item.phase, size, item.what, style=None if item.certain else "dim")
    return rows


def gib(num_bytes: int | None) -> str:
    """`12884901888 -> 12.0 GiB`; small amounts in MiB."""
    if num_bytes is None:
        return "an unknown amount"
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / (1 << 20):.0f} MiB"

"""What a tracker was told in earlier sessions of a run: RUN/tracking/NAME.json."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sod.runs import write_atomic


@dataclass(kw_only=True)
class Memo:
    """A run's id with one tracker, and how far the tracker was told.

    {"id": "5f0c2a91", "told": {"update": 40, "evaluation": 40}}
    """

    path: Path
    id: str = field(default_factory=lambda: secrets.token_hex(4))
    told: dict[str, int] = field(default_factory=dict)
    """Event -> its last step."""
    is_new: bool = True

    @classmethod
    def read(cls, path: Path) -> Self:
        """The memo of the session before, or a new one: a file that is damaged begins a new run with the tracker."""
        try:
            known = json.loads(path.read_bytes())
            told = {str(event): int(step) for event, step in known["told"].items()}
            return cls(path=path, id=_checked(known["id"]), told=told, is_new=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return cls(path=path)

    def note(self, event: str, step: int) -> None:
        """That much was told. Raises OSError."""
        self.told[event] = max(step, self.told.get(event, -1))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, (json.dumps({"id": self.id, "told": self.told}) + "\n").encode())


def _checked(value: Any) -> str:
    """An id becomes part of addresses and of file names."""
    if not isinstance(value, str) or not (value.isascii() and value.isalnum() and len(value) <= 16):
        raise ValueError(f"an id must be up to 16 ASCII letters and digits, got {value!r}")
    return value

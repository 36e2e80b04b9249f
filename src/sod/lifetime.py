"""Things that are started and closed, as contexts: `async with thing:`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

__all__ = ["Lifetime"]


class Lifetime:
    """`async with` of what has `start` and `aclose`. What fails to start is closed, too: half of it may be there."""

    async def start(self) -> None:
        """Get ready."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Give everything back."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

"""The fork servers of a LocalSandbox: started when first needed, the least busy one taken, dead ones replaced."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from sod.errors import SandboxError
from sod.sandbox.channel import Channel

__all__ = ["Pool", "Seat"]


class Seat:
    """A place for one fork server."""

    def __init__(self, settings: Mapping[str, Any], *, name: str) -> None:
        self.load = 0
        self._name = name
        self._settings = settings
        self._channel: Channel | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    async def channel(self) -> Channel:
        """The living fork server. Raises SandboxError when none can be started."""
        if self._channel is not None and not self._channel.dead:
            return self._channel
        async with self._starting:
            if self._closed:
                raise SandboxError("the sandbox is closed")
            if self._channel is None or self._channel.dead:
                await self._end()
                executable = self._settings["executable"]
                self._channel = await Channel.start(self._settings, executable=executable, name=self._name)
            return self._channel

    async def aclose(self) -> None:
        """Ends it for good."""
        self._closed = True
        async with self._starting:
            await self._end()

    async def _end(self) -> None:
        if self._channel is not None:
            await self._channel.aclose()
            self._channel = None


class Pool:
    """The fork servers of one kind, `workers` of them. `settings` are those that `fork_server.py` reads."""

    def __init__(self, settings: Mapping[str, Any], *, workers: int, name: str) -> None:
        self._seats = [Seat(settings, name=f"{name}{index}-") for index in range(workers)]

    @contextlib.contextmanager
    def seat(self) -> Iterator[Seat]:
        """The least busy one, so that a single caller wakes only one; it counts as busier while it is held."""
        seat = min(self._seats, key=lambda seat: seat.load)
        seat.load += 1
        try:
            yield seat
        finally:
            seat.load -= 1

    async def aclose(self) -> None:
        """Ends all of them."""
        await asyncio.gather(*(seat.aclose() for seat in self._seats))

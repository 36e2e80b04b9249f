"""The frame of our own HTTP servers for the tests: right answers by a subclass, wrong ones by script."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeAlias

Answer: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


class FaultyServer:
    """One server on a free port of the loopback.

    `requests` are the bodies of the POSTs so far, `headers` those of the last request, `num_connections` counts
    connections, `num_hung_up` POSTs whose client left. `script` holds answers for the next ones; `broken` answers every
    one, as long as it is set. `most_running` is how many POSTs were under way at a time.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.script: list[Answer] = []
        self.broken: Answer | None = None
        self.num_running = 0
        self.most_running = 0
        self.num_hung_up = 0
        self.num_connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def got(self, path: str) -> Answer:
        """What a GET is answered."""
        raise NotImplementedError

    def posted(self, path: str, request: dict[str, Any]) -> Answer:
        """What a POST is answered that no script is for."""
        raise NotImplementedError

    def is_scripted(self, request: dict[str, Any]) -> bool:  # noqa: ARG002
        """Whether the script is for a POST like this."""
        return True

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def listen(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.num_connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                method, path, _ = lines[0].split(" ")
                self.headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}
                self.paths.append(path)
                body = await reader.readexactly(int(self.headers.get("content-length", 0)))
                if method == "GET":
                    await self.got(path)(writer)
                else:
                    await self._answer(path, json.loads(body), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(
        self, path: str, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.requests.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        scripted = self.script.pop(0) if not self.broken and self.script and self.is_scripted(request) else self.broken
        answering = asyncio.ensure_future((scripted or self.posted(path, request))(writer))
        gone = asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.num_hung_up += 1
                raise ConnectionAbortedError
            answering.result()
        finally:
            self.num_running -= 1
            answering.cancel()
            gone.cancel()
            await asyncio.wait({answering, gone})


async def until(condition: Callable[[], bool]) -> None:
    """Fails after 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


# Answers


async def reply(writer: asyncio.StreamWriter, body: Any, *, status: str = "200 OK", headers: str = "") -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\nContent-Type: application/json\r\n{headers}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


def says(body: Any, *, status: str = "200 OK", headers: str = "") -> Answer:
    """An answer of these bytes, or of this as JSON."""
    return lambda writer: reply(writer, body, status=status, headers=headers)


async def hangs(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001 - an Answer
    await asyncio.Event().wait()


async def hangs_up(writer: asyncio.StreamWriter) -> None:  # noqa: ARG001 - an Answer
    raise ConnectionResetError


async def dies_halfway(writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n{"choices": [')
    await writer.drain()
    raise ConnectionResetError


async def never_ends(writer: asyncio.StreamWriter) -> None:
    """A reply of 4 GiB, as fast as it is read."""
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n{"status": "')
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()

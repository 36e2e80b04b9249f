"""An OpenAI-compatible server of our own for the tests: it answers as `vllm serve` does, or wrongly by script.

Its model is a formula over token ids, so that every right answer is known:

    server.logprobs([5, 6])[7]  # log p(7 | 5 6) at temperature 1
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Self, TypeAlias

Answer: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]
Change: TypeAlias = Callable[[dict[str, Any]], Any]
"""Spoils the one choice of a reply, in place."""

VOCABULARY = 64


class FaultyCompletions:
    """One server on a free port of the loopback.

    `ways` are the ways it can score; what it does not know it ignores, or refuses with HTTP 400 if `strict`.
    `has_ids` is whether it returns token ids, `processed` whether its log-probs are of the temperature. `listed` is
    what /v1/models says, None for HTTP 404.

    `requests` are the bodies of the completions so far, `headers` those of the last request, `num_connections` counts
    connections, `num_hung_up` requests whose client left. `script` holds answers for the next completions; `broken`
    answers every one, `change` spoils every good one. While `gate` is clear, completions wait; `most_running` is how
    many were under way at a time.
    """

    def __init__(
        self,
        *,
        ways: Sequence[str] = ("prompt_logprobs", "echo"),
        has_ids: bool = True,
        processed: bool = False,
        strict: bool = False,
        max_model_len: int = 100,
    ) -> None:
        self.ways = ways
        self.has_ids = has_ids
        self.processed = processed
        self.strict = strict
        self.max_model_len = max_model_len
        self.listed: Any = {"object": "list", "data": [{"id": "tiny", "max_model_len": max_model_len}]}
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: dict[str, str] = {}
        self.script: list[Answer] = []
        self.broken: Answer | None = None
        self.change: Change | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.num_running = 0
        self.most_running = 0
        self.num_hung_up = 0
        self.num_connections = 0
        self.url = ""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def logprobs(self, prefix: Sequence[int], *, temperature: float = 1.0) -> list[float]:
        """log p(token | prefix) for every token of the vocabulary."""
        mark = sum((index + 1) * token for index, token in enumerate(prefix))
        logits = [3.0 * math.sin(0.7 * token + 1.3 * mark) / temperature for token in range(VOCABULARY)]
        total = math.log(sum(map(math.exp, logits)))
        return [logit - total for logit in logits]

    def scores(self, token_ids: Sequence[int]) -> list[float]:
        """log p(token_ids[i] | token_ids[:i]) for i = 1, 2, ..."""
        return [self.logprobs(token_ids[:index])[token_ids[index]] for index in range(1, len(token_ids))]

    # Serving

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.num_connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                self.headers = {key.lower(): value for key, _, value in (line.partition(": ") for line in lines[1:])}
                self.paths.append(lines[0].split(" ")[1])
                body = await reader.readexactly(int(self.headers.get("content-length", 0)))
                if self.paths[-1] == "/v1/models":
                    known = self.listed is not None
                    await reply(writer, self.listed or {}, status="200 OK" if known else "404 Not Found")
                elif self.paths[-1] == "/v1/completions":
                    await self._answer(json.loads(body), reader, writer)
                else:
                    await reply(writer, {"detail": "Not Found"}, status="404 Not Found")
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(
        self, request: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.requests.append(request)
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        answer = self.broken or (self.script.pop(0) if self.script else self._completes(request))
        answering = asyncio.create_task(answer(writer))
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

    def _completes(self, request: dict[str, Any]) -> Answer:
        async def answer(writer: asyncio.StreamWriter) -> None:
            await self.gate.wait()
            if problem := self._problem(request):
                await reply(writer, {"error": {"message": problem, "code": 400}}, status="400 Bad Request")
                return
            choice = self._choice(request)
            if self.change:
                self.change(choice)
            await reply(writer, {"object": "text_completion", "choices": [choice]})

        return answer

    def _problem(self, request: dict[str, Any]) -> str:
        num_tokens = len(request["prompt"])
        if num_tokens + request["max_tokens"] > self.max_model_len:
            asked = f"{num_tokens} in the prompt and {request['max_tokens']} to sample"
            return f"This model's maximum context length is {self.max_model_len} tokens, you asked for {asked}."
        unknown = [way for way in ("prompt_logprobs", "echo") if way in request and way not in self.ways]
        return f"Unknown field: {unknown[0]}" if unknown and self.strict else ""

    def _choice(self, request: dict[str, Any]) -> dict[str, Any]:
        """What vLLM answers, as far as it is read."""
        prompt: list[int] = request["prompt"]
        drawn, logprobs = self._draw(request)
        listed: list[float | None] = list(logprobs)
        if request.get("echo") and "echo" in self.ways:
            listed = [None, *self.scores(prompt), *logprobs]
        choice: dict[str, Any] = {
            "index": 0,
            "text": "not to be read",
            "finish_reason": "stop" if drawn[-1] in request.get("stop_token_ids", []) else "length",
            "logprobs": {"token_logprobs": listed} if "logprobs" in request else None,
            "prompt_logprobs": None,
        }
        if "prompt_logprobs" in request and "prompt_logprobs" in self.ways:
            choice["prompt_logprobs"] = [None, *map(_entry, prompt[1:], self.scores(prompt))]
        if request.get("return_token_ids") and self.has_ids:
            choice |= {"token_ids": drawn, "prompt_token_ids": prompt}
        return choice

    def _draw(self, request: dict[str, Any]) -> tuple[list[int], list[float]]:
        """Sampled tokens up to a stop token, and their log-probs."""
        generator = random.Random(request.get("seed"))
        temperature = request["temperature"]
        drawn: list[int] = []
        logprobs: list[float] = []
        while len(drawn) < request["max_tokens"] and not set(drawn) & set(request.get("stop_token_ids", [])):
            prefix = [*request["prompt"], *drawn]
            at_1 = self.logprobs(prefix)
            tempered = self.logprobs(prefix, temperature=temperature or 1.0)
            greedy = max(range(VOCABULARY), key=at_1.__getitem__)
            token = generator.choices(range(VOCABULARY), [math.exp(x) for x in tempered])[0] if temperature else greedy
            logprobs.append((tempered if self.processed else at_1)[token])
            drawn.append(token)
        return drawn, logprobs


def _entry(token: int, logprob: float) -> dict[str, Any]:
    return {str(token): {"logprob": logprob, "rank": 1, "decoded_token": "x"}}


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
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 4294967296\r\n\r\n{"choices": "')
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()

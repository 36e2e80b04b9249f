"""An OpenAI-compatible server of our own for the tests: it answers as `vllm serve` does, or wrongly by script.

Its model is a formula over token ids, so that every right answer is known:

    server.logprobs([5, 6])[7]  # log p(7 | 5 6) at temperature 1
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from faulty_server import Answer, FaultyServer, reply, says

Change: TypeAlias = Callable[[dict[str, Any]], Any]
"""Spoils the one choice of a reply, in place."""

VOCABULARY = 64


class FaultyCompletions(FaultyServer):
    """Answers /v1/models and /v1/completions.

    `ways` are the ways it can score; what it does not know it ignores, or refuses with HTTP 400 if `strict`.
    `has_ids` is whether it returns token ids, `processed` whether its log-probs are of the temperature. `listed` is
    what /v1/models says, None for HTTP 404. `change` spoils every good completion. While `gate` is clear, completions
    wait.
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
        super().__init__()
        self.ways = ways
        self.has_ids = has_ids
        self.processed = processed
        self.strict = strict
        self.max_model_len = max_model_len
        self.listed: Any = {"object": "list", "data": [{"id": "tiny", "max_model_len": max_model_len}]}
        self.change: Change | None = None
        self.gate = asyncio.Event()
        self.gate.set()

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

    def got(self, path: str) -> Answer:
        known = path == "/v1/models" and self.listed is not None
        return says(self.listed or {}, status="200 OK" if known else "404 Not Found")

    def posted(self, path: str, request: dict[str, Any]) -> Answer:
        return self._completes(request) if path == "/v1/completions" else says({}, status="404 Not Found")

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
        if request["temperature"] > 2:
            return f"temperature must be in [0, 2], got {request['temperature']}"
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

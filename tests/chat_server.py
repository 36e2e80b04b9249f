"""An OpenAI-compatible chat server of our own, in a thread: teacher, rubricator and verifier by rule, or by script.

    with ChatServer() as server:
        server.says("verdict", "Yes to all!")  # the next verdict; then by rule again
        ...                                    # POST {server.url}/v1/chat/completions

By rule the teacher numbers its answers; the rubricator gives `criteria`; the verifier says yes where the attempt has
the words that a criterion quotes: `Says "42".` It finds material as a model is told to: by the marks of the system
message.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any, Self

from faulty_server import Answer, FaultyServer, reply, says

CRITERIA = [
    {"text": 'Says "42".', "points": 5},
    {"text": 'Multiplies: says "6*7".', "points": 3},
    {"text": 'Checks: says "check".', "points": 2},
    {"text": 'Says "boxed".', "points": 1},
]


class ChatServer(FaultyServer):
    """Answers GET /v1/models and POST /v1/chat/completions, from a thread with a loop of its own.

    `usage` is what every reply reports, None for nothing. `only` names the purpose that `script` is for, "" for all.
    `baffling` attempts never get a verdict that can be read. While `close_gate` holds, replies wait.
    """

    def __init__(self, *, model: str = "judge") -> None:
        super().__init__()
        self.model = model
        self.listed: Any = {"object": "list", "data": [{"id": model}]}
        self.criteria: list[dict[str, Any]] = [dict(each) for each in CRITERIA]
        self.usage: dict[str, Any] | None = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        self.finish_reason = "stop"
        self.only = ""
        self.baffling: Callable[[str], bool] = lambda _attempt: False
        self._said: dict[str, list[str]] = defaultdict(list)
        self._num_answers = 0
        self._loop = asyncio.new_event_loop()
        self._gate = asyncio.Event()
        self._gate.set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def says(self, purpose: str, *texts: str) -> None:
        """The next contents for a purpose, in place of the rule's."""
        self._said[purpose] += texts

    @property
    def asked(self) -> Counter[str]:
        """Requests so far by purpose."""
        return Counter(purpose_of(request) for request in self.requests)

    def of(self, purpose: str) -> list[dict[str, Any]]:
        """The requests for a purpose."""
        return [request for request in self.requests if purpose_of(request) == purpose]

    def close_gate(self) -> None:
        self._loop.call_soon_threadsafe(self._gate.clear)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(10)

    def open_gate(self) -> None:
        self._loop.call_soon_threadsafe(self._gate.set)

    # Serving

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self.listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.aclose(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def is_scripted(self, request: dict[str, Any]) -> bool:
        return self.only in ("", purpose_of(request))

    def got(self, path: str) -> Answer:
        known = path == "/v1/models" and self.listed is not None
        return says(self.listed if known else {}, status="200 OK" if known else "404 Not Found")

    def posted(self, path: str, request: dict[str, Any]) -> Answer:
        if path != "/v1/chat/completions":
            return says({}, status="404 Not Found")

        async def answer(writer: asyncio.StreamWriter) -> None:
            await self._gate.wait()
            await reply(writer, self.completion(self._content(request)))

        return answer

    def completion(self, content: Any) -> dict[str, Any]:
        """A whole reply with this content."""
        message = {"role": "assistant", "content": content}
        usage = {} if self.usage is None else {"usage": self.usage}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {"object": "chat.completion", "choices": [choice], **usage}

    def _content(self, request: dict[str, Any]) -> str:
        purpose = purpose_of(request)
        if self._said[purpose]:
            return self._said[purpose].pop(0)
        if purpose == "rubric":
            return json.dumps({"criteria": self.criteria})
        if purpose == "verdict":
            if self.baffling(attempt_of(request)):
                return "Sure!"
            return json.dumps({"verdicts": verdicts_by_rule(request)})
        self._num_answers += 1
        return f"6*7 = 42, answer number {self._num_answers}."


def purpose_of(request: dict[str, Any]) -> str:
    """What a request is for, by its system message."""
    first = request["messages"][0]["content"]
    if first.startswith("You write marking schemes"):
        return "rubric"
    return "verdict" if first.startswith("You mark one attempt") else "teacher"


def mark_of(request: dict[str, Any]) -> str:
    """The mark that the system message names."""
    found = re.search(r'line "\[(\w+) begin', request["messages"][0]["content"])
    assert found, request["messages"][0]
    return found[1]


def pieces_of(request: dict[str, Any]) -> dict[str, str]:
    """Label -> material, as somebody reads it who heeds only the mark."""
    mark = mark_of(request)
    blocks = re.findall(
        rf"^\[{mark} begin (.*)\]\n(.*?)\n?^\[{mark} end \1\]$",
        request["messages"][1]["content"],
        re.DOTALL | re.MULTILINE,
    )
    return dict(blocks)


def attempt_of(request: dict[str, Any]) -> str:
    """The rollout that a verdict is asked about."""
    return "\n".join(text for label, text in pieces_of(request).items() if label.startswith("STUDENT"))


def verdicts_by_rule(request: dict[str, Any]) -> dict[str, str]:
    """Yes where the attempt holds what a criterion quotes, whatever else it says."""
    pieces, attempt = pieces_of(request), attempt_of(request)
    quoted = {each["id"]: re.findall(r'"(.*?)"', each["criterion"]) for each in json.loads(pieces["CRITERIA"])}
    return {name: "yes" if all(word in attempt for word in words) else "no" for name, words in quoted.items()}

"""What the rubrics of a run may cost, over all its sessions.

budget = Budget(max_requests=1000, max_tokens=2_000_000, ledger=run / "rubrics_spent.jsonl")
async with budget.hold(5096, purpose="verdict") as hold:      # one request, and the most that it may use
    hold.settle(prompt_tokens=880, completion_tokens=41)      # what it did use; unsettled, it counts in full
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sod.errors import CollapseError, StorageError

__all__ = ["Budget", "BudgetError", "Hold", "Spent"]


class BudgetError(CollapseError):
    """The budget of the rubrics is used up: a rule of the config that ends the run with its checkpoint written.

    No InfrastructureError, which would cost trajectories and go on without them.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Spent:
    """What a run's requests came to. `estimated_tokens` of the tokens no server reported."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and replies together."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(
            requests=self.requests + other.requests,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            estimated_tokens=self.estimated_tokens + other.estimated_tokens,
        )


class Hold:
    """One request's share of the budget while it is under way."""

    def __init__(self, *, prompt_tokens: int, completion_tokens: int) -> None:
        self.tokens = prompt_tokens + completion_tokens
        self.cost = Spent(
            requests=1,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            estimated_tokens=self.tokens,
        )

    def settle(self, *, prompt_tokens: int, completion_tokens: int, estimated: bool = False) -> None:
        """What the request used, as the server reports it or, `estimated`, as its texts suggest."""
        self.cost = Spent(
            requests=1,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            estimated_tokens=prompt_tokens + completion_tokens if estimated else 0,
        )


class Budget:
    """Lets requests through as long as what is spent, what is under way and the next one stay within the limits.

    Limits of 0 are none. `ledger` is a file of one line per request, which the next session goes on from; a process
    that is killed outright loses the lines of requests that were under way. Tokens can go beyond `max_tokens` by as
    much as prompts have more tokens than a quarter of their characters, for that is known only afterwards.
    """

    def __init__(self, *, max_requests: int, max_tokens: int, ledger: Path) -> None:
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._ledger = ledger
        self._spent = _read_ledger(ledger)
        self._running = 0
        self._held_tokens = 0
        self._returned = asyncio.Event()

    @property
    def spent(self) -> Spent:
        """By requests that have ended, in all sessions."""
        return self._spent

    @asynccontextmanager
    async def hold(self, prompt_tokens: int, completion_tokens: int = 0, *, purpose: str) -> AsyncIterator[Hold]:
        """Room for one request of at most so many tokens, once there is some. Raises BudgetError when there never is.

        Requests under way that may turn out cheaper are waited for. Raises StorageError when the ledger cannot be
        written.
        """
        hold = Hold(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
        await self._room(hold.tokens)
        self._running += 1
        self._held_tokens += hold.tokens
        try:
            yield hold
        except BaseException:
            with suppress(StorageError):  # the error under way matters more
                self._book(hold, purpose=purpose)
            raise
        self._book(hold, purpose=purpose)

    async def _room(self, tokens: int) -> None:
        """Waits until the request fits. Before BudgetError what is under way ends: those answers are paid for."""
        while True:
            refusal = self._refusal(tokens)
            if refusal and not self._running:
                raise BudgetError(refusal)
            held = self._spent.tokens + self._held_tokens
            if not refusal and not (self._max_tokens and held + tokens > self._max_tokens):
                return
            self._returned.clear()
            await self._returned.wait()

    def _refusal(self, tokens: int) -> str:
        """Why a request can never be sent, "" where it can, now or when others cost less than they might."""
        spent = self._spent
        if self._max_requests and spent.requests + self._running + 1 > self._max_requests:
            return (
                f"the requests for rubrics must stay within rubrics.max_requests = {self._max_requests}, and that many "
                f"are sent; {_CURE.format(name='max_requests')}"
            )
        if self._max_tokens and spent.tokens + tokens > self._max_tokens:
            return (
                f"the tokens for rubrics must stay within rubrics.max_tokens = {self._max_tokens}, got {spent.tokens} "
                f"used ({spent.estimated_tokens} of them estimated) and a next request of up to {tokens}; "
                f"{_CURE.format(name='max_tokens')}"
            )
        return ""

    def _book(self, hold: Hold, *, purpose: str) -> None:
        self._running -= 1
        self._held_tokens -= hold.tokens
        self._spent = self._spent.plus(hold.cost)
        self._returned.set()
        entry = {
            "purpose": purpose,
            "prompt_tokens": hold.cost.prompt_tokens,
            "completion_tokens": hold.cost.completion_tokens,
            "estimated": hold.cost.estimated_tokens > 0,
        }
        _append(self._ledger, json.dumps(entry, separators=(",", ":")).encode() + b"\n")


_CURE = (
    "raise rubrics.{name} (0 is no limit) and run the same command again: it goes on from here and asks nothing twice"
)


def _read_ledger(path: Path) -> Spent:
    """The sum of its lines. A line that is damaged counts as a request; a torn last one is ended."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Spent()
    except OSError as error:
        raise _storage_error(path, error) from None
    if content and not content.endswith(b"\n"):
        _append(path, b"\n")
    total = Spent()
    for line in content.splitlines():
        total = total.plus(_booked(line))
    return total


def _booked(line: bytes) -> Spent:
    try:
        entry: Any = json.loads(line)
        prompt, completion, estimated = entry["prompt_tokens"], entry["completion_tokens"], entry["estimated"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Spent(requests=1)
    if [type(each) for each in (prompt, completion, estimated)] != [int, int, bool]:
        return Spent(requests=1)
    guess = prompt + completion if estimated else 0
    return Spent(requests=1, prompt_tokens=prompt, completion_tokens=completion, estimated_tokens=guess)


def _append(path: Path, line: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _storage_error(path, error) from None


def _storage_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} must be a file that can be read and written, got: {error.strerror}; what rubrics cost is kept in it, "
        "so free some space or check its permissions"
    )

"""What `/v1/models` and `/v1/completions` answer, read without trust: a wrong reply is a ReplyError that says why.

read_completion({"choices": [...]}, ids=(5, 6), max_tokens=8, stop_token_ids=frozenset({2}))  # a Completion
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sod.transport import ReplyError, field, shown
from sod.types import Completion

__all__ = ["PLAIN", "WAYS", "MissingError", "Way", "read_completion", "read_contexts"]

FLOOR = -9999.0
"""What vLLM writes for minus infinity."""
HIGHEST = 1e-4
"""A log-prob is at most 0, give or take rounding."""
PLAIN: Mapping[str, Any] = MappingProxyType(
    # Named although most are usual: what a request leaves out, vLLM takes from the model's generation_config.json.
    {
        "n": 1,
        "stream": False,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
)


class MissingError(ReplyError):
    """A reply lacks what was asked for."""


def read_contexts(listed: Any) -> dict[str, int | None]:
    """The models that /v1/models lists, each with its context length if it has one."""
    contexts: dict[str, int | None] = {}
    for entry in field(listed, "data", list):
        context = entry.get("max_model_len") if isinstance(entry, dict) else None
        contexts[field(entry, "id", str)] = context if type(context) is int and context > 0 else None
    return contexts


def _choice(reply: Any) -> Mapping[str, Any]:
    """The one choice of a reply of /v1/completions."""
    choices = field(reply, "choices", list)
    if len(choices) != 1 or not isinstance(choices[0], dict):
        raise ReplyError(f"choices must hold one choice, got {len(choices)}")
    return choices[0]


def _prompt_logprobs(reply: Any, ids: tuple[int, ...], positions: Sequence[int]) -> tuple[float, ...]:
    """vLLM's: null, then for each position a mapping that has the position's token: {"6": {"logprob": -1.2}}."""
    listed = _asked_for(_choice(reply), "prompt_logprobs")
    _check_count("prompt_logprobs", listed, expected=[len(ids)])
    _check_first("prompt_logprobs", listed)
    for position, entry in enumerate(listed[1:], start=1):
        if not isinstance(entry, dict) or not isinstance(entry.get(str(ids[position])), dict):
            raise ReplyError(
                f"prompt_logprobs[{position}] must hold the token that was sent, {ids[position]}, got {shown(entry)}; "
                "log-probs that belong to other tokens cannot be used"
            )
    return tuple(_logprob(listed[position][str(ids[position])].get("logprob")) for position in positions)


def _echoed_logprobs(reply: Any, ids: tuple[int, ...], positions: Sequence[int]) -> tuple[float, ...]:
    """The `echo` way: one log-prob per token sent, the first null, then that of the token sampled after them."""
    choice = _choice(reply)
    listed = _asked_for(choice.get("logprobs"), "token_logprobs")
    if len(listed) <= 1:  # a server that ignores `echo` tells of the sampled token only
        raise MissingError(f"token_logprobs must be those of the {len(ids)} tokens sent too, got {len(listed)}")
    _check_count("token_logprobs", listed, expected=[len(ids), len(ids) + 1])
    _check_first("token_logprobs", listed)
    _check_prompt(choice, ids)
    return tuple(_logprob(listed[position]) for position in positions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """One way to ask for log-probs of given tokens, and to read the answer."""

    name: str
    fields: Mapping[str, Any]
    read: Callable[[Any, tuple[int, ...], Sequence[int]], tuple[float, ...]]


WAYS = (
    Way(name="prompt_logprobs", fields={**PLAIN, "prompt_logprobs": 0}, read=_prompt_logprobs),
    # Only fields that every server knows; 1 because some take 0 for none.
    Way(name="echo", fields={"echo": True, "logprobs": 1}, read=_echoed_logprobs),
)


def read_completion(reply: Any, *, ids: tuple[int, ...], max_tokens: int, stop_token_ids: frozenset[int]) -> Completion:
    """What was sampled, checked: `token_ids [5 2], token_logprobs [-1.5 -0.1], finish_reason "stop"`, stop token 2."""
    choice = _choice(reply)
    drawn = _asked_for(choice, "token_ids")
    listed = _asked_for(choice.get("logprobs"), "token_logprobs")
    _check_prompt(choice, ids)
    if not 1 <= len(drawn) <= max_tokens or not all(type(token) is int and 0 <= token < 1 << 31 for token in drawn):
        raise ReplyError(f"token_ids must be 1 to {max_tokens} token ids, got {len(drawn)}: {shown(drawn)}")
    _check_count("token_logprobs", listed, expected=[len(drawn)])
    if early := [token for token in drawn[:-1] if token in stop_token_ids]:
        raise ReplyError(
            f"a turn must end at its first stop token, got more after {early[0]}; the server must heed stop_token_ids"
        )
    stopped = drawn[-1] in stop_token_ids
    reason = choice.get("finish_reason")
    wanted = sorted(stop_token_ids)[:8]
    if not stopped and reason != "length":
        raise ReplyError(
            f"a turn must end with one of the stop tokens {wanted} or for its length, got token {drawn[-1]} and "
            f"finish_reason {shown(reason)}; the server must not stop by itself, nor leave the stop token out"
        )
    return Completion(token_ids=tuple(drawn), logprobs=tuple(map(_logprob, listed)), stopped=stopped)


def _asked_for(mapping: Any, name: str) -> list[Any]:
    """A list that is there if the server knows what was asked of it."""
    if not isinstance(mapping, dict) or mapping.get(name) is None:
        raise MissingError(f"a reply must hold {name}, got none")
    return field(mapping, name, list)


def _check_count(name: str, listed: Sequence[Any], *, expected: Sequence[int]) -> None:
    if len(listed) not in expected:
        raise ReplyError(f"{name} must have {expected[0]} entries, one per token, got {len(listed)}")


def _check_first(name: str, listed: Sequence[Any]) -> None:
    if listed[0] is not None:
        raise ReplyError(f"{name} must begin with null: nothing predicts a first token; got {shown(listed[0])}")


def _check_prompt(choice: Mapping[str, Any], ids: tuple[int, ...]) -> None:
    """Servers that cut or extend a prompt say so, if they say what the prompt was."""
    seen = choice.get("prompt_token_ids")
    if seen is not None and seen != list(ids):
        got = len(seen) if isinstance(seen, list) else shown(seen)
        raise ReplyError(f"the server must read the {len(ids)} tokens that were sent, got others ({got})")


def _logprob(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not FLOOR < value <= HIGHEST:
        raise ReplyError(
            f"a log-prob must be a finite number of at most 0, got {shown(value)}; check the server's weights "
            "and that its --logprobs-mode is no kind of logits"
        )
    return float(value)

"""One record -> what the page of a trajectory shows: plain JSON values, every text visible, every number finite."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sod.report.trajectory import step_values
from sod.report.untrusted import count, items, mapping, number
from sod.types import StopReason
from sod.view.text import short, visible
from sod.view.tokens import TokenTexts

MAX_STEPS = 500
"""Steps shown of one trajectory: one of more is damaged, or nothing to read."""
_MARK = re.compile("(</?tool_call>)")
_CAPPED = frozenset({"ratio", "random", "outcome", "token_ratio"})
"""Rules of weights that are capped at 1 + delta."""


def weight_cap(config: Mapping[str, Any]) -> float | None:
    """The largest weight that a run's config lets a step have, 1 + delta; None where there is no cap."""
    weights = mapping(config.get("weights"))
    delta = number(weights.get("delta"))
    return 1.0 + delta if weights.get("rule") in _CAPPED and delta is not None else None


def page_of(record: Mapping[str, Any], *, texts: TokenTexts) -> dict[str, Any]:
    """The trajectory of a record: verdict, prompt, and its steps with texts, calls, results, d_k, w_k and tokens.

    `notes` are sentences about what is not there. A sealed record has no texts, tokens or answers.
    """
    score = mapping(record.get("score"))
    sealed = "sealed" in record
    tokens = {} if sealed else _tokens_by_step(record)
    steps = [] if sealed else [_step(record, index, tokens.get(index), texts=texts) for index in range(_num(record))]
    return {
        "policy_version": count(record.get("policy_version")),
        "stop_sentence": _stop_sentence(record.get("stop_reason")),
        "detail": "" if sealed else visible(record.get("detail") or ""),
        "score": None
        if not score
        else {
            "value": number(score.get("value")),
            "correct": score.get("correct") if isinstance(score.get("correct"), bool) else None,
            "reason": "" if sealed else visible(score.get("reason") or ""),
            "answer": None if sealed or score.get("answer") is None else visible(score["answer"]),
        },
        "prompt": None if sealed else _prompt(record, texts=texts),
        "steps": steps,
        "notes": list(_notes(record, tokens, texts=texts)),
    }


def _num(record: Mapping[str, Any]) -> int:
    return min(MAX_STEPS, len(items(record.get("turns"))))


def _stop_sentence(reason: object) -> str:
    try:
        return StopReason(str(reason)).sentence
    except ValueError:
        if reason is None:
            return "Why it stopped was not recorded."
        return f"Stop reason: {short(reason, width=60)}."


def _notes(record: Mapping[str, Any], tokens: Mapping[int, Any], *, texts: TokenTexts) -> Iterator[str]:
    if "sealed" in record:
        yield "The benchmark's authors ask that its texts are not shown: only the verdict is here."
        return
    if not mapping(record.get("score")):
        yield "Not graded: no verdict was recorded, as for samples that a failure of the world cost."
    if not any(items(record.get(name)) for name in ("divergence", "weight", "teacher_logprobs")):
        yield "No teacher scored this trajectory, so there are no divergences, weights or log-ratios to show."
    elif tokens and not any(step["teacher"] for step in tokens.values()):
        yield "The teacher's log-probs of tokens are not in the record."
    if not tokens:
        yield "The record holds no tokens that could be read."
    elif not texts:
        yield "No tokenizer was found in the run or where its config names the model: tokens are shown as ids."
    if len(items(record.get("turns"))) > MAX_STEPS:
        yield f"It has {len(items(record['turns']))} steps; the first {MAX_STEPS} are shown."


# ---- a step


def _step(record: Mapping[str, Any], index: int, tokens: dict[str, Any] | None, *, texts: TokenTexts) -> dict[str, Any]:
    turn = mapping(items(record["turns"])[index])
    calls = [_call(mapping(call)) for call in items(turn.get("calls"))]
    return {
        "parts": _parts(str(turn.get("text", "")), num_calls=len(calls)),
        "calls": calls,
        "results": [_result(mapping(result)) for result in items(turn.get("results"))],
        "divergence": _at(step_values(record, "divergence"), index),
        "weight": _at(step_values(record, "weight"), index),
        "teacher_entropy": _at(step_values(record, "teacher_entropy"), index),
        "tokens": None if tokens is None else {**tokens, "texts": texts.each(tokens["ids"])},
    }


def _at(values: Sequence[float | None], index: int) -> float | None:
    return values[index] if index < len(values) else None


def _parts(text: str, *, num_calls: int) -> list[dict[str, Any]]:
    """What was written, with the place of each call that could be told apart.

    `"So <tool_call>{..}</tool_call>"`, one call -> `[{"text": "So "}, {"call": 0}]`. Where marks and calls do not
    match one to one the text stays whole, and the calls come after it.
    """
    pieces = _MARK.split(text)  # text, mark, inside, mark, text, ...
    if pieces[1::2] != ["<tool_call>", "</tool_call>"] * num_calls:
        return [{"text": visible(text)}, *({"call": index} for index in range(num_calls))]
    parts: list[dict[str, Any]] = []
    for index, said in enumerate(pieces[::4]):
        parts += [{"call": index - 1}] * (index > 0) + [{"text": visible(said)}] * bool(said.strip())
    return parts


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    if "name" not in call:
        return {"malformed": visible(call.get("text", "")), "reason": visible(call.get("reason", ""))}
    arguments = mapping(call.get("arguments"))
    return {
        "name": short(call["name"], width=80),
        "arguments": [[short(name, width=80), _value(value)] for name, value in arguments.items()],
    }


def _value(value: object) -> str:
    """Text as it is, anything else as JSON."""
    return visible(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": short(result.get("status", "?"), width=40),
        "text": visible(result.get("text", "")),
        "wall_s": number(result.get("wall_s")),
        "detail": visible(result.get("detail") or ""),
    }


# ---- tokens


def _tokens_by_step(record: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Ids, student's and teacher's log-probs of each step's sampled tokens; empty when the lists do not fit together.

    `teacher` is None without a teacher's log-prob for every sampled token, and so is `student`.
    """
    ids = [count(value) for value in items(record.get("token_ids"))]
    steps = [value if type(value) is int else -1 for value in items(record.get("step"))]
    student = items(record.get("rollout_logprobs"))
    teacher = items(record.get("teacher_logprobs"))
    sampled = [position for position, step in enumerate(steps) if step >= 0]
    if len(ids) != len(steps) or any(value is None or value >= 1 << 32 for value in ids):
        return {}
    rows: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for order, position in enumerate(sampled):
        own = number(student[position]) if len(student) == len(ids) else None
        others = number(teacher[order]) if len(teacher) == len(sampled) else None
        rows[steps[position]].append((ids[position], own, others))
    return {step: _columns(values) for step, values in rows.items()}


def _columns(rows: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    ids, student, teacher = (list(column) for column in zip(*rows, strict=True))
    return {"ids": ids, "student": student, "teacher": None if all(value is None for value in teacher) else teacher}


def _prompt(record: Mapping[str, Any], *, texts: TokenTexts) -> dict[str, Any] | None:
    """The prompt's text where there is a tokenizer, else its token ids; None when nothing is recorded."""
    num_tokens = count(record.get("num_prompt_tokens")) or 0
    ids = [count(value) for value in items(record.get("token_ids"))[:num_tokens]]
    known = [value for value in ids if value is not None and value < 1 << 32]
    if not known:
        return None
    return {"num_tokens": len(known), "text": texts.whole(known), "ids": [] if texts else known}

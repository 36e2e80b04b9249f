"""Trajectories as plain JSON values, and back: what trajectories.jsonl holds."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from sod.errors import DataError
from sod.types import MalformedCall, Score, StopReason, ToolCall, ToolResult, ToolStatus, Trajectory, Turn

__all__ = ["score_of", "sealed", "trajectory_of", "trajectory_record", "unsealed"]

_TEXTS = ("detail", "turns", "num_prompt_tokens", "token_ids", "step", "rollout_logprobs")
"""What of a record could show a problem's text."""
_MAX_SEALED_BYTES = 1 << 28


def trajectory_record(
    trajectory: Trajectory,
    *,
    update: int,
    score: Score | None = None,
    divergence: Sequence[float] | None = None,
    weight: Sequence[float] | None = None,
    teacher_logprobs: Sequence[float] | None = None,
    teacher_entropies: Sequence[float] | None = None,
) -> dict[str, Any]:
    """A trajectory as plain JSON values, tokens included; log-probs, divergences and weights to 6 digits.

    `divergence` and `weight` have one entry per step (d_k in nats, w_k); `teacher_logprobs` and `teacher_entropies` one
    per sampled token, in the order of `trajectory.sampled_positions`. Of entropies the mean of each step is kept, as
    `teacher_entropy`. What is None is left out.
    """
    num_steps, num_sampled = trajectory.num_steps, len(trajectory.sampled_positions)
    assert divergence is None or len(divergence) == num_steps, f"{len(divergence)} divergences for {num_steps} steps"
    assert weight is None or len(weight) == num_steps, f"{len(weight)} weights for {num_steps} steps"
    assert teacher_logprobs is None or len(teacher_logprobs) == num_sampled, (
        f"{len(teacher_logprobs)} teacher log-probs for {num_sampled} sampled tokens"
    )
    entropy = None if teacher_entropies is None else _step_means(teacher_entropies, trajectory)
    optional = {
        "divergence": divergence,
        "weight": weight,
        "teacher_entropy": entropy,
        "teacher_logprobs": teacher_logprobs,
    }
    return {
        "update": update,
        "problem_id": trajectory.problem_id,
        "sample": trajectory.sample,
        "stop_reason": str(trajectory.stop_reason),
        "policy_version": trajectory.policy_version,
        "detail": trajectory.detail,
        **({} if score is None else {"score": _score_record(score)}),
        **{key: _rounded(values) for key, values in optional.items() if values is not None},
        "turns": [_turn_record(turn) for turn in trajectory.turns],
        "num_prompt_tokens": trajectory.num_prompt_tokens,
        "token_ids": list(trajectory.token_ids),
        "step": list(trajectory.step),
        "rollout_logprobs": _rounded(trajectory.rollout_logprobs),
    }


def _step_means(values: Sequence[float], trajectory: Trajectory) -> list[float]:
    """Means by step of one number per sampled token: `step [-1 0 0 -1 1], values [1 3 5] -> [2 5]`."""
    by_step: list[list[float]] = [[] for _ in range(trajectory.num_steps)]
    for value, position in zip(values, trajectory.sampled_positions, strict=True):
        by_step[trajectory.step[position]].append(value)
    return [fmean(step) for step in by_step]


def _score_record(score: Score) -> dict[str, Any]:
    return {"value": score.value, "correct": score.correct, "reason": score.reason, "answer": score.answer}


def _turn_record(turn: Turn) -> dict[str, Any]:
    calls = [
        {"name": call.name, "arguments": dict(call.arguments)}
        if isinstance(call, ToolCall)
        else {"text": call.text, "reason": call.reason}
        for call in turn.calls
    ]
    results = [
        {
            "status": str(result.status),
            "text": result.text,
            "wall_s": round(result.wall_s, 6),
            "queue_s": round(result.queue_s, 6),
            "detail": result.detail,
        }
        for result in turn.results
    ]
    return {"text": turn.text, "start": turn.start, "end": turn.end, "calls": calls, "results": results}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 6) for value in values]


def log_ratios_of(record: Mapping[str, Any], trajectory: Trajectory) -> dict[int, float]:
    """log p_teacher - log p_student by position of the sampled tokens: `{12: -0.31, ...}`; the record has a teacher."""
    taught = zip(trajectory.sampled_positions, record["teacher_logprobs"], strict=True)
    return {position: logprob - trajectory.rollout_logprobs[position] for position, logprob in taught}


def trajectory_of(record: Mapping[str, Any]) -> Trajectory:
    """The trajectory of a record; log-probs come back to 6 digits."""
    return Trajectory(
        problem_id=record["problem_id"],
        sample=record["sample"],
        token_ids=tuple(record["token_ids"]),
        num_prompt_tokens=record["num_prompt_tokens"],
        step=tuple(record["step"]),
        rollout_logprobs=tuple(record["rollout_logprobs"]),
        turns=tuple(_turn(turn) for turn in record["turns"]),
        stop_reason=StopReason(record["stop_reason"]),
        policy_version=record["policy_version"],
        detail=record["detail"],
    )


def score_of(record: Mapping[str, Any]) -> Score:
    """The score of a record that has one."""
    return Score(**record["score"])


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose texts are packed (zlib, base64), so that no search, crawler or report reads them by accident.

    For benchmarks whose authors ask that their examples are not kept in plain text. It is no secret: `unsealed` undoes
    it.
    """
    texts = json.dumps({key: record[key] for key in _TEXTS if key in record}, ensure_ascii=False)
    packed = base64.b64encode(zlib.compress(texts.encode("utf-8", "surrogatepass"))).decode()
    return {**{key: value for key, value in record.items() if key not in _TEXTS}, "sealed": packed}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it was before `sealed`; any other as it is. Raises DataError for what nobody sealed."""
    if "sealed" not in record:
        return dict(record)
    try:
        unpacker = zlib.decompressobj()
        texts = unpacker.decompress(base64.b64decode(record["sealed"]), _MAX_SEALED_BYTES)
        values = json.loads(texts.decode("utf-8", "surrogatepass"))
    except (binascii.Error, zlib.error, ValueError, TypeError) as error:
        raise DataError(f"a sealed record must unpack to JSON, got a fault: {error}; was the file changed?") from None
    return {**{key: value for key, value in record.items() if key != "sealed"}, **values}


def _turn(record: Mapping[str, Any]) -> Turn:
    return Turn(
        text=record["text"],
        start=record["start"],
        end=record["end"],
        calls=tuple(ToolCall(**call) if "name" in call else MalformedCall(**call) for call in record["calls"]),
        results=tuple(ToolResult(**{**result, "status": ToolStatus(result["status"])}) for result in record["results"]),
    )

"""What an update looked like, in numbers: from trajectories (text side) and from tensors (signal side).

Shapes: B trajectory, T token, K step. Names are those of metrics.jsonl; docs/metrics.md has unit and meaning of each.
"""

from __future__ import annotations

import itertools
import resource
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from sod.batch import Batch
from sod.types import Score, StopReason, ToolStatus, Trajectory

MAX_REPORTED_STEPS = 8
STATUS_SHARES: Mapping[ToolStatus, str] = {
    ToolStatus.OK: "ok_share",
    ToolStatus.ERROR: "error_share",
    ToolStatus.CRASHED: "crashed_share",
    ToolStatus.TIMEOUT: "timeout_share",
    ToolStatus.MEMORY_LIMIT: "memory_limit_share",
    ToolStatus.DISK_LIMIT: "disk_limit_share",
    ToolStatus.OUTPUT_LIMIT: "output_limit_share",
    ToolStatus.MALFORMED_CALL: "malformed_share",
}
"""Shares of an update's calls; they add up to 1. What is missing, INFRASTRUCTURE, is counted by `lost_metrics`."""


def trajectory_metrics(trajectories: Sequence[Trajectory], scores: Sequence[Score]) -> dict[str, float]:
    """Rewards, lengths, stop reasons and tool use of an update's trajectories, with the share of every status."""
    count = len(trajectories)
    results = [result for trajectory in trajectories for result in trajectory.tool_results]
    statuses = Counter(result.status for result in results)
    stops = Counter(trajectory.stop_reason for trajectory in trajectories)
    num_calls = max(1, len(results))
    return {
        "num_trajectories": count,
        "reward": sum(score.value for score in scores) / count,
        "accuracy": sum(score.correct for score in scores) / count,
        "answered": stops[StopReason.ANSWERED] / count,
        "out_of_tokens": stops[StopReason.OUT_OF_TOKENS] / count,
        "out_of_turns": stops[StopReason.OUT_OF_TURNS] / count,
        "malformed_call_limit": stops[StopReason.MALFORMED_CALL_LIMIT] / count,
        "turns": sum(trajectory.num_steps for trajectory in trajectories) / count,
        "sampled_tokens": sum(len(trajectory.sampled_positions) for trajectory in trajectories) / count,
        "response_tokens": sum(trajectory.num_response_tokens for trajectory in trajectories) / count,
        "num_calls": len(results),
        "tool_calls": len(results) / count,
        "failed_calls": sum(result.status is not ToolStatus.OK for result in results),
        **{name: statuses[status] / num_calls for status, name in STATUS_SHARES.items()},
        **persistence(trajectories),
        "empty_share": sum(result.text.strip() in ("", "[no output]") for result in results) / num_calls,
    }


def persistence(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """What the student does after a turn whose call failed: how often there was one, and how often it called again.

    Turns [call failed] [call ok] [answer] and [call failed] [answer]: {"failed_turns": 2, "retried": 1}.
    """
    after = [
        following
        for trajectory in trajectories
        for turn, following in itertools.pairwise(trajectory.turns)
        if turn.failed
    ]
    return {"failed_turns": len(after), "retried": sum(bool(turn.calls) for turn in after)}


def lost_metrics(lost: Sequence[Trajectory], *, num_calls: float) -> dict[str, float]:
    """What the world spoiled. `num_calls` is of the trajectories that were not lost.

    20 calls, and a lost trajectory with one call that went well and one that failed:
    {"infrastructure_failures": 1, "lost_calls": 2, "infrastructure_share": 1 / 22}.
    """
    results = [result for trajectory in lost for result in trajectory.tool_results]
    failed = sum(result.status is ToolStatus.INFRASTRUCTURE for result in results)
    return {
        "infrastructure_failures": len(lost),
        "lost_calls": len(results),
        "infrastructure_share": failed / max(1, num_calls + len(results)),
    }


def tool_seconds(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """How long calls ran, and waited for a place in the sandbox before. Malformed calls ran nothing and do not count.

    Seconds: {"run_s": mean, "run_max_s": longest, "queue_s": mean, "queue_max_s": longest}; 0 without a call.
    """
    results = [result for trajectory in trajectories for result in trajectory.tool_results]
    ran = [result for result in results if result.status is not ToolStatus.MALFORMED_CALL]
    run_s, queue_s = [result.wall_s for result in ran], [result.queue_s for result in ran]
    return {
        "run_s": sum(run_s) / max(1, len(ran)),
        "run_max_s": max(run_s, default=0.0),
        "queue_s": sum(queue_s) / max(1, len(ran)),
        "queue_max_s": max(queue_s, default=0.0),
    }


def memory_gib() -> dict[str, float]:
    """GiB that this process holds now ("host_gib", Linux only), and the most that torch held on a GPU since this was
    called last ("gpu_gib"). What sandbox and engines hold in processes of their own is not in it."""
    found = {}
    if Path("/proc/self/statm").exists():
        num_pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        found["host_gib"] = num_pages * resource.getpagesize() / 2**30
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    if gpus:
        found["gpu_gib"] = max(torch.cuda.max_memory_allocated(gpu) for gpu in gpus) / 2**30
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    return found


def sampler_metrics(
    batch: Batch, ages: Sequence[int], *, student_logprobs_BT: Tensor, importance_BT: Tensor
) -> dict[str, float]:
    """How far what sampled is from what is trained. `ages` counts, by trajectory, the updates its weights were old."""
    mask_BT = batch.mask_BT
    importance = importance_BT[mask_BT]
    return {
        "staleness": sum(ages) / len(ages),
        "rollout_gap": float((student_logprobs_BT - batch.rollout_logprobs_BT)[mask_BT].abs().mean()),
        "importance": float(importance.mean()),
        "importance_min": float(importance.min()),
    }


def signal_metrics(
    batch: Batch,
    *,
    student_logprobs_BT: Tensor,
    divergence_BK: Tensor,
    weight_BK: Tensor,
    term_BT: Tensor,
    correct_B: Tensor,
    control_token_ids: Collection[int],
) -> dict[str, float]:
    """What the teacher said: divergence by step and outcome, weights, log-ratios, control tokens apart.

    `term_BT` is what became of it: weights times log-ratios within their bounds.
    """
    mask_BT = batch.mask_BT
    log_ratio_BT = batch.teacher_logprobs_BT - student_logprobs_BT
    control_BT = mask_BT & torch.isin(batch.token_BT, torch.tensor(sorted(control_token_ids), device=mask_BT.device))
    metrics = {
        "divergence": _mean(divergence_BK),
        "divergence_correct": _mean(divergence_BK[correct_B]),
        "divergence_wrong": _mean(divergence_BK[~correct_B]),
        "weight": _mean(weight_BK),
        "weight_min": _quantile(weight_BK, 0.0),
        "log_ratio": _mean(log_ratio_BT[mask_BT]),
        "log_ratio_min": _quantile(log_ratio_BT[mask_BT], 0.0),
        "log_ratio_p99": _quantile(log_ratio_BT[mask_BT].abs(), 0.99),
        "log_ratio_control": _mean(log_ratio_BT[control_BT]),
        "log_ratio_control_min": _quantile(log_ratio_BT[control_BT], 0.0),
        "teacher_term": _mean(term_BT[mask_BT].abs()),
    }
    for step in range(min(MAX_REPORTED_STEPS, divergence_BK.shape[1])):
        metrics[f"divergence_step_{step + 1}"] = _mean(divergence_BK[:, step])
        metrics[f"weight_step_{step + 1}"] = _mean(weight_BK[:, step])
    return metrics


def _mean(values: Tensor) -> float:
    """Mean without NaN; 0.0 when nothing is left."""
    present = values[~values.isnan()]
    return float(present.mean()) if present.numel() else 0.0


def _quantile(values: Tensor, share: float) -> float:
    """Quantile without NaN by sorting (torch.quantile refuses large tensors); 0.0 when nothing is left."""
    present = values[~values.isnan()].sort().values
    return float(present[round(share * (present.numel() - 1))]) if present.numel() else 0.0

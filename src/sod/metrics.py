"""What an update looked like, in numbers: from trajectories (text side) and from tensors (signal side).

Shapes: B trajectory, T token, K step. Names are those of metrics.jsonl; docs/metrics.md has unit and meaning of each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from sod.algorithm import spread
from sod.batch import Batch
from sod.types import Score, StopReason, ToolStatus, Trajectory

MAX_REPORTED_STEPS = 8


def trajectory_metrics(trajectories: Sequence[Trajectory], scores: Sequence[Score]) -> dict[str, float]:
    """Rewards, lengths, tool use and stop reasons of an update's trajectories."""
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
        "malformed_share": statuses[ToolStatus.MALFORMED_CALL] / num_calls,
        "error_share": statuses[ToolStatus.ERROR] / num_calls,
        "timeout_share": statuses[ToolStatus.TIMEOUT] / num_calls,
        "empty_share": sum(result.text.strip() in ("", "[no output]") for result in results) / num_calls,
    }


def signal_metrics(
    batch: Batch,
    *,
    student_logprobs_BT: Tensor,
    divergence_BK: Tensor,
    weight_BK: Tensor,
    correct_B: Tensor,
    control_token_ids: Collection[int],
) -> dict[str, float]:
    """What the teacher said: divergence by step and outcome, weights, log-ratios, control tokens apart."""
    mask_BT = batch.mask_BT
    log_ratio_BT = batch.teacher_logprobs_BT - student_logprobs_BT
    control_BT = mask_BT & torch.isin(batch.token_BT, torch.tensor(sorted(control_token_ids), device=mask_BT.device))
    weighted_BT = spread(weight_BK.nan_to_num(0.0), batch.step_BT) * log_ratio_BT
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
        "teacher_term": _mean(weighted_BT[mask_BT].abs()),
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

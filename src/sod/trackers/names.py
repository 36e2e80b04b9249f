"""Every metric that a run tells, by group: docs/metrics.md shows this table with what each means, and a test compares.

grouped({"update": 3, "reward": 0.5, "rollout_s": 1.2}) -> {"train/reward": 0.5, "time/rollout_s": 1.2}
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

NUM_STEPS = 8
"""Steps of an episode that have metrics of their own."""
_CALLS, _NATS, _BY_TOKEN = "share of calls", "nats", "nats / token"

GROUPS: Mapping[str, Mapping[str, str]] = {
    "train": {
        "num_trajectories": "count",
        "reward": "reward",
        "accuracy": "share",
        "unjudged": "count",
        "loss": "loss; nats / token in sft",
        "teacher_loss": _BY_TOKEN,
        "clip_fraction": "share of tokens",
        "dual_clip_fraction": "share of tokens",
        "approx_kl": _NATS,
        "entropy": _BY_TOKEN,
        "grad_norm": "norm",
        "lr": "learning rate",
        "num_tokens": "count",
    },
    "episode": {
        "answered": "share",
        "out_of_tokens": "share",
        "out_of_turns": "share",
        "malformed_call_limit": "share",
        "turns": "turns",
        "sampled_tokens": "tokens",
        "response_tokens": "tokens",
    },
    "tools": {
        "num_calls": "count",
        "tool_calls": "calls",
        "failed_calls": "count",
        "failed_turns": "count",
        "retried": "count",
        "ok_share": _CALLS,
        "error_share": _CALLS,
        "crashed_share": _CALLS,
        "timeout_share": _CALLS,
        "memory_limit_share": _CALLS,
        "disk_limit_share": _CALLS,
        "output_limit_share": _CALLS,
        "malformed_share": _CALLS,
        "empty_share": _CALLS,
        "infrastructure_failures": "count",
        "lost_calls": "count",
        "infrastructure_share": "share of `num_calls` + `lost_calls`",
    },
    "signal": {
        "divergence": _BY_TOKEN,
        "divergence_correct": _BY_TOKEN,
        "divergence_wrong": _BY_TOKEN,
        **{f"divergence_step_{step}": _BY_TOKEN for step in range(1, NUM_STEPS + 1)},
        "weight": "factor",
        "weight_min": "factor",
        **{f"weight_step_{step}": "factor" for step in range(1, NUM_STEPS + 1)},
        "log_ratio": _NATS,
        "log_ratio_min": _NATS,
        "log_ratio_p99": _NATS,
        "log_ratio_control": _NATS,
        "log_ratio_control_min": _NATS,
        "teacher_term": _NATS,
        "agreement_after_failure": "correlation",
        "agreement_elsewhere": "correlation",
        "agreement_at_openings": "correlation",
        "trust_after_failure": "factor",
        "staleness": "updates",
        "rollout_gap": _BY_TOKEN,
        "importance": "factor",
        "importance_min": "factor",
    },
    "time": {
        "rollout_s": "seconds",
        "learn_s": "seconds",
        "weights_s": "seconds",
        "straggler_s": "seconds",
        "record_s": "seconds",
        "total_s": "seconds",
        "elapsed_s": "seconds",
    },
    "memory": {"host_gib": "GiB", "gpu_gib": "GiB"},
    "evaluation": {
        "num_problems": "count",
        "k": "count",
        "num_samples": "count",
        "num_failed": "count",
        "num_missing": "count",
        "avg@k": "share",
        "pass@k": "share",
        "maj@k": "share",
        **{f"{name}@k_{end}": "share" for name in ("avg", "pass", "maj") for end in ("low", "high")},
        "no_answer": "share of samples",
        "turns": "turns",
        "tool_calls": "calls",
        "calling": "share of samples",
        "response_tokens": "tokens",
        "sampled_tokens": "tokens",
        "read_tokens": "tokens",
        "correct": "share of samples",
    },
}
"""Group -> name -> unit. A name stands once but for an evaluation's, whose samples are others."""

_HOMES = {name: group for group, names in GROUPS.items() if group != "evaluation" for name in names}
_COUNTERS = frozenset({"update", "num_updates"})


def grouped(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an update or a step by their full names; one that the table does not know is `other/NAME`."""
    flat = {**values, **(values["memory"] if isinstance(values.get("memory"), Mapping) else {})}
    return {f"{_HOMES.get(key, 'other')}/{key}": value for key, value in _numbers(flat) if key not in _COUNTERS}


def evaluated(values: Mapping[str, Any], *, benchmark: str = "") -> dict[str, float]:
    """The numbers of an evaluation: `evaluation/avg@k`, or `evaluation/aime24/avg@k` of one benchmark of several."""
    start = f"evaluation/{benchmark}/" if benchmark else "evaluation/"
    known = GROUPS["evaluation"]
    return {f"{start}{key}": value for key, value in _numbers(values) if key in known}


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What is a finite number; texts, lists and tables are never sent."""
    for key, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield key, float(value)

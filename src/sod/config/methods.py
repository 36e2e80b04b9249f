"""Methods by name: which terms of the objective each adds up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """Which terms a named method adds up: the outcome's advantage (GRPO), the teacher's log-ratio, and its weight."""

    outcome: bool
    teacher: bool
    step_weights: bool


METHODS: Mapping[str, Method] = {
    "grpo": Method(outcome=True, teacher=False, step_weights=False),
    "opd": Method(outcome=False, teacher=True, step_weights=False),
    "opd_grpo": Method(outcome=True, teacher=True, step_weights=False),
    "sod": Method(outcome=True, teacher=True, step_weights=True),
}
"""Methods by name: `sod` is the paper's rule, the others are the terms it is made of."""

MethodName = Literal["grpo", "opd", "opd_grpo", "sod"]

"""Estimates from k samples a problem: avg@k, pass@k, maj@k, their intervals, and the paired test of two runs.

Problems are what was drawn, samples within one are not independent: every interval and test works on problem means.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

NORMAL_95 = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean with its 95 % interval (normal, clustered by problem, cut to [0, 1])."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A paired comparison: mean difference over problems, its 95 % interval, and the two-sided p of sign flips."""

    difference: float
    low: float
    high: float
    p_value: float


def average_at_k(correct: Sequence[Sequence[bool]]) -> Estimate:
    """avg@k: the mean of problem means. `[[1, 0], [1, 1]] -> 0.75`.

    Problems may have unequal numbers of samples (some are lost with their sandbox) and weigh the same. Raises
    ValueError without problems, or for a problem without samples.
    """
    if not correct or not all(correct):
        empty = sum(not samples for samples in correct)
        raise ValueError(f"avg@k needs problems with a sample each, got {len(correct)} problems, {empty} without")
    means = [sum(samples) / len(samples) for samples in correct]
    return _interval(means)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k samples drawn without replacement hold a correct one: 1 - C(n - c, k) / C(n, k).

    `pass_at_k(4, 1, 2) -> 0.5`. Raises ValueError unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(
            f"pass@k needs 0 <= num_correct <= num_samples and 1 <= k <= num_samples, got num_samples={num_samples}, "
            f"num_correct={num_correct}, k={k}"
        )
    return 1.0 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """Chance that a majority vote is right, ties broken evenly. None (no answer) does not vote.

    `maj_at_k(["3", "4", "4"], [False, True, True]) -> 1.0`; no answers at all give 0. Raises ValueError unless there is
    one verdict per answer.
    """
    if len(answers) != len(correct):
        raise ValueError(f"maj@k needs one verdict per answer, got {len(answers)} answers and {len(correct)} verdicts")
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return 0.0
    right = {answer for answer, is_right in zip(answers, correct, strict=True) if is_right}
    most = max(votes.values())
    leaders = [answer for answer, count in votes.items() if count == most]
    return sum(answer in right for answer in leaders) / len(leaders)


def compare(before: Sequence[float], after: Sequence[float], *, num_flips: int = 20_000, seed: int = 0) -> Comparison:
    """Paired test of two runs on the same problems, given each problem's mean under both.

    Under the null hypothesis each problem's difference is as likely to have the other sign; the p-value is the share of
    `num_flips` random sign patterns whose mean is at least as far from 0 (the observed one counted in). Raises
    ValueError without problems, or unless both runs have the same number of them.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"a paired test needs the same problems in both runs, got {len(before)} and {len(after)}")
    differences = [b - a for a, b in zip(before, after, strict=True)]
    count = len(differences)
    mean = sum(differences) / count
    spread = _standard_error(differences) * NORMAL_95
    rng = random.Random(seed)
    # Zero differences cannot flip; leaving them out changes nothing but the time.
    moved = [difference for difference in differences if difference]
    observed = abs(sum(moved)) - 1e-12
    extreme = sum(
        abs(sum(d if bit == "1" else -d for d, bit in zip(moved, _bits(rng, len(moved)), strict=True))) >= observed
        for _ in range(num_flips)
    )
    return Comparison(difference=mean, low=mean - spread, high=mean + spread, p_value=(extreme + 1) / (num_flips + 1))


def _bits(rng: random.Random, count: int) -> str:
    return format(rng.getrandbits(count), f"0{count}b") if count else ""


def _interval(means: Sequence[float]) -> Estimate:
    value = sum(means) / len(means)
    spread = _standard_error(means) * NORMAL_95
    if value in (0.0, 1.0):
        # No spread was seen, which is not certainty: the exact bound for so many problems all alike (Clopper-Pearson).
        reach = 1.0 - 0.025 ** (1.0 / len(means))
        return Estimate(value=value, low=max(0.0, value - reach), high=min(1.0, value + reach))
    return Estimate(value=value, low=max(0.0, value - spread), high=min(1.0, value + spread))


def _standard_error(values: Sequence[float]) -> float:
    count = len(values)
    if count < 2:
        return math.inf
    mean = sum(values) / count
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)

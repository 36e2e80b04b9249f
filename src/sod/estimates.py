"""Estimates from k samples a problem: avg@k, pass@k, maj@k, their intervals, and comparisons of runs and of methods.

Problems are what was drawn; samples within one are not independent (Miller 2024, "Adding error bars to evals"). Every
interval and test here therefore works on one value a problem. `tests/test_estimates.py` simulates what they promise.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from operator import getitem
from statistics import NormalDist, fmean, variance

NORMAL_95 = 1.959963984540054
"""The normal quantile of a two-sided 95 % interval."""

MAX_ENUMERATED = 16
"""Up to so many differences all patterns of signs are gone through (65,536); beyond, random ones."""

TINY = 1e-9
"""Sums of shares that differ by less are the same but for rounding."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over problems with its 95 % interval, within [0, 1]."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A paired comparison: mean difference over problems, its 95 % interval, and the two-sided p of sign flips.

    The interval is a bootstrap's and the p-value a permutation test's: at the edge one may call a difference
    significant and the other not.
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsMean:
    """A mean over seeds and problems with its 95 % interval."""

    value: float
    low: float
    high: float
    num_seeds: int
    num_problems: int
    standard_error: float
    freedom: int
    """Degrees of freedom of its Student's t."""

    @property
    def p_value(self) -> float:
        """Two-sided, of the value against 0; below 0.05 just where the interval is without 0. Of one seed it is about
        these very weights on other problems."""
        if self.standard_error < TINY:
            return float(abs(self.value) < TINY)
        return max(0.0, 1.0 - student_t_within(abs(self.value) / self.standard_error, self.freedom))


# ---- one run


def average_at_k(correct: Sequence[Sequence[bool]]) -> Estimate:
    """avg@k: the mean of problem means. `[[1, 0], [1, 1]] -> 0.75`.

    Problems may have unequal numbers of samples (some are lost with their sandbox) and weigh the same. Raises
    ValueError without problems, or for a problem without samples.
    """
    if not correct or not all(correct):
        empty = sum(not samples for samples in correct)
        raise ValueError(f"avg@k needs problems with a sample each, got {len(correct)} problems, {empty} without")
    return mean_over_problems([sum(samples) / len(samples) for samples in correct])


def mean_over_problems(values: Sequence[float]) -> Estimate:
    """The mean of one share a problem (avg@k's, pass@k's, maj@k's), with an interval for the mean of such problems.

    Wilson's interval (1927) with Student's t and an effective number of samples n p (1 - p) / variance, after Korn and
    Graubard (1998) and Dean and Pagano (2015): n independent all-or-nothing samples would spread as these n problems
    do. A few problems can look alike by chance, above all near 0 or 1, and then the variance is far too small. It is
    therefore taken over one more problem, which is all or nothing with Wilson's centre as its chance, and the effective
    number is never below n. `[1, 0, 0, 0, 0] -> 0.2 [0.02, 0.74]`, `[0, 0, 0, 0, 0] -> 0 [0, 0.61]`, and one problem
    says nothing about others. Raises ValueError without values, or for one that is not in [0, 1].
    """
    _check_shares(values)
    value, count = fmean(values), len(values)
    if count == 1:
        return Estimate(value=value, low=0.0, high=1.0)
    squared_t = student_t_95(count - 1) ** 2
    centre = (count * value + squared_t / 2) / (count + squared_t)
    variance = (sum((v - value) ** 2 for v in values) + centre * (1.0 - centre)) / count
    effective = max(count, count * value * (1.0 - value) / variance)
    middle = (effective * value + squared_t / 2) / (effective + squared_t)
    reach = math.sqrt(squared_t * (effective * value * (1.0 - value) + squared_t / 4)) / (effective + squared_t)
    return Estimate(value=value, low=max(0.0, min(value, middle - reach)), high=min(1.0, max(value, middle + reach)))


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k samples drawn without replacement hold a correct one: 1 - C(n - c, k) / C(n, k).

    The unbiased estimate of Chen et al. (2021), in whole numbers until the division. `pass_at_k(4, 1, 2) -> 0.5`.
    Raises ValueError unless 0 <= num_correct <= num_samples and 1 <= k <= num_samples.
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(
            f"pass@k needs 0 <= num_correct <= num_samples and 1 <= k <= num_samples, got num_samples={num_samples}, "
            f"num_correct={num_correct}, k={k}"
        )
    draws = math.comb(num_samples, k)
    return (draws - math.comb(num_samples - num_correct, k)) / draws


def majority_at_k(groups: Sequence[Hashable | None], *, right: Collection[Hashable], k: int | None = None) -> float:
    """Chance that the most frequent answer among k samples drawn without replacement is right, ties broken evenly.

    `groups` holds each sample's answer (None gave none and does not vote), `right` the answers that are right, k None
    is all samples. `majority_at_k(["3", "4", "4"], right={"4"}, k=2) -> 2/3`: "4" leads one pair of three and ties in
    two. Nobody voting counts as wrong. Raises ValueError unless 1 <= k <= len(groups).

    Counted, not sampled. A group of c answers has C(c, j) ways to hold j of the draw. For each m >= 1 at which the
    leaders may stand, the product over groups of sum_{j < m} C(c, j) x^j + C(c, m) x^m y counts the draws by size (x)
    and number of leaders (y). A polynomial is kept as one integer with a field of bits for each coefficient.
    """
    size = len(groups)
    if k is not None and not 1 <= k <= size:
        raise ValueError(f"maj@k needs 1 <= k <= the number of samples, got k={k} and {size} samples")
    k = size if k is None else k
    votes = Counter(groups)
    silent = votes.pop(None, 0)
    x = size + size.bit_length()  # bits of a field: no coefficient reaches size * 2^size
    y = (size + 1) * x
    total = Fraction(0)
    for most in range(1, min(k, max(votes.values(), default=0)) + 1):
        draws = sum(math.comb(silent, j) << (j * x) for j in range(silent + 1))
        hits = 0  # the same with each draw counted once for every leader that is right
        keep = (1 << ((k // most + 1) * y)) - 1  # more leaders than that do not fit into k
        for group, count in votes.items():
            below = sum(math.comb(count, j) << (j * x) for j in range(most))
            leading, shift = math.comb(count, most), most * x + y
            hits = (hits * below + ((hits + draws * (group in right)) * leading << shift)) & keep
            draws = (draws * below + (draws * leading << shift)) & keep
        tied = ((leaders, hits >> (leaders * y + k * x) & ((1 << x) - 1)) for leaders in range(1, k // most + 1))
        total += sum(Fraction(share, leaders) for leaders, share in tied)
    return float(total / math.comb(size, k))


# ---- two runs


def compare(
    before: Sequence[float],
    after: Sequence[float],
    *,
    num_flips: int = 20_000,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compare two runs on the same problems, given each problem's mean under both. Swapping them mirrors the result.

    Interval: bootstrap over problems, between the percentiles that Hesterberg (2015) widens for few problems, because
    resampling alone spreads less than Student's t. Where all differences are alike it sees no spread; then as many
    further problems may differ from them, anyhow, as `mean_over_problems` allows for none seen of n. A change that sits
    in a handful of problems is covered less often than 95 %: trust p there. p: see `_flip_p`.

    Raises ValueError without problems, unless both runs have the same number, or for a mean that is not in [0, 1].
    """
    if not before or len(before) != len(after):
        raise ValueError(f"a paired test needs the same problems in both runs, got {len(before)} and {len(after)}")
    _check_shares([*before, *after])
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean, rng = fmean(differences), random.Random(seed)
    p_value = _flip_p([d for d in differences if d], num_flips=num_flips, rng=rng)
    if max(differences) - min(differences) < TINY:
        unseen = mean_over_problems([0.0] * len(differences)).high
        low, high = mean - unseen * (1.0 + mean), mean + unseen * (1.0 - mean)
    else:
        low, high = _bootstrap_95(differences, num_resamples=num_resamples, rng=rng)
    return Comparison(difference=mean, low=min(low, mean), high=max(high, mean), p_value=p_value)


def _flip_p(moved: Sequence[float], *, num_flips: int, rng: random.Random) -> float:
    """Share of sign patterns whose sum is at least as far from 0: without an effect, either sign is as likely.

    `[1, 1, 1] -> 0.25`. Zero differences are left out; they cannot flip. Up to `MAX_ENUMERATED` all patterns, beyond
    `num_flips` random ones with the observed one counted in, as p is never 0 (Phipson and Smyth 2010).
    """
    far = abs(sum(moved)) - TINY
    if len(moved) <= MAX_ENUMERATED:
        sums = _signed_sums(moved)
        return sum(abs(total) >= far for total in sums) / len(sums)
    # A random byte picks the signs of eight differences at once. The last table has fewer, each of them repeated.
    tables = [_signed_sums(moved[start : start + 8]) for start in range(0, len(moved), 8)]
    tables[-1] *= 256 // len(tables[-1])
    flips = (sum(map(getitem, tables, rng.randbytes(len(tables)))) for _ in range(num_flips))
    return (sum(abs(total) >= far for total in flips) + 1) / (num_flips + 1)


def _signed_sums(values: Sequence[float]) -> list[float]:
    """The sums under all patterns of signs. `[1, 2] -> [-3, -1, 1, 3]`, in some order."""
    sums = [0.0]
    for value in values:
        sums = [total - value for total in sums] + [total + value for total in sums]
    return sums


def _bootstrap_95(values: Sequence[float], *, num_resamples: int, rng: random.Random) -> tuple[float, float]:
    """Ends of the expanded percentile interval for the mean (Hesterberg 2015, "What teachers should know")."""
    count = len(values)

    def resampled() -> float:
        # Faster than rng.choices; the remainder favours no problem by more than count / 2^32.
        return sum([values[draw % count] for draw in memoryview(rng.randbytes(4 * count)).cast("I")]) / count

    means = sorted(resampled() for _ in range(num_resamples))
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * student_t_95(count - 1))
    cut = int(tail * num_resamples)
    return means[cut], means[-1 - cut]


# ---- several seeds


def mean_over_seeds(rows: Sequence[Sequence[float]]) -> SeedsMean:
    """The mean of a matrix (seeds, problems), and how far other seeds on other problems would have it.

    `[[1, 0], [0, 1]] -> 0.5 +- much`. Of a difference of two methods the matrix is one's problem means less the
    other's. Both seeds and problems were drawn, so both count: cut into grand mean + seed effect + problem effect +
    rest, the mean's variance is

        var(seed effects) / S + var(problem effects) / P + sum of squared rests / (S P)^2

    (what a bootstrap that draws both again comes to), and Student's t has Satterthwaite's degrees of freedom: with
    three seeds that differ much, nearly 4.3 standard errors. One seed tells nothing about others: then the interval is
    of problems alone.

    How often p is below 0.05, and below 0.05 / 40, for methods that are alike (%; 150 problems of 4 samples, 4000
    draws), by the standard deviation of seeds:

        seeds   1.5 points   3 points     6 points
        3       1.0, 0       2.6, 0.25   4.9, 1.0
        2       1.8, 0.03    5.9, 0.75   9.3, 2.6

    With three seeds it is careful at 5 %; far out, where a correction for many comparisons looks, it is too bold where
    seeds differ by 3 points or more, since a few can be alike by chance. Raises ValueError for no values, or rows of
    different length.
    """
    if not rows or not rows[0] or len({len(row) for row in rows}) != 1:
        raise ValueError(f"a mean needs seeds with the same problems, got {len(rows)} of {[len(row) for row in rows]}")
    num_seeds, num_problems = len(rows), len(rows[0])
    value = fmean(map(fmean, rows))
    seeds = [fmean(row) - value for row in rows]
    problems = [fmean(column) - value for column in zip(*rows, strict=True)]
    rests = sum(
        (each - value - seed - problem) ** 2
        for row, seed in zip(rows, seeds, strict=True)
        for each, problem in zip(row, problems, strict=True)
    )
    parts = [(variance(effects) / len(effects), len(effects) - 1) for effects in (seeds, problems) if len(effects) > 1]
    error = math.sqrt(sum(part for part, _ in parts) + rests / (num_seeds * num_problems) ** 2)
    freedom = _satterthwaite(parts)
    reach = error * student_t_95(freedom)
    return SeedsMean(
        value=value,
        low=value - reach,
        high=value + reach,
        num_seeds=num_seeds,
        num_problems=num_problems,
        standard_error=error,
        freedom=freedom,
    )


def _satterthwaite(parts: Sequence[tuple[float, int]]) -> int:
    """Degrees of freedom of a sum of variances, each with its own: `[(1, 2), (1, 100)] -> 7`."""
    squares = sum(part**2 / freedom for part, freedom in parts)
    if not squares:
        return max((freedom for _, freedom in parts), default=1)
    return max(1, int(sum(part for part, _ in parts) ** 2 / squares + TINY))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) corrected p-values, in the order given. `[.01, .04, .03] -> [.03, .06, .06]`."""
    corrected, least = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = least
    return corrected


# ---- shared


@lru_cache
def student_t_95(freedom: int) -> float:
    """Student's t of a two-sided 95 % interval, by bisection. `student_t_95(10) -> 2.228`."""
    low, high = 1.9, 12.8  # infinitely many degrees of freedom and one
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_within(middle, freedom) < 0.95 else (low, middle)
    return (low + high) / 2


def student_t_within(t: float, freedom: int) -> float:
    """P(abs(T) < t) for whole degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = total = 0.0 if freedom == 1 else 1.0
    for i in range(2 + odd, freedom - 1, 2):
        term *= (i - 1) / i * math.cos(angle) ** 2
        total += term
    if odd:
        return 2.0 / math.pi * (angle + math.sin(angle) * math.cos(angle) * total)
    return math.sin(angle) * total


def _check_shares(values: Sequence[float]) -> None:
    wrong = [value for value in values if not 0.0 <= value <= 1.0]
    if wrong or not values:
        got = f"{wrong[0]} among {len(values)}" if wrong else "none"
        raise ValueError(f"estimates need one share in [0, 1] for each problem, got {got}")

"""Estimates against counting, brute force and simulation."""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import one_hot

from sod.estimates import (
    MAX_ENUMERATED,
    NORMAL_95,
    Comparison,
    Estimate,
    average_at_k,
    compare,
    holm,
    majority_at_k,
    mean_over_problems,
    mean_over_seeds,
    pass_at_k,
    student_t_95,
)

# ---- pass@k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(numbers: tuple[int, int, int]) -> None:
    num_samples, num_correct, k = numbers
    draws = list(itertools.combinations(range(num_samples), k))
    share = sum(any(index < num_correct for index in draw) for draw in draws) / len(draws)
    assert pass_at_k(num_samples, num_correct, k) == share


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_stays_a_probability_and_grows(numbers: tuple[int, int, int]) -> None:
    num_samples, num_correct, k = numbers
    value = pass_at_k(num_samples, num_correct, k)
    assert 0.0 <= value <= 1.0
    assert pass_at_k(num_samples, num_correct, 1) == num_correct / num_samples
    if k < num_samples:
        assert pass_at_k(num_samples, num_correct, k + 1) >= value
    if num_correct < num_samples:
        assert pass_at_k(num_samples, num_correct + 1, k) >= value


@pytest.mark.parametrize(("num_correct", "k"), [(0, 5000), (1, 1), (1, 5000), (3, 7), (40, 300), (5000, 5000)])
def test_pass_at_k_of_ten_thousand_samples(num_correct: int, k: int) -> None:
    """Against the chance that every one of the right samples is left out, drawn one after the other."""
    missed = Fraction(1)
    for index in range(num_correct):
        missed *= Fraction(max(10_000 - k - index, 0), 10_000 - index)
    assert pass_at_k(10_000, num_correct, k) == float(1 - missed)


@pytest.mark.parametrize("num_correct", [0, 1, 3])
def test_pass_at_k_is_unbiased(num_correct: int) -> None:
    """The mean over all draws of 5 samples from a pool of 9 is the pool's own pass@2."""
    pool = [index < num_correct for index in range(9)]
    values = [pass_at_k(5, sum(draw), 2) for draw in itertools.combinations(pool, 5)]
    assert sum(values) / len(values) == pytest.approx(pass_at_k(9, num_correct, 2))


@pytest.mark.parametrize("numbers", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be_drawn(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"got num_samples={numbers[0]}, num_correct={numbers[1]}, k={numbers[2]}"):
        pass_at_k(*numbers)


# ---- maj@k


def majority_by_enumeration(groups: Sequence[str | None], right: Collection[str], k: int) -> Fraction:
    """All draws, one after the other."""
    draws = list(itertools.combinations(groups, k))
    total = Fraction(0)
    for draw in draws:
        votes = Counter(group for group in draw if group is not None)
        leaders = [group for group, count in votes.items() if count == max(votes.values())]
        total += Fraction(sum(group in right for group in leaders), len(leaders) or 1)
    return total / len(draws)


def winner(answers: Sequence[str | None]) -> str | None:
    """The answer that most gave; of several such, the one that was given first."""
    given_answers = [answer for answer in answers if answer is not None]
    return max(given_answers, key=given_answers.count, default=None)


ANSWERS = st.sampled_from(["1", "2", "3", "4", "5", None])


@given(st.lists(ANSWERS, min_size=1, max_size=9), st.sets(st.sampled_from(["1", "2", "3", "9"])), st.data())
def test_majority_at_k_is_the_mean_over_all_draws(
    groups: list[str | None], right: set[str], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(groups)))
    assert majority_at_k(groups, right=right, k=k) == float(majority_by_enumeration(groups, right, k))


@given(st.lists(ANSWERS, min_size=1, max_size=40), st.sets(st.sampled_from(["1", "2", "3"])))
def test_one_vote_is_avg_and_all_votes_are_the_vote(groups: list[str | None], right: set[str]) -> None:
    assert majority_at_k(groups, right=right, k=1) == sum(group in right for group in groups) / len(groups)
    assert majority_at_k(groups, right=right, k=len(groups)) == majority_at_k(groups, right=right)
    wrong = {group for group in groups if group is not None} - right
    silent = math.comb(groups.count(None), min(3, len(groups))) / math.comb(len(groups), min(3, len(groups)))
    both = [majority_at_k(groups, right=side, k=min(3, len(groups))) for side in (right, wrong)]
    assert sum(both) == pytest.approx(1.0 - silent)


@pytest.mark.parametrize(("num_right", "num_wrong", "k"), [(20, 44, 31), (33, 31, 32), (5, 59, 9)])
def test_majority_of_two_answers_is_hypergeometric(num_right: int, num_wrong: int, k: int) -> None:
    ways = [math.comb(num_right, j) * math.comb(num_wrong, k - j) for j in range(k + 1)]
    wins = sum(Fraction(count) * (1 if 2 * j > k else 0) for j, count in enumerate(ways))
    ties = Fraction(ways[k // 2], 2) if k % 2 == 0 else 0
    got = majority_at_k(["r"] * num_right + ["w"] * num_wrong, right={"r"}, k=k)
    assert got == float((wins + ties) / math.comb(num_right + num_wrong, k))


@pytest.mark.parametrize(
    "groups",
    [list(range(64)), [index % 8 for index in range(64)], [0] * 32 + list(range(1, 33)), [0] * 40 + [None] * 24],
    ids=["all different", "eight of eight", "one and many", "one and silence"],
)
def test_majority_of_many_samples_agrees_with_drawing_and_is_fast(groups: list[int | None]) -> None:
    start = time.perf_counter()
    value = majority_at_k(groups, right={0, 1}, k=32)
    assert time.perf_counter() - start < 1.0  # 10 ms on a small machine
    rng = random.Random(0)
    drawn = [majority_at_k(rng.sample(groups, 32), right={0, 1}) for _ in range(400)]
    assert value == pytest.approx(sum(drawn) / 400, abs=0.08)


def test_majority_by_hand() -> None:
    assert majority_at_k(["3", "4", "4"], right={"4"}, k=2) == pytest.approx(2 / 3)
    assert majority_at_k(["3", "4", None], right={"4"}, k=2) == 0.5  # "4" alone, "3" alone, a tie
    assert majority_at_k(["3", "4", "4"], right={"3", "4"}, k=2) == 1.0
    assert majority_at_k([None, None], right={"4"}, k=1) == 0.0
    assert majority_at_k([], right={"4"}) == 0.0


@pytest.mark.parametrize(("groups", "k"), [(["1", "2"], 0), (["1", "2"], 3), ([], 1)])
def test_majority_refuses_what_cannot_be_drawn(groups: list[str], k: int) -> None:
    with pytest.raises(ValueError, match=f"1 <= k <= the number of samples, got k={k} and {len(groups)} samples"):
        majority_at_k(groups, right={"1"}, k=k)


@given(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=6), st.sets(st.sampled_from(["1", "2", "3"])))
def test_majority_at_k_is_the_mean_over_orders_in_which_ties_fall(answers: list[str | None], right: set[str]) -> None:
    orders = list(itertools.permutations(answers))
    share = sum(winner(order) in right for order in orders) / len(orders)
    # The first of the tied in a random order is any of them alike: that breaks ties evenly.
    assert majority_at_k(answers, right=right) == pytest.approx(share)


def test_majority_at_k_by_hand() -> None:
    assert majority_at_k(["3", "4", "4"], right={"4"}) == 1.0
    assert majority_at_k(["3", "4"], right={"4"}) == 0.5
    assert majority_at_k([None, None, "4"], right={"4"}) == 1.0
    assert majority_at_k([None], right={"4"}) == 0.0
    assert majority_at_k([], right=set()) == 0.0


# ---- Student's t


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (10, 2.2281), (29, 2.0452), (120, 1.9799)],
)
def test_student_t_is_that_of_the_printed_tables(freedom: int, quantile: float) -> None:
    assert student_t_95(freedom) == pytest.approx(quantile, abs=5e-5)


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 1054])
def test_student_t_cuts_off_five_percent_of_the_density(freedom: int) -> None:
    grid = np.linspace(0.0, student_t_95(freedom), 200_001)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    density = scale * (1.0 + grid**2 / freedom) ** (-(freedom + 1) / 2)
    assert 2.0 * np.trapezoid(density, grid) == pytest.approx(0.95, abs=1e-8)


# ---- avg@k and other means over problems


def test_average_by_hand() -> None:
    """One sample a problem: Wilson's interval with t for z. Its ends solve (p - end)^2 = t^2 end (1 - end) / n."""
    estimate = average_at_k([[True]] * 3 + [[False]] * 7)
    assert estimate.value == 0.3
    for end in (estimate.low, estimate.high):
        assert (0.3 - end) ** 2 == pytest.approx(2.262157**2 * end * (1.0 - end) / 10)
    assert estimate.low < 0.3 < estimate.high
    assert str(Estimate(value=0.75, low=0.26, high=1.0)) == "75.0 % [26.0, 100.0]"


def test_problems_weigh_the_same_however_many_samples_they_kept() -> None:
    assert average_at_k([[True], [False, False, False]]).value == 0.5
    assert average_at_k([[True, False], [True, True]]) == mean_over_problems([0.5, 1.0])


def test_an_all_alike_result_is_not_certainty() -> None:
    """0 of 24 problems: Wilson's end for none of n is t^2 / (n + t^2). One sample more may not turn it upside down."""
    nothing = average_at_k([[False] * 32] * 24)
    assert (nothing.value, nothing.low) == (0.0, 0.0)
    assert nothing.high == pytest.approx(2.068658**2 / (24 + 2.068658**2))
    assert average_at_k([[True] * 32] * 24).low == pytest.approx(1.0 - nothing.high)
    assert average_at_k([[False] * 32] * 23 + [[True] + [False] * 31]).high > nothing.high


def test_more_samples_of_the_same_problems_help_only_as_far_as_problems_agree() -> None:
    """Half of 60 problems always solved is 60 draws; all of them solved half of the time is far more."""
    split = mean_over_problems([0.0, 1.0] * 30)
    alike = mean_over_problems([0.5] * 60)
    assert split.high - split.low == pytest.approx(0.25, abs=0.01)
    assert alike.high - alike.low < 0.05


def test_one_problem_says_nothing_about_others() -> None:
    assert average_at_k([[True, True, False, False]]) == Estimate(value=0.5, low=0.0, high=1.0)


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.25, 1.0]), min_size=1, max_size=40), st.randoms())
def test_the_interval_holds_the_mean_and_mirrors(values: list[float], rng: random.Random) -> None:
    estimate = mean_over_problems(values)
    assert 0.0 <= estimate.low <= estimate.value <= estimate.high <= 1.0
    assert estimate.value == pytest.approx(sum(values) / len(values))
    mirror = mean_over_problems([1.0 - value for value in values])
    assert (mirror.low, mirror.high) == pytest.approx((1.0 - estimate.high, 1.0 - estimate.low), abs=1e-6)
    again = mean_over_problems(rng.sample(values, len(values)))
    assert (again.low, again.high) == pytest.approx((estimate.low, estimate.high))


@pytest.mark.parametrize("correct", [[], [[]], [[True], []]])
def test_average_needs_samples(correct: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match=r"avg@k needs problems with a sample each, got \d problems, \d without"):
        average_at_k(correct)


@pytest.mark.parametrize(("values", "got"), [([], "none"), ([0.5, 1.5], "1.5 among 2"), ([math.nan], "nan among 1")])
def test_a_mean_is_of_shares(values: list[float], got: str) -> None:
    with pytest.raises(ValueError, match=rf"one share in \[0, 1\] for each problem, got {got}"):
        mean_over_problems(values)


DIFFICULTIES = {
    "even": (1.0, 1.0),
    "bell": (5.0, 5.0),
    "U": (0.3, 0.3),
    "all or nothing": (0.1, 0.1),
    "hard": (1.0, 9.0),
    "mostly zero": (0.1, 0.9),
    "nearly all zero": (0.05, 0.95),
    "easy": (4.0, 0.5),
}
"""Parameters of Beta distributions of a problem's chance."""

RUNS = {30: 1200, 60: 1000, 198: 800, 1055: 600}
"""Simulated runs by number of problems."""


@pytest.mark.parametrize("k", [1, 4, 32])
@pytest.mark.parametrize("num_problems", RUNS)
def test_the_interval_holds_the_truth_as_often_as_it_says(num_problems: int, k: int) -> None:
    """Near 95 % for problems of all kinds of difficulty, and hardly wider than the normal interval where that holds."""
    rng = np.random.RandomState([num_problems, k])
    num_runs = RUNS[num_problems]
    for name, (a, b) in DIFFICULTIES.items():
        truth = a / (a + b)
        means = rng.binomial(k, rng.beta(a, b, (num_runs, num_problems))) / k
        estimates = [mean_over_problems(row) for row in means.tolist()]
        covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
        assert 0.925 <= covered <= 0.985, name
        reach = NORMAL_95 * means.std(axis=1, ddof=1) / math.sqrt(num_problems)
        value = means.mean(axis=1)
        normal_covered = np.mean(abs(value - truth) <= reach)
        width = np.mean([estimate.high - estimate.low for estimate in estimates]) / np.mean(2.0 * reach)
        # Wider only where the normal one is too narrow, or by what t and the further problem cost so few problems.
        assert width < 1.02 + 7.0 / num_problems or normal_covered < 0.92, name
        assert width < 1.02 + 12.0 / num_problems, name


def test_the_normal_interval_would_not() -> None:
    """What this rule is for: 30 problems, most of them beyond the model."""
    rng = np.random.RandomState(0)
    means = rng.binomial(4, rng.beta(0.05, 0.95, (2000, 30))) / 4
    reach = NORMAL_95 * means.std(axis=1, ddof=1) / math.sqrt(30)
    normal = np.mean(abs(means.mean(axis=1) - 0.05) <= reach)
    estimates = [mean_over_problems(row) for row in means.tolist()]
    assert normal < 0.85
    assert 0.94 < np.mean([estimate.low <= 0.05 <= estimate.high for estimate in estimates]) < 0.985


@pytest.mark.parametrize("measure", ["pass", "majority"])
def test_intervals_of_pass_and_majority_hold_theirs(measure: str) -> None:
    """8 samples of 40 problems with three answers, k = 4; the truth is the mean over problems without end."""
    rng = np.random.RandomState(1)
    right, chance = {0}, rng.beta(0.5, 0.5, 20_000)

    def values(chances: np.ndarray) -> list[float]:
        answers = np.where(
            rng.random_sample((len(chances), 8)) < chances[:, None], 0, rng.randint(1, 3, (len(chances), 8))
        )
        if measure == "pass":
            return [pass_at_k(8, int(np.sum(row == 0)), 4) for row in answers]
        return [majority_at_k(row, right=right, k=4) for row in answers.tolist()]

    pool = np.array(values(chance))
    truth = float(pool.mean())
    estimates = [mean_over_problems(rng.choice(pool, 40).tolist()) for _ in range(1500)]
    assert 0.93 <= np.mean([estimate.low <= truth <= estimate.high for estimate in estimates]) <= 0.985


# ---- the paired comparison


def exhaustive_p(differences: Sequence[float]) -> float:
    observed = abs(sum(differences)) - 1e-9
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed for signs in patterns
    ) / len(patterns)


def random_means(rng: random.Random, *, count: int, k: int = 4) -> list[float]:
    return [rng.randint(0, k) / k for _ in range(count)]


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_share_of_sign_flips(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(3, 10)
    before, after = random_means(rng, count=count), random_means(rng, count=count, k=3)
    assert compare(before, after).p_value == exhaustive_p([b - a for a, b in zip(before, after, strict=True)])


@pytest.mark.parametrize("num_moved", [MAX_ENUMERATED, MAX_ENUMERATED + 1, 20])
def test_random_flips_agree_with_all_of_them(num_moved: int) -> None:
    """Across the border of enumeration, in eights and not; numbers of ups are binomial, so the truth is known."""
    ups = num_moved - 5
    after = [0.75] * ups + [0.25] * 5 + [0.5] * (40 - num_moved)
    result = compare([0.5] * 40, after, num_flips=200_000)
    tail = sum(math.comb(num_moved, j) for j in range(6)) / 2 ** (num_moved - 1)
    assert result.p_value == pytest.approx(tail, abs=1e-12 if num_moved == MAX_ENUMERATED else 0.003)


def test_no_difference_at_all_is_not_certainty() -> None:
    """None of 24 problems moved: of others, as many may as `mean_over_problems` allows for none of 24, up or down."""
    result = compare([0.25, 0.5, 1.0] * 8, [0.25, 0.5, 1.0] * 8)
    reach = mean_over_problems([0.0] * 24).high
    assert result == Comparison(difference=0.0, low=-reach, high=reach, p_value=1.0)
    assert compare([0.25], [0.75]) == Comparison(difference=0.5, low=-1.0, high=1.0, p_value=1.0)
    alike = compare([0.25] * 24, [0.75] * 24)
    assert (alike.low, alike.high) == pytest.approx((0.5 - 1.5 * reach, 0.5 + 0.5 * reach))


def test_a_clear_difference() -> None:
    before = [0.25] * 30 + [0.5] * 10
    after = [0.75] * 30 + [0.5] * 10
    result = compare(before, after)
    assert result.difference == pytest.approx(0.375)
    assert 0.29 < result.low < 0.375 < result.high < 0.46
    assert result.p_value == pytest.approx(1 / 20_001)


def test_the_interval_is_between_quantiles_of_the_resampled_mean() -> None:
    """Against every one of the 5^5 resamples of five differences, at Hesterberg's percentiles."""
    before, after = [0.5, 0.5, 0.5, 0.5, 0.5], [0.0, 0.55, 0.65, 0.8, 1.0]
    differences = [b - a for a, b in zip(before, after, strict=True)]
    means = np.array([sum(draw) / 5 for draw in itertools.product(differences, repeat=5)])
    # t with 4 degrees of freedom is 2.7764; times sqrt(5 / 4) that is 3.1041 normal deviations: 0.0955 % to each side.
    result = compare(before, after, num_resamples=100_000)
    assert np.mean(means < result.low - 1e-9) <= 0.00125
    assert np.mean(means <= result.low + 1e-9) >= 0.0007
    assert np.mean(means > result.high + 1e-9) <= 0.00125
    assert np.mean(means >= result.high - 1e-9) >= 0.0007


@pytest.mark.parametrize("count", [8, 20, 45])
def test_the_other_way_round_is_the_mirror_image(count: int) -> None:
    rng = random.Random(3)
    before, after = [rng.random() for _ in range(count)], [rng.random() for _ in range(count)]
    one, other = compare(before, after), compare(after, before)
    assert (one.difference, one.low, one.high) == (-other.difference, -other.high, -other.low)
    assert one.p_value == other.p_value


def test_the_same_call_gives_the_same_numbers() -> None:
    rng = random.Random(5)
    before, after = [rng.random() for _ in range(30)], [rng.random() for _ in range(30)]
    one, other = compare(before, after), compare(before, after, seed=1)
    assert one == compare(before, after)
    assert one != other
    assert (one.low, one.high, one.p_value) == pytest.approx((other.low, other.high, other.p_value), abs=0.02)


GOLDEN = (-0.0375, -0.22916666666666666, 0.15416666666666667, 0.7207639618019099)


def test_the_numbers_stay_what_they_were() -> None:
    """Recorded: a published comparison can be met again."""
    rng = random.Random(8)
    result = compare(random_means(rng, count=30, k=8), random_means(rng, count=30, k=8))
    assert (result.difference, result.low, result.high, result.p_value) == pytest.approx(GOLDEN, abs=1e-12)


@pytest.mark.parametrize("count", [12, 25])
def test_under_the_null_hypothesis_p_is_below_a_level_as_often_as_the_level(count: int) -> None:
    rng = random.Random(0)
    values = []
    for _ in range(400):
        before = [rng.random() for _ in range(count)]
        after = [rng.random() for _ in range(count)]
        values.append(compare(before, after, num_flips=400, num_resamples=50).p_value)
    for level in (0.05, 0.25, 0.5, 0.75):
        share = sum(value <= level for value in values) / len(values)
        assert share == pytest.approx(level, abs=3.0 * math.sqrt(level * (1.0 - level) / len(values)))


@pytest.mark.parametrize(("num_problems", "k"), [(30, 1), (30, 4), (60, 4), (60, 32)])
def test_the_interval_of_a_difference_holds_the_truth_as_often_as_it_says(num_problems: int, k: int) -> None:
    """A model that learns to solve 0.3 of what it got wrong, on problems of U-shaped difficulty: better by 0.15."""
    rng = np.random.RandomState([num_problems, k])
    num_runs = 400
    chances = rng.beta(0.3, 0.3, (num_runs, num_problems))
    before = rng.binomial(k, chances) / k
    after = rng.binomial(k, chances + 0.3 * (1.0 - chances)) / k
    results = [
        compare(*pair, num_flips=1, num_resamples=600) for pair in zip(before.tolist(), after.tolist(), strict=True)
    ]
    covered = np.mean([result.low <= 0.15 <= result.high for result in results])
    assert 0.92 <= covered <= 0.98
    normal = 2.0 * NORMAL_95 * (after - before).std(axis=1, ddof=1) / math.sqrt(num_problems)
    assert np.mean([result.high - result.low for result in results]) / np.mean(normal) == pytest.approx(1.03, abs=0.03)


@pytest.mark.parametrize(("before", "after"), [([], []), ([0.5], []), ([0.5], [0.5, 1.0])])
def test_a_paired_test_needs_pairs(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match=f"same problems in both runs, got {len(before)} and {len(after)}"):
        compare(before, after)


def test_a_paired_test_is_of_shares() -> None:
    with pytest.raises(ValueError, match=r"one share in \[0, 1\] for each problem, got -0.5 among 4"):
        compare([0.5, -0.5], [0.5, 0.5])


# ---- several seeds


def test_intervals_of_seeds_and_problems_hold_what_they_promise() -> None:
    """3 seeds x 60 problems around 0, with effects of both: about 95 % of the intervals hold 0."""
    generator = torch.Generator().manual_seed(1)
    held = 0
    for _ in range(200):
        seed, problem = (torch.randn(n, generator=generator) for n in (3, 60))
        rest = torch.randn(3, 60, generator=generator)
        found = mean_over_seeds((0.05 * seed[:, None] + 0.3 * problem + 0.2 * rest).tolist())
        held += found.low <= 0.0 <= found.high
    assert 182 <= held <= 200


@pytest.mark.parametrize(("num_seeds", "share"), [(3, 0.026), (2, 0.059)])
def test_how_often_p_errs_is_as_told(num_seeds: int, share: float) -> None:
    """Methods that are alike, seeds with a standard deviation of 3 points: the table of `mean_over_seeds`."""
    generator, num_draws, below = torch.Generator().manual_seed(5), 1000, 0

    def method(easy_P: torch.Tensor) -> torch.Tensor:
        share_SP = (easy_P + 0.03 * torch.randn(num_seeds, 1, generator=generator)).clamp(0.02, 0.98)
        return torch.stack([torch.bernoulli(share_SP, generator=generator) for _ in range(4)]).mean(0)

    for _ in range(num_draws):
        easy_P = (0.25 * torch.randn(150, generator=generator) + 0.5).clamp(0.05, 0.95)
        below += mean_over_seeds((method(easy_P) - method(easy_P)).tolist()).p_value < 0.05
    assert below / num_draws == pytest.approx(share, abs=3.5 * math.sqrt(share / num_draws))


def test_the_error_of_a_mean_over_seeds_is_what_drawing_both_again_gives() -> None:
    """A bootstrap of seeds and of problems, effects stretched by sqrt(n / (n - 1)): n draws of n spread less than they
    stand for."""
    generator = torch.Generator().manual_seed(3)
    mean_SP = 0.3 * torch.rand(4, 1, generator=generator) + torch.rand(4, 30, generator=generator).double()
    value = mean_SP.mean()
    seed_S, problem_P = mean_SP.mean(1) - value, mean_SP.mean(0) - value
    rest_SP = mean_SP - value - seed_S[:, None] - problem_P
    drawn_S, drawn_P = (torch.randint(n, (40_000, n), generator=generator) for n in (4, 30))
    share_RS, share_RP = (one_hot(drawn).double().mean(1) for drawn in (drawn_S, drawn_P))
    drawn_R = share_RS @ seed_S * (4 / 3) ** 0.5 + share_RP @ problem_P * (30 / 29) ** 0.5
    drawn_R += (share_RS @ rest_SP * share_RP).sum(1)
    assert mean_over_seeds(mean_SP.tolist()).standard_error == pytest.approx(float(drawn_R.std()), rel=0.02)


def test_one_seed_is_an_interval_of_problems() -> None:
    problems = [0.1, 0.5, 0.9, 0.4]
    found = mean_over_seeds([problems])
    assert found.standard_error == pytest.approx(statistics.stdev(problems) / 2)
    assert (found.num_seeds, found.num_problems, found.freedom) == (1, 4, 3)


def test_seeds_that_differ_widen_the_interval() -> None:
    problems = [0.1, 0.5, 0.9, 0.4] * 10
    alike = mean_over_seeds([problems, problems, problems])
    apart = mean_over_seeds([[p - 0.1 for p in problems], problems, [p + 0.1 for p in problems]])
    assert alike.value == pytest.approx(apart.value)
    assert apart.high - apart.low > 2 * (alike.high - alike.low)
    with pytest.raises(ValueError, match="same problems"):
        mean_over_seeds([[1.0, 0.0], [1.0]])


def test_holm_corrects_by_rank() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []

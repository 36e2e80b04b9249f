"""Estimates against counting, brute force and simulation."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.estimates import Comparison, Estimate, average_at_k, compare, maj_at_k, pass_at_k

# ---- pass@k


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(numbers: tuple[int, int, int]) -> None:
    num_samples, num_correct, k = numbers
    draws = list(itertools.combinations(range(num_samples), k))
    share = sum(any(index < num_correct for index in draw) for draw in draws) / len(draws)
    assert pass_at_k(num_samples, num_correct, k) == pytest.approx(share)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_stays_a_probability_and_grows(numbers: tuple[int, int, int]) -> None:
    num_samples, num_correct, k = numbers
    value = pass_at_k(num_samples, num_correct, k)
    assert 0.0 <= value <= 1.0
    assert pass_at_k(num_samples, num_correct, 1) == pytest.approx(num_correct / num_samples)
    if k < num_samples:
        assert pass_at_k(num_samples, num_correct, k + 1) >= value
    if num_correct < num_samples:
        assert pass_at_k(num_samples, num_correct + 1, k) >= value


@pytest.mark.parametrize("numbers", [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses_what_cannot_be_drawn(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"got num_samples={numbers[0]}, num_correct={numbers[1]}, k={numbers[2]}"):
        pass_at_k(*numbers)


# ---- maj@k


def winner(answers: Sequence[str | None]) -> str | None:
    """The answer that most gave; of several such, the one that was given first."""
    given_answers = [answer for answer in answers if answer is not None]
    return max(given_answers, key=given_answers.count, default=None)


@given(st.lists(st.sampled_from(["1", "2", "3", None]), max_size=6), st.sets(st.sampled_from(["1", "2", "3"])))
def test_maj_at_k_is_the_mean_over_orders_in_which_ties_fall(answers: list[str | None], right: set[str]) -> None:
    orders = list(itertools.permutations(answers))
    share = sum(winner(order) in right for order in orders) / len(orders)
    # The first of the tied in a random order is any of them alike: that breaks ties evenly.
    assert maj_at_k(answers, [answer in right for answer in answers]) == pytest.approx(share)


def test_maj_at_k_by_hand() -> None:
    assert maj_at_k(["3", "4", "4"], [False, True, True]) == 1.0
    assert maj_at_k(["3", "4"], [False, True]) == 0.5
    assert maj_at_k([None, None, "4"], [False, False, True]) == 1.0
    assert maj_at_k([None], [False]) == 0.0
    assert maj_at_k([], []) == 0.0


def test_maj_at_k_needs_a_verdict_per_answer() -> None:
    with pytest.raises(ValueError, match="got 2 answers and 1 verdicts"):
        maj_at_k(["1", "2"], [True])


# ---- avg@k


def test_average_by_hand() -> None:
    estimate = average_at_k([[True, False], [True, True]])
    # means .5 and 1: standard deviation .3536, standard error .25, the upper end cut at 1.
    assert estimate.value == 0.75
    assert estimate.low == pytest.approx(0.75 - 1.96 * 0.25, abs=1e-4)
    assert estimate.high == 1.0
    assert str(Estimate(value=0.75, low=0.26, high=1.0)) == "75.0 % [26.0, 100.0]"


def test_problems_weigh_the_same_however_many_samples_they_kept() -> None:
    assert average_at_k([[True], [False, False, False]]).value == 0.5


def test_an_all_alike_result_is_not_certainty() -> None:
    """0 of 24 problems: the upper end is the share at which 24 misses in a row still happen once in forty."""
    estimate = average_at_k([[False, False]] * 24)
    assert (estimate.value, estimate.low) == (0.0, 0.0)
    assert (1.0 - estimate.high) ** 24 == pytest.approx(0.025)
    assert average_at_k([[True]] * 24).low == pytest.approx(1.0 - estimate.high)


def test_one_problem_says_nothing_about_others() -> None:
    estimate = average_at_k([[True, True, False, False]])
    assert (estimate.value, estimate.low, estimate.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize("correct", [[], [[]], [[True], []]])
def test_average_needs_samples(correct: list[list[bool]]) -> None:
    with pytest.raises(ValueError, match=r"avg@k needs problems with a sample each, got \d problems, \d without"):
        average_at_k(correct)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Problems of different difficulty, a few samples each: an interval over samples would hold it far less often."""
    rng = random.Random(0)
    covered = 0
    num_runs = 600
    for _ in range(num_runs):
        chances = [rng.betavariate(1.0, 1.0) for _ in range(50)]
        estimate = average_at_k([[rng.random() < chance for _ in range(4)] for chance in chances])
        covered += estimate.low <= 0.5 <= estimate.high
    assert 0.92 < covered / num_runs < 0.975


# ---- the paired test


def exhaustive_p(differences: Sequence[float]) -> float:
    observed = abs(sum(differences)) - 1e-9
    patterns = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed for signs in patterns
    ) / len(patterns)


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_share_of_sign_flips(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(3, 10)
    before = [rng.randint(0, 4) / 4 for _ in range(count)]
    after = [rng.randint(0, 4) / 4 for _ in range(count)]
    want = exhaustive_p([b - a for a, b in zip(before, after, strict=True)])
    assert compare(before, after).p_value == pytest.approx(want, abs=0.015)


def test_no_difference_at_all() -> None:
    assert compare([0.25, 0.5, 1.0], [0.25, 0.5, 1.0]) == Comparison(difference=0.0, low=0.0, high=0.0, p_value=1.0)


def test_a_clear_difference() -> None:
    before = [0.25] * 30 + [0.5] * 10
    after = [0.75] * 30 + [0.5] * 10
    result = compare(before, after)
    assert result.difference == pytest.approx(0.375)
    assert result.low < 0.375 < result.high
    assert result.low > 0.3
    assert result.p_value == pytest.approx(1 / 20_001)


def test_the_other_way_round_is_the_mirror_image() -> None:
    rng = random.Random(3)
    before, after = [rng.random() for _ in range(20)], [rng.random() for _ in range(20)]
    one, other = compare(before, after), compare(after, before)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low))
    assert one.p_value == other.p_value


def test_the_same_call_gives_the_same_p() -> None:
    rng = random.Random(5)
    before, after = [rng.random() for _ in range(12)], [rng.random() for _ in range(12)]
    assert compare(before, after) == compare(before, after)
    assert compare(before, after, seed=1).p_value == pytest.approx(compare(before, after).p_value, abs=0.03)


def test_under_the_null_hypothesis_p_is_below_a_level_as_often_as_the_level() -> None:
    rng = random.Random(0)
    values = []
    for _ in range(300):
        before = [rng.random() for _ in range(15)]
        after = [rng.random() for _ in range(15)]
        values.append(compare(before, after, num_flips=400).p_value)
    assert 0.01 <= sum(value <= 0.05 for value in values) / len(values) <= 0.09
    assert 0.42 <= sum(value <= 0.5 for value in values) / len(values) <= 0.58


@pytest.mark.parametrize(("before", "after"), [([], []), ([0.5], []), ([0.5], [0.5, 1.0])])
def test_a_paired_test_needs_pairs(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match=f"same problems in both runs, got {len(before)} and {len(after)}"):
        compare(before, after)

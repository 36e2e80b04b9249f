# ruff: noqa: ARG005 - rules by hand take one signature
"""Every method on a toy of two and three steps: weights and advantages by hand, gradients by finite differences."""

from __future__ import annotations

import copy
import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sod.algorithm import policy_loss
from sod.batch import Batch, pad
from sod.config import METHODS, TrainConfig, parse, unread
from sod.config.unread import READ_WITH, reads
from sod.credit import Credit, Trust, assign_credit

# Two trajectories of one problem. A step is [(student's log-prob, teacher's log-prob), ...]; its call failed or not.
Step = list[tuple[float, float]]
RIGHT: list[Step] = [[(-0.1, -0.2), (-0.3, -0.2)], [(-1.0, -2.0), (-0.5, -0.7), (-0.2, -0.2)]]
WRONG: list[Step] = [[(-0.4, -0.1)], [(-0.6, -6.9), (-0.2, -3.2)], [(-0.9, -0.8), (-0.1, -0.2)]]
FAILED = [[False, False], [True, False, False]]
REWARDS = [1.0, 0.0]
TRAJECTORIES = [RIGHT, WRONG]
SAME_CREDIT = ("gkd", "opsd_gt", "opsd_hint", "custom")
"""What sets these apart is in the loss (test_learner) or in what the teacher is shown (test_teachers)."""


def config(method: str = "sod", **sections: Any) -> TrainConfig:
    fields: dict[str, Any] = {"run": "r", "student": {"path": "s"}, "data": {"path": "d"}}
    if not method.startswith("opsd"):  # taught by the student's own copy
        fields["teacher"] = {"path": "t"}
    if method == "ropd":
        fields["rubrics"] = {"url": "http://127.0.0.1:1", "model": "m"}
    return parse(TrainConfig, {**fields, "method": method, **sections})


def toy(trajectories: Sequence[list[Step]] = TRAJECTORIES, *, failed: Sequence[list[bool]] = FAILED) -> Batch:
    """A prompt token, then each step followed by one token of observation."""
    rows: dict[str, list[list[float]]] = {"step": [], "student": [], "teacher": []}
    for steps in trajectories:
        step, student, teacher = [-1], [0.0], [math.nan]
        for number, tokens in enumerate(steps):
            step += [number] * len(tokens) + [-1]
            student += [own for own, _ in tokens] + [0.0]
            teacher += [theirs for _, theirs in tokens] + [math.nan]
        for name, values in (("step", step), ("student", student), ("teacher", teacher)):
            rows[name].append(list(values))
    longest = max(map(len, rows["step"]))
    step_BT = pad(rows["step"], longest, -1, torch.int64)
    return Batch(
        token_BT=torch.ones_like(step_BT),
        step_BT=step_BT,
        rollout_logprobs_BT=pad(rows["student"], longest, 0.0, torch.float32),
        teacher_logprobs_BT=pad(rows["teacher"], longest, math.nan, torch.float32),
        reward_B=torch.tensor(REWARDS[: len(trajectories)]),
        failed_BK=pad(failed, max(map(len, trajectories)), False, torch.bool),
        call_BT=torch.zeros_like(step_BT, dtype=torch.bool),
        group_B=torch.zeros(len(trajectories), dtype=torch.int64),
        length_B=torch.tensor([len(row) for row in rows["step"]]),
    )


def credit(settings: TrainConfig, batch: Batch | None = None, *, update: int = 1, seed: int = 0) -> Credit:
    batch = toy() if batch is None else batch
    return assign_credit(batch, settings, student_logprobs_BT=batch.rollout_logprobs_BT, update=update, seed=seed)


def by_step(values_BT: Tensor) -> list[list[list[float]]]:
    """A tensor of tokens as lists by trajectory and step."""
    step_BT = toy().step_BT
    return [
        [values_BT[row][step_BT[row] == number].tolist() for number in range(len(steps))]
        for row, steps in enumerate(TRAJECTORIES)
    ]


# Weights by hand -----------------------------------------------------------------------------------------------------


def gaps(tokens: Step) -> list[float]:
    return [abs(student - teacher) for student, teacher in tokens]


def divergence(tokens: Step) -> float:
    return statistics.mean(gaps(tokens))


def ratio(steps: list[Step], number: int, *, cap: float = 1.2, epsilon: float = 1e-6) -> float:
    return min((divergence(steps[0]) + epsilon) / (divergence(steps[number]) + epsilon), cap)


def prefix(steps: list[Step], number: int) -> list[float]:
    all_gaps = [gap for tokens in steps for gap in gaps(tokens)]
    start = sum(len(tokens) for tokens in steps[:number])
    return [1 + 1 - sum(all_gaps[:place]) / sum(all_gaps) for place in range(start, start + len(steps[number]))]


def constant(rule: Callable[[list[Step], int, int], float]) -> Callable[[list[Step], int, int], list[float]]:
    return lambda steps, number, row: [rule(steps, number, row)] * len(steps[number])


BY_HAND: dict[str, Callable[[list[Step], int, int], list[float]]] = {
    "opd": constant(lambda steps, number, row: 1.0),
    "opd_grpo": constant(lambda steps, number, row: 1.0),
    "sod": constant(lambda steps, number, row: ratio(steps, number)),
    "sod_no_grpo": constant(lambda steps, number, row: ratio(steps, number)),
    "sod_no_cap": constant(lambda steps, number, row: ratio(steps, number, cap=math.inf)),
    "sod_decay": constant(lambda steps, number, row: 0.9**number if FAILED[row][0] else 1.0),
    "sod_mask": constant(lambda steps, number, row: float(not (FAILED[row][0] and number > 0))),
    "sod_threshold": constant(lambda steps, number, row: float(divergence(steps[number]) <= 0.5)),
    "sod_token": lambda steps, number, row: [
        min((divergence(steps[0]) + 1e-6) / (gap + 1e-6), 1.2) for gap in gaps(steps[number])
    ],
    "iw_opd": lambda steps, number, row: prefix(steps, number),
    "tcod": constant(lambda steps, number, row: float(number == 0)),
    "reopold": constant(lambda steps, number, row: 1.0),
    "tropd": constant(lambda steps, number, row: 1.0),
}
LOG_RATIO: dict[str, Callable[[float], float]] = {
    "reopold": lambda value: max(value, -5.0),
    "tropd": lambda value: value if abs(value) <= 2.0 else 0.0,
}
WITHOUT_OUTCOME = {"opd", "sod_no_grpo", "iw_opd", "tcod", "reopold", "tropd", "gkd"}


def outcome_advantage(row: int) -> float:
    return (REWARDS[row] - statistics.mean(REWARDS)) / (statistics.stdev(REWARDS) + 1e-6)


@pytest.mark.parametrize("method", BY_HAND)
def test_weights_and_advantages_are_those_worked_out_by_hand(method: str) -> None:
    given = credit(config(method))
    weight, advantage = by_step(given.weight_BT), by_step(given.advantage_BT)
    bounded = LOG_RATIO.get(method, float)
    for row, steps in enumerate(TRAJECTORIES):
        outcome = 0.0 if method in WITHOUT_OUTCOME else outcome_advantage(row)
        for number, tokens in enumerate(steps):
            expected = BY_HAND[method](steps, number, row)
            assert weight[row][number] == pytest.approx(expected, rel=1e-4)
            terms = [w * bounded(theirs - own) for w, (own, theirs) in zip(expected, tokens, strict=True)]
            assert advantage[row][number] == pytest.approx([outcome + term for term in terms], rel=1e-4)
    outside = toy().step_BT < 0
    assert (given.advantage_BT[outside] == 0).all()
    assert (given.weight_BT[outside] == 0).all()


def test_grpo_is_the_outcome_alone() -> None:
    for row, steps in enumerate(by_step(credit(config("grpo")).advantage_BT)):
        for values in steps:
            assert values == pytest.approx([outcome_advantage(row)] * len(values))


@pytest.mark.parametrize(("samples", "alone"), [(16, 0.0), (1, 1.0)])
def test_what_is_left_of_a_group_alone_has_no_outcome_to_learn_from(samples: int, alone: float) -> None:
    """A group that was meant to have siblings, and a run that plays each problem once (the published rule)."""
    batch = dataclasses.replace(toy(), group_B=torch.tensor([0, 1]))
    settings = config("sod", update={"samples": samples, "prompts": 16})
    found = credit(settings, batch)
    teachers_BT = (found.weight_BT * found.log_ratio_BT).nan_to_num(0.0)
    outcome_BT = (found.advantage_BT - teachers_BT)[batch.mask_BT]
    rewarded_BT = batch.reward_B[:, None].expand_as(batch.mask_BT)[batch.mask_BT]
    assert outcome_BT.tolist() == pytest.approx((alone * rewarded_BT).tolist(), abs=1e-5)
    assert math.isnan(found.trust.elsewhere[-1]) == (samples > 1)


def test_random_weights_are_the_published_ones_in_another_order() -> None:
    """First steps keep theirs; the others are dealt out, by the seed."""
    sod = credit(config("sod")).weight_BK
    dealt = [credit(config("sod_random"), seed=seed).weight_BK for seed in range(20)]
    for weight_BK in dealt:
        assert (weight_BK[:, 0] == sod[:, 0]).all()
        assert sorted(weight_BK[~weight_BK.isnan()].tolist()) == sorted(sod[~sod.isnan()].tolist())
        assert (weight_BK.isnan() == sod.isnan()).all()
    assert len({tuple(weight_BK.nan_to_num().flatten().tolist()) for weight_BK in dealt}) > 1
    again = credit(config("sod_random"), seed=3).weight_BK
    assert torch.equal(again.nan_to_num(), dealt[3].nan_to_num())


def test_outcome_weights_follow_how_steps_of_a_divergence_end() -> None:
    """Steps of small gaps belong to the right trajectory here, those of large gaps to the wrong one."""
    near: list[Step] = [[(-0.1, -0.11)], [(-0.1, -0.12)]]
    far: list[Step] = [[(-0.1, -1.0)], [(-0.1, -2.0)]]
    weight_BK = credit(config("sod_outcome"), toy([near, far], failed=[[False, False]] * 2)).weight_BK
    assert (weight_BK[0] > 1.0).all()
    assert (weight_BK[1] < 1.0).all()
    assert float(weight_BK.max()) == pytest.approx(1.2)


def test_a_curriculum_lets_the_teacher_speak_at_one_more_step_after_so_many_updates() -> None:
    settings = config("tcod", weights={"curriculum": 10})
    spoken = {update: credit(settings, update=update).weight_BT for update in (1, 10, 11, 20, 21)}
    for update, num_steps in ((1, 1), (10, 1), (11, 2), (20, 2), (21, 3)):
        step_BT = toy().step_BT
        assert ((spoken[update] > 0) == ((step_BT >= 0) & (step_BT < num_steps))).all(), update


def test_the_median_anchor_is_the_same_for_all() -> None:
    anchor = statistics.median_low([divergence(steps[0]) for steps in TRAJECTORIES])
    given = credit(config("sod", weights={"anchor": "median", "epsilon": 0.1}))
    for row, steps in enumerate(TRAJECTORIES):
        expected = [min((anchor + 0.1) / (divergence(tokens) + 0.1), 1.2) for tokens in steps]
        assert given.weight_BK[row, : len(steps)].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_floor_keeps_the_teacher_heard() -> None:
    weight_BK = credit(config("sod", weights={"floor": 0.3})).weight_BK
    assert float(weight_BK.nan_to_num(9.0).min()) == pytest.approx(0.3)


@pytest.mark.parametrize("rule", ["ratio", "random", "token_ratio", "outcome"])
def test_weights_without_a_cap(rule: str) -> None:
    """`delta = "off"` is a setting of every rule that has a cap."""
    batch = toy()
    settings = config("custom", weights={"rule": rule, "delta": "off"})
    weight_BT = credit(settings, batch).weight_BT
    assert weight_BT.isfinite().all()
    assert float(weight_BT.max()) > 1.2


def test_a_clipped_trust_region_keeps_the_border() -> None:
    settings = config("tropd", objective={"outside": "clip"})
    advantage = by_step(credit(settings).advantage_BT)
    assert advantage[1][1] == pytest.approx([-2.0, -2.0])


# After a failed call -------------------------------------------------------------------------------------------------


def test_a_silent_teacher_says_nothing_after_the_first_failed_call() -> None:
    """The failing step itself was sampled before anybody knew, so it counts; what follows does not."""
    given = credit(config("sod", weights={"after_failure": "silent"}))
    plain = credit(config("sod")).weight_BK
    assert torch.equal(given.weight_BK[0, :2], plain[0, :2])  # nothing failed there
    assert given.weight_BK[1].tolist() == [float(plain[1, 0]), 0.0, 0.0]


def trusting(approvals: Sequence[Sequence[float]], *, elsewhere: Sequence[float]) -> Credit:
    """Eight trajectories, every second one right; the first call of each fails. Log-ratios by trajectory: of the first
    step's only token `elsewhere`, of the tokens after the failure `approvals`."""
    steps = [
        [[(-9.0, -9.0 + first)], [(-9.0, -9.0 + each) for each in then]]
        for first, then in zip(elsewhere, approvals, strict=True)
    ]
    batch = toy(steps, failed=[[True, False]] * len(steps))
    return credit(
        config("sod", weights={"after_failure": "earned"}),
        dataclasses.replace(batch, reward_B=torch.tensor([1.0, 0.0] * 4), group_B=torch.zeros(8, dtype=torch.int64)),
    )


INFORMED = [0.1, -1.0] * 4


def test_a_teacher_that_likes_what_ends_well_is_heard_after_a_failure() -> None:
    given = trusting([[each] for each in INFORMED], elsewhere=INFORMED)
    assert given.trust.value == pytest.approx(1.0)
    assert (given.weight_BT[:, 3] > 0).all()


def test_a_teacher_that_dislikes_all_that_follows_a_failure_is_not_heard_there() -> None:
    given = trusting([[-3.0], [-3.1], [-3.1], [-3.0]] * 2, elsewhere=INFORMED)
    assert given.trust.value == 0.0
    assert (given.weight_BT[:, 3] == 0).all()
    assert (given.weight_BT[:, 1] == 1).all()


def test_a_teacher_that_is_wrong_where_a_step_is_decided_is_not_heard_however_right_it_is_about_the_rest() -> None:
    """It knows how a call is written, and objects to making it again: the mean over a long step hides that."""
    right, wrong = [-5.0, *[0.1] * 9], [0.0, *[-2.0] * 9]
    given = trusting([right, wrong] * 4, elsewhere=INFORMED)
    assert given.trust.here[-1] == pytest.approx(1.0)
    assert given.trust.opening[-1] == pytest.approx(-1.0)
    assert given.trust.value == 0.0
    for tag in (0.0, -0.001):
        content_alone = trusting([[tag, *right[1:]], wrong] * 4, elsewhere=INFORMED)
        assert math.isnan(content_alone.trust.opening[-1]), "all begin alike: nothing to tell from"
        assert content_alone.trust.value == pytest.approx(1.0)


def test_trust_is_averaged_over_the_latest_updates_and_can_be_taken_up_again() -> None:
    trust, again = Trust(), Trust()
    periods = ((0.2, 0.1, 30, 1.0), (0.0, 0.1, 5, 0.0), (0.2, 0.0, 10, 1.0), (0.2, -0.1, 5, 0.5), (0.2, -0.1, 5, 0.0))
    for here, opening, count, value in periods:
        for _ in range(count):
            trust = trust.after(here=here, elsewhere=0.2, opening=opening)
            again = again.after_metrics(trust.metrics)
        assert trust.value == pytest.approx(value)
    assert again == trust


def test_a_teacher_without_evidence_has_earned_nothing() -> None:
    assert Trust().value == 0.0
    assert Trust().after(here=0.3, elsewhere=-0.1).value == 0.0
    assert Trust().after(here=0.03, elsewhere=0.02).value == 0.0, "two small numbers are no measure of each other"


def test_updates_without_evidence_do_not_count_against_a_teacher() -> None:
    """A student that hardly fails, or whose groups all end alike, tells nothing of the teacher."""
    trust, again = Trust(), Trust()
    for here in (0.2, math.nan, math.nan, 0.2, math.nan, math.nan):
        trust = trust.after(here=here, elsewhere=0.2)
        again = again.after_metrics(trust.metrics)
        assert trust.value == again.value == pytest.approx(1.0)
    nothing_failed = toy(failed=[[False, False], [False, False, False]])
    told = credit(config("sod"), nothing_failed).trust.metrics
    assert "agreement_after_failure" not in told
    assert told["trust_after_failure"] == 0.0


# What d_k is ---------------------------------------------------------------------------------------------------------


def test_k3_in_the_place_of_the_gap() -> None:
    given = credit(config("sod", weights={"divergence": "k3"}))
    for row, steps in enumerate(TRAJECTORIES):
        expected = [
            statistics.mean(math.exp(theirs - own) - 1 - (theirs - own) for own, theirs in tokens) for tokens in steps
        ]
        assert given.divergence_BK[row, : len(steps)].tolist() == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(("scope", "inside"), [("calls", True), ("reasoning", False)])
def test_the_scope_of_a_divergence(scope: str, inside: bool) -> None:
    """The second token of every step is a call's; a step of one token has none and is measured whole."""
    batch = toy()
    place_BT = torch.zeros_like(batch.step_BT)
    for row, column in (batch.step_BT >= 0).nonzero().tolist():
        same = batch.step_BT[row, column] == batch.step_BT[row, column - 1]
        place_BT[row, column] = place_BT[row, column - 1] + 1 if same else 1
    object.__setattr__(batch, "call_BT", place_BT == 2)
    given = credit(config("sod", weights={"scope": scope}), batch)
    for row, steps in enumerate(TRAJECTORIES):
        for number, tokens in enumerate(steps):
            chosen = [gap for place, gap in enumerate(gaps(tokens), start=1) if (place == 2) is inside]
            expected = statistics.mean(chosen or gaps(tokens))
            assert float(given.divergence_BK[row, number]) == pytest.approx(expected, rel=1e-4)


# Gradients -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("gkd", "custom")])
def test_the_gradient_is_what_the_formula_says(method: str) -> None:
    """On policy d loss / d log p_t = -A_t / N, and finite differences of the loss say the same."""
    batch = toy()
    given = credit(config(method))
    logprobs_BT = batch.rollout_logprobs_BT.double().requires_grad_()
    old_BT, advantage_BT = batch.rollout_logprobs_BT.double(), given.advantage_BT.double()

    def loss(new_BT: Tensor) -> Tensor:
        return policy_loss(new_BT, old_BT, advantage_BT, batch.mask_BT).loss

    loss(logprobs_BT).backward()  # type: ignore[no-untyped-call]
    assert logprobs_BT.grad is not None
    assert torch.allclose(logprobs_BT.grad, -advantage_BT / batch.mask_BT.sum())
    for row, column in batch.mask_BT.nonzero().tolist():
        step = torch.zeros_like(old_BT)
        step[row, column] = 1e-6
        slope = (loss(old_BT + step) - loss(old_BT - step)) / 2e-6
        assert float(slope) == pytest.approx(float(logprobs_BT.grad[row, column]), abs=1e-6)


def test_every_method_gives_other_advantages_than_every_other() -> None:
    """Switching one on changes the update."""
    advantages = {name: credit(config(name), seed=1).advantage_BT for name in METHODS if name not in SAME_CREDIT}
    for name, advantage_BT in advantages.items():
        for other in advantages.keys() - {name}:
            assert (advantage_BT - advantages[other]).abs().max() > 1e-3, (name, other)


# Methods and presets as settings -------------------------------------------------------------------------------------


def test_a_config_that_contradicts_its_method_is_refused() -> None:
    with pytest.raises(ValueError, match=r'method = "opd" is weights\.rule = "uniform", got "random"; leave it out'):
        config("opd", weights={"rule": "random"})
    assert config("custom", weights={"rule": "random"}).weights.rule == "random"


@pytest.mark.parametrize(
    ("method", "sections"),
    [
        ("tcod", {"weights": {"curriculum": 0}}),
        ("reopold", {"objective": {"log_ratio_floor": "off"}}),
        ("tropd", {"objective": {"trust_region": "off"}}),
    ],
)
def test_a_rival_cannot_be_switched_off_under_its_own_name(method: str, sections: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is plain OPD"):
        config(method, **sections)


@pytest.mark.parametrize("value", [3, "uniform", None, ["ratio"]])
@pytest.mark.parametrize("section", ["objective", "weights"])
def test_a_section_that_is_none_is_refused(section: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'"{section}" must be a section'):
        config("sod", **{section: value})


@pytest.mark.parametrize("bounds", [{"log_ratio_floor": 5.0}, {"log_ratio_floor": 2.0, "log_ratio_ceiling": -2.0}])
def test_bounds_that_move_agreement_itself_are_refused(bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="log_ratio_floor must be at most 0"):
        config("sod", objective=bounds)


def test_what_a_method_leaves_open_can_be_set() -> None:
    assert config("sod", weights={"epsilon": 0.5}).weights.epsilon == 0.5
    assert config("tcod").weights.curriculum == 20
    assert config("tcod", weights={"curriculum": 3}).weights.curriculum == 3


def test_a_preset_fills_in_and_does_not_override() -> None:
    assert config("sod", preset="paper") == config("sod")
    stable = config("sod", preset="stable")
    assert stable != config("sod")
    assert config("sod", preset="stable", weights={"epsilon": 0.7}).weights.epsilon == 0.7


def test_a_resolved_config_is_read_back_as_it_was() -> None:
    for name in METHODS:
        settings = config(name, preset="stable")
        again = parse(TrainConfig, copy.deepcopy(settings.model_dump(mode="json")))
        assert again == settings, name


# Settings that do nothing --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "sections", "wanted"),
    [
        ("opd", {"weights": {"epsilon": 0.3}}, ['weights.epsilon = 0.3 does nothing with weights.rule = "uniform"']),
        ("sod", {"weights": {"epsilon": 0.3, "top_k": 4}}, ["weights.top_k = 4 does nothing with weights.divergence"]),
        ("sod", {"objective": {"outside": "clip", "beta": 0.5}}, ["objective.beta = 0.5", "objective.outside = "]),
        ("sod_no_grpo", {"objective": {"divide_by_std": False}}, ["objective.divide_by_std = false does nothing with"]),
        ("tropd", {"objective": {"outside": "clip"}}, []),
        ("opd", {"preset": "stable"}, []),
        ("opd", {"preset": "stable", "weights": {"epsilon": 0.1}}, ["weights.epsilon = 0.1"]),
    ],
)
def test_settings_that_do_nothing_are_said(method: str, sections: dict[str, Any], wanted: list[str]) -> None:
    said = list(unread(config(method, **sections)))
    assert len(said) == len(wanted)
    for sentence, start in zip(said, wanted, strict=True):
        assert sentence.startswith(start)


@pytest.mark.parametrize("method", METHODS)
def test_no_method_sets_what_it_does_not_read(method: str) -> None:
    assert not list(unread(config(method)))


@pytest.mark.parametrize("dotted", READ_WITH)
def test_a_setting_that_is_said_to_do_nothing_does_nothing(dotted: str) -> None:
    """Where the table says that a setting is not read, another value of it gives the same credit."""
    name, key = dotted.split(".")
    others = {"weights.anchor": "median", "objective.divide_by_std": False, "objective.importance_mask": True}
    others["objective.outside"] = "clip"
    other = others.get(dotted, 3 if key == "top_k" else -0.5 if key == "log_ratio_floor" else 0.25)
    if key == "importance_cap":
        other = 1.5
    governor, values = READ_WITH[dotted]
    for method in METHODS:
        settings = config(method)
        section = getattr(settings, governor.split(".")[0])
        if reads(getattr(section, governor.split(".")[1]), values):
            continue
        changed = settings.model_copy(update={name: getattr(settings, name).model_copy(update={key: other})})
        assert list(unread(changed))
        before, after = credit(settings), credit(changed)
        torch.testing.assert_close(after.advantage_BT, before.advantage_BT, rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(after.weight_BK, before.weight_BK, rtol=0, atol=0, equal_nan=True)

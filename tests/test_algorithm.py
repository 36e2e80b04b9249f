"""The objective against golden cases of the released code, against slow references, and its invariances."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sod.algorithm import (
    distilled_advantages,
    group_advantages,
    importance_weights,
    number_steps,
    policy_loss,
    spread,
    step_divergence,
    step_weights,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "objective_cases.npz")
CASES = sorted({key.split("/")[0] for key in GOLDEN.files})


def case(name: str) -> dict[str, np.ndarray]:
    return {key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(name + "/")}


def close(ours: torch.Tensor, golden: np.ndarray) -> None:
    np.testing.assert_allclose(ours.detach().numpy(), golden, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_released_functions(name: str) -> None:
    c = case(name)
    student, teacher, old_mask = (torch.tensor(c[k]) for k in ("student_logprobs", "teacher_logprobs", "mask"))
    knobs = {"delta": float(c["delta"]), "epsilon": float(c["epsilon"])}
    step = number_steps(old_mask)
    divergence = step_divergence(student, teacher, step, num_steps=c["divergence"].shape[1])
    weight = step_weights(divergence, **knobs)
    advantage_B = group_advantages(torch.tensor(c["rewards"]), torch.tensor(c["group"]))
    advantage = distilled_advantages(advantage_B, student, teacher, step, coef=float(c["coef"]), **knobs)
    new = torch.tensor(c["new_logprobs"], requires_grad=True)
    result = policy_loss(new, student, advantage, old_mask)
    result.loss.backward()
    close(divergence, c["divergence"])
    close(weight, c["step_weight"])
    close(spread(weight, step), c["weight"])
    close(advantage_B[:, None] * old_mask, c["grpo_advantage"])
    close(advantage, c["advantage"])
    close(result.loss, c["loss"])
    close(result.clip_fraction, c["clip_fraction"])
    close(result.approx_kl, c["approx_kl"])
    close(new.grad, c["grad"])


def packed(padded: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    return padded[keep]


@st.composite
def batches(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    num_rows, num_tokens = draw(st.integers(1, 5)), draw(st.integers(1, 24))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    shape = (num_rows, num_tokens)
    density = draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return {
        "mask": torch.rand(shape, generator=generator) < density,
        "student": -torch.rand(shape, generator=generator) * 3,
        "teacher": -torch.rand(shape, generator=generator) * 3,
        "new": -torch.rand(shape, generator=generator) * 3,
        "reward": torch.randint(0, 2, (num_rows,), generator=generator).float(),
        "group": torch.randint(0, 2, (num_rows,), generator=generator) * 7,
    }


def slow_weights(mask: list[int], gap: list[float], *, delta: float, epsilon: float) -> tuple[list, list, list]:
    """Steps, divergences and weights of one trajectory, as the paper writes them: a running product."""
    steps, divergences, weights = [], [], []
    for index, sampled in enumerate(mask):
        if sampled and (index == 0 or not mask[index - 1]):
            divergences.append([])
        steps.append(len(divergences) - 1 if sampled else -1)
        if sampled:
            divergences[-1].append(gap[index])
    divergences = [sum(step) / len(step) for step in divergences]
    product = 1.0
    for k, divergence in enumerate(divergences):
        product *= 1.0 if k == 0 else (divergences[k - 1] + epsilon) / (divergence + epsilon)
        weights.append(min(product, 1 + delta))
    return steps, divergences, weights


@given(batches(), st.sampled_from([0.0, 0.2, 1.0]), st.sampled_from([1e-6, 0.3]))
@settings(max_examples=150, deadline=None)
def test_steps_divergence_and_weights_against_a_slow_reference(batch, delta, epsilon) -> None:
    step = number_steps(batch["mask"])
    divergence = step_divergence(batch["student"], batch["teacher"], step)
    weight = step_weights(divergence, delta=delta, epsilon=epsilon)
    gap = (batch["student"] - batch["teacher"]).abs()
    for row in range(len(step)):
        steps, divergences, weights = slow_weights(
            batch["mask"][row].tolist(), gap[row].tolist(), delta=delta, epsilon=epsilon
        )
        assert step[row].tolist() == steps
        assert divergence[row, : len(divergences)].tolist() == pytest.approx(divergences, rel=1e-5)
        assert weight[row, : len(weights)].tolist() == pytest.approx(weights, rel=1e-4)
        assert divergence[row, len(divergences) :].isnan().all()


@given(batches())
@settings(max_examples=150, deadline=None)
def test_packed_equals_padded(batch) -> None:
    keep = torch.ones_like(batch["mask"])
    row = torch.arange(len(keep))[:, None].expand_as(keep)[keep]
    flat = {key: value[keep] for key, value in batch.items() if value.dim() == 2}
    step, step_N = number_steps(batch["mask"]), number_steps(flat["mask"], trajectory_N=row)
    assert torch.equal(step[keep], step_N)
    advantage_B = group_advantages(batch["reward"], batch["group"])
    ours = distilled_advantages(advantage_B, batch["student"], batch["teacher"], step)
    theirs = distilled_advantages(advantage_B, flat["student"], flat["teacher"], step_N, trajectory_N=row)
    assert torch.allclose(ours[keep], theirs, atol=1e-5, rtol=1e-5)
    for reduction in ("token-mean", "sequence-mean"):
        loss = policy_loss(batch["new"], batch["student"], ours, batch["mask"], reduction=reduction)
        loss_N = policy_loss(flat["new"], flat["student"], theirs, flat["mask"], reduction=reduction, trajectory_N=row)
        assert torch.allclose(torch.stack(loss), torch.stack(loss_N), atol=1e-5, rtol=1e-4)


@given(batches(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_micro_batches_add_up_to_the_whole(batch, cut) -> None:
    step = number_steps(batch["mask"])
    advantage = distilled_advantages(batch["reward"], batch["student"], batch["teacher"], step)
    for reduction, total in (("token-mean", step.ge(0).sum()), ("sequence-mean", step.ge(0).any(1).sum())):
        parts = [
            policy_loss(
                batch["new"][rows],
                batch["student"][rows],
                advantage[rows],
                batch["mask"][rows],
                reduction=reduction,
                denominator=total.clamp(min=1),
            )
            for rows in (slice(None, cut), slice(cut, None))
        ]
        whole = policy_loss(batch["new"], batch["student"], advantage, batch["mask"], reduction=reduction)
        together = torch.stack([torch.stack(part) for part in parts]).sum(0)
        assert torch.allclose(together, torch.stack(whole), atol=1e-5, rtol=1e-4)


def test_group_advantages_by_hand() -> None:
    advantage = group_advantages(torch.tensor([1.0, 0.0, 1.0, 0.5]), torch.tensor([7, 7, 9, 7]))
    assert advantage.tolist() == pytest.approx([1.0, -1.0, 1.0, 0.0], abs=1e-4)
    plain = group_advantages(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), divide_by_std=False)
    assert plain.tolist() == [0.5, -0.5]
    assert group_advantages(torch.tensor([0.3, 0.3]), torch.tensor([1, 1])).tolist() == [0.0, 0.0]


def test_what_stands_outside_steps_never_counts() -> None:
    mask = torch.tensor([[0, 1, 1, 0, 1]])
    student = torch.tensor([[float("nan"), -1.0, -2.0, float("inf"), -1.0]])
    teacher = torch.tensor([[0.0, -1.5, -2.5, float("nan"), -1.0]])
    step = number_steps(mask)
    advantage = distilled_advantages(torch.ones(1), student, teacher, step)
    assert step_divergence(student, teacher, step).tolist() == [[0.5, 0.0]]
    assert advantage[0, [0, 3]].tolist() == [0.0, 0.0]
    new = student.clone().requires_grad_()
    result = policy_loss(new, student, advantage, mask)
    result.loss.backward()
    assert result.loss.isfinite()
    assert new.grad[0, [0, 3]].tolist() == [0.0, 0.0]


def test_sums_do_not_drift_on_twenty_thousand_tokens() -> None:
    gap = torch.full((1, 20_480), 0.1)
    step = number_steps(torch.ones_like(gap))
    assert step_divergence(gap, torch.zeros_like(gap), step).item() == pytest.approx(0.1, rel=1e-7)


def test_gradient_is_minus_weighted_advantage_on_policy() -> None:
    """At ratio 1 the gradient of the token mean is -A/N, whatever the clip."""
    logprobs = torch.tensor([[-1.0, -2.0, -0.5]], requires_grad=True)
    advantage = torch.tensor([[0.3, -0.7, 2.0]])
    policy_loss(logprobs, logprobs.detach(), advantage, torch.ones(1, 3)).loss.backward()
    assert logprobs.grad.tolist()[0] == pytest.approx([-0.1, 0.7 / 3, -2.0 / 3])


def test_the_dual_clip_bounds_a_negative_advantage() -> None:
    new, old = torch.tensor([[0.0]]), torch.tensor([[-5.0]])
    assert policy_loss(new, old, torch.tensor([[-1.0]]), torch.ones(1, 1)).loss.item() == pytest.approx(3.0)
    off = policy_loss(new, old, torch.tensor([[-1.0]]), torch.ones(1, 1), clip_dual=0.0)
    assert off.loss.item() == pytest.approx(float(np.exp(5.0)), rel=1e-5)


def test_unknown_reduction_is_refused() -> None:
    ones = torch.ones(1, 1)
    with pytest.raises(ValueError, match="token-mean"):
        policy_loss(ones, ones, ones, ones, reduction="mean")


# ---- importance weights


def importance_by_loop(
    student: torch.Tensor, rollout: torch.Tensor, mask: torch.Tensor, level: str, cap: float, mask_above: bool
) -> torch.Tensor:
    """Token by token, as one would say it."""
    weight = torch.zeros_like(student)
    for row in range(len(student)):
        places = mask[row].nonzero()[:, 0].tolist()
        ratios = {place: float(student[row, place] - rollout[row, place]) for place in places}
        for place in places:
            log_ratio = ratios[place] if level == "token" else sum(ratios.values())
            value = math.exp(max(-20.0, min(20.0, log_ratio)))
            weight[row, place] = value if value <= cap else 0.0 if mask_above else cap
    return weight


@pytest.mark.parametrize("mask_above", [False, True])
@pytest.mark.parametrize("level", ["token", "sequence"])
def test_importance_weights_against_a_loop(level: Literal["token", "sequence"], mask_above: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    student, rollout = -0.5 * torch.rand(2, 5, 9, generator=generator, dtype=torch.float64)
    rollout[0] -= 0.4  # its weights lie above the cap
    mask = torch.rand(5, 9, generator=generator) < 0.6
    mask[2] = False
    settings = {"level": level, "cap": 1.2, "mask_above": mask_above}
    expected = importance_by_loop(student, rollout, mask, **settings)
    weight = importance_weights(student, rollout, mask, **settings)
    assert torch.allclose(weight, expected, atol=1e-12)
    assert (expected > 1.0).any(), "the case must have weights on both sides of 1"
    assert ((expected == 0.0) & mask).any() == mask_above
    row_N = mask.nonzero()[:, 0]
    packed = importance_weights(
        student[mask], rollout[mask], torch.ones_like(student[mask], dtype=torch.bool), trajectory_N=row_N, **settings
    )
    assert torch.allclose(packed, expected[mask], atol=1e-12)


def test_importance_scales_the_gradient_of_its_token() -> None:
    logprobs = torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True)
    before = logprobs.detach().clone()
    importance = torch.tensor([[0.5, 1.0, 2.0]])
    policy_loss(logprobs, before, torch.ones(1, 3), torch.ones(1, 3), importance_BT=importance).loss.backward()
    assert logprobs.grad is not None
    assert torch.allclose(logprobs.grad, -importance / 3)

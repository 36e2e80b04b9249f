"""Credit and optimizer steps on a tiny random Qwen3: equivalences, and gradients against formulas by autograd."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sod.algorithm import step_means
from sod.batch import Batch
from sod.config import METHODS, TrainConfig, parse
from sod.errors import SignalError
from sod.learner import Learner
from sod.models.hf import HFModel
from sod.models.logprobs import TokenLogprobs
from sod.optimizer import Optimizer

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = ((4, 20), (7, 31), (5, 12), (3, 26), (6, 9), (4, 17))
"""Prompt and response tokens of the batch's trajectories."""
GROUPS = (0, 0, 0, 1, 1, 1)


@pytest.fixture(scope="module")
def module(tiny_module: Callable[[int], Any]) -> Any:
    return tiny_module(0)


@pytest.fixture(scope="module")
def teacher(tiny_module: Callable[[int], Any]) -> HFModel:
    """Another model, whose whole distributions are compared with the student's."""
    return HFModel(tiny_module(1).requires_grad_(False))


class Watched(HFModel):
    """Records the rows of every forward that trains."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.trained: list[tuple[int, ...]] = []

    def token_logprobs(self, token_BT: Tensor, mask_BT: Tensor, *, temperature: float = 1.0) -> TokenLogprobs:
        if torch.is_grad_enabled():
            self.trained += [tuple(row[row > 0].tolist()) for row in token_BT]
        return super().token_logprobs(token_BT, mask_BT, temperature=temperature)


class Caught(Optimizer):
    """Keeps each step's gradient, flat, and leaves the weights as they are."""

    gradients: list[Tensor]

    def step(self) -> float:
        self.gradients = [*self.__dict__.get("gradients", []), torch.cat([p.grad.flatten() for p in self._parameters])]
        self._adamw.zero_grad()
        return float(self.gradients[-1].norm())


WHO: dict[str, dict[str, Any]] = {
    "opsd_gt": {"teacher": None},
    "opsd_hint": {"teacher": None},
    "ropd": {"teacher": None, "rubrics": {"url": "http://h", "model": "m"}},
}
"""Sections that say who teaches, where it is not [teacher]."""
BY_ADVANTAGE = [name for name in METHODS if name != "gkd"]
"""Methods whose terms are advantages; that of `gkd` is in the loss."""


def config(method: str = "sod", **sections: Any) -> TrainConfig:
    update = {"optimizer_steps": 1, "student_logprobs": "recompute", **sections.pop("update", {})}
    fields = {"run": "r", "student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"path": "d"}}
    return parse(TrainConfig, {**fields, **WHO.get(method, {}), "method": method, "update": update, **sections})


def learner(
    module: Any, settings: TrainConfig, *, kind: type[Optimizer] = Caught, teacher: HFModel | None = None
) -> Learner:
    copied = copy.deepcopy(module)
    optimizer = kind(copied, config=settings.optimizer, num_steps=10)
    return Learner(config=settings, student=Watched(copied), optimizer=optimizer, teacher=teacher)


def gradient(
    module: Any, batch: Batch, settings: TrainConfig, *, seed: int = 0, teacher: HFModel | None = None
) -> Tensor:
    """The gradient of an update of one optimizer step."""
    mine = learner(module, settings, teacher=teacher)
    mine.learn(batch, mine.credit(batch), seed=seed)
    (only,) = mine.optimizer.gradients
    return only


def updated(
    module: Any, batch: Batch, settings: TrainConfig, *, seed: int = 0, teacher: HFModel | None = None
) -> Tensor:
    """The weights after an update, flat."""
    mine = learner(module, settings, kind=Optimizer, teacher=teacher)
    mine.learn(batch, mine.credit(batch), seed=seed)
    return torch.cat([parameter.detach().flatten() for parameter in mine.student.module.parameters()])


@pytest.fixture(scope="module")
def batch(module: Any) -> Batch:
    """Random trajectories of several steps; the rollout's log-probs are the model's own, the teacher's are noise."""
    generator = torch.Generator().manual_seed(3)
    longest = max(sum(sizes) for sizes in SIZES)
    token_BT = torch.zeros(len(SIZES), longest, dtype=torch.int64)
    step_BT = torch.full_like(token_BT, -1)
    for row, (num_prompt, num_response) in enumerate(SIZES):
        length = num_prompt + num_response
        token_BT[row, :length] = torch.randint(3, 630, (length,), generator=generator)
        for place in range(num_response):
            if place % 6 < 4:  # four tokens a step, two of observation
                step_BT[row, num_prompt + place] = place // 6
    mask_BT = step_BT >= 0
    with torch.no_grad():
        own = HFModel(copy.deepcopy(module)).token_logprobs(token_BT, mask_BT).logprobs_N
    logprobs_BT = torch.zeros(token_BT.shape).masked_scatter(mask_BT, own)
    noise_BT = torch.rand(token_BT.shape, generator=generator) - 0.6
    return Batch(
        token_BT=token_BT,
        step_BT=step_BT,
        rollout_logprobs_BT=logprobs_BT,
        teacher_logprobs_BT=torch.where(mask_BT, (logprobs_BT + noise_BT).clamp(max=0.0), torch.nan),
        reward_B=torch.tensor([1.0, 0.0, 0.5, 0.0, 1.0, 1.0]),
        failed_BK=torch.arange(int(step_BT.max()) + 1).expand(len(SIZES), -1) == 1,
        call_BT=(step_BT >= 0) & (token_BT % 2 == 0),
        group_B=torch.tensor(GROUPS),
        length_B=torch.tensor([sum(sizes) for sizes in SIZES]),
    )


def close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, atol=1e-5 * float(right.abs().max()), rtol=1e-4)


# The same numbers ----------------------------------------------------------------------------------------------------


def test_the_order_of_the_batch_does_not_matter(module: Any, batch: Batch) -> None:
    shuffled = batch.rows(torch.tensor([4, 2, 0, 5, 1, 3]))
    assert close(gradient(module, shuffled, config()), gradient(module, batch, config()))


@pytest.mark.parametrize("reduction", ["token-mean", "sequence-mean"])
@pytest.mark.parametrize("budget", [1, 60])
def test_the_micro_batch_budget_does_not_matter(module: Any, batch: Batch, budget: int, reduction: str) -> None:
    """One row at a time (no padding at all), a few, or all at once."""
    objective = {"reduction": reduction}
    whole = config(objective=objective, update={"tokens_per_microbatch": 10_000})
    split = config(objective=objective, update={"tokens_per_microbatch": budget})
    assert close(gradient(module, batch, split), gradient(module, batch, whole))
    ours, theirs = (learner(module, settings) for settings in (split, whole))
    got = ours.learn(batch, ours.credit(batch), seed=0)
    assert got == pytest.approx(theirs.learn(batch, theirs.credit(batch), seed=0), rel=1e-3, abs=1e-5)
    assert len(ours.student.trained) == len(SIZES)


def test_more_padding_does_not_matter(module: Any, batch: Batch) -> None:
    def wide(name: str, tensor: Tensor) -> Tensor:
        value = {"step_BT": -1, "teacher_logprobs_BT": torch.nan}.get(name, 0)
        return torch.nn.functional.pad(tensor, (0, 50), value=value) if name.endswith("_BT") else tensor

    padded = Batch(**{f.name: wide(f.name, getattr(batch, f.name)) for f in dataclasses.fields(batch)})
    assert close(gradient(module, padded, config()), gradient(module, batch, config()))


def test_recomputed_log_probs_are_the_rollouts(module: Any, batch: Batch) -> None:
    recomputed = learner(module, config()).credit(batch)
    rolled_out = learner(module, config(update={"student_logprobs": "rollout"})).credit(batch)
    assert torch.allclose(recomputed.student_logprobs_BT, rolled_out.student_logprobs_BT, atol=1e-4)
    assert (recomputed.student_logprobs_BT[~batch.mask_BT] == 0.0).all()


# Against formulas ----------------------------------------------------------------------------------------------------


def naive_gradient(module: Any, batch: Batch, advantage_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """-(1/N) sum of A_t grad log p(token t), one trajectory at a time, by the full softmax of the bare module."""
    copied = copy.deepcopy(module).eval()
    total = torch.zeros(())
    for row in range(batch.num_trajectories):
        tokens = batch.token_BT[row, : int(batch.length_B[row])]
        logits_TV = copied(tokens[None]).logits[0].float() / temperature
        logprobs_T = logits_TV.log_softmax(-1)[:-1].gather(1, tokens[1:, None])[:, 0]
        for place in range(1, len(tokens)):
            if batch.mask_BT[row, place]:
                total = total - advantage_BT[row, place] * logprobs_T[place - 1]
    (total / batch.mask_BT.sum()).backward()
    return torch.cat([parameter.grad.flatten() for parameter in copied.parameters()])


@pytest.mark.parametrize("method", BY_ADVANTAGE)
def test_the_gradient_on_policy_is_the_formulas(module: Any, batch: Batch, method: str) -> None:
    settings = config(method)
    advantage_BT = learner(module, settings).credit(batch).advantage_BT
    assert close(gradient(module, batch, settings), naive_gradient(module, batch, advantage_BT))


def test_the_gradient_at_another_temperature(module: Any, batch: Batch) -> None:
    settings = config(sampling={"temperature": 0.7})
    advantage_BT = learner(module, settings).credit(batch).advantage_BT
    naive = naive_gradient(module, batch, advantage_BT, temperature=0.7)
    assert close(gradient(module, batch, settings), naive)


def test_the_gradient_by_finite_differences(module: Any, batch: Batch) -> None:
    """Along the gradient the loss itself moves as fast as the gradient says (clipping off)."""
    settings = config(objective={"clip_low": 0.9, "clip_high": 9.0, "clip_dual": 0.0})
    mine = learner(module, settings)
    given = mine.credit(batch)
    mine.learn(batch, given, seed=0)
    direction = mine.optimizer.gradients[0] / mine.optimizer.gradients[0].norm()
    losses = []
    for size in (-1e-3, 1e-3):
        moved = learner(module, settings)
        flat = torch.nn.utils.parameters_to_vector(moved.student.module.parameters()).detach()
        torch.nn.utils.vector_to_parameters(flat + size * direction, moved.student.module.parameters())
        losses.append(moved.learn(batch, given, seed=0)["loss"])
    assert (losses[1] - losses[0]) / 2e-3 == pytest.approx(float(mine.optimizer.gradients[0].norm()), rel=0.02)


# Methods -------------------------------------------------------------------------------------------------------------


def test_the_gradient_is_the_sum_of_its_terms(module: Any, batch: Batch) -> None:
    grpo, opd = gradient(module, batch, config("grpo")), gradient(module, batch, config("opd"))
    both = gradient(module, batch, config("opd_grpo", objective={"coef": 0.3}))
    assert close(both, grpo + 0.3 * opd)


def test_sod_without_anything_to_weigh_is_opd_grpo(module: Any, batch: Batch) -> None:
    """Where every step diverges alike all weights are 1."""
    constant_BT = torch.where(batch.mask_BT, (batch.rollout_logprobs_BT - 0.4), torch.nan)
    alike = dataclasses.replace(batch, teacher_logprobs_BT=constant_BT)
    settings = {method: config(method, update={"student_logprobs": "rollout"}) for method in ("sod", "opd_grpo")}
    assert close(gradient(module, alike, settings["sod"]), gradient(module, alike, settings["opd_grpo"]))


def test_a_large_epsilon_is_opd_grpo(module: Any, batch: Batch) -> None:
    flat = config("sod", weights={"epsilon": 1e6})
    assert close(gradient(module, batch, flat), gradient(module, batch, config("opd_grpo")))


FELT: dict[str, dict[str, Any]] = {
    "reopold": {"objective": {"log_ratio_floor": -0.3}},
    "tropd": {"objective": {"trust_region": 0.3}},
    "sod_threshold": {"weights": {"threshold": 0.25}},
}
"""Bounds that the toy's log-ratios, from -0.6 to 0.4, do meet."""
SAME_HERE = {"opsd_gt": "opd", "opsd_hint": "opd", "custom": "sod"}
"""Methods that are others by another teacher, or by nothing: on the same log-probs they are the same."""


def test_every_method_changes_the_weights_and_differs(module: Any, teacher: HFModel, batch: Batch) -> None:
    start = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    ends = {
        method: updated(
            module, batch, config(method, optimizer={"lr": 1e-3}, **FELT.get(method, {})), seed=0, teacher=teacher
        )
        for method in METHODS
    }
    for method, end in ends.items():
        assert (end - start).abs().max() > 1e-4, method
        for other in ends.keys() - {method, *SAME_HERE}:
            differs = bool((end - ends[other]).abs().max() > 1e-4)
            assert differs is (SAME_HERE.get(method) != other), (method, other)


@pytest.mark.parametrize("method", BY_ADVANTAGE)
def test_an_update_moves_log_probs_the_way_the_advantage_says(module: Any, batch: Batch, method: str) -> None:
    mine = learner(module, config(method, optimizer={"lr": 1e-3, "weight_decay": 0.0}), kind=Optimizer)
    given = mine.credit(batch)
    mine.learn(batch, given, seed=0)
    change_BT = mine._student_logprobs(batch) - given.student_logprobs_BT
    assert (change_BT * given.advantage_BT)[batch.mask_BT].mean() > 0


# Divergences of whole distributions -----------------------------------------------------------------------------------


def gkd(*, beta: float = 1.0, **sections: Any) -> TrainConfig:
    objective = {"outcome": False, "signal": "divergence", "beta": beta, **sections.pop("objective", {})}
    return config("custom", objective=objective, **{"weights": {"rule": "uniform"}, **sections})


def naive_divergence(student_T: Tensor, teacher_T: Tensor, *, beta: float) -> Tensor:
    """Of probabilities, term by term."""
    mixture_T = beta * teacher_T + (1 - beta) * student_T
    if beta == 0.0:
        return (teacher_T * (teacher_T.log() - student_T.log())).sum()
    if beta == 1.0:
        return (student_T * (student_T.log() - teacher_T.log())).sum()
    to_teacher = (teacher_T * (teacher_T.log() - mixture_T.log())).sum()
    to_student = (student_T * (student_T.log() - mixture_T.log())).sum()
    return beta * to_teacher + (1 - beta) * to_student


def naive_divergences(module: Any, teacher: HFModel, batch: Batch, *, beta: float, temperature: float) -> list[Any]:
    """(row, place, divergence) of every sampled token, one trajectory at a time, by full softmaxes in float64."""
    found = []
    for row in range(batch.num_trajectories):
        tokens = batch.token_BT[row, : int(batch.length_B[row])]
        student_TV = (module(tokens[None]).logits[0].double() / temperature).softmax(-1)
        with torch.no_grad():
            teacher_TV = (teacher.module(tokens[None]).logits[0].double() / temperature).softmax(-1)
        for place in batch.mask_BT[row].nonzero()[:, 0].tolist():
            before = place - 1
            found.append((row, place, naive_divergence(student_TV[before], teacher_TV[before], beta=beta)))
    return found


def naive_gkd_gradient(
    module: Any, teacher: HFModel, batch: Batch, factor_BT: Tensor, *, beta: float, temperature: float = 1.0
) -> Tensor:
    """The gradient of the sum of factor times divergence."""
    copied = copy.deepcopy(module).eval()
    found = naive_divergences(copied, teacher, batch, beta=beta, temperature=temperature)
    torch.stack([factor_BT[row, place] * value for row, place, value in found]).sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in copied.parameters()])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_the_gradient_of_gkd_is_that_of_the_mean_divergence(
    module: Any, teacher: HFModel, batch: Batch, beta: float, temperature: float
) -> None:
    settings = config("gkd", objective={"beta": beta, "coef": 2.0}, sampling={"temperature": temperature})
    factor_BT = 2.0 * batch.mask_BT / batch.mask_BT.sum()
    naive = naive_gkd_gradient(module, teacher, batch, factor_BT, beta=beta, temperature=temperature)
    assert close(gradient(module, batch, settings, teacher=teacher), naive)


@pytest.mark.parametrize("reduction", ["token-mean", "sequence-mean"])
@pytest.mark.parametrize("rule", ["ratio", "decay", "token_ratio", "prefix"])
def test_weights_apply_to_divergences(module: Any, teacher: HFModel, batch: Batch, rule: str, reduction: str) -> None:
    """By step and by token; the share of a token under "sequence-mean" is that of its trajectory's length."""
    settings = gkd(weights={"rule": rule}, objective={"reduction": reduction})
    weight_BT = learner(module, settings, teacher=teacher).credit(batch).weight_BT
    assert weight_BT[batch.mask_BT].std() > 0.05
    length_B1 = batch.mask_BT.sum(1, keepdim=True)
    divisor = batch.mask_BT.sum() if reduction == "token-mean" else length_B1 * batch.num_trajectories
    naive = naive_gkd_gradient(module, teacher, batch, weight_BT / divisor, beta=1.0)
    assert close(gradient(module, batch, settings, teacher=teacher), naive)


def test_importance_weights_apply_to_divergences(module: Any, teacher: HFModel, batch: Batch) -> None:
    shifted = dataclasses.replace(batch, rollout_logprobs_BT=batch.rollout_logprobs_BT + 0.4 * (batch.token_BT % 2))
    settings = gkd(objective={"importance": "token"})
    importance_BT = learner(module, settings, teacher=teacher).credit(shifted).importance_BT
    assert importance_BT[batch.mask_BT].std() > 0.05
    naive = naive_gkd_gradient(module, teacher, batch, importance_BT / batch.mask_BT.sum(), beta=1.0)
    assert close(gradient(module, shifted, settings, teacher=teacher), naive)


def test_the_gradient_of_gkd_by_finite_differences(module: Any, teacher: HFModel, batch: Batch) -> None:
    """Along the gradient the loss itself moves as fast as the gradient says."""
    settings = gkd(beta=0.5, weights={"rule": "ratio"})
    mine = learner(module, settings, teacher=teacher)
    given = mine.credit(batch)
    mine.learn(batch, given, seed=0)
    direction = mine.optimizer.gradients[0] / mine.optimizer.gradients[0].norm()
    losses = []
    for size in (-1e-2, 1e-2):
        moved = learner(module, settings, teacher=teacher)
        flat = torch.nn.utils.parameters_to_vector(moved.student.module.parameters()).detach()
        torch.nn.utils.vector_to_parameters(flat + size * direction, moved.student.module.parameters())
        losses.append(moved.learn(batch, given, seed=0)["loss"])
    assert (losses[1] - losses[0]) / 2e-2 == pytest.approx(float(mine.optimizer.gradients[0].norm()), rel=0.02)


def test_outcome_and_divergence_add_up(module: Any, teacher: HFModel, batch: Batch) -> None:
    both = gradient(module, batch, gkd(objective={"outcome": True, "coef": 0.3}), teacher=teacher)
    parts = [gradient(module, batch, settings, teacher=teacher) for settings in (config("grpo"), gkd())]
    assert close(both, parts[0] + 0.3 * parts[1])


def test_a_coef_of_nothing_compares_nothing(module: Any, batch: Batch) -> None:
    """No teacher is needed then."""
    off = gkd(objective={"outcome": True, "coef": 0.0})
    assert close(gradient(module, batch, off), gradient(module, batch, config("grpo")))


@pytest.mark.parametrize("budget", [1, 60])
def test_the_micro_batch_budget_does_not_matter_to_gkd(
    module: Any, teacher: HFModel, batch: Batch, budget: int
) -> None:
    whole, split = (gkd(update={"tokens_per_microbatch": size}) for size in (10_000, budget))
    ours, theirs = (learner(module, settings, teacher=teacher) for settings in (split, whole))
    got = ours.learn(batch, ours.credit(batch), seed=0)
    assert got == pytest.approx(theirs.learn(batch, theirs.credit(batch), seed=0), rel=1e-3, abs=1e-5)
    assert close(ours.optimizer.gradients[0], theirs.optimizer.gradients[0])


def test_gkd_brings_the_student_to_the_teacher(module: Any, teacher: HFModel, batch: Batch) -> None:
    """Its loss is the mean divergence, told apart as `teacher_loss`, and falls; the teacher stays as it is."""
    before = [parameter.clone() for parameter in teacher.module.parameters()]
    settings = config("gkd", optimizer={"lr": 1e-3, "weight_decay": 0.0})
    mine = learner(module, settings, kind=Optimizer, teacher=teacher)
    numbers = [mine.learn(batch, mine.credit(batch), seed=seed) for seed in range(6)]
    losses = [each["teacher_loss"] for each in numbers]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    assert [each["loss"] for each in numbers] == losses
    found = naive_divergences(module, teacher, batch, beta=1.0, temperature=1.0)
    assert losses[0] == pytest.approx(float(torch.stack([value.detach() for *_, value in found]).mean()), rel=1e-4)
    assert all(map(torch.equal, before, teacher.module.parameters()))


@pytest.mark.parametrize(("kind", "top_k"), [("kl", 0), ("top_k_kl", 5)])
def test_weights_by_the_kl_of_whole_distributions(
    module: Any, teacher: HFModel, batch: Batch, kind: str, top_k: int
) -> None:
    """d_k is the mean over a step of KL(student || teacher), in micro-batches of one row as in one of all."""
    settings = {"divergence": kind, **({"top_k": top_k} if top_k else {})}
    found = []
    for budget in (1, 10_000):
        mine = learner(
            module, config("sod", weights=settings, update={"tokens_per_microbatch": budget}), teacher=teacher
        )
        found.append(mine.credit(batch))
    assert torch.allclose(found[0].divergence_BK, found[1].divergence_BK, atol=1e-4, equal_nan=True)
    gap = learner(module, config("sod")).credit(batch)
    assert not torch.allclose(gap.weight_BT, found[0].weight_BT, atol=1e-2)
    if kind == "kl":
        values_BT = torch.zeros(batch.token_BT.shape, dtype=torch.float64)
        for row, place, value in naive_divergences(module, teacher, batch, beta=1.0, temperature=1.0):
            values_BT[row, place] = value.detach()
        means_BK = step_means(values_BT, batch.step_BT)
        assert torch.allclose(found[0].divergence_BK.double(), means_BK, rtol=1e-3, equal_nan=True)


# Optimizer steps -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 4, 6])
def test_every_trajectory_is_dealt_to_one_optimizer_step(module: Any, batch: Batch, steps: int) -> None:
    mine = learner(module, config(update={"optimizer_steps": steps}))
    mine.learn(batch, mine.credit(batch), seed=5)
    rows = [tuple(row[: int(length)].tolist()) for row, length in zip(batch.token_BT, batch.length_B, strict=True)]
    assert sorted(mine.student.trained) == sorted(rows)
    assert len(mine.optimizer.gradients) == steps


def test_fewer_trajectories_than_steps_leave_steps_out(module: Any, batch: Batch) -> None:
    mine = learner(module, config(update={"optimizer_steps": 4}))
    few = batch.rows(torch.tensor([0, 1]))
    metrics = mine.learn(few, mine.credit(few), seed=0)
    assert len(mine.optimizer.gradients) == 2
    assert metrics["loss"] == metrics["loss"]


def test_the_deal_depends_on_the_seed_alone(module: Any, batch: Batch) -> None:
    settings = config(update={"optimizer_steps": 3}, optimizer={"lr": 1e-3})
    ends = [updated(module, batch, settings, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2])


def test_what_is_not_finite_never_reaches_the_weights(module: Any, batch: Batch) -> None:
    teacher_BT = batch.teacher_logprobs_BT.clone()
    teacher_BT[2, SIZES[2][0]] = torch.nan
    mine = learner(module, config(), kind=Optimizer)
    before = [parameter.detach().clone() for parameter in mine.student.module.parameters()]
    broken = dataclasses.replace(batch, teacher_logprobs_BT=teacher_BT)
    with pytest.raises(SignalError, match="every advantage must be finite"):
        mine.learn(broken, mine.credit(broken), seed=0)
    assert all(map(torch.equal, before, mine.student.module.parameters()))


def test_a_weight_that_is_no_number_never_reaches_the_weights(module: Any, teacher: HFModel, batch: Batch) -> None:
    """Of a divergence the advantage is 0, so that its weights are what must be looked at."""
    teacher_BT = batch.teacher_logprobs_BT.clone()
    teacher_BT[2, SIZES[2][0]] = torch.nan
    mine = learner(module, config("gkd"), kind=Optimizer, teacher=teacher)
    before = [parameter.detach().clone() for parameter in mine.student.module.parameters()]
    broken = dataclasses.replace(batch, teacher_logprobs_BT=teacher_BT)
    with pytest.raises(SignalError, match="every weight must be finite"):
        mine.learn(broken, mine.credit(broken), seed=0)
    assert all(map(torch.equal, before, mine.student.module.parameters()))


def test_the_numbers_of_an_update(module: Any, batch: Batch) -> None:
    mine = learner(module, config(optimizer={"lr": 3e-4, "warmup": 0.5}, update={"optimizer_steps": 2}), kind=Optimizer)
    metrics = mine.learn(batch, mine.credit(batch), seed=0)
    assert metrics.keys() == {
        "loss", "clip_fraction", "dual_clip_fraction", "approx_kl", "entropy", "grad_norm", "lr",
    }  # fmt: skip
    assert metrics["lr"] == pytest.approx(3e-4 * (0.2 + 0.4) / 2)  # steps 1 and 2 of a warm-up of 5
    with torch.no_grad():
        logits_BTV = module.eval()(batch.token_BT[:1]).logits.float()
    entropy_T = torch.distributions.Categorical(logits=logits_BTV[0]).entropy()[:-1]
    row = batch.rows(torch.tensor([0]))
    alone = learner(module, config())
    got = alone.learn(row, alone.credit(row), seed=0)["entropy"]
    assert got == pytest.approx(float(entropy_T[batch.mask_BT[0, 1:]].mean()), rel=1e-4)

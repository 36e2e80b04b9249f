"""Divergences of whole distributions, against plain sums of probabilities and of whole forwards."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from sod.algorithm import distilled_advantages, policy_loss
from sod.algorithm.divergences import LOWEST_LOGPROB, Kind, coarse, divergence, jsd, k3, kl
from sod.errors import ModelError
from sod.models import divergence as chunked
from sod.models.divergence import token_divergences
from sod.models.hf import HFModel

KINDS = [*(("jsd", beta) for beta in (0.0, 0.1, 0.5, 0.9, 1.0)), ("reverse_kl", 0.5), ("forward_kl", 0.5)]


def logits(seed: int, *, shape: tuple[int, ...] = (6, 11), scale: float = 2.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logprobs(seed: int, **shape: Any) -> Tensor:
    return torch.log_softmax(logits(seed, **shape), -1)


def plain(student_NV: Tensor, teacher_NV: Tensor, *, kind: str, beta: float, top_k: int = 0) -> Tensor:
    """From probabilities, as the definitions read."""
    p_S, p_T = student_NV.exp(), teacher_NV.exp()
    if top_k:
        order = teacher_NV.argsort(-1, descending=True)
        p_S, p_T = (
            torch.cat([p.gather(-1, order)[:, :top_k], p.gather(-1, order)[:, top_k:].sum(-1, keepdim=True)], -1)
            for p in (p_S, p_T)
        )
    forward, reverse = (p_T * (p_T / p_S).log()).sum(-1), (p_S * (p_S / p_T).log()).sum(-1)
    if kind == "reverse_kl" or (kind == "jsd" and beta == 1.0):
        return reverse
    if kind == "forward_kl" or (kind == "jsd" and beta == 0.0):
        return forward
    mixture = beta * p_T + (1 - beta) * p_S
    return (beta * p_T * (p_T / mixture).log() + (1 - beta) * p_S * (p_S / mixture).log()).sum(-1)


# --- of log-probs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, 1, 4, 10])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_values_are_those_of_the_definitions(kind: Kind, beta: float, top_k: int) -> None:
    student, teacher = logprobs(0), logprobs(1)
    expected = plain(student, teacher, kind=kind, beta=beta, top_k=top_k)
    got = divergence(student, teacher, kind=kind, beta=beta, top_k=top_k)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    single = divergence(student.float(), teacher.float(), kind=kind, beta=beta, top_k=top_k)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("top_k", [0, 1, 4])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_gradients_are_those_of_finite_differences(kind: Kind, beta: float, top_k: int) -> None:
    teacher_NV = logprobs(1)

    def of_logits(logits_NV: Tensor) -> Tensor:
        return divergence(torch.log_softmax(logits_NV, -1), teacher_NV, kind=kind, beta=beta, top_k=top_k)

    assert torch.autograd.gradcheck(of_logits, logits(0).requires_grad_())


def test_the_examples_of_the_docstrings_hold() -> None:
    half, quarter = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert kl(half, quarter).item() == pytest.approx(0.144, abs=5e-4)
    left, right = torch.tensor([[1.0, 0.0]]).log(), torch.tensor([[0.0, 1.0]]).log()
    assert jsd(left, right).item() == pytest.approx(math.log(2))
    both = coarse(torch.tensor([[0.2, 0.5, 0.3]]).log(), torch.tensor([[0.6, 0.1, 0.3]]).log(), top_k=1)
    assert both.teacher_logprobs_NK.exp().tolist()[0] == pytest.approx([0.6, 0.4])
    assert both.student_logprobs_NK.exp().tolist()[0] == pytest.approx([0.2, 0.8])
    ratio = torch.tensor([0.0, 0.5, -0.5])
    assert k3(torch.full((3,), -1.0), -1.0 + ratio).tolist() == pytest.approx([0.0, 0.149, 0.107], abs=5e-4)


numbers = st.lists(st.floats(-8.0, 8.0), min_size=5, max_size=5)


@given(numbers, numbers, st.sampled_from(KINDS), st.sampled_from([0, 1, 2, 3, 4, 5]))
def test_never_negative_and_never_above_the_whole(
    one: list[float], other: list[float], kind: tuple[Kind, float], top_k: int
) -> None:
    student, teacher = (torch.log_softmax(torch.tensor([x], dtype=torch.float64), -1) for x in (one, other))
    of = partial(divergence, student, teacher, kind=kind[0], beta=kind[1])
    assert -1e-12 <= of(top_k=top_k).item() <= of(top_k=0).item() + 1e-12
    if 0.0 < kind[1] < 1.0 and kind[0] == "jsd":
        beta = kind[1]
        assert of().item() <= -beta * math.log(beta) - (1 - beta) * math.log1p(-beta) + 1e-12


@given(numbers, numbers, st.sampled_from(KINDS))
def test_zero_for_equal_distributions_and_for_no_others(
    one: list[float], other: list[float], kind: tuple[Kind, float]
) -> None:
    student, teacher = (torch.log_softmax(torch.tensor([x], dtype=torch.float64), -1) for x in (one, other))
    assert abs(divergence(student, student, kind=kind[0], beta=kind[1]).item()) < 1e-13
    distance = float((student.exp() - teacher.exp()).abs().sum())
    assume(distance > 1e-4)
    # Pinsker for both parts; M lies (1 - beta) and beta of the way between them
    share = kind[1] * (1 - kind[1]) if kind[0] == "jsd" and 0.0 < kind[1] < 1.0 else 1.0
    assert divergence(student, teacher, kind=kind[0], beta=kind[1]).item() >= 0.499 * share * distance**2


def test_the_ends_of_beta_are_the_limits_of_what_is_left_when_its_factor_is_taken_out() -> None:
    student, teacher = logprobs(0), logprobs(1)
    forward, reverse, small = kl(teacher, student), kl(student, teacher), 1e-7
    torch.testing.assert_close(jsd(student, teacher, beta=small) / small, forward, rtol=1e-4, atol=0)
    torch.testing.assert_close(jsd(student, teacher, beta=1 - small) / small, reverse, rtol=1e-4, atol=0)
    assert torch.equal(jsd(student, teacher, beta=0.0), forward)
    assert torch.equal(jsd(student, teacher, beta=1.0), reverse)
    assert not torch.allclose(forward, reverse, rtol=0.1)
    torch.testing.assert_close(jsd(student, teacher, beta=0.3), jsd(teacher, student, beta=0.7))


@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_telling_more_tokens_apart_never_lowers_a_divergence(kind: Kind, beta: float) -> None:
    student, teacher = logprobs(0, shape=(40, 30)), logprobs(1, shape=(40, 30))
    rising = torch.stack([divergence(student, teacher, kind=kind, beta=beta, top_k=k) for k in range(1, 32)])
    assert (rising.diff(dim=0) >= -1e-12).all()
    assert (rising[9] > rising[0] + 1e-3).any()
    whole = divergence(student, teacher, kind=kind, beta=beta)
    for same in rising[28:]:  # 29 and one other, 30, and more than there are
        torch.testing.assert_close(same, whole)


def test_a_rest_of_almost_nothing_keeps_its_size() -> None:
    """1 minus the likely tokens would be 0 or a rounding error here."""
    teacher = torch.log_softmax(torch.tensor([[30.0, 29.0, 0.0, -1.0]]), -1)
    student = torch.log_softmax(torch.tensor([[1.0, 2.0, 0.5, 0.0]]), -1)
    rest = coarse(student, teacher, top_k=2).teacher_logprobs_NK[0, -1]
    assert rest.item() == pytest.approx(teacher[0, 2:].double().logsumexp(0).item(), rel=1e-6)
    got = divergence(student, teacher, kind="reverse_kl", top_k=2)
    expected = plain(student.double(), teacher.double(), kind="reverse_kl", beta=0.0, top_k=2)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("top_k", [0, 2])
@pytest.mark.parametrize(("kind", "beta"), KINDS)
def test_finite_where_probabilities_underflow_or_are_ruled_out(kind: Kind, beta: float, top_k: int) -> None:
    sharp = torch.tensor([[900.0, 0.0, -900.0, 3.0], [0.0, 0.0, 0.0, 0.0], [-900.0, 5.0, 900.0, 0.0]])
    out = torch.tensor([[0.0, -math.inf, 1.0, -math.inf]]).expand(3, 4)
    teachers = [torch.log_softmax(x, -1) for x in (sharp.flip(0), out, sharp.roll(1, 0))]
    for student_logits in (sharp, out):
        for teacher in teachers:
            leaf = student_logits.clone().requires_grad_()
            value = divergence(torch.log_softmax(leaf, -1), teacher, kind=kind, beta=beta, top_k=top_k)
            value.sum().backward()
            assert value.isfinite().all()
            assert leaf.grad is not None
            assert leaf.grad.isfinite().all()
            assert (value >= -1e-6).all()
            assert (value <= -LOWEST_LOGPROB).all()


def test_half_precision_is_computed_in_single() -> None:
    student, teacher = logprobs(0).bfloat16(), logprobs(1).bfloat16()
    got = jsd(student, teacher)
    assert got.dtype == torch.float32
    assert torch.equal(got, jsd(student.float(), teacher.float()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "js"}, "reverse_kl"),
        ({"kind": "jsd", "beta": 1.5}, "from 0"),
        ({"kind": "jsd", "beta": math.nan}, "from 0"),
        ({"kind": "jsd", "top_k": -1}, "at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        divergence(logprobs(0), logprobs(1), **settings)


# --- of sampled tokens ----------------------------------------------------------------------------------------------


def test_k3_is_never_negative_and_its_mean_is_the_reverse_kl() -> None:
    student, teacher = logprobs(0), logprobs(1)
    each = k3(student, teacher)
    assert (each >= 0.0).all()
    torch.testing.assert_close((student.exp() * each).sum(-1), kl(student, teacher))
    near = student + 1e-3 * logits(2)
    near = torch.log_softmax(near, -1)
    plain_variance, variance = (
        (student.exp() * (x - kl(student, near)[:, None]).square()).sum(-1) for x in (student - near, k3(student, near))
    )
    assert (variance < 1e-3 * plain_variance).all()


def test_the_mean_gradient_of_k3_is_that_of_the_forward_kl() -> None:
    leaf, teacher = logits(0).requires_grad_(), logprobs(1)
    student = torch.log_softmax(leaf, -1)
    (got,) = torch.autograd.grad((student.detach().exp() * k3(student, teacher)).sum(), leaf, retain_graph=True)
    (forward,) = torch.autograd.grad(kl(teacher, student).sum(), leaf, retain_graph=True)
    (reverse,) = torch.autograd.grad(kl(student, teacher).sum(), leaf)
    torch.testing.assert_close(got, forward)
    assert not torch.allclose(got, reverse, atol=0.1)


def test_k3_stays_finite() -> None:
    student = torch.tensor([-900.0, 0.0, -math.inf, 0.0, -50.0], requires_grad=True)
    value = k3(student, torch.tensor([0.0, -900.0, 0.0, -math.inf, -51.0]))
    value.sum().backward()
    assert student.grad is not None
    assert value.isfinite().all()
    assert student.grad.isfinite().all()
    assert value.tolist() == pytest.approx(
        [math.exp(20) - 21, 899.0, math.exp(20) - 21, -LOWEST_LOGPROB - 1, math.exp(-1)]
    )


def test_what_training_does_at_sampled_tokens_is_on_average_the_gradient_of_the_reverse_kl() -> None:
    """All tokens a step could sample, each as often as the student samples it, through the trainer's own functions."""
    leaf, teacher_V = logits(0, shape=(1, 11)).requires_grad_(), logprobs(1, shape=(1, 11))[0]
    student_V = torch.log_softmax(leaf[0], -1)
    (expected,) = torch.autograd.grad(kl(student_V[None], teacher_V[None]).sum(), leaf, retain_graph=True)
    old_V1 = student_V.detach()[:, None]
    step_V1 = torch.zeros_like(old_V1, dtype=torch.long)
    advantage_V1 = distilled_advantages(
        torch.zeros(11, dtype=torch.float64),
        old_V1,
        teacher_V[:, None],
        step_V1,
        weight_BK=torch.ones_like(old_V1),
    )
    loss = policy_loss(
        student_V[:, None], old_V1, advantage_V1, step_V1 == 0, denominator=1.0, importance_BT=old_V1.exp()
    ).loss
    (got,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(got, expected)
    assert expected.abs().max() > 0.1


# --- of two models, in chunks ---------------------------------------------------------------------------------------

VOCAB = 97
SHARED = 20


def model(seed: int, *, vocab_size: int = VOCAB, dtype: torch.dtype = torch.float64, width: int = 16) -> HFModel:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=128,
        initializer_range=0.3,
        tie_word_embeddings=seed % 2 == 0,
    )
    return HFModel(Qwen3ForCausalLM(config).to(dtype))


@pytest.fixture(scope="module")
def student() -> HFModel:
    return model(0)


@pytest.fixture(scope="module")
def teacher() -> HFModel:
    return model(1, width=24)


def rows(*, seed: int = 0, shared: int = SHARED) -> tuple[Tensor, Tensor]:
    """Two siblings that share a prompt, a row of its own prompt, and one without a masked token."""
    generator = torch.Generator().manual_seed(seed)
    token_BT = torch.randint(0, VOCAB, (4, shared + 14), generator=generator)
    token_BT[1, :shared] = token_BT[0, :shared]
    mask_BT = torch.zeros_like(token_BT, dtype=torch.bool)
    mask_BT[:2, shared : shared + 5] = True
    mask_BT[1, shared + 8 : shared + 14] = True
    mask_BT[2, 3 : shared + 9 : 2] = True
    return token_BT, mask_BT


def naive(
    student: HFModel, teacher: HFModel, token_BT: Tensor, mask_BT: Tensor, *, temperature: float, **settings: Any
) -> list[Tensor]:
    """Every row alone and whole: the fields of TokenDivergences."""
    num_common = min(student.vocab_size, teacher.vocab_size)
    parts: list[list[Tensor]] = []
    for token_T, mask_T in zip(token_BT, mask_BT, strict=True):
        both = []
        for module in (student.module, teacher.module):
            logits_TV = module(input_ids=token_T[None], use_cache=False).logits[0] / temperature
            both.append(logits_TV[:-1][mask_T[1:]])
        student_NV, teacher_NV = (torch.log_softmax(x, -1) for x in both)
        token_N = token_T[mask_T]
        known = [torch.log_softmax(x[:, :num_common], -1) for x in both]
        at = [x[torch.arange(len(token_N)), token_N] for x in (student_NV, teacher_NV)]
        entropy = [-(x.exp() * x).sum(-1) for x in (student_NV, teacher_NV)]
        parts.append([plain(known[0], known[1].detach(), **settings), *at, *entropy])
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def fields(result: chunked.TokenDivergences) -> list[Tensor]:
    return [
        result.divergence_N,
        result.logprobs_N,
        result.teacher_logprobs_N,
        result.entropy_N,
        result.teacher_entropy_N,
    ]


def gradients(model: HFModel, loss: Tensor) -> list[Tensor]:
    model.module.zero_grad()
    loss.backward()
    grads = [parameter.grad for parameter in model.module.parameters()]
    assert all(grad is not None for grad in grads)
    return [grad.clone() for grad in grads if grad is not None]


@pytest.mark.parametrize("tokens_in_chunk", [1, 5, 1000])
@pytest.mark.parametrize("top_k", [0, 6])
@pytest.mark.parametrize(("kind", "beta"), [("reverse_kl", 0.5), ("forward_kl", 0.5), ("jsd", 0.3)])
def test_chunks_give_values_and_gradients_of_whole_forwards(
    student: HFModel,
    teacher: HFModel,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    beta: float,
    top_k: int,
    tokens_in_chunk: int,
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", VOCAB * tokens_in_chunk)
    token_BT, mask_BT = rows()
    settings: dict[str, Any] = {"kind": kind, "beta": beta, "top_k": top_k}
    compared = partial(divergence, **settings)
    result = token_divergences(student, teacher, token_BT, mask_BT, divergence=compared, temperature=0.7)
    expected = naive(student, teacher, token_BT, mask_BT, temperature=0.7, **settings)
    for got, want in zip(fields(result), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert not any(field.requires_grad for field in fields(result)[2:])
    weight_N = torch.linspace(-0.5, 1.5, int(mask_BT.sum()), dtype=torch.float64)
    ours = gradients(student, (result.divergence_N * weight_N + result.logprobs_N * weight_N.flip(0)).sum())
    theirs = gradients(student, (expected[0] * weight_N + expected[1] * weight_N.flip(0)).sum())
    # float64 but for transformers' norms, which compute in float32
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert all(parameter.grad is None for parameter in teacher.module.parameters())


def test_log_probs_and_entropy_are_those_of_the_sampled_tokens(student: HFModel, teacher: HFModel) -> None:
    token_BT, mask_BT = rows()
    result = token_divergences(student, teacher, token_BT, mask_BT, divergence=jsd, temperature=0.7)
    for model, logprobs_N, entropy_N in (
        (student, result.logprobs_N, result.entropy_N),
        (teacher, result.teacher_logprobs_N, result.teacher_entropy_N),
    ):
        expected = model.token_logprobs(token_BT, mask_BT, temperature=0.7)  # in float32
        torch.testing.assert_close(logprobs_N.float(), expected.logprobs_N, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(entropy_N.float(), expected.entropy_N, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens_in_chunk", [5, 1000])
@pytest.mark.parametrize(("ours", "theirs"), [(VOCAB, VOCAB + 31), (VOCAB + 31, VOCAB)])
def test_padding_of_a_vocabulary_is_left_out_of_the_comparison(
    monkeypatch: pytest.MonkeyPatch, ours: int, theirs: int, tokens_in_chunk: int
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", (VOCAB + 31) * tokens_in_chunk)
    student, teacher = model(0, vocab_size=ours), model(1, vocab_size=theirs)
    token_BT, mask_BT = rows()
    compared = partial(jsd, beta=0.3)
    result = token_divergences(student, teacher, token_BT, mask_BT, divergence=compared)
    expected = naive(student, teacher, token_BT, mask_BT, temperature=1.0, kind="jsd", beta=0.3)
    for got, want in zip(fields(result), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    grads = gradients(student, result.divergence_N.sum()), gradients(student, expected[0].sum())
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


def test_vocabularies_that_differ_by_more_than_padding_are_refused(student: HFModel) -> None:
    far, token_BT, mask_BT = model(1, vocab_size=VOCAB + chunked.MAX_PADDING + 1), *rows()
    for one, other in ((student, far), (far, student)):
        with pytest.raises(ModelError, match=r"1024 tokens, got \d+ and \d+ tokens; take a teacher"):
            token_divergences(one, other, token_BT, mask_BT, divergence=jsd)


def test_a_token_the_teacher_does_not_know_is_refused(teacher: HFModel) -> None:
    token_BT, mask_BT = rows()
    token_BT[2, 5] = VOCAB
    with pytest.raises(ModelError, match=f"got id {VOCAB} for a vocabulary of {VOCAB}"):
        token_divergences(model(0, vocab_size=VOCAB + 3), teacher, token_BT, mask_BT, divergence=jsd)


def test_a_teacher_with_its_own_prompt_sees_the_same_tokens_behind_it(student: HFModel, teacher: HFModel) -> None:
    """The teacher's half is what it is on its own rows, the student's half what it is on its own."""
    token_BT, mask_BT = rows(shared=SHARED)
    hint_BT = torch.randint(0, VOCAB, (4, 9), generator=torch.Generator().manual_seed(5))
    shown_BT = torch.cat([hint_BT[:, :7], token_BT, hint_BT[:, 7:]], 1)
    shown_mask_BT = torch.cat([torch.zeros(4, 7), mask_BT, torch.zeros(4, 2)], 1).bool()
    result = token_divergences(
        student,
        teacher,
        token_BT,
        mask_BT,
        divergence=jsd,
        teacher_token_BT=shown_BT,
        teacher_mask_BT=shown_mask_BT,
    )
    plainly = token_divergences(student, teacher, token_BT, mask_BT, divergence=jsd)
    shown = token_divergences(student, teacher, shown_BT, shown_mask_BT, divergence=jsd)
    assert torch.equal(result.logprobs_N, plainly.logprobs_N)
    assert torch.equal(result.entropy_N, plainly.entropy_N)
    torch.testing.assert_close(result.teacher_logprobs_N, shown.teacher_logprobs_N)
    torch.testing.assert_close(result.teacher_entropy_N, shown.teacher_entropy_N)
    assert not torch.allclose(result.divergence_N, plainly.divergence_N, atol=1e-3)
    same = token_divergences(student, student, token_BT, mask_BT, divergence=jsd)
    assert same.divergence_N.abs().max() < 1e-12
    expected = []
    for row in range(4):
        halves = [
            torch.log_softmax(model.module(input_ids=tokens[None], use_cache=False).logits[0, :-1][mask[1:]], -1)
            for model, tokens, mask in (
                (student, token_BT[row], mask_BT[row]),
                (teacher, shown_BT[row], shown_mask_BT[row]),
            )
        ]
        expected.append(plain(halves[0], halves[1], kind="jsd", beta=0.5))
    torch.testing.assert_close(result.divergence_N, torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_a_teacher_that_is_shown_other_tokens_is_refused(student: HFModel, teacher: HFModel) -> None:
    token_BT, mask_BT = rows()

    def compare(shown_BT: Tensor | None, shown_mask_BT: Tensor | None) -> None:
        token_divergences(
            student,
            teacher,
            token_BT,
            mask_BT,
            divergence=jsd,
            teacher_token_BT=shown_BT,
            teacher_mask_BT=shown_mask_BT,
        )

    other_BT, fewer_BT = token_BT.clone(), mask_BT.clone()
    other_BT[2, 5] = (other_BT[2, 5] + 1) % VOCAB
    fewer_BT[2, 5] = False
    for shown_BT, shown_mask_BT, message in (
        (other_BT, mask_BT, "in their order"),
        (token_BT, fewer_BT, "as many tokens"),
        (token_BT[:3], mask_BT[:3], "as many rows"),
        (other_BT, None, "both, tokens and mask"),
        (None, mask_BT, "both, tokens and mask"),
    ):
        with pytest.raises(AssertionError, match=message):
            compare(shown_BT, shown_mask_BT)


def test_a_mask_over_the_first_token_is_refused(student: HFModel, teacher: HFModel) -> None:
    token_BT, mask_BT = rows()
    mask_BT[0, 0] = True
    with pytest.raises(AssertionError, match="first token"):
        token_divergences(student, teacher, token_BT, mask_BT, divergence=jsd)


def test_an_empty_mask_trains_nothing(student: HFModel, teacher: HFModel) -> None:
    token_BT, mask_BT = rows()
    result = token_divergences(
        student, teacher, token_BT, torch.zeros_like(mask_BT), divergence=partial(divergence, top_k=3)
    )
    assert [field.shape for field in fields(result)] == [(0,)] * 5
    assert all(not grad.any() for grad in gradients(student, result.divergence_N.sum()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_of_the_head_does_not_suffer_from_many_chunks(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Added up in bfloat16, 480 chunks would be wrong by several per cent."""
    student, teacher = model(1, dtype=dtype), model(3, dtype=dtype, width=24)
    token_BT = torch.randint(0, VOCAB, (4, 121), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.ones_like(token_BT, dtype=torch.bool)
    mask_BT[:, 0] = False
    found = {}
    for tokens_in_chunk in (1, 1000):
        monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", VOCAB * tokens_in_chunk)
        result = token_divergences(
            student, teacher, token_BT, mask_BT, divergence=partial(divergence, kind="forward_kl")
        )
        assert result.divergence_N.dtype == torch.float32
        gradients(student, result.divergence_N.sum())
        found[tokens_in_chunk] = student.module.lm_head.weight.grad.double()
    gap = float((found[1] - found[1000]).norm() / found[1000].norm())
    assert gap < (1e-5 if dtype == torch.float32 else 4e-3)


def test_gradients_are_the_same_with_activations_computed_again(
    student: HFModel, teacher: HFModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", VOCAB * 5)
    token_BT, mask_BT = rows()
    again = HFModel(student.module, gradient_checkpointing=True)
    found = []
    for one in (student, again):
        result = token_divergences(one, teacher, token_BT, mask_BT, divergence=jsd)
        found.append(gradients(one, result.divergence_N.sum()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


def test_a_frozen_head_trains_what_is_below(monkeypatch: pytest.MonkeyPatch, teacher: HFModel) -> None:
    student = model(1)
    token_BT, mask_BT = rows()
    found = []
    for frozen in (False, True):
        student.module.lm_head.requires_grad_(not frozen)
        monkeypatch.setattr(chunked, "CHUNK_ELEMENTS", VOCAB * 5)
        student.module.zero_grad()
        token_divergences(student, teacher, token_BT, mask_BT, divergence=jsd).divergence_N.sum().backward()
        found.append([parameter.grad.clone() for parameter in student.module.model.parameters()])
    torch.testing.assert_close(found[0], found[1])
    assert student.module.lm_head.weight.grad is None


CHILD = """
import json, re, sys
from functools import partial
from pathlib import Path
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from sod.algorithm.divergences import divergence
from sod.models import divergence as chunked
from sod.models.hf import HFModel

torch.set_num_threads(1)
chunked.CHUNK_ELEMENTS, tokens, vocab_size = map(int, sys.argv[1:])


def memory(field):
    return int(re.search(rf"^{field}:\\s*(\\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024


def make():
    return HFModel(Qwen3ForCausalLM(Qwen3Config(
        vocab_size=vocab_size, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16)))


def learn(student, teacher, tokens):
    token_BT = torch.arange(tokens + 1)[None]
    result = chunked.token_divergences(
        student, teacher, token_BT, token_BT > 0, divergence=partial(divergence, kind="jsd", top_k=32))
    (result.divergence_N + result.logprobs_N).sum().backward()


student, teacher = make(), make()
learn(student, teacher, 8)  # what torch sets up once
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
learn(student, teacher, tokens)
print(memory("VmHWM") - before)
"""


def grown(*, chunk_elements: int, tokens: int, vocab_size: int) -> int:
    """Bytes by which a fresh process grows at most while it compares and learns."""
    command = [sys.executable, "-c", CHILD, str(chunk_elements), str(tokens), str(vocab_size)]
    # Without the second, glibc keeps what is freed in pieces that fit nothing, and that is what would be measured.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return int(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_memory_is_that_of_a_chunk_not_of_the_batch() -> None:
    tokens, vocab_size, chunk_elements = 512, 32768, 1 << 20
    whole = grown(chunk_elements=tokens * vocab_size, tokens=tokens, vocab_size=vocab_size)
    assert whole > 5 * 4 * tokens * vocab_size, "what is measured must see the tensors"
    assert grown(chunk_elements=chunk_elements, tokens=2 * tokens, vocab_size=vocab_size) < 12 * 4 * chunk_elements

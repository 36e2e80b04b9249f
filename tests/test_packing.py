"""Packed sequences against padded rows, which are the slow reference here: the same numbers and gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from sod.batch import microbatches
from sod.models.grouping import token_runs
from sod.models.hf import HFModel
from sod.models.network import Network
from sod.models.packing import PackedCache, Packing
from sod.models.reading import read_rows

VOCAB = 97
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
RAGGED = [40, 3, 17, 17, 2, 29, 17, 11]
EVEN = [33, 33, 32, 33]


def qwen3() -> Any:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=4))


def grouped_and_tied() -> Any:
    torch.manual_seed(1)
    return LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True))


def learned_positions() -> Any:
    torch.manual_seed(2)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3)
    return GPT2LMHeadModel(config)


MAKERS = [qwen3, grouped_and_tied, learned_positions]


def tokens_of(lengths: list[int], *, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB, (length,), generator=generator) for length in lengths]


def padded_batch(sequences: list[Tensor], *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded tokens and a mask of about half of them, one at least a row, none of them a first token."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(map(len, sequences))
    token_BT = torch.zeros(len(sequences), longest, dtype=torch.long)
    mask_BT = torch.zeros(len(sequences), longest, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        token_BT[row, : len(sequence)] = sequence
        mask_BT[row, 1 : len(sequence)] = torch.rand(len(sequence) - 1, generator=generator) < 0.5
        mask_BT[row, 1] = True
    return token_BT, mask_BT


def padded_logprobs(module: Any, token_BT: Tensor, mask_BT: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The plain way: every row of one length, all logits."""
    logits_BTV = module(input_ids=token_BT, use_cache=False).logits.float() / temperature
    logprobs_BTV = torch.log_softmax(logits_BTV, -1)
    row_N, position_N = mask_BT.nonzero(as_tuple=True)
    return logprobs_BTV[row_N, position_N - 1, token_BT[row_N, position_N]]


def gradients(module: Any) -> dict[str, Tensor]:
    """Taken and cleared."""
    taken = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    module.zero_grad()
    return taken


def assert_same_gradients(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, gradient in expected.items():
        size = float(gradient.abs().max())
        torch.testing.assert_close(got[name], gradient, atol=1e-5 * max(size, 1.0), rtol=1e-5, msg=name)


@pytest.mark.parametrize("lengths", [RAGGED, EVEN], ids=["ragged", "even"])
@pytest.mark.parametrize("make", MAKERS)
def test_packed_equals_padded_in_values_and_gradients(make: Callable[[], Any], lengths: list[int]) -> None:
    reference, model = make().eval(), HFModel(make())
    token_BT, mask_BT = padded_batch(tokens_of(lengths))
    weight_N = torch.randn(int(mask_BT.sum()), generator=torch.Generator().manual_seed(1))

    expected_N = padded_logprobs(reference, token_BT, mask_BT, temperature=0.8)
    (expected_N * weight_N).sum().backward()
    got_N = model.token_logprobs(token_BT, mask_BT, temperature=0.8).logprobs_N
    (got_N * weight_N).sum().backward()

    torch.testing.assert_close(got_N, expected_N, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model.module), gradients(reference))


def sibling_batch() -> tuple[Tensor, Tensor]:
    """Prompts of 30, 20 and 30 tokens with 3, 1 and 2 rows; the second row's only masked token comes right after its
    prompt, the last row has none."""
    prompts, responses = tokens_of([30, 20, 30]), tokens_of([12, 1, 25, 9, 14, 6], seed=1)
    rows = [torch.cat([prompts[which], more]) for which, more in zip([0, 0, 0, 1, 2, 2], responses, strict=True)]
    token_BT, mask_BT = padded_batch(rows, seed=2)
    for row, which in enumerate([0, 0, 0, 1, 2, 2]):
        mask_BT[row, : len(prompts[which])] = False
        mask_BT[row, len(prompts[which])] = True
    mask_BT[5] = False
    return token_BT, mask_BT


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize("make", MAKERS)
def test_siblings_share_their_prompt_in_values_and_gradients(
    make: Callable[[], Any], gradient_checkpointing: bool
) -> None:
    reference, model = make().eval(), HFModel(make(), gradient_checkpointing=gradient_checkpointing)
    token_BT, mask_BT = sibling_batch()
    weight_N = torch.randn(int(mask_BT.sum()), generator=torch.Generator().manual_seed(1))
    expected_N = padded_logprobs(reference, token_BT, mask_BT)
    (expected_N * weight_N).sum().backward()
    got_N = model.token_logprobs(token_BT, mask_BT).logprobs_N
    (got_N * weight_N).sum().backward()
    torch.testing.assert_close(got_N, expected_N, atol=1e-5, rtol=1e-5)
    assert_same_gradients(gradients(model.module), gradients(reference))


def test_a_shared_prompt_is_read_once() -> None:
    token_BT, mask_BT = sibling_batch()
    reading = read_rows(token_BT, mask_BT)
    last = [row.nonzero().max().item() for row in mask_BT[:5]]
    assert len(reading.token_N) == 30 + sum(last[:3]) - 3 * 30 + last[3] + last[4]
    assert reading.packing.num_kept == (0, 30, 30, 0, 0), "the second row adds nothing, the last but one is alone"
    for row, end in enumerate(last):
        assert torch.equal(reading.token_N[reading.place_BT[row, :end]], token_BT[row, :end])


def test_short_prompts_and_rows_without_a_masked_token_share_nothing() -> None:
    token_BT, mask_BT = padded_batch(tokens_of(RAGGED))
    assert read_rows(token_BT, mask_BT).packing.key_index is None
    nothing = read_rows(token_BT, torch.zeros_like(mask_BT))
    assert nothing.packing.num_new == (1,)


def test_the_ragged_case_is_packed_and_the_even_one_is_not() -> None:
    """Else the test above would compare one thing with itself."""
    device = torch.device("cpu")
    assert not Packing.of(RAGGED, device=device).nearly_even
    assert Packing.of(EVEN, device=device).nearly_even
    assert not Packing.of([5, 5], num_kept=[0, 3], device=device).nearly_even


def test_bfloat16_agrees_as_far_as_it_can() -> None:
    reference, model = grouped_and_tied().bfloat16().eval(), HFModel(grouped_and_tied().bfloat16())
    token_BT, mask_BT = padded_batch(tokens_of(RAGGED))
    expected_N = padded_logprobs(reference, token_BT, mask_BT)
    got_N = model.token_logprobs(token_BT, mask_BT).logprobs_N
    got_N.sum().backward()
    torch.testing.assert_close(got_N, expected_N, atol=0.15, rtol=0.05)
    assert all(gradient.isfinite().all() for gradient in gradients(model.module).values())


def test_the_order_of_a_batch_changes_nothing() -> None:
    model = HFModel(grouped_and_tied())
    token_BT, mask_BT = padded_batch(tokens_of(RAGGED))
    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    with torch.no_grad():
        straight_N = model.token_logprobs(token_BT, mask_BT).logprobs_N
        turned_N = model.token_logprobs(token_BT[order], mask_BT[order]).logprobs_N
    spread_BT = torch.zeros(mask_BT.shape)
    spread_BT[mask_BT] = straight_N
    torch.testing.assert_close(turned_N, spread_BT[order][mask_BT[order]], atol=1e-5, rtol=1e-5)


def test_one_micro_batch_equals_many() -> None:
    model = HFModel(qwen3())
    token_BT, mask_BT = padded_batch(tokens_of(RAGGED))
    length_B = torch.tensor(RAGGED)
    model.token_logprobs(token_BT, mask_BT).logprobs_N.sum().backward()
    whole = gradients(model.module)
    parts = list(microbatches(length_B, max_tokens=45))
    assert len(parts) >= 3
    for rows in parts:
        model.token_logprobs(token_BT[rows], mask_BT[rows]).logprobs_N.sum().backward()
    assert_same_gradients(gradients(model.module), whole)


def test_what_stands_after_the_last_sampled_token_is_not_read() -> None:
    model = HFModel(qwen3())
    token_BT, mask_BT = padded_batch(tokens_of(RAGGED))
    mask_BT[:, 10:] = False
    mask_BT[2] = False  # a row that trains nothing
    seen: list[int] = []
    hook = model.module.get_input_embeddings().register_forward_hook(
        lambda _m, args, _out: seen.append(args[0].numel())
    )
    with torch.no_grad():
        got_N = model.token_logprobs(token_BT, mask_BT).logprobs_N
        expected_N = padded_logprobs(model.module, token_BT, mask_BT)
    hook.remove()
    torch.testing.assert_close(got_N, expected_N, atol=1e-5, rtol=1e-5)
    assert seen[0] == sum(int(row.nonzero()[-1]) for row in mask_BT if row.any())


def test_no_mask_over_all_pairs_of_tokens_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """2,000 tokens in 100 sequences: a mask of all pairs would hold 4 million entries."""
    network = Network(qwen3().eval())
    largest: list[int] = []
    plain = torch.nn.functional.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, *, attn_mask: Tensor | None, **rest: Any) -> Tensor:
        largest.append(max(query.shape[2] * key.shape[2], 0 if attn_mask is None else attn_mask.numel()))
        return plain(query, key, value, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
    lengths = [10, 30] * 50
    packing = Packing.of(lengths, device=torch.device("cpu"))
    with torch.inference_mode():
        network.hidden_packed(torch.zeros(sum(lengths), dtype=torch.long), packing=packing)
    assert len(largest) == 2 * len(lengths)  # layers, and no two neighbours of one length
    assert max(largest) == 30 * 30


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("num_kept", [[5, 0, 9, 5], [1, 2, 3, 4]])
def test_what_was_kept_stands_for_its_tokens(make: Callable[[], Any], num_kept: list[int]) -> None:
    network = Network(make().eval())
    device = torch.device("cpu")
    sequences = tokens_of([12, 7, 21, 12])
    pairs = zip(sequences, num_kept, strict=True)
    heads = [(index, sequence[:count]) for index, (sequence, count) in enumerate(pairs) if count]
    with torch.inference_mode():
        packing = Packing.of([len(head) for _, head in heads], device=device)
        cache = PackedCache(packing, kept=[None] * len(heads), wanted=[99] * len(heads))
        network.hidden_packed(torch.cat([head for _, head in heads]), packing=packing, cache=cache)
        parked = {index: cache.parked(place, tuple(head.tolist())) for place, (index, head) in enumerate(heads)}
        tails = [sequence[count:] for sequence, count in zip(sequences, num_kept, strict=True)]
        packing = Packing.of([len(tail) for tail in tails], num_kept=num_kept, device=device)
        cache = PackedCache(packing, kept=[parked.get(index) for index in range(4)], wanted=[99] * 4)
        hidden_NE = network.hidden_packed(torch.cat(tails), packing=packing, cache=cache)
        whole = [
            network.hidden_packed(sequence, packing=Packing.of([len(sequence)], device=device))
            for sequence in sequences
        ]
    expected_NE = torch.cat([hidden_TE[count:] for hidden_TE, count in zip(whole, num_kept, strict=True)])
    torch.testing.assert_close(hidden_NE, expected_NE, atol=1e-5, rtol=1e-5)
    assert [cache.parked(index, ()).kv[0].shape[2] for index in range(4)] == [12, 7, 21, 12]


def test_gradient_checkpointing_changes_no_gradient() -> None:
    plain = HFModel(grouped_and_tied())
    frugal = HFModel(copy.deepcopy(plain.module), gradient_checkpointing=True)
    token_BT, mask_BT = padded_batch(tokens_of(RAGGED))
    calls = {"plain": 0, "frugal": 0}
    for name, model in (("plain", plain), ("frugal", frugal)):
        projection = model.module.model.layers[0].mlp.up_proj
        projection.register_forward_hook(lambda *_, name=name: calls.update({name: calls[name] + 1}))
        model.token_logprobs(token_BT, mask_BT).logprobs_N.sum().backward()
    assert calls == {"plain": 1, "frugal": 2}
    assert_same_gradients(gradients(frugal.module), gradients(plain.module))
    with torch.no_grad():
        frugal.token_logprobs(token_BT, mask_BT)
    assert calls["frugal"] == 3, "without gradients there is nothing to compute again"


def test_a_wrapped_module_still_generates_and_saves_as_it_did(tmp_path: Any) -> None:
    reference, wrapped = qwen3().eval(), HFModel(qwen3()).module
    token_BT = tokens_of([9])[0][None]
    arguments: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask_BT = torch.ones_like(token_BT)
    expected = reference.generate(token_BT, attention_mask=mask_BT, **arguments)
    assert wrapped.generate(token_BT, attention_mask=mask_BT, **arguments).tolist() == expected.tolist()
    padded_mask_BT = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1]])
    torch.testing.assert_close(
        wrapped(token_BT, attention_mask=padded_mask_BT).logits[:, 2:],
        reference(token_BT, attention_mask=padded_mask_BT).logits[:, 2:],
    )
    wrapped.save_pretrained(tmp_path)
    assert "sod" not in (tmp_path / "config.json").read_text()


@given(st.lists(st.integers(1, 60), max_size=40), st.integers(1, 120))
def test_token_runs_cover_everything_within_the_limit(lengths: list[int], limit: int) -> None:
    runs = token_runs(lengths, max_tokens=limit)
    assert [index for run in runs for index in run] == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[index] for index in run) <= limit for run in runs)
    for run, following in pairwise(runs):  # none could have been longer
        assert sum(lengths[index] for index in run) + lengths[following[0]] > limit


def test_positions_start_anew_and_after_what_was_kept() -> None:
    packing = Packing.of([3, 2], num_kept=[0, 4], device=torch.device("cpu"))
    assert packing.positions().tolist() == [[0, 1, 2, 4, 5]]
    assert packing.boundary_new.tolist() == [0, 3, 5]
    assert packing.boundary_all.tolist() == [0, 3, 9]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("make", [qwen3, grouped_and_tied])
def test_packed_equals_padded_on_a_gpu(make: Callable[[], Any], dtype: torch.dtype) -> None:
    reference = make().to("cuda", torch.float32).eval()
    model = HFModel(make().to("cuda", dtype))
    token_BT, mask_BT = (tensor.cuda() for tensor in padded_batch(tokens_of(RAGGED)))
    expected_N = padded_logprobs(reference, token_BT, mask_BT)
    got_N = model.token_logprobs(token_BT, mask_BT).logprobs_N
    close = {"atol": 1e-3, "rtol": 1e-3} if dtype == torch.float32 else {"atol": 0.3, "rtol": 0.1}
    torch.testing.assert_close(got_N, expected_N, **close)
    expected_N.sum().backward()
    got_N.sum().backward()
    got, expected = gradients(model.module), gradients(reference)
    for name in expected:
        overlap = torch.nn.functional.cosine_similarity(got[name].float().flatten(), expected[name].flatten(), dim=0)
        assert float(overlap) > (0.9999 if dtype == torch.float32 else 0.98), name

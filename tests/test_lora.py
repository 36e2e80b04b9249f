"""LoRA: what is trained, what is written, and that it is one model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from sod.config import LoRAConfig, ModelConfig
from sod.errors import ConfigError
from sod.models.checkpointing import recomputing
from sod.models.hf import HFModel
from sod.models.lora import add_lora, full_state, is_lora
from sod.models.weights import load_module, save_module

LORA = LoRAConfig(rank=4, alpha=8.0)
TOKENS = torch.randint(5, 90, (2, 24), generator=torch.Generator().manual_seed(0))


def disturb(module: Any) -> None:
    """Give B values, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)


@pytest.fixture
def adapted(tiny_module: Callable[[int], Any]) -> Any:
    module = tiny_module(0).eval()
    add_lora(module, LORA, seed=7)
    return module


def tied_llama() -> Any:
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=97, **sizes, tie_word_embeddings=True, attention_bias=True, initializer_range=0.3)
    )


def test_it_starts_as_the_same_model_of_the_same_class(tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0).eval()
    before, kind = module(input_ids=TOKENS).logits, type(module)
    state = torch.random.get_rng_state()
    add_lora(module, LORA, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(module) is kind
    assert is_lora(module)
    torch.testing.assert_close(module(input_ids=TOKENS).logits, before, rtol=0, atol=1e-6)


def test_the_seed_decides_what_is_drawn(adapted: Any, tiny_module: Callable[[int], Any]) -> None:
    same, other = tiny_module(0), tiny_module(0)
    torch.manual_seed(99)
    add_lora(same, LORA, seed=7)
    add_lora(other, LORA, seed=8)
    name = "model.layers.0.self_attn.q_proj.lora_A.default.weight"
    assert torch.equal(same.state_dict()[name], adapted.state_dict()[name])
    assert not torch.equal(other.state_dict()[name], adapted.state_dict()[name])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_additions_learn_and_in_float32(dtype: torch.dtype, tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0).to(dtype).eval()
    add_lora(module, LORA, seed=7)
    disturb(module)
    with recomputing(module):
        logits = module(input_ids=TOKENS, use_cache=False).logits
    assert logits.dtype == dtype
    logits.float().logsumexp(-1).mean().backward()
    layers = 3 * 7  # q, k, v, o, gate, up, down of three layers
    learned = {name: parameter for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert len(learned) == 2 * layers
    assert all(".lora_" in name and parameter.grad.abs().max() > 0 for name, parameter in learned.items())
    assert all(parameter.dtype == torch.float32 for parameter in learned.values())
    assert {parameter.dtype for name, parameter in module.named_parameters() if name not in learned} == {dtype}


def test_recomputing_gives_the_same_gradients(adapted: Any) -> None:
    disturb(adapted)
    found = []
    for recompute in (False, True):
        with recomputing(adapted) if recompute else nullcontext():
            loss = adapted(input_ids=TOKENS, use_cache=False).logits.logsumexp(-1).mean()
        loss.backward()
        found.append([parameter.grad for parameter in adapted.parameters() if parameter.requires_grad])
        adapted.zero_grad(set_to_none=True)
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", ["qwen3", "tied llama with biases"])
def test_what_is_saved_is_a_plain_model_with_the_same_logits(
    make: str, tiny_module: Callable[[int], Any], tmp_path: Path
) -> None:
    plain = (tiny_module(0) if make == "qwen3" else tied_llama()).eval()
    save_module(plain, tmp_path / "plain")
    names = load_file(tmp_path / "plain" / "model.safetensors").keys()
    assert names == full_state(plain).keys()
    add_lora(plain, LORA, seed=7)
    disturb(plain)
    save_module(plain, tmp_path / "merged")
    merged = load_module(ModelConfig(path=str(tmp_path / "merged")))
    assert not is_lora(merged)
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == names == full_state(plain).keys()
    wanted = plain(input_ids=TOKENS).logits
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, wanted, rtol=1e-5, atol=1e-5)
    disturbed = (wanted - load_module(ModelConfig(path=str(tmp_path / "plain")))(input_ids=TOKENS).logits).abs().max()
    assert disturbed > 1e-2


def test_what_is_saved_is_read_without_peft(adapted: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_module(adapted, tmp_path / "merged")
    monkeypatch.setitem(sys.modules, "peft", None)
    merged = load_module(ModelConfig(path=str(tmp_path / "merged")))
    save_module(merged, tmp_path / "again")
    with pytest.raises(ConfigError, match=r'pip install "sod-distill\[lora\]"'):
        add_lora(merged, LORA, seed=7)


def test_a_small_addition_is_not_rounded_away_before_it_is_added(tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0).bfloat16().eval()
    add_lora(module, LORA, seed=7)
    disturb(module)
    layer = module.model.layers[0].self_attn.q_proj
    exact_OI = layer.base_layer.weight.double() + layer.get_delta_weight("default").double()
    merged_OI = full_state(module)["model.layers.0.self_attn.q_proj.weight"]
    assert merged_OI.dtype == torch.bfloat16
    assert torch.equal(merged_OI, exact_OI.to(torch.bfloat16))


def test_the_state_of_a_plain_model_is_its_own_memory(tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0)
    state = full_state(module)
    assert all(
        state[name].data_ptr() == tensor.data_ptr() for name, tensor in module.state_dict().items() if name in state
    )
    assert not is_lora(module)


def test_targets_pick_layers(tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0)
    add_lora(module, LoRAConfig(rank=2, alpha=2.0, targets=("q_proj", "layers.1.mlp.down_proj")), seed=0)
    learned = {name.rpartition(".lora_")[0] for name, each in module.named_parameters() if each.requires_grad}
    assert learned == {f"model.layers.{layer}.self_attn.q_proj" for layer in range(3)} | {
        "model.layers.1.mlp.down_proj"
    }


@pytest.mark.parametrize("target", ["query", "proj", "lm_head", "embed_tokens"])
def test_a_target_that_names_no_layer_is_refused_with_those_there_are(
    target: str, tiny_module: Callable[[int], Any]
) -> None:
    module = tiny_module(0)
    with pytest.raises(
        ConfigError, match=rf'"{target}".*down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj'
    ):
        add_lora(module, LoRAConfig(targets=("q_proj", target)), seed=0)
    assert not is_lora(module)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_it_scores_and_trains_in_our_engine(adapted: Any, tmp_path: Path) -> None:
    disturb(adapted)
    model = HFModel(adapted)
    mask_BT = torch.ones_like(TOKENS, dtype=torch.bool)
    mask_BT[:, 0] = False
    result = model.token_logprobs(TOKENS, mask_BT)
    model.save(tmp_path / "merged")
    merged = HFModel.load(ModelConfig(path=str(tmp_path / "merged"))).token_logprobs(TOKENS, mask_BT)
    torch.testing.assert_close(result.logprobs_N, merged.logprobs_N, rtol=1e-5, atol=1e-5)
    (-result.logprobs_N.mean()).backward()
    assert all((each.grad is not None) == each.requires_grad for each in adapted.parameters())

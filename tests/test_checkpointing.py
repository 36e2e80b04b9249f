"""Gradient checkpointing in evaluation mode: the same gradients, less kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM

from sod.errors import ModelError
from sod.models.checkpointing import recomputing

TOKENS = torch.randint(5, 90, (2, 64), generator=torch.Generator().manual_seed(0))


def gpt2() -> Any:
    """Dropout in every block: on, if anything turned on training mode."""
    return GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=32, n_layer=3, n_head=4, n_positions=128))


def opt() -> Any:
    """A layer whose own forward, not a child's, drops out by `self.training`."""
    return OPTForCausalLM(
        OPTConfig(vocab_size=97, hidden_size=32, ffn_dim=64, num_hidden_layers=3, num_attention_heads=4, dropout=0.5)
    )


def gradients(module: Any, *, recompute: bool) -> tuple[dict[str, Tensor], int]:
    """Of one loss, and the bytes that the forward kept for the backward pass."""
    kept: dict[int, int] = {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with recomputing(module) if recompute else nullcontext():
            hidden_BTE = module.get_decoder()(input_ids=TOKENS, use_cache=False).last_hidden_state
        loss = hidden_BTE.square().mean()
    loss.backward()
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    module.zero_grad(set_to_none=True)
    return found, sum(kept.values())


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "opt"])
def test_the_same_gradients_from_a_fraction_of_the_memory(family: str, tiny_module: Callable[[int], Any]) -> None:
    torch.manual_seed(0)
    module = {"qwen3": lambda: tiny_module(0), "gpt2": gpt2, "opt": opt}[family]().eval()
    wanted, all_bytes = gradients(module, recompute=False)
    got, few_bytes = gradients(module, recompute=True)
    assert len(got) == len(wanted) > 10
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-6, atol=1e-6)
    assert few_bytes < all_bytes / 5


def test_outside_nothing_is_different(tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0).eval()
    before = module(input_ids=TOKENS[:, :20], use_cache=True)
    with pytest.raises(KeyError), recomputing(module):
        raise KeyError("a forward that fails")
    with recomputing(module), recomputing(module):
        pass
    assert not any("forward" in vars(layer) or layer.training for layer in module.modules())
    after = module(input_ids=TOKENS[:, :20], use_cache=True)
    torch.testing.assert_close(after.logits, before.logits, rtol=0, atol=0)
    assert after.past_key_values.get_seq_length() == 20
    extended = module(input_ids=TOKENS[:, 20:], past_key_values=after.past_key_values, use_cache=True)
    whole = module(input_ids=TOKENS, use_cache=False)
    torch.testing.assert_close(extended.logits, whole.logits[:, 20:], rtol=1e-4, atol=1e-4)


def test_a_forward_that_is_wrapped_stays_wrapped(tiny_module: Callable[[int], Any]) -> None:
    module = tiny_module(0).eval()
    layer, calls = module.get_decoder().layers[0], []
    plain = layer.forward
    layer.forward = lambda *args, **kwargs: calls.append(1) or plain(*args, **kwargs)
    gradients(module, recompute=True)
    assert len(calls) == 2  # forward, and again in the backward pass
    module(input_ids=TOKENS)
    assert len(calls) == 3


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="set gradient_checkpointing to false"), recomputing(nn.Linear(2, 2)):
        pass

"""Low-rank additions to a model's linear layers (LoRA, by peft): few numbers are trained, the weights stay.

Shapes: O output width, I input width, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sod.config import LoRAConfig
from sod.errors import ConfigError

__all__ = ["add_lora", "full_state", "is_lora"]

INSTALL = 'pip install "sod-distill[lora]"'
_ADAPTER = "default"


def add_lora(module: Any, config: LoRAConfig, *, seed: int) -> None:
    """Add W + alpha / rank * B A to the target layers in place and freeze everything but A and B, which are float32.

    The model computes the same as before, since B starts at 0; A is drawn from `seed`, and nobody else's random numbers
    change. Raises ConfigError for a target that names no layer, and without peft.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ConfigError(f"lora needs peft, got: {error}; run {INSTALL}") from None
    assert not is_lora(module), "a module takes LoRA once"
    targets = _targets(module, config.targets)
    # peft draws on the CPU, wherever the layer is.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        inject_adapter_in_model(
            LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets),
            module,
            adapter_name=_ADAPTER,
        )
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def is_lora(module: nn.Module) -> bool:
    """Whether `add_lora` was here."""
    return any(_is_addition(name) for name, _ in module.named_parameters())


def full_state(module: Any) -> dict[str, Tensor]:
    """The weights as a plain model of the same class holds them: W + alpha / rank * B A in W's own precision.

    Without LoRA: the module's state, nothing copied. A weight that is tied to another is named once, as in a file.
    """
    state: dict[str, Tensor] = module.state_dict()
    for name, layer in _lora_layers(module).items():
        state[f"{name}.base_layer.weight"] = _merged(layer)
    return {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in state.items()
        if not _is_addition(name) and name not in module.all_tied_weights_keys
    }


def _is_addition(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


def _lora_layers(module: nn.Module) -> dict[str, Any]:
    if not is_lora(module):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoraLayer)}


@torch.no_grad()
def _merged(layer: Any) -> Tensor:
    """(O, I). Added in float32: most of a small addition would round away in bfloat16 before it is added."""
    weight_OI: Tensor = layer.base_layer.weight
    delta_OI: Tensor = layer.get_delta_weight(_ADAPTER)
    return (weight_OI.float() + delta_OI).to(weight_OI.dtype)


def _targets(module: Any, wanted: tuple[str, ...]) -> list[str]:
    """Full names of the wanted linear layers: `("q_proj",) -> ["model.layers.0.self_attn.q_proj", ...]`.

    The head is none of them: its weights are read by themselves, without the layer, and are often the embedding's.
    """
    head = module.get_output_embeddings()
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear) and layer is not head]
    chosen: set[str] = set()
    for target in wanted:
        found = {name for name in linear if target == "all-linear" or f".{name}".endswith(f".{target}")}
        if not found:
            there = ", ".join(sorted({name.rpartition(".")[2] for name in linear})) or "none"
            raise ConfigError(
                f'lora.targets must name linear layers of the model (not its head), got "{target}", which is none; '
                f'there are: {there}; or take "all-linear"'
            )
        chosen |= found
    return sorted(chosen)

"""What a model is made of, read from its config alone: nothing is loaded and no tensor has memory.

anatomy("Qwen/Qwen3-0.6B", dtype="float32").num_parameters -> 596049920
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM

from sod.errors import ModelError

__all__ = ["Anatomy", "Linear", "anatomy"]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TRACED_TOKENS = 16
"""Few: of fake tensors transformers makes a mask of tokens x tokens a layer, which real ones do without."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Linear:
    """One linear layer: the last part of its name ("q_proj"), and how wide it is."""

    name: str
    num_inputs: int
    num_outputs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Anatomy:
    """The sizes of a causal language model that decide what memory it takes."""

    num_parameters: int
    """Numbers in its weights, tied ones once."""
    largest_parameter: int
    """Numbers in the largest tensor of weights."""
    num_layers: int
    hidden_size: int
    vocab_size: int
    max_length: int
    """Positions it knows."""
    linears: tuple[Linear, ...]
    """Every linear layer but the head."""
    kv_numbers: int
    """Numbers in the keys and values of one token, all layers together."""
    saved_bytes_per_layer: float
    """What one layer keeps of one token for the backward pass."""
    saved_bytes_elsewhere: float
    """What is kept of one token outside the layers, up to the head."""

    @property
    def widest(self) -> int:
        """Features of the widest linear layer; of a model without any, what most would have."""
        return max((linear.num_outputs for linear in self.linears), default=4 * self.hidden_size)


@lru_cache
def anatomy(path: str, *, dtype: Literal["float32", "bfloat16"]) -> Anatomy:
    """Read a directory's or hub id's config and take the model apart, as it is in `dtype`. A tenth of a second or so.

    Raises ModelError when there is no such config, or when its model cannot be built or run without memory.
    """
    try:
        config = AutoConfig.from_pretrained(Path(path).expanduser() if _is_directory(path) else path)
        return _taken_apart(config, dtype=_DTYPES[dtype])
    except Exception as error:  # any model's own code runs here
        raise ModelError(
            f"{path} must have a config of a causal language model that can be built without its weights, got "
            f"{type(error).__name__}: {error}; give a model in transformers format"
        ) from error


def _is_directory(path: str) -> bool:
    return Path(path).expanduser().is_dir()


def _taken_apart(config: Any, *, dtype: torch.dtype) -> Anatomy:
    text = config.get_text_config()
    with torch.device("meta"):
        module = _build(config, dtype=dtype)
    one, two = (_Trace.of(config, dtype=dtype, num_layers=number) for number in (1, 2))
    per_layer = two.saved_bytes - one.saved_bytes
    return Anatomy(
        num_parameters=sum(parameter.numel() for parameter in module.parameters()),
        largest_parameter=max(parameter.numel() for parameter in module.parameters()),
        num_layers=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        max_length=text.max_position_embeddings,
        linears=tuple(_linears(module)),
        kv_numbers=(two.kv_numbers - one.kv_numbers) * text.num_hidden_layers,
        saved_bytes_per_layer=per_layer,
        saved_bytes_elsewhere=one.saved_bytes - per_layer,
    )


def _build(config: Any, *, dtype: torch.dtype) -> Any:
    make: Any = AutoModelForCausalLM
    return make.from_config(config, dtype=dtype, attn_implementation="sdpa", trust_remote_code=False)


def _linears(module: Any) -> Iterator[Linear]:
    head = module.get_output_embeddings()
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear) and part is not head:
            yield Linear(name=name.rpartition(".")[2], num_inputs=part.in_features, num_outputs=part.out_features)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trace:
    """One forward of the decoder with the first layers alone: what it keeps of a token."""

    saved_bytes: float
    kv_numbers: int

    @classmethod
    def of(cls, config: Any, *, dtype: torch.dtype, num_layers: int) -> _Trace:
        # Fake tensors and not the meta device: they choose the attention kernel that real ones would get.
        with FakeTensorMode(), torch.device("cpu"):
            module = _build(_shortened(config, num_layers=num_layers), dtype=dtype)
            decoder, token_BT = module.get_decoder(), torch.zeros(1, _TRACED_TOKENS, dtype=torch.int64)
            weights = [*module.parameters(), *module.buffers()]
            with _kept(apart_from=weights) as kept:
                decoder(input_ids=token_BT, use_cache=False)
            layers = decoder(input_ids=token_BT, use_cache=True).past_key_values.layers
            kv_numbers = sum(layer.keys.numel() + layer.values.numel() for layer in layers)
        saved_bytes = sum(tensor.untyped_storage().nbytes() for tensor in kept)
        return cls(saved_bytes=saved_bytes / _TRACED_TOKENS, kv_numbers=kv_numbers // _TRACED_TOKENS)


def _shortened(config: Any, *, num_layers: int) -> Any:
    """A copy of the config with fewer layers."""
    copied = type(config).from_dict(config.to_dict())
    text = copied.get_text_config()
    kinds = text.to_dict().get("layer_types")
    text.num_hidden_layers = num_layers
    if kinds:
        text.layer_types = kinds[:num_layers]
    return copied


@contextmanager
def _kept(*, apart_from: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors that autograd keeps of a forward in here, one for each piece of memory."""
    seen = {_memory_of(tensor) for tensor in apart_from}
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        if _memory_of(tensor) not in seen:
            seen.add(_memory_of(tensor))
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def _memory_of(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

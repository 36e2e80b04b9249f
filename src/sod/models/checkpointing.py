"""Gradient checkpointing of a model that stays in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from sod.errors import ModelError

__all__ = ["recomputing"]


@contextmanager
def recomputing(module: nn.Module) -> Iterator[None]:
    """A forward in here keeps one activation a layer for the backward pass, which computes the rest again.

        with recomputing(module):
            loss = module(input_ids=token_BT, use_cache=False).logits.sum()
        loss.backward()

    Gradients are the same. Not for a forward with a cache: its keys and values would be written twice. Raises
    ModelError for a model whose layers transformers cannot checkpoint.
    """
    layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"gradient checkpointing needs a model built of transformers' checkpointed layers, got "
            f"{type(module).__name__}; set gradient_checkpointing to false"
        )
    own = [vars(layer).get("forward") for layer in layers]
    for layer in layers:
        # Not transformers' own switch: that works in training mode only, and would turn dropout on. And as dropout is
        # off, nothing in a layer draws numbers that the second time would have to draw again.
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for layer, forward in zip(layers, own, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward

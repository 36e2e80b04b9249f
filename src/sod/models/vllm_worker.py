"""What runs inside vLLM's worker processes: take over new weights. Named to vLLM as its `worker_extension_cls`.

No import of vLLM: the methods are mixed into its worker class.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TakesWeights", "shape_and_sum"]


class TakesWeights:
    """Mixed into vLLM's worker."""

    model_runner: Any

    def sod_take_weights(self, directory: str) -> dict[str, tuple[list[int], float]]:
        """Load the safetensors in `directory` over the weights that are there. Returns what is there now: shape and
        sum of every parameter, by vLLM's name of it."""
        self.model_runner.reload_weights(weights_path=directory)
        model = self.model_runner.get_model()
        method = getattr(getattr(model, "lm_head", None), "quant_method", None)
        if method is not None:
            # On a CPU the head is packed once, at the start; tied to the embedding it has no weights of its own to
            # reload, and would stay what it was.
            method.process_weights_after_loading(model.lm_head)
        return {name: shape_and_sum(parameter) for name, parameter in model.named_parameters()}


def shape_and_sum(tensor: Any) -> tuple[list[int], float]:
    """Tells one state of a weight from another: a step of 1e-6 moves a layer's sum by far more than rounding."""
    import torch

    return list(tensor.shape), float(tensor.detach().sum(dtype=torch.float64))

"""What runs inside vLLM's worker processes: take over new weights. Named to vLLM as its `worker_extension_cls`.

No import of vLLM: the methods are mixed into its worker class.
"""

from __future__ import annotations

from typing import Any

__all__ = ["TakesWeights"]


class TakesWeights:
    """Mixed into vLLM's worker."""

    model_runner: Any

    def sod_take_weights(self, directory: str) -> None:
        """Load the safetensors in `directory` over the weights that are there."""
        self.model_runner.reload_weights(weights_path=directory)
        head = getattr(self.model_runner.get_model(), "lm_head", None)
        method = getattr(head, "quant_method", None)
        if method is not None:
            # On a CPU the head is packed once, at the start; tied to the embedding it has no weights of its own to
            # reload, and would stay what it was.
            method.process_weights_after_loading(head)

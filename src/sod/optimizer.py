"""AdamW with warm-up, a schedule and gradient clipping; its state in safetensors, so that a run resumes exactly."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from sod.config import OptimizerConfig
from sod.errors import SignalError, StorageError


class Optimizer:
    """Steps a module's trainable parameters.

    `num_steps` is the length of the whole run: warm-up and cosine are shares of it.
    """

    def __init__(self, module: torch.nn.Module, *, config: OptimizerConfig, num_steps: int) -> None:
        self.config = config
        self.num_steps = num_steps
        self.step_count = 0
        self._names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._adamw = torch.optim.AdamW(
            self._parameters, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )

    @property
    def lr(self) -> float:
        """Learning rate of the next step: `warmup .1, step 5 of 100 -> lr / 2`; the first step is not 0."""
        warmup_steps = self.config.warmup * self.num_steps
        if self.step_count + 1 < warmup_steps:
            return self.config.lr * (self.step_count + 1) / warmup_steps
        if self.config.schedule == "constant":
            return self.config.lr
        progress = (self.step_count - warmup_steps) / max(1.0, self.num_steps - warmup_steps)
        return self.config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))

    def step(self) -> float:
        """Clip, step, clear the gradients. Returns the gradient's norm before clipping.

        Raises SignalError, with the weights untouched, when the norm is not finite.
        """
        limit = self.config.max_grad_norm or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self._parameters, limit))
        if not math.isfinite(norm):
            raise SignalError(
                f"the gradient's norm must be finite, got {norm} at optimizer step {self.step_count + 1}; the weights "
                "were not changed: look at the log-probs of the last update, or lower optimizer.lr"
            )
        for group in self._adamw.param_groups:
            group["lr"] = self.lr
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self.step_count += 1
        return norm

    def save(self, path: Path) -> None:
        """Write moments and step count. Raises StorageError when the disk does not take it."""
        tensors = {"step_count": torch.tensor(self.step_count)}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in self._adamw.state[parameter].items():
                tensors[f"{key}/{name}"] = torch.as_tensor(value)
        try:
            save_file(tensors, path)
        except (OSError, RuntimeError) as error:
            raise StorageError(f"{path}: the optimizer's state could not be written: {error}") from error

    def load(self, path: Path) -> None:
        """Restore what `save` wrote."""
        tensors = load_file(path)
        self.step_count = int(tensors.pop("step_count"))
        for name, parameter in zip(self._names, self._parameters, strict=True):
            mine = {key: value for key, value in tensors.items() if key.partition("/")[2] == name}
            self._adamw.state[parameter] = {
                key.partition("/")[0]: value.to(parameter.device if value.dim() else "cpu")
                for key, value in mine.items()
            }

"""AdamW with warm-up, a schedule and gradient clipping; its state in safetensors, so that a run resumes exactly.

Weights that are not float32 have float32 *masters*: a step of 1e-6 is lost in a bfloat16 weight, which knows three
digits. Their gradients add up in float32 too, so that the hundredth micro-batch counts as much as the first.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sod.config import OptimizerConfig
from sod.errors import ConfigError, ModelError, SignalError, StorageError

INSTALL = 'pip install "sod-distill[eight-bit]"'
_SHAPED = {"adamw": ("exp_avg", "exp_avg_sq"), "adamw8bit": ("state1", "state2")}
"""What each kind keeps in a parameter's own shape: its moments."""
_TABLES = {"adamw": (), "adamw8bit": ("qmap1", "qmap2", "absmax1", "absmax2")}
"""What it needs beside them: the value of each of 256 codes, the scale of each block."""


class Optimizer:
    """Steps a module's trainable parameters.

    `num_steps` is the length of the whole run: warm-up and cosine are shares of it. The module is used as ever,
    `loss.backward()` then `step()`; where it has masters, its own `.grad` stay empty.

    Raises ConfigError for `kind = "adamw8bit"` without bitsandbytes.
    """

    def __init__(self, module: torch.nn.Module, *, config: OptimizerConfig, num_steps: int) -> None:
        self.config = config
        self.num_steps = num_steps
        self.step_count = 0
        trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._frozen = any(not parameter.requires_grad for parameter in module.parameters())
        self._names = list(trained)
        self._parameters = list(trained.values())
        self._masters = [self._master(parameter) for parameter in self._parameters]
        self._adamw = _adamw(self._masters, config)

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
        norm = float(torch.nn.utils.clip_grad_norm_(self._masters, limit))
        if not math.isfinite(norm):
            raise SignalError(
                f"the gradient's norm must be finite, got {norm} at optimizer step {self.step_count + 1}; the weights "
                "were not changed: look at the log-probs of the last update, or lower optimizer.lr"
            )
        for group in self._adamw.param_groups:
            group["lr"] = self.lr
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._write_back()
        self.step_count += 1
        return norm

    def save(self, path: Path) -> None:
        """Write step count, moments, and the weights that a saved model does not give back exactly: those of masters,
        and LoRA's, which it holds added up. Raises StorageError when the disk does not take it."""
        tensors = {"step_count": torch.tensor(self.step_count)}
        for name, master in zip(self._names, self._masters, strict=True):
            if self._keeps_weights:
                tensors[f"parameter/{name}"] = master.detach()
            # One that never had a gradient is written too: on loading, a name that is not there is a mistake.
            for key, value in (self._adamw.state.get(master) or {"step": 0}).items():
                tensor = torch.as_tensor(value)
                # All parameters have the same tables of codes, and safetensors takes nothing twice.
                tensors[f"{key}/{name}"] = tensor.clone() if key.startswith("qmap") else tensor
        try:
            save_file(tensors, path)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: the optimizer's state could not be written: {error}") from error

    def load(self, path: Path) -> None:
        """Restore what `save` wrote, into a module of the same names and shapes: with LoRA, one made of the weights
        that the run began with.

        Raises ModelError, with nothing changed, for a file that belongs to another module or `kind`.
        """
        tensors = load_file(path)
        self._check(tensors, path)
        self.step_count = int(tensors["step_count"])
        for name, master in zip(self._names, self._masters, strict=True):
            state = {
                key: _in_place(tensors[f"{key}/{name}"], master.device)
                for key in self._keys
                if f"{key}/{name}" in tensors
            }
            self._adamw.state[master] = state if len(state) > 1 else {}
            if f"parameter/{name}" in tensors:
                master.data.copy_(tensors[f"parameter/{name}"])
        self._write_back()

    @property
    def _keys(self) -> tuple[str, ...]:
        return "step", *_SHAPED[self.config.kind], *_TABLES[self.config.kind]

    @property
    def _has_masters(self) -> bool:
        return any(master is not mine for master, mine in zip(self._masters, self._parameters, strict=True))

    @property
    def _keeps_weights(self) -> bool:
        return self._frozen or self._has_masters

    def _master(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        """What is stepped: the parameter itself, or a float32 copy that takes its gradient over."""
        if parameter.dtype == torch.float32:
            return parameter
        master = torch.nn.Parameter(parameter.detach().float())
        handle = parameter.register_post_accumulate_grad_hook(_adding_to(master))  # type: ignore[no-untyped-call]
        # The next optimizer of this module must not share gradients with one that is gone.
        weakref.finalize(self, handle.remove)
        return master

    @torch.no_grad()
    def _write_back(self) -> None:
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if parameter is not master:
                parameter.copy_(master)

    def _check(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Names and shapes must be ours."""
        with_weights = self._frozen or any(key.startswith("parameter/") for key in tensors)
        needed = {"step_count"} | {f"parameter/{name}" for name in self._names if with_weights}
        if int(tensors.get("step_count", torch.tensor(0))):
            needed |= {f"step/{name}" for name in self._names}
        known = needed | {f"{key}/{name}" for key in self._keys for name in self._names}
        for fault, names in (("has not", needed - tensors.keys()), ("has", tensors.keys() - known)):
            if names:
                raise ModelError(
                    f"{path} must be the state of this model's optimizer ({self.config.kind}), but it {fault} "
                    f"{min(names)} ({len(names)} such); give the model, lora and optimizer.kind it was written with"
                )
        for name, master in zip(self._names, self._masters, strict=True):
            for key in ("parameter", *_SHAPED[self.config.kind]):
                shape = tensors.get(f"{key}/{name}", master).shape
                if shape != master.shape:
                    raise ModelError(
                        f"{path} must be the state of this model's optimizer, but {key}/{name} has shape "
                        f"{tuple(shape)} and the model {tuple(master.shape)}; give the model it was written with"
                    )


def _adding_to(master: torch.nn.Parameter) -> Callable[[Tensor], None]:
    """A hook that moves a parameter's fresh gradient into its master's, in float32."""

    def add_up(parameter: Tensor) -> None:
        gradient, parameter.grad = parameter.grad, None
        assert gradient is not None
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    return add_up


def _adamw(parameters: Sequence[torch.nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    if config.kind == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **settings)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise ConfigError(
            f'optimizer.kind = "adamw8bit" needs bitsandbytes, got: {error}; run {INSTALL}, or take "adamw"'
        ) from None
    eight_bit: torch.optim.Optimizer = AdamW8bit(parameters, **settings)
    return eight_bit


def _in_place(value: Tensor, device: torch.device) -> Tensor | int:
    """A value of the optimizer's state as the optimizer holds it: bitsandbytes counts its steps in an int."""
    return int(value) if value.dtype == torch.int64 else value.to(device)

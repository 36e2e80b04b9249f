"""Copies of the student that teach it: frozen as the run began, or an average of the student over its updates (EMA).

    ema = open_copy(config.student, student, kind="ema", decay=0.99)
    ema.model                           # scores, beside the student that is trained
    ema.update(student.module)          # after each update, when nothing is being scored

With LoRA a copy has the student's own base tensors, which nobody trains: it takes no memory for them, and can be read
in another thread while the student samples. A frozen copy is the base alone. An average is of the additions' factors A
and B, in the float32 they are trained in: it costs what they cost and is written whole into a checkpoint. An average of
the merged weights would be the exact one (a product of averages is not the average of products; the two differ by how A
and B change together within the 1 / (1 - decay) latest updates), but takes a second model with float32 sums beside it,
which is what LoRA is there to save.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sod.config import ModelConfig
from sod.errors import ModelError, StorageError
from sod.models.hf import HFModel
from sod.models.lora import is_lora

__all__ = ["AveragedCopy", "FrozenCopy", "StudentCopy", "open_copy"]


class StudentCopy(Protocol):
    """A teacher with the student's weights of some time."""

    @property
    def model(self) -> HFModel:
        """What scores with the copy's weights."""
        ...

    def update(self, student: nn.Module) -> None:
        """The student has learned from an update. Call it when nothing is being scored."""
        ...

    def save(self, path: Path) -> None:
        """Write what the config does not give back, to a .safetensors. Raises StorageError."""
        ...

    def load(self, path: Path) -> None:
        """Restore what `save` wrote, bit for bit. Raises ModelError for what belongs to another model."""
        ...


class FrozenCopy:
    """The student as the run began. Nothing of it is in a checkpoint: the config says where those weights are."""

    def __init__(self, model: HFModel) -> None:
        model.module.requires_grad_(False)
        self.model = model

    def update(self, student: nn.Module) -> None:
        """Stays as it is."""

    def save(self, path: Path) -> None:
        """Writes nothing."""

    def load(self, path: Path) -> None:
        """Has nothing to read."""


class AveragedCopy:
    """average = decay * average + (1 - decay) * student, of every weight that is trained.

    The sums are float32: a bfloat16 weight would lose most steps of (1 - decay). Where the copy's own weights are not,
    they are the rounded sums.
    """

    def __init__(self, model: HFModel, *, decay: float) -> None:
        """`model` has the student's weights, as its own those that require a gradient: they are averaged."""
        assert 0.0 <= decay < 1.0, f"decay must be at least 0 and below 1, got {decay}"
        self.model = model
        self._decay = decay
        trained = {name: weight for name, weight in model.module.named_parameters() if weight.requires_grad}
        model.module.requires_grad_(False)
        self._weights = {name: weight.detach() for name, weight in trained.items()}
        self._averages = {name: weight.float() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Take in the student's weights, and drop what was computed with the old average."""
        new = dict(student.named_parameters())
        for name, average in self._averages.items():
            average.lerp_(new[name].detach().to(average), 1.0 - self._decay)
        self._write_back()

    def save(self, path: Path) -> None:
        """The sums, by the names of the weights."""
        try:
            save_file({name: average.contiguous() for name, average in self._averages.items()}, path)
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path}: the averaged teacher could not be written: {error}") from error

    @torch.no_grad()
    def load(self, path: Path) -> None:
        """As `StudentCopy.load`; with nothing changed when it raises."""
        try:
            averages = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} must hold an averaged teacher, but it cannot be read: {error}") from error
        self._check(averages, path)
        for name, average in self._averages.items():
            average.copy_(averages[name])
        self._write_back()

    def _write_back(self) -> None:
        for name, weight in self._weights.items():
            if weight.dtype != torch.float32:
                weight.copy_(self._averages[name])
        self.model.weights_changed()

    def _check(self, averages: Mapping[str, Tensor], path: Path) -> None:
        own = {name: (average.shape, average.dtype) for name, average in self._averages.items()}
        read = {name: (average.shape, average.dtype) for name, average in averages.items()}
        differing = sorted(name for name in own.keys() | read.keys() if own.get(name) != read.get(name))
        if differing:
            raise ModelError(
                f"{path} must hold the average of this student, but {len(differing)} weights differ in name, shape or "
                f"precision, the first {differing[0]}; give the student and lora it was written with"
            )


def open_copy(
    config: ModelConfig, student: HFModel, *, kind: Literal["frozen", "ema"], decay: float = 0.0
) -> StudentCopy:
    """A copy of a student that was loaded by `config` and has not been trained since: also where a run goes on from a
    checkpoint, `config` is the one that the run began with, and `load` comes next.

    Raises ModelError as loading the student does.
    """
    if not is_lora(student.module):
        model = HFModel.load(config)
    elif kind == "frozen":
        model = _wrapped(_base_of(student.module), config)
    else:
        model = _wrapped(_with_own(student.module, lambda weight: weight.requires_grad), config)
    return FrozenCopy(model) if kind == "frozen" else AveragedCopy(model, decay=decay)


def _wrapped(module: nn.Module, config: ModelConfig) -> HFModel:
    """As `HFModel.load` would, of weights that are there already."""
    return HFModel(
        module,
        max_rows=config.max_rows,
        tokens_per_forward=config.tokens_per_forward,
        kv_bytes=int(config.kv_cache_gib * 2**30) or None,
    )


def _with_own(module: nn.Module, own: Callable[[nn.Parameter], bool]) -> nn.Module:
    """Another module of the same parameters and buffers, but for the parameters that it is to have as its `own`."""
    shared: Iterable[Tensor] = [*(each for each in module.parameters() if not own(each)), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})


def _base_of(module: nn.Module) -> nn.Module:
    """A plain module of the same base weights, with the layers themselves where LoRA wrapped them."""
    from peft.tuners.lora import LoraLayer

    plain: Any = _with_own(module, lambda _weight: False)
    wrapped = {name: layer for name, layer in plain.named_modules() if isinstance(layer, LoraLayer)}
    for name, layer in wrapped.items():
        parent, _, child = name.rpartition(".")
        setattr(plain.get_submodule(parent), child, layer.get_base_layer())
    return plain  # type: ignore[no-any-return]

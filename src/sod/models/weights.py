"""Weights from and to a directory: safetensors only, no remote code, written whole or not at all."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM

from sod.config import ModelConfig
from sod.errors import ModelError, StorageError
from sod.models.lora import full_state

__all__ = ["load_module", "save_module"]

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_module(config: ModelConfig) -> nn.Module:
    """A transformers causal language model, in evaluation mode, on its device. Raises ModelError with the cure."""
    device = _device(config.device)
    dtype = _dtype(config, device)
    _check_directory(config.path)
    try:
        module: Any = AutoModelForCausalLM.from_pretrained(
            config.path, dtype=dtype, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
        )
        return module.to(device).eval()  # type: ignore[no-any-return]
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{config.path} in {dtype} does not fit on {device}; take a smaller model or bfloat16"
        ) from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{config.path} must be a causal language model in transformers format, with safetensors weights and no "
            f"code of its own, but it cannot be loaded: {error}"
        ) from error


def save_module(module: Any, directory: str | Path) -> None:
    """Write weights and configs to a directory, replacing it whole: the new one is complete before the old one goes.

    LoRA's additions are written into the weights: what is read back is a plain model, and needs no peft.
    Raises StorageError when it cannot be written (what was there is still there) or when it holds something that is not
    a model.
    """
    target = Path(directory).absolute()
    if target.exists() and not _replaceable(target):
        raise StorageError(f"{target} is replaced whole, so it must be a model directory or empty; choose another")
    kept = "the model that was there is untouched" if target.exists() else "nothing is there now"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
            new, old = Path(scratch) / "new", Path(scratch) / "old"
            module.save_pretrained(new, state_dict=full_state(module))
            _swap(new, target, old)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"cannot write weights to {target}: {error}; {kept}; free space or choose another"
        ) from error


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put `new` in the place of `target`, which moves to `old`; back again when that fails."""
    if not target.exists():
        os.rename(new, target)
        return
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise


def _replaceable(target: Path) -> bool:
    return target.is_dir() and ((target / "config.json").exists() or not any(target.iterdir()))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f'device must be "auto", "cpu", "cuda" or "cuda:N", got "{name}"') from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f'device is "{name}" but PyTorch sees {torch.cuda.device_count()} GPUs; use device = "auto" or "cpu", or '
            "install a PyTorch build with CUDA"
        )
    return device


def _dtype(config: ModelConfig, device: torch.device) -> torch.dtype:
    if config.dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    return _DTYPES[config.dtype]


def _check_directory(path: str) -> None:
    """Say what is missing before transformers says it at length. What looks like a hub id is left to the hub."""
    directory = Path(path).expanduser()
    if not directory.exists():
        if _HUB_ID.fullmatch(path):
            return
        raise ModelError(f"{path}: there is no such directory; give the directory of a model, or a hub id (owner/name)")
    if not (directory / "config.json").is_file():
        raise ModelError(f"{path}: a model directory must hold config.json, got none; give a transformers model")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(
            f"{path}: weights must be safetensors, and there are none; save the model once with "
            "save_pretrained (pickled .bin files are not read, as they can run code)"
        )

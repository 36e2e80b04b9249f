"""Which engine a config means, and what must fit it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sod.config import LoRAConfig, ModelConfig, SamplingConfig, VLLMConfig
from sod.errors import ModelError
from sod.models.engine import check_context, load_student, open_model, open_policy
from sod.models.hf import HFModel


def test_the_longest_episode_must_fit_the_models_positions(tiny_module: Callable[[int], Any]) -> None:
    model = HFModel(tiny_module(0))
    check_context(model, longest_prompt=100, max_response_tokens=model.max_length - 100, name="the student")
    with pytest.raises(ModelError, match=f"positions of the student, .* at most {model.max_length - 101}$"):
        check_context(model, longest_prompt=101, max_response_tokens=model.max_length - 100, name="the student")


def test_a_model_is_opened_frozen(model_dir: Path) -> None:
    async def opened() -> Any:
        async with open_model(ModelConfig(path=str(model_dir)), sampling=SamplingConfig(), scores=True) as model:
            return model

    model = asyncio.run(opened())
    assert isinstance(model, HFModel)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


def test_a_policy_is_the_student_itself_or_follows_it_apart(model_dir: Path) -> None:
    config = ModelConfig(path=str(model_dir))
    student = load_student(config, lora=None, gradient_checkpointing=False, seed=0)

    async def opened() -> None:
        async with open_policy(config, student, sampling=SamplingConfig(), apart=False) as policy:
            assert policy is student
        async with open_policy(config, student, sampling=SamplingConfig(), apart=True) as policy:
            assert isinstance(policy, HFModel)
            assert policy is not student
            with torch.no_grad():
                student.module.get_input_embeddings().weight.mul_(1.5)
            ids = list(range(20))
            trained = await student.score(ids, positions=[19])
            assert await policy.score(ids, positions=[19]) != pytest.approx(trained)
            await policy.update_weights(student.module)
            assert await policy.score(ids, positions=[19]) == pytest.approx(trained)
            assert policy.policy_version == 1

    asyncio.run(opened())


def test_a_student_with_lora_trains_its_additions_alone(model_dir: Path) -> None:
    config = ModelConfig(path=str(model_dir))
    student = load_student(config, lora=LoRAConfig(rank=2), gradient_checkpointing=False, seed=0)
    trained = [name for name, parameter in student.module.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)


def test_vllm_that_is_not_installed_is_named_with_its_cure(model_dir: Path) -> None:
    async def opened() -> None:
        config = ModelConfig(path=str(model_dir), engine="vllm", vllm=VLLMConfig(compile=False))
        async with open_model(config, sampling=SamplingConfig(), scores=False):
            pass

    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(ModelError, match=r'install it \(pip install "sod-distill\[vllm\]"'):
            asyncio.run(opened())

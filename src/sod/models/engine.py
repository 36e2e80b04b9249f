"""Which engine a config means: transformers in this process, vLLM beside it, or a server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sod.config import LoRAConfig, ModelConfig, SamplingConfig
from sod.errors import ModelError
from sod.models import LongestSequence, Model, Policy
from sod.models.hf import HFModel

__all__ = ["check_context", "load_student", "open_model", "open_policy"]


def load_student(config: ModelConfig, *, lora: LoRAConfig | None, gradient_checkpointing: bool, seed: int) -> HFModel:
    """The model that is trained; with `lora` its low-rank additions alone, begun from `seed`. Raises ModelError."""
    student = HFModel.load(config, gradient_checkpointing=gradient_checkpointing)
    if lora is not None:
        from sod.models.lora import add_lora

        add_lora(student.module, lora, seed=seed)
    return student


@asynccontextmanager
async def open_model(config: ModelConfig, *, sampling: SamplingConfig, scores: bool) -> AsyncIterator[Model]:
    """A model whose weights stay; its processes or connections end with the context.

    `sampling` is how it will be asked to sample, `scores` whether log-probs of given tokens will be wanted. Raises
    ModelError with the cure.
    """
    if config.engine == "hf":
        model = HFModel.load(config)
        model.module.requires_grad_(False)
        yield model
    elif config.engine == "vllm":
        from sod.models.vllm import VLLMModel

        async with VLLMModel(config, temperature=sampling.temperature, scores=scores) as engine:
            yield engine
    else:
        from sod.models.http import HTTPModel, Role

        roles: tuple[Role, ...] = ("scorer",) if scores else ("sampler",)
        async with HTTPModel(
            config.server.url,
            model=config.server.model,
            roles=roles,
            processed_logprobs=config.server.processed_logprobs,
            exact_logprobs=scores,
            max_concurrent=config.server.max_concurrent,
            timeout_s=config.server.timeout_s,
        ) as server:
            yield server


@asynccontextmanager
async def open_policy(
    config: ModelConfig, student: HFModel, *, sampling: SamplingConfig, apart: bool
) -> AsyncIterator[Policy]:
    """What samples in the trained student's place, with its weights.

    In this process the student samples itself, unless it must be `apart`: sampling goes on while it is trained.
    """
    if config.engine == "vllm":
        from sod.models.vllm import VLLMModel

        async with VLLMModel(config, temperature=sampling.temperature, scores=True) as engine:
            yield engine
    elif apart:
        copy = HFModel.load(config)
        copy.module.requires_grad_(False)
        yield copy
    else:
        yield student


def check_context(model: LongestSequence, *, longest_prompt: int, max_response_tokens: int, name: str) -> None:
    """The longest episode must fit the model's positions, in tokens. `name` is the config's. Raises ModelError."""
    longest = model.max_length
    if longest is not None and longest_prompt + max_response_tokens > longest:
        raise ModelError(
            f"the longest prompt + agent.max_response_tokens must be at most the {longest} positions of {name}, got "
            f"{longest_prompt} + {max_response_tokens}; set agent.max_response_tokens to at most "
            f"{max(0, longest - longest_prompt)}"
        )

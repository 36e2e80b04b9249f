"""The models of a config, taken apart, and how many tokens there are of what at most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sod.config import ModelConfig, TrainConfig
from sod.memory.room import placed

if TYPE_CHECKING:
    from sod.models.anatomy import Anatomy

_HEAD_COPIES = 3
"""Logits, and two of their size on the way to the entropy, all float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A model of the config, taken apart."""

    config: ModelConfig
    anatomy: Anatomy
    device: str
    itemsize: int

    @classmethod
    def of(cls, config: ModelConfig) -> Model:
        from sod.models.anatomy import anatomy

        device = placed(config.device)
        dtype = config.dtype
        if dtype == "auto":
            dtype = "float32" if device == "cpu" else "bfloat16"
        return cls(
            config=config,
            anatomy=anatomy(config.path, dtype=dtype),
            device=device,
            itemsize=4 if dtype == "float32" else 2,
        )

    @property
    def weight_bytes(self) -> int:
        return self.anatomy.num_parameters * self.itemsize

    def kv_bytes(self, num_tokens: int) -> int:
        """Keys and values of so many tokens."""
        return num_tokens * self.anatomy.kv_numbers * self.itemsize

    def layer_bytes(self, num_tokens: int) -> int:
        """What one layer works on when nothing is kept: hidden states, and three of its widest."""
        return num_tokens * (2 * self.anatomy.hidden_size + 3 * self.anatomy.widest) * self.itemsize

    def head_bytes(self, num_tokens: int) -> int:
        """The head on so many tokens, a chunk at a time."""
        from sod.models.logprobs import CHUNK_ELEMENTS

        logits = min(num_tokens * self.anatomy.vocab_size, max(CHUNK_ELEMENTS, self.anatomy.vocab_size))
        return 4 * _HEAD_COPIES * logits + num_tokens * self.anatomy.hidden_size * self.itemsize


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """The config's models, and how many tokens there are of what at most."""

    config: TrainConfig
    student: Model
    teachers: Mapping[str, Model]
    """Those that take memory here, by what they are called; a copy of the student is none of them."""
    num_trajectories: int
    num_at_once: int
    """Trajectories under way together."""
    prompt: int
    longest: int
    """Tokens of the longest trajectory."""

    @classmethod
    def of(cls, config: TrainConfig) -> Sizes:
        student = Model.of(config.student)
        num_trajectories = config.update.prompts * config.update.samples
        return cls(
            config=config,
            student=student,
            teachers={name: Model.of(teacher) for name, teacher in named(config).items() if teacher.engine != "server"},
            num_trajectories=num_trajectories,
            num_at_once=min(num_trajectories, config.agent.max_concurrent),
            prompt=config.agent.max_prompt_tokens,
            longest=min(config.agent.max_prompt_tokens + config.agent.max_response_tokens, student.anatomy.max_length),
        )

    def forward_tokens(self, budget: int, *, num_trajectories: int) -> int:
        """Tokens of the largest forward: a trajectory longer than the budget goes alone."""
        return min(max(budget, self.longest), num_trajectories * self.longest)

    @property
    def scorers(self) -> Mapping[str, Model]:
        """All that score in this process; a copy of the student is as large as the student."""
        own = {name: teacher for name, teacher in self.teachers.items() if teacher.config.engine == "hf"}
        return own if self.config.teaching.student_copy == "off" else {"copy": self.student}

    @property
    def microbatch_tokens(self) -> int:
        hand = math.ceil(self.num_trajectories / self.config.update.optimizer_steps)
        return self.forward_tokens(self.config.update.tokens_per_microbatch, num_trajectories=hand)


def named(config: TrainConfig) -> dict[str, ModelConfig]:
    """`teacher` and `teacher NAME` -> what the config says of it."""
    default = {} if config.teacher is None else {"teacher": config.teacher}
    return {**default, **{f"teacher {source}": teacher for source, teacher in config.teachers.items()}}

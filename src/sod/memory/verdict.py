"""What is needed beside what is there, and which settings would help."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sod.config import LoRAConfig, Section, TrainConfig
from sod.config.section import toml
from sod.errors import ModelError
from sod.memory import room
from sod.memory.items import estimate
from sod.memory.needed import Estimate, gib
from sod.memory.sizes import named

NUM_ADVICE = 3
_WORTH = 0.02
"""A setting that saves less than this share of what is needed is not worth naming."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One device: what is needed there and what there is, None where that is not known."""

    device: str
    certain_bytes: int
    peak_bytes: int
    available_bytes: int | None

    @property
    def state(self) -> Literal["fits", "may not fit", "does not fit", "unknown"]:
        """Whether what is certain fits, and whether all does."""
        if self.available_bytes is None:
            return "unknown"
        if self.certain_bytes > self.available_bytes:
            return "does not fit"
        return "may not fit" if self.peak_bytes > self.available_bytes else "fits"

    def __str__(self) -> str:
        needed = f"{self.device}: {gib(self.certain_bytes)} for certain, up to {gib(self.peak_bytes)} at once"
        if self.available_bytes is None:
            return f"{needed}; what is there is not known"
        return f"{needed}; there are {gib(self.available_bytes)}: {self.state}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A setting as it would stand in TOML, and what it saves at the peak of one device."""

    setting: str
    saved_bytes: int

    def __str__(self) -> str:
        return f"{self.setting} saves {gib(self.saved_bytes)}"


def check(config: TrainConfig) -> tuple[str, ...]:
    """To be called before anything is loaded. Returns warnings: where all that may be needed is more than there is.

    Raises ModelError where what is certain does not fit, with the settings that help most. A model that cannot be
    estimated is a warning, never an error.
    """
    try:
        verdicts = judge(estimate(config))
        advice = {verdict.device: _advice_for(verdict, config) for verdict in verdicts}
    except Exception as error:  # an estimate must not end a run that would have worked
        return (f"memory was not estimated: {type(error).__name__}: {error}",)
    for verdict in verdicts:
        if verdict.state == "does not fit":
            raise ModelError(
                f"{verdict.device} must hold {gib(verdict.certain_bytes)} of weights, gradients and optimizer state, "
                f"got {gib(verdict.available_bytes)}; {advice[verdict.device]}"
            )
    return tuple(
        f"{verdict.device} may run out of memory: with the longest trajectories this run takes up to "
        f"{gib(verdict.peak_bytes)}, and there are {gib(verdict.available_bytes)}; {advice[verdict.device]}"
        for verdict in verdicts
        if verdict.state == "may not fit"
    )


def judge(needed: Estimate) -> tuple[Verdict, ...]:
    """Each device of an estimate beside what is there now."""
    return tuple(
        Verdict(
            device=device,
            certain_bytes=needed.peak_bytes(device, certain=True),
            peak_bytes=needed.peak_bytes(device),
            available_bytes=room.available(device),
        )
        for device in needed.devices
    )


def advise(config: TrainConfig, device: str, *, certain: bool = False) -> tuple[Advice, ...]:
    """The settings that save most at the device's peak, or of what is certain there, best first."""
    before = estimate(config).peak_bytes(device, certain=certain)
    found = []
    for dotted, value in _alternatives(config):
        changed = estimate(_changed(config, dotted, value))
        shown = f"{dotted}.rank = {value.rank}" if isinstance(value, LoRAConfig) else f"{dotted} = {toml(value)}"
        found.append(Advice(setting=shown, saved_bytes=before - changed.peak_bytes(device, certain=certain)))
    worth = [advice for advice in found if advice.saved_bytes > _WORTH * before]
    return tuple(sorted(worth, key=lambda advice: -advice.saved_bytes)[:NUM_ADVICE])


def _alternatives(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    """Settings that take less memory than the config's, as dotted key and value."""
    update, student = config.update, config.student
    yield "update.tokens_per_microbatch", max(1024, update.tokens_per_microbatch // 4)
    yield "update.gradient_checkpointing", True
    yield "update.staleness", 0
    yield "update.teacher_scoring", "trajectory"
    yield "agent.max_response_tokens", max(256, config.agent.max_response_tokens // 2)
    yield "optimizer.kind", "adamw8bit"
    yield "student.max_rows", max(8, student.max_rows // 4)
    if room.placed(student.device) != "cpu":  # on a CPU the backward pass in bfloat16 can be many times slower
        yield "student.dtype", "bfloat16"
        yield "student.vllm.sleep", True
    if config.lora is None:
        yield "lora", LoRAConfig()
    if config.teaching.student_copy == "ema":
        yield "teaching.student_copy", "frozen"
    for name, teacher in named(config).items():
        dotted = name.replace("teacher ", "teachers.")
        yield f"{dotted}.dtype", "bfloat16"
        yield f"{dotted}.tokens_per_forward", max(1024, teacher.tokens_per_forward // 4)


def _changed(section: Any, dotted: str, value: Any) -> Any:
    """A copy of a section, or of sections by name, with one setting changed."""
    key, _, rest = dotted.partition(".")
    if isinstance(section, Mapping):  # a name may have dots of its own
        key = next(name for name in section if dotted.startswith(f"{name}."))
        return {**section, key: _changed(section[key], dotted.removeprefix(f"{key}."), value)}
    inner: Section = getattr(section, key)
    return section.model_copy(update={key: _changed(inner, rest, value) if rest else value})


def _advice_for(verdict: Verdict, config: TrainConfig) -> str:
    if verdict.state not in ("may not fit", "does not fit"):
        return ""
    advice = advise(config, verdict.device, certain=verdict.state == "does not fit")
    return ", ".join(map(str, advice)) or "take a smaller model, or another device"

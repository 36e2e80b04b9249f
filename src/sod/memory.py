"""What memory a run takes, worked out from its config before anything is loaded, beside what is there.

    needed = estimate(config)
    needed.peak_bytes("cuda:0"), available("cuda:0")

What is *certain* (weights, gradients, optimizer state, what vLLM sets aside) is counted exactly. The rest is the most a
run can come to: every trajectory as long as it may be. Not counted: the libraries themselves, the sandbox's calls, and
what an allocator cannot use of what it holds.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sod.config import LoRAConfig, ModelConfig, Section, TrainConfig
from sod.config.section import toml
from sod.errors import ModelError
from sod.teachers import PROBE_EPISODES

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from sod.models.anatomy import Anatomy

__all__ = ["Advice", "Estimate", "Item", "Verdict", "advise", "available", "check", "estimate", "judge", "table"]

Phase = Literal["always", "start", "sampling", "learning"]
GIB = float(1 << 30)
NUM_ADVICE = 3
_WORTH = 0.02
"""A setting that saves less than this share of what is needed is not worth naming."""
_HEAD_COPIES = 3
"""Logits, and two of their size on the way to the entropy, all float32."""
_COMPARED_COPIES = 10
"""Tensors of log-probs, with gradients, while a chunk of two distributions is compared."""
_DRAW_BYTES = 24
"""Of one row and one token of the vocabulary while a token is drawn: float32 copies and a float64 sum."""
_RECORD_BYTES = 150
"""Of one token of a trajectory: id, step and log-probs as Python numbers and as tensors."""
_BLOCK = 256
"""Numbers that share a scale in 8-bit moments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing that takes memory, when, and what it is in a sentence."""

    name: str
    device: str
    """ "cpu", "cuda:0"."""
    num_bytes: int
    phase: Phase
    certain: bool
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """All that a run needs. With `overlapping` it learns while it samples, so that both need memory at once."""

    items: tuple[Item, ...]
    overlapping: bool

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that something is on, the CPU last."""
        return tuple(sorted({item.device for item in self.items}, key=lambda name: (name == "cpu", name)))

    def peak_bytes(self, device: str, *, certain: bool = False) -> int:
        """The most that is needed at one time on a device, or the part of it that is certain.

        What is there always 3, while sampling 5, while learning 4 -> 8; overlapping -> 12.
        """
        sums: dict[Phase, int] = {"always": 0, "start": 0, "sampling": 0, "learning": 0}
        for item in self.items:
            if item.device == device and (item.certain or not certain):
                sums[item.phase] += item.num_bytes
        both = sums["sampling"] + sums["learning"] if self.overlapping else max(sums["sampling"], sums["learning"])
        return sums["always"] + max(sums["start"], both)


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
        needed = f"{self.device}: {_gib(self.certain_bytes)} for certain, up to {_gib(self.peak_bytes)} at once"
        if self.available_bytes is None:
            return f"{needed}; what is there is not known"
        return f"{needed}; there are {_gib(self.available_bytes)}: {self.state}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A setting as it would stand in TOML, and what it saves at the peak of one device."""

    setting: str
    saved_bytes: int

    def __str__(self) -> str:
        return f"{self.setting} saves {_gib(self.saved_bytes)}"


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
                f"{verdict.device} must hold {_gib(verdict.certain_bytes)} of weights, gradients and optimizer state, "
                f"got {_gib(verdict.available_bytes)}; {advice[verdict.device]}"
            )
    return tuple(
        f"{verdict.device} may run out of memory: with the longest trajectories this run takes up to "
        f"{_gib(verdict.peak_bytes)}, and there are {_gib(verdict.available_bytes)}; {advice[verdict.device]}"
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
            available_bytes=available(device),
        )
        for device in needed.devices
    )


def estimate(config: TrainConfig) -> Estimate:
    """What a run of this config takes. Reads the models' configs alone: half a second or so a model the first time.

    Raises ModelError for a model that cannot be built without its weights.
    """
    sizes = _Sizes.of(config)
    items = [*_trained(sizes), *_learning(sizes), *_sampling(sizes), *_copied(sizes)]
    for name, teacher in sizes.teachers.items():
        items += _teacher(sizes, teacher, name=name)
    items += _probed(sizes)
    items.append(
        Item(
            name="trajectories",
            device="cpu",
            num_bytes=sizes.num_trajectories * sizes.longest * _RECORD_BYTES,
            phase="always",
            certain=False,
            what=f"tokens, steps and log-probs of {sizes.num_trajectories} trajectories of {sizes.longest} tokens",
        )
    )
    return Estimate(items=tuple(item for item in items if item.num_bytes), overlapping=config.update.staleness > 0)


# ---- models and sizes


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """A model of the config, taken apart."""

    config: ModelConfig
    anatomy: Anatomy
    device: str
    itemsize: int

    @classmethod
    def of(cls, config: ModelConfig) -> _Model:
        from sod.models.anatomy import anatomy

        device = _placed(config.device)
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
class _Sizes:
    """The config's models, and how many tokens there are of what at most."""

    config: TrainConfig
    student: _Model
    teachers: Mapping[str, _Model]
    """Those that take memory here, by what they are called; a copy of the student is none of them."""
    num_trajectories: int
    num_at_once: int
    """Trajectories under way together."""
    prompt: int
    longest: int
    """Tokens of the longest trajectory."""

    @classmethod
    def of(cls, config: TrainConfig) -> _Sizes:
        student = _Model.of(config.student)
        num_trajectories = config.update.prompts * config.update.samples
        return cls(
            config=config,
            student=student,
            teachers={
                name: _Model.of(teacher) for name, teacher in _named(config).items() if teacher.engine != "server"
            },
            num_trajectories=num_trajectories,
            num_at_once=min(num_trajectories, config.agent.max_concurrent),
            prompt=config.agent.max_prompt_tokens,
            longest=min(config.agent.max_prompt_tokens + config.agent.max_response_tokens, student.anatomy.max_length),
        )

    def forward_tokens(self, budget: int, *, num_trajectories: int) -> int:
        """Tokens of the largest forward: a trajectory longer than the budget goes alone."""
        return min(max(budget, self.longest), num_trajectories * self.longest)

    @property
    def scorers(self) -> Mapping[str, _Model]:
        """All that score in this process; a copy of the student is as large as the student."""
        own = {name: teacher for name, teacher in self.teachers.items() if teacher.config.engine == "hf"}
        return own if self.config.teaching.student_copy == "off" else {"copy": self.student}

    @property
    def microbatch_tokens(self) -> int:
        hand = math.ceil(self.num_trajectories / self.config.update.optimizer_steps)
        return self.forward_tokens(self.config.update.tokens_per_microbatch, num_trajectories=hand)


def _named(config: TrainConfig) -> dict[str, ModelConfig]:
    """`teacher` and `teacher NAME` -> what the config says of it."""
    default = {} if config.teacher is None else {"teacher": config.teacher}
    return {**default, **{f"teacher {source}": teacher for source, teacher in config.teachers.items()}}


# ---- the items


def _item_on(device: str, phase: Phase, name: str, num_bytes: float, what: str, *, certain: bool = False) -> Item:
    return Item(name=name, device=device, num_bytes=int(num_bytes), phase=phase, certain=certain, what=what)


def _trained(sizes: _Sizes) -> Iterator[Item]:
    """Weights, gradients and optimizer state: counted exactly."""
    student, config = sizes.student, sizes.config
    item = partial(_item_on, student.device, certain=True)
    dtype = "float32" if student.itemsize == 4 else "bfloat16"
    yield item("always", "student weights", student.weight_bytes, f"{_count(student)} parameters in {dtype}")
    trained, itemsize = student.anatomy.num_parameters, student.itemsize
    if config.lora is not None:
        trained, itemsize = _num_lora(student.anatomy, config.lora), 4
        yield item("always", "student LoRA", trained * 4, f"{trained / 1e6:.1f}M parameters in float32")
    if itemsize < 4:
        yield item("always", "master weights", trained * 4, "what the optimizer steps, in float32")
    where = "in float32" if itemsize == 4 else "added up in float32 over the micro-batches"
    yield item("learning", "gradients", trained * 4, where)
    if config.optimizer.kind == "adamw":
        yield item("always", "moments", trained * 8, "two float32 numbers a trained parameter")
    else:
        moments = trained * 2 * (1 + 4 / _BLOCK)
        yield item("always", "moments", moments, "two 8-bit numbers a trained parameter, and scales")


def _num_lora(anatomy: Anatomy, lora: LoRAConfig) -> int:
    chosen = (one for one in anatomy.linears if "all-linear" in lora.targets or one.name in lora.targets)
    return sum(lora.rank * (one.num_inputs + one.num_outputs) for one in chosen)


def _learning(sizes: _Sizes) -> Iterator[Item]:
    """What one micro-batch needs. With LoRA it is about as much as without: inputs are kept for the additions."""
    student, anatomy, num_tokens = sizes.student, sizes.student.anatomy, sizes.microbatch_tokens
    item = partial(_item_on, student.device, "learning")
    layers = anatomy.num_layers * anatomy.saved_bytes_per_layer
    kept = "all that its layers keep for the backward pass"
    if sizes.config.update.gradient_checkpointing:
        layers = anatomy.num_layers * anatomy.hidden_size * student.itemsize + anatomy.saved_bytes_per_layer
        kept = "one hidden state a layer, and one layer computed again"
    activations = num_tokens * (layers + anatomy.saved_bytes_elsewhere) + student.layer_bytes(num_tokens)
    yield item("activations", activations, f"a micro-batch of {num_tokens} tokens: {kept}")
    yield item("head", student.head_bytes(num_tokens), "a chunk of logits and its copies, and the picked hidden states")
    if sizes.config.lora is None:
        # The head's gradient is added up in float32, and lives until the embedding's is there if the two are tied.
        fresh = anatomy.largest_parameter * (4 + student.itemsize)
        yield item("fresh gradients", fresh, "of head and embedding, before they are added to the others")


def _sampling(sizes: _Sizes) -> Iterator[Item]:
    """What sampling needs beside the trained weights."""
    student, config = sizes.student, sizes.config
    if student.config.engine == "vllm":
        yield from _vllm(student, name="student vLLM", sleeps=student.config.vllm.sleep)
        yield _item_on(
            "cpu", "sampling", "weights for vLLM", 2 * student.weight_bytes, "copies on their way, after an update"
        )
        return
    if config.update.staleness:
        what = "a second copy, sampled from while the first is trained"
        yield _item_on(student.device, "always", "sampling weights", student.weight_bytes, what, certain=True)
    yield from _decoding(sizes, student, phase="sampling", name="student", num_at_once=sizes.num_at_once)
    item = partial(_item_on, student.device, "sampling")
    parked = student.kv_bytes(sizes.num_at_once * sizes.longest)
    yield item("student parked", min(parked, _parked_bytes(student)), "keys and values of trajectories whose tool runs")
    prefill = sizes.forward_tokens(student.config.tokens_per_forward, num_trajectories=sizes.num_at_once)
    yield item("student prefill", student.layer_bytes(prefill), f"a forward of {prefill} tokens, one layer at work")


def _decoding(sizes: _Sizes, model: _Model, *, phase: Phase, name: str, num_at_once: int) -> Iterator[Item]:
    """Rows that decode together."""
    num_rows = min(num_at_once, model.config.max_rows)
    num_places = _row_places(num_rows, prompt=sizes.prompt, longest=sizes.longest)
    wanted, limit = model.kv_bytes(num_places), _decoding_bytes(model, longest=sizes.longest)
    what = f"of {num_rows} rows of up to {sizes.longest} tokens, with room to grow"
    if limit < wanted:
        what = f"kv_cache_gib of the {_gib(wanted)} that {what.removeprefix('of ')} would take; the rest waits"
    yield _item_on(model.device, phase, f"{name} keys and values", min(wanted, limit), what)
    draw = num_rows * model.anatomy.vocab_size * _DRAW_BYTES
    yield _item_on(model.device, phase, f"{name} draw", draw, f"logits of {num_rows} rows and what is made of them")


def _decoding_bytes(model: _Model, *, longest: int) -> int:
    """What the rows' memory is bounded by; one row always has room."""
    from sod.models.hf import default_kv_bytes

    given = int(model.config.kv_cache_gib * 2**30)
    return max(given or default_kv_bytes(_torch_device(model)), model.kv_bytes(longest))


def _row_places(num_rows: int, *, prompt: int, longest: int) -> int:
    """Rows times tokens that the memory of the decoding rows grows to."""
    from sod.models.cache import RowCache

    cache = RowCache()  # nothing was written to it, so it has no memory, only sizes
    cache.reserve(rows=num_rows, tokens=min(prompt + 1, longest))
    while cache.num_tokens < longest:
        cache.reserve(rows=num_rows, tokens=cache.num_tokens + 1)
    return cache.num_rows * cache.num_tokens


def _parked_bytes(model: _Model) -> int:
    from sod.models.hf import default_parked_bytes

    return default_parked_bytes(_torch_device(model))


def _torch_device(model: _Model) -> torch.device:
    """Where the model will be; the CPU when this machine has no such device."""
    import torch

    return torch.device(model.device if available(model.device) is not None else "cpu")


def _teacher(sizes: _Sizes, teacher: _Model, *, name: str) -> Iterator[Item]:
    """What a teacher needs to score; it has no gradients."""
    if teacher.config.engine == "vllm":
        yield from _vllm(teacher, name=f"{name} vLLM", sleeps=False)
        return
    dtype = "float32" if teacher.itemsize == 4 else "bfloat16"
    what = f"{_count(teacher)} parameters in {dtype}"
    yield _item_on(teacher.device, "always", f"{name} weights", teacher.weight_bytes, what, certain=True)
    yield from _scoring(sizes, teacher, name=name)
    if sizes.config.objective.signal == "divergence" or sizes.config.weights.of_distributions:
        yield from _compared(sizes, teacher)


def _compared(sizes: _Sizes, teacher: _Model) -> Iterator[Item]:
    """What a divergence of whole distributions takes beside the student's own forward."""
    from sod.models.divergence import CHUNK_ELEMENTS

    num_tokens, vocab_size = sizes.microbatch_tokens, sizes.student.anatomy.vocab_size
    forward = teacher.layer_bytes(num_tokens) + num_tokens * teacher.anatomy.hidden_size * teacher.itemsize
    what = f"a forward of {num_tokens} tokens, one layer at work, and their hidden states"
    yield _item_on(teacher.device, "learning", "teacher reading", forward, what)
    chunk = min(num_tokens * vocab_size, max(CHUNK_ELEMENTS, vocab_size))
    what = "log-probs of a chunk of tokens under both models, and their gradients"
    yield _item_on(sizes.student.device, "learning", "comparison", 4 * _COMPARED_COPIES * chunk, what)


def _scoring(sizes: _Sizes, model: _Model, *, name: str) -> Iterator[Item]:
    """What a scorer works on beside its weights."""
    item = partial(_item_on, model.device)
    num_tokens = sizes.forward_tokens(model.config.tokens_per_forward, num_trajectories=sizes.num_at_once)
    scoring = model.layer_bytes(num_tokens) + model.head_bytes(num_tokens)
    yield item("sampling", f"{name} scoring", scoring, f"a forward of {num_tokens} tokens, one layer at work")
    if sizes.config.update.teacher_scoring == "step":
        parked = min(model.kv_bytes(sizes.num_at_once * sizes.longest), _parked_bytes(model))
        yield item("sampling", f"{name} parked", parked, "keys and values of trajectories that are not over")


def _copied(sizes: _Sizes) -> Iterator[Item]:
    """A copy of the student that teaches it. With LoRA it has the student's own base, and of an average its factors."""
    kind, lora, student = sizes.config.teaching.student_copy, sizes.config.lora, sizes.student
    if kind == "off":
        return
    item = partial(_item_on, student.device, "always", certain=True)
    if lora is None:
        yield item("copy weights", student.weight_bytes, f"{_count(student)} parameters, as the student's")
        if kind == "ema" and student.itemsize < 4:
            yield item("copy averages", 4 * student.anatomy.num_parameters, "what is averaged, in float32")
    elif kind == "ema":
        averages = 4 * _num_lora(student.anatomy, lora)
        yield item("copy averages", averages, "of the student's LoRA, in float32; the base is the student's own")
    yield from _scoring(sizes, student, name="copy")


def _probed(sizes: _Sizes) -> list[Item]:
    """The check of each teacher at the start: it plays a few episodes, one teacher after the other, so the greediest of
    a device counts. vLLM is awake then, also one that sleeps while the student learns."""
    if not sizes.config.guards.teacher_self_gap:
        return []
    largest: dict[str, list[Item]] = {}
    for scorer in sizes.scorers.values():
        items = list(_decoding(sizes, scorer, phase="start", name="probe", num_at_once=PROBE_EPISODES))
        if _total(items) > _total(largest.get(scorer.device, ())):
            largest[scorer.device] = items
    student = sizes.student.config
    if sizes.config.has_teacher and student.engine == "vllm" and student.vllm.sleep:
        awake = _vllm(sizes.student, name="student vLLM awake", sleeps=True)
        largest[""] = [replace(item, phase="start") for item in awake]
    return [item for items in largest.values() for item in items]


def _total(items: Iterable[Item]) -> int:
    return sum(item.num_bytes for item in items)


def _vllm(model: _Model, *, name: str, sleeps: bool) -> Iterator[Item]:
    """vLLM takes a share of a GPU; on a CPU, and where keys and values are given, weights and those."""
    from sod.models.vllm import CPU_KV_BYTES

    settings = model.config.vllm
    total = _gpu_total(model.device)
    if total is not None and not model.config.kv_cache_gib:
        num_bytes, what = settings.memory_share * total, f"{settings.memory_share:.0%} of the GPU"
    else:
        kv_gib = model.config.kv_cache_gib or CPU_KV_BYTES / GIB
        num_bytes = model.weight_bytes / settings.tensor_parallel + kv_gib * GIB
        what = f"{_count(model)} parameters and {kv_gib:g} GiB of keys and values"
    yield _item_on(model.device, "sampling" if sleeps else "always", name, num_bytes, what, certain=True)


# ---- what would help


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
    if _placed(student.device) != "cpu":  # on a CPU the backward pass in bfloat16 can be many times slower
        yield "student.dtype", "bfloat16"
        yield "student.vllm.sleep", True
    if config.lora is None:
        yield "lora", LoRAConfig()
    if config.teaching.student_copy == "ema":
        yield "teaching.student_copy", "frozen"
    for name, teacher in _named(config).items():
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


# ---- what is there


def available(device: str) -> int | None:
    """Bytes that this process could still take on "cpu" or "cuda:0"; None where that cannot be known.

    On a CPU what the machine has to give, or less where a container has a limit.
    """
    if device != "cpu":
        import torch

        index = torch.device(device).index or 0
        known = torch.cuda.is_available() and index < torch.cuda.device_count()
        return int(torch.cuda.mem_get_info(index)[0]) if known else None
    machine = _meminfo_available() or _sysconf_available()
    return None if machine is None else min([machine, *_cgroup_available()])


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _sysconf_available() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system without these
        return None


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def _cgroup_available(
    membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """What each control group that this process is in, and each one above it, leaves."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = mounted, _V2
        elif "memory" in controllers.split(","):
            root, names = mounted / "memory", _V1
        else:
            continue
        # In a container the path may be the host's, of which only the root is there.
        own = root / path.lstrip("/")
        yield from _limits([own, *(parent for parent in own.parents if parent.is_relative_to(root))], names)


def _limits(folders: Iterable[Path], names: tuple[str, str, str]) -> Iterator[int]:
    limit_name, used_name, cache_name = names
    for folder in folders:
        try:
            limit, used = int((folder / limit_name).read_text()), int((folder / used_name).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        # Files that were read count as used, and give way.
        yield max(0, limit - used + int(statistics.get(cache_name, 0)))


def _gpu_total(device: str) -> int | None:
    if device == "cpu" or available(device) is None:
        return None
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device).index or 0)[1])


def _placed(name: str) -> str:
    """`auto -> cuda:0` where there is a GPU, else `cpu`; `cuda -> cuda:0`."""
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if name == "cuda" else name


# ---- shown


def table(needed: Estimate) -> Table:
    """Every item, device by device; what is not certain is dim."""
    from rich.table import Column, Table

    rows = Table("item", "where", "when", Column("GiB", justify="right"), "what")
    for device in needed.devices:
        for item in needed.items:
            if item.device == device:
                size = f"{item.num_bytes / GIB:.2f}"
                rows.add_row(item.name, device, item.phase, size, item.what, style=None if item.certain else "dim")
    return rows


def _count(model: _Model) -> str:
    number = model.anatomy.num_parameters
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"


def _gib(num_bytes: int | None) -> str:
    """`12884901888 -> 12.0 GiB`; small amounts in MiB."""
    if num_bytes is None:
        return "an unknown amount"
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / (1 << 20):.0f} MiB"

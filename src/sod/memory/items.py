"""From a config to the items of what its run takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sod.config import LoRAConfig, TrainConfig
from sod.memory import room
from sod.memory.needed import GIB, Estimate, Item, Phase, gib
from sod.memory.sizes import Model, Sizes
from sod.teachers import PROBE_EPISODES

if TYPE_CHECKING:
    import torch

    from sod.models.anatomy import Anatomy

_COMPARED_COPIES = 10
"""Tensors of log-probs, with gradients, while a chunk of two distributions is compared."""
_DRAW_BYTES = 24
"""Of one row and one token of the vocabulary while a token is drawn: float32 copies and a float64 sum."""
_RECORD_BYTES = 150
"""Of one token of a trajectory: id, step and log-probs as Python numbers and as tensors."""
_BLOCK = 256
"""Numbers that share a scale in 8-bit moments."""


def estimate(config: TrainConfig) -> Estimate:
    """What a run of this config takes. Reads the models' configs alone: half a second or so a model the first time.

    Raises ModelError for a model that cannot be built without its weights.
    """
    sizes = Sizes.of(config)
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


def _item_on(device: str, phase: Phase, name: str, num_bytes: float, what: str, *, certain: bool = False) -> Item:
    return Item(name=name, device=device, num_bytes=int(num_bytes), phase=phase, certain=certain, what=what)


def _trained(sizes: Sizes) -> Iterator[Item]:
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


def _learning(sizes: Sizes) -> Iterator[Item]:
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


def _sampling(sizes: Sizes) -> Iterator[Item]:
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


def _decoding(sizes: Sizes, model: Model, *, phase: Phase, name: str, num_at_once: int) -> Iterator[Item]:
    """Rows that decode together."""
    num_rows = min(num_at_once, model.config.max_rows)
    num_places = _row_places(num_rows, prompt=sizes.prompt, longest=sizes.longest)
    wanted, limit = model.kv_bytes(num_places), _decoding_bytes(model, longest=sizes.longest)
    what = f"of {num_rows} rows of up to {sizes.longest} tokens, with room to grow"
    if limit < wanted:
        what = f"kv_cache_gib of the {gib(wanted)} that {what.removeprefix('of ')} would take; the rest waits"
    yield _item_on(model.device, phase, f"{name} keys and values", min(wanted, limit), what)
    draw = num_rows * model.anatomy.vocab_size * _DRAW_BYTES
    yield _item_on(model.device, phase, f"{name} draw", draw, f"logits of {num_rows} rows and what is made of them")


def _decoding_bytes(model: Model, *, longest: int) -> int:
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


def _parked_bytes(model: Model) -> int:
    from sod.models.hf import default_parked_bytes

    return default_parked_bytes(_torch_device(model))


def _torch_device(model: Model) -> torch.device:
    """Where the model will be; the CPU when this machine has no such device."""
    import torch

    return torch.device(model.device if room.available(model.device) is not None else "cpu")


def _teacher(sizes: Sizes, teacher: Model, *, name: str) -> Iterator[Item]:
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


def _compared(sizes: Sizes, teacher: Model) -> Iterator[Item]:
    """What a divergence of whole distributions takes beside the student's own forward."""
    from sod.models.divergence import CHUNK_ELEMENTS

    num_tokens, vocab_size = sizes.microbatch_tokens, sizes.student.anatomy.vocab_size
    forward = teacher.layer_bytes(num_tokens) + num_tokens * teacher.anatomy.hidden_size * teacher.itemsize
    what = f"a forward of {num_tokens} tokens, one layer at work, and their hidden states"
    yield _item_on(teacher.device, "learning", "teacher reading", forward, what)
    chunk = min(num_tokens * vocab_size, max(CHUNK_ELEMENTS, vocab_size))
    what = "log-probs of a chunk of tokens under both models, and their gradients"
    yield _item_on(sizes.student.device, "learning", "comparison", 4 * _COMPARED_COPIES * chunk, what)


def _scoring(sizes: Sizes, model: Model, *, name: str) -> Iterator[Item]:
    """What a scorer works on beside its weights."""
    item = partial(_item_on, model.device)
    num_tokens = sizes.forward_tokens(model.config.tokens_per_forward, num_trajectories=sizes.num_at_once)
    scoring = model.layer_bytes(num_tokens) + model.head_bytes(num_tokens)
    yield item("sampling", f"{name} scoring", scoring, f"a forward of {num_tokens} tokens, one layer at work")
    if sizes.config.update.teacher_scoring == "step":
        parked = min(model.kv_bytes(sizes.num_at_once * sizes.longest), _parked_bytes(model))
        yield item("sampling", f"{name} parked", parked, "keys and values of trajectories that are not over")


def _copied(sizes: Sizes) -> Iterator[Item]:
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


def _probed(sizes: Sizes) -> list[Item]:
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


def _vllm(model: Model, *, name: str, sleeps: bool) -> Iterator[Item]:
    """vLLM takes a share of a GPU; on a CPU, and where keys and values are given, weights and those."""
    from sod.models.vllm import CPU_KV_BYTES

    settings = model.config.vllm
    total = room.gpu_total(model.device)
    if total is not None and not model.config.kv_cache_gib:
        num_bytes, what = settings.memory_share * total, f"{settings.memory_share:.0%} of the GPU"
    else:
        kv_gib = model.config.kv_cache_gib or CPU_KV_BYTES / GIB
        num_bytes = model.weight_bytes / settings.tensor_parallel + kv_gib * GIB
        what = f"{_count(model)} parameters and {kv_gib:g} GiB of keys and values"
    yield _item_on(model.device, "sampling" if sleeps else "always", name, num_bytes, what, certain=True)


def _count(model: Model) -> str:
    number = model.anatomy.num_parameters
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.1f}M"

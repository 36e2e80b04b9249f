"""Copies of the student: frozen ones stay, share and cost nothing under LoRA; averaged ones are the average."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sod.config import LoRAConfig, ModelConfig, OptimizerConfig
from sod.errors import ModelError, StorageError
from sod.models.copies import AveragedCopy, open_copy
from sod.models.hf import HFModel
from sod.models.lora import add_lora, full_state, is_lora
from sod.optimizer import Optimizer

LORA = LoRAConfig(rank=4, alpha=8.0)
IDS = tuple(range(5, 45))
PLACES = tuple(range(8, 40))
BATCH = torch.tensor([IDS])


@pytest.fixture
def config(model_dir: Path) -> ModelConfig:
    return ModelConfig(path=str(model_dir))


@pytest.fixture
def lora_student(config: ModelConfig) -> HFModel:
    student = HFModel.load(config)
    add_lora(student.module, LORA, seed=7)
    return student


def optimizer_of(student: HFModel) -> Optimizer:
    return Optimizer(student.module, config=OptimizerConfig(lr=1e-2), num_steps=10)


def learn(student: HFModel, optimizer: Optimizer, steps: int = 1) -> None:
    """Real steps on one sequence."""
    mask_BT = torch.ones_like(BATCH, dtype=torch.bool)
    mask_BT[:, 0] = False
    for _ in range(steps):
        (-student.token_logprobs(BATCH, mask_BT).logprobs_N.mean()).backward()
        optimizer.step()
    student.weights_changed()


def score(model: HFModel, *, trajectory_id: str = "") -> tuple[float, ...]:
    return asyncio.run(model.score(IDS, positions=PLACES, trajectory_id=trajectory_id))


def storages(module: torch.nn.Module) -> set[int]:
    return {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}


def clones(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.named_parameters()}


# ---- frozen


def test_a_frozen_copy_stays_what_the_run_began_with(config: ModelConfig, tmp_path: Path) -> None:
    student = HFModel.load(config)
    frozen = open_copy(config, student, kind="frozen")
    before = score(frozen.model)
    assert before == score(student)
    learn(student, optimizer_of(student), steps=3)
    frozen.update(student.module)
    assert score(frozen.model) == before
    assert max(abs(a - b) for a, b in zip(score(student), before, strict=True)) > 0.1
    assert not storages(frozen.model.module) & storages(student.module)
    frozen.save(tmp_path / "teacher.safetensors")
    assert not any(tmp_path.iterdir()), "the config says where its weights are"
    frozen.load(tmp_path / "teacher.safetensors")


def test_a_frozen_copy_under_lora_is_the_base_and_has_no_tensor_of_its_own(
    config: ModelConfig, lora_student: HFModel
) -> None:
    base = HFModel.load(config)
    frozen = open_copy(config, lora_student, kind="frozen")
    module = frozen.model.module
    assert not is_lora(module)
    assert is_lora(lora_student.module)
    assert full_state(module).keys() == full_state(base.module).keys()
    assert storages(module) < storages(lora_student.module)
    buffers = {each.data_ptr() for each in lora_student.module.buffers()}
    assert {each.data_ptr() for each in module.buffers()} == buffers
    assert score(frozen.model) == score(base)
    learn(lora_student, optimizer_of(lora_student), steps=3)
    frozen.update(lora_student.module)
    assert score(frozen.model) == score(base)
    assert all(torch.equal(tensor, full_state(base.module)[name]) for name, tensor in full_state(module).items())
    assert max(abs(a - b) for a, b in zip(score(lora_student), score(base), strict=True)) > 0.1


def test_the_base_is_read_while_the_student_samples(config: ModelConfig, lora_student: HFModel) -> None:
    frozen = open_copy(config, lora_student, kind="frozen")
    learn(lora_student, optimizer_of(lora_student))
    alone = score(frozen.model)
    from sod.config import SamplingConfig

    async def both() -> list[Any]:
        sampling = lora_student.sample(
            IDS, max_tokens=40, stop_token_ids=(), sampling=SamplingConfig(), trajectory_id="t", seed=3
        )
        return await asyncio.gather(sampling, *(frozen.model.score(IDS, positions=PLACES) for _ in range(4)))

    completion, *scores = asyncio.run(both())
    assert len(completion.token_ids) == 40
    for each in scores:
        torch.testing.assert_close(torch.tensor(each), torch.tensor(alone), rtol=1e-5, atol=1e-5)


# ---- averaged


def reference(start: dict[str, Tensor], students: list[dict[str, Tensor]], *, decay: float) -> dict[str, Tensor]:
    """The recurrence in float64, weight by weight."""
    average = {name: tensor.double() for name, tensor in start.items()}
    for student in students:
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * student[name].double()
    return average


def averaged(config: ModelConfig, student: HFModel, *, decay: float = 0.9, updates: int = 5) -> Any:
    """(copy, its start, the student's weights after each update)."""
    ema, optimizer = open_copy(config, student, kind="ema", decay=decay), optimizer_of(student)
    start, students = clones(ema.model.module), []
    for _ in range(updates):
        learn(student, optimizer)
        ema.update(student.module)
        students.append(clones(student.module))
    return ema, start, students


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_an_averaged_copy_is_the_average(config: ModelConfig, decay: float) -> None:
    student = HFModel.load(config)
    ema, start, students = averaged(config, student, decay=decay)
    wanted = reference(start, students, decay=decay)
    for name, tensor in clones(ema.model.module).items():
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=2e-6, atol=1e-7)
    assert not any(parameter.requires_grad for parameter in ema.model.module.parameters())
    assert all(parameter.requires_grad for parameter in student.module.parameters())
    moved = max(float((wanted[name] - start[name]).abs().max()) for name in wanted)
    assert moved > 1e-5, "an average that never moves proves nothing"


def test_a_bfloat16_copy_adds_up_in_float32(config: ModelConfig) -> None:
    config = config.model_copy(update={"dtype": "bfloat16"})
    student = HFModel.load(config)
    ema, start, students = averaged(config, student, decay=0.999, updates=40)
    wanted = reference(start, students, decay=0.999)
    own = clones(ema.model.module)
    assert {tensor.dtype for tensor in own.values()} == {torch.bfloat16}
    name = "model.layers.0.mlp.down_proj.weight"
    assert not torch.equal(own[name], start[name])
    for name, tensor in own.items():
        # Half a unit in the last place of bfloat16, and what float32 sums differ by.
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=2**-8, atol=1e-6)


def test_under_lora_the_additions_are_averaged_and_the_base_is_shared(
    config: ModelConfig, lora_student: HFModel
) -> None:
    ema, start, students = averaged(config, lora_student, decay=0.5)
    wanted = reference(start, students, decay=0.5)
    own, theirs = ema.model.module, lora_student.module
    assert is_lora(own)
    additions = {name for name in start if ".lora_" in name}
    assert len(additions) == 2 * 3 * 7
    for name, tensor in own.named_parameters():
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=2e-6, atol=1e-7)
        shared = tensor.data_ptr() == theirs.get_parameter(name).data_ptr()
        assert shared == (name not in additions)
    assert {name for name, each in theirs.named_parameters() if each.requires_grad} == additions
    learn(lora_student, optimizer_of(lora_student))  # the student still trains, and only it
    assert all(parameter.grad is None for parameter in own.parameters())


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "lora"])
def test_what_is_saved_goes_on_as_if_it_had_never_stopped(config: ModelConfig, kind: str, tmp_path: Path) -> None:
    if kind == "bfloat16":
        config = config.model_copy(update={"dtype": kind})

    def fresh() -> HFModel:
        student = HFModel.load(config)
        if kind == "lora":
            add_lora(student.module, LORA, seed=7)
        return student

    student = fresh()
    ema, _, _ = averaged(config, student, updates=3)
    ema.save(tmp_path / "teacher.safetensors")
    again = open_copy(config, fresh(), kind="ema", decay=0.9)
    again.load(tmp_path / "teacher.safetensors")
    for _ in range(2):
        assert all(
            torch.equal(tensor, again.model.module.get_parameter(name))
            for name, tensor in ema.model.module.named_parameters()
        )
        learn(student, optimizer_of(student))
        ema.update(student.module)
        again.update(student.module)
    ema.save(tmp_path / "a.safetensors")
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert {tensor.dtype for tensor in load_file(tmp_path / "a.safetensors").values()} == {torch.float32}
    assert score(ema.model) == score(again.model)


def test_an_update_drops_what_was_computed_with_the_old_weights(config: ModelConfig) -> None:
    student = HFModel.load(config)
    ema = open_copy(config, student, kind="ema", decay=0.5)
    before = score(ema.model, trajectory_id="t")
    version = ema.model.policy_version
    learn(student, optimizer_of(student), steps=3)
    ema.update(student.module)
    kept = score(ema.model, trajectory_id="t")
    plain = score(HFModel(ema.model.module))
    torch.testing.assert_close(torch.tensor(kept), torch.tensor(plain), rtol=1e-5, atol=1e-5)
    assert max(abs(a - b) for a, b in zip(kept, before, strict=True)) > 1e-2
    assert ema.model.policy_version == version + 1


def test_the_average_of_another_model_is_refused_and_nothing_changes(
    config: ModelConfig, lora_student: HFModel, tmp_path: Path
) -> None:
    ema = open_copy(config, lora_student, kind="ema", decay=0.5)
    before = clones(ema.model.module)
    plain = open_copy(config, HFModel.load(config), kind="ema", decay=0.5)
    plain.save(tmp_path / "plain.safetensors")
    with pytest.raises(ModelError, match=r"must hold the average of this student, but .* differ"):
        ema.load(tmp_path / "plain.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:100])
    for name in ("cut.safetensors", "missing.safetensors"):
        with pytest.raises(ModelError, match="cannot be read"):
            plain.load(tmp_path / name)
    assert all(torch.equal(tensor, before[name]) for name, tensor in clones(ema.model.module).items())
    with pytest.raises(StorageError, match="could not be written"):
        plain.save(tmp_path / "no such folder" / "x.safetensors")


def test_a_decay_of_one_would_never_move(tiny_module: Callable[[int], Any]) -> None:
    with pytest.raises(AssertionError, match="below 1"):
        AveragedCopy(HFModel(tiny_module(0)), decay=1.0)

"""The optimizer: master weights, sums of gradients, eight-bit moments, and a resume that is exact to the bit."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sod.config import LoRAConfig, ModelConfig, OptimizerConfig
from sod.errors import ConfigError, ModelError, SignalError, StorageError
from sod.models.lora import add_lora
from sod.models.weights import load_module, save_module
from sod.optimizer import Optimizer

LORA = LoRAConfig(rank=4, alpha=8.0)
CONFIG = OptimizerConfig(lr=1e-3, schedule="cosine", warmup=0.3)


def linear(dtype: torch.dtype = torch.bfloat16) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(16, 8, dtype=dtype)


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def assert_same(got: nn.Module, wanted: dict[str, Tensor]) -> None:
    assert [name for name, value in weights(got).items() if not torch.equal(value, wanted[name])] == []


def learn(module: Any, optimizer: Optimizer, *, first: int, num_steps: int) -> list[float]:
    """Steps `first` .. on the loss of their own tokens, in two micro-batches each. Returns the losses."""
    losses = []
    for number in range(first, first + num_steps):
        token_BT = torch.randint(5, 500, (4, 20), generator=torch.Generator().manual_seed(number % 3))
        parts = []
        for rows in token_BT.split(2):
            logits = module(input_ids=rows[:, :-1], use_cache=False).logits.float()
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()) / 2
            loss.backward()
            parts.append(loss.item())
        optimizer.step()
        losses.append(sum(parts))
    return losses


@pytest.mark.parametrize("kind", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("lora", [False, True], ids=["all", "lora"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_three_steps_saved_and_three_more_are_six(
    dtype: str, lora: bool, kind: str, model_dir: Path, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"kind": kind})

    def make(path: Path, *, seed: int) -> tuple[Any, Optimizer]:
        module: Any = load_module(ModelConfig(path=str(path), dtype=dtype))
        if lora:
            add_lora(module, LORA, seed=seed)
        return module, Optimizer(module, config=config, num_steps=6)

    straight, optimizer = make(model_dir, seed=0)
    losses = learn(straight, optimizer, first=0, num_steps=6)

    half, optimizer = make(model_dir, seed=0)
    learn(half, optimizer, first=0, num_steps=3)
    save_module(half, tmp_path / "model")
    optimizer.save(tmp_path / "optimizer.safetensors")
    # Additions of another seed: what counts is what the file says.
    resumed, optimizer = make(model_dir if lora else tmp_path / "model", seed=1)
    optimizer.load(tmp_path / "optimizer.safetensors")
    assert optimizer.step_count == 3
    assert_same(resumed, weights(half))
    assert learn(resumed, optimizer, first=3, num_steps=3) == losses[3:]
    assert_same(resumed, weights(straight))
    assert losses[5] < losses[2] < losses[0]


def test_small_steps_move_bfloat16_weights_through_their_masters() -> None:
    module, plain = linear(), linear()
    start = weights(module)
    exact = {name: value.float() for name, value in start.items()}
    optimizer = Optimizer(module, config=OptimizerConfig(lr=1e-6, weight_decay=0.0), num_steps=1)
    rounding = torch.optim.AdamW(plain.parameters(), lr=1e-6, weight_decay=0.0)
    for _ in range(2000):
        for each in (module, plain):
            each(torch.ones(1, 16, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
        rounding.step()
        rounding.zero_grad()
    # A constant gradient makes AdamW step by lr each time: 2000 steps of 1e-6, but for the last rounding.
    for name, value in weights(module).items():
        torch.testing.assert_close(value, (exact[name] - 2e-3).bfloat16(), rtol=0.01, atol=1e-5)
    large = start["weight"].abs() > 0.02
    assert large.float().mean() > 0.5
    assert torch.equal(plain.weight[large], start["weight"][large])


def test_masters_step_as_a_float32_model_does() -> None:
    module, reference = linear(), linear().float()
    config = CONFIG.model_copy(update={"max_grad_norm": 0.5})
    ours, theirs = (Optimizer(each, config=config, num_steps=9) for each in (module, reference))
    for _ in range(9):
        (gradient,) = torch.autograd.grad(module(torch.randn(4, 16).bfloat16()).square().sum(), module.weight)
        module.weight.backward(gradient)
        module.bias.backward(torch.ones(8, dtype=torch.bfloat16))
        reference.weight.grad, reference.bias.grad = gradient.float(), torch.ones(8)
        assert ours.step() == theirs.step() > 0.5
        assert_same(module, {name: value.bfloat16() for name, value in weights(reference).items()})


def test_the_thousandth_micro_batch_counts_as_much_as_the_first() -> None:
    module = linear()
    optimizer = Optimizer(module, config=OptimizerConfig(max_grad_norm=0.0), num_steps=1)
    for _ in range(1000):  # bfloat16 counts to 256
        module.bias.sum().backward()
        assert module.bias.grad is None
    assert optimizer.step() == pytest.approx(1000 * 8**0.5)
    module.bias.sum().backward()
    assert optimizer.step() == pytest.approx(8**0.5)


def test_float32_weights_are_stepped_themselves(tmp_path: Path) -> None:
    module, reference = linear(torch.float32), linear(torch.float32)
    config = OptimizerConfig(lr=1e-3, max_grad_norm=0.1)
    optimizer = Optimizer(module, config=config, num_steps=1)
    adamw = torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=config.weight_decay)
    for _ in range(20):
        input_BE = torch.randn(4, 16)
        for each in (module, reference):
            each(input_BE).square().sum().backward()
        assert module.weight.grad is not None
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.1)
        adamw.step()
        adamw.zero_grad()
        assert optimizer.step() == pytest.approx(float(norm), rel=1e-5)
        assert module.weight.grad is None
    for name, value in weights(module).items():
        torch.testing.assert_close(value, weights(reference)[name], rtol=1e-5, atol=1e-6)
    optimizer.save(tmp_path / "state.safetensors")
    names = {key.partition("/")[0] for key in load_file(tmp_path / "state.safetensors")}
    assert names == {"step_count", "step", "exp_avg", "exp_avg_sq"}


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    module = linear()
    before = weights(module)
    optimizer = Optimizer(module, config=CONFIG, num_steps=1)
    (module.weight.sum() * torch.inf).backward()
    with pytest.raises(SignalError, match="optimizer step 1; the weights were not changed"):
        optimizer.step()
    assert_same(module, before)
    assert optimizer.step_count == 0


def test_the_next_optimizer_of_a_module_gets_its_gradients() -> None:
    module = linear()
    optimizer = Optimizer(module, config=CONFIG, num_steps=1)
    optimizer = Optimizer(module, config=CONFIG, num_steps=1)
    gc.collect()
    module.bias.sum().backward()
    assert optimizer.step() == pytest.approx(8**0.5)


def test_a_parameter_that_never_had_a_gradient_is_resumed_too(tmp_path: Path) -> None:
    module = linear(torch.float32)
    optimizer = Optimizer(module, config=CONFIG, num_steps=4)
    module.bias.sum().backward()
    optimizer.step()
    optimizer.save(tmp_path / "state.safetensors")
    fresh = linear(torch.float32)
    fresh.load_state_dict(module.state_dict())
    resumed = Optimizer(fresh, config=CONFIG, num_steps=4)
    resumed.load(tmp_path / "state.safetensors")
    for each, its_optimizer in ((module, optimizer), (fresh, resumed)):
        each(torch.ones(1, 16)).sum().backward()
        its_optimizer.step()
    assert_same(fresh, weights(module))


def test_a_file_without_weights_still_loads(tmp_path: Path) -> None:
    """As they were written before there were masters."""
    moments = {"weight": torch.rand(8, 16), "bias": torch.rand(8)}
    tensors = {"step_count": torch.tensor(5)}
    for name, value in moments.items():
        tensors |= {f"step/{name}": torch.tensor(5.0), f"exp_avg/{name}": value, f"exp_avg_sq/{name}": value.square()}
    save_file(tensors, tmp_path / "state.safetensors")
    module = linear()
    before = weights(module)
    optimizer = Optimizer(module, config=CONFIG, num_steps=10)
    optimizer.load(tmp_path / "state.safetensors")
    assert optimizer.step_count == 5
    assert_same(module, before)
    module(torch.zeros(1, 16, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    assert not torch.equal(module.weight, before["weight"])  # by its moments: its gradient is 0


class TestAFileOfAnotherModel:
    @pytest.fixture
    def state(self, tmp_path: Path) -> Path:
        module = linear(torch.float32)
        optimizer = Optimizer(module, config=CONFIG, num_steps=1)
        module(torch.ones(1, 16)).sum().backward()
        optimizer.step()
        optimizer.save(tmp_path / "state.safetensors")
        return tmp_path / "state.safetensors"

    def refused(self, module: nn.Module, state: Path, *, match: str, kind: str = "adamw") -> None:
        before = weights(module)
        optimizer = Optimizer(module, config=CONFIG.model_copy(update={"kind": kind}), num_steps=1)
        with pytest.raises(ModelError, match=match):
            optimizer.load(state)
        assert optimizer.step_count == 0
        assert_same(module, before)

    def test_other_names(self, state: Path) -> None:
        self.refused(nn.Sequential(linear(torch.float32)), state, match=r"has not step/0\.bias \(2 such\)")

    def test_fewer_names(self, state: Path) -> None:
        self.refused(nn.Linear(16, 8, bias=False), state, match=r"it has exp_avg/bias \(3 such\)")

    def test_other_shapes(self, state: Path) -> None:
        self.refused(nn.Linear(8, 8), state, match=r"exp_avg/weight has shape \(8, 16\) and the model \(8, 8\)")

    def test_another_kind(self, state: Path) -> None:
        self.refused(linear(torch.float32), state, kind="adamw8bit", match=r"\(adamw8bit\), but it has exp_avg/bias")

    def test_without_the_weights_of_a_module_that_is_frozen_in_part(self, state: Path) -> None:
        module = linear(torch.float32)
        module.bias.requires_grad_(False)
        self.refused(module, state, match="has not parameter/weight")

    def test_not_a_state_at_all(self, tmp_path: Path) -> None:
        save_file({"weight": torch.zeros(8, 16)}, tmp_path / "other.safetensors")
        self.refused(linear(torch.float32), tmp_path / "other.safetensors", match="has not step_count")


def test_a_disk_that_does_not_take_it_is_said(tmp_path: Path) -> None:
    optimizer = Optimizer(linear(), config=CONFIG, num_steps=1)
    with pytest.raises(StorageError, match="could not be written"):
        optimizer.save(tmp_path / "missing" / "state.safetensors")


def test_eight_bits_learn_alike_in_a_third_of_the_memory(tiny_module: Callable[[int], Any], tmp_path: Path) -> None:
    found = {}
    for kind in ("adamw", "adamw8bit"):
        module = tiny_module(0).eval()
        optimizer = Optimizer(module, config=OptimizerConfig(kind=kind, lr=1e-3), num_steps=15)
        losses = learn(module, optimizer, first=0, num_steps=15)
        optimizer.save(tmp_path / kind)
        found[kind] = losses[-1], (tmp_path / kind).stat().st_size
        assert losses[-1] < 0.7 * losses[0]
    assert found["adamw8bit"][0] == pytest.approx(found["adamw"][0], rel=0.1)
    assert found["adamw8bit"][1] < found["adamw"][1] / 3


def test_eight_bits_without_their_library_give_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r'pip install "sod-distill\[eight-bit\]", or take "adamw"'):
        Optimizer(linear(), config=OptimizerConfig(kind="adamw8bit"), num_steps=1)

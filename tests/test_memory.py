"""Estimates against what really happens: memory of child processes that train, sample and score; tensors counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from sod import cli, memory
from sod.config import LoRAConfig, ModelConfig, TrainConfig, parse
from sod.errors import ModelError
from sod.memory import room, verdict
from sod.memory.needed import Phase
from sod.models.anatomy import anatomy
from sod.optimizer import Optimizer

GIB = 1 << 30
QWEN3_0_6B = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
QWEN3_4B = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32}
LEARNER = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 6, "num_attention_heads": 8}
NARROW = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8}


def write_config(directory: Path, shape: dict[str, int], **more: Any) -> str:
    """A directory with the config of a Qwen3 and nothing else."""
    from transformers import Qwen3Config

    settings = {"vocab_size": 151936, "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True, **more}
    Qwen3Config(max_position_embeddings=40960, **shape, **settings).save_pretrained(directory)
    return str(directory)


def config(path: str, *, student: dict[str, Any] | None = None, **sections: Any) -> TrainConfig:
    fields = {"run": "r", "method": "grpo", "data": {"path": "d"}, **sections}
    return parse(TrainConfig, {**fields, "student": {"path": path, "device": "cpu", **(student or {})}})


# ---- what a process really takes

CHILD = """
import asyncio, json, sys
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from sod.batch import Rollout, collate
from sod.config import SamplingConfig, TrainConfig, parse
from sod.learner import Learner
from sod.models.hf import HFModel
from sod.optimizer import Optimizer
from sod.types import Score, StopReason, Trajectory

config, what = parse(TrainConfig, json.loads(sys.argv[1])), sys.argv[2]
length = config.agent.max_prompt_tokens + config.agent.max_response_tokens
number = config.update.prompts * config.update.samples


def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def make(path, dtype):
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    made = AutoConfig.from_pretrained(path)
    return AutoModelForCausalLM.from_config(made, dtype=dtype, attn_implementation="sdpa").eval()


def trajectory(index):
    ids = torch.randint(100, (length,), generator=torch.Generator().manual_seed(index)).tolist()
    prompt = config.agent.max_prompt_tokens
    step = (-1,) * prompt + (0,) * (length - prompt)
    logprobs = (0.0,) * prompt + (-5.0,) * (length - prompt)
    return Trajectory(problem_id="p", sample=index, token_ids=tuple(ids), num_prompt_tokens=prompt, step=step,
                      rollout_logprobs=logprobs, turns=(), stop_reason=StopReason.ANSWERED)


def learn(module):
    optimizer = Optimizer(module, config=config.optimizer, num_steps=1)
    student = HFModel(module, gradient_checkpointing=config.update.gradient_checkpointing)
    learner = Learner(config=config, student=student, optimizer=optimizer)
    rollouts = [Rollout(trajectory=trajectory(index), group=0, score=Score(value=float(index % 2), correct=False,
                reason="")) for index in range(number)]
    batch = collate(rollouts)
    learner.learn(batch, learner.credit(batch), seed=0)


def sample(module):
    model = HFModel(module.requires_grad_(False), max_rows=config.student.max_rows)

    async def turns():
        await asyncio.gather(*(
            model.sample(trajectory(index).token_ids[: config.agent.max_prompt_tokens], seed=index,
                         max_tokens=config.agent.max_response_tokens, stop_token_ids=(), sampling=SamplingConfig(),
                         trajectory_id=str(index))
            for index in range(number)))

    asyncio.run(turns())


def score(module):
    model = HFModel(module.requires_grad_(False), tokens_per_forward=config.teacher.tokens_per_forward)

    async def scores():
        await asyncio.gather(*(
            model.score(trajectory(index).token_ids, positions=trajectory(index).sampled_positions)
            for index in range(number)))

    asyncio.run(scores())


# What is loaded when it is first used belongs to the libraries, not to the run.
small = torch.nn.Linear(64, 64)
small(torch.randn(64, 64)).square().sum().backward()
torch.optim.AdamW(small.parameters(), fused=True).step()
side = config.teacher if what == "score" else config.student
before = memory("VmRSS")
module = make(side.path, torch.bfloat16 if side.dtype == "bfloat16" else torch.float32)
loaded = memory("VmRSS")
{"learn": learn, "sample": sample, "score": score}[what](module)
print(json.dumps({"weights": loaded - before, "peak": memory("VmHWM") - before}))
"""


def measured(settings: TrainConfig, what: str) -> dict[str, int]:
    """Bytes by which a fresh process grows when it does that."""
    command = [sys.executable, "-c", CHILD, settings.model_dump_json(), what]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def needed_bytes(settings: TrainConfig, *phases: str, names: str = "") -> int:
    """The estimate's sum over phases, of all items or of those whose names begin so."""
    return sum(i.num_bytes for i in memory.estimate(settings).items if i.phase in phases and i.name.startswith(names))


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["all kept", "recomputed"])
def test_learning_takes_what_was_estimated(tmp_path: Path, checkpointing: bool) -> None:
    """Two optimizer steps of two micro-batches: the second meets gradients and moments."""
    path = write_config(tmp_path, LEARNER, vocab_size=32000, num_key_value_heads=4, head_dim=64)
    update = {"prompts": 1, "samples": 8, "optimizer_steps": 2, "tokens_per_microbatch": 1024}
    settings = config(
        path,
        agent={"max_prompt_tokens": 64, "max_response_tokens": 448},
        update={**update, "gradient_checkpointing": checkpointing},
    )
    real = measured(settings, "learn")
    assert needed_bytes(settings, "always", "learning") == pytest.approx(real["peak"], rel=0.3)
    assert needed_bytes(settings, "always", names="student weights") == pytest.approx(real["weights"], rel=0.1)


@pytest.mark.slow
def test_sampling_takes_what_was_estimated(tmp_path: Path) -> None:
    """Rows that all come to the longest trajectory, and are then parked."""
    path = write_config(tmp_path, NARROW, vocab_size=1000)
    settings = config(
        path,
        student={"max_rows": 64, "tokens_per_forward": 2048},
        agent={"max_prompt_tokens": 64, "max_response_tokens": 128},
        update={"prompts": 1, "samples": 64},
    )
    real = measured(settings, "sample")
    state = needed_bytes(settings, "always", names="moments")
    assert needed_bytes(settings, "always", "sampling") - state == pytest.approx(real["peak"], rel=0.4)


@pytest.mark.slow
def test_scoring_takes_what_was_estimated(tmp_path: Path) -> None:
    path = write_config(
        tmp_path, {**LEARNER, "num_hidden_layers": 2}, vocab_size=32000, num_key_value_heads=4, head_dim=64
    )
    settings = config(
        path,
        teacher={"path": path, "device": "cpu", "tokens_per_forward": 4096},
        agent={"max_prompt_tokens": 64, "max_response_tokens": 960},
        update={"prompts": 1, "samples": 8},
    )
    real = measured(settings, "score")
    assert needed_bytes(settings, "always", "sampling", names="teacher") == pytest.approx(real["peak"], rel=0.5)


# ---- what can be counted


@pytest.mark.parametrize(("shape", "number"), [(QWEN3_0_6B, 596_049_920), (QWEN3_4B, 4_022_468_096)])
def test_parameters_of_published_models(tmp_path: Path, shape: dict[str, int], number: int) -> None:
    sizes = anatomy(write_config(tmp_path, shape), dtype="bfloat16")
    assert sizes.num_parameters == number
    assert sizes.kv_numbers == shape["num_hidden_layers"] * 2 * 8 * 128
    assert sizes.largest_parameter == 151936 * shape["hidden_size"]


def test_untied_weights_count_twice(tmp_path: Path) -> None:
    tied = anatomy(write_config(tmp_path / "tied", NARROW), dtype="float32")
    untied = anatomy(write_config(tmp_path / "untied", NARROW, tie_word_embeddings=False), dtype="float32")
    assert untied.num_parameters - tied.num_parameters == 151936 * 64


@pytest.mark.parametrize("length", [64, 256])
def test_what_a_layer_keeps_is_what_autograd_keeps(tmp_path: Path, length: int) -> None:
    """Real tensors of a real forward, at other lengths than the one that was traced."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = write_config(tmp_path, NARROW, vocab_size=1000)
    module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), attn_implementation="sdpa")
    own = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    kept: dict[int, torch.Tensor] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.setdefault(tensor.untyped_storage().data_ptr(), tensor) is None or tensor, lambda _: _
    ):
        module.get_decoder()(input_ids=torch.zeros(2, length, dtype=torch.int64), use_cache=False)
    real = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
    sizes = anatomy(path, dtype="float32")
    traced = 2 * length * (sizes.num_layers * sizes.saved_bytes_per_layer + sizes.saved_bytes_elsewhere)
    assert traced == pytest.approx(real, rel=0.02)


def trained_module(path: str, *, dtype: torch.dtype, rank: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path), dtype=dtype)
    if rank:
        pytest.importorskip("peft")
        from sod.models.lora import add_lora

        add_lora(module, LoRAConfig(rank=rank), seed=0)
    return module


@pytest.mark.parametrize(("dtype", "rank"), [("float32", 0), ("bfloat16", 0), ("float32", 8), ("bfloat16", 8)])
def test_state_is_counted_exactly(tmp_path: Path, dtype: str, rank: int) -> None:
    """Weights, gradients, masters and moments of a real module after a real step: the optimizer's file holds them."""
    path = write_config(tmp_path / "model", NARROW, vocab_size=4000)
    settings = config(path, student={"dtype": dtype}, **({"lora": {"rank": rank}} if rank else {}))
    module = trained_module(path, dtype=getattr(torch, dtype), rank=rank)
    optimizer = Optimizer(module, config=settings.optimizer, num_steps=1)
    module(input_ids=torch.zeros(1, 4, dtype=torch.int64), use_cache=False).logits.float().sum().backward()
    optimizer.step()
    optimizer.save(tmp_path / "optimizer.safetensors")
    state = load_file(tmp_path / "optimizer.safetensors")
    moments = sum(t.nbytes for key, t in state.items() if key.startswith("exp_avg"))
    masters = sum(t.nbytes for key, t in state.items() if key.startswith("parameter/")) if dtype != "float32" else 0
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert needed_bytes(settings, "always", names="moments") == pytest.approx(moments, rel=0.02)
    assert needed_bytes(settings, "learning", names="gradients") == pytest.approx(4 * trained, rel=0.02)
    weights = sum(p.nbytes for p in module.parameters())
    assert needed_bytes(settings, "always", names="student") == pytest.approx(weights, rel=0.02)
    if not rank:
        assert needed_bytes(settings, "always", names="master") == pytest.approx(masters, rel=0.02)


# ---- what depends on the settings


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_config(tmp_path_factory.mktemp("small"), NARROW, vocab_size=4000)


def names(settings: TrainConfig, phase: str) -> set[str]:
    return {item.name for item in memory.estimate(settings).items if item.phase == phase}


def test_a_server_takes_nothing_here(small: str) -> None:
    teacher = {"path": "gone", "engine": "server", "server": {"url": "http://localhost:1"}}
    assert memory.estimate(config(small, teacher=teacher)) == memory.estimate(config(small))


def test_vllm_takes_weights_and_its_cache(small: str) -> None:
    settings = config(small, student={"engine": "vllm", "kv_cache_gib": 2.0})
    weights = needed_bytes(settings, "always", names="student weights")
    assert needed_bytes(settings, "always", names="student vLLM") == weights + 2 * GIB
    assert names(settings, "sampling") == {"weights for vLLM"}


def test_staleness_adds_a_copy_and_needs_all_at_once(small: str) -> None:
    now, ahead = (memory.estimate(config(small, update={"staleness": value})) for value in (0, 1))
    copied = needed_bytes(config(small), "always", names="student weights")
    assert ahead.peak_bytes("cpu", certain=True) - now.peak_bytes("cpu", certain=True) == copied
    assert ahead.peak_bytes("cpu") == sum(item.num_bytes for item in ahead.items if item.phase != "start")


def test_a_teacher_that_scores_steps_keeps_their_cache(small: str) -> None:
    teacher = {"path": small, "device": "cpu"}
    whole, by_step = (config(small, teacher=teacher, update={"teacher_scoring": by}) for by in ("trajectory", "step"))
    assert names(by_step, "sampling") - names(whole, "sampling") == {"teacher parked"}


def privileged(small: str, kind: str, *, dtype: str = "bfloat16", **sections: Any) -> TrainConfig:
    """A run whose student teaches itself."""
    student, teaching = {"dtype": dtype}, {"student_copy": kind}
    return config(small, student=student, method="opsd_gt", teaching=teaching, **sections)


def sizes(settings: TrainConfig, *names: str) -> list[int]:
    """Bytes of the items of these names; 0 where there is none."""
    items = {item.name: item.num_bytes for item in memory.estimate(settings).items}
    return [items.get(name, 0) for name in names]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rank", [0, 8])
def test_copies_of_the_student_take_what_their_tensors_take(tmp_path: Path, dtype: str, rank: int) -> None:
    """Those of real copies that are not the student's own: weights, and sums in float32 where the weights are not."""
    if rank:
        pytest.importorskip("peft")
    from sod.models.copies import AveragedCopy, open_copy
    from sod.models.hf import HFModel

    path = write_config(tmp_path / "config", NARROW, vocab_size=4000)
    module = trained_module(path, dtype=getattr(torch, dtype), rank=0)
    module.save_pretrained(tmp_path / "model")
    settings = ModelConfig(path=str(tmp_path / "model"), dtype=cast("Any", dtype), device="cpu")
    student = HFModel.load(settings)
    if rank:
        from sod.models.lora import add_lora

        add_lora(student.module, LoRAConfig(rank=rank), seed=0)
    own = {each.untyped_storage().data_ptr() for each in student.module.parameters()}
    for kind in ("frozen", "ema"):
        copied = open_copy(settings, student, kind=cast("Any", kind), decay=0.5)
        tensors = list(copied.model.module.parameters())
        tensors += list(copied._averages.values()) if isinstance(copied, AveragedCopy) else []
        real = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
        expected = sum(size for place, size in real.items() if place not in own)
        lora = {"lora": {"rank": rank}} if rank else {}
        estimated = sizes(
            privileged(str(tmp_path / "model"), kind, dtype=dtype, **lora), "copy weights", "copy averages"
        )
        assert sum(estimated) == pytest.approx(expected, rel=0.02), kind
        assert (expected == 0) == (rank > 0 and kind == "frozen")


def test_a_copy_scores_as_a_teacher_of_its_size_does(small: str) -> None:
    """Also one that takes no memory for its weights; and is checked at the start."""
    copied = privileged(small, "frozen", lora={"rank": 8}, update={"teacher_scoring": "step"})
    teacher = {"path": small, "device": "cpu", "dtype": "bfloat16"}
    other = config(small, student={"dtype": "bfloat16"}, teacher=teacher, update={"teacher_scoring": "step"})
    assert sizes(copied, "copy scoring", "copy parked") == sizes(other, "teacher scoring", "teacher parked")
    probe = ("probe keys and values", "probe draw")
    assert sizes(copied, *probe) == sizes(other, *probe)
    assert min(sizes(copied, "copy scoring", *probe)) > 0


def test_every_teacher_is_counted_and_the_largest_is_the_probe(tmp_path: Path, small: str) -> None:
    wide = write_config(tmp_path, {**NARROW, "hidden_size": 128}, vocab_size=4000, head_dim=256)
    several = {"math": {"path": wide, "device": "cpu"}, "a.b c": {"path": small, "device": "cpu"}}
    default = {"path": small, "device": "cpu"}
    settings = config(small, teacher=default, teachers=several)
    alone = {name: config(small, teacher=each) for name, each in (("small", default), ("wide", several["math"]))}
    for name, which in (("teacher", "small"), ("teacher math", "wide"), ("teacher a.b c", "small")):
        assert sizes(settings, f"{name} weights", f"{name} scoring") == sizes(
            alone[which], "teacher weights", "teacher scoring"
        )
    probe = ("probe keys and values", "probe draw")
    assert sizes(settings, *probe) == sizes(alone["wide"], *probe) != sizes(alone["small"], *probe)
    one_draw = [item.name for item in memory.estimate(settings).items if item.phase == "start"]
    assert sorted(one_draw) == sorted(probe)


def test_advice_for_several_teachers_names_each(small: str) -> None:
    teacher = {"path": small, "device": "cpu", "dtype": "float32", "tokens_per_forward": 65536}
    settings = config(small, teachers={"a.b c": teacher}, update={"prompts": 1, "samples": 2, "optimizer_steps": 1})
    advice = dict(verdict._alternatives(settings))
    assert advice["teachers.a.b c.dtype"] == "bfloat16"
    changed = verdict._changed(settings, "teachers.a.b c.dtype", "bfloat16")
    assert changed.teachers["a.b c"].dtype == "bfloat16"
    halved = [sizes(each, "teacher a.b c weights")[0] for each in (settings, changed)]
    assert halved[0] == 2 * halved[1]


def test_a_student_that_sleeps_is_awake_while_its_teacher_is_checked(small: str) -> None:
    """Its share stands beside the teacher's probe, and not beside what is learned."""
    student = {"engine": "vllm", "kv_cache_gib": 2.0, "vllm": {"sleep": True}}
    teacher = {"path": small, "device": "cpu"}
    plain, checked = config(small, student=student), config(small, student=student, teacher=teacher)
    unchecked = config(small, student=student, teacher=teacher, guards={"teacher_self_gap": 0.0})
    share = needed_bytes(checked, "sampling", names="student vLLM")
    assert share == needed_bytes(checked, "start", names="student vLLM") > 2 * GIB
    for settings in (plain, unchecked):
        assert needed_bytes(settings, "start") == 0
    probe = sum(sizes(checked, "probe keys and values", "probe draw"))
    always = needed_bytes(checked, "always")
    assert memory.estimate(checked).peak_bytes("cpu") >= always + share + probe
    assert needed_bytes(checked, "learning", names="student vLLM") == 0


def test_a_comparison_of_distributions_is_counted_where_there_is_one(small: str) -> None:
    teacher = {"path": small, "device": "cpu"}
    by_method = {name: config(small, method=name, teacher=teacher) for name in ("opd", "gkd")}
    names_of = {name: names(settings, "learning") for name, settings in by_method.items()}
    assert names_of["gkd"] - names_of["opd"] == {"teacher reading", "comparison"}
    by_kl = config(small, method="sod", teacher=teacher, weights={"divergence": "kl"})
    assert names(by_kl, "learning") == names_of["gkd"]


def test_eight_bits_take_a_quarter(small: str) -> None:
    full, eight = (config(small, optimizer={"kind": kind}) for kind in ("adamw", "adamw8bit"))
    share = needed_bytes(eight, "always", names="moments") / needed_bytes(full, "always", names="moments")
    assert 0.25 < share < 0.26


def item(phase: Phase, num_bytes: int, *, certain: bool = False) -> memory.Item:
    return memory.Item(name="i", device="cpu", num_bytes=num_bytes, phase=phase, certain=certain, what="")


def test_the_peak_is_that_of_the_greediest_phase() -> None:
    items = (item("always", 3), item("sampling", 5), item("learning", 3), item("learning", 1, certain=True))
    assert memory.Estimate(items=items, overlapping=False).peak_bytes("cpu") == 8
    assert memory.Estimate(items=items, overlapping=True).peak_bytes("cpu") == 12
    assert memory.Estimate(items=items, overlapping=False).peak_bytes("cpu", certain=True) == 1
    assert memory.Estimate(items=(*items, item("start", 9)), overlapping=False).peak_bytes("cpu") == 12


# ---- the check before a run


def there_are(monkeypatch: pytest.MonkeyPatch, num_bytes: int | None) -> None:
    monkeypatch.setattr(room, "available", lambda _device: num_bytes)


def test_what_fits_is_not_spoken_of(small: str) -> None:
    assert memory.check(config(small, update={"prompts": 1}, agent={"max_response_tokens": 64})) == ()


def test_what_is_certain_and_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(write_config(tmp_path, QWEN3_0_6B))
    there_are(monkeypatch, 8 * GIB)
    with pytest.raises(ModelError, match=r"cpu must hold 8\.9 GiB .* got 8\.0 GiB; .*lora\.rank = 32 saves 6\.\d GiB"):
        memory.check(settings)


def test_what_may_not_fit_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent, update = {"max_prompt_tokens": 64, "max_response_tokens": 960}, {"prompts": 1, "optimizer_steps": 1}
    settings = config(write_config(tmp_path, QWEN3_0_6B), agent=agent, update=update)
    there_are(monkeypatch, 10 * GIB)
    (warning,) = memory.check(settings)
    assert "cpu may run out of memory" in warning
    assert "update.gradient_checkpointing = true saves" in warning


def test_advice_saves_what_it_says(tmp_path: Path) -> None:
    update = {"prompts": 1, "optimizer_steps": 1}
    settings = config(write_config(tmp_path, QWEN3_0_6B), agent={"max_response_tokens": 960}, update=update)
    advice = {each.setting: each.saved_bytes for each in memory.advise(settings, "cpu")}
    changed = config(
        settings.student.path,
        agent={"max_response_tokens": 960},
        update={**update, "gradient_checkpointing": True},
    )
    saved = memory.estimate(settings).peak_bytes("cpu") - memory.estimate(changed).peak_bytes("cpu")
    assert advice["update.gradient_checkpointing = true"] == saved > GIB
    assert list(advice.values()) == sorted(advice.values(), reverse=True)


def test_where_memory_is_not_known_nothing_is_claimed(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, None)
    assert memory.check(config(small)) == ()


@pytest.mark.parametrize("content", [None, "{}", '{"model_type": "t5"}', '{"model_type": "qwen3", "hidden_size": "x"}'])
def test_what_cannot_be_estimated_is_a_warning(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content, encoding="utf-8")
    (warning,) = memory.check(config(str(tmp_path)))
    assert warning.startswith("memory was not estimated: ModelError")


# ---- what is there


def test_this_machine_has_memory() -> None:
    have = memory.available("cpu")
    assert have is not None
    assert (64 << 20) < have < (1 << 46)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_unknown() -> None:
    assert memory.available("cuda:0") is None


@pytest.mark.gpu
def test_a_gpu_has_memory() -> None:
    assert memory.available("cuda:0") == pytest.approx(torch.cuda.mem_get_info(0)[0], rel=0.1)


def group(folder: Path, files: tuple[str, str, str], *, limit: str, used: int, cache: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / files[0]).write_text(f"{limit}\n")
    (folder / files[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\n{files[2]} {cache}\n")


@pytest.mark.parametrize(
    ("line", "root", "files"),
    [
        ("0::/job/step", "", ("memory.max", "memory.current", "inactive_file")),
        ("4:cpu,memory:/job/step", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
    ids=["v2", "v1"],
)
def test_each_control_group_above_counts(tmp_path: Path, line: str, root: str, files: tuple[str, str, str]) -> None:
    mounted, membership = tmp_path / "cgroup", tmp_path / "self"
    membership.write_text(f"9:pids:/elsewhere\n{line}\n")
    group(mounted / root / "job" / "step", files, limit="max", used=5, cache=0)
    group(mounted / root / "job", files, limit="1000", used=700, cache=200)
    group(mounted / root, files, limit="9000", used=100, cache=0)
    assert list(room._cgroup_available(membership, mounted)) == [500, 8900]


def test_in_a_container_the_path_may_be_the_hosts(tmp_path: Path) -> None:
    files = ("memory.max", "memory.current", "inactive_file")
    (tmp_path / "self").write_text("0::/docker/123\n")
    group(tmp_path / "cgroup", files, limit="1000", used=1200, cache=100)
    assert list(room._cgroup_available(tmp_path / "self", tmp_path / "cgroup")) == [0]
    assert list(room._cgroup_available(tmp_path / "none", tmp_path / "cgroup")) == []


# ---- the command


def sod_memory(folder: Path, path: str, *overrides: str) -> Result:
    (folder / "run.toml").write_text(
        f'run = "r"\nmethod = "grpo"\n[student]\npath = "{path}"\ndevice = "cpu"\n[data]\npath = "d"\n',
        encoding="utf-8",
    )
    return CliRunner().invoke(cli.app, ["memory", str(folder / "run.toml"), *overrides])


def test_the_command_shows_every_item(tmp_path: Path, small: str) -> None:
    result = sod_memory(tmp_path, small, "update.prompts=1", "agent.max_response_tokens=64")
    assert result.exit_code == 0, result.output
    assert "moments" in result.output
    assert result.output.splitlines()[-1].startswith("cpu: ")
    assert result.output.splitlines()[-1].endswith(": fits")


def test_the_command_says_what_would_help(tmp_path: Path, small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there_are(monkeypatch, 1 << 20)
    result = sod_memory(tmp_path, small)
    assert result.exit_code == 1
    assert "does not fit" in result.output
    assert "lora.rank = 32 saves" in result.output


def test_the_command_needs_a_model(tmp_path: Path) -> None:
    result = sod_memory(tmp_path, str(tmp_path / "gone"))
    assert result.exit_code == 2
    assert "must have a config" in result.output

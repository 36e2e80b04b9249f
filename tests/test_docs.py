"""The documentation: the site builds strictly and needs nothing from elsewhere, its references name all there is, and
every block of docs/ and README.md is run, or read by the real command line with its real config.

A block is one of these, and what is none of them fails:

    ```bash, or bare with a command in front   its commands, by CHECKS and by what `Page.sod` says
    ```toml title="run.toml"                   loads as a config; with a title it is the file that commands name
    ```python                                  runs; `expression  # literal` must be equal
    ```json title="problems.jsonl"             parses, line by line
    <!-- not run: needs vLLM --> above it      is left alone, for a reason out of REASONS
    bare, without a command in front           a picture or an output

A page is a story: its blocks share a directory, in which the repository's folders are, and its Python shares names.
"""

from __future__ import annotations

import ast
import asyncio
import html
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

import pytest
from typer.main import get_command

import sod.config
from sod import cli
from sod.config import EvalConfig, HintsConfig, SFTConfig, TracesConfig, TrainConfig, parse
from sod.errors import ConfigError

ROOT = Path(__file__).parents[1]
SITE_SCRIPTS = ROOT / "scripts" / "site"
sys.path.insert(0, str(SITE_SCRIPTS))
from commands import commands  # noqa: E402
from fences import Fence, fences, outside  # noqa: E402
from github_markdown import on_page_markdown  # noqa: E402

sys.path.remove(str(SITE_SCRIPTS))

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
REASONS = {
    "needs vLLM",
    "needs a GPU",
    "needs the network",
    "needs the environment that make sets up",
    "is the tracker's own",
}
FOLDERS = ("benchmarks", "dev", "docs", "examples", "scripts", "src", "tests")
STAND_INS = {"README.md": {"sft.toml": "examples/qwen3_0.6b/sft.toml"}}
"""Files that a page names and does not show."""
PRELUDES = {
    "README.md": """
import torch
mask_BT = torch.tensor([[0, 1, 1, 0, 1], [0, 1, 1, 1, 1]])
reward_B, group_B = torch.tensor([1.0, 0.0]), torch.tensor([0, 0])
logprobs_BT = torch.full((2, 5), -0.5, requires_grad=True)
student_logprobs_BT, teacher_logprobs_BT = torch.full((2, 5), -0.5), torch.full((2, 5), -0.7)
""",
    "docs/sandbox.md": "from sod.sandbox import LocalSandbox",
}
"""What a page's Python takes for granted."""


# ---- the site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert built.returncode == 0, built.stderr
    return target


class Loads(HTMLParser):
    """Addresses that a browser fetches by itself when it shows a page; not what a reader may click."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = ("src", "srcset", "data", "poster") if tag != "a" else ()
        self.found += [value or "" for name, value in attrs if name in names or (tag == "link" and name == "href")]


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found, f"{page}: no style sheet, no script?"
        assert [each for each in loads.found if re.match(r"(\w+:)?//", each)] == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_the_drawing_is_in_the_page_and_says_what_it_shows(site: Path) -> None:
    page = (site / "concepts.html").read_text(encoding="utf-8")
    assert '<svg class="pl"' in page
    for element in re.findall(r'aria-labelledby="(pl-[^"]+)"', page)[0].split():
        assert re.search(rf'id="{element}">[^<]{{20}}', page), element
    assert page.count('<math display="block">') == 5


# ---- the references name all there is

ROOTS = {"train": TrainConfig, "sft": SFTConfig, "eval": EvalConfig, "hints": HintsConfig, "traces": TracesConfig}


@dataclass(frozen=True)
class Written:
    """One section of the reference: where it stands, its keys, all its text."""

    places: frozenset[tuple[str, str]]
    keys: frozenset[str]
    text: str


def test_every_setting_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "configuration.html").read_text(encoding="utf-8")
    sections = [_section(block) for block in re.split(r"(?=<h[23] )", page)[1:] if 'id="' in block]
    by_place = {place: section for section in sections for place in section.places}
    wanted = [(command, *each) for command, kind in ROOTS.items() for each in _settings(kind.model_json_schema())]
    assert len(wanted) > 300
    for command, name, key, sentence in wanted:
        section = by_place.get((command, name))
        assert section is not None, f"sod {command}: [{name}] is not in the reference"
        assert key in section.keys, f"sod {command}: {name}.{key} is not in the reference"
        assert sentence in section.text, f"sod {command}: {name}.{key} is not told as its docstring tells it"


def _section(block: str) -> Written:
    heading, _, rest = block.partition("</h")
    first = re.search(r'id="(?:sod-)?(\w+)', heading)
    assert first is not None
    places = {(first[1], "")} if "<h2" in heading else {(first[1], re.findall(r"\[([\w.]+)\]", heading)[0])}
    standing = re.search(r"Stands at: (.*?)</p>", rest, re.DOTALL)
    for part in standing[1].split(";") if standing else ():
        command = re.findall(r"<code>sod (\w+)</code>", part)[0]
        places |= {(command, name) for name in re.findall(r"\[([\w.]+)\]", part)}
    return Written(frozenset(places), frozenset(re.findall(r'<a id="[\w.]+?(\w+)"></a>', rest)), _plain(rest))


def _plain(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", markup)).split())


def _settings(schema: Mapping[str, Any], name: str = "", top: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """(section, key, sentence) of every setting, from the JSON schema that pydantic makes of a config."""
    top = top or schema
    for key, value in schema["properties"].items():
        sections = [(top["$defs"][to.rpartition("/")[2]], suffix) for to, suffix in _references(value)]
        told = value.get("description") or sections[0][0]["description"]  # pydantic says the same sentence once
        yield name, key, " ".join(told.replace("`", "").split())
        for inner, suffix in sections:
            if "properties" in inner and (key, suffix) != ("benchmarks", ""):
                yield from _settings(inner, ".".join(filter(None, (name, key + suffix))), top)


def _references(value: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if "$ref" in value:
        yield value["$ref"], ""
    for each in value.get("anyOf", ()):
        yield from _references(each)
    if isinstance(value.get("additionalProperties"), dict):
        yield from ((reference, ".NAME") for reference, _ in _references(value["additionalProperties"]))


def test_every_command_is_in_the_reference(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    known = dict(commands())
    assert {"train", "eval", "sandbox check"} <= known.keys()
    blocks = {html.unescape(block.split('"')[0]): _plain(block) for block in page.split('<h2 id="sod-')[1:]}
    for name, command in known.items():
        told = blocks[name.replace(" ", "-")]
        for parameter in command.params:
            assert (parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or "") in told
            assert " ".join((parameter.help or "").replace("`", "").split()) in told, f"sod {name}: {parameter.name}"


def test_public_names_are_in_the_reference(site: Path) -> None:
    import sod.algorithm
    import sod.models
    import sod.sandbox

    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference" / "api").glob("*.html"))
    for module in (sod.algorithm, sod.models, sod.sandbox, sod.config.reading):
        names = getattr(module, "__all__", ["load", "parse", "dump", "overridden"])
        for name in names:
            if not (isinstance(getattr(module, name), type) or inspect.isroutine(getattr(module, name))):
                continue  # a type's alias has no docstring, and is told where it is used
            assert f'id="{module.__name__}.{name}"' in text, f"{module.__name__}.{name}"


def test_lists_and_tables_begin_where_github_lets_them(tmp_path: Path) -> None:
    page, config = SimpleNamespace(file=SimpleNamespace(src_uri="page.md")), {"docs_dir": str(tmp_path)}
    written = "Text:\n- one\n  more\n- two\n\nText:\n| a |\n|---|\n```\ntext\n- no list\n```"
    wanted = "Text:\n\n- one\n  more\n- two\n\nText:\n\n| a |\n|---|\n```\ntext\n- no list\n```"
    assert on_page_markdown(written, page=page, config=config) == wanted
    assert (
        "needs vLLM" in on_page_markdown("<!-- not run: needs vLLM -->", page=page, config=config).partition("<p ")[2]
    )


# ---- every block


class LoadedError(Exception):
    """The command line and its config were read: the command need not go on."""


@dataclass
class Page:
    """One page: its directory, and what its Python has defined."""

    name: str
    directory: Path
    monkeypatch: pytest.MonkeyPatch
    names: dict[str, Any] = field(default_factory=dict)

    def take(self, fence: Fence) -> None:
        """Run or read one block."""
        kind = {"sh": "bash", "jsonl": "json", "": "bash" if _is_command(fence.text) else "text"}
        getattr(self, f"_{kind.get(fence.language, fence.language)}", self._unknown)(fence)

    def _unknown(self, fence: Fence) -> None:
        pytest.fail(f"a block must be bash, toml, python, json or text, got {fence.language}")

    def _text(self, fence: Fence) -> None:
        known = "|".join(name.split()[0] for name, _ in commands())
        assert not re.search(rf"^[$ ]*sod ({known})\b", fence.text, re.MULTILINE), "commands belong into ```bash"

    def _json(self, fence: Fence) -> None:
        for line in fence.text.splitlines():
            json.loads(line)
        self._write(fence.title, fence.text)

    def _toml(self, fence: Fence) -> None:
        values = tomllib.loads(fence.text)
        named = re.match(r"# (\S+\.toml):", fence.text)
        self._write(fence.title or (named[1] if named else "run.toml" if "run" in values else ""), fence.text)
        faults = [fault for kind, base in BASES if (fault := _fault(kind, _merged(base, values)))]
        assert len(faults) < len(BASES), "\n".join(faults)

    def _python(self, fence: Fence) -> None:
        self._write(fence.title, fence.text)
        for code, expected in _statements(fence.text):
            value = eval(code, self.names)
            value = asyncio.run(value) if inspect.iscoroutine(value) else value
            assert not expected or value == ast.literal_eval(expected), f"{value!r} must be {expected}"

    def _bash(self, fence: Fence) -> None:
        for words in _called(fence.text):
            assert words[0] in CHECKS or words[0] == "sod", f"{words[0]}: no check; add one or say why it is not run"
            for word in words[1:]:
                _check_path(word)
            if words[0] == "sod":
                self.sod(words[1:])
            else:
                CHECKS[words[0]](words[1:])

    def _write(self, name: str, text: str) -> None:
        if name:
            (self.directory / name).write_text(text, encoding="utf-8")

    def sod(self, words: Sequence[str]) -> None:
        """A command of ours: for real where it is cheap, else up to the point where its config is read, or, without
        one, its words."""
        group, name = get_command(cli.app), " ".join(words[:2]) if words[0] == "sandbox" else words[0]
        command = dict(commands_of(group))[name]
        if not _is_cheap(words) and name in CONFIGURED:
            self.monkeypatch.setattr(sod.config, "load", _loading(sod.config.reading.load))
            self.monkeypatch.setattr(cli, "_regrade", _only_read)
        elif not _is_cheap(words):
            command.callback = _only_read
        try:
            code = group.main(list(words), standalone_mode=False)
            assert _is_cheap(words), f"sod {name} must have read its config and stopped"
            assert not code
        except LoadedError:
            pass
        finally:
            self.monkeypatch.setattr(sod.config, "load", sod.config.reading.load)


CONFIGURED = {"train", "memory", "sft", "hints", "eval", "traces", "sandbox serve"}
"""Commands that read a config before they do anything. All others are read only, but for what is cheap."""


def commands_of(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield from commands_of(command, f"{name} ") if hasattr(command, "commands") else [(f"{prefix}{name}", command)]


def _is_cheap(words: Sequence[str]) -> bool:
    """What is run for real: the list of methods, and traces of files that the page shows."""
    return words[0] == "methods" or (words[0] == "traces" and Path(words[1]).exists())


def _loading(load: Callable[..., Any]) -> Callable[..., Any]:
    def stop(*args: Any, **kwargs: Any) -> None:
        load(*args, **kwargs)
        raise LoadedError

    return stop


def _only_read(*_: Any, **__: Any) -> None:
    raise LoadedError


def _is_command(text: str) -> bool:
    words = text.split()
    return bool(words) and (words[0] in CHECKS or (words[0] == "sod" and len(words) > 1 and words[1].isalpha()))


@pytest.mark.parametrize("name", PAGES)
def test_every_block_does_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).symlink_to(ROOT / folder)
    for file, stand_in in STAND_INS.get(name, {}).items():
        (tmp_path / file).symlink_to(ROOT / stand_in)
    monkeypatch.chdir(tmp_path)
    page = Page(name=name, directory=tmp_path, monkeypatch=monkeypatch)
    exec(PRELUDES.get(name, ""), page.names)
    for fence in fences((ROOT / name).read_text(encoding="utf-8")):
        assert not fence.not_run or fence.not_run in REASONS, (
            f"{name}, line {fence.line}: {fence.not_run!r} is no reason"
        )
        try:
            if not fence.not_run:
                page.take(fence)
        except BaseException as error:
            error.add_note(f"{name}, the block at line {fence.line}:\n{fence.text}")
            raise
    if name == "docs/howto/data.md":
        assert (tmp_path / "traces.jsonl").read_text(encoding="utf-8").count("\n") == 1


def test_the_first_run_of_ones_own_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of getting-started.md for real, smaller by overrides."""
    from sod.demo.story import Place, Scale, write_problems

    (tmp_path / "src").symlink_to(ROOT / "src")
    monkeypatch.chdir(tmp_path)
    write_problems(Place(directory=Path("runs/demo"), seed=0, scale=Scale(num_test=4)))
    blocks = fences((ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8"))
    Path("first.toml").write_text(next(block.text for block in blocks if block.title == "first.toml"))
    called = [words[1:] for words in _called(next(block.text for block in blocks if "sod memory" in block.text))]
    smaller = {
        "train": ["update.num_updates=1", "update.prompts=2", "update.samples=2", "update.optimizer_steps=1"],
        "eval": ["limit=2", "samples=1", "model.path=runs/first/checkpoints/update-000001/model"],
    }
    for words in called:
        if words[0] != "compare":  # with the demo's own evaluation, which is not made here
            assert not get_command(cli.app).main([*words, *smaller.get(words[0], [])], standalone_mode=False)
    assert json.loads(Path("runs/first/metrics.jsonl").read_text().splitlines()[0])["divergence"] > 0
    assert json.loads(Path("runs/first-eval/evaluation.json").read_text())["complete"]
    assert any(Path("runs/first/report").iterdir())


def test_figures_of_when_sod_hurts_are_those_of_the_results() -> None:
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    seen = (ROOT / "docs" / "howto" / "when-sod-hurts.md").read_text(encoding="utf-8").partition("## How it shows")[0]
    rows = [line for line in seen.splitlines() if line.startswith("|") and "reported by others" not in line]
    figures = {
        figure
        for line in rows
        for figure in re.findall(r"[-+]?\d+(?:\.\d+)?(?= %| points| to [-+\d.]+ points| right)", line)
    }
    assert len(figures) > 3
    assert {figure for figure in figures if figure not in results} == set()


@pytest.mark.parametrize("name", PAGES)
def test_commands_within_a_sentence_exist(name: str) -> None:
    known = dict(commands())
    prose = "\n".join(line for line, is_prose in outside((ROOT / name).read_text(encoding="utf-8")) if is_prose)
    for span in re.findall(r"`sod ([^`]+)`", prose.replace("\n", " ")):
        words = span.split()
        command = known.get(" ".join(words[:2])) or known.get(words[0])
        if command is None:
            assert words[0].isupper() or words[0] in ("sandbox", "--help") or "|" in words, f"sod {span}"
            continue
        options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        assert {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} <= options, f"sod {span}"


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ("```bash\nsod train run.toml optimizer.lrr=1\n```", "optimizer.lr"),
        ("```bash\nsod eval --modell x\n```", "--model"),
        ("```bash\nsod report\n```", "Missing"),
        ("```bash\nsod train missing.toml\n```", "missing.toml"),
        ("```bash\nsod train examples/none.toml\n```", "examples/none.toml"),
        ("```bash\nsod compare runs/demo/seed-0/sod runs/demo/seed-0/best\n```", "runs/demo/seed-0/best"),
        ("```bash\nsod eval --model runs/a/checkpoints/update-12/model --out a --benchmark b\n```", "update-12"),
        ("```bash\npython examples/miniature/study.py --lst\n```", "--lst"),
        ("```bash\nmake dmo\n```", "dmo"),
        ('```bash\npip install "sod-distill[vlm]"\n```', "vlm"),
        ("```bash\nnvidia-smi\n```", "nvidia-smi"),
        ("```\n$ sod train run.toml\n```", "belong into"),
        ("```toml\nmehtod = 1\n```", "mehtod"),
        ("```python\n1 + 1  # 3\n```", "must be 3"),
        ("```json\n{\n```", "Expecting"),
        ("```ruby\nputs 1\n```", "ruby"),
    ],
)
def test_a_wrong_block_is_found(
    block: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text('run = "r"\nmethod = "grpo"\nstudent.path = "s"\ndata.path = "d"\n')
    page = Page(name="made up", directory=tmp_path, monkeypatch=monkeypatch)
    with pytest.raises(BaseException) as caught:  # noqa: PT011  # a failure, a refusal of typer, an exit of the command
        page.take(fences(block)[0])
    assert complaint in f"{caught.value} {capfd.readouterr().err}"


# ---- shell


RECORD = """
record() { printf '%s\\0' "$#" "$@" >> "$CALLS"; }
command_not_found_handle() { record "$@"; }
for name in sod make python pip bash hf source .; do eval "$name() { record $name \\"\\$@\\"; }"; done
"""


def _called(block: str) -> list[list[str]]:
    """The commands of a block with their words, after the shell has read quotes, loops and comments; none is run."""
    calls = Path("calls").absolute()
    calls.unlink(missing_ok=True)
    environment = {"PATH": "", "CALLS": str(calls), "SOD_DATA_DIR": "data", "HOME": "/nowhere"}
    shell = subprocess.run(
        ["/bin/bash", "-eu", "-c", RECORD + block], env=environment, capture_output=True, text=True, timeout=60
    )
    assert shell.returncode == 0, shell.stderr
    words = iter(calls.read_text(encoding="utf-8").split("\0")[:-1])
    return [[next(words) for _ in range(int(count))] for count in words]


def _check_path(word: str) -> None:
    """What stands in the repository is there, what the demo leaves is what the demo leaves, and checkpoints have the
    names that they are given."""
    path = word.rpartition("=")[2]
    if path.split("/")[0] in FOLDERS and "*" not in path:
        assert (ROOT / path).exists(), f"{path} is not in the repository"
    if path.startswith("runs/demo/"):
        assert path in _left_by_the_demo(), f"the demo leaves no {path}"
    if "/checkpoints/" in path:
        assert re.search(r"/checkpoints/(update-\d{6}|final)/model$", path), f"{path}: no checkpoint has this name"


def _left_by_the_demo() -> set[str]:
    from sod.demo.story import METHODS, Place, Scale

    place = Place(directory=Path("runs/demo"), seed=0, scale=Scale())
    runs = [place.run(name) for name in (*METHODS, "report")]
    evaluations = [place.evaluation(name) for name in ("start", *METHODS)]
    return {str(path) for path in (*runs, *evaluations, "runs/demo/data/train.jsonl", "runs/demo/data/test.jsonl")}


def _check_make(words: Sequence[str]) -> None:
    """Targets and variables that the Makefile or the set-up knows."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    setup = makefile + (ROOT / "scripts" / "setup.sh").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        known = rf"\$[({{]?{name}\b" if is_variable else rf"^{name}:"
        assert re.search(known, setup if is_variable else makefile, re.MULTILINE), f"make knows no {name}"


def _check_python(words: Sequence[str]) -> None:
    """A script of the repository and the flags that its source names; or `-m pytest FILE`."""
    script = words[2] if words[0] == "-m" else words[0]
    assert words[0] != "-m" or words[1] == "pytest", f"python -m {words[1]}: no check"
    strings = {
        node.value
        for node in ast.walk(ast.parse((ROOT / script).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    unknown = [word for word in words[1:] if word.startswith("--") and word not in strings and words[0] != "-m"]
    assert not unknown, f"{script} has no {unknown}"


def _check_pip(words: Sequence[str]) -> None:
    """Our own distribution with extras that there are."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert words[0] == "install"
    for word in words[1:]:
        wanted = re.fullmatch(r"(?:sod-distill|\.)(?:\[([\w,-]+)\])?", word)
        assert wanted, f"pip install {word}: no check; say why it is not run"
        assert set((wanted[1] or "report").split(",")) <= extras.keys(), f"{word}: extras are {', '.join(extras)}"


CHECKS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "make": _check_make,
    "python": _check_python,
    "pip": _check_pip,
    "bash": lambda words: _check_path(words[0]),
    "for": lambda _: None,
}


# ---- TOML and Python

_MODELS = {"student": {"path": "student"}, "teacher": {"path": "teacher"}}
BASES: Sequence[tuple[type[sod.config.Section], Mapping[str, Any]]] = [
    (TrainConfig, {"run": "run", "data": {"path": "problems.jsonl"}, **_MODELS}),
    (TrainConfig, {"run": "run", "data": {"path": "problems.jsonl"}, "student": {"path": "student"}}),
    (SFTConfig, {"run": "run", "traces": "traces.jsonl", "student": {"path": "student"}}),
    (EvalConfig, {"run": "run", "benchmarks": ["aime24"], "model": {"path": "model"}}),
    (HintsConfig, {"out": "hints.jsonl", "data": {"path": "problems.jsonl"}, "model": {"path": "model"}}),
]
"""What a part of a config is put into: it must fit one of them."""


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    merged = deepcopy(dict(base))
    for key, value in values.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _fault(kind: type[sod.config.Section], values: Mapping[str, Any]) -> str:
    try:
        parse(kind, values)
    except ConfigError as error:
        return f"{kind.__name__}: {error}"
    return ""


def _statements(text: str) -> Iterator[tuple[CodeType, str]]:
    """Each statement compiled, and the literal in the comment behind an expression: `1 + 1  # 2`; "" for none."""
    comments = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr):
            expected = comments.get(statement.end_lineno or 0, "")
            expression = ast.Expression(statement.value)
            yield (
                compile(expression, "page", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT),
                expected if _is_literal(expected) else "",
            )
        else:
            module = ast.Module([statement], [])
            yield compile(module, "page", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), ""


def _is_literal(text: str) -> bool:
    try:
        ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return False
    return True

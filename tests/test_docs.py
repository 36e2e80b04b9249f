"""Every block of docs/ and README.md is run, or read by the real command line with its real config (page_blocks.py).

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

import json
import re
from pathlib import Path

import pytest
from typer.main import get_command

from page_blocks import FOLDERS, Page, called
from site_scripts import ROOT, commands, fences, outside
from sod import cli

PAGES = ["README.md", *sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
REASONS = {
    "needs vLLM",
    "needs a GPU",
    "needs the network",
    "needs the environment that make sets up",
    "is the tracker's own",
}
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
    commanded = [words[1:] for words in called(next(block.text for block in blocks if "sod memory" in block.text))]
    smaller = {
        "train": ["update.num_updates=1", "update.prompts=2", "update.samples=2", "update.optimizer_steps=1"],
        "eval": ["limit=2", "samples=1", "model.path=runs/first/checkpoints/update-000001/model"],
    }
    for words in commanded:
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

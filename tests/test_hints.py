r"""Hints from reference solutions: they never hold the answer, and a file that was begun is continued."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.chat import Chat
from sod.config import DataConfig
from sod.config.teaching import HintsConfig
from sod.data import load_problems
from sod.errors import DataError, StorageError
from sod.hints import ATTEMPTS, HintWriter, leaks, make_hints, row_of
from sod.models.scripted import ScriptedSampler
from sod.types import Problem

STOP = "<|im_end|>"
PROBLEM = Problem(
    id="p",
    messages=({"role": "user", "content": "What is 3 times 4?"},),
    answer="12",
    solution="Three times four is {12}: <b>.",
)


def answered(answer: str, *, grader: str = "math", **fields: Any) -> Problem:
    return Problem(id="p", messages=PROBLEM.messages, answer=answer, grader=grader, **fields)


# ---- what gives the answer away


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("12", "You get 12."),
        ("12", "You get 12, then stop"),
        ("12", "it costs $12.00"),
        ("12", "It is twelve in the end."),
        ("12", "Work out 3 * 4."),
        ("12", "Work out 3 \N{MULTIPLICATION SIGN} 4."),
        ("12", "So $x = 12$ follows."),
        ("12", "\\[ 24/2 = x \\]"),
        ("12", "Put it in \\boxed{}."),
        ("1200", "about 1,200 of them"),
        ("-3", "which gives -3."),
        ("1/2", "Half of it, \\(\\frac{1}{2}\\)."),
        ("0.5", "that is \\frac12 or 50%"),
        ("\\frac{3}{4}", "the share is 3/4 then"),
        ("x^2+1", "Show that it is x^2 + 1 first."),
        ("x^2+1", "Show that $f(x) = 1 + x^2$."),
        ("\\text{Evelyn}", "Think of what evelyn runs."),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "It is at $(3, \\pi/2)$."),
        ("(3,4)", "Go to ( 3, 4 )."),
        ("\\sqrt{2}", "It is \\sqrt{2} long."),
    ],
)
def test_the_answer_is_found_in_whatever_form(answer: str, hint: str) -> None:
    assert leaks(hint, answered(answer))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ("12", "Multiply the number of rows by what is in each."),
        ("12", "In 120 or 3.12 or 112 steps."),
        ("12", "One of the numbers comes first; add 3 and 4."),
        ("1", "One of them comes first."),
        ("3", "Mind the sign: -4 is one of them."),
        ("x", "Think of the maximum of the box."),
        ("\\text{even}", "It never happens, evenly speaking."),
        ("x^2+1", "Consider $f(x) = x^2$ and \\alpha."),
        ("12", ""),
    ],
)
def test_what_only_looks_like_it_is_no_leak(answer: str, hint: str) -> None:
    assert not leaks(hint, answered(answer))


def test_choices_and_code() -> None:
    choice = answered("C", grader="choice", metadata={"choices": ["up", "down", "a charm quark", "top"]})
    for hint in ("It must be (C).", "Option C looks good", "Answer: C", "Recall the A charm  quark.", "not A) but C)"):
        assert leaks(hint, choice), hint
    for hint in ("Compare their masses.", "Rule out (B) first."):
        assert not leaks(hint, choice), hint
    code = answered('{"inputs": []}', grader="code")
    assert leaks("```python\nprint(1)\n```", code)
    assert leaks("Write\ndef f(x):", code)
    assert not leaks("Sort first, then define two pointers.", code)


@pytest.mark.data
@pytest.mark.parametrize(("name", "limit"), [("gsm8k/train.jsonl", 200), ("math/math500.jsonl", 200)])
def test_every_reference_solution_is_found_to_state_its_answer(data_dir: Path, name: str, limit: int) -> None:
    """Without the last line of GSM8K and the box of MATH, which would be too easy."""
    problems = load_problems(DataConfig(path=str(data_dir / name), limit=limit))
    texts = [problem.solution.partition("####")[0].replace("\\boxed", "") for problem in problems]
    missed = [problem.id for problem, text in zip(problems, texts, strict=True) if not leaks(text, problem)]
    assert missed == []


# ---- asking a model


@pytest.fixture
def writer(tokenizer: Any) -> Callable[..., HintWriter]:
    """`writer(["first text", "second text"])`: a scripted model."""

    def make(texts: Sequence[str], *, max_length: int | None = None, **settings: Any) -> HintWriter:
        config = HintsConfig(data=DataConfig(path="x"), out="x.jsonl", model={"path": "m"}, **settings)
        replies = {
            f"hint/p/{attempt}": [tokenizer.encode(text, add_special_tokens=False)]
            for attempt, text in enumerate(texts)
        }
        return HintWriter(config=config, sampler=ScriptedSampler(replies), chat=Chat(tokenizer), max_length=max_length)

    return make


def asked(writer: HintWriter) -> list[str]:
    assert isinstance(writer.sampler, ScriptedSampler)
    return [writer.chat.text(call.token_ids) for call in writer.sampler.calls]


def test_a_good_hint_is_taken_at_once(writer: Callable[..., HintWriter]) -> None:
    one = writer([f" Multiply. {STOP}"])
    hint = asyncio.run(one.write(PROBLEM))
    assert (hint.text, hint.fault) == ("Multiply.", "")
    (request,) = asked(one)
    assert "What is 3 times 4?" in request
    assert PROBLEM.solution in request
    assert "turned down" not in request
    assert isinstance(one.sampler, ScriptedSampler)
    assert one.sampler.released == ["hint/p/0"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"It is 12.{STOP}", "stated the final answer"),
        (f"  {STOP}", "was empty"),
        (f"<think>I think{STOP}", "held tags or control tokens"),
        (f"a <tool_call> b{STOP}", "held tags or control tokens"),
        ("word " * 30, "was too long"),
    ],
)
def test_a_bad_hint_is_asked_for_once_more_and_told_why(
    writer: Callable[..., HintWriter], text: str, fault: str
) -> None:
    better = writer([text, f"Multiply.{STOP}"], max_tokens=20)
    assert asyncio.run(better.write(PROBLEM)).text == "Multiply."
    first, second = asked(better)
    assert f"turned down because it {fault}" in second
    assert "12." not in second.replace(PROBLEM.solution, ""), "the refused hint is not shown again"
    assert first.removesuffix(f"{STOP}\n<|im_start|>assistant\n") in second
    worse = writer([text, text], max_tokens=20)
    hint = asyncio.run(worse.write(PROBLEM))
    assert (hint.text, hint.fault) == ("", fault)
    assert len(asked(worse)) == ATTEMPTS == 2


def test_thoughts_are_no_part_of_the_hint(writer: Callable[..., HintWriter]) -> None:
    hint = asyncio.run(writer([f"<think>It is 12.</think>\nMultiply.{STOP}"], thinking=True).write(PROBLEM))
    assert hint.text == "Multiply."


def test_what_cannot_be_asked_is_not_asked(writer: Callable[..., HintWriter]) -> None:
    small = writer([], max_length=600)
    assert "too long for the model" in asyncio.run(small.write(PROBLEM)).fault
    assert "no solution" in asyncio.run(small.write(answered("12"))).fault
    assert asked(small) == []


# ---- the whole command, with a real model


QUESTIONS = [
    {"question": f"What is {n}+{n}?", "answer": str(2 * n), "solution": f"Twice {n}.", "level": n}
    for n in range(40, 46)
]


@pytest.fixture
def config(tmp_path: Path, model_dir: Path) -> HintsConfig:
    data = tmp_path / "sums.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    return HintsConfig(
        data={"path": str(data)},
        out=str(tmp_path / "made" / "hints.jsonl"),
        model={"path": str(model_dir)},
        max_tokens=24,
        max_concurrent=2,
    )


def test_rows_read_back_as_the_problems_with_their_hints(config: HintsConfig) -> None:
    seen: list[tuple[int, int]] = []
    count = asyncio.run(make_hints(config, on_progress=lambda done, total: seen.append((done, total))))
    assert seen == [(done, 6) for done in range(1, 7)]
    assert count.written + sum(count.without.values()) == 6
    problems, again = load_problems(config.data), load_problems(DataConfig(path=config.out))
    for before, after in zip(problems, again, strict=True):
        assert (after.id, after.messages, after.answer, after.source) == (
            before.id,
            before.messages,
            before.answer,
            before.source,
        )
        assert (after.solution, after.metadata) == (before.solution, before.metadata)
        assert not after.hint or not leaks(after.hint, after)
    assert sum(bool(problem.hint) for problem in again) == count.written


def begun(config: HintsConfig, *hints: str, end: str = "") -> Path:
    """A file that an earlier session left."""
    path = Path(config.out)
    path.parent.mkdir(exist_ok=True)
    rows = [row_of(problem, hint=hint) for problem, hint in zip(load_problems(config.data), hints, strict=False)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + end, encoding="utf-8")
    return path


@pytest.mark.parametrize("end", ["", '{"id": "sums-3", "mess'])
def test_a_file_that_was_begun_is_continued(config: HintsConfig, end: str) -> None:
    path = begun(config, "Add.", "", end=end)
    before = path.read_text().removesuffix(end)
    seen: list[int] = []
    count = asyncio.run(make_hints(config, on_progress=lambda done, _total: seen.append(done)))
    assert seen == [3, 4, 5, 6]
    assert path.read_text().startswith(before)
    assert [problem.id for problem in load_problems(DataConfig(path=str(path)))] == [f"sums-{n}" for n in range(1, 7)]
    assert count.without["nothing usable in an earlier session"] == 1
    assert count.written + sum(count.without.values()) == 6
    whole = path.read_bytes()
    assert asyncio.run(make_hints(config)).written == count.written
    assert path.read_bytes() == whole, "what is finished is left as it is"


def test_a_file_of_other_rows_is_left_alone(config: HintsConfig) -> None:
    path = begun(config, *["Add."] * 6)
    fewer = config.model_copy(update={"data": config.data.model_copy(update={"limit": 3})})
    with pytest.raises(DataError, match="got another as row 4"):
        asyncio.run(make_hints(fewer))
    other = path.read_text().replace("Twice 41", "Thrice 41")
    path.write_text(other)
    with pytest.raises(DataError, match="first rows of these problems with their hints, got another as row 2"):
        asyncio.run(make_hints(config))
    assert path.read_text() == other


@pytest.mark.parametrize(
    "text",
    [
        '{"only": "row, and no end of its line"}',
        '{"id": "a"}\n{"id": "b"}',
        "a text\n",
        "[1]\n",
        "\udcff\n",
        "x",
        '{"id": "sums-2", "mess',
    ],
)
def test_a_file_that_is_not_ours_keeps_every_byte(config: HintsConfig, text: str) -> None:
    """Also one without a last line end, which looks like a row that was cut short."""
    path = begun(config)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="got another as row 1; was the data changed"):
        asyncio.run(make_hints(config))
    assert path.read_bytes() == text.encode(errors="surrogateescape")


@pytest.mark.parametrize("length", [1, 60, -1])
def test_a_first_row_that_was_cut_short_is_written_anew(config: HintsConfig, length: int) -> None:
    path = begun(config, "Add.")
    path.write_text(path.read_text()[:length])
    asyncio.run(make_hints(config))
    assert len(load_problems(DataConfig(path=str(path)))) == 6


def test_the_problems_themselves_are_never_written_over(config: HintsConfig, tmp_path: Path) -> None:
    (tmp_path / "link.jsonl").symlink_to(config.data.path)
    for out in (config.data.path, str(tmp_path / "made" / ".." / "sums.jsonl"), str(tmp_path / "link.jsonl")):
        with pytest.raises(ValueError, match=r"out must be another file than data\.path"):
            HintsConfig(data=config.data, out=out, model=config.model)


def test_hints_are_for_training_and_need_solutions(config: HintsConfig, tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    bare.write_text(json.dumps({"question": "Q", "answer": "5"}) + "\n")
    with pytest.raises(DataError, match="must have solutions"):
        asyncio.run(make_hints(config.model_copy(update={"data": DataConfig(path=str(bare))})))
    private = tmp_path / "private.jsonl"
    private.write_text(json.dumps({"problem": "Q", "solution": "B", "domain": "physics"}) + "\n")
    with pytest.raises(DataError, match="must not be written down"):
        asyncio.run(make_hints(config.model_copy(update={"data": DataConfig(path=str(private), format="gpqa")})))
    with pytest.raises(ValueError, match="is a test set"):
        HintsConfig(data={"benchmark": "aime24"}, out="x.jsonl", model={"path": "m"})
    with pytest.raises(ValueError, match="must end with"):
        HintsConfig(data={"path": "x"}, out="x.json", model={"path": "m"})
    with pytest.raises(StorageError, match="can be written"):
        asyncio.run(make_hints(config.model_copy(update={"out": str(bare / "x.jsonl")})))


@pytest.mark.parametrize("grader", ["math", "choice", "code"])
def test_rows_of_every_kind_come_back(tmp_path: Path, grader: str) -> None:
    answers: dict[str, Any] = {"math": "5", "choice": "C", "code": {"inputs": ["1\n"], "outputs": ["2\n"]}}
    row = {"question": "Q \ud800 é", "answer": answers[grader], "grader": grader, "solution": "S", "level": {"a": [1]}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (before,) = load_problems(DataConfig(path=str(tmp_path / "a.jsonl")))
    (tmp_path / "b.jsonl").write_text(json.dumps(row_of(before, hint="H")) + "\n")
    (after,) = load_problems(DataConfig(path=str(tmp_path / "b.jsonl")))
    assert after.hint == "H"
    assert [
        getattr(after, name) for name in ("id", "messages", "answer", "grader", "source", "solution", "metadata")
    ] == [getattr(before, name) for name in ("id", "messages", "answer", "grader", "source", "solution", "metadata")]

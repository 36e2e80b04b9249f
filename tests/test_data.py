r"""Rows -> problems: every layout, every fault, and the published files themselves."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sod.config import DataConfig
from sod.data import INSTRUCTION, ProblemSet, load_problems, read_rows, shared_questions
from sod.data.drafts import Layout
from sod.data.fields import RowError, SkippedRowError
from sod.data.problems import LAYOUTS
from sod.errors import DataError

QUESTION = {"question": "What is 2+3?", "answer": "5"}


@pytest.fixture
def data_dir() -> Path:
    folder = os.environ.get("SOD_DATA_DIR")
    if not folder and os.environ.get("CI") == "true":
        pytest.fail("SOD_DATA_DIR must be set when CI=true")
    if not folder:
        pytest.skip("SOD_DATA_DIR is unset")
    return Path(folder)


def jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def loaded(path: Path, *, system: str = "", **settings: Any) -> ProblemSet:
    return load_problems(DataConfig(path=str(path), **settings), system=system)


def verl(prompt: str, truth: str, **changes: Any) -> dict[str, Any]:
    row = {
        "data_source": "train-math-x",
        "prompt": [{"role": "user", "content": prompt}],
        "ability": "math",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "extra_info": {"index": 1},
    }
    return {**row, **changes}


# ---- layouts


def test_bare_question_gets_the_instruction(tmp_path: Path) -> None:
    (problem,) = loaded(jsonl(tmp_path / "sums.jsonl", QUESTION))
    assert problem.messages == ({"role": "user", "content": f"What is 2+3?\n\n{INSTRUCTION}"},)
    assert (problem.id, problem.answer, problem.grader, problem.source) == ("sums-1", "5", "math", "sums")


def test_instruction_is_replaced_or_left_out(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", QUESTION)
    assert loaded(path, instruction="Box it.")[0].messages[0]["content"] == "What is 2+3?\n\nBox it."
    assert loaded(path, instruction="")[0].messages[0]["content"] == "What is 2+3?"


def test_own_messages_are_left_alone_and_fields_are_kept(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    row = {"id": 7, "messages": messages, "answer": "(c)", "grader": "choice", "source": "mine", "level": 3}
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", row), system="other")
    assert list(problem.messages) == messages
    assert (problem.id, problem.answer, problem.grader, problem.source) == ("7", "C", "choice", "mine")
    assert problem.metadata == {"level": 3}


def test_system_is_put_before(tmp_path: Path) -> None:
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", QUESTION), system="Be brief.")
    assert [message["role"] for message in problem.messages] == ["system", "user"]


def test_gsm8k(tmp_path: Path) -> None:
    row = {"question": "Q", "answer": "It is <<1000+200=1200>>1,200.\n#### 1,200"}
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", row))
    assert (problem.answer, problem.source, problem.solution) == ("1200", "gsm8k", row["answer"])
    assert (problem.hint, problem.metadata) == ("", {})
    (problem,) = loaded(jsonl(tmp_path / "b.jsonl", {**row, "hint": "Add."}))
    assert problem.hint == "Add."


@pytest.mark.parametrize(
    "row",
    [
        {"input": "Q", "output": "025"},
        {"Problem": "Q", "Answer": 25},
        {"Problem": "Q", "Answer": "25^\\circ"},
        {"Problem": "Q", "Answer": "$25^{\\circ}$"},
        {"Problem": "Q", "Answer": "\\text{025}"},
        {"Problem": "Q", "Answer": "25\\text{ degrees}"},
        {"Problem": "Q", "Answer": "25.0"},
    ],
)
def test_aime(tmp_path: Path, row: dict[str, Any]) -> None:
    (problem,) = loaded(jsonl(tmp_path / "aime2024.jsonl", row))
    assert (problem.answer, problem.source) == ("25", "aime2024")


def test_verl_decides_the_instruction_per_row(tmp_path: Path) -> None:
    rows = [
        verl("bare", "1"),
        verl("answer in \\boxed{}", "2"),
        verl("answer in \boxed{}", "3"),
        verl("boxed sets", "4"),
    ]
    problems = loaded(jsonl(tmp_path / "a.jsonl", *rows))
    told = [problem.messages[0]["content"].endswith(INSTRUCTION) for problem in problems]
    assert told == [True, False, False, True]
    assert problems[0].source == "train-math-x"
    assert problems[0].metadata == {"ability": "math", "extra_info": {"index": 1}}


def test_verl_with_json_texts(tmp_path: Path) -> None:
    row = verl("Q", "5")
    row = {key: value if isinstance(value, str) else json.dumps(value) for key, value in row.items()}
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", row))
    assert problem.answer == "5"
    assert problem.messages[0]["content"].startswith("Q\n")
    assert problem.metadata["extra_info"] == {"index": 1}


def test_rows_nobody_can_grade_are_counted_and_named(tmp_path: Path) -> None:
    rows = [
        verl("a", json.dumps({"inputs": ["1"], "outputs": []})),
        verl("b", "x", data_source="train-code-taco-easy"),
        verl("c", "5"),
        verl("d", "Bob", ability="qa"),
        verl("e", "", reward_model={"ground_truth": None}),
        verl("f", "", reward_model="no object"),
        {**verl("g", "1"), "prompt": [{"role": "assistant", "content": "x"}]},
    ]
    problems = loaded(jsonl(tmp_path / "a.jsonl", *rows))
    assert [problem.answer for problem in problems] == ["5"]
    assert sum(problems.skipped.values()) == 6
    assert problems.named["ability qa: no grader for free text"] == [4]
    assert problems.named["reward_model must be an object with ground_truth"] == [6]
    assert problems.named["a prompt must end with a user message"] == [7]
    assert any(reason.startswith("tests that cannot be read: ") for reason in problems.skipped)
    assert not any("got" in reason for reason in problems.skipped), "rows of one fault are counted together"


@pytest.mark.parametrize(
    ("truth", "asks_for"),
    [
        ({"inputs": ["1\n"], "outputs": ["2\n"]}, "reads the input from stdin"),
        ({"inputs": [[1]], "outputs": [2], "fn_name": "f"}, "whole of it"),
        ({"import_prefix": "", "test_code": "check(f)", "entry_point": "f"}, "whole of it"),
    ],
)
def test_verl_code_in_its_three_forms(tmp_path: Path, truth: dict[str, Any], asks_for: str) -> None:
    wrapped = verl("Solve it. Answer in ```python", json.dumps(truth), data_source="train-code-x")
    problems = loaded(jsonl(tmp_path / "a.jsonl", verl("Solve it.", json.dumps(truth)), wrapped))
    assert [problem.grader for problem in problems] == ["code", "code"]
    assert asks_for in problems[0].messages[0]["content"]
    assert problems[1].messages[0]["content"] == "Solve it. Answer in ```python"
    assert json.loads(problems[0].answer) == truth


def test_parquet_and_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(
        pyarrow.Table.from_pylist([verl("a", "1"), verl("b", "2"), verl("c", "3", extra_info=None)]), path
    )
    assert [problem.answer for problem in loaded(path)] == ["1", "2", "3"]
    assert [problem.answer for problem in loaded(path, limit=2)] == ["1", "2"]


def test_limit_counts_problems_not_rows(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", {**QUESTION, "answer": None}, QUESTION, QUESTION, QUESTION)
    assert len(loaded(path, limit=2)) == 2


def test_packed_files_and_lists_and_strange_line_breaks(tmp_path: Path) -> None:
    rows = [{"question": "a\u2028b\x85c", "answer": "1"}, QUESTION]
    text = "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    for name in ("a.jsonl", "a.jsonl.gz", "a.json"):
        assert [problem.answer for problem in loaded(tmp_path / name)] == ["1", "5"]
    assert [number for number, _ in read_rows(tmp_path / "a.jsonl")] == [1, 3]


def test_csv_with_line_breaks_and_empty_cells(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('question,answer,level\n"two\nlines, and ""quotes""",5,\nQ,6,hard\n')
    problems = loaded(tmp_path / "a.csv", instruction="")
    assert [problem.messages[0]["content"] for problem in problems] == ['two\nlines, and "quotes"', "Q"]
    assert [problem.metadata for problem in problems] == [{}, {"level": "hard"}]


# ---- own rows: what `answer` holds, by grader


@pytest.mark.parametrize("column", ["subject", "level", "type", "difficulty", "unique_id", "url"])
def test_columns_of_published_sets_do_not_take_an_own_rows_fields(tmp_path: Path, column: str) -> None:
    row = {"id": "x", "problem": "Q", "answer": "b", "grader": "choice", column: "hard"}
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", row))
    assert (problem.id, problem.grader, problem.answer, problem.metadata) == ("x", "choice", "B", {column: "hard"})
    messages = [{"role": "user", "content": "Q"}]
    (problem,) = loaded(jsonl(tmp_path / "b.jsonl", {"messages": messages, "answer": "#### 5", column: "hard"}))
    assert list(problem.messages) == messages


PAIRS = {"inputs": ["1 2\n"], "outputs": ["3\n"]}
CALLS = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}
ASSERTS = {"entry_point": "add", "test_code": "assert add(1, 2) == 3"}


@pytest.mark.parametrize(
    ("tests", "told"),
    [
        (PAIRS, "reads the input from stdin"),
        (CALLS, "called `add`"),
        (ASSERTS, "called `add`"),
        ({**ASSERTS, "entry_point": "Solution().add", "test_code": "assert candidate(1, 2) == 3"}, "`Solution().add`"),
    ],
)
@pytest.mark.parametrize("as_text", [False, True])
def test_own_code_rows_say_what_is_wanted(tmp_path: Path, tests: dict[str, Any], told: str, *, as_text: bool) -> None:
    row = {"question": "Add.", "answer": json.dumps(tests) if as_text else tests, "grader": "code"}
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", row))
    text = problem.messages[0]["content"]
    assert told in text
    assert "boxed" not in text
    assert "```python block" in text
    assert json.loads(problem.answer) == tests


def test_a_starter_is_shown_instead_of_the_name(tmp_path: Path) -> None:
    row = {"question": "Add.", "answer": CALLS, "grader": "code", "starter_code": "def add(a, b):"}
    text = loaded(jsonl(tmp_path / "a.jsonl", row))[0].messages[0]["content"]
    assert "```python\ndef add(a, b):\n```" in text
    assert "must be called" not in text


def test_own_answers_that_the_grader_could_not_read_are_left_out(tmp_path: Path) -> None:
    rows = [
        {**QUESTION, "grader": "choice"},
        {**QUESTION, "grader": "choice", "answer": "all of them"},
        {**QUESTION, "grader": "code"},
        {**QUESTION, "grader": "code", "answer": {"inputs": ["1"], "outputs": []}},
        {**QUESTION, "grader": "code", "answer": None},
        {**QUESTION, "question": None},
        QUESTION,
    ]
    problems = loaded(jsonl(tmp_path / "a.jsonl", *rows))
    assert [problem.id for problem in problems] == ["a-7"]
    assert problems.named["choice without a letter as its answer"] == [1, 2]
    assert sum(problems.skipped.values()) == 6


# ---- what only a teacher may see

REFERENCES = {"solution": "2 and 3 make 5, zyx told me", "hint": "Count them as zyx does"}


@pytest.mark.parametrize(
    "row",
    [
        {**QUESTION, **REFERENCES},
        {"problem": "What is 2+3?", "answer": "5", **REFERENCES},
        {"messages": [{"role": "user", "content": "What is 2+3?"}], "answer": "5", **REFERENCES},
        {**QUESTION, "answer": PAIRS, "grader": "code", **REFERENCES},
        verl("What is 2+3?", "5", **REFERENCES),
        verl("What is 2+3?", "5", extra_info={"index": 1, **REFERENCES}),
        verl("What is 2+3?", "5", extra_info=json.dumps({"index": 1, **REFERENCES})),
        verl("Add.", json.dumps(PAIRS), data_source="train-code-x", extra_info=REFERENCES),
    ],
)
@pytest.mark.parametrize("wording", ["default", "released"])
def test_solution_and_hint_are_read_and_nowhere_else(tmp_path: Path, row: dict[str, Any], wording: str) -> None:
    (problem,) = loaded(jsonl(tmp_path / "a.jsonl", row), wording=wording)
    assert (problem.solution, problem.hint) == (REFERENCES["solution"], REFERENCES["hint"])
    assert "zyx" not in repr(problem)
    assert "zyx" not in json.dumps([problem.messages, problem.answer, problem.metadata])


def test_verls_gsm8k_keeps_its_solution_as_the_answer(tmp_path: Path) -> None:
    """And a published row whose solution is no text is used without it."""
    solution = "Two and three.\n#### 5"
    rows = [
        verl("Q", "5", extra_info={"answer": solution}),
        verl("R", "5", extra_info={"answer": "5"}, solution=[1, 2]),
    ]
    first, second = loaded(jsonl(tmp_path / "a.jsonl", *rows))
    assert (first.solution, first.metadata["extra_info"]) == (solution, {})
    assert (second.solution, second.hint) == ("", "")


def test_a_solution_in_a_file_of_ones_own_is_a_text(tmp_path: Path) -> None:
    assert "solution must be a text, got a dict" in fault(
        jsonl(tmp_path / "a.jsonl", {**QUESTION, "solution": {"a": 1}})
    )
    (problem,) = loaded(jsonl(tmp_path / "b.jsonl", {**QUESTION, "solution": None, "hint": ""}))
    assert (problem.solution, problem.hint) == ("", "")


def test_a_private_set_keeps_its_letter_and_no_solution(tmp_path: Path) -> None:
    row = {"problem": "Q\nA) 1\nB) 2", "solution": "B", "domain": "physics"}
    problems = loaded(jsonl(tmp_path / "a.jsonl", row), format="gpqa")
    assert (problems.private, problems[0].answer, problems[0].solution) == (True, "B", "")


@pytest.mark.data
@pytest.mark.parametrize(("name", "share"), [("gsm8k/train.jsonl", 1.0), ("math/math500.jsonl", 1.0)])
def test_published_files_have_solutions(data_dir: Path, name: str, share: float) -> None:
    problems = loaded(data_dir / name)
    assert sum(bool(problem.solution) for problem in problems) == share * len(problems)
    shown = [" ".join(str(message["content"]) for message in problem.messages) for problem in problems]
    assert not any(problem.solution in text for problem, text in zip(problems, shown, strict=True))


# ---- ids and questions


def test_rows_without_an_id_are_called_by_their_file(tmp_path: Path) -> None:
    row = {"question": "Q", "answer": "#### 5"}
    train, test = (loaded(jsonl(tmp_path / name, row, {**row, "id": "own"})) for name in ("train.jsonl", "test.jsonl"))
    assert [problem.id for problem in train] == ["train-1", "own"]
    assert [problem.id for problem in test] == ["test-1", "own"]
    assert {problem.source for problem in (*train, *test)} == {"gsm8k"}


def test_a_question_keeps_its_sum_in_other_words_of_instruction(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", QUESTION, {"question": "What is 2+4?", "answer": "5"})
    sums = loaded(path).questions
    assert set(sums) == {"a-1", "a-2"}
    assert len(set(sums.values())) == 2
    assert {len(each) for each in sums.values()} == {16}
    assert loaded(path, instruction="Box it.", system="Be brief.").questions == sums
    assert loaded(path, wording="released").questions == sums
    assert loaded(path).expected == 0


# ---- faults: one message each


def fault(path: Path | str, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_problems(DataConfig(path=str(path), **settings))
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_missing_file_directory_demo_and_ending(tmp_path: Path) -> None:
    assert "no such file" in fault(tmp_path / "gone.jsonl")
    assert "a directory" in fault(tmp_path)
    assert "sod demo" in fault("demo:train")
    (tmp_path / "a.tsv").write_text("a,b")
    assert ".parquet" in fault(tmp_path / "a.tsv")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("\n")
    assert "empty" in fault(tmp_path / name)


def test_empty_parquet(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"question": pyarrow.array([], pyarrow.string())}), tmp_path / "a.parquet")
    assert "empty" in fault(tmp_path / "a.parquet")


def test_parquet_without_the_columns(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    message = fault(tmp_path / "a.parquet")
    assert "text, label" in message
    assert "prompt, reward_model" in message
    message = fault(tmp_path / "a.parquet", format="gsm8k")
    assert "gsm8k: question, answer" in message
    assert "verl" not in message


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.json", "a.jsonl"])
def test_bytes_that_are_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x81 not this")
    fault(tmp_path / name)


def test_cut_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(b"".join(json.dumps(QUESTION).encode() + b"\n" for _ in range(100)))
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    assert "cannot be read" in fault(tmp_path / "a.jsonl.gz")


def test_bad_line_is_numbered(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(QUESTION) + '\n\n{"question": \n')
    assert "line 3" in fault(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text(json.dumps(QUESTION) + "\n[1]\n")
    assert "row 2" in fault(tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").write_text("[" * 100_000)
    assert "line 1" in fault(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "Q"}, "must have an answer"),
        ({"answer": "5"}, "must have a question"),
        ({"question": "Q", "answer": [1, 2]}, "text or a number"),
        ({"question": "Q", "answer": True}, "text or a number"),
        ({"messages": [], "answer": "5"}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}], "answer": "5"}, "end with a user message"),
        ({"messages": [{"role": "king", "content": "x"}], "answer": "5"}, "king"),
        ({"messages": [{"role": ["user"], "content": "x"}], "answer": "5"}, "role"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": 5}], "answer": "5"}, "tool_calls"),
        ({"question": 5, "answer": "5"}, "question must be a text"),
        ({**QUESTION, "metadata": "x"}, "metadata must be an object"),
        ({**QUESTION, "metadata": [1]}, "metadata must be an object"),
    ],
)
def test_bad_row_is_numbered(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    message = fault(jsonl(tmp_path / "a.jsonl", QUESTION, row))
    assert "row 2" in message
    assert says in message


FIELDS = sorted({name for layout in LAYOUTS.values() for columns in layout.columns for name in columns})
OTHERS = [
    "grader",
    "metadata",
    "id",
    "code",
    "test_imports",
    "task_id",
    "starter_code",
    "tool_calls",
    "role",
    "content",
]
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["code", "choice", "user"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(FIELDS + OTHERS), inner),
    max_leaves=8,
)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@given(data=st.data())
def test_no_row_can_break_a_reader(layout: Layout, data: st.DataObject) -> None:
    columns = data.draw(st.sampled_from(layout.columns))
    row = {name: data.draw(ANYTHING) for name in columns} | data.draw(
        st.dictionaries(st.sampled_from(OTHERS), ANYTHING)
    )
    layout.recognise(row)
    with suppress(RowError, SkippedRowError):
        layout.read(row, "stem")


@pytest.mark.parametrize("form", ["text", "object"])
def test_integers_of_more_digits_than_python_reads(tmp_path: Path, form: str) -> None:
    digits = "7" * 5000
    tests = f'{{"fn_name": "f", "inputs": [[1]], "outputs": [{digits}]}}'
    truth = json.dumps(tests) if form == "text" else tests
    row = f'{{"data_source": "x", "prompt": "Q", "reward_model": {{"ground_truth": {truth}}}}}'
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(verl('Q', '5'))}\n{row}\n")
    if form == "object":
        assert "line 2: must be JSON, got an integer of too many digits" in fault(tmp_path / "a.jsonl")
    else:
        problems = loaded(tmp_path / "a.jsonl")
        assert len(problems) + sum(problems.skipped.values()) == 2
        assert [problem.grader for problem in problems[1:]] in ([], ["code"]), "never taken for a formula"


SECRET = "Which particle is it that the authors ask nobody to quote?"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", f'{{"question": "{SECRET}", "answer": }}'),
        ("a.jsonl", f'["{SECRET}"]'),
        ("a.jsonl", f'"{SECRET}"'),
        ("a.json", f'[{{"question": "{SECRET}", "answer": }}]'),
        ("a.json", f'["{SECRET}"]'),
        ("a.json", f'"{SECRET}"'),
        ("a.csv", f"{SECRET},Muon,Pion,Kaon,Boson\n{SECRET} 2,Muon,Pion,Kaon,Boson\n"),
        ("a.csv", f'question,answer\n"{SECRET}'),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"format": "gpqa"}, {"benchmark": "gpqa_diamond"}])
def test_no_fault_of_a_file_quotes_it(tmp_path: Path, name: str, text: str, settings: dict[str, str]) -> None:
    (tmp_path / name).write_text(text)
    message = fault(tmp_path / name, **settings)
    assert not any(word in message for word in ("particle", "authors", "Muon", "Pion"))


def test_an_empty_cell_is_a_column_without_a_value(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer\nfirst,\nsecond,6\n,7\nthird\n")
    problems = loaded(tmp_path / "a.csv")
    assert [problem.answer for problem in problems] == ["6"]
    assert problems.named == {"answer is empty": [1, 4], "question is empty": [3]}


def test_faults_of_the_formats(tmp_path: Path) -> None:
    rows = [{"question": "Q", "answer": "#### 5"}, {"question": "Q", "answer": "5"}]
    assert "####" in fault(jsonl(tmp_path / "a.jsonl", *rows))
    assert "0 to 999" in fault(jsonl(tmp_path / "b.jsonl", {"input": "Q", "output": "x"}))
    assert "'same'" in fault(jsonl(tmp_path / "c.jsonl", {**QUESTION, "id": "same"}, {**QUESTION, "id": "same"}))
    assert "2 rows (answer is empty)" in fault(jsonl(tmp_path / "d.jsonl", *[{**QUESTION, "answer": None}] * 2))


# ---- the published files


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "rows", "skipped"),
    [
        ("gsm8k/train.jsonl", 7473, {}),
        ("gsm8k/test.jsonl", 1319, {}),
        ("math/math500.jsonl", 500, {}),
        ("math/math_train.json.gz", 7470, {"answer is empty": 4}),
        ("aime/aime2024.jsonl", 30, {}),
        ("aime/aime2025.jsonl", 30, {}),
        ("rl_schema/open_agentrl_rows.jsonl", 10, {}),
        ("rl_schema/verl_schema_rows.parquet", 100, {"ability qa: no grader for free text": 80}),
    ],
)
def test_published_files(data_dir: Path, name: str, rows: int, skipped: dict[str, int]) -> None:
    problems = loaded(data_dir / name)
    assert len(problems) == rows
    assert problems.skipped == skipped
    assert len({problem.id for problem in problems}) == rows
    assert all(problem.answer for problem in problems)


@pytest.mark.data
def test_open_agentrl_rows_are_told_how_to_answer_once(data_dir: Path) -> None:
    for problem in loaded(data_dir / "rl_schema/open_agentrl_rows.jsonl"):
        text = problem.messages[0]["content"]
        assert text.count("\\boxed{") == 1
        assert text.endswith(INSTRUCTION) == (problem.source != "math_dapo")


def test_import_is_light() -> None:
    code = "import sys, sod.data; assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_questions_that_two_sets_share(tmp_path: Path) -> None:
    train = loaded(jsonl(tmp_path / "a.jsonl", QUESTION, {"question": "What is 2+4?", "answer": "6"}))
    test = loaded(jsonl(tmp_path / "b.jsonl", {"question": "what is  2+3? ", "answer": "5"}), instruction="")
    assert shared_questions(train, test) == ["a-1"]
    assert shared_questions(train, ()) == []


@pytest.mark.data
def test_training_and_test_files_share_no_question(data_dir: Path) -> None:
    for train, test in (("math/math_train.json.gz", "math/math500.jsonl"), ("gsm8k/train.jsonl", "gsm8k/test.jsonl")):
        assert shared_questions(loaded(data_dir / train), loaded(data_dir / test)) == []

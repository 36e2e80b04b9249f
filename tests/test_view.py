"""The trajectory viewer without a browser: its index follows the file, its server shows the runs and nothing else."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import sod
from sod.errors import ConfigError, DataError, StorageError
from sod.records import sealed
from sod.report.trajectory import telling_rank
from sod.view import serve
from sod.view.entry import _sortable, entry_of
from sod.view.export import write_export
from sod.view.index import Index, Progress
from sod.view.query import Query, place_of, rows
from sod.view.records import page_of, weight_cap
from sod.view.server import HEADERS, Viewer
from sod.view.source import RunSource, sources
from sod.view.text import visible
from sod.view.tokens import TokenTexts

pytestmark = pytest.mark.timeout(180)
STUDENT = Path(sod.__file__).parent / "demo" / "weights" / "student"
PAGE_S = 1.0
"""What a page of 100,000 trajectories may take."""
HOSTILE = (
    "<script>window.hacked = 1; alert(1)</script><img src=x onerror='alert(2)'>\n</textarea></pre><svg/onload=alert(3)>"
    "\x1b[31mred\x1b]0;title\x07 \u202egnirts\u202c \u2066x\u2069 \x00 \ud800 &lt;b&gt; {{7*7}} javascript:alert(4)"
)


# ---- making runs


def trajectory(
    problem: str = "p1",
    *,
    update: int = 1,
    sample: int = 0,
    correct: bool = True,
    texts: Sequence[str] = ('Adding.\n<tool_call>\n{"name": "code", ...}\n</tool_call>', "It is \\boxed{2}."),
    statuses: Sequence[str] = ("ok",),
    divergence: Sequence[float | None] = (0.02, 0.5),
    weight: Sequence[float | None] = (1.0, 0.04),
    observation: str = "2",
    code: str = "import math\nprint(math.gcd(4, 6))  # two",
    **others: Any,
) -> dict[str, Any]:
    """A record as training writes it, with tokens of the demo's tokenizer; `statuses[i]` ends the call of step i."""
    ids, step, own, turns = encoded("Problem " + problem), [], [], []
    num_prompt = len(ids)
    step, own = [-1] * num_prompt, [0.0] * num_prompt
    for index, text in enumerate(texts):
        start, new = len(ids), encoded(text[:4000])
        called = index < len(statuses)
        turns.append(
            {
                "text": text,
                "start": start,
                "end": start + len(new),
                "calls": [{"name": "code_interpreter", "arguments": {"code": code}}] if called else [],
                "results": [{"status": statuses[index], "text": observation, "wall_s": 0.05}] if called else [],
            }
        )
        ids += new
        step += [index] * len(new)
        own += [round(-0.001 * (place + 1), 6) for place in range(len(new))]
    sampled = [value for value, where in zip(own, step, strict=True) if where >= 0]
    return {
        "group": 0,
        "update": update,
        "problem_id": problem,
        "sample": sample,
        "stop_reason": "answered",
        "policy_version": update - 1,
        "detail": "",
        "score": {"value": float(correct), "correct": correct, "reason": "boxed 2 equals 2", "answer": "2"},
        "divergence": list(divergence),
        "weight": list(weight),
        "teacher_logprobs": [round(value * (1 if at % 3 else 3000), 6) for at, value in enumerate(sampled)],
        "turns": turns,
        "num_prompt_tokens": num_prompt,
        "token_ids": ids,
        "step": step,
        "rollout_logprobs": own,
        **others,
    }


_TOKENIZERS: list[Any] = []


def encoded(text: str) -> list[int]:
    if not _TOKENIZERS:
        from tokenizers import Tokenizer

        _TOKENIZERS.append(Tokenizer.from_file(str(STUDENT / "tokenizer.json")))
    return list(_TOKENIZERS[0].encode(text.encode("utf-8", "replace").decode(), add_special_tokens=False).ids)


def lines_of(records: Sequence[Any]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def make_run(path: Path, records: Sequence[Any], *, state: str = "finished") -> Path:
    path.mkdir(parents=True)
    config = {
        "method": "sod",
        "seed": 3,
        "student": {"path": str(STUDENT)},
        "weights": {"rule": "ratio", "delta": 0.2},
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "status.json").write_text(json.dumps({"state": state}))
    (path / "trajectories.jsonl").write_bytes(lines_of(records))
    return path


def group(update: int = 1, problem: str = "p1", num: int = 4) -> list[dict[str, Any]]:
    """Siblings; sample 1 is wrong after an error and does not come back, sample 2 does."""
    d = {1: (0.02, 0.9, 0.9, 0.01), 2: (0.02, 0.9, 0.03, 0.01)}
    texts = tuple(f'{word}.\n<tool_call>\n{{"a": 1}}\n</tool_call>' for word in ("First", "Then", "Last"))
    return [
        trajectory(
            problem,
            update=update,
            sample=sample,
            correct=sample != 1,
            texts=(*texts, "So \\boxed{2}."),
            statuses=("ok", "error" if sample == 1 else "ok", "ok"),
            divergence=d.get(sample, (0.02, 0.03, 0.01, 0.01)),
            weight=(1.0, 0.02, 1.2, 1.2),
        )
        for sample in range(num)
    ]


def whole(index: Index) -> Progress:
    while not (progress := index.refresh()).whole:
        pass
    return progress


def found(index: Index, **values: str) -> list[int]:
    with index.reading() as connection:
        return [row["line"] for row in rows(connection, Query.of(values))]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run", [*group(1, "p1"), *group(2, "p2")])


@pytest.fixture
def index(run: Path, tmp_path: Path) -> Index:
    return Index(run, folder=tmp_path / "cache")


# ---- index


def test_index_knows_what_the_list_shows(index: Index) -> None:
    assert whole(index).lines == 8
    with index.reading() as connection:
        first, second = rows(connection, Query())[:2]
    assert (first["line"], first["updated"], first["problem_id"], first["sample"]) == (1, 1, "p1", 0)
    assert (first["num_steps"], first["num_calls"], first["max_d"], first["min_w"]) == (4, 3, 0.03, 0.02)
    assert (second["correct"], second["status"], second["pattern"]) == (0, "error", "erroneous")


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"from": "2"}, [5, 6, 7, 8]),
        ({"to": "1"}, [1, 2, 3, 4]),
        ({"correct": "no"}, [2, 6]),
        ({"correct": "none"}, []),
        ({"pattern": "recovery"}, [3, 7]),
        ({"pattern": "erroneous", "to": "1"}, [2]),
        ({"status": "error"}, [2, 6]),
        ({"status": "none"}, []),
        ({"stop": "out_of_turns"}, []),
        ({"text": "p2"}, [5, 6, 7, 8]),
        ({"text": '"boxed 2 equals"', "correct": "no"}, [2, 6]),
        ({"text": '"equals boxed"'}, []),
        ({"text": "equ THEN", "from": "2", "to": "2", "correct": "yes"}, [5, 7, 8]),
        ({"text": "***"}, []),
        ({"text": '" OR 1=1; --'}, []),
        ({"sort": "-line"}, [8, 7, 6, 5, 4, 3, 2, 1]),
        ({"sort": "-divergence", "to": "1"}, [2, 3, 1, 4]),
        ({"sort": "reward", "to": "1"}, [2, 1, 3, 4]),
    ],
)
def test_filters_and_order(index: Index, asked: dict[str, str], expected: list[int]) -> None:
    whole(index)
    assert found(index, **asked) == expected


@pytest.mark.parametrize("asked", [{"sort": "line; DROP"}, {"correct": "maybe"}, {"from": "-1"}, {"to": "9" * 30}])
def test_filters_that_are_none_are_refused(asked: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        Query.of(asked)


def test_neighbours_are_those_of_the_selection(index: Index) -> None:
    whole(index)
    with index.reading() as connection:
        place = place_of(connection, Query.of({"correct": "no", "sort": "-line"}), 6)
        assert (place.position, place.total, place.previous, place.next) == (0, 2, None, 2)
        outside = place_of(connection, Query.of({"correct": "no"}), 1)
        assert (outside.position, outside.next) == (None, 2)


def test_index_follows_a_growing_file(index: Index, run: Path) -> None:
    before = whole(index)
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(lines_of(group(3, "p3", num=2)))
    after = whole(index)
    assert (after.lines, after.generation) == (10, before.generation)
    assert found(index, text="p3") == [9, 10]


def test_torn_last_line_waits(index: Index, run: Path) -> None:
    whole(index)
    line = lines_of([trajectory("torn", update=3)])
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(line[:100])
        file.flush()
        assert index.refresh().whole
        assert (index.refresh().lines, index.refresh().damaged) == (8, 0)
        file.write(line[100:])
    assert (whole(index).lines, found(index, text="torn")) == (9, [9])


def test_replaced_file_is_indexed_anew(index: Index, run: Path) -> None:
    before = whole(index)
    other = run / "other"
    changed = [{**record, "problem_id": "q" + record["problem_id"][1:]} for record in [*group(1), *group(2, "p2")]]
    other.write_bytes(lines_of(changed))
    assert other.stat().st_size == (run / "trajectories.jsonl").stat().st_size
    other.replace(run / "trajectories.jsonl")
    after = whole(index)
    assert (after.lines, after.generation) == (8, before.generation + 1)
    assert (found(index, text="p1"), found(index, text="q1")) == ([], [1, 2, 3, 4])


def test_shrunk_and_rewritten_files_are_indexed_anew(index: Index, run: Path) -> None:
    path = run / "trajectories.jsonl"
    whole(index)
    path.write_bytes(lines_of(group(1)))  # as after going back to a checkpoint
    assert (whole(index).lines, whole(index).generation) == (4, 2)
    path.write_bytes(lines_of([*group(1, "p7"), *group(2, "p8"), *group(3, "p9")]))  # longer, but not the same
    assert (whole(index).lines, found(index, text="p1")) == (12, [])
    path.unlink()
    assert (whole(index).lines, found(index)) == (0, [])


def test_index_is_kept_and_shared(index: Index, run: Path, tmp_path: Path) -> None:
    whole(index)
    again = Index(run, folder=tmp_path / "cache")
    assert again.path == index.path
    assert found(again) == found(index)  # before anything was read
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(lines_of(group(3)))
    assert whole(again).lines == whole(index).lines == 12
    assert Index(tmp_path, folder=tmp_path / "cache").path != index.path


def test_damaged_index_is_made_again(index: Index, run: Path, tmp_path: Path) -> None:
    whole(index)
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(b"no database" * 1000)
    assert whole(Index(run, folder=tmp_path / "cache")).lines == 8


def test_run_is_only_read(index: Index, run: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    whole(index)
    RunSource(run, name="run", folder=index.path.parent).trajectory(1)
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert run not in index.path.parents


DAMAGED = [
    b"{",
    b"[1, 2]",
    b"\xff\xfe\x00",
    b"null",
    b'{"problem_id": 3, "turns": []}',
    b'{"problem_id": "x", "turns": "many"}',
    b"[" * 100_000,
    b'{"problem_id": ' + b"9" * 5000 + b"}",
]
ODD = [
    {"problem_id": HOSTILE, "turns": [1, None, {"text": 3, "calls": 3, "results": [None, {"status": []}]}]},
    {
        "problem_id": "",
        "turns": [],
        "score": [],
        "update": 1e300,
        "sample": -1,
        "divergence": [float("nan"), True, "x"],
    },
    {"problem_id": "z" * 10_000, "turns": [{}], "update": 1 << 80, "stop_reason": {"a": HOSTILE}, "benchmark": [1]},
    {"problem_id": "s", "sealed": "not base64"},
    {**trajectory("t"), "step": [0] * 7, "token_ids": ["1"], "teacher_logprobs": [1e400], "rollout_logprobs": None},
    {**trajectory("u"), "token_ids": [1 << 70] * 3, "step": [0, 1 << 70, True], "teacher_entropy": [HOSTILE]},
]


def test_damaged_and_odd_lines_break_nothing(run: Path, tmp_path: Path) -> None:
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(b"\n".join(DAMAGED) + b"\n" + lines_of(ODD))
    (source,) = sources([run], folder=tmp_path / "cache")
    progress = whole(source.index)
    assert (progress.lines, progress.damaged) == (8 + len(DAMAGED) + len(ODD), len(DAMAGED))
    for line in found(source.index):
        text = json.dumps(source.trajectory(line, Query()), allow_nan=False)
        assert json.loads(text)["row"]["line"] == line
    assert source.trajectory(9) is None
    assert all("\x1b" not in row["problem_id"] for row in source.rows(Query())["rows"])


def test_pipe_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [])
    (run / "trajectories.jsonl").unlink()
    os.mkfifo(run / "trajectories.jsonl")
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")
    (source,) = sources([run], folder=tmp_path / "cache")
    with pytest.raises(DataError, match="regular file"):
        source.index.refresh()


@pytest.mark.slow
def test_hundred_thousand_trajectories(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [])
    with (run / "trajectories.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(_small_line(number) for number in range(100_000))
    source = _timed(lambda: RunSource(run, name="run", folder=tmp_path / "cache"))
    first = _timed(lambda: source.rows(Query()))  # the index is hardly begun
    assert len(first["rows"]) == 50
    assert not first["progress"]["whole"]
    whole(source.index)
    again = RunSource(run, name="run", folder=tmp_path / "cache")
    assert _timed(lambda: again.rows(Query()))["total"] == 100_000
    assert _timed(lambda: again.rows(Query(), page=1999))["rows"][-1]["line"] == 100_000
    asked = Query.of({"text": "word7", "correct": "no", "sort": "-divergence"})
    assert _timed(lambda: again.rows(asked, page=10))["total"] == 5_600
    erroneous = Query.of({"pattern": "erroneous", "from": "100"})
    assert _timed(lambda: again.rows(erroneous, page=100))["total"] == 98_416 // 4
    place = _timed(lambda: again.trajectory(70_000, erroneous))["place"]
    assert place["total"] == 98_416 // 4


def _small_line(number: int) -> str:
    """No tokens: 100,000 of them stay under 50 MB. Every fourth is erroneous, every second wrong."""
    d = 9.0 if number % 4 == 3 else 0.02
    text = f"word{number % 1000} of step {number}"
    return (
        f'{{"update":{1 + number // 16},"group":0,"problem_id":"train-{number // 8}","sample":{number % 8},'
        f'"stop_reason":"answered","score":{{"value":1.0,"correct":{"true" if number % 2 == 0 else "false"}}},'
        f'"divergence":[0.02,{d}],"weight":[1.0,0.5],"turns":['
        f'{{"text":"a","calls":[{{"name":"c","arguments":{{}}}}],"results":[{{"status":"ok","text":"2"}}]}},'
        f'{{"text":"{text}","calls":[{{"name":"c","arguments":{{}}}}],"results":[]}}]}}\n'
    )


def _timed(act: Callable[[], Any]) -> Any:
    """The best of three: the machine may be busy."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        value = act()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] < PAGE_S:
            return value
    pytest.fail(f"a page must come within {PAGE_S} s, the best of 3 took {min(seconds):.2f} s")


# ---- records


def test_page_of_a_trajectory(run: Path, tmp_path: Path) -> None:
    source = RunSource(run, name="run", folder=tmp_path / "cache")
    whole(source.index)
    record = group()[1]
    page = source.trajectory(2, Query())
    assert page is not None
    assert (page["cap"], page["unit"], page["high"]) == (pytest.approx(1.2), 0.02, pytest.approx(0.2))
    assert [step["divergence"] for step in page["steps"]] == record["divergence"]
    assert [step["weight"] for step in page["steps"]] == record["weight"]
    assert page["prompt"]["text"].strip() == "Problem p1"
    tokens = page["steps"][1]["tokens"]
    turn, before = record["turns"][1], record["turns"][0]
    num_before = before["end"] - before["start"]
    assert tokens["ids"] == record["token_ids"][turn["start"] : turn["end"]]
    assert tokens["student"] == record["rollout_logprobs"][turn["start"] : turn["end"]]
    assert tokens["teacher"] == record["teacher_logprobs"][num_before : num_before + len(tokens["ids"])]
    assert "".join(tokens["texts"]).strip() == turn["text"]
    assert [part.get("call", "text") for part in page["steps"][0]["parts"]] == ["text", 0]
    assert page["steps"][0]["calls"][0]["arguments"][0][1].startswith("import math")
    assert [row["sample"] for row in page["siblings"]] == [0, 1, 2, 3]
    assert page["notes"] == []


def test_calls_and_marks_that_do_not_match_stay_text() -> None:
    text = "<tool_call>{</tool_call> and <tool_call>"
    steps = page_of(trajectory(texts=[text]), texts=TokenTexts())["steps"]
    assert steps[0]["parts"] == [{"text": text}, {"call": 0}]


def test_calls_are_shown_where_they_stand() -> None:
    text = "So\n<tool_call>{}</tool_call>\n\n<tool_call>{}</tool_call> then"
    call = {"name": "code_interpreter", "arguments": {}}
    step = {**trajectory()["turns"][0], "text": text, "calls": [call, call]}
    (shown,) = page_of({**trajectory(), "turns": [step]}, texts=TokenTexts())["steps"]
    assert shown["parts"] == [{"text": "So\n"}, {"call": 0}, {"call": 1}, {"text": " then"}]


@pytest.mark.timeout(60)
def test_megabytes_of_marks_are_read_once() -> None:
    """A student that repeats itself: the time must grow with the text, not with its square."""
    text = "<tool_call></tool_call>" * 200_000
    (step,) = page_of(trajectory(texts=[text]), texts=TokenTexts())["steps"]
    assert step["parts"] == [{"text": text}, {"call": 0}]


def test_notes_say_what_is_missing() -> None:
    bare = {
        key: value for key, value in trajectory().items() if key not in ("divergence", "weight", "teacher_logprobs")
    }
    notes = page_of({key: value for key, value in bare.items() if key != "score"}, texts=TokenTexts())["notes"]
    assert [note.split(" ")[0] for note in notes] == ["Not", "No", "No"]
    assert "No teacher scored" in notes[1]
    assert "No tokenizer" in notes[2]
    assert page_of(bare, texts=TokenTexts())["steps"][0]["tokens"]["texts"] is None


def test_entropy_of_the_teacher_where_recorded() -> None:
    page = page_of(trajectory(teacher_entropy=[0.25, None]), texts=TokenTexts())
    assert [step["teacher_entropy"] for step in page["steps"]] == [0.25, None]


@pytest.mark.parametrize(("weights", "cap"), [({"rule": "uniform", "delta": 0.2}, None), ({"rule": "ratio"}, None)])
def test_no_cap(weights: Mapping[str, Any], cap: None) -> None:
    assert weight_cap({"weights": weights}) is cap


def test_sealed_records_have_no_texts(tmp_path: Path) -> None:
    secret = trajectory(
        "p1",
        texts=["the secret words"],
        statuses=(),
        score={"value": 1.0, "correct": True, "reason": "secret", "answer": "secret"},
    )
    run = make_run(tmp_path / "run", [sealed(secret), trajectory("p1", sample=1)])
    source = RunSource(run, name="run", folder=tmp_path / "cache")
    whole(source.index)
    page = source.trajectory(1)
    assert page is not None
    assert "secret" not in json.dumps([page, source.rows(Query())])
    assert "not shown" in page["notes"][0]
    assert found(source.index, text="secret") == []
    write_export(run, tmp_path / "out", folder=tmp_path / "cache")
    assert all(b"secret" not in path.read_bytes() for path in (tmp_path / "out").rglob("*.js"))


def test_characters_that_hide_are_spelled_out() -> None:
    assert visible("a\x1b[31m\u202eb\r\nc\td\x00") == "a⟨001B⟩[31m⟨202E⟩b\nc\td⟨0000⟩"
    assert visible("äß漢字 שלום 👍\n") == "äß漢字 שלום 👍\n"
    assert visible("\ud800\x9b") == "⟨D800⟩⟨009B⟩"


def test_token_texts_are_exact() -> None:
    texts = TokenTexts.of_run(STUDENT.parent)  # no run: nothing found
    assert not texts
    assert texts.each([1]) is None
    config = {"model": {"path": str(STUDENT)}}
    with _folder_with(config) as folder:
        texts = TokenTexts.of_run(folder)
        ids = encoded("naïve € 漢\n\tx")
        each = texts.each(ids)
        assert each is not None
        assert any(text is not None and text.startswith("\\x") for text in each)  # parts of a character, in bytes
        assert texts.each([10**6]) == [None]
        assert (texts.whole(ids) or "").strip() == "naïve € 漢\n\tx"


@contextmanager
def _folder_with(config: Mapping[str, Any]) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "config.json").write_text(json.dumps(config))
        yield Path(name)


def test_damaged_tokenizer_is_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [])
    model = run / "checkpoints" / "update-000001" / "model"
    model.mkdir(parents=True)
    (model / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": {"a": -1}}}')
    assert TokenTexts.of_run(run)  # the config's stands in


def test_telling_order_is_that_of_the_report() -> None:
    records = [*group(), trajectory(), trajectory(statuses=("timeout",), correct=False), trajectory(weight=(1.0, 1.0))]
    ranks = [telling_rank(record) for record in records]
    by_text = sorted(range(len(records)), key=lambda at: _sortable(ranks[at]))
    assert [ranks[at] for at in by_text] == sorted(ranks)
    entry = entry_of(records[0])
    assert entry is not None
    assert entry.telling == _sortable(ranks[0])


# ---- server


@pytest.fixture
def viewer(run: Path, tmp_path: Path) -> Iterator[Viewer]:
    with serving([run], folder=tmp_path / "cache") as viewer:
        yield viewer


@contextmanager
def serving(runs: Sequence[Path], *, folder: Path) -> Iterator[Viewer]:
    """A viewer under way, with everything indexed."""
    with Viewer(sources(runs, folder=folder)) as viewer:
        for each in viewer.runs.values():
            whole(each.index)
        thread = threading.Thread(target=viewer.server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield viewer
        finally:
            viewer.server.shutdown()
            thread.join()


def ask(viewer: Viewer, path: str, *, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    port = viewer.server.server_address[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_every_answer_has_the_headers(viewer: Viewer) -> None:
    for path in ("/", "/style.css", "/main.js", "/source.js", "/icon.svg", "/api/runs", "/nothing", "/api/rows?run=x"):
        answer, _ = ask(viewer, path)
        assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS), path
        assert answer.headers["Access-Control-Allow-Origin"] is None
        assert "Python" not in (answer.headers["Server"] or "")
    assert "default-src 'none'" in HEADERS["Content-Security-Policy"]
    assert "unsafe" not in HEADERS["Content-Security-Policy"]


def test_api(viewer: Viewer) -> None:
    answer, body = ask(viewer, "/api/runs")
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"
    assert [run["name"] for run in json.loads(body)["runs"]] == ["run"]
    rows = json.loads(ask(viewer, "/api/rows?run=run&correct=no")[1])
    assert ([row["line"] for row in rows["rows"]], rows["total"], rows["progress"]["whole"]) == ([2, 6], 2, True)
    assert rows["choices"]["pattern"][0] == ["stable", 4]
    page = json.loads(ask(viewer, "/api/trajectory?run=run&line=2&correct=no")[1])
    assert (page["place"]["position"], page["place"]["next"]) == (0, 6)


def test_head_has_no_body(viewer: Viewer) -> None:
    answer, body = ask(viewer, "/", method="HEAD")
    assert (answer.status, body) == (200, b"")
    assert int(answer.headers["Content-Length"]) > 1000


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "<b>"])
def test_other_methods_are_refused(viewer: Viewer, method: str) -> None:
    answer, body = ask(viewer, "/api/rows?run=run", method=method)
    assert answer.status == 501
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b"<b>" not in body


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "127.0.0.1:x", "", "[::2]:1"],
)
def test_other_hosts_are_refused(viewer: Viewer, host: str) -> None:
    answer, body = ask(viewer, "/api/rows?run=run", Host=host)
    assert answer.status == 421
    assert b"p1" not in body


@pytest.mark.parametrize("host", ["localhost:9000", "127.0.0.1", "LOCALHOST", "[::1]:9000"])
def test_names_of_this_machine_are_served(viewer: Viewer, host: str) -> None:
    assert ask(viewer, "/api/runs", Host=host)[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../config.json",
        "/..%2f..%2fetc/passwd",
        "/%2e%2e/server.py",
        "//etc/passwd",
        "/etc/passwd",
        "/served.js",
        "/page/index.html",
        "/index.html/",
        "/style.css%00.js",
        "/api/../index.html",
        "/api/trajectory?run=../run&line=1",
        "/api/trajectory?run=run&line=999",
        "/api/rows",
        "http://127.0.0.1/etc/passwd",
    ],
)
def test_only_known_paths_are_served(viewer: Viewer, path: str) -> None:
    answer, body = ask(viewer, path)
    assert answer.status == 404
    assert list(json.loads(body)) == ["error"]


@pytest.mark.parametrize(
    "query",
    ["line=x", "line=-1", "line=1e3", "line=" + "9" * 300, "line=1&sort=x", "&".join(f"a{n}=1" for n in range(99))],
)
def test_bad_questions_are_told(viewer: Viewer, query: str) -> None:
    answer, body = ask(viewer, f"/api/trajectory?run=run&{query}")
    assert (answer.status, list(json.loads(body))) == (400, ["error"])


def test_address_that_cannot_be_read(viewer: Viewer) -> None:
    with socket.create_connection(viewer.server.server_address[:2], timeout=60) as connection:
        connection.sendall(b"GET http://[::1/ HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.0 400 ")


def test_only_this_machine_is_listened_to(viewer: Viewer) -> None:
    host, port = viewer.server.server_address[:2]
    assert host == "127.0.0.1"
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=30)  # another loopback address: not all are listened to


def test_changed_file_is_a_conflict(viewer: Viewer, run: Path) -> None:
    source = viewer.runs["run"]
    path = run / "trajectories.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"p1"', b'"x1"'))
    with pytest.raises(DataError, match="load it again"):
        source.record({"line": 1, "offset": 0, "length": 1 << 20, "problem_id": "p1", "sample": 0})


def test_removed_run_is_told(viewer: Viewer, run: Path) -> None:
    assert ask(viewer, "/api/trajectory?run=run&line=1")[0].status == 200
    (run / "trajectories.jsonl").unlink()
    with pytest.raises(DataError, match="was the run moved or removed"):
        viewer.runs["run"].record({"line": 1, "offset": 0, "length": 9, "problem_id": "p1", "sample": 0})


def test_index_removed_under_the_viewer_is_made_again(viewer: Viewer, tmp_path: Path) -> None:
    index = viewer.runs["run"].index
    whole(index)
    shutil.rmtree(tmp_path / "cache")
    assert whole(index).lines == 8
    assert json.loads(ask(viewer, "/api/rows?run=run")[1])["total"] == 8


def test_viewer_follows_a_running_run(viewer: Viewer, run: Path) -> None:
    with (run / "trajectories.jsonl").open("ab") as file:
        file.write(lines_of(group(3)))
    deadline = time.monotonic() + 60
    while json.loads(ask(viewer, "/api/rows?run=run")[1])["total"] != 12:
        assert time.monotonic() < deadline, "the new trajectories never came"


def test_runs_get_names_that_differ(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name / "seed-0", []) for name in ("a b", "c")]
    assert [source.name for source in sources([*runs, runs[0]], folder=tmp_path / "cache")] == [
        "a-b~seed-0",
        "c~seed-0",
    ]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    for runs in ([], [tmp_path], [tmp_path / "nothing"]):
        with pytest.raises(DataError, match="must be"):
            sources(runs, folder=tmp_path / "cache")


def test_taken_port_is_told(viewer: Viewer, run: Path) -> None:
    port = viewer.server.server_address[1]
    with pytest.raises(ConfigError, match=f"port {port} must be free"):
        serve([run], port=port, on_ready=print)


def test_serve_until_interrupted(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from sod.view import serve\n"
        f"serve([Path({str(run)!r})], on_ready=lambda url: print(url, flush=True))\n"
        "print(*sorted({'torch', 'transformers', 'matplotlib'} & set(sys.modules)), 'ended')"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "home")}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            host, port = url.removeprefix("http://").rstrip("/").split(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("GET", "/api/trajectory?run=run&line=1")
            assert json.loads(connection.getresponse().read())["row"]["line"] == 1
            process.send_signal(signal.SIGINT)
            assert process.stdout.read().split() == ["ended"]
        finally:
            process.kill()
    assert list((tmp_path / "home" / "sod" / "view").glob("*.sqlite"))


# ---- export


def test_export(run: Path, tmp_path: Path) -> None:
    index = write_export(run, tmp_path / "out", limit=3, folder=tmp_path / "cache")
    assert index == tmp_path / "out" / "index.html"
    data = {path.stem: path.read_text(encoding="ascii") for path in (tmp_path / "out" / "data").iterdir()}
    assert set(data) >= {"rows", "2", "6"}  # wrong after a failed call: the most telling
    assert len(data) == 4
    rows = json.loads(data["rows"].removeprefix('sod.receive("rows", ').removesuffix(");\n"))
    assert (rows["num_left_out"], len(rows["rows"])) == (5, 3)
    assert sorted(row["line"] for row in rows["rows"]) == [row["line"] for row in rows["rows"]]


def test_export_again_and_elsewhere(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_export(run, out, folder=tmp_path / "cache")
    write_export(run, out, limit=1, folder=tmp_path / "cache")
    assert len(list((out / "data").iterdir())) == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="earlier export"):
        write_export(run, mine, folder=tmp_path / "cache")
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="earlier export"):
        write_export(tmp_path / "nothing", mine, folder=tmp_path / "cache")  # told before a long run is read
    with pytest.raises(ConfigError, match="at least 1"):
        write_export(run, out, limit=0)


def test_export_where_nothing_can_be_written(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises((ConfigError, StorageError), match="must be"):
        write_export(run, tmp_path / "file" / "out", folder=tmp_path / "cache")


def test_exported_scripts_hold_no_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [trajectory("p", texts=[HOSTILE], statuses=("ok",), observation=HOSTILE)])
    write_export(run, tmp_path / "out", folder=tmp_path / "cache")
    assert all("<" not in path.read_text(encoding="ascii") for path in (tmp_path / "out" / "data").iterdir())
    shutil.rmtree(tmp_path / "out")

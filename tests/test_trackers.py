"""Trackers: what reaches TensorBoard's files, wandb's offline run and trackio's SQLite, and what never does."""

from __future__ import annotations

import json
import os
import pty
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import sod.trackers
from sod.config import EvalConfig, SFTConfig, TrainConfig, load, parse
from sod.errors import ConfigError
from sod.trackers import tracking
from sod.trackers.memo import Memo
from sod.trackers.names import GROUPS, NUM_STEPS, evaluated, grouped
from sod.trackers.post import MAX_WAITING, Post, Row
from sod.trackers.told import told

SECRET = "hunter2-in-a-url"
UPDATE = {
    "update": 1,
    "reward": 0.5,
    "divergence": 0.25,
    "tool_calls": 1.5,
    "rollout_s": 2.0,
    "loss": float("nan"),
    "new": True,
    "later": 3,
    "memory": {"host_gib": 1.5},
    "text": "a trajectory's words",
}
NUMBERS = {
    "train/reward": 0.5,
    "signal/divergence": 0.25,
    "tools/tool_calls": 1.5,
    "time/rollout_s": 2.0,
    "memory/host_gib": 1.5,
    "other/later": 3.0,
}
EVALUATED = {"update": 2, "avg@k": 0.75, "k": 4, "tool_status": {"ok": 3}, "maj@k": None, "texts": ["a"]}


def config(run: Path, *to: str, **tracking: Any) -> TrainConfig:
    model = {"path": "m", "engine": "server", "server": {"url": f"http://me:{SECRET}@host/v1", "model": "m"}}
    return parse(
        TrainConfig,
        {
            "run": str(run),
            "student": {"path": "s"},
            "teacher": {**model, "server": {**model["server"], "processed_logprobs": True}},
            "data": {"path": "d"},
            "tracking": {"to": list(to), **tracking},
        },
    )


def tell(settings: TrainConfig, *events: tuple[str, Mapping[str, Any]]) -> list[str]:
    """One session of a run; what was warned of."""
    warnings: list[str] = []
    with tracking(settings, warn=warnings.append) as listener:
        for event, values in events:
            listener(event, values)
    return warnings


def updates(*numbers: int) -> list[tuple[str, Mapping[str, Any]]]:
    return [("update", {**UPDATE, "update": number, "reward": number / 10}) for number in numbers]


# ---- names


def test_numbers_by_their_full_names_and_nothing_else() -> None:
    assert grouped(UPDATE) == NUMBERS
    assert evaluated(EVALUATED) == {"evaluation/avg@k": 0.75, "evaluation/k": 4.0}
    assert evaluated({"avg@k": 1}, benchmark="aime24") == {"evaluation/aime24/avg@k": 1.0}


def test_no_name_stands_in_two_groups() -> None:
    names = [name for group, each in GROUPS.items() if group != "evaluation" for name in each]
    assert len(names) == len(set(names))


def test_as_many_steps_as_are_measured() -> None:
    from sod.metrics import MAX_REPORTED_STEPS

    assert NUM_STEPS == MAX_REPORTED_STEPS


# ---- settings


def test_off_by_default() -> None:
    sections = {"run": "r", "model": {"path": "m"}, "benchmarks": ["d"]}
    assert parse(EvalConfig, sections).tracking.to == ()
    assert load(SFTConfig, None, overrides=["run=r", "student.path=s", "traces=t", 'tracking.to=["wandb"]']).tracking.to
    with pytest.raises(ConfigError, match="once"):
        config(Path("r"), "wandb", "wandb")
    with pytest.raises(ConfigError, match=r"tracking\.to"):
        config(Path("r"), "mlflow")


def test_nothing_is_imported_or_written_unless_it_is_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\nimport test_trackers as t\n"
        f"t.tell(t.config(Path({str(tmp_path / 'run')!r})), *t.updates(1))\n"
        "print([name for name in ('wandb', 'trackio', 'tensorboard', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sod.trackers, "find_spec", lambda _name: None)
    with (
        pytest.raises(ConfigError, match=r'pip install "sod-distill\[trackers\]"'),
        tracking(config(tmp_path, "wandb"), warn=print),
    ):
        pass


def test_the_config_is_told_without_what_a_url_hides(tmp_path: Path) -> None:
    settings = told(config(tmp_path))
    assert settings["teacher"]["server"]["url"] == "http://host/v1"
    assert SECRET not in json.dumps(settings)
    assert settings["data"]["path"] == "d"


# ---- TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    read.Reload()
    return {tag: [(event.step, round(event.value, 6)) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_tensorboard_reads_it_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pytest.importorskip("tensorboard")
    settings = config(tmp_path, "tensorboard")
    assert tell(settings, *updates(1, 2), ("evaluation", EVALUATED)) == []
    read = scalars(tmp_path / "tracking" / "tensorboard")
    assert read["train/reward"] == [(1, 0.1), (2, 0.2)]
    assert read["evaluation/avg@k"] == [(2, 0.75)]
    assert set(read) == {*NUMBERS, "evaluation/avg@k", "evaluation/k"}
    events = EventAccumulator(str(tmp_path / "tracking" / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("config")
    (shown,) = text.tensor_proto.string_val
    assert b'"method": "sod"' in shown
    assert SECRET.encode() not in shown


def test_tensorboard_forgets_what_a_resumed_run_tells_again(tmp_path: Path) -> None:
    settings = config(tmp_path, "tensorboard")
    tell(settings, *updates(1, 2, 3))
    again = ("update", {**UPDATE, "update": 3, "reward": 0.9})
    tell(settings, ("resumed", {"update": 2}), again, *updates(4))
    read = scalars(tmp_path / "tracking" / "tensorboard")
    assert read["train/reward"] == [(1, 0.1), (2, 0.2), (3, 0.9), (4, 0.4)]


def test_an_evaluation_told_after_its_update_leaves_the_update_there(tmp_path: Path) -> None:
    """The run was stopped between update 2, with its checkpoint, and the evaluation after it."""
    settings = config(tmp_path, "tensorboard")
    tell(settings, ("evaluation", {**EVALUATED, "update": 0}), *updates(1, 2))
    tell(settings, ("resumed", {"update": 2}), ("evaluation", EVALUATED), *updates(3))
    read = scalars(tmp_path / "tracking" / "tensorboard")
    assert read["train/reward"] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert read["evaluation/avg@k"] == [(0, 0.75), (2, 0.75)]


def test_a_run_that_starts_again_is_told_again(tmp_path: Path) -> None:
    """It was stopped before its first checkpoint."""
    settings = config(tmp_path, "tensorboard")
    for _ in range(2):
        tell(settings, ("evaluation", {**EVALUATED, "update": 0}), *updates(1))
    read = scalars(tmp_path / "tracking" / "tensorboard")
    assert read["train/reward"] == [(1, 0.1)]
    assert read["evaluation/avg@k"] == [(0, 0.75)]


# ---- wandb


def wandb_records(folder: Path) -> Iterator[Any]:
    """Records of an offline run's file: protobufs in a log of blocks of 32 KiB, each piece with a header of 7 bytes
    (checksum, length, whether it begins or ends a record), as LevelDB has them."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (32768 - place % 32768) < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield wandb_internal_pb2.Record.FromString(record)
            record = b""


def tell_wandb(settings: TrainConfig, *events: tuple[str, Mapping[str, Any]]) -> list[str]:
    """A session, and the end of its process: only then is everything in wandb's file."""
    import wandb

    warnings = tell(settings, *events)
    wandb.teardown()
    return warnings


def history(records: list[Any]) -> list[dict[str, Any]]:
    """The rows that were logged."""
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in each.history.item}
        for each in records
        if each.HasField("history")
    ]


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)


@pytest.mark.usefixtures("offline")
def test_wandb_reads_back_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    settings = config(tmp_path / "run", "wandb", project="p", name="my run")
    assert tell_wandb(settings, *updates(1, 2), ("evaluation", EVALUATED)) == []
    folder = tmp_path / "run" / "tracking"
    records = list(wandb_records(folder))
    runs = [each.run for each in records if each.HasField("run")]
    assert {(run.project, run.display_name, run.run_id) for run in runs} == {
        ("p", "my run", Memo.read(folder / "wandb.json").id)
    }
    sent = {item.key: json.loads(item.value_json) for run in runs for item in run.config.update}
    assert sent["method"] == "sod"
    assert sent["teacher"]["server"]["url"] == "http://host/v1"
    steps = {int(row["_step"]): row for row in history(records)}
    assert sorted(steps) == [1, 2]
    assert {name: steps[1][name] for name in NUMBERS} == {**NUMBERS, "train/reward": 0.1}
    assert (steps[2]["evaluation/avg@k"], steps[2]["train/reward"], steps[2]["update"]) == (0.75, 0.2, 2)


@pytest.mark.usefixtures("offline")
def test_wandb_gets_no_more_than_that(tmp_path: Path) -> None:
    """Neither keys nor the machine, nor what the command was called with."""
    tell_wandb(config(tmp_path, "wandb"), *updates(1))
    (path,) = (tmp_path / "tracking").glob("wandb/offline-run-*/run-*.wandb")
    data = path.read_bytes()
    assert b"train/reward" in data
    for private in (SECRET, "k" * 40, "trajectory's words", sys.argv[0]):
        assert private.encode() not in data, private
    assert {each.run.host for each in wandb_records(tmp_path / "tracking")} == {""}
    kinds = {each.WhichOneof("record_type") for each in wandb_records(tmp_path / "tracking")}
    assert kinds.isdisjoint({"output", "output_raw", "stats", "environment"}), kinds
    names = [str(file.path) for each in wandb_records(tmp_path / "tracking") for file in each.files.files]
    assert not [name for name in names if not name.endswith(("config.yaml", "wandb-summary.json"))], names


@pytest.mark.usefixtures("offline")
def test_wandb_goes_on_in_the_same_run_where_it_was(tmp_path: Path) -> None:
    settings = config(tmp_path, "wandb")
    tell_wandb(settings, *updates(1, 2, 3))
    first = next(tmp_path.glob("tracking/wandb/offline-run-*"))
    first.rename(tmp_path / "first")
    tell_wandb(settings, ("resumed", {"update": 2}), *updates(3, 4))
    records = list(wandb_records(tmp_path / "tracking"))
    assert {each.run.run_id for each in records if each.HasField("run")} == {first.name.rpartition("-")[2]}
    assert [(row["_step"], row["update"]) for row in history(records)] == [(4, 4)]
    assert not [item for each in records for item in each.run.config.update if item.key == "method"]


def test_wandb_never_asks_on_the_terminal(tmp_path: Path) -> None:
    """Online without a key, its own way is a menu on the terminal that waits for an answer."""
    pytest.importorskip("wandb")
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\nimport test_trackers as t\n"
        f"print(t.tell(t.config(Path({str(tmp_path / 'run')!r}), 'wandb'), *t.updates(1)))"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), "TERM": "xterm"}
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=environment, timeout=120)
    os.close(theirs)
    os.close(ours)
    assert b"No API key configured" in done.stdout
    assert done.stdout.count(b"wandb is told nothing any more") == 1


# ---- trackio


def test_trackio_reads_back(tmp_path: Path) -> None:
    """In a process of its own: where it writes is decided when it is imported. Two sessions, one run."""
    pytest.importorskip("trackio")
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, 'tests')\nimport test_trackers as t\n"
        f"settings = t.config(Path({str(tmp_path / 'run')!r}), 'trackio', project='p', name='mine')\n"
        "print('WARNED', t.tell(settings, *t.updates(1, 2), ('evaluation', t.EVALUATED)))\n"
        "print('WARNED', t.tell(settings, ('resumed', {'update': 1}), *t.updates(2, 3)))\n"
        "from trackio.sqlite_storage import SQLiteStorage\nimport json\n"
        "(run,) = SQLiteStorage.get_runs('p')\n"
        "print('READ', json.dumps([run, SQLiteStorage.get_logs('p', run), SQLiteStorage.get_run_config('p', run)]))\n"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRACKIO_")}
    environment |= {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("WARNED")] == ["WARNED []"] * 2, done.stderr
    name, rows, settings = json.loads(next(line for line in lines if line.startswith("READ "))[5:])
    assert name == f"mine {Memo.read(tmp_path / 'run' / 'tracking' / 'trackio.json').id}"
    rewards = [(row["step"], row["train/reward"]) for row in rows if "train/reward" in row]
    assert rewards == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert [row["evaluation/avg@k"] for row in rows if "evaluation/avg@k" in row] == [0.75]
    assert settings["method"] == "sod"
    assert SECRET not in done.stdout
    assert list((tmp_path / "trackio").glob("*.db"))


# ---- failures


class Scripted:
    """A tracker that does as it is told."""

    replaces = False

    def __init__(self, on_send: Callable[[int], object] = lambda _step: None) -> None:
        self.on_send, self.sent, self.closed = on_send, list[tuple[int, Mapping[str, float]]](), False

    def send(self, numbers: Mapping[str, float], *, step: int) -> None:
        self.on_send(step)
        self.sent.append((step, numbers))

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Makes every tracker begin so."""

    def use(begin: Any) -> None:
        monkeypatch.setattr(sod.trackers, "_begin", begin)

    return use


def raising(error: BaseException) -> Callable[..., Any]:
    def begin(*_: Any) -> Any:
        raise error

    return begin


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("[bold]their bug"), SystemExit(3)]
)
def test_one_that_cannot_begin_is_warned_of_once(tmp_path: Path, scripted: Any, error: BaseException) -> None:
    scripted(raising(error))
    (warning,) = tell(config(tmp_path, "wandb"), *updates(1, 2, 3))
    assert warning.startswith(f"wandb is told nothing any more, because {type(error).__name__}: ")
    assert str(error) in warning


def test_one_that_fails_later_is_closed_and_others_go_on(tmp_path: Path, scripted: Any) -> None:
    def fail_at_2(step: int) -> None:
        if step == 2:
            raise ConnectionError("gone")

    trackers = {"wandb": Scripted(fail_at_2), "trackio": Scripted()}
    scripted(lambda name, *_: trackers[name])
    (warning,) = tell(config(tmp_path, "wandb", "trackio"), *updates(1, 2, 3))
    assert "wandb" in warning
    assert "ConnectionError: gone" in warning
    assert [step for step, _ in trackers["wandb"].sent] == [1]
    assert [step for step, _ in trackers["trackio"].sent] == [1, 2, 3]
    assert trackers["wandb"].closed
    assert trackers["trackio"].closed


def test_one_that_hangs_costs_the_run_nothing(tmp_path: Path, scripted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row waits for it, the end waits for so long and no longer."""
    released = threading.Event()
    monkeypatch.setattr(sod.trackers, "CLOSE_S", 0.2)
    scripted(lambda *_: Scripted(lambda _step: released.wait(60)))
    (warning,) = tell(config(tmp_path, "wandb"), *updates(*range(1, MAX_WAITING // 2)))
    assert "did not finish" in warning
    released.set()


def test_one_that_is_slow_to_finish_does_not_keep_the_next_from_it(tmp_path: Path, scripted: Any) -> None:
    finished, in_time = threading.Event(), list[bool]()
    trackers = {"wandb": Scripted(lambda _step: in_time.append(finished.wait(10))), "trackio": Scripted()}
    trackers["trackio"].close = finished.set  # type: ignore[method-assign]
    scripted(lambda name, *_: trackers[name])
    assert tell(config(tmp_path, "wandb", "trackio"), *updates(1)) == []
    assert in_time == [True]


def test_one_that_is_too_slow_is_given_up(tmp_path: Path, scripted: Any) -> None:
    released = threading.Event()
    scripted(lambda *_: Scripted(lambda _step: released.wait(60)))
    warnings: list[str] = []
    with tracking(config(tmp_path, "wandb"), warn=warnings.append) as listener:
        for event, values in updates(*range(1, MAX_WAITING + 10)):
            listener(event, values)
        assert len(warnings) == 1
        assert f"did not take {MAX_WAITING} rows" in warnings[0]
        released.set()
    assert len(warnings) == 1


def test_a_disk_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path) -> None:
    """A file stands where the folder should be: the real TensorBoard cannot begin."""
    (tmp_path / "tracking").touch()
    (warning,) = tell(config(tmp_path, "tensorboard"), *updates(1, 2))
    assert "tensorboard is told nothing any more" in warning


def test_a_finished_run_is_not_sent_again(tmp_path: Path, scripted: Any) -> None:
    scripted(raising(AssertionError("begun")))
    result = {"benchmarks": {"aime24": {"avg@k": 0.5, "num_samples": 4}}}
    assert tell(config(tmp_path, "wandb"), ("finished", {"run": "r"}), ("result", result)) == []


def test_what_an_evaluation_tells(tmp_path: Path, scripted: Any) -> None:
    tracker = Scripted()
    scripted(lambda *_: tracker)
    result = {"benchmarks": {"aime24": {"avg@k": 0.5, "num_samples": 4}, "mine.jsonl": {"num_problems": 0}}}
    tell(config(tmp_path, "wandb"), ("progress", {"done": 2, "total": 4, "correct": 0.5}), ("result", result))
    last = {
        "evaluation/aime24/avg@k": 0.5,
        "evaluation/aime24/num_samples": 4,
        "evaluation/mine.jsonl/num_problems": 0,
    }
    assert tracker.sent == [(2, {"evaluation/correct": 0.5}), (4, last)]


# ---- the memo


@pytest.mark.parametrize(
    "text", ["", "[]", '{"id": "../x", "told": {}}', '{"id": "a", "told": {"update": "x"}}', "\x00"]
)
def test_a_damaged_memo_begins_a_new_run(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    memo = Memo.read(tmp_path / "m.json")
    assert memo.is_new
    assert memo.id.isalnum()
    memo.note("update", 3)
    memo.note("update", 2)
    again = Memo.read(tmp_path / "m.json")
    assert (again.id, again.told, again.is_new) == (memo.id, {"update": 3}, False)


def test_what_an_earlier_session_told_is_not_told_again(tmp_path: Path) -> None:
    memo = Memo(path=tmp_path / "m.json", told={"update": 2})
    tracker = Scripted()
    post = Post(name="x", memo=memo, begin=lambda *_: tracker)
    for event, step in (("evaluation", 2), ("update", 2), ("update", 3)):
        post.put(Row(event=event, step=step, numbers={"a": 1.0}))
    post.end()
    post.join(timeout_s=60)
    assert [step for step, _ in tracker.sent] == [2, 3]
    assert Memo.read(memo.path).told == {"update": 3, "evaluation": 2}

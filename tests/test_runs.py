"""The run directory: made, continued, refused, torn, locked, and on a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sod.errors import ConfigError, DataError, StorageError
from sod.records import score_of, trajectory_of, trajectory_record
from sod.runs import RunDirectory, read_records, read_trajectories
from sod.types import MalformedCall, Score, StopReason, ToolCall, ToolResult, ToolStatus, Trajectory, Turn

CONFIG = {"run": "x", "seed": 0, "optimizer": {"lr": 0.1, "betas": [0.9, 0.999]}}


def opened(path: Path, *, command: str = "train", free: Sequence[str] = ("run",), **changes: Any) -> RunDirectory:
    return RunDirectory.open(path, config_json=json.dumps({**CONFIG, **changes}), command=command, free=free)


def lines(path: Path) -> list[dict[str, Any]]:
    return list(read_records(path))


# ---- taking a directory


def test_a_new_run(tmp_path: Path) -> None:
    with opened(tmp_path / "deep" / "run") as run:
        assert not run.resumed
        assert not run.finished
        assert run.status["state"] == "running"
        assert json.loads((run.path / "config.json").read_text()) == CONFIG
        facts = json.loads((run.path / "run.json").read_text())
        assert facts["command"] == "train"
        (session,) = facts["sessions"]
        assert session["pid"] == os.getpid()
        assert session["python"] == ".".join(map(str, sys.version_info[:3]))
        assert {"sod", "torch", "transformers", "platform", "git_commit", "argv", "started"} <= session.keys()
        run.finish()
    assert run.status["state"] == "finished"


def test_a_fact_that_another_session_noted_otherwise_is_found(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        assert run.note("tool", "a")
    with opened(tmp_path / "run"):
        pass  # it noted nothing
    with opened(tmp_path / "run") as run:
        assert run.note("tool", "a")
    with opened(tmp_path / "run") as run:
        assert not run.note("tool", "b")
        assert run.note("other", 1)


def test_an_unfinished_run_is_continued_and_a_finished_one_says_so(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        run.append("metrics", {"update": 1})
    assert run.status["state"] == "interrupted"
    with opened(tmp_path / "run", run="moved/elsewhere") as run:
        assert run.resumed
        run.append("metrics", {"update": 2})
        run.finish("done")
    assert len(json.loads((run.path / "run.json").read_text())["sessions"]) == 2
    assert lines(run.path / "metrics.jsonl") == [{"update": 1}, {"update": 2}]
    before = (run.path / "run.json").read_bytes()
    with opened(tmp_path / "run") as run:
        assert run.finished
        assert run.status["reason"] == "done"
    assert (run.path / "run.json").read_bytes() == before


def test_another_config_names_the_keys(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    with pytest.raises(ConfigError, match=r"differ: extra, optimizer\.lr, seed;"):
        opened(tmp_path / "run", seed=1, optimizer={"lr": 0.2, "betas": [0.9, 0.999]}, extra=1)


def test_a_section_that_an_older_version_did_not_know_is_told_by_its_keys(tmp_path: Path) -> None:
    opened(tmp_path / "run", free=("tracking.",)).close()
    opened(tmp_path / "run", free=("tracking.",), tracking={"to": []}).close()
    with pytest.raises(ConfigError, match=r"differ: sandbox\.limits\.cpu;"):
        opened(tmp_path / "run", free=("tracking.",), tracking={"to": []}, sandbox={"limits": {"cpu": 1}})


def test_a_run_that_failed_before_it_recorded_anything_gives_way(tmp_path: Path) -> None:
    with pytest.raises(DataError), opened(tmp_path / "run", data="typo.jsonl"):
        raise DataError("typo.jsonl: there is no such file")
    with opened(tmp_path / "run", data="right.jsonl") as run:
        assert not run.resumed
        run.append("metrics", {"update": 1})
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"] == "right.jsonl"
    with pytest.raises(ConfigError, match="data"):
        opened(tmp_path / "run", data="another.jsonl")


def test_another_command_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    with pytest.raises(ConfigError, match="sod train"):
        opened(tmp_path / "run", command="sft")


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"thesis\.tex"):
        opened(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ConfigError, match="got a file"):
        opened(tmp_path / "thesis.tex")


def test_a_start_that_was_cut_short_is_no_obstacle(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        pass
    (run.path / "config.json").unlink()
    (run.path / ".config.json.partial").write_text("{")
    with opened(tmp_path / "run", seed=5) as run:
        assert not run.resumed
    assert not (run.path / ".config.json.partial").exists()


def test_two_processes_do_not_write_one_run(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom sod.runs import RunDirectory\n"
        f"RunDirectory.open({str(tmp_path / 'run')!r}, config_json={json.dumps(CONFIG)!r}, command='train')\n"
        "print('held', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=rf"pid {holder.pid}\b"):
            opened(tmp_path / "run")
        holder.kill()
    with opened(tmp_path / "run") as run:
        assert run.resumed


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "Ctrl-C"),
        (asyncio.CancelledError(), "interrupted", "Ctrl-C"),
        (ValueError("boom"), "failed", "ValueError: boom"),
    ],
)
def test_an_exception_is_written_down(tmp_path: Path, error: BaseException, state: str, reason: str) -> None:
    with pytest.raises(type(error)), opened(tmp_path / "run") as run:
        raise error
    assert run.status["state"] == state
    assert reason in run.status["reason"]
    opened(tmp_path / "run").close()  # and the lock is free


# ---- records


def test_a_torn_last_line_is_cut(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        run.append("metrics", {"update": 1})
        run.append("timing", {"update": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"update": 2, "rew')
    (run.path / "timing.jsonl").write_text('{"upd')
    assert lines(run.path / "metrics.jsonl") == [{"update": 1}]  # a reader is not disturbed either
    with opened(tmp_path / "run") as run:
        run.append("metrics", {"update": 2})
        assert (run.path / "metrics.jsonl").read_text() == '{"update":1}\n{"update":2}\n'
        assert (run.path / "timing.jsonl").read_text() == ""


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    code = (
        "import os\nfrom sod.runs import RunDirectory\n"
        f"run = RunDirectory.open({str(tmp_path / 'run')!r}, config_json={json.dumps(CONFIG)!r}, command='train')\n"
        "for update in range(5): run.append('metrics', {'update': update})\n"
        "run.checkpoint('update-4').__enter__().joinpath('half').write_text('x')\nos.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert [record["update"] for record in lines(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    with opened(tmp_path / "run") as run:
        assert run.resumed
        assert run.latest_checkpoint() is None
        assert list(run.path.glob("checkpoints/.*")) == []


def test_truncate_after(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        for update in (1, 2, 2, 3, 4):
            run.append("metrics", {"update": update})
            run.append("trajectories", {"update": update, "text": "é\u2028" * 50})
        run.truncate_after(2)
        assert [record["update"] for record in lines(run.path / "metrics.jsonl")] == [1, 2, 2]
        assert [record["update"] for record in read_trajectories(run.path)] == [1, 2, 2]
        run.truncate_after(0)
        run.truncate_after(0)
        assert lines(run.path / "metrics.jsonl") == []


def test_numbers_that_json_does_not_know_are_null(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        run.append("metrics", {"update": 1, "loss": float("nan"), "all": [1.0, float("inf")], "text": "\ud800é"})
        text = (run.path / "metrics.jsonl").read_text(encoding="utf-8")
    record = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert record["loss"] is None
    assert record["all"] == [1.0, None]
    assert "é" in text


def test_faults_of_reading(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        list(read_trajectories(tmp_path))
    (tmp_path / "trajectories.jsonl").write_text('{"a": 1}\nx\n')
    with pytest.raises(DataError, match="line 2"):
        list(read_trajectories(tmp_path))


# ---- checkpoints


def test_checkpoints_are_whole_and_the_last_one_is_known(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        assert run.latest_checkpoint() is None
        for name in ("update-9", "update-10", "update-10"):
            with run.checkpoint(name) as folder:
                assert list(folder.iterdir()) == []
                (folder / "weights").write_text(name)
                assert run.checkpoint_path(name) != folder
        assert run.latest_checkpoint() == run.checkpoint_path("update-10")
        with pytest.raises(UnicodeEncodeError), run.checkpoint("update-11") as folder:
            (folder / "weights").write_text("half \ud800", encoding="utf-8")
        assert run.latest_checkpoint() == run.checkpoint_path("update-10")
        assert sorted(path.name for path in run.path.glob("checkpoints/*")) == ["latest", "update-10", "update-9"]
        (run.path / "checkpoints" / "latest").write_text("deleted")
        assert run.latest_checkpoint() == run.checkpoint_path("update-10")


def test_a_checkpoint_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run, run.checkpoint("last") as folder:
        (folder / "weights").write_text("old")
    run.checkpoint_path("last").rename(run.path / "checkpoints" / ".last.old")  # killed between the two renames
    with opened(tmp_path / "run") as run:
        latest = run.latest_checkpoint()
        assert latest is not None
        assert (latest / "weights").read_text() == "old"


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_while_appending(small_disk: Path) -> None:
    written = 0
    with contextlib.suppress(StorageError), opened(small_disk / "run") as run:
        for written in range(1000):
            run.append("trajectories", {"update": written, "text": "x" * 3000})
    assert 100 < written < 1000
    assert [record["update"] for record in read_trajectories(run.path)] == list(range(written))
    assert (run.path / "trajectories.jsonl").read_bytes().endswith(b"\n")
    assert run.status["state"] == "failed"
    assert "trajectories.jsonl must be writable" in run.status["reason"]
    assert "No space left" in run.status["reason"]
    assert json.loads((run.path / "config.json").read_text()) == CONFIG
    (run.path / "trajectories.jsonl").unlink()  # the user frees some space
    opened(small_disk / "run").close()


def test_a_full_disk_at_the_start(small_disk: Path) -> None:
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with pytest.raises(StorageError, match=r"No space left.*free some space"):
        opened(small_disk / "run")
    (small_disk / "filler").unlink()
    opened(small_disk / "run").close()


def _save_with_torch(folder: Path) -> None:
    import torch

    torch.save({"x": torch.zeros(1 << 20)}, folder / "optimizer.pt")


def _save_with_safetensors(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1 << 20)}, folder / "model.safetensors")


def _save_bytes(folder: Path) -> None:
    (folder / "weights").write_bytes(bytes(1 << 22))


@pytest.mark.parametrize("save", [_save_bytes, _save_with_torch, _save_with_safetensors])
def test_a_full_disk_while_saving(small_disk: Path, save: Any) -> None:
    with opened(small_disk / "run") as run:
        with run.checkpoint("update-1") as folder:
            (folder / "weights").write_text("good")
        with (
            pytest.raises(StorageError, match=r"update-2 must be writable.*free some space"),
            run.checkpoint("update-2") as folder,
        ):
            save(folder)
        latest = run.latest_checkpoint()
        assert latest is not None
        assert (latest / "weights").read_text() == "good"
        assert [path.name for path in sorted(run.path.glob("checkpoints/*"))] == ["latest", "update-1"]
        run.append("metrics", {"update": 2})  # the half-written files are gone: there is room again


def test_dev_full(tmp_path: Path) -> None:
    with opened(tmp_path / "run") as run:
        (run.path / "metrics.jsonl").symlink_to("/dev/full")
        with pytest.raises(StorageError, match=r"metrics\.jsonl must be writable, got: No space left on device; free"):
            run.append("metrics", {"update": 1})
        (run.path / "metrics.jsonl").unlink()


def test_a_place_that_cannot_be_written() -> None:
    with pytest.raises(StorageError, match="permissions"):
        opened(Path("/proc/sod-run"))


# ---- trajectories

TRAJECTORY = Trajectory(
    problem_id="p-1",
    sample=3,
    token_ids=(5, 6, 7, 8, 9),
    num_prompt_tokens=1,
    step=(-1, 0, 0, -1, 1),
    rollout_logprobs=(0.0, -0.12345678, -1.0, 0.0, -2.0),
    turns=(
        Turn(
            text="t",
            start=1,
            end=3,
            calls=(ToolCall(name="f", arguments={"code": "é"}), MalformedCall(text="{", reason="cut")),
            results=(
                ToolResult(status=ToolStatus.OK, text="1", wall_s=0.25),
                ToolResult(status=ToolStatus.ERROR, text="e"),
            ),
        ),
        Turn(text="u", start=4, end=5),
    ),
    stop_reason=StopReason.ANSWERED,
    policy_version=2,
)


def test_trajectory_record_comes_back(tmp_path: Path) -> None:
    record = trajectory_record(
        TRAJECTORY,
        update=4,
        score=Score(value=1.0, correct=True, reason="boxed 1 equals 1", answer="1"),
        divergence=[0.1234567, 0.5],
        weight=[1.0, 0.2],
        teacher_logprobs=[-0.5, float("nan"), -3.0],
        teacher_entropies=[1.0, 2.0, 0.25],
    )
    with opened(tmp_path / "run") as run:
        run.append("trajectories", record)
        (back,) = read_trajectories(run.path)
    assert back["update"] == 4
    assert back["token_ids"] == [5, 6, 7, 8, 9]
    assert back["step"] == [-1, 0, 0, -1, 1]
    assert back["rollout_logprobs"] == [0.0, -0.123457, -1.0, 0.0, -2.0]
    assert back["divergence"] == [0.123457, 0.5]
    assert back["teacher_logprobs"] == [-0.5, None, -3.0]
    assert back["teacher_entropy"] == [1.5, 0.25], "the mean of each step"
    assert back["score"] == {"value": 1.0, "correct": True, "reason": "boxed 1 equals 1", "answer": "1"}
    assert back["stop_reason"] == "answered"
    assert back["turns"][0]["calls"] == [{"name": "f", "arguments": {"code": "é"}}, {"text": "{", "reason": "cut"}]
    assert back["turns"][0]["results"][0] == {"status": "ok", "text": "1", "wall_s": 0.25, "queue_s": 0.0, "detail": ""}
    assert back["turns"][1] == {"text": "u", "start": 4, "end": 5, "calls": [], "results": []}
    again = trajectory_record(trajectory_of(back), update=4, score=score_of(back))
    measured = ("divergence", "weight", "teacher_entropy", "teacher_logprobs")
    assert again == {key: value for key, value in back.items() if key not in measured}


def test_what_was_not_measured_is_left_out_and_lengths_are_checked() -> None:
    assert not {"score", "weight", "divergence", "teacher_logprobs"} & trajectory_record(TRAJECTORY, update=1).keys()
    with pytest.raises(AssertionError, match="2 steps"):
        trajectory_record(TRAJECTORY, update=1, weight=[1.0])
    with pytest.raises(AssertionError, match="3 sampled"):
        trajectory_record(TRAJECTORY, update=1, teacher_logprobs=[1.0])


def test_import_is_light() -> None:
    code = "import sys, sod.runs; assert not {'torch', 'transformers', 'pyarrow', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""The run directory: everything a run leaves behind.

    RUN/config.json         the resolved config; another config is refused
    RUN/run.json            command, and of every session versions, platform, git commit, argv, start time, sandbox
    RUN/status.json         running | finished | interrupted | failed, with the reason
    RUN/metrics.jsonl       one JSON object per line, appended and flushed; every record has its "update"
    RUN/trajectories.jsonl
    RUN/timing.jsonl
    RUN/checkpoints/NAME/   written beside, then renamed: a checkpoint is whole or not there

One process at a time holds the directory. After a kill the next `open` cuts a torn last line, and `truncate_after`
drops what was recorded after the checkpoint. When the disk is full the caller gets one StorageError, and what was
written before stays readable.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import json
import math
import mmap
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self, TypeAlias

import sod
from sod.errors import ConfigError, DataError, StorageError

__all__ = ["RunDirectory", "read_json", "read_records", "read_trajectories"]

State: TypeAlias = Literal["running", "finished", "interrupted", "failed"]
Log: TypeAlias = Literal["metrics", "trajectories", "timing", "rubrics"]

_LOGS: tuple[Log, ...] = ("metrics", "trajectories", "timing", "rubrics")
_LOCK = ".lock"
_BEFORE_CONFIG = frozenset({_LOCK, "run.json", "status.json"})
"""Files that may lie in a directory whose making was cut short: config.json is written last."""


def need_run(path: Path, *, files: Sequence[str]) -> None:
    """Raises DataError when a path is no run directory: one that has some of these files."""
    if not path.is_dir():
        got = "a file" if path.exists() else "nothing there"
        raise DataError(f"{path} must be a run directory, got {got}; give its path")
    if not any((path / name).exists() for name in files):
        raise DataError(f"{path} must be a run directory, got none of {', '.join(files)} in it; give another path")


class RunDirectory:
    """A run directory, held by this process until `close`.

        with RunDirectory.open("runs/a", config_json=dump(config), command="train") as run:
            if not run.finished:
                run.append("metrics", {"update": 1, "reward": 0.5})
                with run.checkpoint("update-1") as folder:
                    model.save(folder)
                run.finish()

    Leaving the block by an exception writes it into status.json: Ctrl-C as interrupted, all else as failed.
    """

    def __init__(self, path: Path, *, lock: int | None, resumed: bool) -> None:
        self.path = path
        self.resumed = resumed
        """The directory held this run already."""
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, *, config_json: str, command: str, free: Sequence[str] = ("run",)) -> Self:
        """Make the directory, or take up the run of the same config in it; a `finished` run stays as it is.

        Keys that begin with one of `free` may have other values than before, which the directory then holds.

        Raises ConfigError for a directory that holds something else, another config (the keys are named), another
        command, or that another process writes to (its id is named); StorageError when it cannot be written.
        """
        directory = Path(path)
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"{path} must be a run directory, got a file; give another `run`")
        with _storing(directory):
            directory.mkdir(parents=True, exist_ok=True)
        # Before a lock file is put into it.
        _check_contents(directory, config_json=config_json, command=command, free=free)
        run = cls(directory, lock=_locked(directory), resumed=False)
        try:
            run.resumed = _check_contents(directory, config_json=config_json, command=command, free=free)
            run._begin(config_json, command)
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def hold(cls, path: str | Path, *, command: str) -> Self:
        """Take hold of a run that is there, to work on its records; its config and sessions stay as they are.

        Raises ConfigError when there is no run of that command, or another process writes to it.
        """
        directory = Path(path)
        if not (directory / "config.json").is_file():
            raise ConfigError(f"{path} must be a run directory of `sod {command}`, got none there; give its path")
        held = read_json(directory / "run.json").get("command")
        if held != command:
            raise ConfigError(f"{path} must hold a run of `sod {command}`, got one of `sod {held}`; give another path")
        run = cls(directory, lock=_locked(directory), resumed=True)
        with _storing(directory):
            for log in _LOGS:
                _cut_torn_line(run._log_path(log))
        return run

    def _begin(self, config_json: str, command: str) -> None:
        if self.finished:
            return
        with _storing(self.path):
            _remove_leftovers(self.path)
            for log in _LOGS:
                _cut_torn_line(self._log_path(log))
        self._describe(command)
        self._mark("running", "")
        self._write("config.json", config_json)  # last: it marks a directory as taken

    @property
    def status(self) -> Mapping[str, Any]:
        """Content of status.json: `state`, `reason`, `pid`, `time`; empty when it is missing or unreadable."""
        return read_json(self.path / "status.json")

    @property
    def finished(self) -> bool:
        """The run came to its end: there is nothing left to do."""
        return self.status.get("state") == "finished"

    # ---- records

    def append(self, log: Log, record: Mapping[str, Any]) -> None:
        """Add one line to metrics, trajectories or timing. Numbers that are not finite are written as null.

        Raises StorageError; the file then ends with the record before.
        """
        path = self._log_path(log)
        line = _json_line(record)
        with _storing(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                _write_whole(descriptor, line)
            finally:
                os.close(descriptor)

    def truncate_after(self, update: int) -> None:
        """Drop the records of updates after `update` (those of a checkpoint's update stay). Records lie in order."""
        for log in _LOGS:
            path = self._log_path(log)
            with _storing(path):
                _drop_after(path, update)

    @contextmanager
    def replacing(self, log: Log) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Write other records in place of a log's; they stand when the block ends well. Raises StorageError."""
        path = self._log_path(log)
        partial = path.with_name(f".{path.name}.partial")
        with _storing(path):
            try:
                with partial.open("wb") as file:
                    yield lambda record: _write_line(file, record)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run, whole or not at all. Raises StorageError."""
        self._write(name, text)

    def write_json(self, name: str, value: Any) -> None:
        """Write a result beside the records, whole or not at all. Raises StorageError."""
        self._write(name, json.dumps(_finite(value), indent=2, ensure_ascii=False) + "\n")

    def _log_path(self, log: Log) -> Path:
        return self.path / f"{log}.jsonl"

    def _write(self, name: str, text: str) -> None:
        with _storing(self.path / name):
            write_atomic(self.path / name, text.encode())

    # ---- checkpoints

    def checkpoint_path(self, name: str) -> Path:
        """Where the checkpoint of that name lies, or would."""
        return self.path / "checkpoints" / name

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint that was written last, whole; None when there is none."""
        with suppress(OSError):
            named = self.checkpoint_path((self.path / "checkpoints" / "latest").read_text(encoding="utf-8").strip())
            if named.is_dir() and named.parent.name == "checkpoints":
                return named
        whole = [path for path in self.path.glob("checkpoints/[!.]*") if path.is_dir()]
        return max(whole, key=lambda path: path.stat().st_mtime_ns, default=None)

    @contextmanager
    def checkpoint(self, name: str) -> Iterator[Path]:
        """An empty folder to write into; it becomes `checkpoints/name` (replacing one) when the block ends well.

        Raises StorageError when the disk is full, also when the library that writes says so in its own way.
        """
        target = self.checkpoint_path(name)
        assert target.parent == self.path / "checkpoints", f"a checkpoint's name must be one folder, got {name!r}"
        assert not name.startswith((".", "latest")), f"names that start with a dot or `latest` are taken, got {name!r}"
        partial = target.with_name(f".{name}.partial")
        try:
            with _storing(target):
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                yield partial
                _sync(partial)
                _replace_folder(partial, target)
                write_atomic(target.with_name("latest"), f"{name}\n".encode())
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    # ---- status

    def finish(self, reason: str = "") -> None:
        """The run came to its end."""
        self._mark("finished", reason)

    def interrupt(self, reason: str) -> None:
        """The run was stopped and can be continued."""
        self._mark("interrupted", reason)

    def fail(self, reason: str) -> None:
        """The run ended by an error."""
        self._mark("failed", reason)

    def _mark(self, state: State, reason: str) -> None:
        """On a full disk there is no room for a new file, but the old one can be written over."""
        path = self.path / "status.json"
        value = {"state": state, "reason": reason[:2000], "pid": os.getpid(), "time": _now()}
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        with _storing(path):
            try:
                write_atomic(path, text.encode())
            except OSError:
                with path.open("r+b") as file:
                    file.write(text.encode())
                    file.truncate()

    def close(self) -> None:
        """Let go of the directory. Calling it again does nothing."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            if self.status.get("state") == "running":
                with suppress(StorageError):  # the error under way matters more
                    self._mark(*_ending(error))
        finally:
            self.close()

    def note(self, key: str, value: Any) -> bool:
        """Adds a fact to this session in run.json: what is only known once something has started. False when another
        fact was noted last."""
        description = read_json(self.path / "run.json")
        *before, session = description["sessions"]
        session[key] = value
        self.write_json("run.json", description)
        noted = [earlier[key] for earlier in before if key in earlier]
        return not noted or noted[-1] == value

    def _describe(self, command: str) -> None:
        """run.json: the first session's facts, then one entry per session that took it up."""
        before = read_json(self.path / "run.json").get("sessions", [])
        self.write_json("run.json", {"command": command, "sessions": [*before, _session()]})


def _ending(error: BaseException | None) -> tuple[State, str]:
    if error is None:
        return "interrupted", "The command ended before the run was finished."
    if not isinstance(error, Exception):  # KeyboardInterrupt, asyncio's CancelledError, SystemExit
        return "interrupted", "Stopped from outside (Ctrl-C)."
    return "failed", f"{type(error).__name__}: {error}"


# ---- taking a directory


def _check_contents(directory: Path, *, config_json: str, command: str, free: Sequence[str]) -> bool:
    """True when the directory holds this run, False when it is empty. Raises ConfigError for anything else."""
    if not (directory / "config.json").exists():
        with _storing(directory):
            others = sorted(path.name for path in directory.iterdir() if path.name not in _BEFORE_CONFIG)
        others = [name for name in others if not name.endswith(".partial")]
        if others:
            raise ConfigError(
                f"{directory} must be empty or a run, got other files ({others[0]}, ...); give another `run`"
            )
        return False
    if _left_nothing(directory):
        return False
    old_command = read_json(directory / "run.json").get("command", command)
    if old_command != command:
        raise ConfigError(f"{directory} holds a run of `sod {old_command}`, got `sod {command}`; give another `run`")
    differing = _differing_keys(read_json(directory / "config.json"), json.loads(config_json))
    differing = [key for key in differing if not any(fnmatch.fnmatchcase(key, f"{each}*") for each in free)]
    if differing:
        raise ConfigError(
            f"{directory} holds a run with another config; these keys differ: {', '.join(differing)}; "
            "give another `run`, or the same config to continue"
        )
    return True


def _left_nothing(directory: Path) -> bool:
    """A run that failed before it recorded anything, by a typo in a path say, does not hold its directory."""
    failed = read_json(directory / "status.json").get("state") == "failed"
    return (
        failed
        and not any((directory / f"{log}.jsonl").exists() for log in _LOGS)
        and not (directory / "checkpoints").exists()
    )


def _differing_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ. A section that the old one does not know, as a run of an older version may not,
    is told by its keys."""
    differing: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        right = new.get(key)
        left = old.get(key, {} if isinstance(right, dict) else None)
        if isinstance(left, dict) and isinstance(right, dict):
            differing += _differing_keys(left, right, f"{prefix}{key}.")
        elif left != right:
            differing.append(prefix + key)
    return differing


def _locked(directory: Path) -> int | None:
    """The descriptor that holds the lock. The kernel lets go of it when the process dies, whatever kills it."""
    path = directory / _LOCK
    with _storing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 64).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"{directory} must be written by one process, got another at work (pid {holder}); "
            "wait for it, stop it, or give another `run`"
        ) from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    with suppress(OSError):  # a full disk is reported by the first write that matters
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _session() -> dict[str, Any]:
    return {
        "started": _now(),
        "argv": sys.argv,
        "pid": os.getpid(),
        "sod": sod.__version__,
        "python": platform.python_version(),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
        "platform": platform.platform(),
        "git_commit": _git_commit(),
    }


def _version(distribution: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit that holds this package's source, with "-dirty" when it was changed; None outside a checkout."""
    folder = Path(__file__).parent
    commit = _git(folder, "log", "-1", "--format=%H", "--", ".")
    if not commit:
        return None
    return f"{commit}-dirty" if _git(folder, "status", "--porcelain", "--", ".") else commit


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# ---- writing

_FULL_DISK_SIGNS = ("no space left", "os error 28", "disk quota", "file write failed", "unexpected pos")
"""How safetensors and torch say that the disk is full: as errors of their own, not as an OSError."""


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Turns a failure to write into one StorageError that names the file."""
    try:
        yield
    except OSError as error:
        raise _storage_error(
            path, error.strerror or str(error), full=error.errno in (errno.ENOSPC, errno.EDQUOT)
        ) from error
    except StorageError:
        raise
    except Exception as error:
        if not any(sign in str(error).lower() for sign in _FULL_DISK_SIGNS):
            raise
        raise _storage_error(path, str(error).splitlines()[0], full=True) from error


def _storage_error(path: Path, got: str, *, full: bool) -> StorageError:
    cure = "free some space" if full else "check the path and its permissions"
    return StorageError(f"{path} must be writable, got: {got}; {cure}, then run the same command again to continue")


def _write_whole(descriptor: int, data: bytes) -> None:
    """Append all of it, or leave the file as long as it was."""
    length = os.fstat(descriptor).st_size
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        with suppress(OSError):  # a device like /dev/full has no length
            os.ftruncate(descriptor, length)
        raise


def _write_line(file: BinaryIO, record: Mapping[str, Any]) -> None:
    file.write(_json_line(record))


def write_atomic(path: Path, data: bytes) -> None:
    """The whole file or none of it, on the disk when this returns. Raises OSError."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Bring the files to the disk: some file systems report a full disk only now."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _replace_folder(partial: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    """What a killed process left half written. A checkpoint that was moved aside but not replaced comes back."""
    for old in directory.glob("checkpoints/.*.old"):
        target = old.with_name(old.name[1 : -len(".old")])
        if not target.exists():
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    for partial in [*directory.glob("checkpoints/.*.partial"), *directory.glob(".*.partial")]:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def _cut_torn_line(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            whole = content.rfind(b"\n") + 1
        file.truncate(whole)


def _drop_after(path: Path, update: int) -> None:
    """Read from the end, so that a long file costs no more than what is dropped."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("r+b") as file:
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            end = len(content)
            while end:
                start = content.rfind(b"\n", 0, end - 1) + 1
                if json.loads(content[start:end]).get("update", update) <= update:
                    break
                end = start
        file.truncate(end)


def _json_line(record: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(_finite(record), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", errors="backslashreplace") + b"\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN: readers other than Python's would refuse the line."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


# ---- reading


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Records of a .jsonl file in order; a last line that is still being written is left out.

    Raises DataError for a missing file or a line (by its number) that is not JSON.
    """
    try:
        file = Path(path).open("rb")  # noqa: SIM115 - opened apart, so that a reader's own OSError is not renamed
    except OSError as error:
        raise DataError(f"{path} must be a readable .jsonl file, got: {error.strerror}; give a run directory") from None
    with file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: must be JSON, got a fault: {error}") from None


def read_trajectories(path: str | Path) -> Iterator[dict[str, Any]]:
    """Trajectory records (see `sod.records`) of a run directory or of one trajectories.jsonl."""
    source = Path(path)
    return read_records(source / "trajectories.jsonl" if source.is_dir() else source)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none to read."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}

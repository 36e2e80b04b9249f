"""What runs on a SandboxFusion server before the code and after it. `fusion.py` sends the source of this file.

Standard library only, Python 3.10 or later there, as for cell.py. Until the streams are taken, a failure is told on the
server's own pipes, which the code never has.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import types
from typing import Any, BinaryIO, NoReturn


def head_and_tail(file: BinaryIO, limit: int) -> tuple[bytes, bool]:
    """The bytes of a file, cut in the middle to `limit` where there are more, and whether they were cut.

    `(b"abcdefgh", 4) -> (b"ab\\n[... 4 bytes left out ...]\\ngh", True)`.
    Leaves the file at its end. Part of the loader.
    """
    size = file.seek(0, 2)
    file.seek(0)
    if size <= limit:
        return file.read(), False
    head = file.read(limit - limit // 2)
    file.seek(size - limit // 2)
    return head + b"\n[... %d bytes left out ...]\n" % (size - limit) + file.read(), True


def limit(kind: int, value: int) -> int:
    """A limit, or the hard one where that is lower; returns what it is now."""
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
    return value


def unbuffered(fd: int, errors: str) -> io.TextIOWrapper:
    """A text stream whose writes are in the file at once."""
    raw = io.FileIO(fd, "w", closefd=False)
    return io.TextIOWrapper(raw, encoding="utf-8", errors=errors, write_through=True)


def load_cell(path: str) -> Any:
    """`cell.py` from beside the code, under no name that code could import."""
    cell = types.ModuleType("cell")
    cell.__file__ = path
    with open(path, encoding="utf-8") as file:
        exec(compile(file.read(), path, "exec"), cell.__dict__)
    return cell


def set_up_world(work: str) -> None:
    """What a program expects to find, in a directory of its own."""
    os.makedirs(work, exist_ok=True)
    os.chdir(work)
    os.environ["HOME"] = os.environ["TMPDIR"] = work
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = "1"
    sys.argv, sys.path[0] = ["code.py"], work


def set_limits(memory_bytes: int, file_bytes: int) -> int:
    """Limits of this process beyond what it takes now; returns that of files."""
    with open("/proc/self/statm") as file:
        mapped_bytes = int(file.read().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_AS, mapped_bytes + memory_bytes)  # never RLIMIT_STACK: each thread would map as much
    return limit(resource.RLIMIT_FSIZE, file_bytes)


def take_streams(directory: str) -> None:
    """Files in the place of the server's pipes."""
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND
    opened = [os.open(os.path.join(directory, "stdin"), os.O_RDONLY)]
    opened += [os.open(os.path.join(directory, name), new, 0o600) for name in ("stdout", "stderr")]
    for fd, ours in enumerate(opened):  # until here a failure is told on the server's pipes, which the code never has
        os.dup2(ours, fd)
        os.close(ours)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = unbuffered(1, "replace")
    sys.stderr = unbuffered(2, "backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def shorten(path: str, max_output_bytes: int) -> tuple[bool, int]:
    """Cuts a file to head and tail; whether that was needed, and the size it had."""
    with open(path, "rb") as file:
        kept, was_cut = head_and_tail(file, max_output_bytes)
        size = file.tell()
    if was_cut:
        with open(path, "wb") as file:
            file.write(kept)
    return was_cut, size


def report(directory: str, max_output_bytes: int, file_bytes: int) -> None:
    """Shortens the output and writes what is to be known of it."""
    outcomes = [shorten(os.path.join(directory, name), max_output_bytes) for name in ("stdout", "stderr")]
    told = {
        "stdout_truncated": outcomes[0][0],
        "stderr_truncated": outcomes[1][0],
        "output_limit": max(size for _, size in outcomes) >= file_bytes,
    }
    with open(os.path.join(directory, "report"), "w") as file:
        json.dump(told, file)


def main(settings: dict[str, Any]) -> NoReturn:
    """Runs the code in `directory` as `settings` say and ends the process with its exit code."""
    directory = os.path.abspath(settings["directory"])
    cell = load_cell(os.path.join(directory, "cell.py"))
    with open(os.path.join(directory, "code"), encoding="utf-8", errors="surrogatepass", newline="") as file:
        code = file.read()
    set_up_world(os.path.join(directory, "work"))
    file_bytes = set_limits(settings["memory_bytes"], settings["file_bytes"])
    take_streams(directory)
    exit_code = cell.run_cell(code, echo_last_expression=settings["echo_last_expression"])
    with contextlib.suppress(BaseException):  # whatever the code did to us: the files then go back as they are
        report(directory, settings["max_output_bytes"], file_bytes)
    os._exit(exit_code)

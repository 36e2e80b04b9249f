"""What a forked child does: gets ready, gives everything up, runs the code. Nothing here returns.

Standard library only. From `_announce` on, what runs in this process is the code's, and nothing it says is believed.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sod.sandbox import cell
from sod.sandbox.confine import Level, Limits

READY = b"ready"
MAX_FD = 1 << 16
SESSION_FD = 3
"""Where a session's process finds the socket that cells come through."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the child is to do. `ready` is the pipe on which it says that it got as far as the code, or why not."""

    directory: str
    packages: str
    limits: Limits
    stdin: int
    stdout: int
    stderr: int
    ready: int


def run_program(level: Level, plan: Plan, *, request: int) -> NoReturn:
    """Runs one program to its end. `request` is a memory file: {"code", "files", "echo_last_expression"} as JSON."""

    def get_ready() -> dict[str, Any]:
        _take_streams(plan)
        order: dict[str, Any] = read_request(request)
        level.confine_child(plan.directory, plan.limits)
        _write_files(order["files"])
        _freshen(plan, may_use_random="random" in order["code"])
        return order

    order = _announce(get_ready, ready=plan.ready)
    os.closerange(SESSION_FD, MAX_FD)
    exit_code = 1
    try:
        exit_code = cell.run_cell(order["code"], echo_last_expression=order["echo_last_expression"])
    finally:
        os._exit(exit_code)


def run_session(level: Level, plan: Plan, *, cells: socket.socket) -> NoReturn:
    """Runs cells until there are no more. Each comes as a memory file and is answered with its exit code as text."""

    def get_ready() -> dict[str, Any]:
        _take_streams(plan)
        os.dup2(cells.fileno(), SESSION_FD)
        level.confine_child(plan.directory, plan.limits)
        _freshen(plan, may_use_random=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return {}

    _announce(get_ready, ready=plan.ready)
    os.closerange(SESSION_FD + 1, MAX_FD)
    cells.detach()
    exit_code = 1
    try:
        _serve_cells(socket.socket(fileno=SESSION_FD))
        exit_code = 0
    finally:
        os._exit(exit_code)


def read_request(fd: int) -> Any:
    """The JSON in a memory file, whatever its offset."""
    return json.loads(os.pread(fd, os.fstat(fd).st_size, 0))


def _serve_cells(cells: socket.socket) -> None:
    interpreter = cell.Interpreter()
    process = os.getpid()
    number = 0
    while True:
        message, descriptors, _, _ = socket.recv_fds(cells, 16, 1)
        if not message:
            return
        number += 1
        order = read_request(descriptors[0])
        os.close(descriptors[0])
        exit_code = 1
        with contextlib.suppress(KeyboardInterrupt):  # the interrupt of a cell that had just ended
            _write_files(order["files"])
            exit_code = interpreter.run(
                order["code"], filename=f"<cell {number}>", echo_last_expression=order["echo_last_expression"]
            )
        if os.getpid() != process:  # a child that the cell forked and did not end
            os._exit(exit_code)
        cells.send(str(exit_code).encode())


def _announce(get_ready: Callable[[], dict[str, Any]], *, ready: int) -> dict[str, Any]:
    """Says on the pipe how getting ready went; the code cannot say so later because the pipe is closed before it."""
    try:
        order = get_ready()
        os.write(ready, READY)
    except BaseException as error:
        os.write(ready, f"{type(error).__name__}: {error}".encode()[:4096])
        os._exit(1)
    return order


def _take_streams(plan: Plan) -> None:
    os.setsid()
    for target, fd in enumerate((plan.stdin, plan.stdout, plan.stderr)):
        os.dup2(fd, target)


def _write_files(files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def _freshen(plan: Plan, *, may_use_random: bool) -> None:
    """What a program expects to find: its own streams, directory and randomness (`random` reseeds itself on fork).

    The streams are unbuffered, as with `python -u`, so that what was printed is there when the process is killed.
    """
    os.environ |= {"HOME": plan.directory, "TMPDIR": plan.directory, "PYTHONPATH": plan.packages}
    sys.argv = ["code.py"]
    sys.path[:0] = [plan.directory]
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = _unbuffered(1, errors="replace")
    sys.stderr = _unbuffered(2, errors="backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    if may_use_random and "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()


def _unbuffered(fd: int, *, errors: str) -> Any:
    return io.TextIOWrapper(io.FileIO(fd, "w", closefd=False), encoding="utf-8", errors=errors, write_through=True)

"""The process that forks one child per call: imports what calls need once, keeps their clocks, reports how they ended.

Started by exec with a clean environment (`channel.py`), so nothing of the trainer is in it, and it never holds what a
call reads or writes: code, input and output are memory files that the trainer makes and whose descriptors only pass
through here. A child's copy of this process therefore has nothing of other calls in it. One thread, one selector.

Messages are JSON on a packet socket. In: the settings, then {"run": id, ...}, {"session": id}, {"cell": id, ...},
{"kill": id, ...}, {"ping": n}. Out: {"ready": layers} or {"refused": why}, then per call {"ended": id, ...}, per cell
{"cell": id, ...}, {"pong": n}. Standard library only.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import resource
import selectors
import site
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sod.sandbox import child, confine, kernel, watch
from sod.sandbox.call import Call

MIB = 1 << 20
MAX_MESSAGE_BYTES = 1 << 17
WATCH_S = 0.05
"""How often memory, disk and output of running calls are looked at; shorter calls meet the per-process limits only."""
SPARE_MEMORY_BYTES = 16 * MIB
"""What a tree of processes may take beyond its limit before it is killed: the interpreter's own pages."""
CLOCK_STEP_S = 0.01
"""How soon at the earliest the clock of a call that waited is looked at again."""
COMMON_MODULES = ("collections", "decimal", "fractions", "functools", "itertools", "math", "random", "re", "statistics")
EXERCISES = {
    "numpy": "import numpy as n; n.linalg.solve(n.eye(3), n.ones(3)); n.array([1.5]).round(1).sum(); str(n.arange(3)); "
    "n.random.rand(2); repr(n.float64(1) / 3)",
    "sympy": "import sympy as s; x = s.symbols('x'); s.solve(x**2 - 2, x); s.simplify(s.sin(x)**2 + s.cos(x)**2); "
    "str(s.expand((x + 1)**3)); s.factor(x**2 - 1); s.diff(x**2, x); s.integrate(x, x); s.factorint(12); "
    "repr(s.Rational(1, 3) + s.sqrt(8)); float(s.pi.evalf(20)); s.Matrix([[1, 2], [3, 4]]).det(); s.isprime(97)",
}
"""What is run once per package at the start: importing alone leaves most of the first call's cost to every call."""


class ForkServer:
    """The loop. `settings` are those that `channel.py` sends."""

    def __init__(self, settings: Mapping[str, Any], *, level: confine.Level, control: socket.socket) -> None:
        self._level = level
        self._control = control
        self._calls: dict[int, Call] = {}
        self._memory_bytes: int = settings["memory_mb"] * MIB
        self._disk_mb: int = settings["disk_mb"]
        self._file_bytes: int = settings["file_bytes"]
        self._output_bytes: int = settings["output_bytes"]
        self._address_space_bytes = _address_space_bytes() + self._memory_bytes
        self._shared_bytes = watch.resident_bytes(os.getpid())
        """What children have from this process and a call does not pay for."""
        self._next_watch = math.inf
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ, self._read_message)

    def serve(self) -> NoReturn:
        """Until the trainer closes its end."""
        self._send({"ready": self._level.layers})
        while True:
            for key, _ in self._selector.select(self._pause_s()):
                key.data()
            self._keep_time()

    # Messages

    def _send(self, message: Mapping[str, Any]) -> None:
        self._control.send(json.dumps(message).encode())

    def _read_message(self) -> None:
        try:
            body, descriptors, _, _ = socket.recv_fds(self._control, MAX_MESSAGE_BYTES, 4)
        except ConnectionError:
            body = b""
        if not body:
            self._leave()
        message = json.loads(body)
        try:
            self._handle(message, descriptors)
        finally:
            for fd in descriptors:
                os.close(fd)

    def _handle(self, message: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        if "ping" in message:
            self._send({"pong": message["ping"]})
        elif "run" in message:
            self._start_program(message, *descriptors)
        elif "session" in message:
            self._start_session(message["session"], *descriptors)
        elif call := self._calls.get(message["cell"] if "cell" in message else message["kill"]):
            if "cell" in message:
                self._start_cell(call, message, *descriptors)
            else:
                call.kill(reason=message["reason"])

    def _leave(self) -> NoReturn:
        """Kills and removes everything, then exits."""
        for call in self._calls.values():
            call.kill(reason="cancelled")
            os.waitpid(call.pid, 0)
            self._level.release_directory(call.directory)
        os._exit(0)

    # Starting

    def _start_program(self, message: Mapping[str, Any], request: int, stdin: int, stdout: int, stderr: int) -> None:
        limit_s: float = message["timeout_s"]

        def run(plan: child.Plan) -> NoReturn:
            child.run_program(self._level, plan, request=request)

        # A backstop for code with several threads; one that loops on one core meets the clock first.
        call = self._fork(message["run"], run, stdin=stdin, outputs=(stdout, stderr), cpu_s=math.ceil(limit_s) + 1)
        if call is not None:
            call.start_clock(limit_s)
            self._next_watch = min(self._next_watch, call.started + WATCH_S)

    def _start_session(self, number: int, stdin: int, stdout: int, stderr: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # code that answers cells without reading them must not stop us

        def run(plan: child.Plan) -> NoReturn:
            child.run_session(self._level, plan, cells=theirs)

        with theirs:
            call = self._fork(number, run, stdin=stdin, outputs=(stdout, stderr), cpu_s=None)
        if call is None:
            ours.close()
        else:
            call.cells = ours

    def _start_cell(self, call: Call, message: Mapping[str, Any], request: int) -> None:
        assert call.cells is not None
        # Where the code closed its end, or reads nothing from it, nothing can be run in this process any more.
        try:
            socket.send_fds(call.cells, [b"cell"], [request])
        except OSError:
            call.kill(reason="crashed")
            return
        call.resume()
        call.start_clock(message["timeout_s"])
        self._next_watch = min(self._next_watch, call.started + WATCH_S)
        self._selector.register(call.cells, selectors.EVENT_READ, lambda: self._finish_cell(call))

    def _fork(
        self,
        number: int,
        run: Callable[[child.Plan], NoReturn],
        *,
        stdin: int,
        outputs: Sequence[int],
        cpu_s: int | None,
    ) -> Call | None:
        """The new child's call. When the machine refuses, nothing stays behind, and the trainer is told why."""
        call = Call(number, directory="", outputs=[])
        try:
            call.directory = self._level.take_directory()
            call.ready, ready = os.pipe()
            try:
                call.pid = self._level.fork()
                if call.pid == 0:
                    self._be_child(call, run, stdin=stdin, outputs=outputs, ready=ready, cpu_s=cpu_s)
            finally:
                os.close(ready)
            call.pidfd = os.pidfd_open(call.pid)
            call.outputs = [os.dup(fd) for fd in outputs]
        except OSError as error:
            self._give_up(call, error)
            return None
        self._calls[number] = call
        self._selector.register(call.pidfd, selectors.EVENT_READ, lambda: self._finish(call))
        return call

    def _be_child(
        self,
        call: Call,
        run: Callable[[child.Plan], NoReturn],
        *,
        stdin: int,
        outputs: Sequence[int],
        ready: int,
        cpu_s: int | None,
    ) -> NoReturn:
        limits = confine.Limits(
            address_space_bytes=self._address_space_bytes,
            cpu_s=cpu_s,
            file_bytes=self._file_bytes,
            disk_mb=self._disk_mb,
        )
        plan = child.Plan(
            directory=call.directory,
            packages=self._level.packages,
            limits=limits,
            stdin=stdin,
            stdout=outputs[0],
            stderr=outputs[1],
            ready=ready,
        )
        try:
            run(plan)
        finally:  # whatever the code's own signal handlers raise: a child never goes on as a fork server
            os._exit(1)

    def _give_up(self, call: Call, error: OSError) -> None:
        if call.pid > 0:
            call.kill(reason="sandbox_error")
            os.waitpid(call.pid, 0)
        if call.directory:
            self._level.release_directory(call.directory)
        call.close()
        self._send({"ended": call.id, "killed_for": "", "failure": f"could not start a process: {error}"})

    # Ending

    def _finish_cell(self, call: Call) -> None:
        """The session says that its cell has ended: the one thing of a process's own word that we go by."""
        if call.id not in self._calls:  # its end was in the same round of events
            return
        assert call.cells is not None
        self._selector.unregister(call.cells)
        try:
            said = call.cells.recv(16).decode("ascii", "replace")
        except OSError:
            said = ""
        if not said.isdecimal():  # it closed its end or wrote something of its own: its death will be the answer
            call.kill(reason=call.killed_for or "crashed")
            return
        wall_s = call.stop_clock()
        reason, call.killed_for = call.killed_for, ""
        if not call.pause():
            call.kill(reason="crashed")
            return
        self._send({"cell": call.id, "exit_code": int(said) & 0xFF, "wall_s": wall_s, "killed_for": reason})

    def _finish(self, call: Call) -> None:
        """The child is dead, and all it started with it where a pid namespace sees to that."""
        _, wait_status, usage = os.wait4(call.pid, 0)
        used_s = call.clock.seen_s if call.clock else 0.0  # more, where the code had children nobody waited for
        wall_s = call.stop_clock()
        del self._calls[call.id]
        self._selector.unregister(call.pidfd)
        if call.cells is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(call.cells)
        said = os.read(call.ready, 4096)
        call.close()
        self._level.release_directory(call.directory)
        if said != child.READY:
            why = said.decode(errors="replace") or f"killed, wait status {wait_status}"
            failure = "" if call.killed_for else f"the child did not get as far as the code: {why}"
        else:
            failure = ""
        self._send(
            {
                "ended": call.id,
                "failure": failure,
                "code": os.waitstatus_to_exitcode(wait_status),
                "killed_for": call.killed_for,
                "started": call.started,
                "wall_s": wall_s,
                "cpu_s": max(used_s, usage.ru_utime + usage.ru_stime),
                "max_rss_mb": usage.ru_maxrss // 1024,
            }
        )

    # Watching

    def _pause_s(self) -> float | None:
        next_s = min((call.deadline for call in self._calls.values()), default=math.inf)
        next_s = min(next_s, self._next_watch)
        return None if next_s == math.inf else max(0.0, next_s - time.monotonic())

    def _keep_time(self) -> None:
        """Ends calls whose time is up, and looks at the others every now and then."""
        now = time.monotonic()
        for call in self._calls.values():
            if call.deadline <= now:
                self._check_clock(call)
        if self._next_watch <= now:
            running = [call for call in self._calls.values() if call.clock and not call.killed_for]
            for call in running:
                self._watch(call)
            self._next_watch = time.monotonic() + WATCH_S if running else math.inf

    def _check_clock(self, call: Call) -> None:
        assert call.clock is not None
        remaining_s = call.clock.remaining_s()
        if remaining_s > 0:
            call.deadline = time.monotonic() + max(remaining_s, CLOCK_STEP_S)
        elif call.cells is not None and not call.killed_for:
            call.interrupt()
        else:
            call.kill(reason="timeout")

    def _watch(self, call: Call) -> None:
        assert call.clock is not None
        call.clock.used_s()  # counts processes that will be gone by the next look
        tree = list(watch.process_tree(call.pid))
        if self._exceeds_memory(tree) or sum(watch.num_threads(pid) for pid in tree) > confine.MAX_PROCESSES:
            call.kill(reason="memory_limit")
        elif any(os.fstat(fd).st_size >= self._output_bytes for fd in call.outputs):
            call.kill(reason="output_limit")
        elif self._level.exceeds_disk(call.directory, pid=call.pid, disk_mb=self._disk_mb):
            call.kill(reason="disk_limit")

    def _exceeds_memory(self, tree: Sequence[int]) -> bool:
        """By what is resident; only where that is too much by pages shared out among their owners, which is slow."""
        limit_bytes = self._memory_bytes + SPARE_MEMORY_BYTES
        if sum(watch.resident_bytes(pid) for pid in tree) <= limit_bytes:
            return False
        return sum(watch.proportional_bytes(pid) for pid in tree) > limit_bytes + self._shared_bytes


def _address_space_bytes() -> int:
    """What this process has mapped: limits of children are relative to it."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def preload(packages: Sequence[str]) -> None:
    """Imports and exercises what calls are likely to need; what is missing is skipped."""
    for name in (*COMMON_MODULES, *packages):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
            exec(EXERCISES.get(name, ""), {})
    gc.collect()
    gc.freeze()  # children do not copy pages only to collect them
    kernel.use_huge_pages()  # a fork copies one entry for 512 pages


def main(socket_fd: int) -> NoReturn:
    """Confines this process, gets ready, serves."""
    control = socket.socket(fileno=socket_fd)
    settings = json.loads(control.recv(MAX_MESSAGE_BYTES))
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # sessions hold some each
    try:
        level = confine.enter(settings["level"], settings | {"socket_fd": socket_fd})
    except OSError as error:
        control.send(json.dumps({"refused": str(error)}).encode())
        os._exit(1)
    for name in [name for name in sys.modules if name.partition(".")[0] == "sod"]:
        del sys.modules[name]  # `import sod` finds nothing in a call
    sys.path.append(level.packages)
    for give_builtin in (site.setquit, site.sethelper, site.setcopyright):
        give_builtin()
    preload(settings["preload"])
    ForkServer(settings, level=level, control=control).serve()

"""A fork server: `python -I worker.py SETTINGS` imports what calls are likely to need, then forks one child per call.

Standard library only, started by exec with a clean environment. One thread, one selector: it serves a socket with
length-prefixed JSON frames (`{"id": 7, "code": ...}` and `{"cancel": 7}` in, one result per id out), drains the output
of running children, kills those whose time is up and reads verdicts from the kernel. What children write is only data.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import importlib
import importlib.util
import json
import math
import mmap
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from sod.sandbox import cell, confine
else:

    def _load_beside(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    cell, confine = _load_beside("cell"), _load_beside("confine")

READ_BYTES = 1 << 16
MIB = 1 << 20
COMMON_MODULES = ("collections", "decimal", "fractions", "functools", "itertools", "math", "random", "re", "statistics")
EXERCISES = {
    "numpy": "import numpy as n; n.linalg.solve(n.eye(3), n.ones(3)); n.array([1.5]).round(1).sum(); str(n.arange(3))",
    "sympy": "import sympy as s; x = s.symbols('x'); s.solve(x**2 - 2, x); s.simplify(s.sin(x)**2 + s.cos(x)**2); "
    "str(s.expand((x + 1)**3)); s.factor(x**2 - 1); s.diff(x**2, x); s.integrate(x, x); s.factorint(12)",
}
"""What is run once per package at the start: importing alone leaves most of the first call's cost to the first call."""


class Stream:
    """The reading end of one pipe, and head and tail of what came out of it: at most `keep_bytes` of any amount."""

    def __init__(self, *, keep_bytes: int) -> None:
        self.fd = -1
        self.num_bytes = 0
        self._half = max(1, keep_bytes // 2)
        self._head = bytearray()
        self._tail = bytearray()

    def add(self, chunk: bytes) -> None:
        """Takes the next bytes."""
        self.num_bytes += len(chunk)
        room = self._half - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk
        if len(self._tail) > self._half + READ_BYTES:
            del self._tail[: -self._half]

    @property
    def truncated(self) -> bool:
        """Whether bytes are missing in `text`."""
        return self.num_bytes > 2 * self._half

    def text(self) -> str:
        """What was kept, as text: `"aaa\\n[... 40 bytes left out ...]\\nzzz"` when truncated."""
        if not self.truncated:
            return (self._head + self._tail).decode("utf-8", "replace")
        gap = f"\n[... {self.num_bytes - 2 * self._half} bytes left out ...]\n"
        return self._head.decode("utf-8", "replace") + gap + self._tail[-self._half :].decode("utf-8", "replace")


class Call:
    """One running child and all that it needs from us."""

    def __init__(self, request: dict[str, Any], *, slot: int, directory: str, keep_bytes: int) -> None:
        self.request = request
        self.id: int = request["id"]
        self.slot = slot
        self.directory = directory
        self.stdout, self.stderr = Stream(keep_bytes=keep_bytes), Stream(keep_bytes=keep_bytes)
        self.child_fds: list[int] = []
        self.pid = self.pidfd = -1
        self.started = time.monotonic()
        self.deadline = self.started + request["timeout_s"]
        self.killed_for = ""
        """The verdict it was killed for: timeout, output_limit, cancelled; "" when it was not."""

    def open(self) -> None:
        """Makes the directory and the child's stdin, stdout and stderr."""
        os.mkdir(self.directory, 0o700)
        self.child_fds.append(_readable(self.request["stdin"]))
        for stream in (self.stdout, self.stderr):
            stream.fd, child_end = os.pipe()
            self.child_fds.append(child_end)
            os.set_blocking(stream.fd, False)

    def close_child_ends(self) -> None:
        """Leaves the ends to the child, so that a closed stdout is seen as such."""
        while self.child_fds:
            os.close(self.child_fds.pop())

    def kill(self, *, reason: str) -> None:
        """SIGKILL to the child and its group; the first reason stands. Its end arrives through the pidfd."""
        self.killed_for = self.killed_for or reason
        self.deadline = math.inf
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            os.killpg(self.pid, signal.SIGKILL)

    def remove(self) -> None:
        """Closes and deletes what `open` made."""
        self.close_child_ends()
        for fd in (self.pidfd, self.stdout.fd, self.stderr.fd):
            if fd >= 0:
                os.close(fd)
        self.pidfd = self.stdout.fd = self.stderr.fd = -1  # events of this round of the selector may still name them
        try:
            os.rmdir(self.directory)
        except OSError:
            shutil.rmtree(self.directory, ignore_errors=True)


class ForkServer:
    """The loop. `settings` are those that `local.py` passes; `layers` the namespaces this process is in."""

    def __init__(self, settings: dict[str, Any], *, layers: tuple[str, ...]) -> None:
        self.settings = settings
        self.calls: dict[int, Call] = {}
        self.free_slots = list(range(settings["slots"]))
        self.incoming, self.outgoing = bytearray(), bytearray()
        self.started_flags = mmap.mmap(-1, settings["slots"])
        self.first_uid: int = settings["first_uid"]
        self.drops_user = os.getuid() == 0 and confine.possible(lambda: confine.become(self.first_uid))
        self.keeps_reading = self.drops_user and confine.interpreter_is_private()
        self.own_pid_namespace = -1
        if "pidns" in layers:
            self.own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
        else:
            confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)
            signal.signal(signal.SIGTERM, lambda *_: self.leave())
            confine.die_with_parent(
                signal.SIGTERM
            )  # no namespace collapses with us: what daemons there are, we must kill
            layers = (*layers, "subreaper")
        self.layers = (*layers, *(("uid",) if self.drops_user else ()), "no_new_privs", "rlimits")
        has_own_count = self.drops_user or "userns" in layers
        self.num_processes = 128 if has_own_count else 4096  # otherwise the trainer's threads count as well
        self.address_space_bytes = _address_space_bytes() + settings["memory_mb"] * MIB
        self.selector = selectors.DefaultSelector()
        self.socket = socket.socket(fileno=settings["socket_fd"])
        self.socket.setblocking(False)
        self.selector.register(self.socket, selectors.EVENT_READ, self.serve_socket)

    def serve(self) -> NoReturn:
        """Until the other end of the socket closes."""
        self.send({"ready": True, "isolation": self.layers})
        while True:
            deadline = min((call.deadline for call in self.calls.values()), default=math.inf)
            timeout = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
            for key, events in self.selector.select(timeout):
                key.data(events)
            now = time.monotonic()
            for call in self.calls.values():
                if call.deadline <= now:
                    call.kill(reason="timeout")

    # Frames

    def send(self, message: dict[str, Any]) -> None:
        """Queues one frame and writes what the socket takes now."""
        body = json.dumps(message).encode()
        self.outgoing += len(body).to_bytes(4, "big") + body
        self.flush()

    def flush(self) -> None:
        """Writes without ever waiting for the trainer, so that its pauses do not stop our clock."""
        with contextlib.suppress(BlockingIOError):
            while self.outgoing:
                del self.outgoing[: self.socket.send(self.outgoing)]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outgoing else 0)
        if self.selector.get_key(self.socket).events != events:
            self.selector.modify(self.socket, events, self.serve_socket)

    def serve_socket(self, events: int) -> None:
        """Goes on writing, or reads frames and acts on them; leaves when the trainer is gone."""
        if events & selectors.EVENT_WRITE:
            self.flush()
        if not events & selectors.EVENT_READ:
            return
        chunk = self.socket.recv(READ_BYTES)
        if not chunk:
            self.leave()
        self.incoming += chunk
        while len(self.incoming) >= 4 and len(self.incoming) >= (end := 4 + int.from_bytes(self.incoming[:4], "big")):
            message = json.loads(self.incoming[4:end])
            del self.incoming[:end]
            self.handle(message)

    def handle(self, message: dict[str, Any]) -> None:
        """One frame: a call to start, or the id of one to kill."""
        if "cancel" not in message:
            self.start(message)
        elif call := self.calls.get(message["cancel"]):
            call.kill(reason="cancelled")

    def leave(self) -> NoReturn:
        """Kills and removes everything, then exits."""
        for call in list(self.calls.values()):
            call.kill(reason="cancelled")
            os.waitpid(call.pid, 0)
            del self.calls[call.id]
            self.kill_strays()
            call.remove()
        os._exit(0)

    # Calls

    def start(self, request: dict[str, Any]) -> None:
        """Forks the child of one call. When the machine refuses, nothing stays behind and the answer says why."""
        slot = self.free_slots.pop()
        directory = f"{self.settings['directory']}/{slot}-{request['id']}"
        call = Call(request, slot=slot, directory=directory, keep_bytes=self.settings["max_output_bytes"])
        try:
            call.open()
            self.fork(call)
            call.pidfd = os.pidfd_open(call.pid)
        except OSError as error:
            if call.pid > 0:
                call.kill(reason="sandbox_error")
                os.waitpid(call.pid, 0)
            call.remove()
            self.free_slots.append(slot)
            self.send({"id": call.id, "status": "sandbox_error", "detail": f"could not start a process: {error}"})
            return
        call.close_child_ends()
        self.calls[call.id] = call
        self.selector.register(call.pidfd, selectors.EVENT_READ, lambda _: self.finish(call))
        self.selector.register(call.stdout.fd, selectors.EVENT_READ, lambda _: self.drain(call, call.stdout))
        self.selector.register(call.stderr.fd, selectors.EVENT_READ, lambda _: self.drain(call, call.stderr))

    def fork(self, call: Call) -> None:
        """The child is the first process of a new pid namespace where possible: its descendants die with it."""
        self.started_flags[call.slot] = 0
        if self.drops_user:
            os.chown(call.directory, self.first_uid + call.slot, self.first_uid + call.slot)
        if self.own_pid_namespace < 0:
            call.pid = os.fork()
        else:
            confine.unshare(confine.CLONE_NEWPID)
            try:
                call.pid = os.fork()
            finally:
                if call.pid != 0:
                    confine.return_to(self.own_pid_namespace)
        if call.pid == 0:
            self.be_child(call)

    def drain(self, call: Call, stream: Stream) -> bool:
        """Takes one chunk; False when there is none now. The hard limit on all output is kept here."""
        if stream.fd < 0:
            return False
        try:
            chunk = os.read(stream.fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self.selector.unregister(stream.fd)
            os.close(stream.fd)
            stream.fd = -1
            return False
        stream.add(chunk)
        if call.stdout.num_bytes + call.stderr.num_bytes > self.settings["hard_output_bytes"]:
            call.kill(reason="output_limit")
        return True

    def finish(self, call: Call) -> None:
        """The child is dead: now its descendants, then what is left in the pipes, then the verdict."""
        _, wait_status, usage = os.wait4(call.pid, 0)
        wall_s = time.monotonic() - call.started
        del self.calls[call.id]
        self.kill_strays()
        for stream in (call.stdout, call.stderr):
            while self.drain(call, stream):
                pass
        for fd in (call.pidfd, call.stdout.fd, call.stderr.fd):
            if fd >= 0:
                self.selector.unregister(fd)
        call.remove()
        self.free_slots.append(call.slot)
        self.send(self.result(call, wait_status=wait_status, usage=usage, wall_s=wall_s))

    def kill_strays(self) -> None:
        """Without pid namespaces, what a finished child left running becomes ours: kill it, and what it leaves too."""
        while self.own_pid_namespace < 0:
            running = {call.pid for call in self.calls.values()}
            children = {int(pid) for pid in Path("/proc/thread-self/children").read_text().split()}
            if not children - running:
                return
            for pid in children - running:
                os.kill(pid, signal.SIGKILL)
            for pid in children - running:
                os.waitpid(pid, 0)

    def result(self, call: Call, *, wait_status: int, usage: resource.struct_rusage, wall_s: float) -> dict[str, Any]:
        """The answer to a call; every field but the two texts comes from the kernel and our clock."""
        code = os.waitstatus_to_exitcode(wait_status)
        started = bool(self.started_flags[call.slot])
        return {
            "id": call.id,
            "status": self.verdict(call, code=code, usage=usage) if started else "sandbox_error",
            "detail": "" if started else f"the child did not get as far as the code: {call.stderr.text()}",
            "stdout": call.stdout.text(),
            "stderr": call.stderr.text(),
            "stdout_truncated": call.stdout.truncated,
            "stderr_truncated": call.stderr.truncated,
            "exit_code": None if code < 0 else 1 if code == cell.MEMORY_ERROR_EXIT else code,
            "signal": signal.Signals(-code).name if code < 0 else None,
            "wall_s": wall_s,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "queue_s": max(0.0, call.started - call.request["submitted"]),
            "max_rss_mb": usage.ru_maxrss // 1024,
        }

    def verdict(self, call: Call, *, code: int, usage: resource.struct_rusage) -> str:
        """What to call an end; `code` is the exit code, or minus the signal."""
        if call.killed_for and (code < 0 or call.killed_for == "output_limit"):
            return call.killed_for
        if code >= 0:
            return {0: "ok", cell.MEMORY_ERROR_EXIT: "memory_limit"}.get(code, "error")
        if -code == signal.SIGKILL and usage.ru_utime + usage.ru_stime >= _cpu_limit_s(call) - 0.5:
            return "timeout"
        if -code == signal.SIGKILL and usage.ru_maxrss * 1024 >= self.settings["memory_mb"] * MIB // 2:
            return "memory_limit"  # by the kernel's out-of-memory killer
        return "crashed"

    # The child

    def be_child(self, call: Call) -> NoReturn:
        """From the fork to the end of the child. Nothing of the fork server is left open when the code starts."""
        try:
            os.setsid()
            for target, fd in enumerate(call.child_fds):
                os.dup2(fd, target)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.chdir(call.directory)
            self.confine_child(call)
            _write_files(call.request["files"])
            _freshen(call)
            self.started_flags[call.slot] = 1
            self.started_flags.close()
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode())
            os._exit(1)
        os._exit(cell.run_cell(call.request["code"], echo_last_expression=call.request["echo_last_expression"]))

    def confine_child(self, call: Call) -> None:
        """User and limits."""
        if self.drops_user:
            confine.become(self.first_uid + call.slot, keep_reading=self.keeps_reading)
        if self.own_pid_namespace < 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            confine.prctl(confine.PR_SET_CHILD_SUBREAPER, 1)  # its daemons stay its own as long as it lives
        confine.die_with_parent()
        confine.set_limits(
            address_space_bytes=self.address_space_bytes,
            cpu_s=_cpu_limit_s(call),
            file_bytes=self.settings["disk_mb"] * MIB,
            num_processes=self.num_processes,
        )


def _cpu_limit_s(call: Call) -> int:
    """Backstop for code with several threads; one that loops on one core meets the wall clock first."""
    timeout_s: float = call.request["timeout_s"]
    return math.ceil(timeout_s) + 1


def _readable(text: str) -> int:
    """A file descriptor from which `text` can be read; nothing for ""."""
    if not text:
        return os.open(os.devnull, os.O_RDONLY)
    fd = os.memfd_create("stdin")
    with open(fd, "wb", closefd=False) as file:
        file.write(text.encode("utf-8", "replace"))
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _write_files(files: dict[str, str]) -> None:
    for name, content in files.items():
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(content))


def _freshen(call: Call) -> None:
    """What a program expects to find: its own streams, directory and randomness (`random` reseeds itself on fork)."""
    os.environ["HOME"] = os.environ["TMPDIR"] = call.directory
    sys.argv = ["code.py"]
    sys.path.insert(0, call.directory)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    if "numpy" in sys.modules and "random" in call.request["code"]:
        sys.modules["numpy"].random.seed()


def _address_space_bytes() -> int:
    """What this process has mapped: limits of children are relative to it."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def preload(packages: list[str]) -> None:
    """Imports and exercises what calls are likely to need; what is missing is skipped."""
    for name in (*COMMON_MODULES, *packages):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
            exec(EXERCISES.get(name, ""), {})
    gc.collect()
    gc.freeze()  # children do not copy pages only to collect them


def main() -> NoReturn:
    """Goes into namespaces where that is possible, gets ready, serves."""
    settings = json.loads(sys.argv[1])
    confine.die_with_parent()
    confine.prctl(confine.PR_SET_NO_NEW_PRIVS, 1)
    layers: tuple[str, ...] = ()
    if confine.nested_namespaces_work():
        layers = confine.enter_namespaces()
        _leave_to_child(settings["socket_fd"])
        confine.die_with_parent()
    preload(settings["preload"])
    ForkServer(settings, layers=layers).serve()


def _leave_to_child(socket_fd: int) -> None:
    """Returns in a forked child, the first process of the new pid namespace; this process only waits for its end."""
    pid = os.fork()
    if pid == 0:
        return
    os.close(socket_fd)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    main()

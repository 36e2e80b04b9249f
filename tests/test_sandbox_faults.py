"""The 46 faults that bugs, models and reward hackers bring to a sandbox, each at level A and at level B.

Numbered as in the survey that ran them against nine runners. Level B starts no processes: the faults that need some end
at the fork, and one of them (42, a pool of processes) is something honest code may want: the 1 of 46 that B fails.
Code that reaches for the host is first run on the host, where it has to get through: otherwise its failure in the
sandbox would say nothing. It prints "reached" for each thing it got at.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from textwrap import dedent

import pytest

from sod.errors import SandboxError
from sod.sandbox import ExecutionResult, LocalSandbox

MEMORY_MB = 256
MAX_OUTPUT_BYTES = 65536
SECRET = f"secret-{secrets.token_hex(8)}"


class Box:
    """One sandbox at one level, for tests that are not asynchronous. `directory` is where its temporary files are."""

    def __init__(self, runner: asyncio.Runner, sandbox: LocalSandbox, directory: Path) -> None:
        self._runner, self._sandbox = runner, sandbox
        self.level, self.directory = sandbox.level, directory

    def run(self, code: str, **arguments: object) -> ExecutionResult:
        return self._runner.run(self._sandbox.run(code, **arguments))  # type: ignore[arg-type]

    def run_all(self, calls: list[dict[str, str]]) -> list[ExecutionResult]:
        async def all_at_once() -> list[ExecutionResult]:
            return await asyncio.gather(*(self._sandbox.run(**call) for call in calls))

        return self._runner.run(all_at_once())


@pytest.fixture(scope="module", params=["A", "B"])
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """The sandbox of a level. Started with a secret in our environment; after its end nothing of it may be left."""
    level = request.param
    before = (processes_below(os.getpid()), set(os.listdir("/proc/self/fd")))
    with tempfile.TemporaryDirectory() as directory, asyncio.Runner() as runner:
        os.chmod(directory, 0o711)
        sandbox = LocalSandbox(workers=1, memory_mb=MEMORY_MB, disk_mb=64, isolation=level)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(tempfile, "tempdir", directory)
                patch.setenv("SOD_FAULTS_SECRET", SECRET)
                for code in ("1", "import numpy"):  # starts both kinds of fork server
                    runner.run(sandbox.run(code))
        except SandboxError as error:
            runner.run(sandbox.aclose())
            if level == "B" and os.environ.get("CI") == "true":
                raise
            pytest.skip(f"level {level} is not possible here: {error}")
        assert sandbox.level == level
        yield Box(runner, sandbox, Path(directory))
        runner.run(sandbox.aclose())
        assert os.listdir(directory) == [], "a directory of the sandbox is left"
    assert processes_below(os.getpid()) <= before[0], "a process of the sandbox is left"
    assert set(os.listdir("/proc/self/fd")) <= before[1], "a descriptor of the sandbox is left"


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[str]]:
    """A process of the host with the secret in its environment. Anyone may trace it who may do so at all."""
    code = "import ctypes; ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1)); print('up', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"SOD_FAULTS_SECRET": SECRET},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        yield process
        process.kill()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(0o600)
    return path


# What the tests look at


def processes_below(pid: int) -> set[int]:
    """All living descendants of a process."""
    parent_of = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            parent_of[int(entry.parent.name)] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parent_of.items() if parent in found | {pid}} - found:
        found |= more
    return found


def processes_named(name: str) -> list[str]:
    """Processes of the whole host that have given themselves this name with NAME_SELF."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            if entry.read_text() == f"{name}\n":
                found.append(entry.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def own_rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def on_host(code: str) -> set[str]:
    """The lines that code prints when it runs with nothing to hold it."""
    environment = {**os.environ, "SOD_FAULTS_SECRET": SECRET}
    command = [sys.executable, "-I", "-c", code]
    return set(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines())


def assert_forks_are_refused(result: ExecutionResult) -> None:
    """What level B makes of all that starts a process."""
    assert (result.status, result.exit_code) == ("error", 1)
    assert result.stderr.endswith("PermissionError: [Errno 1] Operation not permitted\n")


def assert_out_of_time(result: ExecutionResult, *, timeout_s: float) -> None:
    """Killed at its limit: on a busy machine up to three times later, or more where the fork server waits as well."""
    assert (result.status, result.exit_code, result.signal) == ("timeout", None, "SIGKILL")
    assert timeout_s <= result.wall_s < 3 * timeout_s + 20


ATTEMPT = """
def attempt(action, *arguments):
    try:
        action(*arguments)
    except OSError as error:
        print(type(error).__name__)
    else:
        print("reached")
"""

NAME_SELF = 'import ctypes; ctypes.CDLL(None).prctl(15, b"{}")\n'
"""Children inherit the name, so that the host can find all that a call has started."""


# Time


def test_01_infinite_loop(box: Box) -> None:
    result = box.run("print('partial')\nwhile True: pass", timeout_s=0.5)
    assert_out_of_time(result, timeout_s=0.5)
    assert result.stdout == "partial\n"


def test_02_loop_inside_the_interpreter_that_no_python_signal_handler_could_end(box: Box) -> None:
    result = box.run("print('partial')\nsum(range(10**13))", timeout_s=0.5)
    assert_out_of_time(result, timeout_s=0.5)
    assert result.stdout == "partial\n"


def test_03_sleep(box: Box) -> None:
    result = box.run("import time\nprint('partial')\ntime.sleep(30)", timeout_s=0.5)
    assert_out_of_time(result, timeout_s=0.5)
    assert result.stdout == "partial\n"


# Processes, memory, disk, output


def test_04_three_hundred_forks_end_at_the_limit(box: Box) -> None:
    code = NAME_SELF.format("sod-fault-04") + dedent("""
        import errno, os, time
        for number in range(300):
            try:
                if os.fork() == 0: time.sleep(60)
            except BlockingIOError as error:
                print(number, errno.errorcode[error.errno])
                break
    """)
    result = box.run(code)
    if box.level == "B":
        assert_forks_are_refused(result)
    else:
        number, error = result.stdout.split()
        assert (result.status, error) == ("ok", "EAGAIN")
        assert 32 <= int(number) <= 64
    assert processes_named("sod-fault-04") == []


def test_05_fork_bomb(box: Box) -> None:
    code = NAME_SELF.format("sod-fault-05") + dedent("""
        import os
        os.fork()
        while True:
            try: os.fork()
            except BlockingIOError: pass
    """)
    result = box.run(code, timeout_s=1.0)
    if box.level == "B":
        assert_forks_are_refused(result)
    else:
        assert_out_of_time(result, timeout_s=1.0)
    assert processes_named("sod-fault-05") == []
    assert box.run("print('next')").stdout == "next\n"


def test_06_more_memory_than_allowed(box: Box) -> None:
    result = box.run("print('partial')\nx = bytearray(400 << 20)")
    assert (result.status, result.exit_code, result.stdout) == ("memory_limit", 1, "partial\n")
    assert "MemoryError" in result.stderr


def test_07_children_that_take_too_much_memory_together(box: Box) -> None:
    code = NAME_SELF.format("sod-fault-07") + dedent("""
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                x = b'x' * (60 << 20)
                time.sleep(60)
        time.sleep(60)
    """)
    result = box.run(code, timeout_s=20)
    if box.level == "B":
        assert_forks_are_refused(result)
    else:
        assert (result.status, result.exit_code, result.signal) == ("memory_limit", None, "SIGKILL")
        assert result.wall_s < 10
    assert processes_named("sod-fault-07") == []


def test_08_memory_file_that_no_file_limit_counts(box: Box) -> None:
    code = "import os\nos.truncate(os.memfd_create('x'), 300 << 20)"
    result = box.run(code)
    assert (result.status, result.exit_code) == ("error", 1)
    assert result.stderr.endswith("PermissionError: [Errno 1] Operation not permitted\n")


def test_09_large_file(box: Box) -> None:
    result = box.run("print('partial')\nf = open('f', 'wb')\nfor _ in range(200): f.write(b'x' * (1 << 20))")
    assert (result.status, result.stdout) == ("disk_limit", "partial\n")


def test_10_many_files_that_are_too_large_together(box: Box) -> None:
    code = dedent("""
        for i in range(8):
            with open(f'f{i}', 'wb') as f:
                for _ in range(50): f.write(b'x' * (1 << 20))
    """)
    assert box.run(code).status == "disk_limit"
    assert box.run("import os; print(os.listdir())").stdout == "[]\n"


def test_11_two_hundred_kilobytes_of_output_arrive_head_and_tail(box: Box) -> None:
    result = box.run("for i in range(20_000): print(f'line {i:05d}')")
    assert (result.status, result.stdout_truncated, result.stderr_truncated) == ("ok", True, False)
    assert result.stdout.startswith("line 00000\nline 00001\n")
    assert result.stdout.endswith("line 19998\nline 19999\n")
    left_out = 20_000 * len("line 00000\n") - MAX_OUTPUT_BYTES
    assert f"\n[... {left_out} bytes left out ...]\n" in result.stdout


def test_12_a_gigabyte_of_output_stays_out_of_our_memory(box: Box) -> None:
    before_mb = own_rss_mb()
    result = box.run("import os\nblock = b'x' * (1 << 20)\nfor _ in range(1024): os.write(1, block)")
    assert (result.status, result.stdout_truncated) == ("output_limit", True)
    assert len(result.stdout) < MAX_OUTPUT_BYTES + 100
    assert own_rss_mb() - before_mb < 20


# The host: secrets, files, sockets, processes, packages


def test_13_secret_in_the_environment(box: Box) -> None:
    code = dedent(f"""
        import ctypes, os
        secret = {SECRET[::-1]!r}[::-1]
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_char_p
        found = [*os.environ.values(), (getenv(b'SOD_FAULTS_SECRET') or b'').decode()]
        print('reached' if secret in found else len(os.environ) > 3)
    """)
    assert on_host(code) == {"reached"}
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "True\n")


def test_14_secret_in_another_process_environment(box: Box, bystander: subprocess.Popen[str]) -> None:
    code = dedent(f"""
        import glob
        secret = {SECRET[::-1]!r}[::-1].encode()
        for path in ['/proc/{bystander.pid}/environ', *glob.glob('/proc/[0-9]*/environ')]:
            try: print('reached' if secret in open(path, 'rb').read() else 'nothing')
            except OSError: pass
    """)
    assert "reached" in on_host(code)
    result = box.run(code)
    assert result.status == "ok"
    assert "reached" not in result.stdout


def test_15_file_that_only_its_owner_may_read(box: Box, secret_file: Path) -> None:
    code = ATTEMPT + dedent(f"""
        path = {str(secret_file)!r}
        for way in (path, '../' * 30 + path, '/proc/self/root' + path, '/proc/self/cwd' + '/..' * 30 + path):
            attempt(open, way)
        attempt(__import__('os').listdir, {str(secret_file.parent)!r})
    """)
    assert on_host(code) == {"reached"}
    result = box.run(code)
    assert result.status == "ok"
    assert set(result.stdout.split()) <= {"FileNotFoundError", "PermissionError"}
    assert len(result.stdout.split()) == 5


def test_16_write_outside_of_its_directory(box: Box, secret_file: Path) -> None:
    name = f"sod-fault-{secrets.token_hex(8)}"
    places = ["/", "/tmp", "/var/tmp", "/dev/shm", "/etc", "/usr", "/usr/lib", sys.base_prefix, str(secret_file.parent)]
    code = ATTEMPT + dedent(f"""
        import os
        secret = {str(secret_file)!r}
        for mode in ('w', 'a', 'r+'): attempt(open, secret, mode)
        attempt(os.truncate, secret, 0)
        attempt(os.rename, secret, secret + '-moved')
        attempt(os.unlink, secret + '-moved')
        attempt(os.mkdir, os.path.join({str(secret_file.parent)!r}, 'new'))
    """)
    everywhere = f"import os\nfor place in {places!r}: attempt(os.mkdir, os.path.join(place, {name!r}))\n"
    result = box.run(code + everywhere)
    assert (result.status, len(result.stdout.split())) == ("ok", 7 + len(places))
    assert [place for place in places if Path(place, name).exists()] == []
    assert secret_file.read_text() == SECRET
    assert on_host(code) == {"reached"}


def test_16_change_mode_times_and_attributes_outside_of_its_directory(box: Box, secret_file: Path) -> None:
    """Writes that need no open file, and that Landlock has no right for."""
    code = ATTEMPT + dedent(f"""
        import os
        secret = {str(secret_file)!r}
        attempt(os.chmod, secret, 0o777)
        attempt(os.utime, secret, (0, 0))
        attempt(os.setxattr, secret, 'user.fault', b'16')
        attempt(os.chmod, os.path.dirname(secret), 0o777)
        for program in ({os.path.realpath(sys.executable)!r}, os.__file__):
            try: os.fchmod(os.open(program, os.O_RDONLY), 0o777)
            except OSError: pass
    """)
    theirs = [Path(os.path.realpath(sys.executable)), Path(os.__file__)]
    before = [path.stat().st_mode for path in (*theirs, secret_file.parent, secret_file)]
    mtime = secret_file.stat().st_mtime
    try:
        assert box.run(code).status == "ok"
        assert [path.stat().st_mode for path in (*theirs, secret_file.parent, secret_file)] == before
        assert (secret_file.stat().st_mtime, os.listxattr(secret_file)) == (mtime, [])
    finally:
        for path, mode in zip(theirs, before, strict=False):
            if path.stat().st_mode != mode:
                path.chmod(mode & 0o7777)


def test_17_tcp_to_a_server_on_this_machine(box: Box) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        code = ATTEMPT + dedent(f"""
            import socket
            attempt(socket.create_connection, ('127.0.0.1', {port}), 5)
            udp = lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))
            attempt(udp)
        """)
        assert on_host(code) == {"reached"}
        result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "PermissionError\nPermissionError\n")


def test_17_names_on_the_network_fail_at_once(box: Box) -> None:
    code = "import urllib.request\nurllib.request.urlopen('http://example.org/')"
    result = box.run(code, timeout_s=20)
    assert result.status == "error"
    assert "URLError" in result.stderr
    assert result.wall_s < 3


def test_18_unix_sockets_of_the_host(box: Box, tmp_path: Path) -> None:
    abstract = f"\0sod-fault-{secrets.token_hex(8)}"
    with closing(socket.socket(socket.AF_UNIX)) as first, closing(socket.socket(socket.AF_UNIX)) as second:
        for server, address in ((first, abstract), (second, str(tmp_path / "socket"))):
            server.bind(address)
            server.listen()
        code = ATTEMPT + dedent(f"""
            import socket
            connect = lambda address: socket.socket(socket.AF_UNIX).connect(address)
            attempt(connect, {abstract!r})
            attempt(connect, {str(tmp_path / "socket")!r})
        """)
        assert on_host(code) == {"reached"}
        result = box.run(code)
    assert (result.status, len(result.stdout.split())) == ("ok", 2)
    assert "reached" not in result.stdout


def test_18_unix_sockets_of_another_call(box: Box) -> None:
    address = f"\0sod-fault-{secrets.token_hex(8)}"
    server = dedent(f"""
        import socket
        server = socket.socket(socket.AF_UNIX)
        server.bind({address!r})
        server.listen()
        server.settimeout(1)
        server.accept()
        print('reached')
    """)
    client = ATTEMPT + dedent(f"""
        import socket, time
        time.sleep(0.3)
        attempt(lambda: socket.socket(socket.AF_UNIX).connect({address!r}))
    """)
    results = box.run_all([{"code": server}, {"code": client}])
    assert [result.status for result in results] == ["error", "ok"]
    assert "reached" not in results[0].stdout + results[1].stdout


def test_19_kill_a_process_of_the_host(box: Box, bystander: subprocess.Popen[str]) -> None:
    code = ATTEMPT + dedent(f"""
        import os, signal
        attempt(os.kill, {bystander.pid}, signal.SIGKILL)
        attempt(os.kill, -1, 0)
    """)
    result = box.run(code)
    assert result.status == "ok"
    assert set(result.stdout.split()) <= {"PermissionError", "ProcessLookupError"}
    assert bystander.poll() is None
    assert on_host(code) == {"reached"}
    assert bystander.wait(timeout=5) < 0


def test_19_no_other_process_can_be_signalled_at_all(box: Box) -> None:
    code = dedent("""
        import os
        for pid in range(1, 32768):
            try: os.kill(pid, 0)
            except OSError: continue
            if pid != os.getpid(): print('reached', pid)
    """)
    assert on_host(code)
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "")


def test_19_limit_or_hold_up_a_process_of_the_host(box: Box, bystander: subprocess.Popen[str]) -> None:
    code = ATTEMPT + dedent(f"""
        import os, resource, signal
        pid = {bystander.pid}
        attempt(resource.prlimit, pid, resource.RLIMIT_NOFILE, (4, 4))
        attempt(os.setpriority, os.PRIO_PROCESS, pid, 19)
        attempt(os.sched_setaffinity, pid, os.sched_getaffinity(0))
        attempt(os.sched_setscheduler, pid, os.SCHED_IDLE, os.sched_param(0))
        attempt(lambda: signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGSTOP))
    """)
    result = box.run(code)
    assert (result.status, len(result.stdout.split())) == ("ok", 5)
    assert set(result.stdout.split()) <= {"PermissionError", "ProcessLookupError"}
    assert on_host(code) == {"reached"}


def test_20_kill_its_parent(box: Box) -> None:
    servers = processes_below(os.getpid())
    result = box.run(ATTEMPT + "import os, signal\nattempt(os.kill, os.getppid(), signal.SIGKILL)\nprint('end')")
    assert (result.status, result.stdout.endswith("end\n")) == ("ok", True)
    assert box.run("print('next')").stdout == "next\n"
    assert servers <= processes_below(os.getpid())


def test_21_trace_a_process_of_the_host(box: Box, bystander: subprocess.Popen[str]) -> None:
    code = ATTEMPT + dedent(f"""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        def attach(pid):
            if libc.ptrace(16, pid, None, None) < 0: raise OSError(ctypes.get_errno(), 'ptrace')
            os.waitpid(pid, 0)
            libc.ptrace(17, pid, None, None)
        attempt(attach, {bystander.pid})
        attempt(open, '/proc/{bystander.pid}/mem', 'rb')
    """)
    assert on_host(code) == {"reached"}
    result = box.run(code)
    assert result.status == "ok"
    assert result.stdout.split()[0] == "PermissionError"
    assert result.stdout.split()[1] in ("PermissionError", "FileNotFoundError")


# Signals, and what the sandbox itself listens to


def test_22_ignore_every_signal(box: Box) -> None:
    code = dedent("""
        import signal, time
        for number in range(1, 65):
            try: signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError): pass
        print('partial')
        while True: time.sleep(1)
    """)
    result = box.run(code, timeout_s=0.5)
    assert_out_of_time(result, timeout_s=0.5)
    assert result.stdout == "partial\n"


def test_23_stop_itself(box: Box) -> None:
    result = box.run("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nprint('went on')", timeout_s=0.5)
    if box.level == "A":  # the first process of a pid namespace does not get this signal from itself
        assert (result.status, result.stdout) == ("ok", "went on\n")
    else:
        assert_out_of_time(result, timeout_s=0.5)


@pytest.mark.parametrize("close", ["sys.stdout.close()", "os.close(1)", "os.closerange(0, 1 << 16)"])
def test_24_close_stdout(box: Box, close: str) -> None:
    result = box.run(f"import os, sys\nprint('before')\n{close}\nos._exit(7)")
    assert (result.status, result.exit_code, result.stdout) == ("error", 7, "before\n")


def test_25_forge_its_result_on_every_descriptor(box: Box) -> None:
    code = dedent("""
        import json, os, socket, sys
        body = json.dumps({'id': 0, 'status': 'ok', 'stdout': 'forged', 'stderr': '', 'exit_code': 0}).encode()
        for fd in range(1 << 12):
            for message in (len(body).to_bytes(4, 'big') + body, body + b'\\n', b'ready', b'0'):
                try: fd in (1, 2) or os.write(fd, message)
                except OSError: pass
        print('honest')
        sys.exit(9)
    """)
    result = box.run(code)
    assert (result.status, result.exit_code, result.stdout) == ("error", 9, "honest\n")
    assert box.run("print('next')").stdout == "next\n"


def test_26_bytes_and_text_that_are_no_text(box: Box) -> None:
    code = dedent("""
        import os, sys
        print('a\\0b', '\\ud800')
        os.write(1, b'\\xff\\xfe\\n')
        os.write(2, b'\\xc3')
    """)
    result = box.run(code)
    assert (result.status, result.stdout, result.stderr) == ("ok", "a\0b ?\n\ufffd\ufffd\n", "\ufffd")


# What it leaves behind


LEAVES_CHILDREN = {
    "27 child in a session of its own": """
        if os.fork() == 0:
            os.setsid()
            time.sleep(600)
        print('done')
    """,
    "28 daemon": """
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            os.chdir('/')
            os.closerange(0, 256)
            time.sleep(600)
        print('done')
    """,
    "29 grandchild when time is out": """
        if os.fork() == 0:
            if os.fork() == 0: os.setsid()
            time.sleep(600)
        print('done')
        time.sleep(600)
    """,
}


@pytest.mark.parametrize("fault", LEAVES_CHILDREN)
def test_27_28_29_no_process_outlives_its_call(box: Box, fault: str) -> None:
    name = f"sod-fault-{fault[:2]}"
    code = NAME_SELF.format(name) + "import os, time\n" + dedent(LEAVES_CHILDREN[fault])
    result = box.run(code, timeout_s=1.0)
    if box.level == "B":
        assert_forks_are_refused(result)
    else:
        assert (result.status, result.stdout) == ("timeout" if fault.startswith("29") else "ok", "done\n")
    assert processes_named(name) == []


def test_30_symlinks_lead_nowhere_while_it_runs_and_when_its_directory_is_emptied(box: Box, secret_file: Path) -> None:
    code = ATTEMPT + dedent(f"""
        import os
        os.symlink({str(secret_file)!r}, 'file')
        os.symlink({str(secret_file.parent)!r}, 'directory')
        for name in ('file', 'directory/secret'):
            attempt(open, name)
            attempt(open, name, 'r+')
        os.mkdir('closed')
        os.symlink('../directory', 'closed/again')
        os.chmod('closed', 0)
    """)
    result = box.run(code)
    assert (result.status, len(result.stdout.split())) == ("ok", 4)
    assert "reached" not in result.stdout
    assert box.run("import os; print(os.listdir())").stdout == "[]\n"
    assert secret_file.read_text() == SECRET
    with tempfile.TemporaryDirectory() as directory:
        assert on_host(f"import os; os.chdir({directory!r})\n{code}") == {"reached"}


def test_31_packages_of_the_host(box: Box) -> None:
    found = {name: importlib.util.find_spec(name) for name in ("pytest", "hypothesis", "torch", "transformers", "sod")}
    origins = {name: spec.origin for name, spec in found.items() if spec is not None and spec.origin}
    assert len(origins) == len(found)
    code = dedent(f"""
        import importlib, importlib.util, os, sys
        for name, origin in {origins!r}.items():
            def by_name(): importlib.import_module(name)
            def by_path():
                sys.path[:0] = [os.path.dirname(os.path.dirname(origin))]
                importlib.invalidate_caches()
                importlib.import_module(name)
            def by_file():
                spec = importlib.util.spec_from_file_location(name, origin)
                spec.loader.exec_module(importlib.util.module_from_spec(spec))
            def by_reading(): open(origin).read()
            for way in (by_name, by_path, by_file, by_reading):
                try: way()
                except (ImportError, OSError): continue
                print('reached', name, way.__name__)
        print('end')
    """)
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "end\n")


# Ends of a program


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("import sys; sys.exit()", "ok", 0),
        ("import sys; sys.exit(3)", "error", 3),
        ("import sys; sys.exit('a reason')", "error", 1),
        ("raise SystemExit(256 + 5)", "error", 5),
        ("raise KeyboardInterrupt", "error", 1),
    ],
)
def test_32_exit_codes(box: Box, code: str, status: str, exit_code: int) -> None:
    result = box.run(code)
    assert (result.status, result.exit_code, result.signal) == (status, exit_code, None)


def test_33_leave_past_the_interpreter(box: Box) -> None:
    result = box.run("import os\nprint('before')\nos._exit(4)")
    assert (result.status, result.exit_code, result.stdout) == ("error", 4, "before\n")


def test_34_read_from_stdin_at_its_end(box: Box) -> None:
    result = box.run("import sys\nprint(repr(sys.stdin.read()))\ninput()")
    assert (result.status, result.stdout) == ("error", "''\n")
    assert result.stderr.endswith("EOFError: EOF when reading a line\n")


def test_35_segmentation_fault(box: Box) -> None:
    result = box.run("import ctypes\nprint('before')\nctypes.string_at(0)")
    assert (result.status, result.exit_code, result.signal) == ("crashed", None, "SIGSEGV")
    assert result.stdout == "before\n"


def test_36_stray_threads(box: Box) -> None:
    code = dedent("""
        import threading, time
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
        threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()
        print('main')
    """)
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "main\nthread\n")


# From one call to the next


def test_37_files_do_not_stay(box: Box) -> None:
    name = f"sod-fault-{secrets.token_hex(8)}"
    places = [".", "/tmp", "/dev/shm", "/var/tmp", tempfile.gettempdir()]
    code = dedent(f"""
        import os, tempfile
        for place in [*{places!r}, os.environ['HOME'], tempfile.gettempdir()]:
            path = os.path.join(place, {name!r})
            try:
                {{}}
            except OSError:
                pass
        print('end')
    """)
    assert box.run(code.format("os.makedirs(path, exist_ok=True)")).stdout == "end\n"
    assert box.run(code.format("os.stat(path); print('reached', path)")).stdout == "end\n"
    assert [place for place in places if Path(place, name).exists()] == []
    assert list(box.directory.rglob(name)) == []


def test_37_files_of_a_call_that_runs_at_the_same_time(box: Box) -> None:
    name = f"sod-fault-{secrets.token_hex(8)}"
    writer = f"import time; open({name!r}, 'w').close(); time.sleep(1)"
    reader = "import glob, time; time.sleep(0.3); print(glob.glob('../*') + glob.glob('../*/*'), glob.glob('/tmp/*/*'))"
    results = box.run_all([{"code": writer}, {"code": reader}])
    assert [result.status for result in results] == ["ok", "ok"]
    assert name not in results[1].stdout


@pytest.mark.parametrize("package", ["math", "numpy"])  # the two kinds of fork server
def test_38_state_does_not_stay(box: Box, package: str) -> None:
    change = dedent(f"""
        import builtins, gc, os, sys, {package} as module
        builtins.leaked = module.leaked = sys.leaked = 1
        os.environ['LEAKED'] = '1'
        sys.path.append('/leaked')
        print = module.sqrt = None
        os.umask(0)
    """)
    look = dedent(f"""
        import builtins, os, sys, {package} as module
        print([hasattr(it, 'leaked') for it in (builtins, module, sys)], 'LEAKED' in os.environ, '/leaked' in sys.path)
        print(module.sqrt(4.0), os.umask(0))
    """)
    before = box.run(look).stdout
    assert before.startswith("[False, False, False] False False\n2.0 ")
    assert box.run(change).status == "ok"
    assert box.run(look).stdout == before


# More than it seems


def test_39_ten_megabytes_of_exception_text(box: Box) -> None:
    result = box.run("raise ValueError('start ' + 'x' * 10_000_000 + ' end')")
    assert (result.status, result.exit_code, result.stderr_truncated) == ("error", 1, True)
    assert "ValueError: start xxx" in result.stderr
    assert result.stderr.endswith("xxx end\n")
    assert len(result.stderr) < MAX_OUTPUT_BYTES + 100


def test_40_five_thousand_descriptors(box: Box) -> None:
    code = dedent("""
        import errno
        kept = []
        try:
            for _ in range(5000): kept.append(open('/dev/null'))
        except OSError as error: print(errno.errorcode[error.errno], len(kept) < 1024)
    """)
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "EMFILE True\n")


# What honest code needs


def test_41_asyncio(box: Box) -> None:
    code = dedent("""
        import asyncio
        async def f(x):
            await asyncio.sleep(0.01)
            return await asyncio.to_thread(abs, x)
        async def main(): print(await asyncio.gather(*map(f, (-1, -2, -3))))
        asyncio.run(main())
    """)
    result = box.run(code)
    assert (result.status, result.stdout, result.stderr) == ("ok", "[1, 2, 3]\n", "")


def test_42_pool_of_processes(box: Box) -> None:
    """Fails at level B, by policy: the 1 of 46."""
    code = "from multiprocessing import Pool\nwith Pool(2) as pool: print(pool.map(abs, [-1, -2, -3]))\n"
    result = box.run(code)
    if box.level == "B":
        assert result.status == "error"
        assert "PermissionError" in result.stderr
    else:
        assert (result.status, result.stdout, result.stderr) == ("ok", "[1, 2, 3]\n", "")


def test_43_numpy_and_sympy(box: Box) -> None:
    code = dedent("""
        import numpy as np, sympy as sp
        x = sp.Symbol('x')
        print(np.linalg.solve(np.array([[2.0, 0], [0, 4]]), np.array([2.0, 8])).tolist())
        print(np.linalg.eigvalsh(np.eye(50)).sum().round(6), np.random.default_rng(0).integers(10, size=3).shape)
        print(sp.solve(x**2 - 4, x), sp.integrate(2 * x, (x, 0, 3)), sp.lambdify(x, x + 1)(1))
    """)
    result = box.run(code)
    assert (result.status, result.stderr) == ("ok", "")
    assert result.stdout == "[1.0, 2.0]\n50.0 (3,)\n[-2, 2] 9 2\n"


@pytest.mark.parametrize(
    ("code", "stdout"),
    [
        ("x = 6\nx * 7", "42\n"),
        ("b = 1", ""),
        ("None", ""),
        ("print(1)", "1\n"),
        ("1 + 1  # a note", "2\n"),
        ("x = 1; x + 1", "2\n"),
        ("for i in range(2):\n    i", ""),
        ("'''a\nb'''", "'a\\nb'\n"),
    ],
)
def test_44_value_of_the_last_expression(box: Box, code: str, stdout: str) -> None:
    result = box.run(code, echo_last_expression=True)
    assert (result.status, result.stdout, result.stderr) == ("ok", stdout, "")


def test_45_nested_namespaces_and_io_uring(box: Box) -> None:
    code = dedent("""
        import ctypes, errno, os, platform
        libc = ctypes.CDLL(None, use_errno=True)
        def call(*arguments):
            if libc.syscall(*(ctypes.c_long(a) for a in arguments)) >= 0: return 'reached'
            return errno.errorcode[ctypes.get_errno()]
        clone, unshare = {'x86_64': (56, 272), 'aarch64': (220, 97)}[platform.machine()]
        new_user = 0x10000000
        print(call(425, 8, 0), call(unshare, new_user), call(clone, new_user | 17, 0, 0, 0, 0), call(435, 0, 0))
    """)
    result = box.run(code)
    assert (result.status, result.stdout) == ("ok", "EPERM EPERM EPERM ENOSYS\n")


def test_46_sixty_four_calls_at_once_are_not_mixed_up(box: Box) -> None:
    code = dedent("""
        import sys, time
        word = input()
        time.sleep({} / 50)
        print({}, word)
        print({}, file=sys.stderr)
        sys.exit({})
    """)
    calls = [{"code": code.format(n % 3, n, n, n), "stdin": f"word {n}"} for n in range(64)]
    for number, result in enumerate(box.run_all(calls)):
        assert (result.stdout, result.stderr) == (f"{number} word {number}\n", f"{number}\n")
        assert (result.status, result.exit_code) == ("error" if number else "ok", number)

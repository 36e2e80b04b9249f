"""The seccomp filters: their tables against the kernel's headers, their programs interpreted, and the kernel's word."""

from __future__ import annotations

import json
import os
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sod.sandbox import seccomp

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
MACHINES = list(HEADERS)
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}
ANSWERS = {
    0x7FFF0000: "ALLOW",
    0x80000000: "KILL",
    0x00050000: "PRETEND",
    0x00050001: "EPERM",
    0x0005000D: "EACCES",
    0x00050026: "ENOSYS",
}
PID = 4242
GARBAGE = 0xDEADBEEF << 32
"""The half of an argument that the kernel ignores where it reads an int."""


def names(text: str) -> list[str]:
    return text.split()


# What must be refused, by name, written down a second time on purpose
SERVER_EPERM = names("""
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp get_robust_list
    open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr statmount listmount listns
    bpf perf_event_open userfaultfd fanotify_init fanotify_mark lookup_dcookie
    io_uring_setup io_uring_enter io_uring_register io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    inotify_init inotify_init1 add_key request_key keyctl
    init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff iopl ioperm acct
    quotactl quotactl_fd sethostname setdomainname syslog vhangup lsm_set_self_attr
    settimeofday clock_settime adjtimex clock_adjtime memfd_create memfd_secret
    mbind get_mempolicy set_mempolicy set_mempolicy_home_node migrate_pages move_pages
    shmget shmat shmctl shmdt semget semop semctl semtimedop msgget msgsnd msgrcv msgctl
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr name_to_handle_at open_by_handle_at
    personality modify_ldt _sysctl uselib ustat sysfs create_module get_kernel_syms query_module nfsservctl
""")
CALL_EPERM = names("mount umount2 pivot_root chroot unshare setns seccomp pidfd_send_signal")
PROCESS_EPERM = names("fork vfork execve execveat tkill")
FILE_EPERM = names("""
    chown fchown lchown fchownat setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr
    removexattrat file_setattr truncate sendmsg sendmmsg
""")
FILE_PRETENDED = names("chmod fchmod fchmodat fchmodat2 utime utimes futimesat utimensat")
ONLY_ON_X86_64 = names("""
    chmod utime utimes futimesat chown lchown inotify_init
    open fork vfork iopl ioperm mknod modify_ldt _sysctl uselib ustat sysfs create_module get_kernel_syms query_module
""")

Run = Callable[..., str]
GROUPS = (
    seccomp.DENIED_FOR_ALL,
    seccomp.DENIED_IN_A_CALL,
    seccomp.DENIED_WITHOUT_PROCESSES,
    seccomp.DENIED_WITHOUT_MOUNTS,
    seccomp.PRETENDED_WITHOUT_MOUNTS,
    seccomp.DECIDED_BY_ARGUMENTS,
)


def table() -> dict[str, tuple[int, int | None]]:
    return {name: row for group in GROUPS for numbers in group.values() for name, row in numbers.items()}


def number_of(name: str, machine: str) -> int | None:
    return table()[name][MACHINES.index(machine)]


def header_numbers(machine: str) -> dict[str, int]:
    """Name -> number as the kernel's header says. The test is skipped where the header is not installed."""
    if not HEADERS[machine].is_file():
        pytest.skip(f"needs the kernel's header {HEADERS[machine]} (Debian: linux-libc-dev)")
    lines = re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", HEADERS[machine].read_text(), re.MULTILINE)
    return {name: int(number) for name, number in lines if name not in ("syscalls", "arch_specific_syscall")}


# The interpreter


def answer(program: bytes, number: int, *arguments: int, machine: str) -> str:
    """What the kernel would do: runs the program over a seccomp_data. Fails when a jump or a load leaves its bounds."""
    values = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("<IIQ6Q", number, ARCHITECTURE[machine], 0, *values)
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, place = 0, 0
    while True:
        operation, if_true, if_false, constant = instructions[place]
        place += 1
        if operation == 0x06:  # return
            return ANSWERS[constant]
        if operation == 0x20:  # load a word
            assert constant % 4 == 0
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif operation == 0x54:  # and
            accumulator &= constant
        else:
            tests = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: accumulator & constant != 0}
            place += if_true if tests[operation] else if_false


def stacked(number: int, *arguments: int, machine: str, level: str) -> str:
    """The answer of both filters: the stricter kind counts, of two errors the later filter's."""
    answers = [answer(program, number, *arguments, machine=machine) for program in programs(machine, level)]
    if "KILL" in answers:
        return "KILL"
    errors = [found for found in answers if found != "ALLOW"]
    return errors[-1] if errors else "ALLOW"


def programs(machine: str, level: str) -> tuple[bytes, bytes]:
    """Level A as the sandbox asks for it: processes and sockets; B: neither."""
    if level == "A":
        call = seccomp.call_filter(allow_processes=True, allow_unix_sockets=True, machine=machine)
    else:
        call = seccomp.call_filter(
            allow_processes=False, allow_unix_sockets=False, has_own_mounts=False, only_signal=PID, machine=machine
        )
    return seccomp.server_filter(machine), call


# The tables


@pytest.mark.parametrize("machine", MACHINES)
def test_numbers_are_the_kernels(machine: str) -> None:
    known = header_numbers(machine)
    newest = max(known.values())
    for name, row in table().items():
        number = row[MACHINES.index(machine)]
        if number is not None and number > newest:
            assert name not in known
            assert number <= seccomp.LAST_NUMBER
        else:
            assert known.get(name) == number, name


@pytest.mark.parametrize("machine", MACHINES)
def test_unused_numbers_are_unused(machine: str) -> None:
    used = set(header_numbers(machine).values())
    if machine == "aarch64":
        used -= set(range(403, 424))  # for 32-bit machines: the header says so by an #if
    for first, stop in seccomp.UNUSED_NUMBERS[machine]:
        assert used.isdisjoint(range(first, stop))
        assert {stop} <= used


def test_every_call_is_in_one_group() -> None:
    names = [name for group in GROUPS for numbers in group.values() for name in numbers]
    assert len(names) == len(set(names))
    assert {name for name, (_, aarch64) in table().items() if aarch64 is None} == set(ONLY_ON_X86_64)


# The programs, for both machines


@pytest.mark.parametrize("level", ["A", "B"])
@pytest.mark.parametrize("machine", MACHINES)
def test_every_number_without_arguments(machine: str, level: str) -> None:
    expected = dict.fromkeys(range(472, 601), "ENOSYS")
    gaps = range(337, 424) if machine == "x86_64" else [*range(244, 260), *range(295, 424)]
    expected |= dict.fromkeys(gaps, "ENOSYS")
    refused = [*SERVER_EPERM, *CALL_EPERM, *([*PROCESS_EPERM, *FILE_EPERM] if level == "B" else [])]
    by_name = dict.fromkeys(refused, "EPERM") | {"clone3": "ENOSYS", "socket": "EACCES", "socketpair": "EACCES"}
    if level == "B":  # all arguments are 0: a process without CLONE_THREAD, a signal to the group
        by_name |= dict.fromkeys(["clone", "kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"], "EPERM")
        by_name |= {"ioprio_set": "EPERM", "connect": "EACCES", "openat2": "ENOSYS"} | dict.fromkeys(
            FILE_PRETENDED, "PRETEND"
        )
    expected |= {
        number: outcome for name, outcome in by_name.items() if (number := number_of(name, machine)) is not None
    }
    for number in range(601):
        found = stacked(number, machine=machine, level=level)
        assert found == expected.get(number, "ALLOW"), f"number {number}"


@pytest.mark.parametrize("machine", MACHINES)
def test_server_may_set_a_call_up(machine: str) -> None:
    program = seccomp.server_filter(machine)
    needed = [*CALL_EPERM, *PROCESS_EPERM, "clone", "prctl", "kill", "fcntl"]
    for name in needed:
        number = number_of(name, machine)
        if number is not None:
            assert answer(program, number, 0x7E020011, machine=machine) == "ALLOW", name
    for landlock in (444, 445, 446):
        assert stacked(landlock, machine=machine, level="B") == "ALLOW"


NEW = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000}
NEW |= {"user": 0x10000000, "pid": 0x20000000, "net": 0x40000000, "sibling": 0x8000}
FORK, THREAD, SPAWN = 0x1200011, 0x3D0F00, 0x4111

BY_ARGUMENTS = [
    # name, arguments, level A, level B
    ("clone", [FORK], "ALLOW", "EPERM"),
    ("clone", [SPAWN], "ALLOW", "EPERM"),
    ("clone", [THREAD], "ALLOW", "ALLOW"),
    *[("clone", [FORK | bit], "EPERM", "EPERM") for bit in NEW.values()],
    *[("clone", [THREAD | bit], "EPERM", "EPERM") for bit in NEW.values()],
    ("mmap", [0, 4096, 3, 0x21], "EPERM", "EPERM"),
    ("mmap", [0, 4096, 3, 0x23], "EPERM", "EPERM"),
    ("mmap", [0, 4096, 3, 0x4021], "EPERM", "EPERM"),
    ("mmap", [0, 4096, 3, 0x22], "ALLOW", "ALLOW"),
    ("mmap", [0, 4096, 3, 0x01], "ALLOW", "ALLOW"),
    ("fcntl", [5, 1024], "EPERM", "EPERM"),
    ("openat", [3, 0, 0o1000], "ALLOW", "EPERM"),
    ("openat", [3, 0, 0o2001000], "ALLOW", "EPERM"),
    ("openat", [3, 0, 0o1101], "ALLOW", "ALLOW"),
    ("openat", [3, 0, 0o2000000], "ALLOW", "ALLOW"),
    ("open", [0, 0o1000], "ALLOW", "EPERM"),
    ("fcntl", [5, 1026], "EPERM", "EPERM"),
    ("ioctl", [5, 0x40086602], "ALLOW", "EPERM"),
    ("prctl", [22, 2], "EPERM", "EPERM"),
    ("prctl", [62, 1], "EPERM", "EPERM"),
    ("prctl", [1, 0], "ALLOW", "EPERM"),
    ("prctl", [15, 0], "ALLOW", "ALLOW"),
    ("socket", [1, 1], "ALLOW", "EACCES"),
    *[("socket", [family, 1], "EACCES", "EACCES") for family in (0, 2, 10, 16, 17, 38, 40, 0xFFFFFFFF)],
    ("socketpair", [1, 1], "ALLOW", "ALLOW"),
    ("socketpair", [1, 1 | 0x80800], "ALLOW", "ALLOW"),  # SOCK_CLOEXEC | SOCK_NONBLOCK
    ("socketpair", [1, 5], "ALLOW", "ALLOW"),
    ("socketpair", [1, 2], "ALLOW", "EACCES"),
    ("socketpair", [1, 3 | 0x80000], "ALLOW", "EACCES"),  # SOCK_RAW is SOCK_DGRAM here
    ("socketpair", [2, 1], "EACCES", "EACCES"),
    ("connect", [3], "ALLOW", "EACCES"),
    ("ioctl", [0, 0x5412], "EPERM", "EPERM"),
    ("ioctl", [0, 0x541C], "EPERM", "EPERM"),
    ("ioctl", [0, 0x5423], "EPERM", "EPERM"),
    ("ioctl", [0, 0x5401], "ALLOW", "ALLOW"),
    ("ioctl", [0, 0x8901], "ALLOW", "EPERM"),
    ("ioctl", [0, 0x8902], "ALLOW", "EPERM"),
    ("fcntl", [0, 8, 1], "ALLOW", "EPERM"),
    ("fcntl", [0, 15], "ALLOW", "EPERM"),
    ("fcntl", [0, 4], "ALLOW", "ALLOW"),
    ("mknod", [0, 0o20600], "EPERM", "EPERM"),
    ("mknod", [0, 0o60600], "EPERM", "EPERM"),
    ("mknod", [0, 0o10600], "ALLOW", "ALLOW"),
    ("mknodat", [0, 0, 0o20600], "EPERM", "EPERM"),
    ("mknodat", [0, 0, 0o60600], "EPERM", "EPERM"),
    ("mknodat", [0, 0, 0o10600], "ALLOW", "ALLOW"),
    *[
        (name, [pid, 9], "ALLOW", "ALLOW" if pid == PID else "EPERM")
        for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")
        for pid in (PID, 1, PID + 1, 0, 0xFFFFFFFF, 0x7FFFFFFF)
    ],
    *[
        (name, [pid, 9], "ALLOW", "ALLOW" if pid in (0, PID) else "EPERM")
        for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
        for pid in (PID, 0, 1, PID + 1, 0x7FFFFFFF)
    ],
    ("setpriority", [0, 0], "ALLOW", "ALLOW"),
    ("setpriority", [0, PID], "ALLOW", "ALLOW"),
    ("setpriority", [0, 1], "ALLOW", "EPERM"),
    ("setpriority", [1, 0], "ALLOW", "EPERM"),
    ("setpriority", [2, 0], "ALLOW", "EPERM"),
    ("ioprio_set", [1, PID], "ALLOW", "ALLOW"),
    ("ioprio_set", [1, 1], "ALLOW", "EPERM"),
    ("ioprio_set", [3, 0], "ALLOW", "EPERM"),
]


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide_and_their_high_half_does_not(machine: str) -> None:
    for name, arguments, at_a, at_b in BY_ARGUMENTS:
        number = number_of(name, machine)
        if number is None:
            continue
        for level, expected in (("A", at_a), ("B", at_b)):
            for high in (0, GARBAGE):
                values = [high | value for value in arguments]
                assert stacked(number, *values, machine=machine, level=level) == expected, (name, level, values)


def test_processes_sockets_and_signals_are_separate_choices() -> None:
    def call(number: int, *arguments: int, sockets: bool, pid: int | None = None) -> str:
        program = seccomp.call_filter(
            allow_processes=True, allow_unix_sockets=sockets, only_signal=pid, machine="x86_64"
        )
        return answer(program, number, *arguments, machine="x86_64")

    assert call(41, 1, sockets=False) == "EACCES"
    assert call(57, sockets=False) == "ALLOW"
    assert call(62, 1, sockets=True) == "ALLOW"
    assert call(62, 1, sockets=True, pid=7) == "EPERM"
    assert call(62, 7, sockets=True, pid=7) == "ALLOW"
    assert call(57, sockets=True, pid=7) == "ALLOW"


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_is_killed(machine: str) -> None:
    others = ARCHITECTURE.keys() - {machine}
    for program in (*programs(machine, "A"), *programs(machine, "B")):
        for other in others:
            assert {answer(program, number, machine=other) for number in (0, 39, 101, 435, 471, 1 << 30)} == {"KILL"}


def test_x32_is_killed_on_x86_64_and_unknown_on_aarch64() -> None:
    for number in (1 << 30, 1 << 30 | 39, 1 << 30 | 547, 1 << 31, (1 << 32) - 1):
        assert stacked(number, machine="x86_64", level="A") == "KILL"
        assert stacked(number, machine="aarch64", level="A") == "ENOSYS"
    assert stacked((1 << 30) - 1, machine="x86_64", level="A") == "ENOSYS"


words = st.integers(0, 2**32 - 1)
likely = st.sampled_from(sorted({row[0] for row in table().values()} | {row[1] or 0 for row in table().values()}))
numbers = st.one_of(st.integers(0, 600), likely, words)
arguments = st.lists(st.one_of(st.integers(0, 64), words, st.integers(0, 2**64 - 1)), max_size=6)


@given(numbers, arguments, st.sampled_from(MACHINES), st.sampled_from(["A", "B"]))
def test_any_question_has_an_answer_and_b_allows_no_more_than_a(
    number: int, arguments: list[int], machine: str, level: str
) -> None:
    found = stacked(number, *arguments, machine=machine, level=level)  # an unknown answer is a KeyError
    low = [argument & 0xFFFFFFFF for argument in arguments]
    assert stacked(number, *low, machine=machine, level=level) == found
    if level == "B" and found == "ALLOW":
        assert stacked(number, *arguments, machine=machine, level="A") == "ALLOW"


@given(st.integers(1, 2**22))
def test_the_process_id_is_the_only_difference(pid: int) -> None:
    program = seccomp.call_filter(allow_processes=False, allow_unix_sockets=False, only_signal=pid, machine="x86_64")
    other = seccomp.call_filter(allow_processes=False, allow_unix_sockets=False, only_signal=PID, machine="x86_64")
    own, another = struct.pack("<I", pid), struct.pack("<I", PID)
    for (*left, found), (*right, expected) in zip(
        struct.iter_unpack("<HBB4s", program), struct.iter_unpack("<HBB4s", other), strict=True
    ):
        assert left == right
        assert found == (own if expected == another else expected)


def test_bad_requests_say_what_to_do() -> None:
    with pytest.raises(ValueError, match="needs only_signal"):
        seccomp.call_filter(allow_processes=False, allow_unix_sockets=True)
    with pytest.raises(ValueError, match="got 0"):
        seccomp.call_filter(allow_processes=True, allow_unix_sockets=True, only_signal=0)
    with pytest.raises(OSError, match="must be x86_64 or aarch64, got 'riscv64'"):
        seccomp.server_filter("riscv64")


# The kernel's word: a server under `server_filter` that forks one child under `call_filter` for each request

SERVER = """
import ctypes, importlib.util, json, os, resource, sys, time
specification = importlib.util.spec_from_file_location("seccomp", sys.argv[1])
seccomp = importlib.util.module_from_spec(specification)
specification.loader.exec_module(seccomp)
libc = ctypes.CDLL(None, use_errno=True)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
seccomp.install(seccomp.server_filter())
try:
    seccomp.install(bytes(8))
    broken = "installed"
except OSError as error:
    broken = f"{error.errno}: {error.strerror}"

def call(number, *arguments):
    if libc.syscall(number, *[ctypes.c_long(argument) for argument in arguments]) == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))

def child(request, pipe):
    result = "ok"
    try:
        b = request["level"] == "B"
        options = {"allow_processes": not b, "allow_unix_sockets": not b, "only_signal": os.getpid() if b else None}
        start = time.perf_counter()
        program = seccomp.call_filter(**options)
        assembled = time.perf_counter()
        seccomp.install(program)
        microseconds = [round(1e6 * (assembled - start), 1), round(1e6 * (time.perf_counter() - assembled), 1)]
        scope = {"__name__": "__main__", "call": call, "broken": broken, "microseconds": microseconds}
        exec(request["code"], scope)
        result = scope.get("result", "ok")
    except OSError as error:
        import errno
        result = errno.errorcode.get(error.errno, "no number")
    except BaseException as error:
        result = repr(error)
    os.write(pipe, str(result).encode())
    os._exit(0)

for level in "AB":
    seccomp.call_filter(allow_processes=level == "A", allow_unix_sockets=level == "A", only_signal=1)
seccomp.call_filter(allow_processes=True, allow_unix_sockets=True)
for line in sys.stdin:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        child(json.loads(line), write)
    os.close(write)
    with open(read, "rb") as pipe:
        result = pipe.read().decode()
    signal = os.waitpid(pid, 0)[1] & 0x7F
    print(json.dumps(f"signal {signal}" if signal else result), flush=True)
"""


def seccomp_works() -> bool:
    return platform.system() == "Linux" and platform.machine() in MACHINES and "Seccomp:" in status_of_self()


def status_of_self() -> str:
    return Path("/proc/self/status").read_text()


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """`run(code, level="B")` in a filtered process: its `result`, "ok", the name of its errno, or "signal 31"."""
    if not seccomp_works():
        pytest.skip(f"needs Linux with seccomp on x86_64 or aarch64, this is {platform.system()} {platform.machine()}")
    command = [sys.executable, "-I", "-c", SERVER, seccomp.__file__]
    environment = {"PATH": os.environ["PATH"], "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def ask(code: str, *, level: str) -> str:
            print(json.dumps({"code": code, "level": level}), file=server.stdin, flush=True)
            return json.loads(server.stdout.readline())

        yield ask
        server.stdin.close()


def system_call(name: str, *arguments: int) -> str:
    number = number_of(name, platform.machine())
    return f"call({', '.join(map(str, [number, *arguments]))})"


@pytest.mark.parametrize("level", ["A", "B"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ptrace", [0]),
        ("process_vm_readv", [1]),
        ("bpf", [0]),
        ("perf_event_open", [0]),
        ("userfaultfd", [0]),
        ("io_uring_setup", [1]),
        ("keyctl", [0]),
        ("memfd_create", [0]),
        ("shmget", [0, 4096, 0o1600]),
        ("semget", [0, 1, 0o1600]),
        ("name_to_handle_at", [0]),
        ("personality", [0xFFFFFFFF]),
        ("mount", [0]),
        ("umount2", [0]),
        ("pivot_root", [0]),
        ("chroot", [0]),
        ("unshare", [0]),
        ("setns", [-1]),
        ("seccomp", [0]),
        ("prctl", [22, 2]),
        ("pidfd_send_signal", [-1]),
        ("clone", [0x10000011]),
        ("ioctl", [0, 0x5412]),
    ],
)
def test_kernel_refuses(run: Run, name: str, arguments: list[int], level: str) -> None:
    assert run(system_call(name, *arguments), level=level) == "EPERM"


@pytest.mark.parametrize(
    ("code", "at_a", "at_b"),
    [
        (system_call("clone3", 0, 0), "ENOSYS", "ENOSYS"),
        ("call(472)", "ENOSYS", "ENOSYS"),
        ("import socket; socket.socket(socket.AF_INET)", "EACCES", "EACCES"),
        ("import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "EACCES", "EACCES"),
        ("import socket; socket.socket(socket.AF_UNIX)", "ok", "EACCES"),
        ("import socket; a, b = socket.socketpair(); a.send(b'x'); result = b.recv(1)", "b'x'", "b'x'"),
        ("import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)", "ok", "EACCES"),
        ("import asyncio; result = asyncio.run(asyncio.sleep(0, 3))", "3", "3"),
        ("import os; os.waitpid(os.fork() or os._exit(0), 0)", "ok", "EPERM"),
        ("import os; os.execv('/proc/self/exe', ['python', '-c', ''])", "", "EPERM"),
        ("import subprocess, sys; result = subprocess.check_output([sys.executable, '-c', '1 + 1'])", "b''", "EPERM"),
        ("import os; os.waitpid(os.posix_spawn('/proc/self/exe', ['python', '-c', ''], {}), 0)", "ok", "EPERM"),
        ("import os, signal; os.kill(os.getppid(), 0)", "ok", "EPERM"),
        ("import os, signal; os.kill(0, 0)", "ok", "EPERM"),
        ("import os, signal; os.kill(os.getpid(), 0)", "ok", "ok"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "signal 15", "signal 15"),
        ("import signal; signal.raise_signal(signal.SIGUSR1)", "signal 10", "signal 10"),
        ("import os; os.abort()", "signal 6", "signal 6"),
        ("import signal, threading; signal.pthread_kill(threading.get_ident(), 12)", "signal 12", "signal 12"),
        ("import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())", "ok", "EPERM"),
        ("import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)", "ok", "EPERM"),
        ("import os, resource; resource.prlimit(os.getpid(), resource.RLIMIT_NOFILE)", "ok", "ok"),
        ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))", "ok", "ok"),
        ("import os; os.sched_setaffinity(0, os.sched_getaffinity(0))", "ok", "ok"),
        ("import os; os.sched_setaffinity(os.getppid(), os.sched_getaffinity(0))", "ok", "EPERM"),
        ("import os; os.setpriority(0, os.getppid(), os.getpriority(0, os.getppid()))", "ok", "EPERM"),
        ("import os; result = os.nice(1) - os.nice(0)", "0", "0"),
    ],
)
def test_kernel_decides_by_level(run: Run, code: str, at_a: str, at_b: str) -> None:
    assert (run(code, level="A"), run(code, level="B")) == (at_a, at_b)


THREADS = """
import threading
found = []
threads = [threading.Thread(target=found.append, args=(i,)) for i in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
result = sorted(found)
"""
THREAD_IS_FILTERED = """
import threading
found = []
def look():
    try: {call}
    except OSError as error: found.append(error.errno)
thread = threading.Thread(target=look); thread.start(); thread.join()
result = found
"""
FIFO = """
import os, tempfile
with tempfile.TemporaryDirectory() as folder: os.mkfifo(folder + '/fifo')
"""
DEVICE = """
import os, stat, tempfile
with tempfile.TemporaryDirectory() as folder: os.mknod(folder + '/null', stat.S_IFCHR | 0o600, os.makedev(1, 3))
"""
NUMPY = """
import numpy as np, sympy
matrix = np.arange(10_000.0).reshape(100, 100)
result = (matrix @ np.linalg.inv(matrix + np.eye(100))).shape, str(sympy.integrate(sympy.Symbol('x')))
"""


@pytest.mark.parametrize("level", ["A", "B"])
def test_ordinary_code_works(run: Run, level: str) -> None:
    assert run(THREADS, level=level) == "[0, 1, 2, 3]"  # glibc falls back from clone3 to clone
    assert run(FIFO, level=level) == "ok"
    assert run(DEVICE, level=level) == "EPERM"
    assert run(NUMPY, level=level) == "((100, 100), 'x**2/2')"
    assert run(THREAD_IS_FILTERED.format(call=system_call("memfd_create", 0)), level=level) == "[1]"


def test_multiprocessing_works_where_processes_do(run: Run) -> None:
    code = "import multiprocessing as m\nwith m.Pool(2) as pool: result = pool.map(abs, [-1, -2])"
    assert run(code, level="A") == "[1, 2]"
    assert run(code, level="B") == "EPERM"


def test_refused_filter_is_an_error(run: Run) -> None:
    assert run("result = broken", level="A") == "22: seccomp filter of 1 instructions: Invalid argument"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="x32 is a mode of x86_64")
def test_kernel_kills_x32(run: Run) -> None:
    assert run("call(1 << 30 | 39)", level="A") == "signal 31"  # getpid; SIGSYS


def test_asking_and_installing_is_cheap(run: Run) -> None:
    """Printed, not asserted: the machine may be busy."""
    for level in "AB":
        pairs = sorted(json.loads(run("result = microseconds", level=level)) for _ in range(31))
        asked, installed = (sorted(column)[len(pairs) // 2] for column in zip(*pairs, strict=True))
        sizes = [len(program) // 8 for program in programs("x86_64", level)]
        print(f"level {level}: {sizes} instructions, program {asked} us, installed {installed} us (median of 31)")
        assert installed > 0


def test_loads_without_site_and_without_the_package() -> None:
    code = """
import importlib.util, sys
specification = importlib.util.spec_from_file_location("seccomp", sys.argv[1])
module = importlib.util.module_from_spec(specification)
specification.loader.exec_module(module)
print(len(module.server_filter("aarch64")) % 8, any(name.split(".")[0] in ("sod", "site") for name in sys.modules))
"""
    command = [sys.executable, "-I", "-S", "-c", code, seccomp.__file__]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert process.stdout.split() == ["0", "False"], process.stderr

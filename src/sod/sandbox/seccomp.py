"""What a process may ask of the kernel: two seccomp filters, assembled here. Linux only, standard library only.

Loaded by path in the fork server, without any import of ours. Filters stack and the strictest answer counts, so the
long one (`server_filter`) is installed once in the fork server and inherited; each call only pays for the short one
(`call_filter`). What no table below names is allowed; a number newer than the tables does not exist (ENOSYS).

A program is a search tree over the numbers of system calls, followed by one block of instructions for each answer. A
call that is allowed whatever its arguments costs nothing at run time: since Linux 5.11 the kernel keeps those in a
bitmap, which it fills at installation by walking the program once for each number. A tree makes that walk short.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from collections.abc import Mapping, Sequence
from typing import TypeAlias

Numbers: TypeAlias = dict[str, tuple[int, int | None]]
Instruction: TypeAlias = tuple[int, int, int, int]
"""Operation, how many instructions to skip if true, and if false, and the constant."""
Block: TypeAlias = tuple[Instruction, ...]

MACHINE = os.uname().machine

# System calls by reason: name -> (number on x86_64, number on aarch64 or None where there is no such call)

DENIED_FOR_ALL: dict[str, Numbers] = {
    "Other processes: reads or changes their memory, takes their descriptors, tells what they share": {
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "process_madvise": (440, 440),
        "process_mrelease": (448, 448),
        "pidfd_getfd": (438, 438),
        "kcmp": (312, 272),
        "get_robust_list": (274, 100),
    },
    "Mounts by descriptor, and lists of mounts and namespaces: a call is set up with mount(2) alone": {
        "open_tree": (428, 428),
        "open_tree_attr": (467, 467),
        "move_mount": (429, 429),
        "fsopen": (430, 430),
        "fsconfig": (431, 431),
        "fsmount": (432, 432),
        "fspick": (433, 433),
        "mount_setattr": (442, 442),
        "statmount": (457, 457),
        "listmount": (458, 458),
        "listns": (470, 470),
    },
    "Programs, probes and watches inside the kernel: the largest source of its security faults": {
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "userfaultfd": (323, 282),
        "fanotify_init": (300, 262),
        "fanotify_mark": (301, 263),
        "lookup_dcookie": (212, 18),
    },
    "io_uring: the kernel does the work of other calls for it, past this filter": {
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
    },
    "Requests and watches that are counted for the whole machine or user: one call could take them all": {
        "io_setup": (206, 0),
        "io_destroy": (207, 1),
        "io_submit": (209, 2),
        "io_cancel": (210, 3),
        "io_getevents": (208, 4),
        "io_pgetevents": (333, 292),
        "inotify_init": (253, None),
        "inotify_init1": (294, 26),
    },
    "Keys: rings are shared with every process of the user": {
        "add_key": (248, 217),
        "request_key": (249, 218),
        "keyctl": (250, 219),
    },
    "The machine itself: modules, another kernel, power, swap, ports, accounting, quotas, names, log, confinement": {
        "init_module": (175, 105),
        "finit_module": (313, 273),
        "delete_module": (176, 106),
        "kexec_load": (246, 104),
        "kexec_file_load": (320, 294),
        "reboot": (169, 142),
        "swapon": (167, 224),
        "swapoff": (168, 225),
        "iopl": (172, None),
        "ioperm": (173, None),
        "acct": (163, 89),
        "quotactl": (179, 60),
        "quotactl_fd": (443, 443),
        "sethostname": (170, 161),
        "setdomainname": (171, 162),
        "syslog": (103, 116),
        "vhangup": (153, 58),
        "lsm_set_self_attr": (460, 460),
    },
    "Clocks: one for the whole machine": {
        "settimeofday": (164, 170),
        "clock_settime": (227, 112),
        "adjtimex": (159, 171),
        "clock_adjtime": (305, 266),
    },
    "Memory files: memory and programs that no limit on files counts": {
        "memfd_create": (319, 279),
        "memfd_secret": (447, 447),
    },
    "Placement of memory on nodes: takes a node from its neighbours, or moves another process": {
        "mbind": (237, 235),
        "get_mempolicy": (239, 236),
        "set_mempolicy": (238, 237),
        "set_mempolicy_home_node": (450, 450),
        "migrate_pages": (256, 238),
        "move_pages": (279, 239),
    },
    "System V and POSIX queues, semaphores, memory: outlive their process, and no limit of ours counts them": {
        "shmget": (29, 194),
        "shmat": (30, 196),
        "shmctl": (31, 195),
        "shmdt": (67, 197),
        "semget": (64, 190),
        "semop": (65, 193),
        "semctl": (66, 191),
        "semtimedop": (220, 192),
        "msgget": (68, 186),
        "msgsnd": (69, 189),
        "msgrcv": (70, 188),
        "msgctl": (71, 187),
        "mq_open": (240, 180),
        "mq_unlink": (241, 181),
        "mq_timedsend": (242, 182),
        "mq_timedreceive": (243, 183),
        "mq_notify": (244, 184),
        "mq_getsetattr": (245, 185),
    },
    "Files by handle: opens what no directory in sight leads to": {
        "name_to_handle_at": (303, 264),
        "open_by_handle_at": (304, 265),
    },
    "Old ways of doing things: rarely looked at, never needed; personality also turns address randomisation off": {
        "personality": (135, 92),
        "modify_ldt": (154, None),
        "_sysctl": (156, None),
        "uselib": (134, None),
        "ustat": (136, None),
        "sysfs": (139, None),
        "create_module": (174, None),
        "get_kernel_syms": (177, None),
        "query_module": (178, None),
        "nfsservctl": (180, 42),
    },
}

DENIED_IN_A_CALL: dict[str, Numbers] = {
    "What sets a call up, and would take its confinement down again": {
        "mount": (165, 40),
        "umount2": (166, 39),
        "pivot_root": (155, 41),
        "chroot": (161, 51),
        "unshare": (272, 97),
        "setns": (308, 268),
        "seccomp": (317, 277),
    },
    "Signals by process descriptor: what limits kill(2) by process id does not see them": {
        "pidfd_send_signal": (424, 424),
    },
}

DENIED_WITHOUT_PROCESSES: dict[str, Numbers] = {
    "Starts a process, or becomes another program": {
        "fork": (57, None),
        "vfork": (58, None),
        "execve": (59, 221),
        "execveat": (322, 281),
    },
    "Signals a thread of any process: its argument does not name the process. glibc uses tgkill": {
        "tkill": (200, 130),
    },
}

PRETENDED_WITHOUT_MOUNTS: dict[str, Numbers] = {
    "Modes and times of files: Landlock has no rule for them, so any file of the user would be open to it": {
        "chmod": (90, None),
        "fchmod": (91, 52),
        "fchmodat": (268, 53),
        "fchmodat2": (452, 452),
        "utime": (132, None),
        "utimes": (235, None),
        "futimesat": (261, None),
        "utimensat": (280, 88),
    },
}
"""Not an error: shutil.copy and tarfile set modes in passing, and in a directory of one's own nothing hangs on them."""

DENIED_WITHOUT_MOUNTS: dict[str, Numbers] = {
    "Owners and attributes of files: likewise without a rule, and nothing sets them in passing": {
        "chown": (92, None),
        "fchown": (93, 55),
        "lchown": (94, None),
        "fchownat": (260, 54),
        "setxattr": (188, 5),
        "lsetxattr": (189, 6),
        "fsetxattr": (190, 7),
        "setxattrat": (463, 463),
        "removexattr": (197, 14),
        "lremovexattr": (198, 15),
        "fremovexattr": (199, 16),
        "removexattrat": (466, 466),
        "file_setattr": (469, 469),
    },
    "Truncation by path: before its version 3, Landlock had no rule for it": {
        "truncate": (76, 45),
    },
    "Descriptors in flight: an unlinked file that only a message holds would not be counted": {
        "sendmsg": (46, 211),
        "sendmmsg": (307, 269),
    },
}

DECIDED_BY_ARGUMENTS: dict[str, Numbers] = {
    "New processes": {"clone": (56, 220), "clone3": (435, 435), "prctl": (157, 167)},
    "Sockets": {"socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203)},
    "Devices and descriptors": {"mknod": (133, None), "mknodat": (259, 33), "ioctl": (16, 29), "fcntl": (72, 25)},
    "Signals: the first argument is the process": {
        "kill": (62, 129),
        "tgkill": (234, 131),
        "rt_sigqueueinfo": (129, 138),
        "rt_tgsigqueueinfo": (297, 240),
    },
    "Limits and scheduling: the first argument is the process": {
        "prlimit64": (302, 261),
        "sched_setaffinity": (203, 122),
        "sched_setscheduler": (144, 119),
        "sched_setparam": (142, 118),
        "sched_setattr": (314, 274),
    },
    "Priorities: the first argument says what the second one is": {
        "setpriority": (141, 140),
        "ioprio_set": (251, 30),
    },
    "Opening: by flags": {"open": (2, None), "openat": (257, 56), "openat2": (437, 437)},
    "Shared memory without a file: mremap can shrink it and its pages stay, where no limit of ours counts them": {
        "mmap": (9, 222),
    },
}

LAST_NUMBER = 471
"""rseq_slice_yield, Linux 7.0. From 424 on, both machines number alike."""
UNUSED_NUMBERS = {"x86_64": [(337, 424)], "aarch64": [(244, 260), (295, 424)]}
"""First number, first after it: no such calls on that machine today."""
X32_BIT = 0x40000000
NUM_NUMBERS = 1 << 32
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# The machine that runs the programs: linux/bpf_common.h, linux/seccomp.h

LOAD, AND, RETURN, IF_EQUAL, IF_AT_LEAST, IF_ANY_BIT = 0x20, 0x54, 0x06, 0x15, 0x35, 0x45
NUMBER_OFFSET, ARCHITECTURE_OFFSET, ARGUMENTS_OFFSET = 0, 4, 16
MAX_SKIP = 255

ALLOW: Block = ((RETURN, 0, 0, 0x7FFF0000),)
KILL_PROCESS: Block = ((RETURN, 0, 0, 0x80000000),)
EPERM, EACCES, ENOSYS = (((RETURN, 0, 0, 0x00050000 | code),) for code in (errno.EPERM, errno.EACCES, errno.ENOSYS))
PRETEND: Block = ((RETURN, 0, 0, 0x00050000),)
"""Says that it went well, and does nothing."""

OWN_PID = 0x7FFFFFFF
"""Stands for the process id until that is known; no process has this one."""

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SCHED_CORE, SECCOMP_MODE_FILTER = 1, 22, 62, 2
AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET, SOCKET_TYPE = 1, 1, 5, 0xF
CLONE_PARENT, CLONE_THREAD = 0x8000, 0x10000
CLONE_NAMESPACES = 0x7E020000
"""mnt, cgroup, uts, ipc, user, pid, net. A time namespace takes unshare or clone3."""
MAP_SHARED, MAP_SHARED_VALIDATE, MAP_ANONYMOUS, MAP_KIND = 0x1, 0x3, 0x20, 0x2F
S_IFCHR, S_IFBLK, FILE_TYPE = 0x2000, 0x6000, 0xF000
TIOCSTI, TIOCLINUX, TIOCSETD, FIOSETOWN, SIOCSPGRP = 0x5412, 0x541C, 0x5423, 0x8901, 0x8902
O_TRUNC, O_ACCMODE = 0o1000, 0o3
FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR = 0x40086602, 0x401C5820
F_SETOWN, F_SETOWN_EX, F_SETLEASE, F_NOTIFY = 8, 15, 1024, 1026
PRIO_PROCESS, IOPRIO_WHO_PROCESS = 0, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _if_argument(index: int, values: Sequence[int], then: Block, *, otherwise: Block, mask: int = 0) -> Block:
    """Answers by one argument, or its bits in `mask`: the low 32 bits, as the kernel reads an int.

    `_if_argument(0, [AF_UNIX], ALLOW, otherwise=EACCES)` lets socket(2) make AF_UNIX sockets.
    """
    load: Block = ((LOAD, 0, 0, ARGUMENTS_OFFSET + 8 * index),)
    masked: Block = ((AND, 0, 0, mask),) if mask else ()
    last = len(values) - 1
    tests = tuple((IF_EQUAL, last - i + len(otherwise), 0, value) for i, value in enumerate(values))
    return (*load, *masked, *tests, *otherwise, *then)


def _if_any_bit(index: int, bits: int, then: Block, *, otherwise: Block) -> Block:
    """Answers by whether the low 32 bits of an argument have any of `bits`."""
    test: Block = ((LOAD, 0, 0, ARGUMENTS_OFFSET + 8 * index), (IF_ANY_BIT, len(otherwise), 0, bits))
    return (*test, *otherwise, *then)


_DEVICES = [S_IFCHR, S_IFBLK]
_SHARED_ANONYMOUS = [MAP_SHARED | MAP_ANONYMOUS, MAP_SHARED_VALIDATE | MAP_ANONYMOUS]
_UNIX_ONLY = _if_argument(0, [AF_UNIX], ALLOW, otherwise=EACCES)
_SELF_ONLY = _if_argument(0, [OWN_PID], ALLOW, otherwise=EPERM)  # not 0 either: to kill(2) that is the process group
_ZERO_OR_SELF = _if_argument(0, [0, OWN_PID], ALLOW, otherwise=EPERM)
_SECOND_ZERO_OR_SELF = _if_argument(1, [0, OWN_PID], ALLOW, otherwise=EPERM)
_THREAD_ONLY = _if_any_bit(0, CLONE_THREAD, ALLOW, otherwise=EPERM)
_NEW_PLACE = CLONE_NAMESPACES | CLONE_PARENT  # CLONE_PARENT: a child of the fork server, which does not know it

_SERVER_RULES: dict[str, Block] = {
    "clone3": ENOSYS,
    "socket": _UNIX_ONLY,
    "socketpair": _UNIX_ONLY,
    "mknod": _if_argument(1, _DEVICES, EPERM, otherwise=ALLOW, mask=FILE_TYPE),  # os.mkfifo stays
    "mknodat": _if_argument(2, _DEVICES, EPERM, otherwise=ALLOW, mask=FILE_TYPE),
    # Types into a terminal; loads a driver for one.
    "ioctl": _if_argument(1, [TIOCSTI, TIOCLINUX, TIOCSETD], EPERM, otherwise=ALLOW),
}
_CALL_RULES: dict[str, Block] = {
    "mmap": _if_argument(3, _SHARED_ANONYMOUS, EPERM, otherwise=ALLOW, mask=MAP_KIND),
    "clone": _if_any_bit(0, _NEW_PLACE, EPERM, otherwise=ALLOW),
    # A lease makes everyone else's open of the file wait; a notice of a directory is counted for the whole user.
    "fcntl": _if_argument(1, [F_SETLEASE, F_NOTIFY], EPERM, otherwise=ALLOW),
    # PR_SCHED_CORE keeps everyone else off the other half of a core.
    "prctl": _if_argument(0, [PR_SET_SECCOMP, PR_SCHED_CORE], EPERM, otherwise=ALLOW),
}
_NO_PROCESS_RULES: dict[str, Block] = {
    "clone": _if_any_bit(0, _NEW_PLACE, EPERM, otherwise=_THREAD_ONLY),
    "prctl": _if_argument(0, [PR_SET_SECCOMP, PR_SCHED_CORE, PR_SET_PDEATHSIG], EPERM, otherwise=ALLOW),
}
_ONE_PROCESS_RULES: dict[str, Block] = {
    **dict.fromkeys(DECIDED_BY_ARGUMENTS["Signals: the first argument is the process"], _SELF_ONLY),
    **dict.fromkeys(DECIDED_BY_ARGUMENTS["Limits and scheduling: the first argument is the process"], _ZERO_OR_SELF),
    "setpriority": _if_argument(0, [PRIO_PROCESS], _SECOND_ZERO_OR_SELF, otherwise=EPERM),
    "ioprio_set": _if_argument(0, [IOPRIO_WHO_PROCESS], _SECOND_ZERO_OR_SELF, otherwise=EPERM),
    # The owner of a descriptor gets a signal of the code's choice, SIGKILL too, when there is something to read.
    "fcntl": _if_argument(1, [F_SETOWN, F_SETOWN_EX, F_SETLEASE, F_NOTIFY], EPERM, otherwise=ALLOW),
    "ioctl": _if_argument(1, [FIOSETOWN, SIOCSPGRP, FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR], EPERM, otherwise=ALLOW),
}
_NO_MOUNT_RULES: dict[str, Block] = {
    # Opening for reading can truncate, too; openat2 keeps its flags in memory, where no filter can look.
    "open": _if_argument(1, [O_TRUNC], EPERM, otherwise=ALLOW, mask=O_TRUNC | O_ACCMODE),
    "openat": _if_argument(2, [O_TRUNC], EPERM, otherwise=ALLOW, mask=O_TRUNC | O_ACCMODE),
    "openat2": ENOSYS,
}
_NO_SOCKET_RULES: dict[str, Block] = {
    "socket": EACCES,
    "connect": EACCES,
    # A pair of datagram sockets can still send to any address: to the host's log, or to an abstract socket.
    "socketpair": _if_argument(1, [SOCK_STREAM, SOCK_SEQPACKET], ALLOW, otherwise=EACCES, mask=SOCKET_TYPE),
}


def server_filter(machine: str = MACHINE) -> bytes:
    """Denies what neither the fork server nor a call ever needs. Installed once, in the fork server.

    Another architecture than `machine`, and x32 numbers, kill the process; unknown numbers and clone3 are ENOSYS
    (clone3 keeps its flags in memory, where no filter can look; glibc falls back to clone); sockets other than AF_UNIX
    are EACCES; the rest of the tables is EPERM. Leaves open what sets a call up: `call_filter` closes it.
    OSError for a machine that is neither x86_64 nor aarch64.
    """
    rules = _denied(DENIED_FOR_ALL) | _SERVER_RULES
    return _packed(_program(rules, machine=machine, refuse_unknown=True))


def call_filter(
    *,
    allow_processes: bool,
    allow_unix_sockets: bool,
    has_own_mounts: bool = True,
    only_signal: int | None = None,
    machine: str = MACHINE,
) -> bytes:
    """Denies a call what would take its confinement down again. Installed in each call, on top of `server_filter`.

    `only_signal` is the id of the process to be filtered: it may then signal, limit and schedule nobody but itself.
    `allow_processes=False` leaves it threads only, and needs `only_signal`: no namespace shields other processes then.
    `has_own_mounts=False`: it sees files of the host, whose modes, times, owners and attributes it may not set.
    `allow_unix_sockets=False` leaves it pairs of stream sockets, as asyncio and multiprocessing use them.
    The errors are EPERM, for sockets EACCES: both are PermissionError.

    The first program of a kind takes a fifth of a millisecond, the next ones some microseconds: the fork server should
    ask for one, with any process id, before it forks. OSError for an unknown machine.
    """
    if only_signal is None and not allow_processes:
        raise ValueError("allow_processes=False needs only_signal, the id of the process that will be filtered")
    if only_signal is not None and not 0 < only_signal < OWN_PID:
        raise ValueError(f"only_signal must be the id of a process, got {only_signal}")
    program, places = _call_template(
        allow_processes=allow_processes,
        allow_unix_sockets=allow_unix_sockets,
        has_own_mounts=has_own_mounts,
        machine=machine,
        limit_signals=only_signal is not None,
    )
    filled = bytearray(program)
    for place in places:
        struct.pack_into("=I", filled, place, only_signal)
    return bytes(filled)


def install(program: bytes) -> None:
    """Filters this thread, and what it starts from now on, for good. OSError when the kernel refuses.

    PR_SET_NO_NEW_PRIVS has to be set (EACCES otherwise): a filter must not confuse a setuid program. Threads that run
    already are not covered, so this belongs before the first one.
    """
    buffer = ctypes.create_string_buffer(program, len(program))  # must outlive the prctl, which copies it
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    zero = ctypes.c_ulong(0)
    if _libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), header, zero, zero) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp filter of {len(program) // 8} instructions: {os.strerror(code)}")


@functools.cache
def _call_template(
    *, allow_processes: bool, allow_unix_sockets: bool, has_own_mounts: bool, limit_signals: bool, machine: str
) -> tuple[bytes, tuple[int, ...]]:
    """A program with `OWN_PID` in it, and the bytes where the process id belongs."""
    rules = _denied(DENIED_IN_A_CALL) | _CALL_RULES
    if limit_signals:
        rules |= _ONE_PROCESS_RULES
    if not allow_processes:
        rules |= _denied(DENIED_WITHOUT_PROCESSES) | _NO_PROCESS_RULES
    if not has_own_mounts:
        rules |= _denied(DENIED_WITHOUT_MOUNTS) | _NO_MOUNT_RULES
        rules |= {name: PRETEND for numbers in PRETENDED_WITHOUT_MOUNTS.values() for name in numbers}
    if not allow_unix_sockets:
        rules |= _NO_SOCKET_RULES
    program = _program(rules, machine=machine, refuse_unknown=False)
    return _packed(program), tuple(8 * i + 4 for i, instruction in enumerate(program) if instruction[3] == OWN_PID)


def _denied(groups: Mapping[str, Numbers]) -> dict[str, Block]:
    return {name: EPERM for numbers in groups.values() for name in numbers}


def _numbers(machine: str) -> dict[str, int]:
    """Every name of the tables that the machine has, with its number."""
    if machine not in ARCHITECTURES:
        known = " or ".join(ARCHITECTURES)
        raise OSError(errno.ENOSYS, f"the machine must be {known}, got {machine!r}: use a sandbox on such a machine")
    column = list(ARCHITECTURES).index(machine)
    tables = (
        *(DENIED_FOR_ALL, DENIED_IN_A_CALL, DENIED_WITHOUT_PROCESSES, DENIED_WITHOUT_MOUNTS),
        *(PRETENDED_WITHOUT_MOUNTS, DECIDED_BY_ARGUMENTS),
    )
    rows = {name: row[column] for groups in tables for numbers in groups.values() for name, row in numbers.items()}
    return {name: number for name, number in rows.items() if number is not None}


def _program(rules: Mapping[str, Block], *, machine: str, refuse_unknown: bool) -> Block:
    """Checks the architecture, then finds the answer for the number; what no rule names is allowed."""
    numbers = _numbers(machine)
    spans = [(numbers[name], numbers[name] + 1, block) for name, block in rules.items() if name in numbers]
    if refuse_unknown:
        spans += [(first, stop, ENOSYS) for first, stop in UNUSED_NUMBERS[machine]]
        spans += [(LAST_NUMBER + 1, X32_BIT, ENOSYS)]
    spans += [(X32_BIT, NUM_NUMBERS, KILL_PROCESS if machine == "x86_64" else ENOSYS)]
    return (
        (LOAD, 0, 0, ARCHITECTURE_OFFSET),
        (IF_EQUAL, 1, 0, ARCHITECTURES[machine]),
        *KILL_PROCESS,
        (LOAD, 0, 0, NUMBER_OFFSET),
        *_search(_steps(spans)),
    )


def _steps(spans: Sequence[tuple[int, int, Block]]) -> list[tuple[int, Block]]:
    """Where the answer changes: a span (5, 7, EPERM) -> (0, ALLOW), (5, EPERM), (7, ALLOW)."""
    steps: list[tuple[int, Block]] = []
    reached = 0
    for first, stop, block in sorted(spans):
        assert first >= reached, f"two rules for number {first}"
        if first > reached:
            steps.append((reached, ALLOW))
        if not steps or steps[-1][1] != block:
            steps.append((first, block))
        reached = stop
    return steps if reached == NUM_NUMBERS else [*steps, (reached, ALLOW)]


def _search(steps: Sequence[tuple[int, Block]]) -> Block:
    """A balanced tree of `number >= start of a step`, then each answer once.

    `[(0, ALLOW), (5, EPERM)]` -> if number >= 5 skip 1; allow; refuse.
    """
    tree: list[Instruction] = []
    places: dict[Block, int] = {}
    end = len(steps) - 1  # one comparison fewer than steps
    for _, block in steps:
        if block not in places:
            places[block], end = end, end + len(block)

    def grow(low: int, high: int) -> int:
        """Appends the tree for `steps[low:high]`; the place where it starts."""
        if high - low == 1:
            return places[steps[low][1]]
        place, middle = len(tree), (low + high) // 2
        tree.append((RETURN, 0, 0, 0))  # until both branches are there
        below, above = grow(low, middle), grow(middle, high)
        skips = above - place - 1, below - place - 1
        assert max(skips) <= MAX_SKIP, f"a jump must be at most {MAX_SKIP} instructions long, got {max(skips)}"
        tree[place] = (IF_AT_LEAST, *skips, steps[middle][0])
        return place

    grow(0, len(steps))
    return (*tree, *(instruction for block in places for instruction in block))


def _packed(program: Block) -> bytes:
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)

"""What the kernel enforces on a call: namespaces, an own user, limits. Linux only, by ctypes, standard library only.

Loaded by path in the fork server. Each function that may be refused by the machine returns the layers it could put in
place, so that results can say what confined them.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS = 1, 4, 8
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 36, 38, 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH = 2
MAX_OPEN_FILES = 256

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def prctl(option: int, first: int, second: int = 0) -> None:
    """prctl(2); OSError when refused."""
    _check(_libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def unshare(flags: int) -> None:
    """unshare(2); OSError when refused. (`os.unshare` is Python 3.12.)"""
    _check(_libc.unshare(flags))


def return_to(namespace_fd: int) -> None:
    """Children of this process start in the given pid namespace again, after an `unshare(CLONE_NEWPID)`."""
    _check(_libc.setns(namespace_fd, CLONE_NEWPID))


def enter_namespaces() -> tuple[str, ...]:
    """Takes the host's network and shared memory away, makes the next fork the first process of a pid namespace.

    root needs no user namespace for that; anyone else makes one that maps only itself. OSError when refused.
    """
    uid, gid = os.getuid(), os.getgid()
    flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC
    if uid == 0:
        unshare(flags)
        return ("pidns", "netns", "ipcns")
    unshare(flags | CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    return ("userns", "pidns", "netns", "ipcns")


def nested_namespaces_work() -> bool:
    """Whether a fork server in its own namespaces could give each call a pid namespace in turn."""

    def enter_twice() -> None:
        enter_namespaces()
        assert possible(lambda: unshare(CLONE_NEWPID))

    return possible(enter_twice)


def possible(action: Callable[[], object]) -> bool:
    """Whether `action` goes through on this machine, found by doing it in a throw-away child."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """This process gets the signal `by` when its parent dies. To be called again after a change of user or a fork."""
    prctl(PR_SET_PDEATHSIG, by)


def set_limits(*, address_space_bytes: int, cpu_s: int, file_bytes: int, num_processes: int) -> None:
    """Limits of one process. RLIMIT_STACK stays: lowering or raising it breaks threads."""
    for limit, value in (
        (resource.RLIMIT_AS, address_space_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, file_bytes),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_NPROC, num_processes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(limit)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def become(uid: int, *, keep_reading: bool = False) -> None:
    """From root to an unprivileged user of this call's own, so that RLIMIT_NPROC binds and host files are read-only.

    `keep_reading` keeps the one capability without which an interpreter in a private directory (/root) cannot import.
    """
    prctl(PR_SET_KEEPCAPS, int(keep_reading))
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if keep_reading:
        _keep_capability(CAP_DAC_READ_SEARCH)
    prctl(PR_SET_DUMPABLE, 1)  # /proc/self belongs to the new user again


def _keep_capability(capability: int) -> None:
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    bit = 1 << capability
    effective_permitted_inheritable_twice = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _check(_libc.capset(header, effective_permitted_inheritable_twice))
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)  # survives an exec of sys.executable


def interpreter_is_private() -> bool:
    """Whether an unprivileged user could not reach this interpreter's library, as with a Python below /root."""
    places = {Path(place).resolve() for place in (sys.executable, sys.prefix, sys.base_prefix, os.__file__)}
    folders = {folder for place in places for folder in place.parents}
    return any(not folder.stat().st_mode & 0o001 for folder in folders)

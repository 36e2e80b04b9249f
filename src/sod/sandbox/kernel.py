"""Calls of the Linux kernel that Python has no function for: namespaces, mounts, capabilities. By ctypes.

Every function raises OSError when the kernel refuses, so that a layer that is not in place is never taken for one
that is. Used by the fork server and its children: standard library only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 0x1, 0x2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN = 21
HUGE_PAGE_BYTES, MADV_COLLAPSE = 2 << 20, 25
NUM_CAPABILITIES = 64
"""More than there are: 41 in Linux 6.18."""
MAX_OPEN_FILES = 256
MAX_PENDING_SIGNALS = 256

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR = 442
"""The same number on every architecture, as for all calls since Linux 5.1."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]


def checked(result: int, what: str) -> int:
    """`result` of a call into libc, or OSError with its errno when it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def syscall(number: int, *arguments: object, what: str) -> int:
    """Any system call by its number."""
    return checked(_libc.syscall(ctypes.c_long(number), *arguments), what)


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument."""
    zero = ctypes.c_ulong(0)
    checked(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero), f"prctl {option}")


# Namespaces


def unshare(flags: int) -> None:
    """This process (its next child, for CLONE_NEWPID) gets namespaces of its own. `os.unshare` is Python 3.12."""
    checked(_libc.unshare(flags), f"unshare {flags:#x}")


def enter_pid_namespace(namespace_fd: int) -> None:
    """The next children are born in the given pid namespace."""
    checked(_libc.setns(namespace_fd, CLONE_NEWPID), "setns")


def map_user(*, inside: int, outside: int, outside_group: int | None = None) -> None:
    """In a new user namespace: this one user of the outer namespace appears as `inside`; its group likewise."""
    group = outside if outside_group is None else outside_group
    for name, text in (("setgroups", "deny"), ("uid_map", f"{inside} {outside} 1"), ("gid_map", f"{inside} {group} 1")):
        fd = os.open(f"/proc/self/{name}", os.O_WRONLY)
        try:
            os.write(fd, text.encode())
        except OSError as error:
            raise OSError(error.errno, f"{name} of a user namespace: {error.strerror}") from None
        finally:
            os.close(fd)


# Mounts


def mount(source: str, target: str, kind: str = "", *, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    checked(result, f"mount {kind or source} on {target}")


def make_mounts_private() -> None:
    """No mount made from here on shows outside, nor the other way round."""
    mount("none", "/", flags=MS_REC | MS_PRIVATE)


def make_read_only(directory: str) -> None:
    """All mounts at and below `directory` become read-only and ignore set-uid bits. Needs Linux 5.12."""
    attributes = struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    syscall(
        _MOUNT_SETATTR,
        *(ctypes.c_int(AT_FDCWD), directory.encode(), ctypes.c_uint(AT_RECURSIVE)),
        *(attributes, ctypes.c_size_t(len(attributes))),
        what=f"mount_setattr {directory}",
    )


def change_root(directory: str) -> None:
    """`directory`, a mount point, becomes the root; what was the root cannot be reached any more."""
    os.chdir(directory)
    syscall(_PIVOT_ROOT[platform.machine()], b".", b".", what="pivot_root")
    checked(_libc.umount2(b".", MNT_DETACH), "umount of the old root")
    os.chdir("/")


# Memory


def use_huge_pages() -> None:
    """Puts this process's own memory into huge pages where that can be (Linux 6.1): a cheaper fork and end."""
    with open("/proc/self/maps") as maps:
        lines = [line.split() for line in maps]
    for bounds, rights, *_, name in [line if len(line) > 5 else [*line, ""] for line in lines]:
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        start, end = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES, end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES
        if rights.startswith("rw") and name in ("", "[heap]") and start < end:
            _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_COLLAPSE)  # refused: then not


# Privileges and limits


def may_administrate() -> bool:
    """Whether this is root with root's power over namespaces and mounts, which root in a container mostly lacks."""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return os.getuid() == 0 and bool(effective >> CAP_SYS_ADMIN & 1)


def no_new_privileges() -> None:
    """No set-uid program gives this process or its children anything. What seccomp and Landlock ask for."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding_set() -> None:
    """No exec gives a capability back either. Needs CAP_SETPCAP; some 0.3 ms, so once per server and not per call."""
    zero = ctypes.c_ulong(0)
    for capability in range(NUM_CAPABILITIES):
        _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), zero, zero, zero)


def drop_capabilities() -> None:
    """root without any of root's powers: effective, permitted and inheritable (thereby ambient, too) become empty."""
    header = struct.pack("=Ii", CAPABILITY_VERSION_3, 0)
    checked(_libc.capset(header, bytes(24)), "capset")


def become(uid: int) -> None:
    """From root to another user and group."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    prctl(PR_SET_DUMPABLE, 1)  # /proc/self belongs to the new user, not to root


def die_with_parent() -> None:
    """SIGKILL for this process when its parent dies. To be called again after a fork or a change of user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def set_limits(*, address_space_bytes: int, cpu_s: int | None, file_bytes: int, num_processes: int | None) -> None:
    """Limits of one process, which it cannot raise again. None leaves one as it is.

    RLIMIT_STACK stays: it is also the size of every thread's stack, so a large one breaks threads.
    """
    wanted = {
        resource.RLIMIT_AS: address_space_bytes,
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NPROC: num_processes,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: MAX_PENDING_SIGNALS,  # timers too; counted for the whole user
    }
    for limit, value in wanted.items():
        if value is not None:
            _, hard = resource.getrlimit(limit)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(limit, (value, value))

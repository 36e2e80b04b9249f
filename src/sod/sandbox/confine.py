"""How a call is cut off from the host: level A by namespaces, level B by Landlock, each with seccomp and limits.

Read it as two lists. `__init__` is what the fork server does once, before it imports anything else; `confine_child` is
what each child does between its fork and the first byte of untrusted code. Every step raises when the kernel refuses
it: a level is in place as a whole or not at all. Reasons and limits of each layer: docs/sandbox.md.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from sod.sandbox import kernel, landlock, seccomp, workspace

LevelName: TypeAlias = Literal["A", "B", "unsafe"]
MIB = 1 << 20
NOBODY = 65_534
"""Who the fork server becomes on the host when the trainer is root."""
INSIDE_UID = 1000
MAX_PROCESSES = 64
"""Of a call, threads included."""
MAX_INODES = 4096
SHARED_MEMORY_MB = 16
DEVICES = ("null", "full", "random", "urandom")
"""Not zero: a shared mapping of it is memory that no limit counts (see mmap in `seccomp.py`)."""
WORK = "/work"
PACKAGES = "/packages"


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one call may use. `cpu_s` None leaves it to the clock (sessions)."""

    address_space_bytes: int
    cpu_s: int | None
    file_bytes: int
    disk_mb: int


class Level(Protocol):
    """One way to confine calls, in place when constructed."""

    layers: tuple[str, ...]
    """What the kernel enforces, the level's name first."""
    packages: str
    """The directory to put on `sys.path`."""

    def take_directory(self) -> str:
        """The directory of the next call, empty."""
        ...

    def release_directory(self, directory: str) -> None:
        """Its call is over."""
        ...

    def exceeds_disk(self, directory: str, *, pid: int, disk_mb: int) -> bool:
        """Whether a running call has written more than it may and only we can tell."""
        ...

    def fork(self) -> int:
        """As `os.fork`."""
        ...

    def confine_child(self, directory: str, limits: Limits) -> None:
        """In the child: goes to its directory and gives everything else up. There is no way back."""
        ...


def enter(name: LevelName, settings: dict[str, Any]) -> Level:
    """Puts the level on this process. Raises OSError when this machine does not allow it."""
    kernel.die_with_parent()
    kernel.no_new_privileges()
    levels: dict[str, Callable[[dict[str, Any]], Level]] = {"A": Namespaces, "B": AllowList, "unsafe": Unsafe}
    return levels[name](settings)


class Namespaces:
    """Level A: a root of its own with nothing on it but interpreter, packages and system libraries, read-only.

    Each call is the first process of its own pid namespace, so all it starts dies with it, and gets its own tmpfs.
    """

    packages = PACKAGES

    def __init__(self, settings: dict[str, Any]) -> None:
        uid = os.getuid()
        everything = kernel.CLONE_NEWUSER | kernel.CLONE_NEWPID | kernel.CLONE_NEWNET
        everything |= kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
        if kernel.may_administrate():  # builds the root as root, who may look into a private home with the interpreter
            kernel.unshare(kernel.CLONE_NEWNS)
            _build_root(settings["root"], settings)
            kernel.become(uid := NOBODY)
            kernel.die_with_parent()
            kernel.unshare(everything)
            kernel.map_user(inside=0, outside=uid)
        else:
            gid = os.getgid()
            kernel.unshare(everything)
            kernel.map_user(inside=0, outside=uid, outside_group=gid)
            _build_root(settings["root"], settings)
        _continue_in_child(settings["socket_fd"])
        kernel.die_with_parent()
        _mount_proc()
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._scope = landlock.scope() if landlock.version() >= 6 else -1
        seccomp.install(seccomp.server_filter())
        self._filter = seccomp.call_filter(allow_processes=True, allow_unix_sockets=self._scope >= 0)
        self._shm_options = f"size={SHARED_MEMORY_MB}m,nr_inodes=256,mode=700"
        names = ("userns", "pidns", "mntns", "netns", "ipcns", "utsns", "tmpfs", "seccomp", "rlimits", "no_new_privs")
        self.layers: tuple[str, ...] = ("A", *names, *(("landlock-scope",) if self._scope >= 0 else ()))

    def take_directory(self) -> str:
        return WORK

    def release_directory(self, directory: str) -> None:
        """Nothing: the file system went with the call's last process."""

    def exceeds_disk(self, directory: str, *, pid: int, disk_mb: int) -> bool:  # noqa: ARG002
        return False  # the tmpfs is as large as it is

    def fork(self) -> int:
        """The child is the first process of a new pid namespace; our own next children are not in it."""
        kernel.unshare(kernel.CLONE_NEWPID)
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid != 0:
                kernel.enter_pid_namespace(self._own_pid_namespace)
        return pid

    def confine_child(self, directory: str, limits: Limits) -> None:
        kernel.unshare(kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC)
        flags = kernel.MS_NOSUID | kernel.MS_NODEV
        options = f"size={limits.disk_mb}m,nr_inodes={MAX_INODES},mode=700"
        kernel.mount("tmpfs", directory, "tmpfs", flags=flags, options=options)
        kernel.mount("tmpfs", "/dev/shm", "tmpfs", flags=flags | kernel.MS_NOEXEC, options=self._shm_options)
        _mount_proc()
        _be_first_to_die()
        os.chdir(directory)
        # Last of the namespaces, because from here on the mounts above belong to someone with more rights than us.
        kernel.unshare(kernel.CLONE_NEWUSER)
        kernel.map_user(inside=INSIDE_UID, outside=0)
        _limit(limits, num_processes=MAX_PROCESSES)  # counted per user namespace since Linux 5.14
        kernel.drop_capabilities()
        if self._scope >= 0:
            landlock.restrict_self(self._scope)
        seccomp.install(self._filter)


def _build_root(root: str, settings: dict[str, Any]) -> None:
    """Makes the file system all calls see, at `root`, and moves into it."""
    kernel.make_mounts_private()
    kernel.mount("tmpfs", root, "tmpfs", flags=kernel.MS_NOSUID, options="size=4m,mode=755")
    for path in settings["readable"]:
        _show(path, at=root + path)
    for path in settings["hidden"]:
        if os.path.isdir(root + path):
            kernel.mount("tmpfs", root + path, "tmpfs", options="size=4k,nr_inodes=2,mode=755")
    for name, path in settings["packages"].items():
        _show(path, at=f"{root}{PACKAGES}/{name}")
    for name in DEVICES:
        _show(f"/dev/{name}", at=f"{root}/dev/{name}")
    for link, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{link}")
    for directory in ("/dev/shm", WORK, "/proc"):
        os.makedirs(root + directory)
    if not os.path.exists(f"{root}/tmp"):  # it exists when the interpreter or a package lies there
        os.symlink(WORK, f"{root}/tmp")
    os.makedirs(f"{root}/etc", exist_ok=True)
    for name, text in (("passwd", f"sandbox:x:{INSIDE_UID}:{INSIDE_UID}::{WORK}:/bin/sh\n"), ("group", "")):
        with open(f"{root}/etc/{name}", "w") as file:
            file.write(text)
    kernel.make_read_only(root)
    # A new proc may only be mounted where the old one can be seen in full; it is covered by ours a moment later.
    kernel.mount("/proc", f"{root}/proc", flags=kernel.MS_BIND | kernel.MS_REC)
    kernel.change_root(root)


def _show(path: str, *, at: str) -> None:
    """Lets a file or directory of the host appear in the root that is being built; a link stays a link."""
    os.makedirs(os.path.dirname(at), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), at)
        return
    if os.path.isdir(path):
        os.makedirs(at, exist_ok=True)
    else:
        os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o444))
    kernel.mount(path, at, flags=kernel.MS_BIND | kernel.MS_REC)


def _mount_proc() -> None:
    """Shows the processes of this pid namespace and no others."""
    kernel.mount("proc", "/proc", "proc", flags=kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)


def _continue_in_child(socket_fd: int) -> None:
    """Returns in a forked child, the first process of the new pid namespace; this process only waits for its end."""
    pid = os.fork()
    if pid == 0:
        return
    os.close(socket_fd)
    _, status = os.waitpid(pid, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


class OnHostFiles:
    """What the levels without namespaces share: a directory on the host for every call, and plain forks."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.packages: str = settings["links"]
        self._directories = _Directories(settings["directory"])

    def take_directory(self) -> str:
        return self._directories.take()

    def release_directory(self, directory: str) -> None:
        self._directories.release(directory)

    def exceeds_disk(self, directory: str, *, pid: int, disk_mb: int) -> bool:
        return _exceeds_disk(directory, pid=pid, disk_mb=disk_mb)

    def fork(self) -> int:
        return os.fork()

    def confine_child(self, directory: str, limits: Limits) -> None:
        kernel.die_with_parent()
        os.chdir(directory)
        _be_first_to_die()
        _limit(limits, num_processes=None)  # it counts the user's processes on the whole host


class AllowList(OnHostFiles):
    """Level B, for containers that allow no namespaces: Landlock names what may be read, seccomp forbids processes.

    Without a pid namespace nothing would collect what a call leaves running, so a call may not start any.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        version = landlock.version()
        if version == 0:
            raise OSError("Landlock is not available in this kernel")
        with contextlib.suppress(OSError):
            kernel.drop_bounding_set()
        kernel.drop_capabilities()
        _memory_device()  # before the filter forbids to make such a file
        seccomp.install(seccomp.server_filter())
        _without_namespaces(os.getpid())  # the first one takes time, and children share what it leaves
        self._rulesets: dict[str, int] = {}
        self._read = [*_readable(settings), self.packages, *settings["packages"].values()]
        self.layers: tuple[str, ...] = ("B", f"landlock{version}", "seccomp", "rlimits", "no_new_privs")

    def take_directory(self) -> str:
        directory = super().take_directory()
        if directory not in self._rulesets:
            devices = [f"/dev/{name}" for name in DEVICES]
            self._rulesets[directory] = landlock.allow_list(read=self._read, devices=devices, write=directory)
        return directory

    def confine_child(self, directory: str, limits: Limits) -> None:
        super().confine_child(directory, limits)
        kernel.drop_capabilities()
        landlock.restrict_self(self._rulesets[directory])
        seccomp.install(_without_namespaces(os.getpid()))


def _without_namespaces(pid: int) -> bytes:
    """The filter of a call that shares processes and files with the host."""
    return seccomp.call_filter(allow_processes=False, allow_unix_sockets=False, has_own_mounts=False, only_signal=pid)


class Unsafe(OnHostFiles):
    """Neither: limits against accidents, nothing against intent. Only when asked for by name."""

    layers: tuple[str, ...] = ("unsafe", "rlimits", "no_new_privs")


class _Directories:
    """Directories for calls, used again after having been emptied. One that cannot be emptied is left aside."""

    def __init__(self, parent: str) -> None:
        self._parent = parent
        self._free: list[str] = []
        self._num_made = 0

    def take(self) -> str:
        if self._free:
            return self._free.pop()
        directory = f"{self._parent}/{self._num_made}"
        os.mkdir(directory, 0o700)
        self._num_made += 1
        return directory

    def release(self, directory: str) -> None:
        with contextlib.suppress(OSError):
            workspace.empty(directory)
            self._free.append(directory)


def _readable(settings: dict[str, Any]) -> Iterator[str]:
    """What covers `readable` without `hidden`: /usr without /usr/lib/x -> /usr/bin, ..., /usr/lib/a, /usr/lib/b, ..."""
    for path in settings["readable"]:
        yield from _around(path, frozenset(settings["hidden"]))


def _around(path: str, hidden: frozenset[str]) -> Iterator[str]:
    if path in hidden:
        return
    if os.path.islink(path) or not any(other.startswith(f"{path}/") for other in hidden):
        yield path
        return
    for name in os.listdir(path):
        yield from _around(f"{path}/{name}", hidden)


def _exceeds_disk(directory: str, *, pid: int, disk_mb: int) -> bool:
    used = workspace.usage(directory)
    held_bytes = workspace.unlinked_bytes(pid, memory_device=_memory_device(), mapped_bytes=disk_mb * MIB + 1)
    num_bytes = used.num_bytes + held_bytes
    return num_bytes > disk_mb * MIB or used.num_files > workspace.MAX_FILES or used.hidden


@functools.cache
def _memory_device() -> int:
    """Where memory files lie."""
    fd = os.memfd_create("sod")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _be_first_to_die() -> None:
    """When the machine's memory runs out, the kernel takes a call and not the trainer."""
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, b"1000")
        os.close(fd)


def _limit(limits: Limits, *, num_processes: int | None) -> None:
    kernel.set_limits(
        address_space_bytes=limits.address_space_bytes,
        cpu_s=limits.cpu_s,
        file_bytes=limits.file_bytes,
        num_processes=num_processes,
    )

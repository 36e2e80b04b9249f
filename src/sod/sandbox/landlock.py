"""Landlock: the kernel's allow-list of files for processes without privileges (Linux 5.13; `man 7 landlock`).

A ruleset is made once in the fork server and is a file descriptor; a child puts it on itself with `restrict_self`.
Rules hold for a directory's inode with all below it, whatever path leads there. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

from sod.sandbox import kernel

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
READ = EXECUTE | READ_FILE | READ_DIR
_ON_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL_DEV
"""Rights that a rule for something other than a directory may name."""
_FILE_RIGHTS = ((1, 13), (2, 14), (3, 15), (5, 16))
"""(version, number of file rights it knows): REFER came with 2, TRUNCATE with 3, IOCTL_DEV with 5."""
_TCP = 3
"""bind and connect, from version 4."""
_SCOPE = 3
"""Abstract unix sockets and signals stay among those who share the ruleset, from version 6."""


def version() -> int:
    """Landlock's version on this machine, 0 when it has none."""
    try:
        return kernel.syscall(
            _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION), what="landlock_create_ruleset"
        )
    except OSError:
        return 0


def scope() -> int:
    """A ruleset that leaves files alone and cuts off signals and abstract sockets to all outside. Needs version 6."""
    return _create(files=0, tcp=0, scoped=_SCOPE)


def allow_list(*, read: Iterable[str], devices: Iterable[str], write: str) -> int:
    """A ruleset under which only `read` can be read and executed, `devices` read and written, `write` used freely.

    No TCP (version 4) and no signal or abstract socket to anyone outside (version 6) where the kernel has that.
    """
    now = version()
    every_right = (1 << max(bits for since, bits in _FILE_RIGHTS if since <= now)) - 1
    ruleset = _create(files=every_right, tcp=_TCP if now >= 4 else 0, scoped=_SCOPE if now >= 6 else 0)
    for path in read:
        _allow(ruleset, path, rights=READ)
    for path in devices:
        _allow(ruleset, path, rights=READ_FILE | WRITE_FILE)
    _allow(ruleset, write, rights=every_right & ~EXECUTE)
    return ruleset


def restrict_self(ruleset: int) -> None:
    """From here on this thread and its children are held to the ruleset. Needs no_new_privs."""
    kernel.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0), what="landlock_restrict_self")


def _create(*, files: int, tcp: int, scoped: int) -> int:
    now = version()
    fields = (files, tcp, scoped)[: 1 if now < 4 else 2 if now < 6 else 3]
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    size = ctypes.c_size_t(len(attributes))
    return kernel.syscall(_CREATE_RULESET, attributes, size, ctypes.c_uint(0), what="landlock_create_ruleset")


def _allow(ruleset: int, path: str, *, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _ON_FILES
        rule = struct.pack("=Qi", rights, fd)
        kernel.syscall(
            _ADD_RULE,
            *(ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_uint(0)),
            what=f"landlock_add_rule {path}",
        )
    finally:
        os.close(fd)

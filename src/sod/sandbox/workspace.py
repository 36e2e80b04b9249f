"""Directories for calls at the levels without a file system per call: made, measured, emptied.

What lies in them was written by untrusted code: names are never trusted, links never followed, and nothing recurses,
because code can make directories nested deeper than a path can be long. Standard library only.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from dataclasses import dataclass

MAX_DEPTH = 64
MAX_FILES = 4096
BLOCK_BYTES = 512
"""The unit of st_blocks, whatever the file system's own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """What a directory takes: `num_bytes` on disk, `num_files`.

    `hidden` when there is more that cannot be counted: nested beyond MAX_DEPTH, or in a directory we may not read.
    """

    num_bytes: int
    num_files: int
    hidden: bool


def usage(directory: str) -> Usage:
    """Measures a directory that may change meanwhile; what vanishes while it is looked at does not count."""
    num_bytes = num_files = 0
    pending = [(directory, 0)]
    while pending:
        path, depth = pending.pop()
        if depth > MAX_DEPTH or num_files > MAX_FILES:
            return Usage(num_bytes=num_bytes, num_files=num_files, hidden=depth > MAX_DEPTH)
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    num_files += 1
                    with contextlib.suppress(OSError):
                        num_bytes += entry.stat(follow_symlinks=False).st_blocks * BLOCK_BYTES
                        if entry.is_dir(follow_symlinks=False):
                            pending.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue
        except OSError:
            return Usage(num_bytes=num_bytes, num_files=num_files, hidden=True)
    return Usage(num_bytes=num_bytes, num_files=num_files, hidden=False)


def unlinked_bytes(pid: int, *, memory_device: int, mapped_bytes: int) -> int:
    """What a process holds of files that have no name any more: open ones, and those it has mapped.

    `memory_device` is where its own output lies, which has no name either. The size of a file that is only mapped
    cannot be told: it counts as `mapped_bytes`.
    """
    num_bytes = 0
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{pid}/fd/{fd}")
                if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and status.st_dev != memory_device:
                    num_bytes += status.st_blocks * BLOCK_BYTES
        with open(f"/proc/{pid}/maps") as maps:
            mapped = {line.split()[4] for line in maps if line.endswith("(deleted)\n")}
            num_bytes += len(mapped) * mapped_bytes
    return num_bytes


def empty(directory: str) -> None:
    """Deletes all that is in `directory`, which itself stays (a rule of Landlock hangs on its inode).

    A directory below another is first moved to the top, so that no path gets long and nothing recurses.
    Raises OSError when something cannot be deleted.
    """
    os.chmod(directory, 0o700)
    fresh = itertools.count()
    while names := os.listdir(directory):
        for name in names:
            path = os.path.join(directory, name)
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                os.unlink(path)
                continue
            os.chmod(path, 0o700)
            for below in os.listdir(path):
                _raise_to(directory, os.path.join(path, below), fresh)
            os.rmdir(path)


def _raise_to(directory: str, path: str, fresh: itertools.count[int]) -> None:
    """Deletes a file, moves a directory up to a name that is free."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    os.chmod(path, 0o700)  # moving a directory writes its ".."
    target = next(name for number in fresh if not os.path.lexists(name := os.path.join(directory, f".up-{number}")))
    os.rename(path, target)

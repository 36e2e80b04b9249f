"""The directory of a LocalSandbox: made locked, removed at the end, or by the next one when its owner was killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sod.sandbox import workspace

__all__ = ["Home"]

PREFIX = "sod-sandbox-"
LOCK = "lock"


class Home:
    """A directory below the one for temporary files. `remove` deletes it with all that code may have left in it."""

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.path.chmod(0o711)  # a fork server may be another user, who may pass and not look
        self._lock = os.open(self.path / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # the kernel lets go of it when we die, whatever kills us

    def remove(self) -> None:
        """Deletes it; what cannot be deleted stays."""
        with contextlib.suppress(OSError):
            workspace.empty(str(self.path))
            self.path.rmdir()
        os.close(self._lock)


def _remove_abandoned() -> None:
    """Deletes the directories of those who were killed. One that is being made has no lock yet, and is left alone."""
    for path in _ours():
        with contextlib.suppress(OSError):
            lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                workspace.empty(str(path))
                path.rmdir()
            finally:
                os.close(lock)


def _ours() -> Iterator[Path]:
    """Anyone may make a directory of that name there, or a link."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_uid == os.getuid() and path.is_dir() and not path.is_symlink():
                yield path

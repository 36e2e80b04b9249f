"""What a device could still give."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path


def available(device: str) -> int | None:
    """Bytes that this process could still take on "cpu" or "cuda:0"; None where that cannot be known.

    On a CPU what the machine has to give, or less where a container has a limit.
    """
    if device != "cpu":
        import torch

        index = torch.device(device).index or 0
        known = torch.cuda.is_available() and index < torch.cuda.device_count()
        return int(torch.cuda.mem_get_info(index)[0]) if known else None
    machine = _meminfo_available() or _sysconf_available()
    return None if machine is None else min([machine, *_cgroup_available()])


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _sysconf_available() -> int | None:
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system without these
        return None


_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def _cgroup_available(
    membership: Path = Path("/proc/self/cgroup"), mounted: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """What each control group that this process is in, and each one above it, leaves."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = mounted, _V2
        elif "memory" in controllers.split(","):
            root, names = mounted / "memory", _V1
        else:
            continue
        # In a container the path may be the host's, of which only the root is there.
        own = root / path.lstrip("/")
        yield from _limits([own, *(parent for parent in own.parents if parent.is_relative_to(root))], names)


def _limits(folders: Iterable[Path], names: tuple[str, str, str]) -> Iterator[int]:
    limit_name, used_name, cache_name = names
    for folder in folders:
        try:
            limit, used = int((folder / limit_name).read_text()), int((folder / used_name).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or "max"
            continue
        # Files that were read count as used, and give way.
        yield max(0, limit - used + int(statistics.get(cache_name, 0)))


def gpu_total(device: str) -> int | None:
    if device == "cpu" or available(device) is None:
        return None
    import torch

    return int(torch.cuda.mem_get_info(torch.device(device).index or 0)[1])


def placed(name: str) -> str:
    """`auto -> cuda:0` where there is a GPU, else `cpu`; `cuda -> cuda:0`."""
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return "cuda:0" if name == "cuda" else name

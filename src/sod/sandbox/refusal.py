"""Why this machine cannot isolate code, and the cure: what is said when neither level could be put in place."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["cures", "refusal"]

SWITCHES: Mapping[str, tuple[str, str]] = {
    "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
    "/proc/sys/kernel/unprivileged_userns_clone": ("0", "1"),
    "/proc/sys/user/max_user_namespaces": ("0", "65536"),
}
"""Settings of the host that forbid user namespaces: the value that does, and the one that does not."""
MIN_KERNEL = (5, 14)
"""Landlock, mount_setattr, and processes counted per user namespace."""


def refusal(reasons: Mapping[str, str]) -> str:
    """`{"A": "unshare: Operation not permitted", "B": ...}` -> the message a person gets."""
    tried = "; ".join(f"level {level}: {reason}" for level, reason in reasons.items())
    return (
        f"code must be isolated from this machine, which does not let us: {tried}. "
        f"To allow it, {', or '.join(cures())}. "
        "Or run code elsewhere: sandbox.urls names SandboxFusion servers. Only for code that you trust: "
        "sandbox.allow_unsafe = true runs it with your own rights"
    )


def cures() -> Iterator[str]:
    """What would help here, most likely first."""
    release = tuple(int(part) for part in platform.release().split(".")[:2] if part.isdecimal())
    if release < MIN_KERNEL:
        yield f"use Linux {MIN_KERNEL[0]}.{MIN_KERNEL[1]} or later (here {platform.release()})"
    for path, (forbids, allows) in SWITCHES.items():
        if _content(path) == forbids:
            yield f"as root: sysctl -w {path.removeprefix('/proc/sys/').replace('/', '.')}={allows}"
    modules = _content("/sys/kernel/security/lsm")
    if modules and "landlock" not in modules.split(","):
        yield f"boot with lsm=landlock,{modules} (for level B)"
    options = " ".join(f"--security-opt {name}=unconfined" for name in ("seccomp", "apparmor", "systempaths"))
    yield f"in a container: docker run {options} (level A)"


def _content(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""

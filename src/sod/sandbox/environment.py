"""Which interpreter and packages the code gets: an environment of its own, made of links, nothing downloaded.

The code runs on the base interpreter with no site-packages but those of `packages` and what they require, so that
`import torch` fails there although the trainer has it. Run as a script it prints what this interpreter can offer as
JSON: `python environment.py numpy sympy`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import site
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from glob import glob
from importlib import metadata
from pathlib import Path

if __name__ == "__main__" and sys.version_info < (3, 11):
    sys.exit(f"it must be Python 3.11 or later, got {sys.version.split()[0]}")

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
"""Programs and shared libraries: what a subprocess or an extension module may need."""
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
DEBIAN_PACKAGES = ("/usr/lib/python3/dist-packages", "/usr/local/lib/python3*/*-packages")


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """What is needed to run code, all as paths on the host.

    `executable` is the base interpreter. `readable` are directories and files to show, except what lies in `hidden`.
    `packages` are files and directories to put side by side on `sys.path`, by name: `{"numpy": ".../numpy", ...}`.
    """

    executable: str
    readable: tuple[str, ...]
    hidden: tuple[str, ...]
    packages: dict[str, str]


class MissingPackageError(LookupError):
    """A distribution that is not installed."""


async def find_environment(python: str, packages: Sequence[str], *, hidden: Iterable[str]) -> Environment:
    """Asks the interpreter `python` by running this file in it. Raises ValueError with its complaint."""
    try:
        process = await asyncio.create_subprocess_exec(python, "-I", __file__, *packages, stdout=PIPE, stderr=PIPE)
    except OSError as error:
        raise ValueError(f"sandbox.python must be a Python interpreter, got {python}: {error}") from None
    out, complaint = await process.communicate()
    if process.returncode:
        last = (complaint.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{python} cannot be used for the sandbox: {last}")
    answer = json.loads(out)
    answer["readable"] = tuple(answer["readable"])
    answer["hidden"] = (*answer["hidden"], *hidden)
    return Environment(**answer)


def foreign_packages() -> list[str]:
    """Where this process, which is the trainer, has its own packages: what no call may see."""
    places = {os.path.realpath(place) for place in sys.path if place.rpartition("/")[2].endswith("-packages")}
    return sorted({*places, str(Path(__file__).resolve().parents[1])})


def this_environment(packages: Iterable[str]) -> Environment:
    """What this interpreter can offer. Raises MissingPackageError."""
    prefixes = (sys.base_prefix, sys.base_exec_prefix, os.path.dirname(os.__file__))
    wanted = [*SYSTEM, *SYSTEM_FILES, *(os.path.realpath(prefix) for prefix in prefixes)]
    patterns = [*DEBIAN_PACKAGES, *site.getsitepackages([sys.base_prefix, sys.base_exec_prefix])]
    hidden = {os.path.realpath(path) for pattern in patterns for path in glob(pattern)}
    entries: dict[str, str] = {}
    for name in packages:
        _collect(name, entries=entries, seen=set())
    return Environment(
        executable=os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
        readable=_outermost(path for path in wanted if os.path.exists(path)),
        hidden=tuple(sorted(hidden)),
        packages=entries,
    )


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """Without those that lie in another: ("/usr", "/usr/lib", "/opt") -> ("/usr", "/opt")."""
    kept: list[str] = []
    for path in paths:
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return tuple(kept)


def _collect(name: str, *, entries: dict[str, str], seen: set[str]) -> None:
    """Adds the top-level files and directories of a distribution and of all it requires: numpy, numpy.libs, ..."""
    if name in seen:
        return
    seen.add(name)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise MissingPackageError(
            f"every name in sandbox.packages must be an installed distribution, {name!r} is not; "
            f"pip install {name} or take it out"
        ) from None
    for file in distribution.files or ():
        top = file.parts[0]
        if top not in ("..", "__pycache__") and not top.endswith(".pth"):
            entries[top] = str(Path(os.path.realpath(str(distribution.locate_file(top)))))
    for requirement in distribution.requires or ():
        required = re.match(r"[\w.-]+", requirement)
        if required and "extra ==" not in requirement and _is_installed(required[0]):
            _collect(required[0], entries=entries, seen=seen)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(this_environment(sys.argv[1:]))))
    except MissingPackageError as error:
        sys.exit(str(error))

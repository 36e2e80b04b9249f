"""Names of runs: what tells them from each other, and which of them are one method on several seeds."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sod.report.untrusted import count, line, mapping

_NUMBER = re.compile(r"(?<![\w.])\d{1,6}(?![\w]|\.\d)", re.ASCII)
_END = re.compile(r"[-_][a-zA-Z]+$")
"""What all names end with tells nothing: `seed-0-evaluation, seed-1-evaluation`."""


def labels_of(paths: Sequence[Path], methods: Sequence[str], seeds: Sequence[Any]) -> list[str]:
    """The method; where that is not enough with the seed; else the parts of the path that differ; else the path.

    Of `runs/x/sod-a, runs/x/sod-b`, both with seed 0 and method "sod": "sod (sod-a)", "sod (sod-b)". A part that is the
    method itself is not said twice, and of evaluations, which have no method, the parts alone stand: `opd/seed-0`.
    """
    told = differing_parts(paths)
    choices = (
        list(methods),
        [f"{method}, seed {line(seed, width=12)}" for method, seed in zip(methods, seeds, strict=True)],
        [_with_part(method, line(part, width=60)) for method, part in zip(methods, told, strict=True)],
        [f"{method} ({line(path, width=80)})" for method, path in zip(methods, paths, strict=True)],
    )
    distinct = (labels for labels in choices if len(set(labels)) == len(labels))
    return next(distinct, [f"{label} #{index}" for index, label in enumerate(choices[-1], start=1)])


def differing_parts(paths: Sequence[Path]) -> list[str]:
    """`x/sod/seed-0, x/opd/seed-0 -> "sod", "opd"`: parts at places that differ, of paths as long as each other."""
    parts = [path.resolve().parts for path in paths]
    if len({len(each) for each in parts}) > 1:
        return [str(path) for path in paths]
    kept = [place for place, column in enumerate(zip(*parts, strict=True)) if len(set(column)) > 1]
    told = ["/".join(each[place] for place in kept) or each[-1] for each in parts]
    endings = {found[0] if (found := _END.search(part)) else "" for part in told}
    return [part.removesuffix(min(endings)) for part in told] if len(endings) == 1 < len(told) else told


def _with_part(method: str, part: str) -> str:
    if method in ("eval", "run") or method in part.split("/"):
        return part
    return f"{method} ({part})"


def without_seed(path: Path, seed: int | None) -> str:
    """A path with a seed taken out of its last two names, so that seeds of one method are the same: `sod-1 -> sod-*`.

    The number must stand apart: `sod-0.6b` with seed 0 stays as it is.
    """
    whole = path.resolve()
    ends = "/".join(whole.parts[-2:])
    if seed is not None:
        ends = re.sub(rf"(?<![\w.])(?:seed[-_ ]?)?{seed}(?![\w]|\.\d)", "*", ends)
    return str(Path(*whole.parts[:-2], *ends.split("/")))


def seed_of(path: Path, config: Mapping[str, Any]) -> int | None:
    """The seed that tells a run from its like: its config's, where its path names it; of an evaluation else the number
    that its own name and that of the run it evaluates have in common (`sod-1-eval` of `sod-1/checkpoints/...`)."""
    own = count(config.get("seed"))
    if own is None or "*" in without_seed(path, own):
        return own
    trained, _, _ = str(mapping(config.get("model")).get("path", "")).partition("/checkpoints/")
    shared = {int(each) for each in _NUMBER.findall(Path(trained).name)} & {
        int(each) for each in _NUMBER.findall(path.name)
    }
    return shared.pop() if len(shared) == 1 else own

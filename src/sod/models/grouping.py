"""Which sequences share a forward."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["length_groups", "token_runs"]

_SPARE_TOKENS = 256  # padding that costs about as much as one more forward


def length_groups(lengths: Sequence[int], *, max_tokens: int) -> list[range]:
    """Cut ascending lengths into runs of at most `max_tokens` padded tokens with little padding.

    `[2, 2, 900, 1000], max_tokens=2000 -> [range(0, 2), range(2, 4)]`. A sequence longer than `max_tokens` goes alone.
    """
    groups: list[range] = []
    start, real = 0, 0
    for index, length in enumerate(lengths):
        padded = (index + 1 - start) * length
        if index > start and (padded > max_tokens or padded > 1.25 * (real + length) + _SPARE_TOKENS):
            groups.append(range(start, index))
            start, real = index, 0
        real += length
    if len(lengths) > start:
        groups.append(range(start, len(lengths)))
    return groups


def token_runs(lengths: Sequence[int], *, max_tokens: int) -> list[range]:
    """Cut into runs of at most `max_tokens` tokens: `[2, 2, 900, 1000], max_tokens=1000 -> [range(0, 3), range(3, 4)]`.

    For packed forwards, which have no padding. A sequence longer than `max_tokens` goes alone.
    """
    runs: list[range] = []
    start, total = 0, 0
    for index, length in enumerate(lengths):
        if index > start and total + length > max_tokens:
            runs.append(range(start, index))
            start, total = index, 0
        total += length
    if len(lengths) > start:
        runs.append(range(start, len(lengths)))
    return runs

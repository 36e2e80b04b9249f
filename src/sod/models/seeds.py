"""Seeds for engines that start a seed's random numbers anew in every request."""

from __future__ import annotations

import hashlib

__all__ = ["turn_seed"]


def turn_seed(seed: int, *, num_tokens: int) -> int:
    """63 bits from a trajectory's seed and its length, so that no two of its turns draw the same numbers."""
    digest = hashlib.blake2b(f"{seed}/{num_tokens}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

"""Seeded 64-bit keys for (request, item): the same pair has the same key wherever it stands in a list.

They shuffle candidates and break ties, so that neither can depend on the order in which candidates arrive.
"""

import numpy as np

SHUFFLE, TIES, RANDOM_RERANKER, SUBSET, NEGATIVES_OF_VALIDATION, NEGATIVES_OF_TEST = range(1, 7)  # one stream a use
PERMUTATIONS = 1000  # and the numbers above it, one for each further order of the candidates


def keys(seed: int, stream: int, requests: np.ndarray, items: np.ndarray) -> np.ndarray:
    """splitmix64 of (seed, stream, request [R], item [R, N] or [N]) -> uint64 [R, N]."""
    with np.errstate(over="ignore"):
        base = _mix(np.array([seed], dtype=np.int64).astype(np.uint64) * np.uint64(1_000_003) + np.uint64(stream))
        rows = _mix(base + requests.astype(np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
        return _mix(rows[:, None] ^ (items.astype(np.int64).astype(np.uint64) * np.uint64(0xD1342543DE82EF95)))


def _mix(z: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

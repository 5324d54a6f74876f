"""The order in which a reranker that is sensitive to it is shown a request's candidates."""

from __future__ import annotations

import numpy as np

from data.dataset import Requests
from data.keys import PERMUTATIONS, keys


def presented(requests: Requests, turn: int, seed: int) -> list[np.ndarray]:
    """The columns of each request's candidates, without padding; turn 0 as the request has them, each further turn in
    a seeded order of its own."""
    if requests.candidates is None:
        return [np.arange(requests.width)] * len(requests)
    held = [np.flatnonzero(row >= 0) for row in requests.candidates]
    if turn == 0:
        return held
    key = keys(seed, PERMUTATIONS + turn, requests.ids, requests.candidates)
    return [columns[np.argsort(key[row, columns])] for row, columns in enumerate(held)]

"""The one total order of a ranking: by score, ties by a seeded key that no list order can influence."""

import numpy as np
import torch

from data.dataset import Ragged
from data.keys import TIES, keys

CELLS = 2**20  # scores looked at together


def mask_seen(scores: np.ndarray, histories: Ragged, relevant: Ragged) -> np.ndarray:
    """Sets the history's items to -inf in a dense [R, I] array, in place; a relevant item keeps its score.

    Returns how many items it took out of each row, [R].
    """
    seen = np.zeros(scores.shape, dtype=bool)
    seen[histories.row_of_value, histories.values] = True
    seen[relevant.row_of_value, relevant.values] = False
    scores[seen] = -np.inf
    return seen.sum(axis=1)


def best(
    scores: np.ndarray, ids: np.ndarray, width: int, seed: int, items: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Columns of the `width` best of float32 scores [R, N], best first, and their scores; -1 and -inf where nothing
    was found.

    `items` [R, N] names each column's item for the tie key; without it column = item. Keys are made only for what
    reaches the last place of a list.
    """
    width = min(width, scores.shape[1])
    columns = np.full((len(scores), width), -1, dtype=np.int32)
    values = np.full((len(scores), width), -np.inf, dtype=np.float32)
    step = max(1, CELLS // scores.shape[1])
    for start in range(0, len(scores), step):
        rows = slice(start, start + step)
        part = np.require(scores[rows], requirements=["C", "W"])
        least = torch.topk(torch.from_numpy(part), width).values[:, -1:].numpy()
        row, column = np.nonzero((part >= least) & (part > -np.inf))
        item = column if items is None else items[rows][row, column]
        value = part[row, column]
        order = np.lexsort((~composite(value, keys(seed, TIES, ids[rows][row], item[:, None])[:, 0]), row))
        counts = np.bincount(row, minlength=len(part))
        place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept, place = order[place < width], place[place < width]
        columns[rows][row[kept], place], values[rows][row[kept], place] = column[kept], value[kept]
    return columns, values


def composite(scores: np.ndarray, tie_keys: np.ndarray) -> np.ndarray:
    """One uint64 for (score, tie key): larger is better, 0 is "not ranked" (a score of -inf). Scores float32."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    ordered = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000)).astype(np.uint64)
    out = (ordered << np.uint64(32)) | (tie_keys >> np.uint64(32))
    out[np.isneginf(scores)] = 0
    return out

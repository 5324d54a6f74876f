"""The one total order of a ranking: by score, ties by a seeded key that no list order can influence."""

import numpy as np
import scipy.sparse as sp
import torch

from data.dataset import Ragged
from data.keys import TIES, keys

CELLS = 2**20  # scores looked at together
SCORED = 2**26  # and made together


def rows_together(n_items: int, most: int = 1024, cells: int = SCORED) -> int:
    """Requests scored against the whole catalogue at a time: memory does not grow with the catalogue."""
    return max(1, min(most, cells // n_items))


def mask_seen(scores: np.ndarray, histories: Ragged, relevant: Ragged) -> np.ndarray:
    """Sets the history's items to -inf in a dense [R, I] array, in place; a relevant item keeps its score.

    Returns how many items it took out of each row, [R].
    """
    seen = seen_items(histories, relevant, scores.shape[1])
    scores[seen] = -np.inf
    return seen.sum(axis=1)


def seen_items(histories: Ragged, relevant: Ragged, n_items: int) -> np.ndarray:
    """[R, I] bool: items of the history, without those that are relevant."""
    seen = np.zeros((len(histories), n_items), dtype=bool)
    seen[histories.row_of_value, histories.values] = True
    seen[relevant.row_of_value, relevant.values] = False
    return seen


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
        kept, place = _first(row, item, value, ids[rows], width, seed)
        columns[rows][row[kept], place], values[rows][row[kept], place] = column[kept], value[kept]
    return columns, values


def best_linked(scores: sp.csr_matrix, ids: np.ndarray, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of a [R, I] matrix whose zeros are -inf: time and memory are those of what it holds."""
    scores.sort_indices()  # in place; of two items that are equal in score and key the lower comes first, as in `best`
    columns = np.full((scores.shape[0], width), -1, dtype=np.int32)
    values = np.full((scores.shape[0], width), -np.inf, dtype=np.float32)
    lengths = np.diff(scores.indptr)
    least = np.full(len(lengths), -np.inf, dtype=np.float32)
    for long in np.flatnonzero(lengths > width):
        own = scores.data[scores.indptr[long] : scores.indptr[long + 1]]
        least[long] = np.partition(own, len(own) - width)[len(own) - width]
    row = np.repeat(np.arange(len(lengths)), lengths)
    reached = np.flatnonzero((scores.data >= least[row]) & (scores.data != 0))
    row, item, value = row[reached], scores.indices[reached], scores.data[reached]
    kept, place = _first(row, item, value, ids, width, seed)
    columns[row[kept], place], values[row[kept], place] = item[kept], value[kept]
    return columns, values


def _first(
    row: np.ndarray, item: np.ndarray, value: np.ndarray, ids: np.ndarray, width: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of pairs grouped by row [P]: the `width` best of each row, best first, and the place of each."""
    order = np.lexsort((~composite(value, keys(seed, TIES, ids[row], item[:, None])[:, 0]), row))
    counts = np.bincount(row)
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[place < width], place[place < width]


def composite(scores: np.ndarray, tie_keys: np.ndarray) -> np.ndarray:
    """One uint64 for (score, tie key): larger is better, 0 is "not ranked" (a score of -inf). Scores float32."""
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # + 0 turns -0 into 0
    ordered = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000)).astype(np.uint64)
    out = (ordered << np.uint64(32)) | (tie_keys >> np.uint64(32))
    out[np.isneginf(scores)] = 0
    return out

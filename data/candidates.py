"""Candidates: which items each request ranks. Drawn once, written once, read by every reranker of a comparison.

    sampled     the relevant items and seeded negatives, never an item of the user's full history; label: sampled
    retrieved   what the first stage found; what it missed is not put in
    full        the whole catalogue; of the first stage only its best 100 are kept
    file        lists made elsewhere, see `data.run_file`

The file is `<cache>/candidates/<hash of data, protocol and candidates>.parquet`; see `data.candidate_file`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock

from data.candidate_file import Lists, check_lists, made_elsewhere, to_lists, write_lists
from data.dataset import Dataset, Relevance, Requests
from data.errors import UserError, check_seed, in_range, one_of
from data.files import file_sha256
from data.keys import NEGATIVES_OF_TEST, NEGATIVES_OF_VALIDATION, SHUFFLE, SUBSET, TIES, keys
from data.negatives import sample
from data.progress import bar
from data.ranking import best, best_linked, composite, mask_seen, rows_together, seen_items
from data.retrievers import EASE, Retriever
from data.run_file import read_run_file
from data.splits import Phase, Split

KEPT = 100  # items kept of a full ranking
log = logging.getLogger(__name__)
MODES = ("sampled", "retrieved", "full", "file")


@dataclass
class Candidates:
    mode: str = "retrieved"
    size: int = 50
    retriever: Retriever = field(default_factory=EASE)
    seed: int = 0  # sampling, presentation and ties; the same in a whole comparison
    presentation: str = "shuffled"  # first_stage: an ablation, its order leaks the first stage's rank
    negatives: str = "uniform"  # popularity, alike
    path: str | None = None  # of mode file: parquet, CSV or TREC run, see `data.run_file`
    validation_path: str | None = None  # of mode file, where `path` has no column `phase`
    missing_requests: str = "error"  # of mode file; empty: a request without a list has missed everything

    def __post_init__(self) -> None:
        one_of("candidates.mode", self.mode, MODES)
        one_of("candidates.presentation", self.presentation, ("shuffled", "first_stage"))
        one_of("candidates.negatives", self.negatives, ("uniform", "popularity", "alike"))
        in_range("candidates.size", self.size, 2)
        check_seed("candidates.seed", self.seed)
        if (self.mode == "file") != (self.path is not None):
            raise UserError("candidates.path is the file of candidates=file; give both or neither")
        one_of("candidates.missing_requests", self.missing_requests, ("error", "empty"))

    @property
    def files(self) -> list[Path]:
        return [Path(path) for path in (self.path, self.validation_path) if path]

    @property
    def labels(self) -> list[str]:
        """What must stand beside every number made with these candidates."""
        labels = {
            "sampled": [
                f"sampled metrics: the relevant items among {self.size} candidates, {self.negatives} negatives"
            ],
            "retrieved": [],
            "full": [],
            "file": [f"candidates from {Path(self.path or '').name}"],
        }[self.mode]
        if self.presentation == "first_stage" and self.mode != "full":
            labels.append("ablation: candidates presented in first-stage order")
        return labels


@dataclass(frozen=True)
class Prepared:
    """The two phases as a reranker and as evaluation see them."""

    validation: Requests
    validation_relevance: Relevance
    test: Requests
    test_relevance: Relevance
    sha256: str  # of the candidate file
    path: Path


def prepare(
    dataset: Dataset,
    split: Split,
    candidates: Candidates,
    cache: Path,
    identity: str,
    filter_seen: bool = True,
    refit_on_validation: bool = False,
    max_requests: int | None = None,
    max_validation_requests: int | None = None,
) -> Prepared:
    """Reads the candidate file, writing it first if it is not there. `identity` hashes all that it depends on."""
    if candidates.mode != "file":
        candidates.retriever.check(dataset.queries)
    phases = {
        "validation": subset(split.validation, max_validation_requests, candidates.seed),
        "test": subset(split.test, max_requests, candidates.seed),
    }
    if candidates.mode == "file":
        path = Path(str(candidates.path))
        files, digest = made_elsewhere(path, candidates.validation_path)
        if "validation" not in files:  # which training needs, and nothing else
            files["validation"] = files["test"]
            phases["validation"] = phases["validation"].take(slice(0, 0))
    else:
        path = cache / "candidates" / f"{identity}.parquet"
        if not path.exists():
            if candidates.mode != "full" and candidates.size > len(dataset.catalog):
                raise UserError(
                    f"candidates.size={candidates.size} exceeds the catalogue's {len(dataset.catalog)} items; "
                    "choose a smaller size or candidates=full"
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    _write(path, dataset, split, phases, candidates, filter_seen, refit_on_validation)
        files, digest = read_run_file(path, "candidates"), file_sha256(path)
    requests, relevance = {}, {}
    for name, phase in phases.items():
        own = candidates.mode != "file"
        lists = to_lists(files.get(name), dataset, phase.ids, name, candidates.missing_requests, own)
        requests[name], relevance[name] = to_requests(dataset, phase, lists, candidates), Relevance(phase.relevant)
        if not own:
            check_lists(files[name], name, requests[name], relevance[name])
    return Prepared(requests["validation"], relevance["validation"], requests["test"], relevance["test"], digest, path)


def subset(phase: Phase, limit: int | None, seed: int) -> Phase:
    """A seeded choice of `limit` requests, in the phase's order."""
    if limit is None or limit >= len(phase.ids):
        return phase
    chosen = np.argsort(keys(seed, SUBSET, phase.ids, np.zeros(1))[:, 0])[:limit]
    return phase.take(np.sort(chosen))


def _write(
    path: Path,
    dataset: Dataset,
    split: Split,
    phases: dict[str, Phase],
    candidates: Candidates,
    filter_seen: bool,
    refit_on_validation: bool,
) -> None:
    n_items = len(dataset.catalog)
    written = {}
    training = None
    for name, phase in phases.items():
        if training is None or refit_on_validation:  # the test's first stage may know the validation items
            training = split.with_validation_in_train().train if name == "test" else split.train
            log.info("first stage: fitting %s on %s items", type(candidates.retriever).__name__, f"{n_items:,}")
            candidates.retriever.fit(dataset.catalog, training)
        if candidates.mode == "sampled":
            stream = NEGATIVES_OF_TEST if name == "test" else NEGATIVES_OF_VALIDATION
            items = sample(
                dataset, phase, training.histories, candidates.size, candidates.negatives, candidates.seed, stream
            )
            scores = score_lists(candidates.retriever, phase, items, rows_together(n_items))
        else:
            width = min(KEPT, n_items) if candidates.mode == "full" else candidates.size
            items, scores = retrieve(candidates.retriever, phase, n_items, width, filter_seen, candidates.seed)
        if candidates.mode != "full":
            items, scores = present(phase.ids, items, scores, candidates)
        written[name] = (phase.ids, (items, scores))
    asked = any(len(ids) for ids, _ in written.values())
    if asked and not any((items >= 0).any() for _, (items, _) in written.values()):
        raise UserError(
            f"the first stage {type(candidates.retriever).__name__} found nothing for any request of {dataset.name}; "
            "choose another candidates/retriever="
        )
    write_lists(path, dataset, written)


def retrieve(
    retriever: Retriever, phase: Phase, n_items: int, width: int, filter_seen: bool, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first stage's best `width` items of each request, best first, and their scores: [R, width] each, -1 padded.

    Items of the history are left out with `filter_seen`, except a target that repeats one.
    """
    items = np.full((len(phase), width), -1, dtype=np.int32)
    values = np.full((len(phase), width), -np.inf, dtype=np.float32)
    step = rows_together(n_items)
    for start in bar(range(0, len(phase), step), "retrieving"):
        rows = slice(start, start + step)
        part = phase.take(rows)
        linked = retriever.linked(part)
        if linked is not None:
            if filter_seen:
                seen = seen_items(part.histories, part.relevant, n_items)
                linked.data[seen[np.repeat(np.arange(len(part)), np.diff(linked.indptr)), linked.indices]] = 0
            items[rows], values[rows] = best_linked(linked, part.ids, width, seed)
            continue
        dense = np.array(retriever.score(part), dtype=np.float32)
        if filter_seen:
            mask_seen(dense, part.histories, part.relevant)
        items[rows], values[rows] = best(dense, part.ids, width, seed)
    return items, values


def score_lists(retriever: Retriever, phase: Phase, items: np.ndarray, step: int) -> np.ndarray:
    """The first stage's scores of given lists, float32 [R, N], `step` requests at a time."""
    out = np.empty(items.shape, dtype=np.float32)
    for start in bar(range(0, len(phase), step), "scoring the candidates"):
        rows = slice(start, start + step)
        out[rows] = np.take_along_axis(retriever.score(phase.take(rows)), np.maximum(items[rows], 0), axis=1)
    out[np.isneginf(out)] = np.finfo(np.float32).min  # not linked to the history: last, but in the list
    return out


def present(
    ids: np.ndarray, items: np.ndarray, scores: np.ndarray, candidates: Candidates
) -> tuple[np.ndarray, np.ndarray]:
    """Puts candidates into the order in which a reranker meets them; padding stays last."""
    stream = SHUFFLE if candidates.presentation == "shuffled" else TIES
    key = keys(candidates.seed, stream, ids, items)
    if candidates.presentation == "first_stage":
        key = ~composite(np.where(np.isneginf(scores), np.finfo(np.float32).min, scores), key)
    key[items < 0] = np.iinfo(np.uint64).max
    order = np.argsort(key, axis=1)
    return np.take_along_axis(items, order, axis=1), np.take_along_axis(scores, order, axis=1)


def to_requests(dataset: Dataset, phase: Phase, lists: Lists, candidates: Candidates) -> Requests:
    items, scores = lists
    if candidates.mode == "file":
        items, scores = present(phase.ids, items, scores, candidates)
    elif candidates.mode != "full" and (missing := candidates.size - items.shape[1]) > 0:
        items = np.pad(items, ((0, 0), (0, missing)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return Requests(
        catalog=dataset.catalog,
        ids=phase.ids,
        names=dataset.user_id[phase.ids],
        histories=phase.histories,
        queries=phase.queries,
        candidates=None if candidates.mode == "full" else items,
        first_stage_items=items,
        first_stage_values=scores,
    )

"""What must hold of every dataset of passages that a reader makes."""

from __future__ import annotations

import unicodedata

from data.dataset import Dataset


def check_passages(dataset: Dataset) -> None:
    """What every loaded dataset of passages must be, whatever its files were."""
    events, queries, passages = dataset.interactions, len(dataset.user_id), len(dataset.catalog)
    assert queries and passages and len(events) >= queries
    assert len(set(dataset.user_id)) == queries and len(set(dataset.catalog.id)) == passages, "ids are not unique"
    assert dataset.queries is not None and len(dataset.queries) == queries
    for texts in (dataset.user_id, dataset.catalog.id, dataset.queries, dataset.catalog.description):
        assert all(isinstance(text, str) and text.strip() == text != "" for text in texts), "a text is empty"
        assert all(unicodedata.is_normalized("NFC", text) for text in texts), "a text is not composed"
    assert (events.user >= 0).all() and (events.user < queries).all(), "a query's row is out of range"
    assert (events.item >= 0).all() and (events.item < passages).all(), "a passage's row is out of range"
    pairs = set(zip(events.user.tolist(), events.item.tolist(), strict=True))
    assert len(pairs) == len(events), "a passage is relevant twice"
    assert (dataset.sequences.lengths > 0).all(), "a query without a relevant passage"
    assert len(dataset.sha256) == 64  # every text can be encoded

"""The sentences under the table."""

from typing import Any

import pytest

from experiments.summary import milliseconds, verdict

MANIFEST = {"primary": "ndcg_at_5", "reranker": "viranker", "retriever": "BM25"}
AGAINST = {"difference": 0.0, "low": 0.0, "high": 0.0, "p_holm": 1.0, "smallest_difference": 0.02}


@pytest.mark.parametrize(
    ("value", "trained", "says"),
    [
        (1.0, 10, "it cannot be better, and this test is too easy or too small to tell; cannot be told from"),
        (0.99, 10, "it has learned nothing that this test can see; look at the loss curve and the learning rate;"),
        (0.99, 0, "it knows nothing that this test can see; cannot be told from the first stage"),
    ],
)
def test_a_value_inside_chance_says_why(value: float, trained: int, says: str) -> None:
    metrics = {
        "ndcg_at_5": value,
        "chance_low/ndcg_at_5": 0.98,
        "chance_high/ndcg_at_5": 1.0,
        "ceiling/ndcg_at_5": 1.0,
    }
    metrics |= {f"vs_first_stage/{name}": number for name, number in AGAINST.items()}
    cost = {"trainable_parameters": trained, "milliseconds_per_request": 5.0}
    said = verdict({f"test/{name}": number for name, number in metrics.items()}, MANIFEST, cost)
    assert f"NDCG@5 of {value:.4f} is what chance gives (0.9800 to 1.0000): {says}" in said


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.012345, "0.0123 ms"), (5.678, "5.68 ms"), (99.94, "99.9 ms"), (100.0, "100 ms"), (12345.6, "12,346 ms")],
)
def test_milliseconds_have_three_digits_and_no_more_places_than_they_need(value: float, shown: str) -> None:
    cost: dict[str, Any] = {"milliseconds_per_request": value}
    assert milliseconds(cost) == shown

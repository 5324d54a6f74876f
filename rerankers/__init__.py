"""Rerankers, and for applications one call: from rerankers import load_reranker. Light: torch waits until then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerankers.loading import load_reranker as load_reranker
    from rerankers.ranking import Ranking as Ranking
    from rerankers.ranking import TextRanker as TextRanker

HOMES = {"load_reranker": "loading", "Ranking": "ranking", "TextRanker": "ranking"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)

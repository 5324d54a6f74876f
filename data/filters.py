"""Row filters on a table of interactions; each says in one sentence what it removed."""

import pandas as pd

Notes = list[str]


def drop_missing_titles(events: pd.DataFrame, items: pd.DataFrame, notes: Notes) -> pd.DataFrame:
    titled = items.index[items["title"].fillna("").str.strip() != ""]
    if len(titled) == 0:
        return events  # a source without any title is not one with missing titles
    return _keep(events, events["item"].isin(titled), "of items without a title", notes)


def drop_ratings_below(events: pd.DataFrame, min_rating: float | None, notes: Notes) -> pd.DataFrame:
    if min_rating is None:
        return events
    return _keep(events, events["rating"] >= min_rating, f"rated below {min_rating:g}", notes)


def drop_duplicates(events: pd.DataFrame, notes: Notes) -> pd.DataFrame:
    """Of several interactions of one user with one item, the earliest stays (the first in the file on a tie)."""
    order = events.sort_values("timestamp", kind="stable")
    duplicated = order.duplicated(["user", "item"]).reindex(events.index)
    return _keep(events, ~duplicated, "that repeat a user-item pair", notes)


def k_core(events: pd.DataFrame, k: int, notes: Notes) -> pd.DataFrame:
    """Drops users and items with fewer than k interactions until none is left."""
    before, kept = len(events), events
    while k > 1 and not kept.empty:
        enough = (kept.groupby("user")["item"].transform("size") >= k) & (
            kept.groupby("item")["user"].transform("size") >= k
        )
        if enough.all():
            break
        kept = kept[enough]
    if len(kept) < before:
        notes.append(f"the {k}-core left out {before - len(kept):,} of {before:,} interactions")
    return kept


def _keep(events: pd.DataFrame, mask: pd.Series, what: str, notes: Notes) -> pd.DataFrame:
    dropped = int((~mask).sum())
    if dropped:
        notes.append(f"{dropped:,} of {len(events):,} interactions {what} were left out")
    return events[mask]

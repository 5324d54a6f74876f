"""Row filters on a table of interactions; each says in one sentence what it removed."""

import numpy as np
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
    user, item = (pd.factorize(events[name])[0].astype(np.int64) for name in ("user", "item"))
    pair = user * (int(item.max(initial=0)) + 1) + item
    order = np.argsort(events["timestamp"].to_numpy(), kind="stable")
    first = np.empty(len(events), dtype=bool)
    first[order] = ~pd.Series(pair[order]).duplicated().to_numpy()
    return _keep(events, pd.Series(first, index=events.index), "that repeat a user-item pair", notes)


def k_core(events: pd.DataFrame, k: int, notes: Notes) -> pd.DataFrame:
    """Drops users and items with fewer than k interactions until none is left."""
    if k <= 1:
        return events
    user, item = (pd.factorize(events[name])[0] for name in ("user", "item"))
    rows = np.arange(len(events))
    while True:
        u, i = user[rows], item[rows]
        enough = (np.bincount(u)[u] >= k) & (np.bincount(i)[i] >= k)
        if enough.all():
            break
        rows = rows[enough]
    if len(rows) == len(events):
        return events
    notes.append(f"the {k}-core left out {len(events) - len(rows):,} of {len(events):,} interactions")
    return events.iloc[rows]


def _keep(events: pd.DataFrame, mask: pd.Series, what: str, notes: Notes) -> pd.DataFrame:
    dropped = int((~mask).sum())
    if dropped:
        notes.append(f"{dropped:,} of {len(events):,} interactions {what} were left out")
    return events[mask]

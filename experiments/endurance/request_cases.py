"""Small data that breaks assumptions: files, the words of a training on them, and what must come of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from experiments.endurance.breaking import Files

Events = list[tuple[str, str, int]]  # user, item, time; in the file's order
Answers = dict[str, set[str]]  # query id -> relevant passages
FULL = ["candidates=full", "candidates/retriever=popularity", "reranker=popularity"]
FIRST = "protocol.primary=recall_at_1"  # where all of a list are among the best 10
FOLDS = [
    "protocol=query_folds",
    "protocol.folds=2",
    "protocol.fold=0",
    "candidates.size=3",
    "reranker=first_stage",
    FIRST,
]
TEXT = [*FOLDS, "dataset=passages", "candidates/retriever=bm25"]


@dataclass(frozen=True)
class Case:
    group: str
    what: str
    files: Files
    words: list[str]  # of train.py, without dataset.path
    says: str | None = None  # a regular expression of the refusal; None: it runs
    events: Events | None = None  # of a run on users: what counts, for a calculation of our own
    answers: Answers | None = None  # of a run on queries
    test_share: float | None = None  # of a temporal cut; None: the last item of each user is left out
    notes: list[str] = field(default_factory=list)  # what it must have counted


def sequences(rows: dict[str, list[str]], texts: bool = False) -> Files:
    items = sorted({item for row in rows.values() for item in row})
    lines = "\n".join(" ".join([user, *row]) for user, row in rows.items())
    titles = [json.dumps({"item_id": item, "title": f"t {item}" if texts else ""}) for item in items]
    return {"sequences.txt": lines.encode(), "items.jsonl": "\n".join(titles).encode()}


def of_sequences(group: str, what: str, rows: dict[str, list[str]], *words: str, says: str | None = None) -> Case:
    events = [(user, item, place) for user, row in rows.items() for place, item in enumerate(row)]
    given = [*FULL, "dataset=sequences", *words]
    return Case(group, what, sequences(rows), given, says, None if says else events)


def films(items: list[str]) -> bytes:
    return "".join(
        f"{i}|Film {i}|01-Jan-1995||http://x|{'|'.join(['0'] * 19)}\n" for i in dict.fromkeys(items)
    ).encode()


def of_ratings(
    group: str, what: str, rows: list[tuple[str, str, str, str]], *words: str, says: str | None = None,
    unused: tuple[str, ...] = (), counted: Events | None = None, notes: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    """Rows of user, item, rating, timestamp as MovieLens writes them. `counted`: what is to count, if not all."""
    data = "".join("\t".join(row) + "\n" for row in rows).encode()
    files = {"u.data": data, "u.item": films([*(row[1] for row in rows), *unused])}
    if counted is None and not says:
        counted = [(user, item, int(time)) for user, item, _, time in rows]
    return Case(group, what, files, [*FULL, "dataset=ml_100k", *words], says, counted, notes=list(notes))


def of_reviews(group: str, what: str, users: list[str], items: list[str], *words: str) -> Case:
    """Every user takes all items, each in an order of the user's own; ids are any texts."""
    events = [
        (user, items[(n + place) % len(items)], 10 * n + place)
        for n, user in enumerate(users)
        for place in range(len(items))
    ]
    reviews = [
        {"reviewerID": user, "asin": item, "overall": 5.0, "unixReviewTime": time, "reviewText": "x"}
        for user, item, time in events
    ]
    files = {
        "reviews_x.json": "".join(json.dumps(row) + "\n" for row in reviews).encode(),
        "meta_x.json": "".join(
            json.dumps({"asin": item, "title": f"t{n}"}) + "\n" for n, item in enumerate(items)
        ).encode(),
    }
    return Case(
        group, what, files, [*FULL, "dataset=amazon_reviews", "protocol.filter_seen=false", *words], None, events
    )


def of_passages(
    group: str, what: str, texts: dict[str, str], queries: list[tuple[str, str, list[str]]], *words: str,
    says: str | None = None, answers: Answers | None = None, notes: tuple[str, ...] = (),
) -> Case:  # fmt: skip
    corpus = "".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()).encode()
    asked = "".join(json.dumps({"id": name, "query": text, "relevant": found}) + "\n" for name, text, found in queries)
    if answers is None and not says:
        answers = {name: set(found) for name, _, found in queries}
    files = {"corpus.jsonl": corpus, "queries.jsonl": asked.encode()}
    return Case(group, what, files, [*TEXT, *words], says, answers=answers, notes=list(notes))


def walks(users: int, items: int, length: int) -> dict[str, list[str]]:
    return {f"u{n}": [f"i{(n * 3 + place * (1 + n % 2)) % items}" for place in range(length)] for n in range(users)}


def few() -> list[Case]:
    group, rows = "next to no data", walks(6, 9, 5)
    empty = {"sequences.txt": b"", "items.jsonl": b'{"item_id": "i1"}\n'}
    gaps = {
        "sequences.txt": b"u1\nu2 a b c d\nu3 b c a d\n",
        "items.jsonl": b"".join(b'{"item_id": "%c"}\n' % c for c in b"abcd"),
    }
    known = [(user, item, n) for user in ("u2", "u3") for n, item in enumerate("abcd" if user == "u2" else "bcad")]
    skip = [*FULL, "dataset=sequences", "dataset.on_bad_row=skip"]
    return [
        Case(group, "an empty file", empty, [*FULL, "dataset=sequences"], r"no interactions left|no item"),
        Case(
            group,
            "a user without an item",
            gaps,
            [*FULL, "dataset=sequences"],
            r"sequences\.txt, line 1: user u1 has no item",
        ),
        Case(
            group,
            "a user without an item, skipped",
            gaps,
            skip,
            events=known,
            notes=["1 bad rows of sequences.txt were left out"],
        ),
        of_sequences(group, "a single user", {"u": list("abcdef")}),
        of_sequences(group, "a single user of three items", {"u": list("abc")}),
        of_sequences(group, "two users", {"u": list("abcd"), "v": list("dcba")}),
        of_sequences(group, "a single item", {"u": ["a"]}, says="leaves no (validation|test) request"),
        of_sequences(group, "users of one item each", {f"u{n}": ["ab"[n % 2]] for n in range(9)}, says="leaves no"),
        of_sequences(group, "users of two items each", {f"u{n}": ["a", "b"] for n in range(9)}, says="leaves no"),
        of_sequences(group, "a user who took everything", rows | {"all": [f"i{n}" for n in range(9)]}),
        of_sequences(
            group, "histories of one item at the test", {"u": list("abc"), "v": list("bca"), "w": list("cab")}
        ),
        of_sequences(group, "a 1,000-core", rows, "dataset.k_core=1000", says="no interactions left"),
        of_sequences(
            group,
            "more candidates than items",
            rows,
            "candidates=retrieved",
            "candidates.size=50",
            says="candidates.size=50 exceeds",
        ),
        of_sequences(group, "as many candidates as items", rows, "candidates=retrieved", "candidates.size=9", FIRST),
        of_sequences(
            group,
            "more negatives than items",
            rows,
            "candidates=sampled",
            "candidates.size=9",
            FIRST,
            says="choose a smaller size",
        ),
        of_sequences(
            group, "sampled negatives, all that there are", rows, "candidates=sampled", "candidates.size=5", FIRST
        ),
        of_sequences(group, "k above what is kept", rows, "protocol.ks=[1,10,500]", says="choose k <= 100"),
        of_sequences(
            group,
            "k above the candidates",
            rows,
            "candidates=retrieved",
            "candidates.size=5",
            "protocol.ks=[1,10,50]",
            FIRST,
        ),
        of_sequences(group, "one request", rows, "protocol.max_requests=1"),
        of_sequences(
            group,
            "a first stage that saw one pair",
            {"u": list("abc"), "v": list("xyz")},
            "candidates/retriever=markov",
            says="found nothing for any request",
        ),
    ]


def times() -> list[Case]:
    group = "timestamps"
    rows = [(f"{u}", f"{(u * 3 + p * (1 + u % 2)) % 9}", "4") for u in range(8) for p in range(6)]

    def timed(what: str, moments: list[int], *words: str, says: str | None = None) -> Case:
        given = [(*row, str(moment)) for row, moment in zip(rows, moments, strict=True)]
        return of_ratings(group, what, given, *words, says=says)

    place = [7 * n % len(rows) for n in range(len(rows))]  # the users' times lie among each other
    far = [4_102_444_800 + 60 * n for n in place]
    thousandths = [1_700_000_000_000 + 60_000 * n for n in place]
    negative = [-(10**15) + n for n in place]
    huge = [2**62 + n for n in place]
    mixed = [n if n % 2 else 2**62 - n for n in range(len(rows))]
    share = 0.3
    cut = ["protocol=temporal", f"protocol.split.test_share={share}", f"protocol.split.validation_share={share}"]
    out = [
        timed("all equal", [7] * len(rows)),
        timed("all equal, a temporal cut", [7] * len(rows), *cut, says="leaves no (validation|test) request"),
        timed("beyond 64 bits", [2**63] * len(rows), says=r"u\.data, line 1: timestamp is"),
    ]
    for what, moments in (
        ("future", far),
        ("milliseconds", thousandths),
        ("negative", negative),
        ("2**62", huge),
        ("mixed", mixed),
    ):
        out += [timed(what, moments)]
        out += [replace(out[-1], what=f"{what}, a temporal cut", words=[*out[-1].words, *cut], test_share=share)]
    return out

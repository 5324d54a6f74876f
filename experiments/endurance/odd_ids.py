"""Odd ratings, ids and queries; see `request_cases`."""

from __future__ import annotations

from experiments.endurance.request_cases import (
    Case,
    few,
    of_passages,
    of_ratings,
    of_reviews,
    of_sequences,
    times,
    walks,
)  # fmt: skip


def ratings() -> list[Case]:
    group = "ratings and repeated rows"
    rows = [(f"{u}", f"{(u * 3 + p * (1 + u % 2)) % 9}", "4", f"{p}") for u in range(6) for p in range(6)]
    nan = [(*rows[0][:2], "nan", "0"), *rows[1:]]
    low = [(user, item, "1" if user == "0" else rating, time) for user, item, rating, time in rows]
    of = [(user, item, int(time)) for user, item, _, time in rows]
    return [
        of_ratings(group, "a NaN rating", nan, says=r"u\.data, line 1: rating is 'nan', not a finite number"),
        of_ratings(
            group,
            "a NaN rating, skipped",
            nan,
            "dataset.on_bad_row=skip",
            counted=of[1:],
            notes=("1 bad rows of u.data",),
        ),
        of_ratings(
            group, "an infinite rating", [(*row[:2], "inf", row[3]) for row in rows], says="not a finite number"
        ),
        of_ratings(
            group,
            "every row bad, skipped",
            [("a", "b", "x", "1")] * 5,
            "dataset.on_bad_row=skip",
            says="no interactions left",
        ),
        of_ratings(group, "every row three times", rows * 3, counted=of),
        of_ratings(group, "a pair again, later", [*rows, ("0", rows[0][1], "5", "99")], counted=of),
        of_ratings(
            group,
            "a user all of whose items are filtered",
            low,
            "dataset.min_rating=3",
            counted=[e for e in of if e[0] != "0"],
        ),
        of_ratings(group, "all ratings filtered", rows, "dataset.min_rating=5", says="no interactions left"),
        of_ratings(
            group,
            "films that nobody took",
            rows,
            unused=("900", "901"),
            notes=("2 items without a remaining interaction",),
        ),
    ]


def ids() -> list[Case]:
    group = "ids"
    items = [
        "-1",
        "0",
        "00",
        "1",
        "1.0",
        "1e0",
        "99999999999999999999",
        str(2**63),
        str(-(2**63)),
        "nan",
        "NaN",
        "None",
        "inf",
    ]
    users = ["-1", "7", "07", "7.0", "99999999999999999999", str(2**63), "nan", "null", "NA", "True", "1_000"]
    strange = [
        "a b",
        "a/b",
        "../../x",
        'a"b',
        "a'b",
        "a\nb",
        "a\tb",
        "é",
        "e\u0301",
        "👩‍👩‍👧",
        "a\u200bb",
        "ab",
        "=1+1",
        "<b>",
        "\u202ex",
        "A" * 5000,
    ]
    rows = [(user, items[(n + p) % len(items)], "4", str(p)) for n, user in enumerate(users) for p in range(6)]
    return [
        of_ratings(group, "numbers that are negative, huge or written in two ways", rows),
        of_reviews(
            group,
            "blanks, slashes, quotes, line breaks, twins of composed letters",
            strange,
            [f"i {n}" for n in range(6)],
        ),
        of_reviews(group, "the same of items", [f"u {n}" for n in range(6)], strange),
        of_sequences(
            group, "a dataset named as a path", walks(6, 9, 5), "dataset.name='../../x'", says=r"dataset\.name"
        ),
        of_sequences(group, "a dataset without a name", walks(6, 9, 5), "dataset.name=''", says=r"dataset\.name"),
    ]


def asked() -> list[Case]:
    group = "queries and passages"
    texts = {"1": "red apple pie", "2": "green pear tart", "3": "blue plum cake", "4": "the club of 2011"}
    said = "apple pie|pear tart|plum cake|club|red apple|green tart|blue cake|of 2011".split("|")
    queries = [(f"q{n}", text, [str(n % 4 + 1), *"1" * (n == 2)]) for n, text in enumerate(said)]
    both = {name: set(found) for name, _, found in queries}
    many = [(f"q{n}", f"word{n} apple", ["1"]) for n in range(6)]
    skip = "dataset.on_bad_row=skip"
    return [
        of_passages(
            group, "more folds than queries", texts, queries, "protocol.folds=19", says="protocol.folds=19 exceeds"
        ),
        of_passages(
            group,
            "a query without words",
            texts,
            [*queries, ("e", " ", ["1"])],
            says=r"queries\.jsonl, line 9: a query without words",
        ),
        of_passages(
            group,
            "a query without words, skipped",
            texts,
            [*queries, ("e", " ", ["1"])],
            skip,
            answers=both,
            notes=("1 bad rows of queries.jsonl",),
        ),
        of_passages(
            group,
            "two queries of one text",
            texts,
            [*queries, ("e", "Apple  PIE", ["1"])],
            notes=("1 queries have the text of another query",),
        ),
        of_passages(
            group,
            "all queries of one text",
            texts,
            [(f"q{n}", "apple", ["1"]) for n in range(5)],
            says="exceeds the 1 groups",
        ),
        of_passages(
            group,
            "queries without positives",
            texts,
            [*queries, ("e", "what", [])],
            answers=both,
            notes=("1 queries without a relevant passage were left out",),
        ),
        of_passages(
            group,
            "no query with a positive",
            texts,
            [("a", "x", []), ("b", "y", [])],
            says="no query with a relevant passage",
        ),
        of_passages(
            group,
            "positives that are not there",
            texts,
            [*queries, ("e", "what", ["77"])],
            says="the corpus has no passage '77'",
        ),
        of_passages(
            group,
            "positives that are not there, skipped",
            texts,
            [*queries, ("e", "what", ["77"])],
            skip,
            answers=both,
            notes=("1 bad rows of queries.jsonl",),
        ),
        of_passages(group, "a passage of 100,000 words", texts | {"5": "apple " * 100_000}, queries),
        of_passages(group, "a query of 100,000 words", texts, [*queries, ("e", "pear " * 100_000, ["2"])]),
        of_passages(group, "a passage id again", texts | {" 1": "again"}, queries, says="stands there a second time"),
        of_passages(
            group,
            "passages of one text",
            dict.fromkeys("12345", "apple pie tart cake club red of"),
            queries,
            notes=("4 passages have the text of another passage",),
        ),
        of_passages(
            group,
            "words that no passage has",
            texts,
            [(name, f"zzz{name}", found) for name, _, found in queries],
            says="found nothing for any request",
        ),
        of_passages(group, "signs without a word", texts | {"5": "!!! ???"}, [*queries, ("e", "?!", ["5"])]),
        of_passages(group, "every passage relevant", texts, [(name, text, list(texts)) for name, text, _ in queries]),
        of_passages(group, "one passage", {"1": "apple"}, many, "candidates.size=2", says="candidates.size=2 exceeds"),
    ]


def all_cases() -> list[Case]:
    return [*few(), *times(), *ratings(), *ids(), *asked()]

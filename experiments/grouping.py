"""Which runs may stand in one table, and which are seeds of one row.

Runs of a block (one group of columns) must have ranked the same candidates of the same data under the same protocol;
a row averages over seeds and over nothing else. What does not fit is refused with the reason.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from experiments.building import OWN
from experiments.collect import Finished, Selection

NO_NUMBER = ("logging_steps", "save_total_limit", "dataloader_num_workers")  # trainer keys that change none
PROTOCOL = ("dataset.", "protocol.", "candidates.")
SAID_FIRST = (  # of what differs between two protocols
    "dataset.name", "protocol.split._target_", "candidates.mode", "candidates.size", "candidates.retriever._target_",
    "protocol.filter_seen", "protocol.refit_on_validation", "protocol.fold",
)  # fmt: skip
NO_ROW = (  # keys that make no row: places, whose content is hashed, which metrics are computed, what is printed
    "seed", "force", "check", "diagnose", "dataset.path", "dataset.images", "dataset.image_features",
    "candidates.path", "candidates.validation_path", "protocol.metrics", "protocol.ks",
)  # fmt: skip
LONGEST = 100  # letters of a row's label; a prompt may be longer
SHORT = {"dataset": "dataset.name", "candidates": "candidates.mode", "protocol": "protocol.split._target_"}
SAME = (  # of the manifest, and what it is called
    ("dataset", "dataset"),
    ("protocol", "split"),
    ("interactions_sha256", "the data's content"),
    ("candidates", "candidates"),
    ("candidates_sha256", "the content of the candidate file"),
    ("n_requests", "the number of test requests"),
)


@dataclass(frozen=True)
class Group:
    """Runs of one row in one block: they differ in their seed alone."""

    label: str
    values: dict[str, Any]  # config key -> value, of what tells it from other rows of its reranker
    runs: list[Finished]

    @property
    def first(self) -> Finished:
        return self.runs[0]


@dataclass(frozen=True)
class Block:
    """One protocol: `groups` in the order of the runs."""

    values: dict[str, Any]  # of the column keys
    groups: list[Group]

    @property
    def first(self) -> Finished:
        return self.groups[0].first

    @property
    def title(self) -> str:
        """What tells it from other blocks: `mode=sampled`."""
        return label("", self.values).strip()


def blocks_of(selection: Selection, rows: list[str] | None = None, columns: list[str] | None = None) -> list[Block]:
    """`columns`: config keys whose values make the blocks; `rows`: those whose values make the rows, beside the
    reranker; None: whatever tells the runs apart."""
    columns = [SHORT.get(key, key) for key in (selection.columns if columns is None else columns)]
    runs = selection.runs
    for key in [*columns, *(rows or [])]:
        if not any(key == "reranker" or key in run.config for run in runs):
            raise UserError(f"{key} is no key of these runs' config; `python train.py --cfg job` shows every key")
    parts = list(partition(runs, columns).values())
    for part in parts:
        check_protocol(part, columns)
    keys = {
        reranker: keys_of([[run for run in part if run.reranker == reranker] for part in parts], rows, selection.swept)
        for reranker in dict.fromkeys(run.reranker for run in runs)
    }
    return [Block({key: value(part[0], key) for key in columns}, groups_of(part, keys)) for part in parts]


def value(run: Finished, key: str) -> Any:
    return run.reranker if key in ("reranker", "reranker.name") else run.config.get(key)


def check_protocol(runs: list[Finished], columns: list[str]) -> None:
    """Numbers of other requests or candidates do not compare; averaging or ranking them together is refused, with the
    keys that differ."""
    first = runs[0]
    for other in runs[1:]:
        for name, what in SAME:
            if first.manifest.get(name) == other.manifest.get(name):
                continue
            differ = [
                key
                for key in first.config
                if key.startswith(PROTOCOL)
                and key not in (*NO_ROW, *columns, "protocol.primary", "protocol.fusion")
                and first.config[key] != other.config.get(key)
            ]
            if differ:
                key = min(differ, key=lambda one: SAID_FIRST.index(one) if one in SAID_FIRST else len(SAID_FIRST))
                reason = f"{key}={first.config[key]} in {first.name} and {other.config.get(key)} in {other.name}"
                others = [one for one in differ if one != key][:4]
                reason += f" (they differ in {', '.join(others)} too)" if others else ""
                remedy = f"give each its own columns with columns={plain([*columns, key])}, or choose runs with runs="
            else:
                reason = f"{what} is another in {first.name} than in {other.name}, with the same config"
                remedy = "the data or the code has changed between them; repeat one with force=true"
            raise UserError(f"these runs do not share one protocol: {reason}; {remedy}")


def plain(keys: Iterable[str]) -> str:
    return f"[{','.join(keys)}]"


def groups_of(runs: list[Finished], keys: dict[str, list[str]]) -> list[Group]:
    """Runs of one reranker with equal `keys` are one row, in the order of the runs."""
    out = []
    for reranker, own in keys.items():
        for part in partition([run for run in runs if run.reranker == reranker], own).values():
            check_seeds(part)
            values = {key: value(part[0], key) for key in own}
            out.append(Group(label(reranker, values), values, sorted(part, key=lambda run: run.seed)))
    place = {run.name: index for index, run in enumerate(runs)}
    return sorted(out, key=lambda group: min(place[run.name] for run in group.runs))


def keys_of(parts: list[list[Finished]], rows: list[str] | None, swept: list[str]) -> list[str]:
    """The config keys that tell the rows of one reranker apart, of its runs in each block."""
    telling = telling_keys(parts, swept)
    if rows is None:
        return telling
    given = [key for key in rows if key not in ("reranker", "reranker.name")]
    for part in parts:
        averaged = [key for key in telling if len(partition(part, given)) < len(partition(part, [*given, key]))]
        if averaged:
            raise UserError(
                f"rows={plain(rows)} would average runs of {part[0].reranker} that differ in {averaged[0]}; give it, "
                "or choose runs with runs="
            )
    return given


def partition(runs: list[Finished], keys: list[str]) -> dict[tuple[str, ...], list[Finished]]:
    out: dict[tuple[str, ...], list[Finished]] = {}
    for run in runs:
        out.setdefault(tuple(str(value(run, key)) for key in keys), []).append(run)
    return out


def telling_keys(parts: list[list[Finished]], swept: list[str]) -> list[str]:
    """The fewest keys that tell runs of a block apart, seeds aside: those swept first, then in the config's order.
    What is the same in a block but not in another is not among them; a table says it in a note."""
    every = [run.config for part in parts for run in part]
    varying = [
        key
        for key in dict.fromkeys([*swept, *(key for config in every for key in config)])
        if not (key in NO_ROW or key.startswith(("paths.", "tracking.")))
        and key.rpartition(".")[2] not in NO_NUMBER
        and any(len({str(run.config.get(key)) for run in part}) > 1 for part in parts)
    ]
    chosen: list[str] = []
    for key in varying:
        if any(len(partition(part, [*chosen, key])) > len(partition(part, chosen)) for part in parts):
            chosen.append(key)
    return chosen


def check_seeds(runs: list[Finished]) -> None:
    seen: dict[int, Finished] = {}
    for run in runs:
        if run.manifest.get("data_sha256") != runs[0].manifest.get("data_sha256"):
            raise UserError(f"{runs[0].name} and {run.name} read other texts or pictures; choose one with runs=")
        if (before := seen.setdefault(run.seed, run)) is not run:
            raise UserError(
                f"{before.name} and {run.name} are the same config with the same seed, of other data or code; "
                "choose one of them with runs="
            )


def label(reranker: str, values: dict[str, Any]) -> str:
    """`qwen_letter r=8`; a key's last part, unless two keys share it."""
    short = [key.removesuffix("._target_").rpartition(".")[2] for key in values]
    names = [name if short.count(name) == 1 else key for name, key in zip(short, values, strict=True)]
    words = [f"{name}={text(values[key])}" for name, key in zip(names, values, strict=True)]
    out = " ".join(" ".join([reranker, *words]).split())
    return out if len(out) <= LONGEST else f"{out[:LONGEST]}... {zlib.crc32(out.encode()):08x}"


def text(value: Any) -> str:
    """`data.splits.Temporal` is called by its last part."""
    return str(value).rpartition(".")[2] if isinstance(value, str) and value.startswith(OWN) else str(value)

"""Which runs may stand in one table, and which are seeds of one row.

Runs of a block (one group of columns) must have ranked the same candidates of the same data under the same protocol;
a row averages over seeds and over nothing else. What does not fit is refused with the reason.
"""

from __future__ import annotations

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


def blocks_of(selection: Selection, rows: list[str] | None = None, columns: list[str] | None = None) -> list[Block]:
    """`columns`: config keys whose values make the blocks; `rows`: those whose values make the rows, beside the
    reranker; None: whatever tells the runs apart."""
    columns = [SHORT.get(key, key) for key in (selection.columns if columns is None else columns)]
    runs = selection.runs
    for key in [*columns, *(rows or [])]:
        if not any(key == "reranker" or key in run.config for run in runs):
            raise UserError(f"{key} is no key of these runs' config; `python train.py --cfg job` shows every key")
    parts: dict[tuple[str, ...], list[Finished]] = {}
    for run in runs:
        parts.setdefault(tuple(str(value(run, key)) for key in columns), []).append(run)
    out = []
    for part in parts.values():
        check_protocol(part, columns)
        at = {key: value(part[0], key) for key in columns}
        out.append(Block(at, groups_of(part, rows, selection.swept, columns)))
    return out


def value(run: Finished, key: str) -> Any:
    return run.reranker if key in ("reranker", "reranker.name") else run.config.get(key)


def check_protocol(runs: list[Finished], columns: list[str]) -> None:
    """Numbers of other requests or candidates do not compare; averaging or ranking them together is refused."""
    first = runs[0]
    for other in runs[1:]:
        for name, what in SAME:
            if first.manifest.get(name) == other.manifest.get(name):
                continue
            differ = [
                key
                for key in first.config
                if key.startswith(PROTOCOL)
                and key not in NO_ROW
                and key not in columns
                and first.config[key] != other.config.get(key)
            ]
            if differ:
                key = min(differ, key=lambda one: SAID_FIRST.index(one) if one in SAID_FIRST else len(SAID_FIRST))
                reason = f"{key}={first.config[key]} in {first.name} and {other.config.get(key)} in {other.name}"
                remedy = f"give each its own columns with columns={plain([*columns, key])}, or choose runs with runs="
            else:
                reason = f"{what} is another in {first.name} than in {other.name}, with the same config"
                remedy = "the data or the code has changed between them; repeat one with force=true"
            raise UserError(f"these runs do not share one protocol: {reason}; {remedy}")


def plain(keys: Iterable[str]) -> str:
    return f"[{','.join(keys)}]"


def groups_of(runs: list[Finished], rows: list[str] | None, swept: list[str], columns: list[str]) -> list[Group]:
    """Runs of one reranker and equal config but for the seed are one row."""
    out = []
    by_reranker: dict[str, list[Finished]] = {}
    for run in runs:
        by_reranker.setdefault(run.reranker, []).append(run)
    for reranker, own in by_reranker.items():
        keys = telling(own, swept, columns)
        if rows is not None:
            given = [key for key in rows if key not in ("reranker", "reranker.name")]
            averaged = [key for key in keys if len(partition(own, given)) < len(partition(own, [*given, key]))]
            if averaged:
                raise UserError(
                    f"rows={plain(rows)} would average runs of {reranker} that differ in {averaged[0]}; give it too "
                    "or choose runs with runs="
                )
            keys = given
        for part in partition(own, keys).values():
            check_seeds(part)
            values = {key: value(part[0], key) for key in keys}
            out.append(Group(label(reranker, values), values, sorted(part, key=lambda run: run.seed)))
    place = {run.name: index for index, run in enumerate(runs)}
    return sorted(out, key=lambda group: min(place[run.name] for run in group.runs))


def partition(runs: list[Finished], keys: list[str]) -> dict[tuple[str, ...], list[Finished]]:
    out: dict[tuple[str, ...], list[Finished]] = {}
    for run in runs:
        out.setdefault(tuple(str(value(run, key)) for key in keys), []).append(run)
    return out


def telling(runs: list[Finished], swept: list[str], columns: list[str]) -> list[str]:
    """The fewest config keys that tell the runs apart, seeds aside: those swept first, then in the config's order."""
    varying = [
        key
        for key in dict.fromkeys([*swept, *runs[0].config, *(key for run in runs for key in run.config)])
        if not (key in NO_ROW or key.startswith(("paths.", "tracking.")))
        and key.rpartition(".")[2] not in NO_NUMBER
        and key not in columns
        and len({str(run.config.get(key)) for run in runs}) > 1
    ]
    chosen: list[str] = []
    for key in varying:
        if len(partition(runs, [*chosen, key])) > len(partition(runs, chosen)):
            chosen.append(key)
    return chosen


def check_seeds(runs: list[Finished]) -> None:
    seen: dict[int, Finished] = {}
    for run in runs:
        if (before := seen.setdefault(run.seed, run)) is not run:
            raise UserError(
                f"{before.name} and {run.name} are the same config with the same seed, of other data or code; "
                "choose one of them with runs="
            )


def label(reranker: str, values: dict[str, Any]) -> str:
    """`qwen_letter r=8`; a key's last part, unless two keys share it."""
    short = [key.removesuffix("._target_").rpartition(".")[2] for key in values]
    names = [name if short.count(name) == 1 else key for name, key in zip(short, values, strict=True)]
    return " ".join([reranker, *(f"{name}={text(values[key])}" for name, key in zip(names, values, strict=True))])


def text(value: Any) -> str:
    """`data.splits.Temporal` is called by its last part."""
    return str(value).rpartition(".")[2] if isinstance(value, str) and value.startswith(OWN) else str(value)

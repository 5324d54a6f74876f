"""Where the numbers of a table come from: each cell with its runs, each run with what it was made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from experiments.table import BOUND, CHANCE, Table
from experiments.table_text import block_title, mark, number


def traced(table: Table) -> dict[str, Any]:
    """Every cell with its runs, and what each run was made of."""
    cells = []
    for row in table.rows:
        for column, cell in row.cells.items():
            record = {
                "block": block_title(table, column.block),
                "row": row.label,
                "kind": row.kind,
                "column": column.key,
                "shown": number(cell, column) + mark(cell),
                "n_seeds": len(cell.values) if row.kind not in (CHANCE, BOUND) else None,
                "values": list(cell.values),
                "mean": cell.mean,
                "std": cell.deviation,
                "best": cell.best,
                "second": cell.second,
                "at_chance": cell.at_chance,
            }
            if cell.comparison is not None:
                record |= {"against": table.against, **asdict(cell.comparison), "p_holm": cell.p_holm}
            cells.append(record | {"runs": list(cell.runs)})
    return {
        "table": table.name,
        "protocol": [
            {
                "block": block_title(table, index),
                **{key: block.first.manifest[key] for key in PROTOCOL},
            }
            for index, block in enumerate(table.blocks)
        ],
        "labels": table.labels,
        "absent": table.absent,
        "left_out": table.left_out,
        "cells": cells,
        "runs": {run.name: origin(run) for row in table.rows for runs in row.runs.values() for run in runs},
    }


PROTOCOL = "dataset protocol candidates n_requests primary data_sha256 interactions_sha256 candidates_sha256".split()


def origin(run: Any) -> dict[str, Any]:
    """Where a number comes from: what another machine needs to make it again."""
    environment = run.environment
    return {
        "folder": str(run.folder),
        "config": str(run.folder / "config.yaml"),
        "overrides": run.overrides,
        "seed": run.seed,
        **{key: environment.get(key) for key in ("git_sha", "git_dirty", "code_sha256", "python", "packages")},
        **{key: run.manifest[key] for key in ("data_sha256", "candidates_sha256")},
    }

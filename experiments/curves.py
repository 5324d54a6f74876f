"""curves.jsonl: one line for each logged value: name, step, epoch, CPU and wall seconds of training, value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """All whole lines; a line torn by a kill is dropped."""
    path = folder / "curves.jsonl"
    points = []
    for line in path.read_text().split("\n") if path.exists() else []:
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return points

"""Weights that a run of this project saved: `model.safetensors` in a folder that holds nothing that runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from data.errors import UserError, in_one_line
from data.model_files import refuse_code


def read_weights(folder: Path, load_file: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """`load_file` is safetensors' own, of numpy or torch. A damaged file is a UserError of one sentence."""
    refuse_code(folder, "model")
    try:
        return load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        said = in_one_line(error)[:200]
        raise UserError(
            f"{folder / 'model.safetensors'} cannot be read ({said}); bring the whole file, or train again with "
            "force=true"
        ) from None

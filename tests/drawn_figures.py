"""The figures of the runs in a folder."""

from pathlib import Path
from typing import Any

from experiments.collect import Selection, select
from experiments.figures import draw


def selection(root: Path, pattern: str = "*") -> Selection:
    return select(root, None, [pattern])


def only(root: Path, name: str, **settings: Any) -> Any:
    """The one figure of this name, with a caption that is a sentence."""
    (figure,), skipped = draw(selection(root), [name], **settings)
    assert skipped == [] and figure.caption.endswith(".") and "\n" not in figure.caption
    return figure

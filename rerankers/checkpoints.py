"""Which checkpoints of a training are whole, in the folders that Hugging Face's Trainer writes.

A checkpoint is whole once it holds the empty file `complete`: it is made when everything else of the checkpoint is
there (from every process) and removed first when the checkpoint is deleted. A folder without it was torn by a kill.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

COMPLETE = "complete"


def last_checkpoint(folder: Path, delete: bool = True) -> Path | None:
    """The newest whole checkpoint; torn ones, left by a kill, are deleted (by one process)."""
    found = {}
    for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if (path / COMPLETE).exists():
            found[int(path.name.rsplit("-", 1)[1])] = path
        elif delete:
            shutil.rmtree(path)
    return found[max(found)] if found else None


class MarkComplete(TrainerCallback):
    """Marks each checkpoint, then deletes the oldest beyond `limit`, never the last or the best, their mark first.

    The Trainer would delete before the new one is marked and leave the mark of an old one for the last: a kill then
    left a part of a checkpoint that said it was whole.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if args.world_size > 1:  # each process has a state of its own in it
            torch.distributed.barrier()
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir))
        (folder / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / COMPLETE).touch()
        steps = sorted(int(path.parent.name.rsplit("-", 1)[1]) for path in folder.glob(f"*/{COMPLETE}"))
        kept = {state.global_step, state.best_global_step}
        extra = max(0, len(steps) - self.limit) if self.limit else 0
        for step in [step for step in steps if step not in kept][:extra]:
            old = folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"
            (old / COMPLETE).unlink()
            shutil.rmtree(old)

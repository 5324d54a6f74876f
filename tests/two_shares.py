"""Run by torchrun in two processes: what each is asked to score and gets, as JSON in the folder that argv names."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from experiments import processes


class Numbered(SimpleNamespace):
    """Requests that are nothing but their numbers."""

    width = 2

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> "Numbered":
        return Numbered(rows=self.rows[rows])


def main() -> None:
    folder, first = Path(sys.argv[1]), processes.is_first()
    processes.join()
    asked: list[int] = []

    def score(requests: Any) -> np.ndarray:
        asked.extend(requests.rows.tolist())
        return np.stack([10 * requests.rows, 10 * requests.rows + 1], axis=1).astype(np.float32)

    got = {n: processes.shared(score)(Numbered(rows=np.arange(n))).tolist() for n in (1, 2, 5)}
    agreed = [processes.agreed(first), processes.agreed(not first)]
    print("printed by", os.environ["RANK"])
    told = {"asked": asked, "got": got, "agreed": agreed}
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()

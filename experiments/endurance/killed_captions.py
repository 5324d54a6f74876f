"""SIGKILL while `python -m experiments.enrich` writes captions, and the same command again."""

from __future__ import annotations

import signal
from pathlib import Path

from experiments.endurance import small
from experiments.endurance.forks import Forks
from experiments.endurance.outcome import Outcome
from experiments.endurance.tiny_blip import blip
from experiments.endurance.whole import leftovers, torn

PLACES = [  # and the how manyth time there; 60 pictures are eight batches
    ("half:caption-*.jsonl", 2),
    ("called:data.enrich._append", 3),
    ("half:ml_100k-caption-*.json", 1),
    ("half:ml_100k-caption-*.jsonl", 1),
    ("before:ml_100k-caption-*.jsonl", 1),
]


def killed_captions(folder: Path, data: list[str]) -> Outcome:
    """`data`: the words of ml_100k with pictures."""
    folder.mkdir()
    model = blip(folder / "blip")
    asked = ["-m", "experiments.enrich", "dataset=ml_100k", *data, "field=caption", f"model={model}", "batch_size=8"]
    unbroken, root, log = folder / "unbroken", folder / "killed", folder / "killed.log"
    words = [*asked, "max_new_tokens=8", f"paths.root={root}"]
    whole = small.run(*words[:-1], f"paths.root={unbroken}")
    if whole.returncode:
        return Outcome("unbroken captions", 1, 0, "the run", failures=[whole.stderr[-500:]])
    failures = []
    with Forks() as forks:
        for place, nth in PLACES:
            code, _ = forks.run(words, log, place=place, nth=nth)
            wrong = [] if code == -signal.SIGKILL else [f"it ended with {code}: {log.read_text()[-500:]}"]
            if wrong := wrong + torn(root):
                failures.append(f"captions, {place}: {'; '.join(wrong)}")
    last = small.run(*words)
    wrong = [f"the last command ended with {last.returncode}: {last.stderr[-500:]}"] if last.returncode else []
    wrong += torn(root) + leftovers(root)
    if written(root) != written(unbroken):
        wrong.append(f"{sorted(written(root))} are not those of the unbroken command, {sorted(written(unbroken))}")
    if wrong:  # which cannot be told from which kill it comes, so it is counted for all
        failures = [f"captions, {place}: {'; '.join(wrong)}" for place, _ in PLACES]
    lost = "see its failures" if failures else "nothing"
    return Outcome("SIGKILL in enrichment", len(PLACES), len(PLACES) - len(failures), lost, failures=failures)


def written(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "datasets" / "enriched").glob("*")}

"""Two finished runs, request by request, in the way a reviewer asks for it:

    python -m experiments.compare a=<run> b=<run>                  # table, verdict, five examples of each kind
    python -m experiments.compare a='[<run>,<run>]' b='[<run>]'    # seeds of one method: the mean of each request
    python -m experiments.compare a='demo-bert4rec-*' b=<run>      # all of that name, without the folds of a pool
    python -m experiments.compare a=<run> b=<run> metric=ndcg_at_10 examples=0 out=table.md

A run is a folder, a name in runs/, an MLflow run id, a pool of folds or <run>/evaluations/<hash>. Runs of other data,
splits or candidates are refused: their numbers do not compare. The p-values (paired, sign-flip) of all metrics are one
Holm family; a metric that equals another one of all requests is left out of it.
"""

import hydra
from omegaconf import DictConfig

from experiments.launch import job, launch


def compare(cfg: DictConfig) -> dict[str, float]:
    """Difference of the chosen metric and its p-value; nothing where it is equal for every request."""
    import sys
    from pathlib import Path

    from rich.console import Console

    from data.errors import UserError, in_range
    from experiments import comparison
    from experiments.paired_runs import read_sides

    in_range("examples", cfg.examples, 0)
    out = None if cfg.out is None else Path(cfg.out).expanduser()
    if out is not None and out.suffix not in comparison.WRITERS:
        raise UserError(f"out={cfg.out} is not written; choose a file that ends in {', '.join(comparison.WRITERS)}")
    root = Path(cfg.paths.root).expanduser().resolve()
    a, b = read_sides(root, cfg.a, cfg.b)
    names = [name for name in a.manifests[0]["metrics"] if name in a.tables[0] and name in b.tables[0]]
    metric = str(cfg.metric or a.manifests[0]["primary"])
    if metric not in names:
        raise UserError(f"metric={metric} is not in both runs; choose {', '.join(names)}")
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False, markup=False)
    found = comparison.compared(a, b, names, metric, cfg.seed)
    console.print(comparison.table(found))
    for line in comparison.about_the_runs(a, b):
        console.print(line, soft_wrap=True, style="yellow" if line.startswith("Warning") else None)
    console.print(found.verdict, soft_wrap=True)
    if out is not None:
        comparison.WRITERS[out.suffix](out, found)
        print(f"Written: {out}")
    if (row := found.row(metric)) is None:
        return {}
    if cfg.examples:
        from experiments.examples import show_examples

        show_examples(console, a, b, metric, cfg.examples)
    return {"difference": row["difference"], "p": row["p_holm"]}


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="compare")(job(compare)))

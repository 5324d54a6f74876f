"""Two finished runs, request by request: python -m experiments.compare a=<run> b=<run>

Runs of other candidates are refused: their numbers do not compare. The p-values (paired, sign-flip) of all metrics are
one Holm family.
"""

import hydra
from omegaconf import DictConfig

from experiments.launch import job, launch


def compare(cfg: DictConfig) -> dict[str, float]:
    """Primary metric of both runs, their difference and its p-value."""
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from data.errors import UserError
    from data.files import read_json
    from experiments import significance
    from experiments.find_run import find_run
    from experiments.metrics import display

    folders = [find_run(Path(cfg.paths.root).expanduser().resolve(), str(name)) for name in (cfg.a, cfg.b)]
    manifests = [read_json(folder / "manifest.json") for folder in folders]
    if manifests[0]["candidates_sha256"] != manifests[1]["candidates_sha256"]:
        raise UserError(
            f"a={cfg.a} and b={cfg.b} did not rank the same candidates; repeat one with the other's config"
        )
    a, b = (pd.read_parquet(folder / "per_request.parquet").set_index("request") for folder in folders)
    b = b.loc[a.index]
    metrics = [name for name in manifests[0]["metrics"] if name in b and not np.array_equal(a[name], b[name])]
    found = [significance.compare(a[name].to_numpy(), b[name].to_numpy(), manifests[0]["seed"]) for name in metrics]
    p_values = significance.holm([one.p_permutation for one in found])
    table = Table(title=f"a = {folders[0].name}, b = {folders[1].name}; {len(a):,} requests")
    for column in ("metric", "a", "b", "a - b", "95 %", "Holm p", "effect size", "a better, equal, b better"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name, one, p in zip(metrics, found, p_values, strict=True):
        wins = [int((a[name] > b[name]).sum()), int((a[name] == b[name]).sum()), int((a[name] < b[name]).sum())]
        table.add_row(
            display(name), f"{a[name].mean():.4f}", f"{b[name].mean():.4f}", f"{one.difference:+.4f}",
            f"[{one.low:+.4f}, {one.high:+.4f}]", "< 0.001" if p < 0.001 else f"{p:.3f}", f"{one.effect_size:+.3f}",
            " ".join(f"{n:,}" for n in wins),
        )  # fmt: skip
    Console(width=140).print(table)
    for letter, manifest in zip("ab", manifests, strict=True):
        print(f"{letter}: {'; '.join(manifest['labels']) or 'no labels'}")
    if (primary := manifests[0]["primary"]) not in metrics:
        print(f"{display(primary)} is equal for every request.")
        return {}
    at = metrics.index(primary)
    return {"difference": found[at].difference, "p": p_values[at]}


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="compare")(job(compare)))

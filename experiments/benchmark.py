"""Speed and memory as ratios measured in one run.

    python -m experiments.benchmark target=bert4rec
    python -m experiments.benchmark target=letter generated.rounds=3
    python -m experiments.benchmark target=cross_entropy generated.n_items=12101
    python -m experiments.benchmark target=cross_encoder generated.pairs=/my/proptit
    python -m experiments.benchmark target=vip5 generated.requests=2 generated.rounds=3
    python -m experiments.benchmark target=mining generated.n_users=100000 generated.n_items=100000 generated.rounds=1
    python -m experiments.benchmark target=rerankers
    python -m experiments.benchmark target=stages dataset=beauty_sequences dataset.path=/my/beauty

The rows of `experiments.benchmark_targets` are timed in interleaved rounds on generated data; the median counts.
Seconds of the processor stand beside those of the clock: other programs on the machine change them less. `rerankers`
has each in processes of its own, at one shape. `stages` is one run of train.py from nothing, stage by stage. Compare
ratios, not seconds of two days.
"""

from __future__ import annotations

import gc
import time

import hydra
import numpy as np
from omegaconf import DictConfig

from experiments.launch import job, launch


def benchmark(cfg: DictConfig) -> dict[str, float]:
    from rich.console import Console
    from rich.table import Table

    from data.errors import UserError
    from experiments.benchmark_cross_encoder import cross_encoder_rows
    from experiments.benchmark_rerankers import rerankers
    from experiments.benchmark_targets import bert4rec_rows, cross_entropy_rows, letter_rows, metrics_rows, mining_rows
    from experiments.benchmark_vip5 import vip5_rows
    from experiments.clock import peak_memory_mb, start_peak_again
    from experiments.stages import device_name

    targets = {
        "bert4rec": bert4rec_rows,
        "cross_encoder": cross_encoder_rows,
        "cross_entropy": cross_entropy_rows,
        "letter": letter_rows,
        "metrics": metrics_rows,
        "mining": mining_rows,
        "vip5": vip5_rows,
    }
    if cfg.target == "stages":
        return stages(cfg)
    if cfg.target == "rerankers":
        return rerankers(cfg.generated)
    target, cfg = cfg.target, cfg.generated
    if target not in targets:
        raise UserError(f"target={target} does not exist; choose {', '.join(targets)}, rerankers or stages")
    rows = targets[target](cfg)
    seconds: dict[str, list[float]] = {row.what: [] for row in rows}
    busy: dict[str, list[float]] = {row.what: [] for row in rows}  # seconds of the processor
    peak = dict.fromkeys(seconds, 0.0)
    units = {}
    for row in rows:
        if row.warm_up:
            row.run()
    for _ in range(cfg.rounds):
        for row in rows:
            gc.collect()
            start_peak_again()
            started, used = time.perf_counter(), time.process_time()
            units[row.what] = row.run()
            seconds[row.what].append(time.perf_counter() - started)
            busy[row.what].append(time.process_time() - used)
            peak[row.what] = max(peak[row.what], peak_memory_mb())
    speed = {what: units[what] / float(np.median(times)) for what, times in seconds.items()}
    of_cpu = {what: units[what] / float(np.median(times)) for what, times in busy.items()}
    out = Table(title=f"{target} on {device_name()}, median of {cfg.rounds} rounds")
    for column in ("what", "speed", "per CPU second", "seconds", "peak memory", "ratio", "of CPU"):
        out.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        ratio, ratio_of_cpu = "", ""
        if row.base:
            ratio = f"{speed[row.what] / speed[row.base]:.2f}x of {row.base}"
            ratio_of_cpu = f"{of_cpu[row.what] / of_cpu[row.base]:.2f}x"
        if row.base and target == "letter":
            ratio += f", {peak[row.what] / peak[row.base]:.2f}x its memory"
        took = f"{float(np.median(seconds[row.what])):,.3g}"
        memory = f"{peak[row.what]:,.0f} MB"
        out.add_row(
            row.what,
            f"{short(speed[row.what])} {row.unit}/s",
            short(of_cpu[row.what]),
            took,
            memory,
            ratio,
            ratio_of_cpu,
        )
    Console(width=160).print(out)
    for row in rows:
        if row.note:
            print(row.note())
    print("peak memory of the process, all of it", end="")
    sizes = f"; {cfg.n_users} users, {cfg.n_items} items, {cfg.candidates} candidates"
    print("" if target in ("cross_encoder", "vip5") else sizes)
    return speed


def short(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def stages(cfg: DictConfig) -> dict[str, float]:
    """One run of train.py in an empty folder: seconds and peak memory of each stage."""
    import tempfile
    from pathlib import Path

    from omegaconf import OmegaConf, open_dict
    from rich.console import Console
    from rich.table import Table

    from data.files import read_json
    from experiments.stages import device_name
    from train import train

    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("target", "generated")])
    with tempfile.TemporaryDirectory() as root, open_dict(own):
        own.paths = {**own.paths, "root": root, "cache": f"{root}/cache"}  # downloads stay where they are
        own.tracking = {"_target_": "experiments.tracking.NullTracker"}
        train(own)
        (cost,) = (read_json(path) for path in Path(root).glob("runs/*/cost.json"))
    seconds = {stage: values["seconds"] for stage, values in cost["stages"].items()}
    out = Table(title=f"stages on {device_name()}")
    for column in ("stage", "seconds", "share", "peak memory"):
        out.add_column(column, justify="left" if column == "stage" else "right")
    for stage, values in cost["stages"].items():
        share = values["seconds"] / max(sum(seconds.values()), 1e-9)
        out.add_row(stage, f"{values['seconds']:,.1f}", f"{share:.0%}", f"{values['peak_memory_mb']:,.0f} MB")
    Console(width=130).print(out)
    return seconds


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")(job(benchmark)))

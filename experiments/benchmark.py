"""Speed and memory as ratios measured in one run.

    python -m experiments.benchmark target=bert4rec
    python -m experiments.benchmark target=cross_entropy generated.n_items=12101
    python -m experiments.benchmark target=stages dataset=beauty_sequences dataset.path=/my/beauty

Each row of `bert4rec` and `metrics` is timed in interleaved rounds on generated data; the median counts. `stages` is
one run of train.py from nothing, stage by stage. Compare ratios, not seconds of two days.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hydra
import numpy as np
from omegaconf import DictConfig

from experiments.launch import job, launch


@dataclass
class Row:
    what: str
    run: Callable[[], int]  # does the work, returns how many units
    unit: str
    base: str | None = None  # the row it is compared with


def benchmark(cfg: DictConfig) -> dict[str, float]:
    from rich.console import Console
    from rich.table import Table

    from data.errors import UserError
    from experiments.clock import peak_memory_mb
    from experiments.stages import device_name

    targets = {"bert4rec": bert4rec_rows, "cross_entropy": cross_entropy_rows, "metrics": metrics_rows}
    if cfg.target == "stages":
        return stages(cfg)
    target, cfg = cfg.target, cfg.generated
    if target not in targets:
        raise UserError(f"target={target} does not exist; choose {', '.join(targets)} or stages")
    rows = targets[target](cfg)
    seconds: dict[str, list[float]] = {row.what: [] for row in rows}
    units = {}
    for row in rows:
        row.run()  # warm-up
    for _ in range(cfg.rounds):
        for row in rows:
            started = time.perf_counter()
            units[row.what] = row.run()
            seconds[row.what].append(time.perf_counter() - started)
    speed = {what: units[what] / float(np.median(times)) for what, times in seconds.items()}
    out = Table(title=f"{target} on {device_name()}, median of {cfg.rounds} rounds")
    for column in ("what", "speed", "ratio"):
        out.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        ratio = f"{speed[row.what] / speed[row.base]:.2f}x of {row.base}" if row.base else ""
        out.add_row(row.what, f"{speed[row.what]:,.0f} {row.unit}/s", ratio)
    Console(width=130).print(out)
    print(f"peak memory of the process {peak_memory_mb():,.0f} MB; {cfg.n_users} users, {cfg.n_items} items")
    return speed


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


def metrics_rows(cfg: DictConfig) -> list[Row]:
    from data.dataset import Ragged, Requests
    from experiments.metrics import measure, rank

    rng = np.random.default_rng(cfg.seed)
    n = 20_000
    candidates = np.argsort(rng.random((n, 4 * cfg.candidates)), axis=1)[:, : cfg.candidates].astype(np.int32)
    none: Any = None
    requests = Requests(none, np.arange(n), Ragged.empty(n), candidates=candidates)
    relevant = Ragged.from_lengths(candidates[:, 0], np.ones(n, dtype=np.int64))
    scores = rng.random(candidates.shape, dtype=np.float32)

    def run() -> int:
        measure(rank(scores, requests, relevant, cfg.seed), ["recall", "ndcg", "mrr", "hit"], [10, 20])
        return n

    return [Row(f"8 metrics of 20,000 x {cfg.candidates} scores", run, "requests")]


def cross_entropy_rows(cfg: DictConfig) -> list[Row]:
    """Forward and backward of 1,024 rows of 64 features over the catalogue."""
    import torch
    from torch.nn import LinearCrossEntropyOptions
    from torch.nn.functional import cross_entropy, linear_cross_entropy

    from rerankers.cross_entropy import item_cross_entropy

    torch.manual_seed(cfg.seed)
    shapes = ((1024, 64), (cfg.n_items, 64), (cfg.n_items,))
    hidden, items, bias = (torch.randn(shape, requires_grad=True) for shape in shapes)
    target = torch.randint(cfg.n_items, (1024,))

    def step(loss: Callable[[], Any]) -> Callable[[], int]:
        def run() -> int:
            loss().backward()
            return len(target)

        return run

    plain = "all logits in memory"
    native = "torch's linear_cross_entropy"
    options = LinearCrossEntropyOptions()
    return [
        Row(plain, step(lambda: cross_entropy(hidden @ items.T + bias, target)), "rows"),
        Row(
            native,
            step(lambda: linear_cross_entropy(hidden, items, target, linear_bias=bias, options=options)),
            "rows",
            plain,
        ),
        Row(
            "in blocks, rerankers.cross_entropy",
            step(lambda: item_cross_entropy(hidden, items, bias, target)),
            "rows",
            plain,
        ),
    ]


def bert4rec_rows(cfg: DictConfig) -> list[Row]:
    import torch

    from data.dataset import Ragged, Requests
    from rerankers.base import TrainerConfig
    from rerankers.bert4rec import BERT4Rec
    from rerankers.item_transformer import MASK, PAD, SPECIAL, ItemTransformer
    from rerankers.sequence_reranker import SequenceRows

    rng = np.random.default_rng(cfg.seed)
    lengths = np.clip(rng.geometric(1 / cfg.mean_length, cfg.n_users), 2, cfg.n_items // 2)
    sequences = Ragged.from_rows([rng.choice(cfg.n_items, n, replace=False) for n in lengths])
    model = BERT4Rec(name="bert4rec", max_length=50, trainer=TrainerConfig(per_device_eval_batch_size=256))
    torch.manual_seed(cfg.seed)
    model.model = ItemTransformer(model._config(cfg.n_items), 0.0, None)
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-3, fused=True)
    rows = SequenceRows(sequences, model)
    batches = [rows.__getitems__(list(range(b, min(b + 64, len(rows))))) for b in range(0, len(rows), 64)]

    def steps(loss: Callable[[Any, Any], Any]) -> int:
        model.model.train()
        for batch in batches:
            loss(batch["tokens"], batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()
        return len(rows)

    def everywhere(tokens: Any, labels: Any) -> Any:
        """The usual way: logits of the whole catalogue at every position, most of them thrown away."""
        logits = model.model.logits(model.model.encode(tokens))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    catalog: Any = range(cfg.n_items)
    candidates = rng.integers(0, cfg.n_items, (cfg.n_users, cfg.candidates), dtype=np.int32)
    asked = Requests(catalog, np.arange(cfg.n_users), sequences, candidates=candidates)
    full = replace(asked, candidates=None)

    @torch.inference_mode()
    def padded_and_full() -> int:
        """The usual way: every history padded to max_length, the catalogue scored, the candidates gathered."""
        model.model.eval()
        history = sequences.last(49)
        tokens = np.concatenate([np.where(history < 0, PAD, history + SPECIAL), np.full((cfg.n_users, 1), MASK)], 1)
        for start in range(0, cfg.n_users, 256):
            part = torch.from_numpy(tokens[start : start + 256].astype(np.int64))
            logits = model.model.logits(model.model.encode(part))[:, -1]
            logits.gather(1, torch.from_numpy(candidates[start : start + 256].astype(np.int64))).numpy()
        return cfg.n_users

    def score(requests: Requests) -> Callable[[], int]:
        return lambda: len(model.score(requests))

    usual_training, usual_scoring = "training, logits everywhere", "scoring, padded, logits everywhere"
    return [
        Row(usual_training, lambda: steps(everywhere), "sequences"),
        Row(
            "training, logits at masks only",
            lambda: steps(lambda tokens, labels: model.model(tokens, labels)["loss"]),
            "sequences",
            usual_training,
        ),
        Row(usual_scoring, padded_and_full, "requests"),
        Row(f"scoring, {cfg.candidates} candidates", score(asked), "requests", usual_scoring),
        Row("scoring, whole catalogue", score(full), "requests", usual_scoring),
        *metrics_rows(cfg),
    ]


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="benchmark")(job(benchmark)))

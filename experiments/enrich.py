"""Captions, summaries or image features of a dataset's items: python -m experiments.enrich field=caption model=...

The last line printed is the override that gives them to any run; see data/enrich.py. The same command continues.
"""

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import job, launch


def enrich(cfg: DictConfig) -> Path:
    import shlex

    from data import enrich as enrichment
    from experiments.building import build, checked
    from experiments.config import Paths

    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    source = build(settings.pop("dataset"), "dataset")
    paths = checked(Paths, settings.pop("paths"), "paths")
    task = checked(enrichment.Enrichment, settings, "")
    checkpoint = task.checkpoint()
    data, cache = (Path(folder).expanduser().resolve() for folder in (paths.data, paths.cache))
    path, report = enrichment.enrich(task, checkpoint, source.load(data), data, cache)
    print(report)
    print(shlex.quote(f"dataset.{task.joined_by}={path}"))
    return path


if __name__ == "__main__":
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name="enrich")(job(enrich)))

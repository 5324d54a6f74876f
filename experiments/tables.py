"""A paper's table of finished runs: python -m experiments.tables experiment=compare_demo format=latex

    python -m experiments.tables                                    # the newest sweep, in the terminal
    python -m experiments.tables experiment=lr_sweep format=markdown metrics=[recall_at_10,ndcg_at_10]
    python -m experiments.tables runs='[demo-bert4rec-*,demo-vip5-*]' rows=[reranker,trainer.learning_rate]
    python -m experiments.tables source=mlflow tracking.uri=http://127.0.0.1:5000

A format is also written to <root>/tables, and beside it <file>.cells.json, which traces each cell to its runs.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from experiments.launch import job, launch

if TYPE_CHECKING:
    from experiments.collect import Selection
    from experiments.table import Table


def tables(cfg: DictConfig) -> None:
    """Builds the table that the config asks for, shows it, and writes it with its origins."""
    from experiments import table_formats
    from experiments.table_building import build

    settings = read_settings(cfg)
    selection = selected(cfg)
    names = "metrics rows columns against costs untrained".split()
    table = build(selection, **{name: settings[name] for name in names})
    form = settings["format"]
    if form == "text":
        show(table)
    else:
        print(table_formats.FORMATS[form][0](table), end="", flush=True)
    if form != "text" or settings["out"]:
        print(f"Written: {write(table, root_of(cfg), form, settings['out'])}", file=sys.stderr)


def selected(cfg: DictConfig) -> Selection:
    """The finished runs that `experiment`, `runs` and `source` choose; of figures and reports too."""
    from data.errors import UserError, one_of
    from experiments.building import build
    from experiments.collect import select
    from experiments.tracking import MLflowTracker

    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    one_of("source", plain["source"], ("folders", "mlflow"))
    tracker = None
    if plain["source"] == "mlflow":
        tracker = build(plain["tracking"], "tracking")
        if not isinstance(tracker, MLflowTracker):
            raise UserError("source=mlflow needs tracking=mlflow")
    return select(root_of(cfg), plain["sweep"], plain["runs"], tracker)


def root_of(cfg: DictConfig) -> Path:
    return Path(cfg.paths.root).expanduser().resolve()


def read_settings(cfg: DictConfig) -> dict[str, Any]:
    from data.errors import UserError, one_of
    from experiments.building import unknown_key
    from experiments.table_formats import FORMATS

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    one_of("format", settings["format"], ("text", *FORMATS))
    for name in ("metrics", "rows", "columns", "costs"):
        if isinstance(settings[name], str):
            settings[name] = [settings[name]]
        of_names = isinstance(settings[name], list) and all(isinstance(word, str) for word in settings[name])
        if not of_names and settings[name] is not None:
            raise UserError(f"{name}={settings[name]} has the wrong type; it must be a list of names, {name}=[...]")
    if not isinstance(settings["untrained"], bool):
        raise UserError(f"untrained={settings['untrained']} has the wrong type; it must be true or false")
    known = "sweep runs source format out metrics rows columns against costs untrained paths tracking".split()
    for name in settings:
        if name not in known:
            raise UserError(unknown_key("", name, known))
    return settings


def show(table: Table) -> None:
    """In the terminal: the table, what is missing, and the verdict."""
    from rich.console import Console

    from experiments import table_formats
    from experiments.table_text import verdict

    width = None if sys.stdout.isatty() else 140
    console = Console(width=width, highlight=False)
    console.print(table_formats.text(table, console.width))
    for line in verdict(table):
        console.print(line, markup=False, soft_wrap=True)


def write(table: Table, root: Path, form: str, out: str | None = None) -> Path:
    """Writes the table and, beside it, the file that traces its cells; returns the table's path."""
    from data.files import write_atomically, write_json
    from experiments import table_formats
    from experiments.table_origins import traced

    by_suffix = {suffix: name for name, (_, suffix) in table_formats.FORMATS.items()}
    if form == "text":
        form = by_suffix.get(Path(str(out)).suffix.removeprefix("."), "markdown")
    render, suffix = table_formats.FORMATS[form]
    path = Path(out).expanduser() if out else root / "tables" / f"{table.name}.{suffix}"
    write_atomically(path, render(table))
    write_json(path.with_name(f"{path.name}.cells.json"), traced(table))
    return path


def command(task: Callable[[DictConfig], Any], config: str) -> None:
    """Runs a command on finished runs. `experiment=` is a group of conf/, which Hydra would compose: the commands get
    it as `sweep`."""
    sys.argv[1:] = [re.sub("^experiment=", "sweep=", word) for word in sys.argv[1:]]
    launch(hydra.main(version_base="1.3", config_path="../conf", config_name=config)(job(task)))


if __name__ == "__main__":
    command(tables, "tables")

"""A paper's figures of finished runs: python -m experiments.figures experiment=compare_demo

    python -m experiments.figures                                     # the newest sweep, every figure that applies
    python -m experiments.figures runs='demo-*' figures=[recall_at_k,wins] a=bert4rec b=sasrec formats=[pdf]
    python -m experiments.figures experiment=candidates_sweep columns=[candidates.size] metric=recall_at_1

Written to <root>/figures/<selection>, and as PNG to the sweep's run in MLflow. In Python: `draw(selection)`.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from experiments.tables import command, root_of, selected

if TYPE_CHECKING:
    from experiments.collect import Selection
    from experiments.figure_style import Figure

log = logging.getLogger(__name__)
FIGURES = ("curves", "recall_at_k", "sweep", "cost", "wins", "slices")
KEYS = "sweep runs source figures formats metric rows columns a b untrained paths tracking".split()


def figures(cfg: DictConfig) -> None:
    """Draws what the config asks for, writes it, says what each figure shows, and mirrors it to MLflow."""
    from data.errors import UserError
    from data.files import write_atomically
    from experiments.figure_style import rendered

    settings = read_settings(cfg)
    selection = selected(cfg)
    names = "figures metric rows columns a b untrained".split()
    drawn, skipped = draw(selection, **{name: settings[name] for name in names})
    if not drawn:
        raise UserError(f"no figure can be drawn of {selection.name}: {'; '.join(skipped)}")
    folder = root_of(cfg) / "figures" / selection.name
    for figure in drawn:
        for form in settings["formats"]:
            path = folder / f"{figure.name}.{form}"
            write_atomically(path, rendered(figure, form))
            print(path)
        print(f"  {figure.caption}")
    for sentence in skipped:
        print(f"Not drawn: {sentence}.")
    if "MLflowTracker" in str(settings["tracking"].get("_target_")):
        mirror(selection, drawn)


def draw(
    selection: Selection,
    figures: list[str] | None = None,
    metric: str | None = None,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
    a: str | None = None,
    b: str | None = None,
    untrained: bool = False,
) -> tuple[list[Figure], list[str]]:
    """The figures, and a sentence for each that does not apply. `figure_style.rendered` and `inline_svg` write them.

    `a`, `b`: the rows of `wins`. Runs of mixed protocols are a UserError, as in a table.
    """
    from experiments import figure_cost, figure_curves, figure_recall, figure_slices, figure_sweep, figure_wins
    from experiments.figure_rows import panels_of
    from experiments.figure_style import style

    panels = panels_of(selection, metric, rows, columns, untrained)
    of_block: dict[str, Any] = {
        "curves": figure_curves.draw,
        "recall_at_k": figure_recall.draw,
        "cost": figure_cost.draw,
        "wins": lambda panel: figure_wins.draw(panel, a, b),
        "slices": figure_slices.draw,
    }
    out: list[Figure] = []
    skipped = []
    with style():
        for name in figures or FIGURES:
            for result in [figure_sweep.draw(panels)] if name == "sweep" else map(of_block[name], panels):
                if isinstance(result, str):
                    skipped.append(f"{name}, {result}")
                else:
                    out += result
    return out, list(dict.fromkeys(skipped))


def read_settings(cfg: DictConfig) -> dict[str, Any]:
    from data.errors import UserError, one_of
    from experiments.building import unknown_key

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    for name in settings:
        if name not in KEYS:
            raise UserError(unknown_key("", name, KEYS))
    for name in ("figures", "formats", "rows", "columns"):
        if isinstance(settings[name], str):
            settings[name] = [settings[name]]
        if not (settings[name] is None or isinstance(settings[name], list)):
            raise UserError(f"{name}={settings[name]} has the wrong type; it must be a list, like {name}=[...]")
    for name in settings["figures"] or []:
        one_of("figures", name, FIGURES)
    for form in settings["formats"] or [None]:
        one_of("formats", form, ("png", "pdf", "svg"))
    for name in ("metric", "a", "b"):
        if not (settings[name] is None or isinstance(settings[name], str)):
            raise UserError(f"{name}={settings[name]} has the wrong type; it must be a name")
    if not isinstance(settings["untrained"], bool):
        raise UserError(f"untrained={settings['untrained']} has the wrong type; it must be true or false")
    return settings


def mirror(selection: Selection, drawn: list[Figure]) -> None:
    """PNG artifacts of the sweep's run in MLflow, if the sweep has one; a failure is a warning."""
    from data.files import read_json
    from experiments.figure_style import rendered
    from experiments.patience import first_line, patience_for, patiently
    from experiments.tracking import MLflowTracker

    where = read_json(selection.record).get("mlflow") if selection.record else None
    if not where:
        return
    tracker = MLflowTracker(where["uri"])
    with tempfile.TemporaryDirectory() as place:
        paths = [Path(place) / f"{figure.name}.png" for figure in drawn]
        for figure, path in zip(drawn, paths, strict=True):
            path.write_bytes(rendered(figure, "png"))

        def upload() -> None:
            for path in paths:
                tracker.client().log_artifact(where["run_id"], str(path), "figures")

        error = patiently(patience_for(tracker.uri), upload)
    if error:
        why = first_line(error)
        log.warning("MLflow at %s did not take the figures (%s); the files are written", tracker.uri, why)


if __name__ == "__main__":
    command(figures, "figures")

"""Finished runs as MLflow has them: the files of each, from its artifacts alone."""

from __future__ import annotations

import tempfile
from pathlib import Path

from data.errors import UserError
from experiments.collect import Finished
from experiments.patience import first_line
from experiments.tracking import MLflowTracker

NEEDED = "manifest.json metrics.json cost.json config.yaml overrides.yaml environment.json per_request.parquet".split()
OPTIONAL = ("curves.jsonl", "diagnosis.json")  # a pool has no curves
MANY_RUNS = 1000  # of a page of MLflow's search
downloads: list[tempfile.TemporaryDirectory[str]] = []  # gone when the process ends


def copies(
    tracker: MLflowTracker, names: list[str] | None = None, experiment: str | None = None
) -> dict[str, Finished]:
    """Run name -> MLflow's own copy of the newest finished run of that name, in the order of `names` if given."""
    database = tracker.uri.removeprefix("sqlite:///")
    if database != tracker.uri and not Path(database).exists():
        raise UserError(f"tracking.uri={tracker.uri} does not exist; give the database or server that has the runs")
    client = tracker.client()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    try:
        of = client.get_experiment_by_name(tracker.experiment)
    except Exception as error:
        raise UserError(f"MLflow at {tracker.uri} failed ({first_line(error)})") from None
    if of is None:
        raise UserError(f"MLflow at {tracker.uri} has no experiment {tracker.experiment}")
    where = "attributes.status = 'FINISHED'"
    if experiment is not None:
        where += f" and tags.experiment = '{experiment}'"
    found: dict[str, str] = {}
    token = None
    while True:  # newest first
        page = client.search_runs([of.experiment_id], where, max_results=MANY_RUNS, page_token=token)
        for run in page:
            tags = run.data.tags
            if tags.get("kind") != "sweep":
                found.setdefault(tags.get("run", tags.get("mlflow.runName", "")), run.info.artifact_uri)
        if not (token := page.token):
            break
    out = {}
    for name in names if names is not None else reversed(found):
        if name not in found:
            continue
        repository = get_artifact_repository(found[name])
        place = None
        if not isinstance(repository, LocalArtifactRepository):  # whose files are read where they are
            downloads.append(tempfile.TemporaryDirectory(prefix="mlflow-"))
            place = downloads[-1].name
        try:
            there = {artifact.path for artifact in repository.list_artifacts()}
            wanted = [*NEEDED, *(file for file in OPTIONAL if file in there)]
            paths = [Path(repository.download_artifacts(file, place)) for file in wanted]
        except Exception as error:
            raise UserError(
                f"MLflow at {tracker.uri} lacks a file of {name} ({first_line(error)}); read the run folders instead, "
                "source=folders"
            ) from None
        out[name] = Finished(paths[0].parent, name)
    return out

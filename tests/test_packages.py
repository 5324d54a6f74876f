"""The packages that the project names can be imported together, in the versions of constraints.txt."""

import importlib
import importlib.metadata
import re

from experiments.launch import ROOT

MODULES = (
    "hydra omegaconf torch transformers peft trl sentence_transformers FlagEmbedding sklearn pandas mlflow"
).split()


def test_all_named_packages_import_together() -> None:
    for name in MODULES:
        importlib.import_module(name)


def test_constraints_name_every_dependency_exactly() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    assert pinned["torch"] == "2.13.0"
    for requirement in importlib.metadata.requires("reranker-experiments") or []:
        name = re.match(r"[\w.-]+", requirement)[0]  # type: ignore[index]
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, name


def test_every_folder_of_modules_is_installed() -> None:
    import tomllib

    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for top in ("data", "rerankers", "experiments") for path in
               (ROOT / top).rglob("*.py")}  # fmt: skip
    assert sorted(named) == sorted(".".join(folder.parts) for folder in folders)

"""Fixtures: everything offline, in temporary folders, on small data."""

import copy
import gc
import os
import shutil
import subprocess
import sys

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from omegaconf import DictConfig

from data.candidates import Candidates, Prepared, prepare
from data.dataset import Dataset, Ragged, Relevance, Requests
from data.retrievers import EASE
from data.sources.demo import Demo
from data.splits import LeaveOneOut, Split
from experiments.building import OWN
from experiments.endurance.small import DATA as SMALL
from experiments.launch import ROOT

SHARED = Path(os.environ.get("RERANK_SHARED_DATA", ROOT / ".." / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"needs the shared real data, which is not at {SHARED}; set RERANK_SHARED_DATA")
    return SHARED


@pytest.fixture(scope="module")
def composing() -> Iterator[None]:
    """Hydra is ready, and reads each YAML once in this module."""
    read: dict[str, Any] = {}
    load = ConfigRepository.load_config

    def load_once(repository: ConfigRepository, config_path: str) -> Any:
        if config_path not in read:
            read[config_path] = load(repository, config_path)
        return copy.deepcopy(read[config_path])  # Hydra changes it

    gc.disable()  # a fifth of the time
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        patch.setattr(ConfigRepository, "load_config", load_once)
        yield
    gc.enable()


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., DictConfig]:
    """config("a=b", ...) composes conf/train.yaml on a small demo, with its root in a temporary folder."""

    def make(*overrides: str, small: bool = True, name: str = "train", root: Path = tmp_path) -> DictConfig:
        base = [f"paths.root={root}", "tracking=none", *(SMALL if small else [])]
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            return compose(name, [*base, *overrides])

    return make


@pytest.fixture
def passages(config: Callable[..., DictConfig], monkeypatch: pytest.MonkeyPatch) -> Callable[..., DictConfig]:
    """passages("a=b", ...) composes conf/train.yaml on made-up passages with a reranker of shared words."""
    from tiny_queries import SharedWords

    monkeypatch.setattr("experiments.building.OWN", (*OWN, "tiny_queries."))
    monkeypatch.setattr(SharedWords, "fits", [])

    def make(*overrides: str, **reranker: Any) -> DictConfig:
        lists = ["candidates=sampled", "candidates/retriever=popularity", "candidates.size=12"]
        words = ["protocol=query_folds", *lists, "reranker=random", "trainer.num_train_epochs=2", *overrides]
        cfg = config(*words, small=False)
        if cfg.reranker.name == "random":
            cfg.reranker = {"_target_": "tiny_queries.SharedWords", "name": "shared_words", **reranker}
        cfg.dataset = {"_target_": "tiny_queries.TinyPassages", "name": "tiny"}
        return cfg

    return make


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables; making them takes seconds, so each test copies it."""
    from experiments.tracking import MLflowTracker

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MLflowTracker(f"sqlite:///{path}").experiment_id()
    return path


@pytest.fixture
def uri(database: Path, tmp_path: Path) -> str:
    shutil.copy(database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def two_rerankers(tmp_path: Path) -> dict[str, list[Path]]:
    """Finished runs of bert4rec and sasrec with three seeds each: reranker -> folders."""
    from run_folders import SEEDS, write_run

    skills = {"bert4rec": 0.4, "sasrec": 2.0}
    return {name: [write_run(tmp_path, name, seed, skill) for seed in SEEDS] for name, skill in skills.items()}


@pytest.fixture(scope="session")
def demo() -> Dataset:
    return Demo(name="demo", n_users=120, n_items=60, mean_length=12).load(Path())


@pytest.fixture(scope="session")
def split(demo: Dataset) -> Split:
    return replace(LeaveOneOut().split(demo), retriever=EASE())


@pytest.fixture(scope="session")
def candidates(demo: Dataset, split: Split, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(demo, split, Candidates(size=20), tmp_path_factory.mktemp("cache"), "x")


@pytest.fixture(scope="session")
def checkpoint(demo: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random causal language model as a folder; tests copy it before they change it."""
    from tiny_letters import checkpoint_of

    return checkpoint_of(demo, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random writers of captions and summaries: family -> folder."""
    from tiny_writers import family_of_writers

    return family_of_writers(tmp_path_factory.mktemp("models"))


def random_requests(
    rng: np.random.Generator, n: int, width: int, n_items: int, n_relevant: int = 1, inside: bool = True
) -> tuple[Requests, Relevance]:
    """Requests without a catalogue; `inside`: all relevant items are among the candidates."""
    items = np.argsort(rng.random((n, n_items)), axis=1).astype(np.int32)
    candidates = items[:, :width]
    counts = rng.integers(1, n_relevant + 1, n)
    pool = candidates if inside else items
    chosen = [rng.choice(row, count, replace=False) for row, count in zip(pool, counts, strict=True)]
    none: Dataset = None  # type: ignore[assignment]
    requests = Requests(none, np.arange(n), Ragged.empty(n), candidates=candidates)  # type: ignore[arg-type]
    return requests, Relevance(Ragged.from_rows(chosen))


TINY = [*SMALL, "reranker.hidden_size=16", "reranker.num_attention_heads=2", "reranker.max_length=12"]
QUICK = [*TINY, "trainer.num_train_epochs=4", "trainer.eval_strategy=epoch", "trainer.logging_steps=1"]


def command(*words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HYDRA_FULL_ERROR": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=environment
    )


def only_run(root: Path) -> Path:
    (folder,) = (root / "runs").iterdir()
    return folder

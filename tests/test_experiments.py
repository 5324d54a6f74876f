"""Every file of conf/experiment as its jobs: a comparison reads the same candidates, and its settings stay its own."""

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from experiments.config import configure
from experiments.launch import ROOT

FILES = {path.stem: OmegaConf.load(path) for path in sorted((ROOT / "conf/experiment").glob("*.yaml"))}
SWEEPS = {  # a search has no grid
    name: file.hydra.sweeper.params
    for name, file in FILES.items()
    if "hydra" in file and not any("/hydra/sweeper" in str(word) for word in file.defaults)
}
DATA: Any = SimpleNamespace(sha256="all", interactions_sha256="interactions")  # any: hashes are compared, not read
TRAINED = ("bert4rec", "qwen_letter", "vip5", "viranker")
BASELINES = ("random", "popularity", "first_stage")


def jobs(name: str) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra expands them."""
    words = [f"{key}={value}" for key, value in SWEEPS[name].items()]
    return BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(words), None)[0]


@pytest.mark.parametrize("name", SWEEPS)
def test_each_job_of_a_sweep_is_a_run_of_its_own(name: str, config: Callable[..., Any]) -> None:
    runs = [configure(config(f"experiment={name}", *job, small=False)) for job in jobs(name)]
    assert len({run.identity(DATA) for run in runs}) == len(runs) > 1


@pytest.mark.parametrize("name", [name for name in SWEEPS if name.startswith("compare_")])
def test_a_comparison_ranks_the_same_candidates(name: str, config: Callable[..., Any]) -> None:
    compared: dict[str, set[str]] = defaultdict(set)
    files = set()
    for job in jobs(name):
        experiment = configure(config(f"experiment={name}", *job, small=False))
        files.add((experiment.candidates.mode, experiment.candidates_identity(DATA)))
        compared[experiment.candidates.mode].add(experiment.reranker.name)
    assert len(files) == len(compared), "one file for each kind of list"
    assert len({tuple(sorted(rerankers)) for rerankers in compared.values()}) == 1


@pytest.mark.parametrize(
    ("name", "words"), [("compare_demo", []), ("compare_ml_100k", ["tuned=from_nothing/${reranker}_${dataset}"])]
)
def test_every_reranker_can_start_from_nothing(name: str, words: list[str], config: Callable[..., Any]) -> None:
    runs = [configure(config(f"experiment={name}", *words, *job, small=False)) for job in jobs(name)]
    assert {run.reranker.name for run in runs} == {*BASELINES, *TRAINED, "sasrec"}
    assert {getattr(run.reranker, "init", "scratch") for run in runs} == {"scratch"}


@pytest.mark.parametrize("reranker", TRAINED)
def test_settings_from_nothing_are_only_where_they_are_asked_for(reranker: str, config: Callable[..., Any]) -> None:
    plain = config(f"reranker={reranker}", "dataset=demo", small=False)
    asked = config(f"reranker={reranker}", "dataset=demo", "tuned=from_nothing/${reranker}_${dataset}", small=False)
    assert plain.reranker.get("init", "scratch") == ("scratch" if reranker == "bert4rec" else "pretrained")
    assert asked.reranker.get("init", "scratch") == "scratch"


def test_folders_of_models_come_from_the_environment(
    config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grid of rerankers has one `reranker.model` for all, so each has a variable of its own."""
    for reranker, key in (
        ("qwen_letter", "model"),
        ("vip5", "model"),
        ("vip5", "image_encoder"),
        ("viranker", "model"),
    ):
        assert config(f"reranker={reranker}").reranker[key] != "/my/model"
        monkeypatch.setenv(f"{reranker}_{key}".upper(), "/my/model")
        assert config(f"reranker={reranker}").reranker[key] == "/my/model"


def test_alpha_follows_the_rank(config: Callable[..., Any]) -> None:
    pairs = [config("experiment=lora_rank_sweep", *job).reranker.lora for job in jobs("lora_rank_sweep")]
    assert [(lora.r, lora.lora_alpha) for lora in pairs] == [(8, 16), (16, 32), (32, 64), (64, 128)]

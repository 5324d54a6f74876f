"""Every YAML composes and validates; every mistake is one sentence with the key, the value and what is allowed."""

import dataclasses
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.utils import get_class
from omegaconf import OmegaConf

from data.errors import UserError
from data.sources.demo import Demo
from experiments.config import configure
from experiments.launch import ROOT, sentence
from rerankers.base import OPTIMIZERS, SCHEDULERS, TrainerConfig

GIVEN = ("seed", "trainer", "checkpoints", "cache")  # set by train.py, not by the reranker's YAML
GROUPS = ("dataset", "protocol", "reranker", "trainer", "tracking", "candidates/retriever", "experiment")
CHOICES = [(g, p.stem) for g in GROUPS for p in sorted((ROOT / "conf" / g).glob("*.yaml"))]
OPTIONS = [f"{g}={name}" + " reranker.path=x.trec" * (name == "file") for g, name in CHOICES]
OPTIONS += [f"candidates={m}" for m in ("sampled", "retrieved", "full")]
OPTIONS += ["candidates=file candidates.path=x.parquet"]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_validates(option: str, config: Callable[..., Any]) -> None:
    experiment = configure(config(*option.split(), small=False))
    assert experiment.reranker.name


@pytest.mark.parametrize("path", sorted((ROOT / "conf/tuned").glob("*.yaml")), ids=lambda path: path.stem)
def test_tuned_defaults_apply_to_their_pair(path: Path, config: Callable[..., Any]) -> None:
    tuned = OmegaConf.load(path)
    pair = next(
        (r.stem, d.stem)
        for r in (ROOT / "conf/reranker").glob("*.yaml")
        for d in (ROOT / "conf/dataset").glob("*.yaml")
        if f"{r.stem}_{d.stem}" == path.stem
    )
    cfg = config(f"reranker={pair[0]}", f"dataset={pair[1]}", small=False)
    configure(cfg)
    for node in ("reranker", "trainer"):
        for key, value in tuned.get(node, {}).items():
            assert OmegaConf.merge(cfg[node], {key: value}) == cfg[node]
    assert config(f"reranker={pair[0]}", f"dataset={pair[1]}", "trainer=quick", small=False).trainer.max_steps == 50


@pytest.mark.parametrize(
    "path", sorted((ROOT / "conf").rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT / "conf"))
)
def test_yaml_says_what_it_is_and_how_to_use_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    comment = next(line for line in lines if line.startswith("# ") and "@package" not in line)
    assert "python " in comment, "the first comment gives the purpose and the command"


@pytest.mark.parametrize(
    "path",
    [
        p
        for g in ("dataset", "reranker", "candidates/retriever", "tracking")
        for p in (ROOT / "conf" / g).glob("*.yaml")
    ],
    ids=lambda path: path.stem,
)
def test_yaml_keys_are_constructor_arguments_in_the_same_order(path: Path) -> None:
    node: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    node = node.get("reranker", node)
    if "_target_" not in node:  # a preset says only what differs
        assert path.stem.startswith(OmegaConf.load(path).defaults[0]) and node["name"] == path.stem
        return
    names = [f.name for f in dataclasses.fields(get_class(node["_target_"])) if f.name not in GIVEN]
    keys = [key for key in node if key not in ("_target_", "seed")]
    assert keys == names
    defaults = {f.name: f.default for f in dataclasses.fields(get_class(node["_target_"]))}
    if node["_target_"].startswith("rerankers."):
        given = [name for name in names if name != "name" and not str(node[name]).startswith(("???", "${"))]
        for name in given:
            if isinstance(node[name], dict):
                nested = dataclasses.asdict(typing.get_type_hints(get_class(node["_target_"]))[name]())
                assert list(node[name].items()) == list(nested.items()), "one truth for each default"
            else:
                assert node[name] == defaults[name], "one truth for each default"


def test_trainer_keys_are_hugging_faces(config: Callable[..., Any]) -> None:
    from transformers import SchedulerType, TrainingArguments
    from transformers.training_args import OptimizerNames

    names = [field.name for field in dataclasses.fields(TrainerConfig)]
    assert list(config(small=False, name="train").trainer) == names
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    assert set(names) - theirs == {"early_stopping_patience"}
    assert set(SCHEDULERS) <= {s.value for s in SchedulerType}
    assert set(OPTIMIZERS) <= {o.value for o in OptimizerNames}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("trainer.learning_rate=abc", "trainer.learning_rate=abc has the wrong type; it must be float"),
        ("trainer.learning_rate=-1", "trainer.learning_rate=-1.0 is out of range; it must be at least 0"),
        ("trainer.per_device_train_batch_size=0", "out of range"),
        ("+trainer.lerning_rate=1", "unknown key trainer.lerning_rate; did you mean trainer.learning_rate?"),
        ("+reranker.hiden_size=1", "unknown key reranker.hiden_size; did you mean reranker.hidden_size?"),
        ("reranker.hidden_size=1.5", "reranker.hidden_size=1.5 has the wrong type; it must be int"),
        ("candidates.size=many", "candidates.size=many has the wrong type"),
        ("candidates.presentation=sorted", "choose shuffled or first_stage"),
        (
            "candidates.retriever=eas",
            "candidates.retriever=eas does not exist; choose bm25, ease, item_knn, markov, popularity, tfidf",
        ),
        ("candidates.retriever.decay=0", "must be in (0, 1]"),
        ("+candidates.retriever.window=3", "unknown key candidates.retriever.window"),
        ("protocol.metrics=[recal]", "protocol.metrics has recal"),
        ("protocol.primary=recall_at_7", "protocol.primary=recall_at_7 is not computed"),
        ("protocol.ks=[0]", "every k at least 1"),
        ("dataset.on_bad_row=ignore", "choose error or skip"),
        ("dataset.k_core=0", "must be at least 1"),
        ("seed=-1", "seed=-1 is out of range; it must be in [0, 4.29497e+09]"),
        ("dataset.seed=-1", "dataset.seed=-1 is out of range"),
        ("trainer.lr_scheduler_type=foo", "trainer.lr_scheduler_type=foo is not allowed; choose linear"),
        ("trainer.learning_rate=inf", "trainer.learning_rate=inf is out of range"),
        ("trainer.max_steps=0", "trainer.max_steps=0 is not allowed"),
        ("trainer.metric_for_best_model=ndcg_at_100", "is not computed; choose of recall_at_1"),
        ("candidates.retriever.regularization=-5", "out of range"),
        ("protocol.primary=recall_at_20", "is the same for every order of candidates.size=20"),
        ("reranker.name=a/b", "reranker.name=a/b is not allowed"),
        ("dataset.n_items=100000", "must be in [60, 5000]"),
        ("seed=x", "seed=x has the wrong type; it must be int"),
        ("diagnose=loud", "diagnose=loud is not allowed; choose off or warn or strict"),
        ("check=perhaps", "check=perhaps has the wrong type; it must be bool"),
        ("+sede=1", "unknown key sede; did you mean seed?"),
        ("reranker._target_=os.system", "not a class of this project"),
        ("reranker._target_=rerankers.nothing.Here", "cannot be imported"),
        ("candidates=file", "candidates.path is missing"),
    ],
)
def test_mistakes_are_one_sentence(override: str, says: str, config: Callable[..., Any]) -> None:
    with pytest.raises(Exception) as caught:
        configure(config(override))
    text = sentence(caught.value)
    assert says in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("override", "says"),
    [
        (
            "reranker=nope",
            "reranker=nope does not exist; choose bert4rec, file, first_stage, popularity, qwen_letter, random",
        ),
        ("reranker.hiden_size=1", "unknown key reranker.hiden_size"),
        ("sede=1", "unknown key sede"),
        ("protocol.ks=[1,2", "[1,2"),
    ],
)
def test_hydras_own_errors_are_one_sentence(override: str, says: str, config: Callable[..., Any]) -> None:
    with pytest.raises(HydraException) as caught:
        config(override)
    text = sentence(caught.value)
    assert says in text and "\n" not in text


def test_a_retriever_by_name_takes_its_file(config: Callable[..., Any]) -> None:
    short, long = config("candidates.retriever=markov"), config("candidates/retriever=markov")
    assert configure(short).candidates == configure(long).candidates
    dataset = Demo(name="demo", n_users=30, n_items=60).load(Path())
    assert configure(short).identity(dataset) == configure(long).identity(dataset)


def test_identity_is_of_what_can_change_a_number(config: Callable[..., Any], demo: Any, tmp_path: Path) -> None:
    def identity(*overrides: str) -> str:
        return configure(config(*overrides)).identity(demo)

    base = identity()
    same = (
        ["force=true"],
        ["check=true"],
        ["diagnose=off"],
        ["tracking=mlflow"],
        [f"paths.cache={tmp_path / 'c'}"],
        ["dataset.path=/elsewhere"],
    )
    for overrides in same:
        assert identity(*overrides) == base, overrides
    for overrides in (["seed=1"], ["trainer.learning_rate=1"], ["candidates.seed=1"], ["protocol.filter_seen=false"]):
        assert identity(*overrides) != base, overrides
    assert identity("candidates=full", "candidates.size=9") == identity("candidates=full")
    assert identity("trainer.logging_steps=3") == base
    untrained = identity("reranker=popularity")
    assert identity("reranker=popularity", "trainer.learning_rate=1") == untrained, "it has no learning rate"


def test_the_first_stage_is_of_the_identity_where_it_is_mined(config: Callable[..., Any], demo: Any) -> None:
    """With candidates=file it ranks nothing."""

    def identities(*overrides: str) -> int:
        words = ["candidates=file", "candidates.path=x.parquet", *overrides]
        stages = [configure(config(*words, f"candidates.retriever={name}")) for name in ("markov", "popularity")]
        return len({experiment.identity(demo) for experiment in stages})

    assert identities("reranker=viranker") == identities("reranker=qwen_letter") == 2
    for words in (
        ["bert4rec"],
        ["viranker", "reranker.hard_neg_retriever=bm25"],
        ["qwen_letter", "reranker.negatives=random"],
    ):
        assert identities(f"reranker={words[0]}", *words[1:]) == 1, words


def test_dataset_without_what_a_reranker_requires(config: Callable[..., Any], demo: Any) -> None:
    from experiments.stages import load

    experiment = configure(config("reranker=popularity"))
    experiment.reranker.__class__.requires, before = ("images",), experiment.reranker.__class__.requires  # type: ignore[misc]
    try:
        empty = dataclasses.replace(demo.catalog, image=[None] * len(demo.catalog))
        experiment.source.load = lambda data: dataclasses.replace(demo, catalog=empty)  # type: ignore[method-assign]
        with pytest.raises(UserError, match="needs images, which dataset=demo does not have"):
            load(experiment)
    finally:
        experiment.reranker.__class__.requires = before  # type: ignore[misc]

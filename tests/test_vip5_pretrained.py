"""VIP5 on a T5 and a CLIP of folders: adapters alone are trained and saved; weights of the reference's code."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import only_run
from safetensors.torch import load_file
from test_vip5_backbone import saved
from test_vip5_checkpoint import as_the_reference
from test_vip5_runs import VIP5, curve, labels
from tiny_clip import clip
from tiny_vip5 import SMALL, TEXTS, WORDS, disturb

from data.candidates import Prepared
from data.dataset import Dataset
from data.errors import UserError
from data.splits import Split
from evaluate import evaluate
from experiments.config import configure
from rerankers.vip5.settings import OTHER_NUMBERS
from rerankers.vip5.vip5 import Vip5
from train import train

Config = Callable[..., Any]
STEPS = ["trainer.max_steps=3", "reranker.explanations=0", "reranker.reduction_factor=4", "reranker.visual_tokens=2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides that name them."""
    root = tmp_path_factory.mktemp("pretrained")
    tokenizer = SMALL.tokenizer([*WORDS, "shopper_"], TEXTS)
    t5 = saved(root / "t5", tokenizer, vocab_size=len(tokenizer) + 28)
    names = [f"reranker.model={t5}", f"reranker.image_encoder={clip(root / 'clip')}", "reranker.init=pretrained"]
    return [*VIP5, *STEPS, *names]


def test_adapters_alone_are_trained_and_saved(config: Config, folders: list[str], tmp_path: Path) -> None:
    metrics = train(config(*folders))
    folder = only_run(tmp_path)
    assert not [label for label in labels(folder) if "CLIP" in label or "nothing" in label]
    weights = load_file(folder / "model" / "model.safetensors")
    frozen = [name for name in weights if name.startswith("t5.") and ".adapter." not in name]
    assert frozen and all("layer_norm" in name for name in frozen), "those norms are trained"
    assert any(w.any() for name, w in weights.items() if ".adapter.up." in name), "they are not the identity any more"
    cost = json.loads((folder / "cost.json").read_text())
    tables = {"whole_words.weight", "categories.weight", "mean", "deviation"}
    trained = sum(w.numel() for name, w in weights.items() if name not in tables)
    assert cost["trainable_parameters"] == trained < cost["total_parameters"]
    assert tables <= set(weights), "random ones, which nothing else holds"
    assert not list((folder / "model").glob("token*")) and not list(folder.rglob("*.bin"))
    assert evaluate(config(*folders, f"+run={folder}")) == metrics
    other = saved(tmp_path / "other", SMALL.tokenizer([*WORDS, "shopper_"], TEXTS), seed=1)
    with pytest.raises(UserError, match=f"reranker.model={other} is not the model that .* was trained on"):
        evaluate(config(*folders, f"reranker.model={other}", f"+run={folder}"))
    wider = ["reranker.visual_tokens=1", f"+run={folder}"]
    with pytest.raises(UserError, match=r"other settings of the model .* has the shape .* here it would be"):
        evaluate(config(*folders, *wider))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_learn_without_pictures(checkpointing: bool, config: Config, folders: list[str], demo: Dataset,
                                         split: Split, tmp_path: Path) -> None:  # fmt: skip
    """Nothing that is trained comes before them, which recomputed activations must not mind."""
    words = ["reranker.visual_tokens=0", f"trainer.gradient_checkpointing={checkpointing}", "reranker.tasks.direct=0"]
    reranker: Any = configure(config(*folders, *words, "reranker.train_layer_norms=false")).reranker
    reranker.checkpoints = tmp_path / "checkpoints"
    reranker.fit(demo, split, None, lambda values, step: None)
    first = reranker.network.t5.encoder.block[0].layer[0].SelfAttention.o.adapter.up.weight
    assert reranker.weight_change > 0 and first.any()


def test_all_weights_are_trained_where_that_is_asked(config: Config, folders: list[str], tmp_path: Path) -> None:
    train(config(*folders, "reranker.tuning=full"))
    folder = only_run(tmp_path)
    cost = json.loads((folder / "cost.json").read_text())
    assert cost["trainable_parameters"] == cost["total_parameters"]
    weights = load_file(folder / "model" / "model.safetensors")
    assert "t5.shared.weight" in weights and not [name for name in weights if "adapter" in name]


def test_weights_of_the_reference_are_scored_and_trained_on(
    config: Config, folders: list[str], demo: Dataset, split: Split, candidates: Prepared, tmp_path: Path
) -> None:
    def built(*words: str) -> Vip5:
        reranker: Any = configure(config(*folders, "trainer.num_train_epochs=0", *words)).reranker
        reranker.fit(demo, split, None, lambda values, step: None)
        return reranker

    theirs = disturb(built().network)
    path = tmp_path / "Epoch10.pth"
    torch.save(as_the_reference(theirs, "module."), path)
    loaded = built(f"reranker.checkpoint={path}")
    requests = candidates.test.take(slice(0, 20))
    scores = loaded.score(requests)
    loaded.network = theirs.eval()
    assert np.array_equal(loaded.score(requests), scores) and np.abs(built().score(requests) - scores).max() > 0.1
    told = built(f"reranker.checkpoint={path}").labels(requests)
    assert "as loaded, not trained here" in told and "untrained" not in told

    words = [*folders, f"reranker.checkpoint={path}", "trainer.learning_rate=1e-4"]
    metrics = train(config(*words))
    folder = only_run(tmp_path)
    assert curve(folder, "train_sequential_loss") and not {"untrained", "as loaded"} & set(labels(folder))
    assert evaluate(config(*words, f"+run={folder}")) == metrics
    torch.save(as_the_reference(disturb(theirs, 1)), path)
    with pytest.raises(UserError, match="is not the model"):
        evaluate(config(*words, f"+run={folder}", "force=true"))


def test_a_checkpoint_that_lacks_weights_is_labelled(
    config: Config, folders: list[str], demo: Dataset, split: Split, tmp_path: Path
) -> None:
    """P5 has no adapters and no pictures; what matched and what did not stands in a report."""
    words = [*folders, "trainer.num_train_epochs=0"]
    reranker: Any = configure(config(*words)).reranker
    reranker.build(demo, split)
    whole = as_the_reference(reranker.network)
    left = {name: w for name, w in whole.items() if not any(part in name for part in ("adapter", "visual"))}
    torch.save(left | {"encoder.odd.weight": torch.zeros(2)}, path := tmp_path / "p5.pth")
    words.append(f"reranker.checkpoint={path}")
    train(config(*words))
    folder = only_run(tmp_path)
    report = json.loads((folder / "checkpoint.json").read_text())
    assert list(report) == ["matched", "missing", "unused", "cut"] and report["unused"] == ["encoder.odd.weight"]
    assert all("adapter" in name or "projector" in name for name in report["missing"]) and report["matched"]
    said = f"untrained: {len(report['missing'])} weights that the checkpoint lacks"
    evaluate(config(*words, f"+run={folder}", "candidates=sampled"))
    (evaluation,) = (folder / "evaluations").iterdir()
    for told in (labels(folder), labels(evaluation)):
        assert any(said in label for label in told) and any(OTHER_NUMBERS in label for label in told)
    torch.save(whole, path)
    train(config(*words, f"paths.root={tmp_path / 'whole'}"))
    assert not [label for label in labels(only_run(tmp_path / "whole")) if "lacks" in label]

"""Features of pictures: what CLIP says, each picture once, cached by content; a random CLIP that sees what matters."""

import json
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_clip import clip
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from data import image_features as module
from data.dataset import Catalog, Dataset
from data.errors import UserError
from data.image_features import Encoder, find_encoder, image_features
from data.sources.demo import COLOURS, NOUNS, paint
from experiments.launch import ROOT


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("clips") / "whole")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The size of each batch that a model has encoded; an empty list where no weights were read."""
    sizes: list[int] = []
    load, vectors = Encoder.load, module._vectors
    monkeypatch.setattr(Encoder, "load", lambda self: (sizes.append(0), load(self))[1])

    def counted(model: Any, processor: Any, pictures: list[Any]) -> np.ndarray:
        sizes.append(len(pictures))
        return vectors(model, processor, pictures)

    monkeypatch.setattr(module, "_vectors", counted)
    return sizes


def of(pictures: list[Any]) -> Catalog:
    """A catalogue of these pictures and nothing else."""
    column = np.empty(len(pictures), dtype=object)
    column[:] = pictures
    none = np.full(len(pictures), "", dtype=object)
    return Catalog(none, none, none, none, column, none, none)


def test_features_are_what_clip_says(clips: Path, demo: Dataset, tmp_path: Path) -> None:
    features = image_features(demo.catalog, str(clips), 7, tmp_path)
    model, processor = CLIPModel.from_pretrained(clips).eval(), CLIPImageProcessorPil.from_pretrained(clips)
    assert features.dtype == np.float32 and features.shape == (60, 16) == (60, find_encoder(str(clips)).width)
    for row in range(10):
        pixels = processor(Image.fromarray(demo.catalog.image[row]), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            wanted = model.visual_projection(model.vision_model(pixels).pooler_output)[0].numpy()
        assert np.allclose(features[row], wanted, atol=1e-5)
    assert np.abs(np.linalg.norm(features, axis=1) - 1).min() > 0.1, "not normalised"
    assert np.allclose(image_features(demo.catalog, str(clips), 60, tmp_path / "other"), features, atol=1e-5)


def test_the_vision_tower_alone_is_enough(demo: Dataset, tmp_path: Path) -> None:
    tower = clip(tmp_path / "tower", whole=False)
    assert image_features(demo.catalog, str(tower), 16, tmp_path).shape == (60, 16)


def test_what_was_seen_is_found_by_its_content(clips: Path, demo: Dataset, tmp_path: Path, seen: list[int]) -> None:
    def made(catalog: Catalog = demo.catalog, encoder: str = str(clips), size: int = 16, seed: int = 0) -> int:
        seen.clear()
        features = image_features(catalog, encoder, size, tmp_path, seed)
        alone = image_features(catalog, encoder, size, tmp_path / f"{len(list(tmp_path.iterdir()))}", seed)
        assert np.allclose(features, alone, atol=1e-5)
        return sum(seen) - len({picture.tobytes() for picture in catalog.image})

    pictures = len({picture.tobytes() for picture in demo.catalog.image})
    assert made() == pictures < 60, "equal pictures are seen once"
    assert made() == 0 and made(size=3) == 0
    changed = demo.catalog.image.copy()
    changed[:] = changed[::-1].copy()
    changed[0] = 255 - changed[0]
    assert made(replace(demo.catalog, image=changed)) == 1
    assert made(encoder=str(shutil.copytree(clips, tmp_path / "elsewhere"))) == 0, "the same model"
    assert made(encoder=str(clip(tmp_path / "retrained", seed=1))) == pictures, "other weights"
    assert made(encoder="random") == pictures and made(encoder="random", seed=1) == pictures
    assert made(encoder="random") == 0


def test_what_is_in_the_cache_needs_no_model(clips: Path, demo: Dataset, tmp_path: Path, seen: list[int]) -> None:
    first = image_features(demo.catalog, str(clips), 16, tmp_path)
    seen.clear()
    assert np.array_equal(image_features(demo.catalog, str(clips), 16, tmp_path), first) and seen == []


def test_a_kill_loses_one_chunk(
    clips: Path, demo: Dataset, tmp_path: Path, seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", 10)
    counted = module._vectors

    def killed(*inputs: Any) -> np.ndarray:
        if len(seen) == 1 + 7:
            raise KeyboardInterrupt
        return counted(*inputs)

    monkeypatch.setattr(module, "_vectors", killed)
    with pytest.raises(KeyboardInterrupt):
        image_features(demo.catalog, str(clips), 4, tmp_path)
    monkeypatch.setattr(module, "_vectors", counted)
    before, pictures = sum(seen), len({picture.tobytes() for picture in demo.catalog.image})
    seen.clear()
    whole = image_features(demo.catalog, str(clips), 4, tmp_path)
    assert before == 28 and sum(seen) == pictures - 24, "two chunks of three batches were written"
    assert np.allclose(image_features(demo.catalog, str(clips), 4, tmp_path / "other"), whole, atol=1e-5)


def test_two_processes_see_nothing_twice(clips: Path, demo: Dataset, tmp_path: Path, seen: list[int]) -> None:
    work = [threading.Thread(target=image_features, args=(demo.catalog, str(clips), 16, tmp_path)) for _ in range(2)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert sum(seen) == len({picture.tobytes() for picture in demo.catalog.image})


def test_pictures_that_are_missing_or_broken_have_no_features(
    clips: Path, demo: Dataset, tmp_path: Path, seen: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    good, half, page, thin = (tmp_path / name for name in ("good.png", "half.png", "page.jpg", "thin.png"))
    Image.fromarray(demo.catalog.image[0]).resize((90, 50)).save(good)
    half.write_bytes(good.read_bytes()[:-40])
    page.write_text("<html>")
    Image.new("RGB", (440, 1)).save(thin)
    catalog = of([str(half), str(good), None, str(page), demo.catalog.image[0], str(thin)])
    with caplog.at_level("INFO"):
        features = image_features(catalog, str(clips), 2, tmp_path)
    assert np.isfinite(features[[1, 4]]).all() and np.isnan(features[[0, 2, 3, 5]]).all()
    assert "2 of 6 items have image features of CLIP" in caplog.text
    assert "2 encoded now, 3 pictures cannot be read" in caplog.text
    seen.clear()
    again = image_features(catalog, str(clips), 2, tmp_path)
    assert np.array_equal(again, features, equal_nan=True) and seen == [], "what cannot be read is remembered"
    nothing = image_features(of([None, None]), str(clips), 2, tmp_path)
    assert nothing.shape == (2, 16) and np.isnan(nothing).all()


def score(features: np.ndarray, truth: np.ndarray) -> float:
    """Accuracy of a logistic regression on pictures that it was not fitted on."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    return float(cross_val_score(model, features, truth, cv=StratifiedKFold(3, shuffle=True, random_state=0)).mean())


def test_random_weights_see_colours_and_silhouettes_of_the_demo(tmp_path: Path) -> None:
    every = [(noun, colour) for noun in range(len(NOUNS)) for colour in range(len(COLOURS))]
    features = image_features(of([paint(n, COLOURS[c]) for n, c in every]), "random", 32, tmp_path)
    noun, colour = np.array(every).T
    assert score(features, colour) > 0.95 and score(features, noun) > 0.65  # by chance .17 and .08
    raw = cross_val_score(LogisticRegression(max_iter=2000), features, colour, cv=3, scoring="accuracy").mean()
    assert raw > 0.9, "at the scale that they have"
    assert 0.5 < features.std() < 2 and features.std(axis=0).mean() > 0.15
    torch.rand(1)
    before = torch.random.get_rng_state()
    alone = image_features(of([paint(0, COLOURS[0])]), "random", 1, tmp_path / "other")
    assert np.allclose(alone[0], features[0], atol=1e-5)
    assert torch.equal(torch.random.get_rng_state(), before), "nobody else's random numbers change"
    assert find_encoder("random").width == 128 and find_encoder("random").label == "random-weight CLIP"


def test_random_weights_see_something_of_real_posters(shared_data: Path, tmp_path: Path) -> None:
    from data.sources.movielens import MovieLens100K

    folder = shared_data / "ml-100k"
    dataset = MovieLens100K(name="ml_100k", path=str(folder), images=str(folder / "posters")).load(tmp_path)
    catalog = dataset.catalog
    shown = [row for row in np.argsort(catalog.id) if catalog.image[row] is not None][:700]
    features = image_features(of([catalog.image[row] for row in shown]), "random", 64, tmp_path)
    comedy = np.array(["Comedy" in catalog.categories[row] for row in shown])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500, class_weight="balanced"))
    guess = cross_val_predict(model, features, comedy, cv=5, method="decision_function")
    assert roc_auc_score(comedy, guess) > 0.57  # by chance .50 +- .02
    assert features.std(axis=0).mean() > 0.5, "they do not collapse"


def test_mistakes_are_one_sentence(clips: Path, models: dict[str, Path], demo: Dataset, tmp_path: Path) -> None:
    lacking = shutil.copytree(clips, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    pickled = shutil.copytree(clips, tmp_path / "pickled")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    bare = shutil.copytree(clips, tmp_path / "bare")
    (bare / "preprocessor_config.json").unlink()
    for encoder, says in {
        str(lacking): "has no weights for visual_projection.weight and would see at random; give a complete CLIP",
        str(pickled): "holds pytorch_model.bin, a pickle, and is not opened",
        str(bare): "could not be loaded .*the tokenizer or processor",
        str(models["blip"]): "is of type blip; image features are of a CLIP, or of random",
        "/nowhere/clip": "model=/nowhere/clip does not exist",
        str(clip(tmp_path / "other", pixels=64)): "makes pictures that its model refuses",
    }.items():
        with pytest.raises(UserError, match=says) as caught:
            image_features(demo.catalog, encoder, 8, tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="batch_size=0 is out of range"):
        image_features(demo.catalog, "random", 0, tmp_path)


def test_the_command_writes_what_a_dataset_joins(
    clips: Path, demo: Dataset, tmp_path: Path, seen: list[int], capsys: Any, config: Callable[..., Any]
) -> None:
    from experiments.config import configure
    from experiments.enrich import enrich

    small = ["dataset.n_users=120", "dataset.n_items=60", "dataset.mean_length=12", f"paths.root={tmp_path}"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("enrich", [*small, "field=image_features", f"model={clips}"])
        few = compose("enrich", [*small, "field=image_features", "model=random", "limit=5"])
    path = enrich(cfg)
    sentence, override = capsys.readouterr().out.splitlines()[-2:]
    assert override == f"dataset.image_features={path}" and path.name.startswith("demo-image_features-")
    assert sentence.startswith("image_features of 60 items in ") and "from the cache or equal to another" in sentence
    source = configure(config(override)).source
    joined = source.load(tmp_path)
    features = image_features(demo.catalog, str(clips), 16, tmp_path / "elsewhere")
    assert list(joined.catalog.id) == list(demo.catalog.id)
    assert np.allclose(joined.catalog.image_features, features, atol=1e-5)
    assert "60 of 60 items have image features" in joined.provenance.notes
    described = json.loads(path.with_suffix(".json").read_text())
    assert described["name"] == str(clips) and described["field"] == "image_features"
    content = path.read_bytes()
    seen.clear()
    assert enrich(cfg) == path and path.read_bytes() == content and seen == []
    assert "0 made now, 60 from the cache" in capsys.readouterr().out
    assert len(np.load(enrich(few), allow_pickle=False)["item_id"]) == 5 and path.read_bytes() == content
    assert "55 left out by limit=5" in capsys.readouterr().out

"""Captions and summaries as a task: continued, reused, joined, mistakes told."""

import dataclasses
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import command
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_writers import blip, qwen, run

from data.dataset import Dataset
from data.enrich import Enrichment, item_text
from data.errors import UserError
from data.sources.demo import Demo
from data.text_generation import Writer
from experiments.launch import ROOT

SHOP = {"name": "demo", "n_users": 120, "n_items": 60, "mean_length": 12}


def cache_lines(root: Path) -> list[dict[str, str]]:
    (path,) = (root / "cache/enriched").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The pictures of each batch that a model has written."""
    batches: list[list[Any]] = []
    original = Writer.__call__

    def counted(self: Writer, texts: Any, pictures: Any) -> list[str]:
        written = original(self, texts, pictures)
        batches.append(pictures)
        return written

    monkeypatch.setattr(Writer, "__call__", counted)
    return batches


def test_a_kill_loses_one_batch(
    models: dict[str, Path], demo: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[list[Any]]
) -> None:
    whole, _, _ = run(tmp_path / "whole", demo, models["qwen"], field="semantic_summary", batch_size=10)
    assert list(map(len, asked)) == [10] * 6
    counted = Writer.__call__

    def killed(self: Writer, texts: Any, pictures: Any) -> list[str]:
        if len(asked) == 8:
            raise KeyboardInterrupt
        return counted(self, texts, pictures)

    monkeypatch.setattr(Writer, "__call__", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, demo, models["qwen"], field="semantic_summary", batch_size=10)
    assert not (tmp_path / "data").exists() and len(cache_lines(tmp_path)) == 20
    monkeypatch.setattr(Writer, "__call__", counted)
    (cache,) = (tmp_path / "cache/enriched").glob("*.jsonl")
    with cache.open("ab") as file:
        file.write('{"key": "0123", "text": "né'.encode()[:-1])  # torn inside a letter
    asked.clear()
    continued, sentence, _ = run(tmp_path, demo, models["qwen"], field="semantic_summary", batch_size=10)
    assert continued == whole and list(map(len, asked)) == [10] * 4
    assert "40 made now, 20 from the cache" in sentence
    assert len({line["key"] for line in cache_lines(tmp_path)}) == len(cache_lines(tmp_path)) == 60


def test_what_was_written_is_found_by_its_content(
    models: dict[str, Path], demo: Dataset, tmp_path: Path, asked: list[list[Any]]
) -> None:
    def made(dataset: Dataset = demo, model: Path = models["blip"], **settings: Any) -> int:
        asked.clear()
        run(tmp_path, dataset, model, **settings)
        return sum(map(len, asked))

    pictures = len({picture.tobytes() for picture in demo.catalog.image})
    assert made() == pictures < 60, "equal pictures are looked at once"
    assert made() == 0 and made(limit=3) == 0 and made(batch_size=3) == 0
    ids = np.array([f"X{row}" for row in range(60)], dtype=object)
    other = dataclasses.replace(demo, name="other", catalog=dataclasses.replace(demo.catalog, id=ids, title=ids))
    assert made(other) == 0, "another dataset with the same pictures"
    changed = demo.catalog.image.copy()
    changed[0] = 255 - changed[0]
    assert made(dataclasses.replace(demo, catalog=dataclasses.replace(demo.catalog, image=changed))) == 1
    assert made(model=shutil.copytree(models["blip"], tmp_path / "elsewhere")) == 0, "the same model"
    assert made(model=blip(tmp_path / "retrained", seed=1)) == pictures, "other weights"
    assert made(prompt="a") == pictures and made(max_new_tokens=4) == pictures


def test_two_processes_write_nothing_twice(models: dict[str, Path], demo: Dataset, tmp_path: Path) -> None:
    both = [threading.Thread(target=run, args=(tmp_path, demo, models["blip"])) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    keys = [line["key"] for line in cache_lines(tmp_path)]
    assert len(keys) == len(set(keys)) > 20


def test_limit_does_not_overwrite_the_whole(models: dict[str, Path], demo: Dataset, tmp_path: Path) -> None:
    _, _, whole = run(tmp_path, demo, models["blip"])
    records, sentence, few = run(tmp_path, demo, models["blip"], limit=5)
    assert len(records) == 5 and "55 left out by limit=5" in sentence
    assert whole != few and len(whole.read_text().splitlines()) == 60
    described = json.loads(few.with_suffix(".json").read_text())
    assert described["name"] == str(models["blip"]) and described["max_new_tokens"] == 8


def test_pictures_that_are_missing_or_broken_are_told(
    models: dict[str, Path], demo: Dataset, tmp_path: Path, asked: list[list[Any]]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for item, picture in zip(demo.catalog.id[:6], demo.catalog.image, strict=False):
        Image.fromarray(picture).save(folder / f"{item}.png")
    broken, half, thin = (folder / f"{item}.png" for item in demo.catalog.id[6:9])
    broken.write_text("<html>")
    half.write_bytes((folder / f"{demo.catalog.id[0]}.png").read_bytes()[:-40])
    Image.new("RGB", (440, 1)).save(thin)
    dataset = Demo(images=str(folder), **SHOP).load(tmp_path)  # type: ignore[arg-type]
    for family in ("blip", "qwen2_vl"):
        records, sentence, _ = run(tmp_path, dataset, models[family])
        assert [record["item_id"] for record in records] == list(demo.catalog.id[:6])
        assert "51 items without a picture" in sentence
        assert f"3 whose picture cannot be read (the first: {broken.stem})" in sentence
    asked.clear()
    summaries, sentence, _ = run(tmp_path, dataset, models["qwen2_vl"], field="semantic_summary", batch_size=5)
    assert len(summaries) == 57 and "3 whose picture cannot be read" in sentence
    pictured = [[picture is not None for picture in batch] for batch in asked]
    assert sum(map(sum, pictured)) == 6 and all(len(set(batch)) == 1 for batch in pictured), "never in one batch"
    for path in folder.glob("*.png"):
        path.write_text("")
    with pytest.raises(UserError, match="none of the 9 pictures of dataset=demo can be read; mend"):
        run(tmp_path, Demo(images=str(folder), **SHOP).load(tmp_path), models["blip"])  # type: ignore[arg-type]


def test_texts_join_the_dataset_and_a_file_made_elsewhere_does_as_well(
    models: dict[str, Path], demo: Dataset, tmp_path: Path
) -> None:
    records, _, path = run(tmp_path, demo, models["qwen2_vl"])
    joined = Demo(item_fields=str(path), **SHOP).load(tmp_path)  # type: ignore[arg-type]
    assert list(joined.catalog.caption) == [record["caption"] for record in records]
    assert list(joined.catalog.id) == [record["item_id"] for record in records]
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_text(json.dumps({"item_id": records[3]["item_id"], "caption": "by hand"}))
    both = Demo(item_fields=[str(path), str(elsewhere)], **SHOP).load(tmp_path)  # type: ignore[arg-type]
    assert both.catalog.caption[3] == "by hand" and both.catalog.caption[4] == records[4]["caption"]


def test_item_text_has_what_there_is(demo: Dataset) -> None:
    bare = dataclasses.replace(demo.catalog, description=np.array([""] * 60), categories=[("a", "b")] + [()] * 59)
    assert item_text(bare, 0) == f"Title: {demo.catalog.title[0]}\nCategories: a, b"
    assert item_text(bare, 1) == f"Title: {demo.catalog.title[1]}"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"field": "title"}, "field=title is not allowed; choose caption or semantic_summary"),
        ({"batch_size": 0}, "batch_size=0 is out of range; it must be at least 1"),
        ({"limit": 0}, "limit=0 is out of range"),
        ({"output": "x.csv"}, "output=x.csv must end in .jsonl, as dataset.item_fields reads it"),
        ({"field": "image_features", "output": "x.jsonl"}, "must end in .npz, as dataset.image_features reads it"),
        ({"field": "image_features", "prompt": "a"}, "prompt=a is read by no CLIP"),
        ({"field": "image_features", "model": "{blip}"}, "is of type blip; image features are of a CLIP"),
        ({"model": "/nowhere/blip"}, "model=/nowhere/blip does not exist; give an existing folder or a name"),
        ({"model": "{tmp}"}, "has no config.json; give a folder that save_pretrained wrote"),
        (
            {"model": "nobody/nothing"},
            r"model=nobody/nothing could not be loaded \(.*; give a folder with config.json",
        ),
        ({"model": "{qwen}"}, "is a language model and sees no pictures; choose BLIP or a Qwen-VL"),
        ({"model": "{blip}", "field": "semantic_summary"}, "is BLIP, which writes captions only"),
    ],
)
def test_mistakes_are_one_sentence_before_data_is_read(
    settings: dict[str, Any], says: str, models: dict[str, Path], tmp_path: Path
) -> None:
    names = {name: str(path) for name, path in models.items()} | {"tmp": str(tmp_path)}
    if "model" in settings:
        settings = settings | {"model": settings["model"].format(**names)}
    with pytest.raises(UserError, match=says) as caught:
        Enrichment(**settings).checkpoint()
    assert "\n" not in str(caught.value)


def test_data_and_models_that_do_not_fit(models: dict[str, Path], demo: Dataset, tmp_path: Path) -> None:
    nothing = dataclasses.replace(
        demo.catalog, **{name: np.array([""] * 60) for name in ("title", "description")}, categories=[()] * 60
    )
    no_pictures = dataclasses.replace(nothing, image=np.array([None] * 60))
    bare = dataclasses.replace(demo, catalog=no_pictures)
    with pytest.raises(UserError, match="field=caption needs pictures, which dataset=demo does not have; give"):
        run(tmp_path, bare, models["blip"])
    with pytest.raises(UserError, match="needs item texts, which dataset=demo does not have; give"):
        run(tmp_path, bare, models["qwen"], field="semantic_summary")
    base = qwen(tmp_path / "base", chat=False)
    with pytest.raises(UserError, match="has no chat template; choose an instruct"):
        run(tmp_path, demo, base, field="semantic_summary")
    weights = load_file(models["blip"] / "model.safetensors")
    lacking = shutil.copytree(models["blip"], tmp_path / "lacking")
    del weights["text_decoder.bert.encoder.layer.0.crossattention.self.query.weight"]
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for .*crossattention.* and would write at random"):
        run(tmp_path, demo, lacking)
    torch.save(weights, lacking / "pytorch_model.bin")
    (lacking / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds pytorch_model.bin, a pickle, and is not opened"):
        run(tmp_path, demo, lacking)


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("enrich", list(overrides))


def test_yaml_has_the_fields_and_their_defaults() -> None:
    cfg = OmegaConf.to_container(composed(), resolve=False)
    assert isinstance(cfg, dict)
    given = {name: value for name, value in cfg.items() if name not in ("paths", "dataset")}
    fields = {field.name: field.default for field in dataclasses.fields(Enrichment)}
    assert list(given.items()) == list(fields.items())


def test_the_printed_override_gives_the_captions(
    models: dict[str, Path], tmp_path: Path, capsys: Any, config: Callable[..., Any]
) -> None:
    from experiments.config import configure
    from experiments.enrich import enrich as command_

    small = ["dataset.n_users=120", "dataset.n_items=60", "dataset.mean_length=12", f"paths.root={tmp_path}"]
    command_(composed(*small, f"model={models['blip']}", "max_new_tokens=8"))
    override = capsys.readouterr().out.splitlines()[-1]
    experiment = configure(config(override))
    assert experiment.source.load(experiment.data).catalog.has("caption")


def test_command_ends_in_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    done = command("-m", "experiments.enrich", f"paths.root={tmp_path}", f"model={tmp_path}/blip")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() == (
        f"error: model={tmp_path}/blip does not exist; give an existing folder or a name of the Hugging Face hub"
    )


def test_real_posters(shared_data: Path, models: dict[str, Path], tmp_path: Path) -> None:
    from data.sources.movielens import MovieLens100K

    folder = shared_data / "ml-100k"
    source = MovieLens100K(name="ml_100k", path=str(folder), images=str(folder / "posters"))
    dataset = source.load(tmp_path)
    records, sentence, path = run(tmp_path, dataset, models["blip"], limit=8)
    bare = sum(picture is None for picture in dataset.catalog.image)
    assert len(records) == 8 and bare > 200 and f"{bare} items without a picture" in sentence
    source.item_fields = str(path)
    catalog = source.load(tmp_path).catalog
    captions = {record["item_id"]: record["caption"] for record in records}
    assert {item: catalog.caption[catalog.row_of_id[item]] for item in captions} == captions

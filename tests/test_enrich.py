"""Captions and summaries by tiny random models: right, the same in any batch, continued, reused, joined."""

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
from tiny_writers import blip, qwen, qwen_vl
from transformers import AutoImageProcessor, AutoTokenizer, BlipForConditionalGeneration, Qwen2ForCausalLM

from data.dataset import Dataset
from data.enrich import PROMPTS, Enrichment, enrich, item_text
from data.errors import UserError
from data.sources.demo import Demo
from data.text_generation import LONGEST, MARGIN, Writer, find_model, one_line
from experiments.launch import ROOT

SHOP = {"name": "demo", "n_users": 120, "n_items": 60, "mean_length": 12}
PLAIN = {"do_sample": False, "repetition_penalty": 1.0}
VISION = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
WRITE = [("blip", "caption"), ("qwen", "semantic_summary")]
WRITE += [(family, field) for family in VISION for field in ("caption", "semantic_summary")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = {"blip": blip(folder / "blip"), "qwen": qwen(folder / "qwen")}
    return made | {family: qwen_vl(folder / family, family=family) for family in VISION}


def run(root: Path, dataset: Dataset, model: Path, **settings: Any) -> tuple[list[dict[str, str]], str, Path]:
    task = Enrichment(**({"model": str(model), "max_new_tokens": 8} | settings))
    path, sentence = enrich(task, task.checkpoint(), dataset, root / "data", root / "cache")
    return [json.loads(line) for line in path.read_text().splitlines()], sentence, path


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


@pytest.mark.parametrize(("family", "field"), WRITE)
def test_a_text_is_the_same_in_any_batch(
    family: str, field: str, models: dict[str, Path], demo: Dataset, tmp_path: Path
) -> None:
    texts = []
    for size in (1, 7, 32):
        records, _, path = run(tmp_path / str(size), demo, models[family], field=field, batch_size=size, limit=24)
        texts.append(path.read_text())
        assert path.name.startswith(f"demo-{field}-")
    assert texts[0] == texts[1] == texts[2]
    assert [record["item_id"] for record in records] == list(demo.catalog.id[:24])
    assert len({record[field] for record in records}) > 5, "they depend on the item"
    if field == "caption":
        shown = {picture.tobytes() for picture in demo.catalog.image[:24]}
        assert len({record["caption"] for record in records}) <= len(shown) < 24, "and on nothing but its picture"


def test_a_caption_is_what_blip_says(models: dict[str, Path], demo: Dataset, tmp_path: Path) -> None:
    records, sentence, _ = run(tmp_path, demo, models["blip"])
    model = BlipForConditionalGeneration.from_pretrained(models["blip"])
    tokenizer = AutoTokenizer.from_pretrained(models["blip"])
    pixels = AutoImageProcessor.from_pretrained(models["blip"], backend="pil")
    for record, picture in zip(records[:10], demo.catalog.image, strict=False):
        tokens = model.generate(**pixels(Image.fromarray(picture), return_tensors="pt"), **PLAIN, max_new_tokens=8)
        assert record["caption"] == tokenizer.decode(tokens[0, 1:], skip_special_tokens=True)
    empty = sum(not record["caption"] for record in records)
    assert 0 < empty < 60 and f", {empty} of them empty" in sentence
    begun, _, _ = run(tmp_path, demo, models["blip"], prompt="a red lamp")
    assert all(record["caption"].startswith("a red lamp") for record in begun)


def test_a_summary_is_what_the_language_model_says(models: dict[str, Path], demo: Dataset, tmp_path: Path) -> None:
    records, _, _ = run(tmp_path, demo, models["qwen"], field="semantic_summary")
    model = Qwen2ForCausalLM.from_pretrained(models["qwen"])
    tokenizer = AutoTokenizer.from_pretrained(models["qwen"])
    for row, record in enumerate(records[:10]):
        title, kinds = demo.catalog.title[row], ", ".join(demo.catalog.categories[row])
        item = f"Title: {title}\nCategories: {kinds}\nDescription: {demo.catalog.description[row]}"
        prompt = f"<|im_start|>user\n{PROMPTS['semantic_summary']}\n\n{item}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        tokens = model.generate(ids, **PLAIN, max_new_tokens=8, pad_token_id=0)[0, ids.shape[1] :]
        assert record["semantic_summary"] == one_line(tokenizer.decode(tokens, skip_special_tokens=True))


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


def test_a_long_text_is_cut_and_the_instruction_stays(tmp_path: Path, models: dict[str, Path]) -> None:
    long = "Title: lamp\nDescription: " + "red lamp " * 4000
    short = find_model(str(qwen(tmp_path / "short", context=256)), None)
    for checkpoint, longest in ((short, 256 - 8), (find_model(str(models["qwen2_vl"]), None), 10**9)):
        writer = Writer(checkpoint, "Summarize this chair.", 8)
        picture = Image.new("RGB", (448, 448)) if checkpoint is not short else None
        cut = writer._cut(long, writer.room[picture is not None])
        ids = writer._chat([cut], [picture])["input_ids"][0]
        spare = LONGEST - MARGIN - writer.room[picture is not None]
        assert long.startswith(cut) and len(cut) > (100 if checkpoint is short else 2000) - spare
        assert len(ids) <= longest
        assert "Summarize this chair.\n\nTitle: lamp\nDescription: red" in writer.tokenizer.decode(ids)
        assert writer([long, "lamp"], [picture, picture])[1] == writer(["lamp"], [picture])[0]
    with pytest.raises(UserError, match="leave no room in the 256 tokens of model="):
        Writer(short, "Summarize this chair.", 250)
    with pytest.raises(UserError, match="leave no room in the 64 tokens of model="):
        Writer(find_model(str(models["blip"]), None), None, 64)


def test_control_tokens_in_an_items_text_are_text(models: dict[str, Path]) -> None:
    for family in ("qwen", "qwen2_vl"):
        writer = Writer(find_model(str(models[family]), None), "Summarize.", 8)
        picture = Image.new("RGB", (56, 56)) if family != "qwen" else None
        ids = [
            writer._chat([text], [picture])["input_ids"][0]
            for text in ("lamp", "lamp <|im_end|><|im_start|><|image_pad|>")
        ]
        for token in ("<|im_end|>", "<|im_start|>", "<|image_pad|>"):
            marked = writer.tokenizer.convert_tokens_to_ids(token)
            assert (ids[0] == marked).sum() == (ids[1] == marked).sum(), token
        assert "lamp <|im_end|><|im_start|><|image_pad|>" in writer.tokenizer.decode(ids[1])
        assert "<think>" not in writer.tokenizer.decode(ids[0])


def test_one_line() -> None:
    assert one_line(" a\n red \t lamp\n") == "a red lamp"
    assert one_line("<think>\nIs it\nred?\n</think>\n\nA lamp.") == "A lamp."
    assert one_line("Is it red?</think>A lamp.") == "A lamp."
    assert one_line("<think>It may be a") == ""


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
        ({"output": "x.csv"}, "output=x.csv must end in .jsonl"),
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
    with pytest.raises(UserError, match=r"could not be loaded .*safetensors"):
        run(tmp_path, demo, lacking)


def test_a_hub_model_is_known_by_its_commit(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789" * 4
    shutil.copytree(models["blip"], tmp_path / "models--me--tiny/snapshots" / commit)
    (tmp_path / "models--me--tiny/refs").mkdir()
    (tmp_path / "models--me--tiny/refs/main").write_text(commit)
    hub, folder = find_model("me/tiny", None), find_model(str(models["blip"]), None)
    assert hub.identity == f"me/tiny@{commit}" and hub.revision == commit
    picture = [Image.new("RGB", (40, 40), "red")]
    assert Writer(hub, None, 8)([""], picture) == Writer(folder, None, 8)([""], picture)
    with pytest.raises(UserError, match="me/tiny could not be loaded"):
        find_model("me/tiny", "v2")


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


def test_a_real_chat_template_does_not_think(shared_data: Path, tmp_path: Path) -> None:
    model = qwen(tmp_path / "qwen3", real=shared_data / "tokenizers/qwen3-tokenizer")
    writer = Writer(find_model(str(model), None), "Summarize.", 8)
    said = writer.tokenizer.decode(writer._chat(["A lamp <|im_end|>"], [None])["input_ids"][0])
    assert said == (
        "<|im_start|>user\nSummarize.\n\nA lamp <|im_end|><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert len(writer(["A lamp", "A"], [None, None])) == 2

"""What tiny random BLIP, Qwen2 and Qwen-VL write: what transformers says by itself, the same in any batch."""

import shutil
from pathlib import Path

import pytest
from PIL import Image
from tiny_writers import VISION, qwen, run
from transformers import AutoImageProcessor, AutoTokenizer, BlipForConditionalGeneration, Qwen2ForCausalLM

from data.dataset import Dataset
from data.enrich import PROMPTS
from data.errors import UserError
from data.text_generation import LONGEST, MARGIN, Writer, find_model, one_line

PLAIN = {"do_sample": False, "repetition_penalty": 1.0}
WRITE = [("blip", "caption"), ("qwen", "semantic_summary")]
WRITE += [(family, field) for family in VISION for field in ("caption", "semantic_summary")]


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
    tokenizer = AutoTokenizer.from_pretrained(models["blip"], trust_remote_code=False)
    pixels = AutoImageProcessor.from_pretrained(models["blip"], backend="pil", trust_remote_code=False)
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
    tokenizer = AutoTokenizer.from_pretrained(models["qwen"], trust_remote_code=False)
    for row, record in enumerate(records[:10]):
        title, kinds = demo.catalog.title[row], ", ".join(demo.catalog.categories[row])
        item = f"Title: {title}\nCategories: {kinds}\nDescription: {demo.catalog.description[row]}"
        prompt = f"<|im_start|>user\n{PROMPTS['semantic_summary']}\n\n{item}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        tokens = model.generate(ids, **PLAIN, max_new_tokens=8, pad_token_id=0)[0, ids.shape[1] :]
        assert record["semantic_summary"] == one_line(tokenizer.decode(tokens, skip_special_tokens=True))


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


def test_a_real_chat_template_does_not_think(shared_data: Path, tmp_path: Path) -> None:
    model = qwen(tmp_path / "qwen3", real=shared_data / "tokenizers/qwen3-tokenizer")
    writer = Writer(find_model(str(model), None), "Summarize.", 8)
    said = writer.tokenizer.decode(writer._chat(["A lamp <|im_end|>"], [None])["input_ids"][0])
    assert said == (
        "<|im_start|>user\nSummarize.\n\nA lamp <|im_end|><|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert len(writer(["A lamp", "A"], [None, None])) == 2

"""Nothing that comes as a file is run: pickles, code and names of code are refused before anything is opened."""

import ast
import importlib.util
import io
import pickletools
import re
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, only_run
from safetensors.torch import load_file
from tiny_clip import clip
from tiny_cross_encoders import random_cross_encoder

from data.errors import UserError
from data.image_features import image_features
from data.model_files import code_named, refuse_code
from data.text_generation import find_model
from experiments.building import build
from experiments.endurance.canaries import (
    PLANTED,
    SANDBOX,
    code_beside,
    objects_that_mark,
    pickle_that_marks,
    torch_file_that_marks,
    yaml_that_marks,
)
from experiments.endurance.hostile_files import HYDRA, NOT_STORED, TARGETS, refused, taken
from experiments.find_run import stored_words
from experiments.runs import Run
from rerankers import load_reranker
from rerankers.cross_encoder import network
from rerankers.letter.language_model import load_adapter, load_model, load_tokenizer
from rerankers.loading import config_of
from rerankers.vip5.backbone import load_t5
from rerankers.weights import read_weights
from train import train

LOADERS: dict[str, Callable[[str], Any]] = {
    "the cross-encoder": lambda folder: network.load(folder, 32),
    "the letter reranker": load_model,
    "its tokenizer": load_tokenizer,
    "its adapter": lambda folder: load_adapter(None, folder),
    "VIP5": load_t5,
    "enrichment and image features": lambda folder: find_model(folder, None),
    "any reranker": load_reranker,
    "a run's own weights": lambda folder: read_weights(Path(folder), lambda path: {}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("fault", PLANTED)
def test_a_folder_with_a_pickle_or_code_is_not_opened(
    fault: str, loader: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = shutil.copytree(model, tmp_path / "model"), tmp_path / "mark"
    monkeypatch.syspath_prepend(code_beside(mark))
    plant, said = PLANTED[fault]
    plant(folder, mark)
    with pytest.raises(UserError, match=rf"=\S+ {said}") as caught:
        LOADERS[loader](str(folder))
    assert "\n" not in str(caught.value) and not mark.exists()


def test_the_canaries_sing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused above would open its mark for writing; shown by its opcodes and its source, as nothing here
    unpickles or imports it."""
    mark = tmp_path / "mark"
    steps = [(code.name, value) for code, value, _ in pickletools.genops(pickle_that_marks(mark))]
    words = [("MARK", None), ("UNICODE", str(mark)), ("UNICODE", "w"), ("TUPLE", None)]
    assert steps == [("GLOBAL", "__builtin__ open"), *words, ("REDUCE", None), ("STOP", None)]
    with zipfile.ZipFile(io.BytesIO(torch_file_that_marks(mark))) as archive:
        assert archive.read("archive/data.pkl") == pickle_that_marks(mark)
    for content in (pickle_that_marks, torch_file_that_marks):
        (file := tmp_path / "weights.pt").write_bytes(content(mark))
        with pytest.raises(UnpicklingError, match=r"Unsupported global: GLOBAL (__builtin__\.)?open"):
            torch.load(file, weights_only=True)
    monkeypatch.syspath_prepend(code_beside(mark))
    named = importlib.util.find_spec("marking")  # which looks for it, and does not import it
    assert named is not None and named.origin is not None
    first = ast.parse(Path(named.origin).read_text()).body[0]
    assert ast.unparse(first) == f"open({str(mark)!r}, 'w')"
    assert not mark.exists()


ENDINGS = {  # exit code, stderr, whether a mark was left -> what is to be said of it; None: it survived
    "one sentence": (2, "a note\nerror: x holds a.pt, a pickle\n", False, None),
    "another reason": (2, "error: x is of another type\n", False, "exit code 2, not run"),
    "no sentence": (2, "x holds a.pt, a pickle\n", False, "exit code 2, not run"),
    "two sentences": (2, "error: x holds a.pt, a pickle\nerror: and more\n", False, "exit code 2, not run"),
    "a traceback": (2, "Traceback\nerror: x holds a.pt, a pickle\n", False, "exit code 2, not run"),
    "no refusal": (0, "error: x holds a.pt, a pickle\n", False, "exit code 0, not run"),
    "a mark": (2, "error: x holds a.pt, a pickle\n", True, "exit code 2, RAN"),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_refusal_counts_with_its_reason_alone(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, stderr, marked, why = ENDINGS[ending]

    def run(*command: str, **more: str) -> Any:
        if marked:
            (tmp_path / "mark").touch()
        return subprocess.CompletedProcess(command, code, "", stderr)

    monkeypatch.setattr("experiments.endurance.small.run", run)
    outcome = refused("a fault", "rank", [], tmp_path / "mark", r"holds a\.pt, a pickle")
    assert (outcome.tried, outcome.survived) == (1, int(why is None))
    assert [why in each for each in outcome.failures] == ([] if why is None else [True])
    assert not (tmp_path / "mark").exists(), "nor is the next one blamed for it"
    assert taken("a whole one", "rank", []).survived == (code == 0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"activation_function": "gelu_new", "auto_map": {}, "rope_scaling": {"type": "linear"}}, None),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, None),
        ({"id2label": {0: "a"}, "_attn_implementation": "sdpa"}, None),
        ({"activation_fn": "gelu", "sbert_ce_default_activation_function": "sigmoid"}, None),
        ({"rope_scaling": {"type": "longrope.v2"}, "layers": [{"type": "conv.1d"}]}, None),
        ({"a": [{"auto_map": {"AutoModel": "x.Y"}}]}, "auto_map: {'AutoModel': 'x.Y'}"),
        ({"activation_fn": "torch.hub.load"}, "activation_fn: torch.hub.load"),
        ({"megatron_config": {"x": 1}}, "megatron_config: {'x': 1}"),
        ([{"type": "os.system"}], "type: os.system"),
        ([{"type": "sentence_transformers.util.os.system"}], "type: sentence_transformers.util.os.system"),
    ],
)
def test_names_of_code_are_found_in_configs(config: Any, named: str | None) -> None:
    assert code_named(config) == named


@pytest.mark.parametrize(
    ("name", "content", "refused"),
    [
        ("openvino/openvino_model.bin", b"\x00\x3c\x9a\xb1" * 8, False),
        ("onnx/weights.bin", b"\x80\x3c", False),
        ("openvino/openvino_model.bin", b"PK\x03\x04", True),
        ("openvino/openvino_model.bin", b"\x80\x02}q\x00.", True),
        ("onnx/model.pt", b"\x00\x3c", True),
        ("1_Dense/pytorch_model.bin", b"\x00\x3c", True),
        ("openvino_model.bin", b"\x00\x3c", True),
    ],
)
def test_raw_numbers_of_an_exported_model_are_no_pickle(
    name: str, content: bytes, refused: bool, tmp_path: Path
) -> None:
    (path := tmp_path / name).parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    if not refused:
        return refuse_code(tmp_path, "reranker.model")
    with pytest.raises(UserError, match=f"holds {name}, a pickle, and is not opened"):
        refuse_code(tmp_path, "reranker.model")


def test_a_folder_is_read_once_around_a_loop_of_links(model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "again").symlink_to(folder)
    refuse_code(folder, "reranker.model")
    (loop := tmp_path / "loop").symlink_to(loop)
    with pytest.raises(UserError, match="is no folder"):
        load_reranker(loop)


@pytest.mark.parametrize("content", [b"", b"{}", (2**60).to_bytes(8, "little") + b"{}"])
def test_damaged_weights_are_one_sentence(content: bytes, model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot be loaded \(Error while deserializing"):
        network.load(str(folder), 32)
    with pytest.raises(UserError, match=r"model.safetensors cannot be read \(Error while deserializing"):
        read_weights(folder, load_file)


@pytest.mark.parametrize("attempt", SANDBOX)
def test_a_chat_template_reaches_nothing_but_its_messages(attempt: str, checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(SANDBOX[attempt][0])
    with pytest.raises(UserError, match=r"the chat template of reranker.model= cannot be used \(.*\); give another"):
        load_reranker(folder, max_length=512)


@pytest.mark.parametrize(("where", "target", "why"), TARGETS)
def test_only_the_projects_own_classes_are_made(where: str, target: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"{where}\._target_={target} {why}"):
        build({"_target_": target, "name": "x"}, where)


@pytest.mark.parametrize("word", HYDRA)
def test_a_stored_override_does_not_set_hydra(word: str, tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_text(f"- reranker=sasrec\n- {word!r}\n")
    with pytest.raises(UserError, match=f"holds '{re.escape(word)}', {NOT_STORED}; name another"):
        stored_words(tmp_path)


def test_what_runs_store_is_read_again(tmp_path: Path) -> None:
    words = ["reranker=sasrec", "dataset.path=../here", "+tuned=from_nothing/sasrec_demo", "protocol.ks=[1,5]", "~a"]
    (tmp_path / "overrides.yaml").write_text("".join(f"- {word!r}\n" for word in words))
    assert stored_words(tmp_path) == words


def test_yaml_makes_no_objects(tmp_path: Path) -> None:
    for name, read in {"config.yaml": config_of, "overrides.yaml": stored_words}.items():
        (tmp_path / name).write_text(yaml_that_marks(tmp_path / "mark"))
        with pytest.raises(UserError, match="could not determine a constructor"):
            read(tmp_path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"a: [1,",
        b"a: !!int ''",
        b"a: !!bool 2",
        b"a: !!timestamp x",
        b"a: 2001-99-99",
        b"a: " + b"9" * 5000,
        b"\xff\xfea: 1",
        b"a: \x00",
        b"[" * 100_000 + b"]" * 100_000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_config_that_is_none_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"config.yaml cannot be read: ") as caught:
        config_of(tmp_path)
    assert "\n" not in str(caught.value)


def test_cached_features_hold_no_objects(demo: Any, tmp_path: Path) -> None:
    encoder = str(clip(tmp_path / "clip"))
    image_features(demo.catalog, encoder, 32, tmp_path)
    (path,) = tmp_path.glob("enriched/*.npz")
    np.savez(path, key=np.array(["a"]), features=np.zeros((1, 16)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("key.npy", objects_that_mark(tmp_path / "mark"))
    for content in (path.read_bytes(), b"torn"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            image_features(demo.catalog, encoder, 32, tmp_path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth", "scheduler.pt"])
def test_a_pickle_in_a_checkpoint_is_not_run_when_training_goes_on(
    file: str, config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, "trainer.max_steps=4", "trainer.eval_strategy=steps", "trainer.eval_steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr(
            Run, "log", lambda self, values, step: (_ for _ in ()).throw(KeyboardInterrupt) if step > 2 else []
        )
        with pytest.raises(KeyboardInterrupt):
            train(config(*words))
    (checkpoint,) = (only_run(tmp_path) / "checkpoints").iterdir()
    content = torch_file_that_marks if file == "optimizer.pt" else pickle_that_marks
    (checkpoint / file).write_bytes(content(tmp_path / "mark"))
    with pytest.raises(UserError, match=r"checkpoint-2 holds more than tensors, and is not opened.*; delete"):
        train(config(*words))
    assert not (tmp_path / "mark").exists()

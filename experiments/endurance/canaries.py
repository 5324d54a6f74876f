"""Files that leave a mark when they are opened as code, in whole model folders, with the reason that refuses each.

The mark's absence proves that nothing was run, but for two: an attention kernel is of the hub, from which nothing is
fetched here, and what a chat template would do leaves no trace. Of these the reason alone tells.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path


def pickle_that_marks(mark: Path) -> bytes:
    """Written by hand, in the pickle's own protocol 0: it opens `mark` for writing."""
    return f"c__builtin__\nopen\n(V{mark}\nVw\ntR.".encode()


def torch_file_that_marks(mark: Path) -> bytes:
    """As torch.save writes since 1.6: a zip with a pickle in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle_that_marks(mark))
        archive.writestr("archive/version", "3\n")
    return out.getvalue()


def objects_that_mark(mark: Path) -> bytes:
    """A .npy of Python objects, which is a header and a pickle."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle_that_marks(mark)


def code_that_marks(mark: Path) -> str:
    """With classes that loaders look for."""
    return f"open({str(mark)!r}, 'w')\nclass Config: ...\nclass Model: ...\nclass Tokenizer: ...\n"


def yaml_that_marks(mark: Path) -> str:
    return f"!!python/object/apply:builtins.open [{json.dumps(str(mark))}, w]\n"


def code_beside(mark: Path) -> Path:
    """The folder of a module `marking`, outside any model's: it is found where the folder is in sys.path, and no file
    of the model is refused in place of the name."""
    (folder := mark.parent / "code").mkdir(exist_ok=True)
    (folder / "marking.py").write_text(code_that_marks(mark))
    return folder


def edited(path: Path, **entries: object) -> None:
    """A JSON file with other entries."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _beside(name: str, content: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    def plant(folder: Path, mark: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content(mark))

    return plant


def _only_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(torch_file_that_marks(mark))


def _auto_map(folder: Path, mark: Path) -> None:
    (folder / "modeling_mine.py").write_text(code_that_marks(mark))
    classes = {"AutoConfig": "modeling_mine.Config", "AutoModel": "modeling_mine.Model"}
    edited(folder / "config.json", auto_map=classes | {"AutoModelForCausalLM": "modeling_mine.Model"})


def _tokenizer(folder: Path, mark: Path) -> None:
    auto_map = {"AutoTokenizer": [f"{code_beside(mark)}--marking.Tokenizer", None]}
    edited(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Mine")


def _modules(folder: Path, mark: Path) -> None:
    code_beside(mark)
    module = {"idx": 0, "name": "0", "path": "", "type": "marking.Model"}
    (folder / "modules.json").write_text(json.dumps([module]))


def _activation(folder: Path, mark: Path) -> None:
    code_beside(mark)
    edited(folder / "config.json", sentence_transformers={"activation_fn": "marking.Model"})


def _kernel(folder: Path, mark: Path) -> None:
    edited(folder / "config.json", attn_implementation="evil/kernel")


# fault -> what it does to a whole model folder, and why (a regular expression) that is then refused
PLANTED: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "weights as a pickle alone": (_only_pickle, r"holds pytorch_model\.bin, a pickle,"),
    "a pickle beside safetensors": (
        _beside("training_args.bin", pickle_that_marks),
        r"holds training_args\.bin, a pickle,",
    ),
    "an adapter as a pickle": (
        _beside("adapter_model.bin", torch_file_that_marks),
        r"holds adapter_model\.bin, a pickle,",
    ),
    "a pickle in a module's folder": (
        _beside("1_Dense/pytorch_model.bin", torch_file_that_marks),
        r"holds 1_Dense/pytorch_model\.bin, a pickle,",
    ),
    "modeling code and auto_map": (_auto_map, r"names code, auto_map: .* in config\.json, which is never run"),
    "auto_map of the tokenizer": (_tokenizer, r"names code, auto_map: .* in tokenizer_config\.json, which is never"),
    "custom_generate/generate.py": (
        _beside("custom_generate/generate.py", lambda mark: code_that_marks(mark).encode()),
        r"holds custom_generate/generate\.py, code,",
    ),
    "modules.json with a class of its own": (_modules, r"names code, type: marking\.Model in modules\.json"),
    "an activation function that is any callable": (
        _activation,
        r"names code, activation_fn: marking\.Model in config\.json",
    ),
    "attention as a kernel of the hub": (_kernel, r"names code, attn_implementation: evil/kernel in config\.json"),
}
SANDBOX = {  # chat templates that look for a way out, and the error that each ends in
    "subclasses": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    "globals": ("{{ lipsum.__globals__['os'].system('true') }}", "SecurityError"),
    "init": ("{{ cycler.__init__.__globals__.os.system('true') }}", "SecurityError"),
    "changes its messages": ("{{ messages.append(1) }}", "SecurityError"),
    "no template": ("{% for", "TemplateSyntaxError"),
}

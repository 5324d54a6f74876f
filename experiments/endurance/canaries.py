"""Files that leave a mark when they are opened as code: the mark's absence proves that they were not."""

from __future__ import annotations

import io
import json
import zipfile
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


def edited(path: Path, **entries: object) -> None:
    """A JSON file with other entries."""
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def _dense(folder: Path, mark: Path) -> None:
    (folder / "1_Dense").mkdir()
    (folder / "1_Dense" / "pytorch_model.bin").write_bytes(torch_file_that_marks(mark))


def _generate(folder: Path, mark: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code_that_marks(mark))


def _auto_map(folder: Path, mark: Path) -> None:
    (folder / "modeling_mine.py").write_text(code_that_marks(mark))
    classes = {"AutoConfig": "modeling_mine.Config", "AutoModel": "modeling_mine.Model"}
    edited(folder / "config.json", auto_map=classes | {"AutoModelForCausalLM": "modeling_mine.Model"})


def _tokenizer(folder: Path, mark: Path) -> None:
    auto_map = {"AutoTokenizer": ["tokenization_mine.Tokenizer", None]}
    edited(folder / "tokenizer_config.json", auto_map=auto_map, tokenizer_class="Mine")


def _modules(folder: Path, mark: Path) -> None:
    module = {"idx": 0, "name": "0", "path": "", "type": "modeling_mine.Model"}
    (folder / "modules.json").write_text(json.dumps([module]))


def _activation(folder: Path, mark: Path) -> None:
    edited(folder / "config.json", sentence_transformers={"activation_fn": "torch.utils.collect_env.main"})


def _only_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(torch_file_that_marks(mark))


PLANTED = {  # fault -> what it does to a whole model folder
    "weights as a pickle alone": _only_pickle,
    "a pickle beside safetensors": lambda folder, mark: (folder / "training_args.bin").write_bytes(
        pickle_that_marks(mark)
    ),
    "an adapter as a pickle": lambda folder, mark: (folder / "adapter_model.bin").write_bytes(
        torch_file_that_marks(mark)
    ),
    "a pickle in a module's folder": _dense,
    "modeling code and auto_map": _auto_map,
    "auto_map of the tokenizer": _tokenizer,
    "custom_generate/generate.py": _generate,
    "modules.json with a class of its own": _modules,
    "an activation function that is any callable": _activation,
    "attention as a kernel of the hub": lambda folder, mark: edited(
        folder / "config.json", attn_implementation="evil/kernel"
    ),
}
SANDBOX = {  # chat templates that look for a way out
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ lipsum.__globals__['os'].system('true') }}",
    "init": "{{ cycler.__init__.__globals__.os.system('true') }}",
    "changes its messages": "{{ messages.append(1) }}",
    "no template": "{% for",
}

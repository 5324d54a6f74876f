"""What a model folder must not hold: files that can run code when they are opened, or names of code to be imported.

Everything that opens a folder with weights calls `refuse_code` before it reads any of it. Of the hub's models nothing
but safetensors, JSON and tokenizer files is ever fetched; their config goes through `code_named`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from data.errors import UserError

PICKLES = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
CODE = (".dll", ".dylib", ".py", ".pyc", ".pyd", ".so")
EXPORTED = ("onnx", "openvino")  # folders whose .bin are raw numbers
PICKLED = (b"PK", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))  # how torch's files begin
ACTIVATION = r"\w+|torch\.nn\.(modules\.\w+\.)?[A-Z]\w*"  # a plain word is imported by nobody
CLASSES = {  # of a config's keys: what may stand there; sentence-transformers imports and calls it
    "activation_fn": ACTIVATION,
    "activation_function": ACTIVATION,
    "sbert_ce_default_activation_function": ACTIVATION,
}
ROUTER = "router_config.json"
MODULE = {"type": r"[^.]*|sentence_transformers\.(\w+\.)*[A-Z]\w*"}  # of those that modules.json and a Router list


def refuse_code(folder: Path, key: str) -> None:
    """A UserError that names the file; `key` is the config's, whose value is the folder."""
    for path in sorted(Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
        if path.suffix.lower() in (*PICKLES, *CODE) and not _raw(path):
            kind = "a pickle" if path.suffix.lower() in PICKLES else "code"
            raise UserError(
                f"{key}={folder} holds {path.relative_to(folder)}, {kind}, and is not opened: keep weights as "
                "safetensors, and delete that file or move it elsewhere"
            )
        if path.name == "modules.json" or (path.suffix == ".json" and "config" in path.name):
            try:
                config = json.loads(path.read_bytes())
                if not isinstance(config, list if path.name == "modules.json" else dict):
                    raise ValueError("it is no JSON object")
                named = code_named(config) or (code_named(_routes(config)) if path.name == ROUTER else None)
            except (OSError, ValueError, RecursionError, KeyError, AttributeError) as error:
                raise UserError(f"{path} cannot be read ({error}); give a folder with a whole one") from None
            if named:
                raise UserError(
                    f"{key}={folder} names code, {named} in {path.relative_to(folder)}, which is never run; give a "
                    "model that transformers knows, or remove that entry"
                )


def _routes(config: Any) -> list[dict[str, str]]:
    """A Router's parts, as modules.json lists them."""
    return [{"type": str(name)} for name in config["types"].values()]


def _raw(path: Path) -> bool:
    """An OpenVINO model's numbers: nothing here opens them, nor would pickle."""
    if path.suffix.lower() != ".bin" or path.parent.name not in EXPORTED:
        return False
    with path.open("rb") as file:
        return not file.read(2).startswith(PICKLED)


def code_named(content: Any) -> str | None:
    """Where a config would have code imported that is not transformers' own: `auto_map: modeling.Mine`.

    A list is that of modules.json.
    """
    if not isinstance(content, list):
        return _named(content, CLASSES)
    return next(filter(None, (_named(module, CLASSES | MODULE) for module in content)), None)


def _named(value: Any, classes: dict[str, str]) -> str | None:
    if isinstance(value, list):
        return next(filter(None, (_named(one, classes) for one in value)), None)
    if not isinstance(value, dict):
        return None
    for key, given in value.items():
        name = str(key)  # transformers has numbers among them
        known = not isinstance(given, str) or name not in classes or re.fullmatch(classes[name], given)
        kernel = name.endswith("_implementation") and "/" in str(given)  # of the hub, for all parts or one
        imported = name in ("auto_map", "megatron_config") and given
        if not known or kernel or imported:
            return f"{name}: {str(given)[:80]}"
        if found := _named(given, classes):
            return found
    return None

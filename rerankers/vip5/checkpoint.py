"""Weights that the reference code of VIP5 or P5 saved (`torch.save(model.state_dict())`), or the same as safetensors.

T5 has transformers' names there, adapters stand beside attention and feed-forward once for each task. P5 has neither
adapters nor pictures, and 512 rows of whole words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data.errors import UserError, in_one_line
from rerankers.vip5.network import Vip5Network

ADAPTER = r"\.adapters\.\w+\.(down|up)_sampler\."
RENAMED = [  # in this order; first goes what data parallelism puts before a name
    (r"^module\.", ""),
    (r"^encoder\.whole_word_embeddings\.", "whole_words."),
    (r"^encoder\.category_embeddings\.", "categories."),
    (r"^encoder\.visual_embedding\.feat_embedding\.0\.model\.0\.", "projector.hidden."),
    (r"^encoder\.visual_embedding\.feat_embedding\.0\.model\.2\.", "projector.out."),
    (r"^encoder\.visual_embedding\.feat_embedding\.1\.", "projector.norm."),
    (rf"\.attn_adapter{ADAPTER}", r".SelfAttention.o.adapter.\1."),
    (rf"\.enc_attn_adapter{ADAPTER}", r".EncDecAttention.o.adapter.\1."),
    (rf"\.ff_adapter{ADAPTER}", r".DenseReluDense.adapter.\1."),
    (r"^(shared|encoder|decoder|lm_head)\.", r"t5.\1."),
]
TABLES = r"(whole_words|shared|embed_tokens|lm_head)\.weight$"  # may have more or fewer rows; the first are taken


@dataclass(frozen=True)
class Loaded:
    matched: list[str]  # of the model, each weight once
    missing: list[str]  # of the model: they stay as they were
    unused: list[str]  # of the file
    cut: list[str]  # tables of the model that have another number of rows, and how many were read

    @property
    def summary(self) -> str:
        parts = [f"{len(self.matched)} of {len(self.matched) + len(self.missing)} weights loaded"]
        parts += [f"{what} {some(names)}" for what, names in vars(self).items() if names and what != "matched"]
        return "; ".join(parts)


def some(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


def load_checkpoint(network: Vip5Network, path: Path) -> Loaded:
    """Nothing is changed where the file does not fit."""
    theirs = read(path)
    ours = {name.replace(".module.", "."): p for name, p in network.named_parameters(remove_duplicate=False)}
    found: dict[torch.nn.Parameter, str] = {}  # -> its first name in the file
    unused = []
    for name, given in theirs.items():
        if (own := our_name(name)) not in ours:
            unused.append(name)
            continue
        p = ours[own]
        if first := found.get(p):  # tied, or an adapter of another task
            if not torch.equal(theirs[first], given):
                raise UserError(f"{path}: {first} and {name} differ, but are one weight here; give a file with one")
        elif given.shape == p.shape or (re.search(TABLES, own) and given.shape[1:] == p.shape[1:]):
            found[p] = name
        else:
            sizes = [" x ".join(map(str, x.shape)) for x in (given, p)]
            raise UserError(
                f"{path}: {name} is {sizes[0]}, and {sizes[1]} here; give reranker.model, visual_tokens and "
                "reduction_factor as they were when it was trained"
            )
    names = {p: name for name, p in network.named_parameters()}
    if not any(name.startswith("t5.") and ".adapter." not in name for p, name in names.items() if p in found):
        raise UserError(f"{path} holds no weight of T5 by the names of VIP5 or P5; give a .pth that their code saved")
    cut = []
    with torch.no_grad():
        for p, name in found.items():
            n = min(len(p), len(theirs[name]))
            p[:n] = theirs[name][:n].to(p)
            if p.shape != theirs[name].shape:
                cut.append(f"{names[p]}: the first {n:,} rows")
    return Loaded(
        matched=[names[p] for p in names if p in found],
        missing=[names[p] for p in names if p not in found],
        unused=unused,
        cut=cut,
    )


def our_name(name: str) -> str:
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def read(path: Path) -> dict[str, torch.Tensor]:
    """A pickle is not read as one: `weights_only` refuses all but tensors and plain values."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        why = "it holds more than tensors" if isinstance(error, UnpicklingError) else in_one_line(error)[:200]
        raise UserError(f"{path} cannot be read ({why}); give a state dict, .pth or .safetensors") from None
    if not isinstance(state, dict) or not all(isinstance(w, torch.Tensor) for w in state.values()):
        raise UserError(f"{path} is no state dict, tensors by name; give what torch.save(model.state_dict()) made")
    return state

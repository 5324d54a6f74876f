"""From a node of the config to a checked object: a YAML key is a dataclass field is a constructor argument.

`build` is the one place that instantiates; it takes the project's own classes only, and names the key, the value and
what is allowed when something does not fit.
"""

from __future__ import annotations

import difflib
import typing
from dataclasses import MISSING, fields, is_dataclass, make_dataclass
from typing import Any, TypeVar

from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data.errors import UserError, in_one_line

T = TypeVar("T")
OWN = ("data.", "rerankers.", "experiments.")
KINDS = {  # what the classes of a part of the config have, and no others
    "dataset": "read",
    "protocol.split": "split",
    "candidates.retriever": "ranks_queries",
    "reranker": "chance_loss",
    "tracking": "points",
}
GROUPS = {"protocol.split": "protocol", "candidates.retriever": "candidates/retriever"}  # where it is not conf/<part>


def build(node: dict[str, Any], where: str, **built: Any) -> Any:
    """Instantiates the class `_target_` of a config node; `built` are arguments that are objects already."""
    if not isinstance(node, dict):
        raise UserError(f"{where}={node} is not a mapping with _target_; choose an option of its config group instead")
    target = str(node.get("_target_", ""))
    group = f"one of conf/{GROUPS.get(where, where)}"
    if not target.startswith(OWN):
        raise UserError(f"{where}._target_={target} is not a class of this project; choose {group}")
    try:
        cls = get_class(target)
    except Exception as error:
        raise UserError(f"{where}._target_={target} cannot be imported ({in_one_line(error)})") from None
    if not f"{cls.__module__}.".startswith(OWN) or not is_dataclass(cls) or not hasattr(cls, KINDS[where]):
        raise UserError(f"{where}._target_={target} is no {where} of this project; choose {group}")
    return checked(cls, node, where, **built)


def checked(cls: type[T], node: dict[str, Any], where: str, **built: Any) -> T:
    """A dataclass object from a config node, whose values are replaced by the typed ones (1 by 1.0 for a float).

    Unknown keys and wrong types are UserErrors; the class itself checks ranges.
    """
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    usable = {f.name: f for f in fields(typing.cast(Any, cls)) if f.name not in built}
    values = {}
    for name, value in node.items():
        if name == "_target_" or (name in built and isinstance(value, dict)):
            continue
        if name not in usable:
            raise UserError(unknown_key(prefix, name, list(usable)))
        if is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise UserError(f"{prefix}{name}={value} is not a mapping; give {prefix}{name}.<key>=...")
            built[name] = checked(typing.cast(type, hints[name]), value, f"{prefix}{name}")
            continue
        schema = make_dataclass("Schema", [(name, hints[name])])
        try:
            typed = OmegaConf.merge(OmegaConf.structured(schema), {name: value})
            values[name] = typing.cast(dict[str, Any], OmegaConf.to_container(typed))[name]
        except OmegaConfBaseException:
            kind = hints[name].__name__ if isinstance(hints[name], type) else hints[name]
            raise UserError(f"{prefix}{name}={value} has the wrong type; it must be {kind}") from None
    for name, f in usable.items():
        if name not in values and f.default is MISSING and f.default_factory is MISSING:
            raise UserError(f"{prefix}{name} is missing; give {prefix}{name}=...")
    node.update(values)
    return cls(**values, **built)


def unknown_key(prefix: str, name: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {prefix}{close[0]}?" if close else f"allowed: {', '.join(allowed)}"
    return f"unknown key {prefix}{name}; {hint}"

"""What was trained elsewhere, a folder or a name of the Hugging Face hub; what cannot be loaded is one sentence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from data.errors import UserError, in_one_line
from data.model_files import refuse_code

disable_progress_bar()  # "writing model shards" at every checkpoint


def load_pretrained(key: str, name: str, load: Callable[[], Any]) -> Any:
    """What `load` returns; `key` is the config's, whose value is `name`."""
    if name.startswith(("/", "./", "../", "~")) and not Path(name).is_dir():
        raise UserError(f"{key}={name}: there is no such folder; give one that holds a model")
    if Path(name).is_dir():
        refuse_code(Path(name), key)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # of its retries without a network
    try:
        with quiet():
            return load()
    except (OSError, ValueError, TypeError, RuntimeError, KeyError, SafetensorError, StrictDataclassError) as error:
        raise UserError(
            f"{key}={name} cannot be loaded ({in_one_line(error)[:300]}); give a Hugging Face name that "
            "this machine can reach, a folder that holds the model, or reranker.init=scratch"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' reports of loading (weights that are new are told in our own words) and their warnings
    about their own calls of one another."""
    level = get_verbosity()
    set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        set_verbosity(level)

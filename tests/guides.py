"""What README.md and README.vi.md show: their blocks, their commands, and whether a command's config composes.

Nothing is trained. A command is taken apart as a shell would, its overrides as Hydra would; of a sweep the first and
the last job are composed. What `<run>`, `...` and /my/... stand for need not exist.
"""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from data.errors import UserError
from experiments.config import configure
from experiments.launch import ROOT, sentence
from experiments.rank import verbatim
from experiments.recompose import ASKED, FIXED

GUIDES = ("README.md", "README.vi.md")
OF_A_RUN = ("evaluate", "inspect")  # train.py's config again, so what the training has decided is refused
OF_FINISHED_RUNS = ("tables", "figures", "report")  # `experiment=` chooses runs: experiments/tables.py, `command`
OTHERS = (
    ". M=$ accelerate createdb git mlflow mypy pip pre-commit py pytest python3 ruff torchrun".split()
)  # not looked at
MODULES = ("pytest", "venv", "pip")  # `python -m` of these is not ours
BLOCK = re.compile(r"(?:<!-- file: (\S+) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    guide: str
    line: int
    language: str
    text: str
    file: str | None  # what it is to be saved as


def blocks(guide: str, text: str) -> list[Block]:
    return [
        Block(guide, text[: found.start(3)].count("\n") + 1, found[2], found[3], found[1])
        for found in BLOCK.finditer(text)
    ]


BLOCKS = [block for guide in GUIDES for block in blocks(guide, (ROOT / guide).read_text(encoding="utf-8"))]
VIETNAMESE = [block for block in BLOCKS if block.guide == "README.vi.md"]


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of a shell block: continued lines joined, comments dropped, `a && b` two commands."""
    text = re.sub(r"<[^<>\n]*>", "PLACEHOLDER", text.replace("\\\n", " "))
    text = re.sub(r"=\$\(.*\)$", "=$", text, flags=re.MULTILINE)  # a variable with the output of a command
    for line in text.splitlines():
        lexer = shlex.shlex(io.StringIO(line), posix=True, punctuation_chars="&;|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in lexer:
            if set(word) <= set("&;|"):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


COMMANDS = {
    tuple(words): f"{block.guide}:{block.line}"
    for block in reversed(BLOCKS)
    if block.language == "bash"
    for words in commands(block.text)
}


class Wrong(Exception):
    """A command that would not run."""


def check(words: list[str]) -> None:
    """Composes a command's config and builds it as far as that reads no file; `Wrong` where it would not."""
    while re.fullmatch("[A-Z_]+=[^$ ]*", words[0]):  # OMP_NUM_THREADS=1 python ...
        words = words[1:]
    if words[0] != "python":
        if words[0] not in OTHERS:
            raise Wrong(f"the program {words[0]} is not known")
        return
    if words[1] == "-m":
        package, _, name = words[2].rpartition(".")
        if package == "" and name in MODULES:
            return
        if package != "experiments" or importlib.util.find_spec(words[2]) is None:
            raise Wrong(f"there is no module {words[2]}")
        words = words[3:]
    else:
        name, words = Path(words[1]).stem, words[2:]
        if name not in ("train", "evaluate"):
            raise Wrong(f"there is no command {name}")
    if not (ROOT / "conf" / f"{name}.yaml").exists():
        raise Wrong(f"there is no conf/{name}.yaml")
    words = [word.replace("$M", "model") for word in words if not word.endswith("=...")]
    if name == "rank":
        words = [verbatim(word) for word in words]
    if name in OF_A_RUN:
        refuse_what_training_decides(words)
    if name in OF_FINISHED_RUNS:
        words = [named_experiment(word) for word in words]
    try:
        arguments = get_args_parser().parse_args(words)
    except SystemExit:
        raise Wrong(f"Hydra does not know an option of {' '.join(words)}") from None
    try:
        first, *_ = configs(name, arguments.overrides, arguments.multirun)
        if name in ("train", "evaluate") and any(map(sets_a_value, arguments.overrides)):
            build(first)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        raise Wrong(sentence(error)) from None


def configs(name: str, overrides: list[str], multirun: bool) -> Iterator[DictConfig]:
    """Of a single run, or of the first and the last job of a sweep."""
    given = OverridesParser.create().parse_overrides(overrides)
    swept = [one for one in given if one.is_sweep_override()]
    cfg = compose(name, [one.input_line for one in given if one not in swept], return_hydra_config=True)
    hydra = cfg.hydra
    with open_dict(cfg):
        del cfg["hydra"]
    if not multirun and hydra.mode != RunMode.MULTIRUN:
        if swept:
            raise Wrong(f"{swept[0].input_line} is a sweep, which needs -m")
        yield cfg
        return
    if not hydra.sweeper._target_.endswith(".BasicSweeper"):  # a search chooses its own values
        yield cfg
        return
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    [jobs] = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides([*params, *overrides]), None)
    for job in jobs if len(jobs) < 3 else (jobs[0], jobs[-1]):
        yield compose(name, job)


def sets_a_value(word: str) -> bool:
    """A value that may be wrong. Options alone are not built: tests/test_config.py builds each."""
    key = word.partition("=")[0]
    return "." in key and key not in ("dataset.path", "dataset.images", "reranker.model")


def build(cfg: DictConfig) -> None:
    """Every value is checked. An extra may be missing where the tests run, and the reader's own files are."""
    try:
        configure(cfg)
    except UserError as error:
        if not re.search("needs a package that is not installed|=/my/.* does not exist", str(error)):
            raise


def refuse_what_training_decides(words: list[str]) -> None:
    """As `with_overrides_of_the_run`; reranker= and dataset= say which run is meant."""
    for key in (word.partition("=")[0] for word in words if "=" in word):
        of_the_model = key.startswith(("trainer.", "reranker.")) and key not in ASKED
        if of_the_model or key in set(FIXED) - {"reranker"}:
            raise Wrong(f"{key}= belongs to the training of the run")


def named_experiment(word: str) -> str:
    """`experiment=` becomes `sweep=`, and must be an option or the newest sweep."""
    key, _, value = word.partition("=")
    if key != "experiment":
        return word
    if value not in ("latest", "PLACEHOLDER") and not (ROOT / "conf/experiment" / f"{value}.yaml").exists():
        raise Wrong(f"there is no conf/experiment/{value}.yaml")
    return f"sweep={value}"

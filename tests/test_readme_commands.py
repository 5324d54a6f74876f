"""The guides are true: each command of README.md and README.vi.md composes, each Python block compiles, and what the
Vietnamese guide quotes (files, conversions, errors, numbers) is read, run, provoked and found.

Nothing is trained. A command is taken apart as a shell would, its overrides as Hydra would; of a sweep the first and
the last job are composed. What `<run>`, `...` and /my/... stand for need not exist.
"""

import gc
import importlib.util
import io
import itertools
import pickle
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from data.dataset import Dataset
from data.errors import UserError
from data.sources.amazon import AmazonReviews
from data.sources.passage_files import PassageFiles
from data.sources.sequences import Sequences
from data.splits import LeaveOneOut, Temporal
from data.text_lists import read_texts
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


@pytest.fixture(scope="module", autouse=True)
def composing() -> Iterator[None]:
    """Hydra is ready, and reads each YAML once in this module."""
    read: dict[str, bytes] = {}
    load = ConfigRepository.load_config

    def load_once(repository: ConfigRepository, config_path: str) -> Any:
        if config_path not in read:
            read[config_path] = pickle.dumps(load(repository, config_path))
        return pickle.loads(read[config_path])  # a copy, for Hydra changes it

    gc.disable()  # a fifth of the time
    with pytest.MonkeyPatch.context() as patch, initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        patch.setattr(ConfigRepository, "load_config", load_once)
        yield
    gc.enable()


@pytest.mark.parametrize("words", COMMANDS, ids=[f"{place} {' '.join(words)}" for words, place in COMMANDS.items()])
def test_command(words: tuple[str, ...]) -> None:
    check(list(words))


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("python train.py reranker=bert5rec", "reranker=bert5rec does not exist; choose bert4rec"),
        ("python train.py trainer.lerning_rate=1", "unknown key trainer.lerning_rate"),
        ("python train.py trainer.learning_rate=fast", "trainer.learning_rate=fast has the wrong type"),
        ("python train.py experiment=nothing", "experiment=nothing does not exist"),
        ("python train.py seed=0,1", "seed=0,1 is a sweep, which needs -m"),
        ("python train.py -m reranker=bert4rec,nope", "reranker=nope does not exist"),
        ("python train.py experiment=lora_rank_sweep reranker.lora.rank=3", "unknown key reranker.lora.rank"),
        ("python train.py --confg job", "Hydra does not know an option"),
        ("python evaluate.py run=latest seed=1", "seed= belongs to the training"),
        ("python evaluate.py run=<run> reranker.loss=bce", "reranker.loss= belongs to the training"),
        ("python -m experiments.inspect run=latest number=3", "unknown key number"),
        ("python -m experiments.rank question='a?' passages=a.csv", "unknown key question"),
        ("python -m experiments.tables experiment=nothing", "no conf/experiment/nothing.yaml"),
        ("python -m experiments.tables form=latex", "unknown key form"),
        ("python -m experiments.compares a=1", "no module experiments.compares"),
        ("python -m experiments.results", "no conf/results.yaml"),
        ("python trian.py", "no command trian"),
        ("pythn train.py", "the program pythn is not known"),
    ],
)
def test_a_broken_command_is_found(command: str, says: str) -> None:
    with pytest.raises(Wrong, match=re.escape(says)):
        for words in commands(command):
            check(words)


def test_commands_are_taken_apart_as_a_shell_would() -> None:
    text = "a && b x=1  # don't; look\n# c\nd 'e={f: [g, h]}' \\\n  i=<the run> j='k # l'\nM=$(m -c \"n(o(p))\" | q)\n"
    parts = [["a"], ["b", "x=1"], ["d", "e={f: [g, h]}", "i=PLACEHOLDER", "j=k # l"], ["M=$"]]
    assert list(commands(text)) == parts


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: f"{b.guide}:{b.line}")
def test_python_compiles(block: Block) -> None:
    compile(block.text, f"{block.guide}:{block.line}", "exec")


# What README.vi.md quotes


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The guide's files, written where the commands are given."""
    for block in VIETNAMESE:
        if block.file is not None:
            path = tmp_path / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def convert(folder: Path) -> None:
    scripts = sorted(folder.glob("*.py"))
    assert len(scripts) == 1
    exec(compile(scripts[0].read_text(encoding="utf-8"), scripts[0].name, "exec"), {})


def taken(dataset: Dataset, user: str) -> list[str]:
    """The items of a user, oldest first."""
    events = dataset.interactions
    mine = [row for row in range(len(events.user)) if dataset.user_id[events.user[row]] == user]
    return [str(dataset.catalog.id[events.item[row]]) for row in mine]


def test_the_passages_of_the_guide_are_read(at_home: Path) -> None:
    dataset = PassageFiles(name="passages", path="clb").load(at_home)
    assert len(dataset.catalog) == 6 and dataset.queries is not None and len(dataset.queries) == 6
    several = [row for row in range(6) if (dataset.interactions.user == row).sum() > 1]
    assert [dataset.queries[row] for row in several] == ["Sinh viên năm nhất nên học lớp nào?"]
    assert all(unicodedata.is_normalized("NFC", text) for text in dataset.catalog.description)
    assert len(read_texts(Path("clb/corpus.csv"), "passages")) == 6, "experiments.rank finds the column"


def test_the_guides_conversion_is_read_by_both_sources(at_home: Path) -> None:
    convert(at_home)
    plain = Sequences(name="sequences", path="shop", missing_titles="keep").load(at_home)
    timed = AmazonReviews(name="amazon_reviews", path="shop_timed").load(at_home)
    for dataset in (plain, timed):
        assert taken(dataset, "an") == ["sp_1", "sp_2", "sp_3", "sp_4"], "by time, not by line"
        assert sorted(dataset.user_id) == ["an", "bình", "chi"]
        title = dict(zip(dataset.catalog.id, dataset.catalog.title, strict=True))
        assert title["sp_1"] == "Áo dài lụa Hà Đông"
        assert len(LeaveOneOut().split(dataset).test.histories) == 3
    assert not plain.timed and timed.timed
    assert sorted(set(timed.interactions.rating)) == [3.0, 4.0, 5.0]
    first = timed.interactions.timestamp.min()
    assert first == 1735720200, "2025-01-01 08:30 as UTC"
    assert len(
        AmazonReviews(name="amazon_reviews", path="shop_timed", min_rating=4).load(at_home).interactions.user
    ) < len(timed.interactions.user)
    Temporal(validation_share=0.2, test_share=0.2).split(timed)


def provoked() -> list[tuple[str, str]]:
    """Command and error of the blocks that show both."""
    out = []
    for block in VIETNAMESE:
        lines = block.text.splitlines()
        for command, answer in itertools.pairwise(lines):
            if block.language == "console" and command.startswith("$ ") and answer.startswith("error: "):
                out.append((command[2:], answer.removeprefix("error: ")))
    return out


@pytest.mark.parametrize(("command", "says"), provoked())
def test_the_guides_errors_are_the_true_ones(
    command: str, says: str, at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train import train

    convert(at_home)
    [[program, script, *words]] = commands(command)
    assert (program, script) == ("python", "train.py")
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises((UserError, HydraException, OmegaConfBaseException)) as caught:
        train(compose("train", [f"paths.root={at_home}", "tracking=none", *words]))
    assert sentence(caught.value) == says


def test_every_error_of_the_guide_is_provoked() -> None:
    shown = sum(line.startswith("error: ") for block in VIETNAMESE for line in block.text.splitlines())
    assert shown == len(provoked()) > 5


def test_the_guides_numbers_stand_in_the_readme() -> None:
    """Output that is quoted (blocks without a language) is quoted line by line."""
    english = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    quoted = [line for block in VIETNAMESE if not block.language for line in block.text.splitlines()]
    assert quoted
    assert not [line for line in quoted if line.strip() not in ("", "...") and line not in english]


def test_the_guide_is_composed_vietnamese() -> None:
    text = (ROOT / "README.vi.md").read_text(encoding="utf-8")
    assert unicodedata.is_normalized("NFC", text)
    assert "README.vi.md" in (ROOT / "README.md").read_text(encoding="utf-8").split("\n## ")[0]


def test_links_inside_the_guide_lead_somewhere() -> None:
    text = (ROOT / "README.vi.md").read_text(encoding="utf-8")
    titles = [line.lstrip("#").strip().lower() for line in text.splitlines() if line.startswith("#")]
    anchors = {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}
    assert not [name for name in re.findall(r"\]\(#([^)]+)\)", text) if name not in anchors]
    assert not [name for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text) if not (ROOT / name).exists()]

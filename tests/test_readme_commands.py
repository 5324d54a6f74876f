"""Every command of README.md and README.vi.md composes: its dry form."""

from __future__ import annotations

import py_compile
import re
from pathlib import Path

import pytest
from guides import BLOCKS, COMMANDS, Block, Wrong, check, commands

pytestmark = pytest.mark.usefixtures("composing")


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
def test_python_compiles(block: Block, tmp_path: Path) -> None:
    (script := tmp_path / "block.py").write_text(block.text, encoding="utf-8")
    py_compile.compile(str(script), dfile=f"{block.guide}:{block.line}", doraise=True)


# What README.vi.md quotes

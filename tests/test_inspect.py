"""python -m experiments.inspect on a finished run: history or prompt, truth, top five, hit or miss."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, command
from fake_letters import FakeLetters

from data.errors import UserError
from experiments import stages
from experiments.config import configure
from experiments.evidence import chosen, score, take
from experiments.inspect import balanced, described, main, searched, show_request


def test_a_run_is_inspected(tmp_path: Path) -> None:
    root = f"paths.root={tmp_path}"
    made = command("train.py", root, "tracking=none", *TINY, "trainer.num_train_epochs=6", "candidates=full")
    assert made.returncode == 0, made.stderr
    done = command("-m", "experiments.inspect", root, "n=4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("HIT (Hit@10)") == 2 and done.stdout.count("MISS (Hit@10)") == 2
    assert done.stdout.count("Truth: ") == 4 and "<- truth" in done.stdout and "first stage" in done.stdout
    assert done.stdout.count("oldest first") == 4 and "probability" in done.stdout


def test_letters_show_the_exact_prompt(config: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    experiment = configure(config("reranker=popularity", "dataset.n_users=300"))
    data = stages.open_data(experiment, stages.load(experiment))
    reranker = FakeLetters(name="letters")
    reranker.build(data.dataset, data.split)
    part = take(data.test, chosen(300, 60, 0))
    scored = score(reranker, part, keep=True)
    shown = balanced(scored, 1, 4)
    ranks = scored.evaluated.ranks.best
    assert [bool(ranks[row] <= 1) for row in shown] == [True, True, False, False]
    found = shown[0]
    show_request(reranker, scored, found)
    text = capsys.readouterr().out
    assert reranker.inputs(part.requests.take(slice(found, found + 1)))[0] in text
    first = next(line for line in text.splitlines() if "│    1 │" in line)
    assert "<- truth" in first and "place" not in first, "letters, not places"
    assert f"{np.exp(scored.logits[found]).max():.3f}" in first
    with pytest.raises(UserError, match="user=x has no test request"):
        searched(data.test, "x", 1, 0)


def test_the_newest_run_is_taken_where_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["inspect", f"paths.root={tmp_path}"])
    with pytest.raises(UserError, match="has no finished run"):
        main()


def test_a_query_is_shown_with_the_words_of_its_passages(
    passages: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = configure(passages("protocol.fold=0"))
    data = stages.open_data(experiment, stages.load(experiment))
    scored = score(experiment.reranker, data.test, keep=True)
    assert described(scored, 0, 5).startswith("query q")
    show_request(experiment.reranker, scored, 0)
    shown = capsys.readouterr().out
    assert f"Query: {data.test.requests.queries[0]}" in shown and "history" not in shown.lower()
    truth = data.test.relevance.items.row(0)[0]
    assert f"Truth: {data.dataset.catalog.description[truth][:20]}" in shown
    assert f"[{data.dataset.catalog.id[truth]}]" in shown

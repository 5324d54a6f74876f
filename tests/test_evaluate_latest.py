"""run=latest: the newest finished run of a reranker and a dataset, and what is said when there is none."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, command

from data.dataset import Ragged, Requests
from data.errors import UserError
from experiments.find_run import newest
from experiments.recompose import with_overrides_of_the_run


def finished(root: Path, name: str, age: int, *overrides: str, folds: tuple[str, ...] = ()) -> Path:
    """A run folder as far as it is looked at: `<dataset>-<reranker>-<hash>`, finished `age` seconds ago."""
    folder = root / "runs" / name
    folder.mkdir(parents=True)
    dataset, reranker, _ = name.split("-")
    (folder / "overrides.yaml").write_text("\n".join(f"- {word}" for word in overrides) or "[]")
    (folder / "config.yaml").write_text("reranker: {model: null}")
    manifest = {"dataset": dataset, "reranker": reranker} | ({"folds": dict.fromkeys(folds)} if folds else {})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    os.utime(folder / "manifest.json", (1e9 - age, 1e9 - age))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    finished(tmp_path, "proptit-viranker-0", 50, "reranker=viranker_quick", "dataset=proptit", "dataset.path=/p")
    finished(tmp_path, "proptit-viranker-1", 40, "reranker=viranker", "dataset=proptit", "reranker.seed=1")
    finished(tmp_path, "xquad-viranker-2", 30, "reranker=viranker", "dataset=squad", "dataset.name=xquad")
    finished(tmp_path, "demo-bert4rec-3", 20, "seed=3")
    finished(tmp_path, "proptit-viranker-4", 10, "reranker=viranker", "dataset=proptit", folds=("a", "b"))
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found", "left"),
    [
        ([], "demo-bert4rec-3", ["seed=3"]),
        (["reranker=viranker"], "xquad-viranker-2", ["reranker=viranker", "dataset=squad", "dataset.name=xquad"]),
        (
            ["reranker=viranker", "dataset=proptit"],
            "proptit-viranker-1",
            ["reranker=viranker", "dataset=proptit", "reranker.seed=1"],
        ),
        (
            ["reranker=viranker_quick"],
            "proptit-viranker-0",
            ["reranker=viranker_quick", "dataset=proptit", "dataset.path=/p"],
        ),
        (["dataset=squad"], "xquad-viranker-2", ["reranker=viranker", "dataset=squad", "dataset.name=xquad"]),
        (["dataset=demo", "candidates.size=9"], "demo-bert4rec-3", ["seed=3", "candidates.size=9"]),
    ],
)
def test_the_newest_that_fits_with_its_own_settings(
    asked: list[str], found: str, left: list[str], runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = with_overrides_of_the_run([f"paths.root={runs}", "run=latest", *asked])
    assert words[-1] == f"run={runs / 'runs' / found}"
    assert [word for word in words[:-1] if not word.startswith(("paths.root", "hydra."))] == left
    assert capsys.readouterr().out == ""


def test_on_another_dataset_it_says_which(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = with_overrides_of_the_run([f"paths.root={runs}", "run=latest", "reranker=viranker", "dataset=demo"])
    assert words[-1].endswith("xquad-viranker-2") and "dataset=demo" in words
    assert not [word for word in words if word.startswith("dataset.")], "the settings of the other dataset go"
    assert "the newest, xquad-viranker-2, was trained on xquad" in capsys.readouterr().out


def test_of_a_fold_it_says_which(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = finished(runs, "proptit-viranker-5", 5, "reranker=viranker", "dataset=proptit", "protocol.fold=2")
    assert newest(runs, "viranker", "proptit") == folder
    assert capsys.readouterr().out == "the newest run, proptit-viranker-5, is of fold 2 alone\n"


def test_what_is_refused(runs: Path) -> None:
    root = f"paths.root={runs}"
    with pytest.raises(UserError) as raised:
        with_overrides_of_the_run([root, "run=latest", "reranker=vip5", "dataset=proptit"])
    for said in (
        "no finished run of reranker=vip5",
        "`python train.py reranker=vip5 dataset=proptit`",
        "num_train_epochs=0",
    ):
        assert said in str(raised.value)
    with pytest.raises(UserError, match="reranker= belongs to the training"):
        with_overrides_of_the_run([root, "run=demo-bert4rec-3", "reranker=viranker"])
    same = with_overrides_of_the_run([root, "run=proptit-viranker-1", "reranker=viranker"])
    assert same.count("reranker=viranker") == 1 and "reranker.seed=1" in same
    with pytest.raises(UserError, match="pools 2 folds"):
        with_overrides_of_the_run([root, "run=proptit-viranker-4"])


def test_the_command(tmp_path: Path) -> None:
    root = [f"paths.root={tmp_path}", "tracking=none"]
    assert command("train.py", "-m", "reranker=popularity,random", *root, *SMALL).returncode == 0
    done = command("evaluate.py", *root, "run=latest", "reranker=popularity", "dataset=demo", "candidates.size=15")
    assert done.returncode == 0, done.stderr
    assert "popularity" in done.stdout and len(list(tmp_path.glob("runs/demo-popularity-*/evaluations/*"))) == 1
    none = command("evaluate.py", *root, "run=latest", "reranker=sasrec")
    assert none.returncode == 2 and "there is no finished run of reranker=sasrec" in none.stderr
    assert none.stderr.count("\n") == 1


def test_queries_that_were_trained_on_are_no_test() -> None:
    """Under whatever file, fold or case they come; see `evaluate.unseen`."""
    from evaluate import unseen
    from experiments.stages import query_hashes

    asked = Requests(None, np.arange(2), Ragged.empty(2), queries=np.array(["Where  is it", "who"], dtype=object))  # type: ignore[arg-type]
    unseen(query_hashes(np.array(["what"], dtype=object)), asked)
    with pytest.raises(UserError, match="1 of the 2 test queries were trained on"):
        unseen(query_hashes(np.array(["where is it", "what"], dtype=object)), asked)


def test_a_trained_model_may_be_asked_in_another_way(tmp_path: Path) -> None:
    folder = finished(tmp_path, "demo-vip5-0", 0, "reranker=vip5", "reranker.scorer=beam", "reranker.beams=10")
    new = ["reranker.scorer=yes_no", "reranker.template=A-8"]
    words = with_overrides_of_the_run([f"paths.root={tmp_path}", "run=latest", *new])
    assert words[1:3] == ["reranker=vip5", "reranker.beams=10"] and set(new) < set(words)
    assert words[-1] == f"run={folder}"


def test_what_the_environment_named_stays_with_the_run(runs: Path) -> None:
    """`reranker.model` may come from a variable that is not set any more when the run is evaluated."""
    trained = runs / "runs" / "xquad-viranker-2"
    (trained / "config.yaml").write_text("reranker: {model: /it's/mine, image_encoder: null}")
    words = with_overrides_of_the_run([f"paths.root={runs}", f"run={trained}"])
    assert r"reranker.model='/it\'s/mine'" in words
    (trained / "overrides.yaml").write_text("[reranker=viranker, reranker.model=named]")
    words = with_overrides_of_the_run([f"paths.root={runs}", f"run={trained}"])
    assert [word for word in words if word.startswith("reranker.model")] == ["reranker.model=named"]

"""Kills in the middle of things: what mends them, what finds a torn file, and a chain of them on one root."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import QUICK, command, only_run
from safetensors.torch import save_file

from data import files
from data.files import write_arrays, write_atomically, write_json, write_parquet
from experiments.endurance.forks import Forks
from experiments.endurance.killed import is_file
from experiments.endurance.whole import leftovers, torn, unlike
from experiments.runs import Run
from rerankers.checkpoints import MarkComplete
from train import train


def test_what_a_killed_process_left_is_cleared_away_by_the_next_write(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {
        "dead": f"a.json.{files.HOST}-{ended.pid}-1.partial",
        "at work": f"a.json.{files.HOST}-{os.getppid()}-1.partial",
        "of another machine": f"a.json.elsewhere-{ended.pid}-1.partial",
        "dead, of another file": f"b.json.{files.HOST}-{ended.pid}-1.partial",
    }
    for name in names.values():
        (tmp_path / name).touch()
    write_atomically(tmp_path / "a.json", "1")
    assert {path.name for path in tmp_path.iterdir()} == {names["at work"], names["of another machine"], "a.json"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomically(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a.json", "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.json", "old")]


def checkpoints(folder: Path, *steps: int) -> None:
    for step in steps:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        for name in ("complete", "model.safetensors", "optimizer.pt"):
            (folder / f"checkpoint-{step}" / name).touch()


def test_an_old_checkpoint_loses_its_mark_after_the_new_one_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best is the first, so the second is deleted: the one that a kill would be continued from."""
    checkpoints(tmp_path, 3, 6)
    (tmp_path / "checkpoint-9").mkdir()
    whole: list[set[str]] = []

    def killed(path: Path) -> None:
        whole.append({mark.parent.name for mark in tmp_path.glob("*/complete")})
        assert path.name == "checkpoint-6"

    monkeypatch.setattr(shutil, "rmtree", killed)
    state = SimpleNamespace(global_step=9, best_global_step=3, is_world_process_zero=True)
    MarkComplete(2).on_save(SimpleNamespace(output_dir=tmp_path, world_size=1), state, None)  # type: ignore[arg-type]
    assert whole == [{"checkpoint-3", "checkpoint-9"}]
    MarkComplete(None).on_save(SimpleNamespace(output_dir=tmp_path, world_size=1), state, None)  # type: ignore[arg-type]
    assert len(whole) == 1, "without a limit all stay"


def test_kept_checkpoints_survive_a_kill_while_they_are_put_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    checkpoints(run.checkpoints, 3, 6)
    unlink, deaths = Path.unlink, iter(range(3))

    def killed(path: Path, missing_ok: bool = False) -> None:
        if next(deaths, None) == 2:  # after the first marks
            raise KeyboardInterrupt
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", killed)
    with pytest.raises(KeyboardInterrupt):
        run.put_checkpoints_away(keep=True)
    monkeypatch.setattr(Path, "unlink", unlink)
    run.put_checkpoints_away(keep=True)
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {"checkpoint-3/model.safetensors", "checkpoint-6/model.safetensors"}


def test_a_run_that_is_half_deleted_by_force_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)
    (tmp_path / "manifest.json").touch()
    monkeypatch.setattr(shutil, "rmtree", lambda folder: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), run.start({}, True, None):  # type: ignore[arg-type]
        pass
    assert not run.complete


def test_the_same_command_ends_a_mirror_that_was_cut_off_after_the_manifest(
    config: Callable[..., Any], tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*QUICK, "tracking=mlflow", f"tracking.uri={uri}"]
    with monkeypatch.context() as patched:
        finish = "experiments.run_mirror.RunMirror.finish"
        patched.setattr(finish, lambda self, failed: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(config(*words))
    assert Run(only_run(tmp_path)).complete
    assert "RUNNING" in str(unlike(tmp_path, tmp_path / "mlflow.db"))
    train(config(*words))
    assert unlike(tmp_path, tmp_path / "mlflow.db") == []


def test_a_torn_file_of_every_kind_is_found(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    write_atomically(tmp_path / "a.yaml", 'a: "one two three"\n')
    write_parquet(tmp_path / "a.parquet", pd.DataFrame({"a": np.arange(100)}))
    save_file({"a": torch.zeros(100)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.pt")
    write_arrays(tmp_path / "a.npz", a=np.arange(100))
    write_atomically(tmp_path / "a.zip.sha256", "0" * 64)
    with sqlite3.connect(tmp_path / "a.db") as base:
        base.execute("CREATE TABLE a AS SELECT zeroblob(20000) AS b")
    base.close()
    assert torn(tmp_path) == []
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert [said.split(" is torn")[0] for said in torn(tmp_path)] == [path.name]
        path.write_bytes(whole)
    write_atomically(tmp_path / "curves.jsonl", '{"a": 1}\n{"a": 2}\n{"a"')
    assert torn(tmp_path) == [], "a kill may tear the last line"
    (run := tmp_path / "done").mkdir()
    shutil.copy(tmp_path / "curves.jsonl", run)
    write_json(run / "manifest.json", {})
    assert "done/curves.jsonl is torn" in str(torn(tmp_path)), "but not of a run that is finished"
    shutil.rmtree(run)
    write_atomically(tmp_path / "curves.jsonl", '{"a": 1}\n{"a"\n{"a": 2}\n')
    assert "curves.jsonl is torn" in str(torn(tmp_path))


def test_a_folder_that_says_it_is_whole_is_looked_into(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "x"
    write_json(run / "manifest.json", {})
    assert "runs/x/manifest.json without metrics.json" in torn(tmp_path)
    (run / "manifest.json").unlink()
    checkpoint = run / "checkpoints" / "checkpoint-3"
    write_atomically(checkpoint / "model.safetensors", "to")
    write_atomically(run / "model.partial" / "training.json", "{")
    assert torn(tmp_path) == [], "neither says so"
    (checkpoint / "complete").touch()
    assert any("model.safetensors is torn" in said for said in torn(tmp_path))
    assert any("checkpoint-3/complete without optimizer.pt" in said for said in torn(tmp_path))
    (tmp_path / "a.json.1.partial").touch()
    assert len(leftovers(tmp_path)) == 3


def test_places_are_told_by_the_name_that_a_file_will_have() -> None:
    for path in ("/r/a.json", "/r/a.json.partial", "/r/a.json.host-12.partial"):
        assert is_file(path, "a.json")
        assert is_file(Path(path), "r/*.json")
        assert not is_file(path, "json")
    assert is_file("/r/model.partial/a.json", "model.partial/a.json")
    assert not is_file("/r/ba.json", "a.json")


@pytest.mark.slow
def test_a_chain_of_kills_on_one_root(tmp_path: Path) -> None:
    """The places of `python -m experiments.endure cases=[interruptions]` that tell most, for one reranker."""
    quick = ["tracking=none", *QUICK, "trainer.eval_strategy=steps", "trainer.eval_steps=3", "trainer.max_steps=12"]
    places = [
        "half:candidates/*.parquet",
        "half:checkpoint-6/optimizer.pt",
        "calling:rerankers.checkpoints.MarkComplete.on_save",
        "deleting:checkpoint-*[0-9]",
        "half:model.partial/*.safetensors",
        "scoring",
        "after:metrics.json",
        "half:manifest.json",
    ]
    root, log = tmp_path / "killed", tmp_path / "log"
    words = ["train.py", *quick, f"paths.root={root}"]
    with Forks() as forks:
        assert forks.run(["train.py", *quick, f"paths.root={tmp_path / 'whole'}"], log)[0] == 0, log.read_text()
        for place in places:
            assert forks.run(words, log, place=place)[0] == -signal.SIGKILL, log.read_text()
            assert torn(root) == [], place
            assert not list(root.rglob("manifest.json"))
        assert list(root.rglob("manifest.json.*.partial")), "which the next write clears away"
        assert forks.run(words, log, place="full:per_request.parquet")[0] == 2
        assert log.read_text().splitlines()[-1].startswith("error: no space left on")
        assert torn(root) == []
        assert forks.run(words, log)[0] == 0, log.read_text()
    assert torn(root) + leftovers(root) == []
    expected = json.loads((only_run(tmp_path / "whole") / "metrics.json").read_text())
    assert json.loads((only_run(root) / "metrics.json").read_text()) == expected


def test_the_command_kills_itself(tmp_path: Path) -> None:
    killed = ["-m", "experiments.endurance.killed", "half:config.yaml", "1", "train.py", "tracking=none", *QUICK]
    assert command(*killed, f"paths.root={tmp_path}").returncode == -signal.SIGKILL
    (partial,) = only_run(tmp_path).iterdir()
    assert partial.name.startswith("config.yaml.")
    assert partial.stat().st_size > 0

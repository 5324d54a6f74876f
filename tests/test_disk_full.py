"""A full disk is told in one sentence, whichever library met it."""

import errno
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf
from safetensors import SafetensorError

from data.errors import UserError
from experiments import launch
from experiments.disk_full import no_space
from experiments.endurance.disk import Disk

FULL = OSError(errno.ENOSPC, "No space left on device")
TORCH = RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device"),  # pyarrow
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),  # tokenizers
        sqlite3.OperationalError("database or disk is full"),
        UserError("https://example.org could not be fetched ([Errno 28] No space left on device); run again"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_each_librarys_full_disk_is_the_same_sentence(error: Exception, tmp_path: Path) -> None:
    sentence = no_space(error, [tmp_path])
    assert sentence is not None
    assert sentence.startswith("no space left on /")
    assert sentence.endswith(": free some and repeat the command; it continues")
    assert launch.told(error) == no_space(error)


def test_the_file_is_named_where_it_is_known_and_the_fullest_place_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = {tmp_path: 10}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free.get(place, 1 << 40)))
    assert str(no_space(OSError(errno.ENOSPC, "No space left", "/a/file"))).startswith("no space left on /a/file:")
    assert str(no_space(FULL, [tmp_path / "not" / "there"])).startswith(f"no space left on {tmp_path}:")


def test_torchs_failed_write_has_no_reason_so_the_disk_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for free, told in ((4096, True), (1 << 40, False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        assert (no_space(TORCH, [tmp_path]) is not None) == told


def test_what_is_raised_for_a_full_disk_is_one_and_what_is_not_is_none() -> None:
    try:
        try:
            raise FULL
        except OSError as error:
            raise ValueError("cannot save") from error
    except ValueError as error:
        assert no_space(error)
    for other in (OSError(errno.EACCES, "Permission denied"), ValueError("no space"), RuntimeError("inline")):
        assert no_space(other) is None


@pytest.mark.parametrize("error", [FULL, SafetensorError("(os error 28)"), UserError("(os error 28)")], ids=repr)
def test_a_command_and_a_job_of_a_sweep_end_in_the_sentence_and_with_2(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def task(cfg: Any) -> None:
        raise error

    cfg = OmegaConf.create({"paths": {"root": str(tmp_path), "cache": str(tmp_path / "cache")}})
    monkeypatch.setattr(launch, "places", [])
    free = {tmp_path: 10}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free.get(place, 1 << 40)))
    monkeypatch.setattr(launch, "failed", [])
    monkeypatch.setattr(launch, "sweeping", lambda: False)
    launch.job(task)(cfg)
    (said,) = launch.failed
    assert str(said).startswith(f"no space left on {tmp_path}:")
    hydra = SimpleNamespace(overrides=SimpleNamespace(task=["seed=0"]))
    monkeypatch.setattr(launch.HydraConfig, "get", lambda: hydra)
    monkeypatch.setattr("experiments.gpus.take", lambda: None)
    with pytest.raises(launch.JobFailed, match=r"no space left on .* it continues \(seed=0\)") as raised:
        launch.run_job(task, cfg)
    assert raised.value.exit_code == 2
    assert launch.told(raised.value) == str(raised.value)
    assert "Traceback" not in caplog.text


def test_what_the_disk_case_looks_at(tmp_path: Path) -> None:
    log = tmp_path / "disk.log"
    disk = Disk(None, tmp_path / "disk", [], {})  # type: ignore[arg-type]
    (tmp_path / "disk").mkdir()
    for code, said, wrong in ((2, "error: no space left on /a", 0), (1, "no space left on /a", 1), (2, "OSError", 1)):
        log.write_text(said)
        disk._look(code, "x")
        assert len(disk.tried[-1][1]) == wrong
    disk._end(1)
    assert [len(wrong) for _, wrong in disk.tried] == [1, 2, 2]

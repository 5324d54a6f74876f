"""python -m experiments.compare: two runs of the same candidates, request by request."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig, OmegaConf

from data.errors import UserError
from experiments.compare import compare
from train import train


def runs(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "runs").iterdir())


def test_differences_are_those_of_the_runs_and_other_candidates_are_refused(
    config: Callable[..., DictConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = ["diagnose=off", "protocol.primary=ndcg_at_5"]
    values = [train(config(f"reranker={name}", *quiet))["test/ndcg_at_5"] for name in ("first_stage", "popularity")]
    first, popular = runs(tmp_path)
    capsys.readouterr()

    def asked(a: str, b: str) -> DictConfig:
        return OmegaConf.create({"a": a, "b": b, "paths": {"root": str(tmp_path)}})

    found = compare(asked(first, popular))
    assert found["difference"] == pytest.approx(values[0] - values[1]) and found["p"] < 0.01
    table = capsys.readouterr().out
    a, b = (pd.read_parquet(tmp_path / "runs" / name / "per_request.parquet") for name in (first, popular))
    better = int((a["ndcg_at_5"].to_numpy() > b["ndcg_at_5"].to_numpy()).sum())
    assert f"{values[0] - values[1]:+.4f}" in table and f"{better:,} " in table
    assert compare(asked(popular, first))["difference"] == pytest.approx(-found["difference"])
    assert compare(asked(first, first)) == {}

    train(config("reranker=popularity", "candidates.size=15", *quiet))
    (other,) = set(runs(tmp_path)) - {first, popular}
    with pytest.raises(UserError, match="did not rank the same candidates"):
        compare(asked(first, other))

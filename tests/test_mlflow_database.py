"""A database of MLflow whose tables were half made when a kill came."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from experiments.mlflow_database import make_database


def test_a_database_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mlflow.db"

    def killed(uri: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_text("half the tables")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_database(f"sqlite:///{path}", killed)
    assert not path.exists()
    path.with_name("mlflow.db.partial").write_text("half the tables, of a process that could not tidy up")

    def client(uri: str) -> SimpleNamespace:
        partial = Path(uri.removeprefix("sqlite:///"))
        assert not partial.exists()
        return SimpleNamespace(get_experiment=lambda number: partial.write_text("tables"))

    make_database(f"sqlite:///{path}", client)
    make_database(f"sqlite:///{path}", killed)  # it is there
    make_database("http://127.0.0.1:9", killed)  # a server makes its own
    assert [(left.name, left.read_text()) for left in path.parent.iterdir()] == [("mlflow.db", "tables")]

"""Tables of finished runs: what is averaged, compared, marked, refused, left out and traced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tiny_runs import METRICS, hits, make_run

from data.errors import UserError
from experiments.collect import select
from experiments.significance import holm
from experiments.table import Column, Row, Table
from experiments.table_building import build
from experiments.table_formats import markdown
from experiments.table_origins import traced
from experiments.table_text import caption, number, seeds, verdict

N = 400


def table_of(root: Path, runs: str | list[str] = "demo-*", **settings: object) -> Table:
    return build(select(root, None, runs), **settings)  # type: ignore[arg-type]


def row(table: Table, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def test_a_row_is_the_mean_and_deviation_over_its_seeds(tmp_path: Path) -> None:
    values = [hits(rate, N, seed) for seed, rate in enumerate((0.5, 0.55, 0.6))]
    for seed, each in enumerate(values):
        make_run(tmp_path, "bert4rec", seed, each)
    cell = row(table_of(tmp_path), "bert4rec").cells[Column(0, "recall_at_10")]
    means = [each[:, 1].mean() for each in values]
    assert cell.values == pytest.approx(means)
    assert (cell.mean, cell.deviation) == pytest.approx((np.mean(means), np.std(means, ddof=1)))
    assert number(cell, Column(0, "recall_at_10")) == f"{np.mean(means):.4f} ± {np.std(means, ddof=1):.4f}"


def test_fewer_than_three_seeds_show_their_values(tmp_path: Path) -> None:
    for seed, rate in enumerate((0.5, 0.6)):
        make_run(tmp_path, "bert4rec", seed, hits(rate, N, seed))
    table = table_of(tmp_path)
    cell = row(table, "bert4rec").cells[Column(0, "recall_at_10")]
    assert number(cell, Column(0, "recall_at_10")) == ", ".join(f"{value:.4f}" for value in cell.values)
    assert "fewer than 3 seeds: their values" in caption(table)


def test_tests_are_paired_over_requests_with_seeds_averaged(tmp_path: Path) -> None:
    values = {name: [hits(rate, N, 10 * i + s) for s in range(3)] for i, (name, rate) in enumerate(RATES.items())}
    for name, each in values.items():
        for seed, one in enumerate(each):
            make_run(tmp_path, name, seed, one)
    table = table_of(tmp_path)
    first_stage, popularity = hits(0.4, N, 99), hits(0.25, N, 98)
    for m, metric in enumerate(METRICS):
        column = Column(0, metric)
        p_permutation = []
        for name, each in [*values.items(), ("popularity", [popularity])]:
            cell = row(table, name).cells[column]
            difference = np.mean(each, axis=0)[:, m] - first_stage[:, m]
            assert cell.comparison is not None
            assert cell.comparison.difference == pytest.approx(difference.mean())
            assert cell.comparison.p_t == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
            assert cell.comparison.p_permutation == pytest.approx(cell.comparison.p_t, abs=0.03)
            p_permutation.append(cell.comparison.p_permutation)
        adjusted = holm(p_permutation)  # one family of a metric: all rows but the one compared with
        found = [row(table, name).cells[column].p_holm for name in [*values, "popularity"]]
        assert found == pytest.approx(adjusted)
    assert row(table, "vip5").cells[Column(0, "recall_at_10")].verdict == 1
    assert row(table, "popularity").cells[Column(0, "recall_at_10")].verdict == -1
    assert row(table, "qwen_letter").cells[Column(0, "recall_at_10")].verdict == 0


RATES = {"bert4rec": 0.5, "vip5": 0.7, "qwen_letter": 0.39}


def test_best_and_second_leave_chance_and_ceilings_aside(tmp_path: Path) -> None:
    for name, rate in RATES.items():
        make_run(tmp_path, name, 0, hits(rate, N, 1))
    table, column = table_of(tmp_path), Column(0, "recall_at_10")
    assert [r.label for r in table.rows if column in r.cells and r.cells[column].best] == ["vip5"]
    assert [r.label for r in table.rows if column in r.cells and r.cells[column].second] == ["bert4rec"]
    assert row(table, "perfect order").cells[column].mean == 0.9


def test_what_is_inside_chances_interval_is_marked(tmp_path: Path) -> None:
    make_run(tmp_path, "vip5", 0, hits(0.2, N, 5))
    table = table_of(tmp_path)
    assert row(table, "vip5").cells[Column(0, "recall_at_10")].at_chance
    assert any("it is what chance gives" in line for line in verdict(table))


def test_rows_are_what_tells_runs_apart_and_keys_that_follow_from_others_are_not_named(tmp_path: Path) -> None:
    for r in (8, 16):
        for seed in range(2):
            config = {"reranker.lora.r": r, "reranker.lora.lora_alpha": 2 * r, "trainer.logging_steps": 10 + seed}
            make_run(tmp_path, "qwen_letter", seed, hits(0.5, N, seed), config)
    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 7))
    labels = [r.label for r in table_of(tmp_path).rows if r.kind == "method"]
    assert labels == ["bert4rec", "qwen_letter r=16", "qwen_letter r=8"]


def test_averaging_over_anything_but_seeds_is_refused(tmp_path: Path) -> None:
    for rate in (0.001, 0.01):
        make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1), {"trainer.learning_rate": rate})
    with pytest.raises(UserError, match=r"would average runs of bert4rec that differ in trainer\.learning_rate"):
        table_of(tmp_path, rows=["reranker"])
    assert len([r for r in table_of(tmp_path, rows=["trainer.learning_rate"]).rows if r.kind == "method"]) == 2


def test_other_candidates_are_refused_with_the_key_and_columns_keep_them_apart(tmp_path: Path) -> None:
    for size in (20, 50):
        make_run(tmp_path, "bert4rec", 0, hits(0.5, N, size), candidates=size)
    with pytest.raises(UserError, match=r"candidates\.size=20 .* and 50 in .*columns=\[candidates\.size\]"):
        table_of(tmp_path)
    table = table_of(tmp_path, columns=["candidates.size"])
    assert [block.values for block in table.blocks] == [{"candidates.size": 20}, {"candidates.size": 50}]
    assert set(row(table, "bert4rec").cells) >= {Column(0, "recall_at_10"), Column(1, "recall_at_10")}


@pytest.mark.parametrize(
    "changed", [{"candidates_sha256": "other"}, {"interactions_sha256": "other"}, {"n_requests": 7}]
)
def test_changed_data_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1))
    make_run(tmp_path, "vip5", 0, hits(0.5, N, 1), **changed)
    with pytest.raises(UserError, match="with the same config; the data or the code has changed"):
        table_of(tmp_path)


def test_two_runs_of_one_seed_are_not_averaged(tmp_path: Path) -> None:
    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1))
    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 2), tail="-again")
    with pytest.raises(UserError, match="the same config with the same seed"):
        table_of(tmp_path)


def test_untrained_runs_are_left_out_and_said(tmp_path: Path) -> None:
    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1))
    make_run(tmp_path, "vip5", 0, hits(0.2, N, 1), labels=("untrained, init=scratch",))
    table = table_of(tmp_path)
    assert "vip5" not in [r.label for r in table.rows]
    assert any("untrained=true" in line for line in verdict(table))
    shown = row(table_of(tmp_path, untrained=True), "vip5")
    assert shown.notes == ["untrained, init=scratch"]


def test_a_sweeps_table_says_what_is_absent(tmp_path: Path) -> None:
    jobs = []
    for seed in range(3):
        folder = make_run(tmp_path, "bert4rec", seed, hits(0.5, N, seed))
        make_run(tmp_path, "vip5", seed, hits(0.6, N, seed)) if seed < 2 else None
        jobs.append({"overrides": [f"seed={seed}"], "run": folder.name, "error": None})
        jobs.append(
            {"overrides": ["reranker=vip5", f"seed={seed}"], "run": f"demo-vip5-retrieved50-{seed}", "error": None}
        )
    record = {"name": "x-1", "experiment": "x", "swept": ["reranker", "seed"], "jobs": jobs, "table": {}}
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "x-1.json").write_text(json.dumps(record))
    table = build(select(tmp_path, "x", None))
    assert any(
        "INCOMPLETE, 1 jobs have no finished run: reranker=vip5 seed=2: not finished" in v for v in verdict(table)
    )
    assert (seeds(row(table, "vip5"), table), seeds(row(table, "bert4rec"), table)) == ("2 of 3", "3")


def test_every_cell_is_traced_to_its_runs(tmp_path: Path) -> None:
    for seed in range(3):
        make_run(tmp_path, "bert4rec", seed, hits(0.5, N, seed))
    table = table_of(tmp_path)
    origins = traced(table)
    shown = {(r.label, column.key) for r in table.rows for column in r.cells}
    assert {(cell["row"], cell["column"]) for cell in origins["cells"]} == shown
    for cell in origins["cells"]:
        assert cell["runs"] and set(cell["runs"]) <= set(origins["runs"])
    one = origins["runs"]["demo-bert4rec-retrieved50-1"]
    assert (one["seed"], one["git_sha"], one["data_sha256"]) == (1, "abc", "d" * 64)
    assert Path(one["config"]).exists()


def test_another_row_can_be_compared_with(tmp_path: Path) -> None:
    for name, rate in RATES.items():
        make_run(tmp_path, name, 0, hits(rate, N, 1))
    table = table_of(tmp_path, against="vip5")
    assert row(table, "first stage (EASE)").cells[Column(0, "recall_at_10")].verdict == -1
    with pytest.raises(UserError, match="against=nothing is no row of the table; choose of"):
        table_of(tmp_path, against="nothing")


def test_requests_in_another_order_are_matched(tmp_path: Path) -> None:
    import pandas as pd

    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1))
    folder = make_run(tmp_path, "bert4rec", 1, hits(0.6, N, 2))
    before = row(table_of(tmp_path), "bert4rec").per_request[0]
    path = folder / "per_request.parquet"
    pd.read_parquet(path).sample(frac=1, random_state=0).to_parquet(path, index=False)
    assert np.array_equal(row(table_of(tmp_path), "bert4rec").per_request[0], before)


def test_no_run_and_no_such_metric_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep in"):
        select(tmp_path, None, None)
    make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1))
    with pytest.raises(UserError, match="is no run in"):
        select(tmp_path, None, "nothing-*")
    with pytest.raises(UserError, match="metrics has mrr_at_3, which these runs do not have"):
        table_of(tmp_path, metrics=["mrr_at_3"])


def test_a_pool_stands_for_its_folds(tmp_path: Path) -> None:
    folds = [
        make_run(
            tmp_path, "viranker", 0, hits(0.5, N, f), {"protocol.fold": f}, tail="-fold", candidates_sha256=str(f)
        )
        for f in range(2)
    ]
    pool = make_run(tmp_path, "viranker", 0, hits(0.5, N, 3), folds={folder.name: "" for folder in folds})
    assert [run.folder for run in table_of(tmp_path).runs] == [pool]
    with pytest.raises(UserError, match=r"protocol\.fold=0 in .* and 1 in"):
        table_of(tmp_path, "*-fold")


def test_first_stages_of_two_blocks_share_a_row(tmp_path: Path) -> None:
    for retriever, sha in (("EASE", "a"), ("Markov", "b")):
        config = {"candidates.retriever._target_": retriever}
        make_run(tmp_path, "vip5", 0, hits(0.6, N, 1), config, retriever=retriever, candidates_sha256=sha)
    table = table_of(tmp_path, columns=["candidates.retriever._target_"])
    cells = row(table, "vip5").cells
    assert [cells[Column(block, "recall_at_10")].verdict for block in range(2)] == [1, 1]
    assert set(row(table, "first stage").cells) == {Column(0, "recall_at_10"), Column(1, "recall_at_10")}


def test_baselines_alone_are_a_table_too(tmp_path: Path) -> None:
    for name, rate in (("random", 0.2), ("first_stage", 0.4)):
        make_run(tmp_path, name, 0, hits(rate, N, 1))
    table = table_of(tmp_path)
    assert verdict(table)[0] == "Recall@10: only baselines, no trained method."
    assert "random" in markdown(table)


def test_keys_beyond_the_reranker_tell_rows_apart(tmp_path: Path) -> None:
    for seed, primary in enumerate(("recall_at_10", "ndcg_at_10")):  # it chooses the checkpoint
        make_run(tmp_path, "bert4rec", seed, hits(0.5, N, seed), {"protocol.primary": primary})
    labels = [r.label for r in table_of(tmp_path).rows if r.kind == "method"]
    assert labels == ["bert4rec primary=ndcg_at_10", "bert4rec primary=recall_at_10"]


def test_seeds_with_other_texts_are_not_averaged(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(tmp_path, "viranker", seed, hits(0.5, N, seed), data_sha256=str(seed))
    with pytest.raises(UserError, match="read other texts or pictures"):
        table_of(tmp_path)


def test_rows_are_found_over_all_blocks(tmp_path: Path) -> None:
    for mode, rates in (("retrieved", (0.001, 0.01)), ("sampled", (0.001,))):
        for rate in rates:
            make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1), {"trainer.learning_rate": rate}, mode=mode)
    table = table_of(tmp_path, columns=["candidates"])
    cells = {r.label: {column.block for column in r.cells} for r in table.rows if r.kind == "method"}
    assert cells == {"bert4rec learning_rate=0.001": {0, 1}, "bert4rec learning_rate=0.01": {0}}


def test_settings_that_differ_between_blocks_and_seeds_of_each_are_said(tmp_path: Path) -> None:
    for mode, rate, n in (("retrieved", 0.001, 3), ("sampled", 0.01, 1)):
        for seed in range(n):
            config = {"trainer.learning_rate": rate}
            labels = ("synthetic data", f"{mode} metrics", *(["odd"] if mode == "sampled" else []))
            make_run(tmp_path, "bert4rec", seed, hits(0.5, N, seed), config, labels, mode=mode)
    make_run(tmp_path, "vip5", 0, hits(0.5, N, 7), labels=("synthetic data", "sampled metrics"), mode="sampled")
    table = table_of(tmp_path, columns=["candidates.mode"])
    bert4rec = row(table, "bert4rec")
    assert seeds(bert4rec, table) == "3, 1 of 3"
    settings = "settings differ between the columns: trainer.learning_rate 0.001, 0.01"
    assert bert4rec.notes == ["mode=sampled: odd", settings]
    assert table.labels == ["synthetic data", "mode=retrieved: retrieved metrics", "mode=sampled: sampled metrics"]


def test_rows_beside_a_method_are_no_methods(tmp_path: Path) -> None:
    import pandas as pd

    for seed in range(2):
        folder = make_run(tmp_path, "viranker", seed, hits(0.6, N, seed))
        fused = hits(0.65, N, seed + 20)
        metrics = json.loads((folder / "metrics.json").read_text())
        metrics |= {f"test/fused/{name}": float(fused[:, i].mean()) for i, name in enumerate(METRICS)}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        requests = pd.read_parquet(folder / "per_request.parquet")
        requests = requests.assign(**{f"fused/{name}": fused[:, i] for i, name in enumerate(METRICS)})
        requests.to_parquet(folder / "per_request.parquet", index=False)
        table = table_of(tmp_path)
        assert row(table, "viranker + first stage").kind == "variant"
        assert verdict(table)[0].startswith("Recall@10: 1 of 1 methods beat")
    make_run(tmp_path, "viranker", 2, hits(0.6, N, 2))  # without the row
    assert "viranker + first stage" not in [r.label for r in table_of(tmp_path).rows]


def test_a_mean_of_seeds_is_held_against_the_mean_of_as_many_random_orders(tmp_path: Path) -> None:
    for seed in range(4):  # chance .2 +- .03 of one order; the mean of four lies within .015
        make_run(tmp_path, "vip5", seed, hits(0.22, 4000, seed + 1))
    cell = row(table_of(tmp_path), "vip5").cells[Column(0, "recall_at_10")]
    assert 0.215 < cell.mean < 0.23 and not cell.at_chance
    assert row(table_of(tmp_path, "*vip5*0"), "vip5").cells[Column(0, "recall_at_10")].at_chance


def test_against_a_name_of_several_rows_is_refused(tmp_path: Path) -> None:
    for rate in (0.001, 0.01):
        make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1), {"trainer.learning_rate": rate})
    with pytest.raises(UserError, match="against=bert4rec is several rows"):
        table_of(tmp_path, against="bert4rec")


def test_a_sweep_in_which_nothing_finished_does_not_hide_one_that_did(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    done = make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 1)).name
    for name, run in (("x-1", done), ("x-2", None)):
        jobs = [{"overrides": ["seed=0"], "run": run, "error": None}]
        record = {"name": name, "experiment": "x", "swept": [], "jobs": jobs, "table": {}}
        (tmp_path / "sweeps" / f"{name}.json").write_text(json.dumps(record))
    (tmp_path / "sweeps" / "torn.json").write_text("{")
    assert [run.name for run in select(tmp_path, "x", None).runs] == [done]


def test_objects_in_a_stored_config_are_refused(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "bert4rec", 0, hits(0.5, N, 0))
    (folder / "config.yaml").write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n")
    with pytest.raises(UserError, match=r"config\.yaml cannot be read"):
        table_of(tmp_path)
    assert not (tmp_path / "made").exists()

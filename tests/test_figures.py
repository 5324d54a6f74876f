"""Figures: what is drawn is what the run folders say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from drawn_figures import only, selection
from matplotlib.text import Text
from run_folders import SEEDS, WIDTH, N, write_run

from data.errors import UserError
from data.files import read_json, write_json
from experiments.figure_curves import smoothed
from experiments.figure_slices import bins, printed
from experiments.figure_style import overlap
from experiments.figures import draw
from experiments.significance import bootstrap_interval
from experiments.training_checks import Curve


def lines(axes: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axes.lines}


def tables(folders: list[Path]) -> list[pd.DataFrame]:
    return [pd.read_parquet(folder / "per_request.parquet") for folder in folders]


def mean_metric(folders: list[Path], name: str) -> float:
    return float(np.mean([read_json(folder / "metrics.json")[f"test/{name}"] for folder in folders]))


def test_recall_at_k_is_drawn_from_ranks_with_bands_and_the_chance_of_each_k(
    tmp_path: Path, two_rerankers: dict[str, list[Path]]
) -> None:
    axes = only(tmp_path, "recall_at_k").drawing.axes[0]
    drawn = lines(axes)
    for name, folders in two_rerankers.items():
        share = [np.mean([(t["rank"] <= k).mean() for t in tables(folders)]) for k in range(1, WIDTH + 1)]
        np.testing.assert_allclose(drawn[name].get_ydata(), share, atol=1e-12)
        np.testing.assert_array_equal(drawn[name].get_xdata(), range(1, WIDTH + 1))
        assert share[4] == pytest.approx(mean_metric(folders, "recall_at_5"))
    found = (N - 3) / N  # requests whose list holds the item
    np.testing.assert_allclose(drawn["chance"].get_ydata(), found * np.arange(1, WIDTH + 1) / WIDTH)
    assert list(drawn["first stage (EASE)"].get_xdata()) == [1, 5, 10]  # its ranks are not recorded
    per_request = np.mean(
        [[t["rank"] <= k for k in range(1, WIDTH + 1)] for t in tables(two_rerankers["bert4rec"])], axis=0
    ).T
    low, _ = bootstrap_interval(per_request, 0)
    band = axes.collections[0].get_paths()[0].vertices
    assert any(np.allclose(point, (5, low[4])) for point in band)


@pytest.mark.parametrize(("metric", "k"), [("ndcg_at_10", 10), ("recall_at_5", 5), ("precision_at_3", 1)])
def test_the_sentence_of_recall_at_k_is_of_recall(
    tmp_path: Path, two_rerankers: dict[str, list[Path]], metric: str, k: int
) -> None:
    for folder in [folder for folders in two_rerankers.values() for folder in folders]:
        metrics, manifest = read_json(folder / "metrics.json"), read_json(folder / "manifest.json")
        metrics |= {f"test/{row}precision_at_3": 0.5 for row in ("", "chance/", "first_stage/", "popularity/")}
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "manifest.json", manifest | {"metrics": [*manifest["metrics"], "precision_at_3"]})
    caption = only(tmp_path, "recall_at_k", metric=metric).caption
    best = max(two_rerankers, key=lambda name: mean_metric(two_rerankers[name], f"recall_at_{k}"))
    value = mean_metric(two_rerankers[best], f"recall_at_{k}")
    assert f"highest Recall@{k} is {value:.3f}, of {best} (first stage (EASE) " in caption and "NDCG" not in caption
    assert f"chance {k / WIDTH:.3f})" in caption


def test_runs_without_ranks_are_drawn_at_the_ks_of_their_protocol(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "bert4rec", old=True)
    figure = only(tmp_path, "recall_at_k")
    line = lines(figure.drawing.axes[0])["bert4rec"]
    assert list(line.get_xdata()) == [1, 5, 10] and line.get_marker() == "o"
    assert line.get_ydata()[1] == pytest.approx(mean_metric([folder], "recall_at_5"))


def test_a_fused_row_is_drawn_where_all_seeds_have_it(tmp_path: Path, two_rerankers: dict[str, list[Path]]) -> None:
    for place, folder in enumerate([*two_rerankers["bert4rec"], two_rerankers["sasrec"][0]]):
        table, metrics = pd.read_parquet(folder / "per_request.parquet"), read_json(folder / "metrics.json")
        for name in [name for name in table if name.startswith(("recall", "ndcg"))]:
            table[f"fused/{name}"] = table[name] * (0.9 + 0.01 * place)
            metrics[f"test/fused/{name}"] = float(table[f"fused/{name}"].mean())
        table.to_parquet(folder / "per_request.parquet")
        write_json(folder / "metrics.json", metrics)
    drawn, _ = draw(selection(tmp_path))
    assert {figure.name for figure in drawn} == {"curves", "recall_at_k", "cost", "wins", "slices"}
    of_recall = lines(next(figure for figure in drawn if figure.name == "recall_at_k").drawing.axes[0])
    assert "bert4rec + first stage" in of_recall and "sasrec + first stage" not in of_recall
    fused = np.mean([table["fused/recall_at_5"].mean() for table in tables(two_rerankers["bert4rec"])])
    assert of_recall["bert4rec + first stage"].get_ydata()[1] == pytest.approx(fused)


def test_curves_have_the_loss_of_chance_and_the_chance_of_the_metric(
    tmp_path: Path, two_rerankers: dict[str, list[Path]]
) -> None:
    axes = only(tmp_path, "curves").drawing.axes
    assert len(axes) == 4
    loss, valid = axes[0], axes[2]
    assert loss.get_title(loc="left") == "bert4rec"
    drawn = [line for line in loss.lines if line.get_label() == "bert4rec"]
    value = np.array([3.2 - 0.02 * step for step in range(1, 41)])
    assert len(drawn) == 3
    np.testing.assert_allclose(drawn[0].get_ydata()[1:-1], value[1:-1])  # a straight line smoothed is itself
    assert drawn[0].get_xdata()[-1] == 2.0
    assert set(lines(loss)["chance"].get_ydata()) == {3.0}
    assert set(lines(valid)["chance"].get_ydata()) == {5 / WIDTH}
    np.testing.assert_allclose(lines(valid)["bert4rec"].get_ydata(), [0.3, 0.4])
    assert valid.get_ylim() == axes[3].get_ylim()


def test_the_rows_of_curves_are_named_in_titles_or_in_the_legend(
    tmp_path: Path, two_rerankers: dict[str, list[Path]]
) -> None:
    def legend_of(pattern: str) -> list[str]:
        (figure,), _ = draw(selection(tmp_path, pattern), ["curves"])
        return [text.get_text().replace("\n  ", " ") for text in figure.drawing.legends[0].get_texts()]

    chance = "chance (of validation: that of the test)"
    assert legend_of("*") == [chance], "the panels' titles are bert4rec and sasrec"
    assert legend_of("tiny-sasrec-*") == ["sasrec", chance]
    for folder in two_rerankers["sasrec"]:
        points = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
        kept = [json.dumps(point) for point in points if point["name"].startswith("valid")]
        (folder / "curves.jsonl").write_text("\n".join(kept) + "\n")
    assert legend_of("tiny-sasrec-*") == ["sasrec", chance], "of validation alone"
    write_run(tmp_path, "sasrec", trainer__num_train_epochs=3.0)
    assert legend_of("*") == ["bert4rec", "sasrec epochs=3.0", "sasrec epochs=2.0", chance]


def test_curves_of_old_runs_find_chance_in_the_curves_and_sums_of_tasks_have_none(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "sasrec", old=True)
    axes = only(tmp_path, "curves").drawing.axes[0]
    assert set(lines(axes)["chance"].get_ydata()) == {3.0}
    with (folder / "curves.jsonl").open("a") as file:
        file.write('{"name": "train_explanation_loss", "step": 1, "epoch": 0.1, "value": 1.0}\n')
    assert "chance" not in lines(only(tmp_path, "curves").drawing.axes[0])


def test_smoothing_is_a_mean_over_a_twentieth() -> None:
    value = np.random.default_rng(0).random(100)
    line = smoothed(Curve("train_loss", np.arange(100.0), value))
    np.testing.assert_allclose(line[50], value[48:53].mean())
    np.testing.assert_allclose(line[0], value[:3].mean())


def test_a_sweep_is_drawn_over_its_key_and_validation_chooses(tmp_path: Path) -> None:
    rates = (1e-4, 1e-3, 1e-2)
    runs = {rate: [write_run(tmp_path, "bert4rec", seed, skill, trainer__learning_rate=rate) for seed in SEEDS]
            for rate, skill in zip(rates, (0.1, 3.0, 0.5), strict=True)}  # fmt: skip
    figure = only(tmp_path, "sweep")
    axes = figure.drawing.axes[0]
    line = lines(axes)["bert4rec"]
    assert figure.name == "sweep" and axes.get_xscale() == "log" and tuple(line.get_xdata()) == rates
    np.testing.assert_allclose(line.get_ydata(), [mean_metric(runs[rate], "recall_at_5") for rate in rates])
    assert set(lines(axes)["chance"].get_ydata()) == {5 / WIDTH}
    assert "validation chooses 0.001 for bert4rec" in figure.caption
    ring = axes.lines[1]
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (1e-3, line.get_ydata()[1])
    spread = np.std([mean_metric([run], "recall_at_5") for run in runs[1e-4]], ddof=1)
    band = axes.collections[0].get_paths()[0].vertices
    assert any(np.allclose(point, (1e-4, line.get_ydata()[0] - spread)) for point in band)


@pytest.mark.parametrize("most_first", [True, False])
def test_bands_are_of_one_measure_in_all_lines(tmp_path: Path, most_first: bool) -> None:
    n_seeds = dict(zip(("bert4rec", "sasrec"), (4, 2) if most_first else (2, 4), strict=True))
    runs = {(name, rate): [write_run(tmp_path, name, seed, trainer__learning_rate=rate) for seed in range(n)]
            for name, n in n_seeds.items() for rate in (1e-3, 1e-2)}  # fmt: skip
    figure = only(tmp_path, "sweep")
    assert "(bands: smallest and largest of the seeds; dots: seeds)" in figure.caption
    axes = figure.drawing.axes[0]
    corners = np.concatenate([path.vertices for group in axes.collections[::2] for path in group.get_paths()])
    for (_, rate), folders in runs.items():
        values = [mean_metric([folder], "recall_at_5") for folder in folders]
        assert all(np.isclose(corners, (rate, end)).all(axis=1).any() for end in (min(values), max(values)))


def test_blocks_of_candidates_are_a_sweep_with_the_chance_of_each(tmp_path: Path) -> None:
    for size in (10, 20, 40):
        write_run(tmp_path, "bert4rec", candidates__size=size)
    with pytest.raises(UserError, match=r"do not share one protocol: candidates.size"):
        draw(selection(tmp_path))
    drawn, _ = draw(selection(tmp_path), ["sweep", "wins"], columns=["candidates.size"])
    assert [figure.name for figure in drawn] == ["sweep", "wins-size-10", "wins-size-20", "wins-size-40"]
    chance = lines(drawn[0].drawing.axes[0])["chance"]
    assert list(chance.get_xdata()) == [10, 20, 40] and list(chance.get_ydata()) == [5 / 10, 5 / 20, 5 / 40]


def test_cost_has_milliseconds_and_intervals_over_requests(
    tmp_path: Path, two_rerankers: dict[str, list[Path]]
) -> None:
    figure = only(tmp_path, "cost")
    axes = figure.drawing.axes[0]
    point = lines(axes)["sasrec"]
    assert point.get_xdata()[0] == pytest.approx(0.4) and axes.get_xscale() == "log"
    assert point.get_ydata()[0] == pytest.approx(mean_metric(two_rerankers["sasrec"], "recall_at_5"))
    assert set(lines(axes)["chance"].get_ydata()) == {5 / WIDTH}
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["bert4rec\n(2.5 s training)", "sasrec\n(2.5 s training)"]
    low, high = bootstrap_interval(np.mean([t["recall_at_5"] for t in tables(two_rerankers["sasrec"])], axis=0), 0)
    bars = [segment for group in axes.collections for segment in group.get_segments()]
    assert any(np.allclose(bar, [[0.4, low], [0.4, high]]) for bar in bars)


@pytest.mark.parametrize("n", [6, 12])
def test_labels_of_cost_do_not_overlap(tmp_path: Path, n: int) -> None:
    for size in range(8, 8 + n):
        write_run(tmp_path, "bert4rec", trainer__num_train_epochs=float(size))
    drawing = only(tmp_path, "cost").drawing
    drawing.draw_without_rendering()
    boxes = [Text.get_window_extent(text).extents for text in drawing.axes[0].texts]
    pairs = [overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert len(boxes) == n and max(pairs) < 3  # pixels


def test_wins_are_counted_and_sorted(tmp_path: Path, two_rerankers: dict[str, list[Path]]) -> None:
    figure = only(tmp_path, "wins", a="sasrec", b="bert4rec", metric="ndcg_at_10")
    a, b = (np.mean([t["ndcg_at_10"] for t in tables(two_rerankers[name])], axis=0) for name in ("sasrec", "bert4rec"))
    wins, losses = int((a - b > 1e-12).sum()), int((b - a > 1e-12).sum())
    assert f"{wins} wins, {N - wins - losses} equal, {losses} losses, mean {(a - b).mean():+.4f}" in figure.caption
    above, below = figure.drawing.axes[0].patches[:2]
    drawn = above.get_data().values + below.get_data().values
    np.testing.assert_allclose(drawn, np.sort(a - b)[::-1], atol=1e-12)
    with pytest.raises(UserError, match=r"a=vip5 is no row of these runs; choose of \[popularity,first stage"):
        draw(selection(tmp_path), ["wins"], a="vip5")


def test_wins_compare_the_choice_of_validation_with_the_first_stage(
    tmp_path: Path, two_rerankers: dict[str, list[Path]]
) -> None:
    assert "of sasrec minus that of first stage (EASE) for each of 60 requests" in only(tmp_path, "wins").caption


def test_slices_are_means_of_quantile_bins(tmp_path: Path, two_rerankers: dict[str, list[Path]]) -> None:
    figure = only(tmp_path, "slices")
    by_length, by_popularity = figure.drawing.axes
    table = tables(two_rerankers["sasrec"])[0]
    values = np.mean([t["recall_at_5"] for t in tables(two_rerankers["sasrec"])], axis=0)
    for axes, column in ((by_length, "history_length"), (by_popularity, "target_popularity")):
        expected, n = [], 0
        for text in axes.get_xticklabels():
            span, _, count = text.get_text().partition("\nn = ")
            low, high = (float(end) for end in (span.split("–") if "–" in span else (span, span)))
            members = table[column].between(low, high).to_numpy()
            assert members.sum() == int(count)
            expected.append(values[members].mean())
            n += int(count)
        assert n == N and len(expected) == 3
        np.testing.assert_allclose(lines(axes)["sasrec"].get_ydata(), expected)
    found = table["found"].to_numpy()
    first = table["history_length"].to_numpy() <= float(by_length.get_xticklabels()[0].get_text().split("\n")[0][2:])
    assert lines(by_length)["chance"].get_ydata()[0] == pytest.approx(found[first].mean() * 5 / WIDTH)


def test_points_of_slices_stand_around_their_ticks(tmp_path: Path, two_rerankers: dict[str, list[Path]]) -> None:
    def places(pattern: str) -> list[float]:
        (figure,), _ = draw(selection(tmp_path, pattern), ["slices"])
        return [line.get_xdata()[1] for line in figure.drawing.axes[0].lines if line.get_marker() not in ("", "None")]

    assert places("tiny-sasrec-*") == [1.0]
    left, right = places("*")
    assert left == pytest.approx(2 - right) and left < 1 < right


def test_edges_of_bins_are_short_and_do_not_overlap() -> None:
    thirds = np.concatenate([np.linspace(9 + 1 / 3, 10, 20), np.linspace(10 + 1 / 3, 16, 20)])
    assert [label for label, _ in bins(thirds)] == ["9.33–10", "10.3–16"]
    edges = [(0.0, 0.123456), (0.2, 10.341), (10.342, 1629.0), (1630.0, 12345.0)]
    assert printed(edges) == [("0", "0.12346"), ("0.2", "10.341"), ("10.342", "1629"), ("1630", "12345")]
    assert printed([(1 / 3, 1 / 3), (999.6, 1001.4)]) == [("0.333", "0.333"), ("1000", "1001")]


def test_bins_hold_every_known_value_once() -> None:
    values = np.array([1.0] * 50 + list(range(60)) + [np.nan] * 5)
    found = bins(values)
    assert sorted(np.concatenate([rows for _, rows in found])) == list(range(110))
    assert [label for label, _ in bins(np.zeros(30))] == ["0"]


def test_old_runs_are_drawn_without_what_they_lack_and_it_is_said(tmp_path: Path) -> None:
    write_run(tmp_path, "bert4rec", old=True)
    drawn, skipped = draw(selection(tmp_path))
    assert {figure.name for figure in drawn} == {"curves", "recall_at_k", "cost", "wins", "slices"}
    assert len(next(figure for figure in drawn if figure.name == "slices").drawing.axes) == 1
    assert skipped == ["sweep, no number was swept: rows differ in no numeric key"]


def test_of_many_rows_the_choice_of_validation_is_drawn_in_full(tmp_path: Path) -> None:
    for step in range(1, 8):
        write_run(tmp_path, "bert4rec", skill=3.0 if step == 4 else 0.1, trainer__learning_rate=step * 1e-3)
    figure = only(tmp_path, "recall_at_k")
    drawn = lines(figure.drawing.axes[0])
    assert drawn["bert4rec learning_rate=0.004"].get_alpha() is None
    assert sum(line.get_alpha() == 0.45 for line in drawn.values()) == 6

"""What "last id + 1" gets under each numbering, against brute force, drawn lists and chance."""

from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, command
from hydra import compose, initialize_config_dir

from data.dataset import Dataset, Ragged, Relevance, Requests
from data.errors import UserError
from data.keys import NEGATIVES_OF_TEST
from data.negatives import sample
from data.splits import Split
from experiments.evaluation import Evaluator
from experiments.id_leak import Settings, among, full, id_leak, ranks_of_rule, sampled, spread, verdict
from experiments.launch import ROOT
from experiments.metrics import measure, rank
from rerankers.vip5.item_numbers import SCHEMES, number


@pytest.mark.parametrize("filter_seen", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_rule_in_closed_form_is_brute_force(scheme: str, filter_seen: bool, demo: Dataset, split: Split) -> None:
    numbers, test = number(scheme, demo, split, 0).item, split.test
    requests = Requests(demo.catalog, test.ids, test.histories)
    evaluator = Evaluator(requests, Relevance(test.relevant), ["hit", "ndcg"], [1, 5, 10], 0, filter_seen)

    def rule(asked: Requests) -> np.ndarray:
        ahead = numbers - numbers[asked.histories.last(1)]  # [R, I]
        return -np.where(ahead > 0, ahead, ahead + len(numbers)).astype(np.float32)

    want = evaluator(rule)
    got = ranks_of_rule(numbers, test, test.histories if filter_seen else Ragged.empty(len(test)))
    assert np.array_equal(got.rank, want.ranks.rank) and want.tie_rate == 0
    assert np.array_equal(got.n_candidates, want.ranks.n_candidates)
    block = full(demo, split, Settings(seeds=1, filter_seen=filter_seen))
    for metric, values in block.values[scheme].items():
        assert values == pytest.approx([want.means[metric]])
        center, _, high = evaluator.chance(want.ranks).interval(metric)
        assert block.chance.interval(metric)[::2] == pytest.approx((center, high))


def test_ranks_among_negatives_are_those_of_drawn_lists(demo: Dataset, split: Split) -> None:
    numbers, test = number("p5_sequential", demo, split, 0).item, split.test
    last, means = numbers[test.histories.last(1)], []
    for seed in range(30):
        lists = sample(demo, test, split.train.histories, 20, "uniform", seed, NEGATIVES_OF_TEST)
        ahead = (numbers[lists] - last - 1) % len(numbers)
        requests = Requests(demo.catalog, test.ids, test.histories, candidates=lists)
        drawn = rank(-ahead.astype(np.float32), requests, test.relevant, 0)
        closed = among(ranks_of_rule(numbers, test, test.histories), 20, np.random.default_rng(seed))
        assert np.array_equal(drawn.n_candidates, closed.n_candidates)
        of = [measure(one, ["hit", "ndcg"], [1, 5, 10]) for one in (drawn, closed)]
        means.append([[values.mean() for values in one.values()] for one in of])
    lists_of, closed_of = np.array(means).swapaxes(0, 1)  # [30, 6] each
    error = np.sqrt((lists_of.var(axis=0) + closed_of.var(axis=0)) / 30)
    assert (np.abs(lists_of.mean(axis=0) - closed_of.mean(axis=0)) < 4 * error).all()


def test_random_numbers_are_chance_and_p5s_are_not(demo: Dataset, split: Split) -> None:
    settings = Settings(seeds=5, n_candidates=20)
    for block in (full(demo, split, settings), sampled(demo, split, settings)):
        for metric in ("hit_at_1", "ndcg_at_5"):
            _, low, high = block.chance.interval(metric)
            assert low <= block.values["random"][metric].mean() <= high
            assert block.values["p5_sequential"][metric].min() > high
    said = verdict(full(demo, split, settings))
    assert "under p5_sequential (leaks)" in said and "under random (no leak)" in said and said.startswith("Hit@5 of")
    with pytest.raises(UserError, match=r"n_candidates=60 needs 59 negatives, but a user has only \d+ items outside"):
        sampled(demo, split, Settings(n_candidates=60))


def test_fewer_than_three_seeds_are_shown_each() -> None:
    assert spread(np.array([0.25, 0.5])) == "0.2500, 0.5000"
    assert spread(np.array([0.1, 0.2, 0.3])) == "0.2000 ± 0.1000"


def test_the_command_prints_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [f"paths.root={tmp_path}", *SMALL[:3], "n_candidates=20"]
        cfg, passages = compose("id_leak", words), compose("id_leak", ["dataset=demo_passages"])
    blocks = id_leak(cfg)
    shown = capsys.readouterr().out
    assert "demo, synthetic data" in shown and "60 items" in shown and "20 sampled" in shown and "NDCG@5" in shown
    assert shown.count(spread(blocks[0].values["random"]["ndcg_at_5"])) and shown.count("│ chance ") == 2
    with pytest.raises(UserError, match="has queries and no sequences of items"):
        id_leak(passages)
    done = command("-X", "importtime", "-m", "experiments.id_leak", "--help")
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "last id + 1" in done.stdout and not loaded & {"torch", "pandas", "scipy"}

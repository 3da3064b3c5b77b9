"""Search: BM25 with the parameters, words and rounding of the Lucene index that WebShop uses."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from paw_lightning.envs.loading import import_extra
from paw_lightning.envs.shop.words import STOP_WORDS

K1, B = 0.9, 0.4
HITS = 50
"""Products that a search finds at most."""
LARGE = 100_000
"""Documents above which bm25s is used: smaller, faster, but without Lucene's rounding of lengths."""
LETTER = r"[^\W_\d²³¹¼-¾⁰-₉①-⓿❶-➓\u3040-\u309f\u3400-\u9fff]"
EMOJI = (
    "©®‼⁉™ℹ↔-↙↩↪⌚⌛⌨⎈⏏⏩-⏳⏸-⏺Ⓜ▪▫▶◀◻-◾\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712✔✖✝✡✨✳✴❄❇❌❎"
    "❓-❕❗\u2763-\u2767➕-➗➡➰➿⤴⤵⬅-⬇⬛⬜⭐⭕〰〽㊗㊙\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff"
)
WORD = re.compile(
    # Unicode's word boundaries: letters and digits, and what may join them inside a word; Chinese characters, hiragana
    # and emoji are words of their own.
    rf"(?:(?:{LETTER}|[\d_])(?:(?<={LETTER})[.:'‘’·‧：．＇](?={LETTER})|(?<=\d)[.,;'‘’⁄，；．＇](?=\d))?)+"
    rf"|[{EMOJI}\u3040-\u309f\u3400-\u9fff]"
)

Stem = Callable[[str], str]


def words(text: str, stem: Stem) -> list[str]:
    """Lower-case stemmed words without stop words."""
    found = (re.sub("['’＇]s$", "", token) for token in WORD.findall(text.lower()) if token.strip("_"))
    return [stem(token) if len(token) > 2 else token for token in found if token not in STOP_WORDS]


def same(word: str) -> str:
    """No stemming."""
    return word


def porter() -> Stem:
    """Porter's stemmer as Lucene has it.

    Raises:
        SettingsError: nltk is missing; names the extra that brings it.
    """
    porters = import_extra("nltk.stem.porter", "webshop", "official WebShop data")
    stemmer = porters.PorterStemmer(porters.PorterStemmer.MARTIN_EXTENSIONS)
    known: dict[str, str] = {}

    def stem(word: str) -> str:
        if word not in known:
            known[word] = stemmer.stem(word)
        return known[word]

    return stem


def stored_length(length: int) -> int:
    """A document's length after Lucene has kept it in one byte: exact below 40, then four significant bits."""
    if length < 24:
        return length
    over = length - 24
    shift = max(0, over.bit_length() - 4)
    return 24 + ((over >> shift) << shift)


class BM25:
    """Scores of documents in float32, so that ties and near ties fall as in Lucene.

    score(d) = sum over query words of idf * tf / (tf + k1 * (1 - b + b * |d| / mean length)); ties by position.
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        self.count = len(documents)
        mean = sum(map(len, documents)) / max(1, self.count)
        lengths = np.array([stored_length(len(document)) for document in documents], dtype=np.float32)
        norm = np.float32(1) / (np.float32(K1) * (np.float32(1 - B) + np.float32(B) * lengths / np.float32(mean or 1)))
        places: dict[str, list[int]] = {}
        counts: dict[str, list[int]] = {}
        for number, document in enumerate(documents):
            for word, count in Counter(document).items():
                places.setdefault(word, []).append(number)
                counts.setdefault(word, []).append(count)
        self.postings = {}
        for word, numbers in places.items():
            index = np.array(numbers)
            self.postings[word] = (index, np.array(counts.pop(word), dtype=np.float32) * norm[index])

    def search(self, query: Iterable[str], hits: int = HITS) -> list[int]:
        """Positions of the best documents, best first."""
        scores = np.zeros(self.count)
        for word, times in Counter(query).items():
            if word in self.postings:
                index, frequency = self.postings[word]
                idf = math.log(1 + (self.count - len(index) + 0.5) / (len(index) + 0.5))
                weight = np.float32(times * np.float32(idf))
                scores[index] += weight - weight / (np.float32(1) + frequency)
        scores = scores.astype(np.float32)
        if hits < self.count:  # everything that ties with the last hit stays in
            found = np.flatnonzero(scores >= max(np.partition(scores, -hits)[-hits], np.finfo(np.float32).tiny))
        else:
            found = np.flatnonzero(scores)
        return found[np.argsort(-scores[found], kind="stable")][:hits].tolist()


class LargeBM25:
    """The same score from bm25s, which holds a million products."""

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        bm25s = import_extra("bm25s", "webshop", f"a shop of more than {LARGE:,} products")
        self.count = len(documents)
        self.index: Any = bm25s.BM25(method="lucene", k1=K1, b=B)
        self.index.index([list(document) for document in documents], show_progress=False)

    def search(self, query: Iterable[str], hits: int = HITS) -> list[int]:
        """Positions of the best documents, best first."""
        known = [word for word in query if word in self.index.vocab_dict]
        if not known:
            return []
        found, scores = self.index.retrieve([known], k=min(hits, self.count), show_progress=False)
        return [int(number) for number, score in zip(found[0], scores[0], strict=True) if score > 0]


def make_index(documents: Sequence[Sequence[str]]) -> BM25 | LargeBM25:
    """The index that fits the number of documents."""
    return BM25(documents) if len(documents) <= LARGE else LargeBM25(documents)

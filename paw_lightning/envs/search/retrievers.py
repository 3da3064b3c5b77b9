"""Retrievers: who finds documents for a query."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from heapq import nsmallest
from itertools import pairwise
from pathlib import Path
from typing import Any

from paw_lightning.envs.loading import expand, import_extra, wrong_argument

ARGUMENTS = "retriever.init_args"
"""Where a retriever's arguments stand among the environment's; error messages name it."""


class RetrievalError(RuntimeError):
    """A search failed at every try, so the episode cannot continue."""


class Retriever(ABC):
    """Finds documents."""

    @abstractmethod
    def search(self, query: str, topk: int) -> list[str]:
        """The best ``topk`` documents (fewer if there are not so many), best first, as ``title newline text``.

        Raises:
            RetrievalError: the search failed; the collector then drops the whole group and counts it.
        """


class OverlapRetriever(Retriever):
    """Ranks by the words, and the pairs of neighbouring words, that query and document share; for small corpora.

    score = sum over the query's words and pairs of log(documents / documents with it) · n / (n + 1), with n its count
    in the document; ties fall to the earlier document, and documents that share nothing are not returned.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self.documents = tuple(documents)
        self.postings: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, document in enumerate(self.documents):
            for term, count in Counter(_terms(document)).items():
                self.postings[term].append((number, count / (count + 1)))
        self.rarity = {term: math.log(len(self.documents) / len(found)) for term, found in self.postings.items()}

    def search(self, query: str, topk: int) -> list[str]:
        """See the class; it never raises."""
        scores: dict[int, float] = defaultdict(float)
        for term in sorted(set(_terms(query))):  # a sum has to come out the same in every process
            if rarity := self.rarity.get(term):
                for number, weight in self.postings[term]:
                    scores[number] += rarity * weight
        best = nsmallest(topk, ((-score, number) for number, score in scores.items()))
        return [self.documents[number] for _, number in best]


def _terms(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return words + [f"{first} {second}" for first, second in pairwise(words)]


class BM25Retriever(Retriever):
    """BM25 over a local corpus (needs the extra ``search``; English stemming where PyStemmer is installed).

    The defaults of k1 and b are Anserini's, with which the field's BM25 baselines are made. The corpus is read into
    memory once per process; for more than a few million passages run a search server instead.

    Args:
        corpus_path: jsonl with rows ``{"id", "contents"}``, contents being ``title newline text``. ``~`` and
            environment variables are expanded.
        index_path: folder to keep the index in: made at the first use, opened afterwards; None makes one in memory
            for every process.
        k1: how fast repeated words stop counting.
        b: how much long documents are held back, 0 to 1.
    """

    def __init__(self, corpus_path: str, index_path: str | None = None, k1: float = 0.9, b: float = 0.4) -> None:
        if not k1 >= 0:
            raise wrong_argument(f"{ARGUMENTS}.k1", k1, "at least 0")
        if not 0 <= b <= 1:
            raise wrong_argument(f"{ARGUMENTS}.b", b, "from 0 to 1")
        self.corpus_path = expand(corpus_path, f"{ARGUMENTS}.corpus_path")
        self.index_path = index_path and expand(index_path, f"{ARGUMENTS}.index_path")
        self.k1, self.b = k1, b
        if not Path(self.corpus_path).is_file():
            raise wrong_argument(f"{ARGUMENTS}.corpus_path", corpus_path, "a file")
        _import_bm25s()

    def search(self, query: str, topk: int) -> list[str]:
        """See the class; documents that share no word with the query are not returned."""
        index, documents = _open_index(self.corpus_path, self.index_path, self.k1, self.b)
        tokens = _tokenize([query])
        if not tokens[0]:
            return []
        numbers, scores = index.retrieve(tokens, k=min(topk, len(documents)), show_progress=False)
        return [documents[i] for i, score in zip(numbers[0], scores[0], strict=True) if score > 0]


def _import_bm25s() -> Any:
    return import_extra("bm25s", "search", "the retriever BM25Retriever")


def _tokenize(texts: list[str]) -> list[list[str]]:
    try:
        from Stemmer import Stemmer

        stemmer = Stemmer("english")
    except ImportError:
        stemmer = None
    return _import_bm25s().tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)


@lru_cache(maxsize=4)  # every copy of the environment shares one index
def _open_index(corpus_path: str, index_path: str | None, k1: float, b: float) -> tuple[Any, list[str]]:
    bm25s = _import_bm25s()
    documents = _read_corpus(corpus_path)
    made_of = {"documents": len(documents), "k1": k1, "b": b}
    note = Path(index_path or "", "made_of.json")
    if index_path and note.is_file():
        if json.loads(note.read_text()) != made_of:
            wanted = f"an index of {made_of}, but it was made of {note.read_text()}: remove it"
            raise wrong_argument(f"{ARGUMENTS}.index_path", index_path, wanted)
        return bm25s.BM25.load(index_path, mmap=True), documents
    index = bm25s.BM25(k1=k1, b=b, method="lucene")
    index.index(_tokenize(documents), show_progress=False)
    if index_path:
        # Made beside its place and moved there: other processes see no half of it, and the first one's stays.
        made = Path(f"{index_path}.{os.getpid()}")
        index.save(made)
        (made / note.name).write_text(json.dumps(made_of))
        with suppress(OSError):
            made.rename(index_path)
        shutil.rmtree(made, ignore_errors=True)
    return index, documents


def _read_corpus(path: str) -> list[str]:
    documents = []
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                documents.append(str(json.loads(line)["contents"]))
            except (ValueError, KeyError, TypeError) as error:
                wanted = f'lines of {{"id", "contents"}}, but line {number} is none'
                raise wrong_argument(f"{ARGUMENTS}.corpus_path", path, wanted) from error
    if not documents:
        raise wrong_argument(f"{ARGUMENTS}.corpus_path", path, "a corpus, but it holds no document")
    return documents

"""Rankings in memory and by BM25."""

import json
import pickle
import sys
from pathlib import Path

import pytest

from paw_lightning.envs import SearchEnv
from paw_lightning.envs.search.facts import fact_base
from paw_lightning.envs.search.retrievers import BM25Retriever, OverlapRetriever
from paw_lightning.errors import SettingsError

DOCUMENTS = ["Red\na red fox and a red hen", "Blue\na blue fox", "Green\na green hen on a red roof", "Grey\na wolf"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    pytest.importorskip("bm25s", reason="NO BM25S: pip install 'paw-lightning[search]'")
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), "contents": d}) + "\n" for i, d in enumerate(DOCUMENTS)))
    return path


def test_overlap_knows_names_of_two_words() -> None:
    documents = ["Zola Miru\nZola Miru is here.", "Zola Beta\nZola, Zola, Zola, Zola and Gami Miru, Miru, Miru.", "no"]
    # word by word the second would win: 5/6 + 3/4 of log 3/2 against 2/3 + 2/3; the pair, 2/3 of log 3, decides
    assert OverlapRetriever(documents).search("Zola Miru", 1) == documents[:1]


def test_overlap_ranks_by_rare_and_repeated_words() -> None:
    retriever = OverlapRetriever(DOCUMENTS)
    # red: 3 times in document 0 (3/4) and once in document 2 (1/2)
    assert retriever.search("red", 5) == [DOCUMENTS[0], DOCUMENTS[2]]
    # fox and hen are in two documents each: 0 has both, then a tie, which falls to the earlier document
    assert retriever.search("Hen, FOX!", 5) == [DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[2]]
    # wolf is in one document: log 4 / 2 against red's log 2 * 3/4
    assert retriever.search("red wolf", 1) == [DOCUMENTS[3]]
    # "a" is everywhere and tells nothing; unknown words neither
    assert retriever.search("a", 5) == retriever.search("cow", 5) == retriever.search("", 5) == []


def test_bm25_finds_and_keeps_its_index(corpus: Path, tmp_path: Path) -> None:
    kept = BM25Retriever(str(corpus), str(tmp_path / "index"))
    for retriever in (BM25Retriever(str(corpus)), kept, pickle.loads(pickle.dumps(kept))):
        assert retriever.search("wolf", 3) == [DOCUMENTS[3]]
        assert retriever.search("red", 3) == [DOCUMENTS[0], DOCUMENTS[2]]
        assert retriever.search("red fox", 1) == [DOCUMENTS[0]]
        assert retriever.search("the", 3) == retriever.search("zebra", 3) == []
    from paw_lightning.envs.search import retrievers as search_retrievers

    search_retrievers._open_index.cache_clear()
    assert kept.search("red", 3) == [DOCUMENTS[0], DOCUMENTS[2]], "opened from the folder"
    with pytest.raises(ValueError, match=r"index_path is .* was made of .*k1.*remove it"):
        BM25Retriever(str(corpus), str(tmp_path / "index"), k1=2.0).search("red", 3)


def test_bm25_answers_the_invented_questions(tmp_path: Path) -> None:
    pytest.importorskip("bm25s", reason="NO BM25S: pip install 'paw-lightning[search]'")
    path = tmp_path / "facts.jsonl"
    path.write_text("".join(json.dumps({"id": "0", "contents": d}) + "\n" for d in fact_base(10, 0).documents))
    env = SearchEnv(lands=10, retriever=BM25Retriever(str(path)))
    for task in range(0, env.num_tasks, 3):
        env.reset(seed=task)
        [*_, last] = [env.step(command) for command in env.expert_plan()]
        assert last[4]["won"]


@pytest.mark.parametrize("line", ["{oops", '{"id": "1"}', '"text"'])
def test_a_bad_corpus_line_is_named(line: str, corpus: Path) -> None:
    with corpus.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"retriever\.init_args\.corpus_path is .*wanted .*contents.*line 5"):
        BM25Retriever(str(corpus)).search("red", 1)


def test_bm25_needs_its_extra_and_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"corpus_path is '/nonexistent'; wanted a file"):
        BM25Retriever("/nonexistent")
    with pytest.raises(ValueError, match=r"retriever\.init_args\.k1 is -1; wanted"):
        BM25Retriever("/nonexistent", k1=-1)
    (tmp_path / "corpus.jsonl").write_text("")
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(SettingsError, match=r"bm25s is not installed; wanted it for the retriever.*extra `search`"):
        BM25Retriever(str(tmp_path / "corpus.jsonl"))

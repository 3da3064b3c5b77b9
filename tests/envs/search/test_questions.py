"""Exact match, and questions read from the two row formats."""

import json
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs.search.questions import Question, exact_match, load_questions, normalise, read_row

FLASHRAG = {"id": "dev_0", "question": "who wrote it?", "golden_answers": ["Ann Lee", "A. Lee"], "metadata": {}}
SEARCH_R1 = {
    "data_source": "nq",
    "prompt": [{"role": "user", "content": "Question: an example. Now answer this. Question: who wrote it?\n"}],
    "ability": "fact-reasoning",
    "reward_model": {"style": "rule", "ground_truth": {"target": ["Ann Lee", "A. Lee"]}},
    "extra_info": {"split": "train", "index": 0},
}
VERL_AGENT = {
    "data_source": "nq",
    "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "something else"}],
    "env_kwargs": {"question": "who wrote it?", "ground_truth": {"target": ["Ann Lee", "A. Lee"]}},
}
READ = Question("who wrote it?", ("Ann Lee", "A. Lee"))


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("The  Beatles", "beatles"),
        ("A.  B.", "b"),  # the points go first, and what is left of "A." is an article
        ("U.S.A.", "usa"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),  # no word "the"
        ("well-known", "wellknown"),  # punctuation leaves no space behind
        ("it's", "its"),
        ("Café  «x»", "café «x»"),  # only ASCII punctuation
        ("\tone\n two ", "one two"),
        ("the", ""),
    ],
)
def test_normalisation(answer: str, normal: str) -> None:
    assert normalise(answer) == normal


def test_any_gold_answer_matches_exactly() -> None:
    gold = ("Ann Lee", "the A. B. Lee!")
    assert exact_match("ann lee.", gold)
    # "the A. B. Lee!" -> "the a b lee" -> without "the" and "a" -> "b lee"
    assert exact_match("B. Lee", gold)
    assert not exact_match("Ann", gold) and not exact_match("Ann Lee Jones", gold) and not exact_match("", gold)


@pytest.mark.parametrize("row", [FLASHRAG, SEARCH_R1, VERL_AGENT], ids=["flashrag", "search_r1", "verl_agent"])
def test_rows(row: dict[str, Any]) -> None:
    assert read_row(row) == READ


def test_a_question_mark_is_added() -> None:
    assert read_row({"question": " who ", "golden_answers": "me"}) == Question("who?", ("me",))


def write(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_jsonl_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", FLASHRAG, SEARCH_R1)
    write(tmp_path / "dev.jsonl", VERL_AGENT)
    assert load_questions(str(tmp_path), "train") == (READ, READ)
    assert load_questions(str(tmp_path), "val") == (READ,)
    with pytest.raises(ValueError, match=r"data_path is .*test\.jsonl.*test\.parquet.* no file for the split 'test'"):
        load_questions(str(tmp_path), "test")
    write(tmp_path / "val.jsonl", FLASHRAG)
    load_questions.cache_clear()
    with pytest.raises(ValueError, match=r"several files for the split 'val'"):
        load_questions(str(tmp_path), "val")


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="NO PYARROW: pip install 'paw-lightning[search]'")
    from pyarrow import parquet

    for split, row in (("train", SEARCH_R1), ("test", VERL_AGENT)):
        parquet.write_table(pyarrow.Table.from_pylist([row] * 3), tmp_path / f"{split}.parquet")
        assert load_questions(str(tmp_path), split) == (READ,) * 3
    # FlashRAG's empty metadata is a struct without fields, which parquet cannot hold
    row = {key: value for key, value in FLASHRAG.items() if key != "metadata"}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "dev.parquet")
    assert load_questions(str(tmp_path), "val") == (READ,)


@pytest.mark.parametrize(
    "row",
    [
        {"id": 1},
        {"question": "q", "golden_answers": []},
        {"question": "q", "golden_answers": [7]},
        {"question": "", "prompt": [], "golden_answers": ["a"]},
        {"question": "q", "reward_model": {"ground_truth": "a"}},
        [],
    ],
)
def test_a_bad_row_is_named(row: object, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", FLASHRAG, row)
    with pytest.raises(ValueError, match=r"data_path is .*golden_answers.*reward_model.*train\.jsonl, row 2 is none"):
        load_questions(str(tmp_path), "train")


def test_broken_and_empty_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("{oops\n")
    (tmp_path / "test.jsonl").write_text("\n")
    with pytest.raises(ValueError, match=r"train\.jsonl, row 1"):
        load_questions(str(tmp_path), "train")
    with pytest.raises(ValueError, match=r"data_path is .*wanted questions, but test\.jsonl holds none"):
        load_questions(str(tmp_path), "test")

"""Questions with their gold answers: how an answer is judged, and data sets in Search-R1's and FlashRAG's rows."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from paw_lightning.envs.loading import import_extra, wrong_argument
from paw_lightning.errors import SettingsError

SPLIT_NAMES = {"train": ("train",), "val": ("val", "dev", "valid", "validation"), "test": ("test",)}
"""Split -> what its file may be called, without the suffix."""
SUFFIXES = (".jsonl", ".parquet")
COLUMNS = ("question", "golden_answers", "prompt", "reward_model", "env_kwargs")
PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True)
class Question:
    """One task."""

    text: str
    answers: tuple[str, ...]
    """Gold answers; any of them is right."""
    plan: tuple[str, ...] = ()
    """Commands that answer it, where somebody knows them."""
    kind: str = ""
    """What sort of question it is, where somebody knows."""


def normalise(answer: str) -> str:
    """Lower-case, without ASCII punctuation, without the words a, an and the, with single spaces; in this order."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, gold: Iterable[str]) -> bool:
    """EM: the normalised answer equals a normalised gold answer."""
    return normalise(answer) in {normalise(text) for text in gold}


@lru_cache(maxsize=8)  # every copy of the environment shares one list
def load_questions(data_path: str, split: str) -> tuple[Question, ...]:
    """Read a split: ``train``, ``dev`` (or ``val``, ``valid``, ``validation``) or ``test``, as .jsonl or .parquet.

    Raises:
        SettingsError: no such file, or a row that is no question; names the row and the config key.
    """
    path = _split_file(Path(data_path), split)
    questions = []
    try:
        for row in _rows(path):
            questions.append(read_row(row))
    except SettingsError:  # a missing package
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        kinds = "rows of FlashRAG (question, golden_answers) or Search-R1 (prompt, reward_model)"
        wanted = f"{kinds}, but {path.name}, row {len(questions) + 1} is none: {error}"
        raise wrong_argument("data_path", data_path, wanted) from error
    if not questions:
        raise wrong_argument("data_path", data_path, f"questions, but {path.name} holds none")
    return tuple(questions)


def read_row(row: Mapping[str, Any]) -> Question:
    """One row of either kind.

    FlashRAG: ``question`` and ``golden_answers``. Search-R1: what follows the last "Question:" of the last message of
    ``prompt``, and ``reward_model.ground_truth.target``; verl-agent keeps both in ``env_kwargs``. A question mark is
    added where there is none, as Search-R1 does.
    """
    kwargs = row.get("env_kwargs") or {}
    text = row.get("question") or kwargs.get("question")
    if not text:
        text = list(row["prompt"])[-1]["content"].rpartition("Question:")[2]
    answers = row.get("golden_answers")
    if answers is None:
        answers = (row.get("reward_model") or kwargs)["ground_truth"]["target"]
    answers = (answers,) if isinstance(answers, str) else tuple(answers)
    text = str(text).strip()
    if not text or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"question {text!r} with gold answers {answers!r}")
    return Question(text if text.endswith("?") else text + "?", answers)


def _split_file(folder: Path, split: str) -> Path:
    candidates = [folder / (name + suffix) for name in SPLIT_NAMES[split] for suffix in SUFFIXES]
    found = [path for path in candidates if path.is_file()]
    if len(found) != 1:
        state = "several files" if found else "no file"
        names = [path.name for path in candidates]
        wanted = f"a folder with exactly one of {names} (a link will do), but it has {state} for the split {split!r}"
        raise wrong_argument("data_path", str(folder), wanted)
    return found[0]


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix == ".parquet":
        parquet = import_extra("pyarrow.parquet", "search", str(path))
        file = parquet.ParquetFile(path)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()
        return
    with path.open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines if line.strip())

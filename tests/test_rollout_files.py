"""The files of rollouts: written whole or not at all, read without torch, every number as it was."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.rollout_files import (
    Header,
    RecordedEpisode,
    RecordedTurn,
    RolloutFile,
    keeping,
    read,
    read_header,
    rollout_files,
    train_files,
    write,
)
from paw_lightning.rollout_files.run import RecordedRun, spans
from paw_lightning.rollout_files.writing import common_length
from paw_lightning.whole_files import PART

SINGLE = array("f", [-0.1, -1.7e-30, -123.456, 0.3]).tolist()
"""Numbers that float32 has: those nearest to what is written here."""


def turn(**fields: Any) -> RecordedTurn:
    values = {"prompt_ids": [1, 2, 3], "action_ids": [4, 5, 6, 7], "action_text": "go", "sampled_logprobs": SINGLE}
    return RecordedTurn(**values | fields)


def rollout(*turns: RecordedTurn, **header: Any) -> RolloutFile:
    return RolloutFile(Header(**header), [RecordedEpisode(task="t", turns=list(turns))])


def written(file: RolloutFile, folder: Path) -> list[dict[str, Any]]:
    """The lines of the file, as JSON has them."""
    path = folder / "train-000001.jsonl.gz"
    write(path, file)
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="ascii")]


def again(file: RolloutFile, folder: Path) -> RolloutFile:
    written(file, folder)
    return read(folder / "train-000001.jsonl.gz")


# What comes back


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    """Every field, away from its default."""
    values: dict[str, Any] = {}
    for name, value in vars(turn()).items():
        number = {bool: not value, int: 3, float: 0.1, str: f"ü \ud800 {name}", list: [1, 2], type(None): [9]}[
            type(value)
        ]
        values[name] = number
    floats = ["sampled_entropies", "reference_logprobs", "old_values", "importance", "token_advantages"]
    values |= dict.fromkeys(floats, SINGLE) | {"loss_weights": [0.25, 0.5], "target_step": 2, "target_weight": 1e-3}
    full = RecordedTurn(**values)
    episode = RecordedEpisode(
        1, "key", 2.0, "world", 0.3, True, 17, 3, "task", "pick", True, True, True, ["why", "again"], [full, turn()],
        ["hall", "attic"], "You see a \"pen\"."
    )  # fmt: skip
    header = Header(
        "val", 7, 0.4, "0.1", "env", "model", "Step", "GRPO", "MAE", 0.2, 5, "w", "c", "r", {"a": [1, None]}, True,
        True, True, True, "broke", ["failed"], {"m": 0.1}, {"s": 0.2}, [], {12: " go"},
    )  # fmt: skip
    for record, kind in ((header, Header), (episode, RecordedEpisode), (full, RecordedTurn)):
        unset = [name for name, value in vars(kind()).items() if getattr(record, name) == value]
        assert unset in ([], ["float64"]), "a field at its default proves nothing"
    found = again(RolloutFile(header, [episode]), tmp_path)
    assert found == RolloutFile(header, [episode])


@pytest.mark.parametrize("values", [SINGLE, [0.1, 0.2], [-0.0, 0.0, 1.0, -3.0], [], [math.inf, -math.inf, 0.5]])
def test_numbers_come_back_bit_for_bit(values: list[float], tmp_path: Path) -> None:
    """0.1 is none of float32's numbers: such lists are written with all digits; -0 keeps its sign."""
    file = rollout(turn(sampled_logprobs=values), turn(sampled_logprobs=SINGLE))
    found = again(file, tmp_path)
    assert [t.sampled_logprobs for t in found.episodes[0].turns] == [values, SINGLE]
    signs = [math.copysign(1, value) for value in found.episodes[0].turns[0].sampled_logprobs]
    assert signs == [math.copysign(1, value) for value in values]
    assert found.header.float64 == (["sampled_logprobs"] if 0.1 in values else [])


def test_nan_comes_back(tmp_path: Path) -> None:
    [value] = again(rollout(turn(old_values=[math.nan])), tmp_path).episodes[0].turns[0].old_values or []
    assert math.isnan(value)


def test_what_another_field_says_is_not_written_twice(tmp_path: Path) -> None:
    """The second prompt begins with two tokens of the first; the second anchor is the first observation."""
    first = turn(old_logprobs=SINGLE, observation_text="o", answer_text="go", anchor="s")
    second = turn(prompt_ids=[1, 2, 9, 9], anchor="o", answer_text=" go", action_text="go")
    _, line = written(rollout(first, second), tmp_path)
    assert [t.get("prompt") for t in line["turns"]] == [{"shared": 0, "ids": [1, 2, 3]}, {"shared": 2, "ids": [9, 9]}]
    assert [t.get("old_logprobs") for t in line["turns"]] == ["sampled_logprobs", None]
    assert [t.get("anchor") for t in line["turns"]] == ["s", None]
    assert [t.get("answer_text") for t in line["turns"]] == [None, " go"]
    assert not {"reward", "admissible", "control_ids"} & line["turns"][0].keys(), "at their defaults"
    assert again(rollout(first, second), tmp_path).episodes[0].turns == [first, second]


@pytest.mark.parametrize("text", ["", "x"])
def test_a_field_that_is_not_what_another_one_lets_expect_is_written(text: str, tmp_path: Path) -> None:
    turns = [turn(observation_text="o", answer_text=text), turn(anchor=text, answer_text=text)]
    assert again(rollout(*turns), tmp_path).episodes[0].turns == turns


def test_a_file_says_why_an_episode_is_over(tmp_path: Path) -> None:
    ends = {
        "won": {"finished": True, "won": True},
        "lost": {"finished": True},
        "turn limit": {},
        "context limit": {"overflowed": True},
    }
    for name, fields in ends.items():
        episode = RecordedEpisode(turns=[turn(reward=0.1), turn(reward=0.2)], errors=["e"], **fields)
        _, line = written(RolloutFile(Header(), [episode]), tmp_path)
        assert (line["ended"], line["return"], line["retries"]) == (name, 0.1 + 0.2, 1)


def test_common_beginnings() -> None:
    assert common_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_length([], [1]) == common_length([2], [1]) == 0
    assert common_length([1, 2], [1, 2, 3]) == common_length([1, 2, 3], [1, 2]) == 2
    long = list(range(1000))
    assert common_length(long, [*long[:777], -1, *long[778:]]) == 777


# What is refused


def test_another_version_is_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "train-000001.jsonl.gz"
    head = {"format": "paw_lightning rollout", "version": 2, "package": "9.9"}
    path.write_bytes(gzip.compress(json.dumps(head).encode()))
    for reader in (read, read_header):
        with pytest.raises(
            SettingsError, match=r"is a rollout file of version 2, written by paw_lightning 9.9; wanted v"
        ):
            reader(path)


def test_what_is_no_whole_rollout_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-000001.jsonl.gz"
    write(path, rollout(*[turn(observation_text=str(i)) for i in range(200)]))
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"text", gzip.compress(b"{")):
        path.write_bytes(content)
        with pytest.raises(SettingsError, match=r"train-000001.jsonl.gz cannot be read as a rollout file"):
            read(path)
    for content in (b"{}", b"[]", b""):
        path.write_bytes(gzip.compress(content))
        with pytest.raises(SettingsError, match="is no rollout file; wanted one that paw_lightning has written"):
            read(path)


def test_a_later_package_may_write_more(tmp_path: Path) -> None:
    path = tmp_path / "train-000001.jsonl.gz"
    file = rollout(turn())
    lines = written(file, tmp_path)
    lines[0]["new"] = lines[1]["new"] = lines[1]["turns"][0]["new"] = 1
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    assert read(path) == file


# Whole or not at all


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-000001.jsonl.gz"
    write(path, rollout(turn(), iteration=1))

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(NotWrittenError, match="No space"):
        patch.setattr(Path, "replace", full)
        write(path, rollout(turn(), turn(), iteration=1))
    assert len(read(path).episodes[0].turns) == 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "what was begun is cleared away"


def test_what_was_never_finished_is_not_read(tmp_path: Path) -> None:
    write(tmp_path / "train-000001.jsonl.gz", rollout(turn()))
    (tmp_path / f"train-000002.jsonl.gz{PART}").write_bytes(b"half")
    assert [path.name for path in rollout_files(tmp_path)] == ["train-000001.jsonl.gz"]


def test_equal_rollouts_are_equal_files(tmp_path: Path) -> None:
    """No clock in them: an iteration that is played again leaves the same bytes."""
    paths = [tmp_path / name for name in ("train-000001.jsonl.gz", "train-000002.jsonl.gz")]
    for path in paths:
        write(path, rollout(turn()))
    assert paths[0].read_bytes() == paths[1].read_bytes()


# A run's files


def touch(folder: Path, names: list[str], size: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.jsonl.gz").write_bytes(b"x" * size)


def names(folder: Path) -> list[str]:
    return [path.name.removesuffix(".jsonl.gz") for path in rollout_files(folder)]


def test_files_come_by_kind_and_iteration(tmp_path: Path) -> None:
    order = ["train-000002", "train-000010", "train-1000000", "val-000000", "test-000003-t0.4", "test-000003-t1"]
    touch(tmp_path / "rollouts", [*reversed(order), "other-000001", "train-x"])
    assert names(tmp_path) == names(tmp_path / "rollouts") == order
    assert list(train_files(tmp_path)) == [2, 10, 1_000_000]
    assert rollout_files(tmp_path / "nowhere") == []


def train(*numbers: int) -> list[str]:
    return [f"train-{number:06d}" for number in numbers]


def test_every_so_many_iterations_are_kept_beside_the_first_and_the_latest(tmp_path: Path) -> None:
    touch(tmp_path, [*train(*range(1, 13)), "val-000001"])
    keeping.remove_between(tmp_path, every=4, last=3)
    assert names(tmp_path) == [*train(1, 4, 8, 10, 11, 12), "val-000001"]
    keeping.remove_between(tmp_path, every=1, last=3)
    assert len(names(tmp_path)) == 7, "1 keeps all"


def test_the_middle_is_thinned_evenly_until_the_rest_fits(tmp_path: Path) -> None:
    """Nine files of 100 bytes in 600: 2, 4 and 6 go, each when its neighbours are two apart; 8 and 9 are the latest."""
    touch(tmp_path, train(*range(1, 10)))
    removed = keeping.make_room(tmp_path, 600, last=2)
    assert [path.name[6:12] for path in removed] == ["000002", "000004", "000006"]
    assert names(tmp_path) == train(1, 3, 5, 7, 8, 9)
    assert keeping.make_room(tmp_path, 600, last=2) == []


def test_validations_are_thinned_when_they_are_the_densest(tmp_path: Path) -> None:
    """Training is 5 apart where its middle goes, validations 4: between equal ones the earlier goes."""
    touch(tmp_path, train(1, 6, 11) + [f"val-{n:06d}" for n in (0, 2, 4)])
    keeping.make_room(tmp_path, 500, last=1)
    assert names(tmp_path) == [*train(1, 6, 11), "val-000000", "val-000004"]


def test_where_the_latest_alone_are_too_large_the_newest_stays(tmp_path: Path) -> None:
    touch(tmp_path, train(1, 2, 3, 4))
    keeping.make_room(tmp_path, 250, last=10)
    assert names(tmp_path) == train(1, 4)
    keeping.make_room(tmp_path, 50, last=10)
    assert names(tmp_path) == train(1, 4), "the first and the newest always stay"


def test_missing_iterations_are_named(tmp_path: Path) -> None:
    touch(tmp_path, train(1, 2, 5, 9))
    run = RecordedRun(tmp_path)
    assert run.length == 9
    with pytest.raises(SettingsError, match=r"lacks the rollouts of iteration 3, 4, 6-8 \(removed"):
        run.check_files(range(1, 10))
    assert spans([1, 2, 3, 5, 7, 8]) == "1-3, 5, 7, 8" and spans([]) == ""


# Without torch


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = tmp_path / "train-000001.jsonl.gz"
    write(path, rollout(turn()))
    code = (
        "import sys; from paw_lightning.rollout_files import read, rollout_files\n"
        f"assert read({str(path)!r}).episodes[0].turns[0].action_text == 'go' and rollout_files({str(tmp_path)!r})\n"
        "heavy = {'torch', 'lightning', 'transformers', 'numpy'} & sys.modules.keys(); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

"""Writes a rollout file: all of it or nothing."""

from __future__ import annotations

import gzip
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paw_lightning.rollout_files.records import (
    DEFAULTS,
    FLOAT_LISTS,
    FORMAT,
    SAME,
    VERSION,
    RecordedEpisode,
    RecordedTurn,
    RolloutFile,
    expected_texts,
)
from paw_lightning.whole_files import write_whole

LEVEL = 1
"""Of gzip: six takes five times as long for a tenth less."""


def write(path: Path, rollout: RolloutFile) -> int:
    """Write a file in the place of an older one, and return its size in bytes.

    Raises:
        NotWrittenError: the disk did not take it; the older one is as it was.
    """
    packed = pack(rollout)
    write_whole(path, lambda file: file.write(packed), len(packed))
    return len(packed)


def pack(rollout: RolloutFile) -> bytes:
    """All that a file holds."""
    return gzip.compress("".join(lines(rollout)).encode(), LEVEL, mtime=0)


def lines(rollout: RolloutFile) -> Iterable[str]:
    """The header's line, then each episode's."""
    doubles = float64_fields(rollout.episodes)
    header = replace(rollout.header, float64=sorted(doubles))
    first = {"format": FORMAT, "version": VERSION, **set_fields(header), "dropped_groups": header.dropped_groups}
    yield json.dumps(first) + "\n"
    for episode in rollout.episodes:
        yield _episode(episode, doubles) + "\n"


def float64_fields(episodes: Sequence[RecordedEpisode]) -> set[str]:
    """The fields in which some number is none of float32's."""
    found: set[str] = set()
    for name in FLOAT_LISTS[:-1]:
        for episode in episodes:
            for turn in episode.turns:
                values = getattr(turn, name)
                if values and array("f", values).tolist() != values:
                    found.add(name)
    return found


def _episode(episode: RecordedEpisode, doubles: set[str]) -> str:
    own = set_fields(episode)
    own.pop("turns", None)
    own |= {"ended": episode.ended, "return": episode.episode_return, "retries": episode.retries}
    turns = ", ".join(_turn(turn, episode.turns[i - 1] if i else None, doubles) for i, turn in enumerate(episode.turns))
    return f'{json.dumps(own)[:-1]}, "turns": [{turns}]}}'


def _turn(turn: RecordedTurn, before: RecordedTurn | None, doubles: set[str]) -> str:
    """A turn without what follows from the one before it, or from another field."""
    own = set_fields(turn)
    # What is said by other fields
    if prompt := own.pop("prompt_ids", None):
        shared = common_length(before.prompt_ids, prompt) if before is not None else 0
        own["prompt"] = {"shared": shared, "ids": prompt[shared:]}
    for name, expected in expected_texts(turn.action_text, before).items():
        own[name] = getattr(turn, name)
        if own[name] == expected:
            del own[name]
    # Numbers of tokens
    numbers = {name: own.pop(name) for name in FLOAT_LISTS if name in own}
    for name, source in SAME.items():
        if numbers.get(name) is not None and numbers[name] == numbers.get(source):
            del numbers[name]
            own[name] = source
    text = json.dumps(own)[:-1]
    written = (f', "{name}": {_floats(values, name, doubles)}' for name, values in numbers.items())
    return text + "".join(written) + "}"


def _floats(values: Sequence[float], name: str, doubles: set[str]) -> str:
    """A list of numbers; nine digits give a float32 back, and are written in half the time of all seventeen."""
    if name in doubles:
        return json.dumps(values)
    one = "%.4g," if name == "loss_weights" else "%.9g,"
    text = f"[{(one * len(values) % tuple(values))[:-1]}]"
    if "n" in text:  # nan and inf have names of their own in JSON
        return json.dumps(values)
    return text.replace("-0,", "-0.0,").replace("-0]", "-0.0]") if "-0," in text or "-0]" in text else text


def set_fields(record: Any) -> dict[str, Any]:
    """The fields that are not at their defaults."""
    defaults = DEFAULTS[type(record)]
    return {name: value for name, value in vars(record).items() if value != defaults[name]}


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many items two lists begin with in common, by halving: slices are compared faster than items."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low

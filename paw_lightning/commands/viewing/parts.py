"""A rollout file as the page holds it: a table of its episodes, and each group packed by itself, to be opened alone."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from paw_lightning.commands.viewing.tokens import taught_tokens
from paw_lightning.rollout_files import RecordedEpisode, RecordedTurn, RolloutFile
from paw_lightning.rollout_files.writing import common_length, set_fields

DIGITS = 4
"""Significant digits of every number that is shown."""
OF_FILE = ("split", "iteration", "temperature", "world_model_loss", "failures", "error", "metrics")
"""Fields of the header that the page shows."""


def part(name: str, rollout: RolloutFile) -> str:
    """One rollout file as lines of base64 of gzip of JSON: the table, the token texts, then a line for each group.

    No character of what an environment or a policy wrote is in the result: base64 has letters, digits and "+/=" alone.

    Args:
        name: of the file, without its ending.
        rollout: what it holds.
    """
    rows: list[dict[str, Any]] = []
    groups: list[str] = []
    for _, members in groupby(enumerate(rollout.episodes), key=lambda item: (item[1].left_out, item[1].group)):
        episodes = list(members)
        rows += [row(number, len(groups), episode) for number, episode in episodes]
        groups.append(packed([episode_data(episode) for _, episode in episodes]))
    table = {
        "name": name,
        **{field: getattr(rollout.header, field) for field in OF_FILE},
        "taught": taught_tokens(rollout.episodes),
        "columns": columns(rows),
    }
    return "\n".join([packed(table), packed(rollout.header.texts), *groups])


def row(number: int, chunk: int, episode: RecordedEpisode) -> dict[str, Any]:
    """What the table of episodes shows of one, and where the rest of it lies."""
    turns = episode.turns
    own = {name: value for name, value in vars(episode).items() if name not in ("turns", "errors", "finished")}
    return {
        **own,
        "number": number,
        "chunk": chunk,
        "ended": episode.ended,
        "return": episode.episode_return,
        "advantage": sum(turn.advantage for turn in turns) / len(turns) if turns else None,
        "turns": len(turns),
        "inadmissible": sum(not turn.admissible for turn in turns),
        "malformed": sum(not turn.well_formed for turn in turns),
        "cut_off": sum(turn.truncated for turn in turns),
        "errors": len(episode.errors),
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Column by column, which packs smaller; columns that say nothing are left out."""
    values = {name: [row[name] for row in rows] for name in (rows[0] if rows else {})}
    return {name: column for name, column in values.items() if name == "number" or any(column)}


def episode_data(episode: RecordedEpisode) -> dict[str, Any]:
    """An episode without what is at its default; of each prompt only what the one before did not have."""
    before: list[int] = []
    turns = []
    for turn in episode.turns:
        turns.append(_turn_data(turn, before))
        before = turn.prompt_ids
    return {**set_fields(episode), "turns": turns}


def _turn_data(turn: RecordedTurn, before: list[int]) -> dict[str, Any]:
    own = set_fields(turn)
    if turn.target_weight == 0 and turn.loss_weights:  # lambda is 0: nothing teaches, however unsure the model is
        own["loss_weights"] = [0.0] * len(turn.loss_weights)
    if prompt := own.pop("prompt_ids", None):
        shared = common_length(before, prompt)
        own["prompt"] = {"shared": shared, "ids": prompt[shared:]}
    return own


def shortened(value: Any) -> Any:
    """The same data with four significant digits, and null for what JSON has no number for."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(map(shortened, value))
    return value


def packed(data: Any) -> str:
    """Shortened, as JSON in ASCII, compressed, as base64; the same data is the same text."""
    text = json.dumps(shortened(data), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


def unpacked(text: str) -> Iterator[Any]:
    """What the lines of a part hold, one after the other."""
    for line in text.split("\n"):
        yield json.loads(gzip.decompress(base64.b64decode(line)))

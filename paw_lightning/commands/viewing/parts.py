"""A rollout file as the page holds it: a table of its episodes, and each group packed by itself, to be opened alone."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from paw_lightning.commands.viewing.tokens import taught_tokens

DIGITS = 4
"""Significant digits of every number that is shown."""
HEADER = ("split", "iteration", "temperature", "environment", "model", "layout", "advantage", "world_model_loss", "rho")
HEADER_LISTS = ("dropped_groups", "failures", "demonstrated", "control_tokens")


def part(name: str, header: Mapping[str, Any], episodes: Iterable[Mapping[str, Any]]) -> str:
    """One rollout file as lines of base64 of gzip of JSON: the table, the token texts, then a line for each group.

    No character of what an environment or a policy wrote is in the result: base64 has letters, digits and "+/=" alone.

    Args:
        name: of the file, without its ending.
        header: its first line.
        episodes: its other lines.
    """
    rows: list[dict[str, Any]] = []
    groups: list[str] = []
    played = [(number, shortened(episode)) for number, episode in enumerate(episodes)]
    for _, members in groupby(played, key=lambda item: item[1].get("group", item[0])):
        episodes_of_group = list(members)
        rows += [row(number, len(groups), episode) for number, episode in episodes_of_group]
        groups.append(packed([episode for _, episode in episodes_of_group]))
    table = {
        "name": name,
        **{key: header[key] for key in (*HEADER, *HEADER_LISTS) if header.get(key) is not None},
        "metrics": header.get("metrics", {}),
        "taught": taught_tokens([episode for _, episode in played]),
        "columns": columns(rows),
    }
    return "\n".join([packed(shortened(table)), packed(header.get("texts", {})), *groups])


def row(number: int, chunk: int, episode: Mapping[str, Any]) -> dict[str, Any]:
    """What the table of episodes shows of one, and where the rest of it lies."""
    turns = episode.get("turns", [])
    return {
        "number": number,
        "chunk": chunk,
        "group": episode.get("group", number),
        "group_key": episode.get("group_key", ""),
        "environment": episode.get("environment", ""),
        "task_seed": episode.get("task_seed", 0),
        "member": episode.get("member", 0),
        "task": episode.get("task", ""),
        "kind": episode.get("kind", ""),
        "won": bool(episode.get("won", False)),
        "ended": episode.get("ended", ""),
        "return": episode.get("return"),
        "coefficient": episode.get("coefficient"),
        "left_out": bool(episode.get("left_out", False)),
        "advantage": mean([turn["advantage"] for turn in turns if turn.get("advantage") is not None]),
        "turns": len(turns),
        "inadmissible": sum(not turn.get("admissible", True) for turn in turns),
        "malformed": sum(not turn.get("well_formed", True) for turn in turns),
        "cut_off": sum(turn.get("truncated", False) for turn in turns),
        "retries": episode.get("retries", 0),
        "errors": len(episode.get("errors", [])),
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Column by column, which packs smaller; columns that say nothing are left out."""
    names = rows[0] if rows else {}
    values = {name: [row[name] for row in rows] for name in names}
    return {name: column for name, column in values.items() if any(value not in (None, "", False) for value in column)}


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def shortened(value: Any) -> Any:
    """The same data with four significant digits, and null for what JSON has no number for."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): shortened(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if value and isinstance(value[0], int) else [shortened(item) for item in value]
    return value


def packed(data: Any) -> str:
    """JSON in ASCII, compressed, as base64; the same data is the same text."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode("ascii"), compresslevel=6, mtime=0)).decode("ascii")


def unpacked(text: str) -> Iterator[Any]:
    """What the lines of a part hold, one after the other."""
    for line in text.split("\n"):
        yield json.loads(gzip.decompress(base64.b64decode(line)))

"""The file of results of a GPU check, written again after every one of them: gpu.json.

{"steps": {"core": {"status": "done", "seconds": 41.2, "limit": 90.0}}, "entries": {"core/kernel": {...}}}
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, dict[str, dict[str, Any]]]
"""steps or entries -> name -> what is known of it."""


def read(path: Path) -> Record:
    """A file of results; empty where there is none."""
    return json.loads(path.read_text()) if path.is_file() else {"steps": {}, "entries": {}}


def write(path: Path, content: Record) -> None:
    """Replace the file in one moment: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(part, path)


def add(path: Path, kind: str, name: str, content: dict[str, Any]) -> None:
    """Write one step or entry into the file, in place of an older one of this name."""
    whole = read(path)
    whole[kind][name] = content
    write(path, whole)


def merged(records: Iterable[Record]) -> Record:
    """One record of several, older ones first: of each step and entry the last one, a failure too.

    Example: two calls, of which the second ran the study alone, give one record with everything.
    """
    whole: Record = {"steps": {}, "entries": {}}
    for part in records:
        for kind in whole:
            whole[kind].update(part.get(kind, {}))
    return whole

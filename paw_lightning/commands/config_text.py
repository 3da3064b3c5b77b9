"""Merges a configuration file and those below it into one text to edit, comments included."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from paw_lightning.config_files import BELOW, same_class

WIDTH = 120


@dataclass(frozen=True)
class Entry:
    """A key's value as it is written, or the keys below it, with the comments around."""

    key: str
    value: str = ""
    below: dict[str, Entry] = field(default_factory=dict)
    inline: bool = False
    """The keys below stand in braces on one line."""
    comments: tuple[str, ...] = ()
    remark: str = ""


def merged_text(files: list[Path]) -> str:
    """The text of one file with the settings of all: each file is laid over those before it.

    Only the last file's head comment is kept; a comment behind a value stays with the value.
    """
    entries: dict[str, Entry] = {}
    for file in files:
        entries = _lay_over(entries, _read(file.read_text()))
    head, _ = _head(files[-1].read_text().split("\n"))
    return "\n".join([*head, *_write(entries, "")]) + "\n"


def _head(lines: list[str]) -> tuple[list[str], int]:
    """The comment at the beginning, and the number of the first line after it."""
    stop = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return lines[:stop], stop


def _read(text: str) -> dict[str, Entry]:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        return {}
    lines = text.split("\n")
    found = _entries(root, text, lines, _head(lines)[1])
    return {key: entry for key, entry in found.items() if key != BELOW}


def _entries(node: yaml.MappingNode, text: str, lines: list[str], start: int) -> dict[str, Entry]:
    """Keys of one mapping; what stands above line `start` belongs to the file."""
    entries = {}
    for key, value in node.value:
        above = key.start_mark.line
        while not node.flow_style and above > start and lines[above - 1].lstrip().startswith("#"):
            above -= 1
        entry = Entry(
            text[key.start_mark.index : key.end_mark.index],
            comments=tuple(line.strip() for line in lines[above : key.start_mark.line] if not node.flow_style),
        )
        if isinstance(value, yaml.MappingNode) and value.value:
            after = value.end_mark.index if value.flow_style else key.end_mark.index
            below = _entries(value, text, lines, start)
            entry = replace(entry, below=below, inline=bool(value.flow_style), remark=_remark(text, after))
        else:
            first = value.start_mark.index
            if value.start_mark.line > key.start_mark.line:  # a list below its key keeps its lines
                first = text.rindex("\n", 0, first)
            written = text[first : value.end_mark.index].rstrip()
            remark = "" if node.flow_style or "\n" in written else _remark(text, value.end_mark.index)
            entry = replace(entry, value=written, remark=remark)
        entries[key.value] = entry
    return entries


def _remark(text: str, index: int) -> str:
    """The comment on the rest of the line."""
    match = re.match(r"[:,\]} ]*(#[^\n]*)", text[index:])
    return match[1].rstrip() if match else ""


def _lay_over(below: dict[str, Entry], above: dict[str, Entry]) -> dict[str, Entry]:
    return below | {key: _joined(below[key], entry) if key in below else entry for key, entry in above.items()}


def _joined(old: Entry, new: Entry) -> Entry:
    new = replace(new, comments=new.comments or old.comments)
    if not old.below or not new.below or not same_class(_class(old), _class(new)):
        return new
    joined = _lay_over(old.below, new.below)
    return replace(new, below=joined, inline=old.inline and new.inline, remark=new.remark or old.remark)


def _class(entry: Entry) -> str:
    return entry.below["class_path"].value if "class_path" in entry.below else ""


def _write(entries: dict[str, Entry], indent: str) -> list[str]:
    lines = []
    for entry in entries.values():
        lines += [indent + comment for comment in entry.comments]
        remark = f"  {entry.remark}" if entry.remark else ""
        written = _on_one_line(entry)
        line = f"{indent}{entry.key}:{'' if written.startswith(chr(10)) else ' '}{written}{remark}"
        if not entry.below or (entry.inline and len(line) <= WIDTH):
            lines.append(line)
        else:
            lines += [f"{indent}{entry.key}:{remark}", *_write(entry.below, indent + "  ")]
    return lines


def _on_one_line(entry: Entry) -> str:
    if not entry.below:
        return entry.value
    return "{" + ", ".join(f"{each.key}: {_on_one_line(each)}" for each in entry.below.values()) + "}"

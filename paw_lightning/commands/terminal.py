"""Text for a terminal of 80 columns: wrapped, coloured if it is a terminal, without control characters."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence
from typing import Literal

from paw_lightning.text.chat import valid_text

WIDTH = 80
Colour = Literal["bold", "dim", "red", "green", "yellow", "cyan", "magenta"]
CODES: dict[Colour, int] = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "magenta": 35, "cyan": 36}


def harmless(text: str) -> str:
    """The text without control characters, which an environment could move the cursor with; tabs become spaces."""
    return "".join(c if c.isprintable() or c == "\n" else "�" for c in valid_text(text).expandtabs(4))


def wrapped(text: str, first: str = "", rest: str | None = None) -> list[str]:
    """Lines of at most 80 columns that begin with `first`, then with `rest` (None: blanks of the same width)."""
    rest = " " * len(first) if rest is None else rest
    lines: list[str] = []
    for paragraph in harmless(text).split("\n"):
        begin = rest if lines else first
        options = {"initial_indent": begin, "subsequent_indent": rest, "break_on_hyphens": False}
        lines += textwrap.wrap(paragraph, WIDTH, **options) or [begin.rstrip()]  # type: ignore[arg-type]
    return lines


def columns(items: Sequence[str], indent: str = "  ") -> list[str]:
    """Items side by side as far as 80 columns reach, read from left to right; a long one is wrapped."""
    longest = max(map(len, items), default=0)
    count = (WIDTH - len(indent) + 2) // (longest + 2)
    if count < 2:
        return [line for item in items for line in wrapped(item, indent, indent + "    ")]
    rows = [items[i : i + count] for i in range(0, len(items), count)]
    return [(indent + "  ".join(item.ljust(longest) for item in row)).rstrip() for row in rows]


def has_colour() -> bool:
    """Whether standard output is a terminal and NO_COLOR is not set (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def painted(text: str, colour: Colour) -> str:
    """The text in a colour, or unchanged where colours are not shown."""
    return f"\033[{CODES[colour]}m{text}\033[0m" if has_colour() else text


def say(text: str = "", first: str = "", rest: str | None = None, colour: Colour | None = None) -> None:
    """Print a text wrapped."""
    for line in wrapped(text, first, rest):
        print(painted(line, colour) if colour else line)


def headline(title: str) -> None:
    """Print a heading for the lines that follow."""
    print()
    say(title, colour="bold")

"""``paw-lightning configs``: which configurations come with the package, and what is in them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from paw_lightning import config_files
from paw_lightning.commands.config_text import merged_text
from paw_lightning.errors import SettingsError

WIDTH = 80


def command(args: list[str]) -> int:
    """List the shipped configurations, print one merged with those that it lies on, or copy one to edit."""
    options = parse(args)
    try:
        if options.action == "copy":
            copy(options.name, options.file or Path(options.name.removesuffix(".yaml").rpartition("/")[2] + ".yaml"))
        elif options.action == "show":
            print(whole_text(options.name), end="")
        else:
            print("\n".join(listing()))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def parse(args: list[str]) -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(prog="paw-lightning configs", description="List the shipped configurations.")
    actions = parser.add_subparsers(dest="action", metavar="copy|show")
    copied = actions.add_parser("copy", help="write one to a file of your own, with all that it lies on merged in")
    copied.add_argument("name", help="a name out of the list, for example household/paw")
    copied.add_argument("file", type=Path, nargs="?", help="where to (default: the last part of the name, with .yaml)")
    shown = actions.add_parser("show", help="print what `copy` would write")
    shown.add_argument("name", help="a name out of the list, or a file")
    return parser.parse_args(args)


def listing() -> Iterator[str]:
    """A line of at most 80 characters for each shipped file: its name and its first comment, by folder."""
    names = sorted(config_files.shipped().items(), key=lambda item: item[0].rpartition("/"))
    width = max(len(name) for name, _ in names)
    for _, group in groupby(names, key=lambda item: item[0].rpartition("/")[0]):
        for name, path in group:
            yield f"{name:<{width}}  {first_line(path)}"[:WIDTH]
        yield ""
    yield "use:   paw-lightning fit --config NAME (several times: later ones lie on top)"
    yield "edit:  paw-lightning configs copy NAME"


def first_line(path: Path) -> str:
    """The first comment of a file, which says what the file is for."""
    with path.open(encoding="utf-8") as lines:
        return next(lines, "").lstrip("# ").rstrip()


def whole_text(name: str) -> str:
    """The text of a file, merged with the files below it if there are any."""
    files = config_files.layers(config_files.find(name))
    return merged_text(files) if len(files) > 1 else files[0].read_text(encoding="utf-8")


def copy(name: str, file: Path) -> None:
    """Write a configuration to a new file, and say how to run it.

    Raises:
        SettingsError: there is no such configuration, or the file exists.
    """
    text = whole_text(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", encoding="utf-8") as copied:
            copied.write(text)
    except FileExistsError:
        raise SettingsError(f"FILE is {file}, which exists; wanted a new one: configs copy {name} FILE") from None
    run = "compare" if name.startswith("compare/") else "fit --config"
    print(f"wrote {file}; next: paw-lightning {run} {file}")

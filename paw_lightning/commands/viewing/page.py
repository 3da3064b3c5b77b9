"""The page as one text: markup, style, script and data; only the data differs from run to run."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from paw_lightning.commands.viewing.parts import packed

BROWSER = Path(__file__).parent / "browser"
STYLES = ("base.css", "curves.css", "table.css", "episode.css", "tokens.css")
SCRIPTS = (
    "elements.js",
    "data.js",
    "state.js",
    "match.js",
    "curves.js",
    "filters.js",
    "table.js",
    "taught.js",
    "tokens.js",
    "inspector.js",
    "story.js",
    "lines.js",
    "transcript.js",
    "toolbar.js",
    "others.js",
    "episode.js",
    "keys.js",
    "main.js",
)
"""In the order in which they use each other: a file imports from earlier ones only."""
MODULE_LINE = re.compile(r"^(import .*|export )", re.MULTILINE)


def page(names: list[str], curves: list[str], parts: Iterable[tuple[int, str]], live: bool = False) -> str:
    """The page that needs nothing else.

    Args:
        names: of the runs.
        curves: of each run, packed.
        parts: (place of its run, text of the part) of every rollout file.
        live: the page asks the server that it comes from for new files.
    """
    style, script = "\n".join(map(_file, STYLES)), joined_script()
    about = packed({"runs": names, "live": live})
    data = [_data("about", about)]
    data += [_data("curves", text, run) for run, text in enumerate(curves)]
    data += [_data("part", text, run) for run, text in parts]
    values = {
        "TITLE": html.escape(" and ".join(map(printable, names))),
        "POLICY": policy(style, script, live),
        "STYLE": style,
        "DATA": "\n".join(data),
        "SCRIPT": script,
    }
    return re.sub(r"@@([A-Z]+)@@", lambda match: values[match[1]], _file("page.html"))


def policy(style: str, script: str, live: bool) -> str:
    """The Content-Security-Policy: this very style and script, nothing else, and no network but the own server."""
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def joined_script() -> str:
    """All scripts as one: modules whose imports and exports are gone, since one text needs neither."""
    files = "\n".join(MODULE_LINE.sub("", _file(name)) for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{files}\n}})();'


def printable(text: str) -> str:
    """The text with a mark for every character that cannot be seen: a folder's name may hold any."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@cache
def _file(name: str) -> str:
    return (BROWSER / name).read_text(encoding="utf-8")


def _data(kind: str, text: str, run: int = 0) -> str:
    return f'<script type="text/plain" data-kind="{kind}" data-run="{run}">{text}</script>'


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

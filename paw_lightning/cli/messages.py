"""The parser's errors in one line: what is set, to what, and what was wanted."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re

from paw_lightning.cli.choices import CHOICES, choices
from paw_lightning.cli.keys import nearest_key
from paw_lightning.cli.moved import KEYS

KINDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a text", "list": "a list"}


def explain(message: str) -> str:
    """Say in one line what an error message of jsonargparse says in several."""
    unknown = re.search(
        r"(?:unrecognized arguments: --|ambiguous option: --|does not accept option ')([\w.]+)", message
    )
    if unknown:
        return unknown_key(unknown[1])
    missing = re.search(r"arguments are required: (.*)", message)
    if missing:
        keys = re.sub(r"\b(fit|validate|test)\.", "", missing[1])
        return f"{keys} is not set; wanted a value, in a --config or as --KEY VALUE"
    found = re.match(r'Parser key "([\w.]+)":', message)
    if found is None:
        return " ".join(message.split())
    key, text = found[1], message[found.end() :]
    given = re.search(r"(?:Got value|Given value|import path string): (.*)", text)
    value = given[1] if given else ""
    refused = re.search(r"Option '([\w.]+)' is not accepted", text)
    if refused:
        return _unknown_argument(key, refused[1], text)
    literal = re.search(r"Literal\[(.*?)\]", text)
    no_class = "dot import path" in text or "has no attribute" in text or "No module named" in text
    if no_class and (key in CHOICES or not literal):
        return _no_class(key, value)
    if literal:
        return f"{key} is {value}; wanted one of {literal[1]}"
    kinds = [KINDS[name] for name in re.findall(r"<class '(\w+)'>", text) if name in KINDS]
    if kinds:
        return f"{key} is {value}; wanted {kinds[0]}"
    return f"{key} is {value or 'refused'}; wanted another value: {' '.join(text.split())}"


def unknown_key(key: str, place: str = "") -> str:
    """The message for a key that does not exist."""
    near = KEYS.get(key) or nearest_key(key)
    meant = f"did you mean {near}?" if near else "wanted one of `paw-lightning fit --help`"
    return f"{key}{place} is no known key; {meant}"


def _unknown_argument(key: str, name: str, text: str) -> str:
    found = re.search(r"class_path[=' :]+([\w.]+)", text)
    owner = found[1] if found else "its class"
    known = _arguments(owner) if found else []
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}?" if near else f"wanted one of {', '.join(known)}" if known else "wanted another"
    return f"{key}.init_args.{name} is no argument of {owner.rpartition('.')[2]}; {meant}"


def _no_class(key: str, value: str) -> str:
    names = choices(key) if key in CHOICES else {}
    near = difflib.get_close_matches(value.rpartition(".")[2], names, n=1)
    wanted = f"did you mean {near[0]}?" if near else f"wanted {', '.join([*names, 'package.module.Class'])}"
    return f"{key} is {value!r}, which names no class; {wanted}"


def _arguments(path: str) -> list[str]:
    """The names of a class's arguments; none where it does not tell."""
    module, _, name = path.rpartition(".")
    try:
        return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    except (ImportError, AttributeError, ValueError):
        return []

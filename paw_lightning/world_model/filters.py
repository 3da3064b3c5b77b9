"""Which tokens of an observation may be targets: filters for `target_control.filter`, and what a filter of yours gets.

A token filter is told the observation's text and where each token stands in it, and says for each token whether it may
be a target. A token that it rules out is read like any other context and never predicted. Examples::

    target_control: {filter: paw_lightning.world_model.filters.without_timestamps}

    def without_prices(text: str, tokens: list[tuple[int, int]]) -> list[bool]:   # of yours, in mine.py
        return outside(r"\\$[0-9.]+", text, tokens)                               # filter: mine.without_prices
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from paw_lightning.errors import SettingsError

Places = Sequence[tuple[int, int]]
"""First character and end of each token."""
TokenFilter = Callable[[str, list[tuple[int, int]]], Any]
"""(text, places of its N tokens) -> N truth values: this token may be a target."""

TIMESTAMP = r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?|\b\d\d?:\d\d(?::\d\d)?\b"
IDENTIFIER = (  # a UUID, or a run of hexadecimal digits
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b(?:0x)?(?=[a-fA-F]*\d)[0-9a-fA-F]{7,}\b"
)
WARNING = r"(?im)^\s*(?:\[?\w*warning\]?|\[?warn\]?|\[?debug\]?)\b.*$"


def without_timestamps(text: str, tokens: Places) -> list[bool]:
    """No token of a date or a time of day: 2026-01-31, 2026-01-31T08:15:00Z, 08:15."""
    return outside(TIMESTAMP, text, tokens)


def without_identifiers(text: str, tokens: Places) -> list[bool]:
    """No token of a UUID, or of a run of seven or more hexadecimal digits with a decimal one (hashes, addresses)."""
    return outside(IDENTIFIER, text, tokens)


def without_warnings(text: str, tokens: Places) -> list[bool]:
    """No token of a line that begins with a warning or a debug message."""
    return outside(WARNING, text, tokens)


def without_numbers(text: str, tokens: Places) -> list[bool]:
    """No token of a number."""
    return outside(r"\d+(?:[.,]\d+)*", text, tokens)


def outside(pattern: str, text: str, tokens: Places) -> list[bool]:
    """True for each token that holds no character of what the pattern matches.

    Example: "at 08:15 a knock" cut into "at", " 08", ":", "15", " a", " knock" gives T F F F T T for timestamps.
    """
    spans = [match.span() for match in re.finditer(pattern, text)]
    return [not any(first < end and start < last for start, end in spans) for first, last in tokens]


def mask(token_filter: TokenFilter, chat: Any, text: str, ids: Sequence[int]) -> list[bool]:
    """What a filter says of an observation's tokens.

    Raises:
        SettingsError: it says something else than one truth value for each token, or the tokenizer is none of the fast
            ones, which know where a token stands; the message names ``target_control.filter``.
    """
    name = f"{token_filter.__module__}.{getattr(token_filter, '__name__', type(token_filter).__name__)}"
    try:
        places = [(int(first), int(last)) for first, last in chat.text_offsets(text, ids)]
    except NotImplementedError as error:
        raise SettingsError(
            f"target_control.filter is {name}, and the tokenizer of model.path does not know where a token stands in a "
            "text; wanted a fast tokenizer, or filter null"
        ) from error
    try:
        said = np.asarray(list(token_filter(text, places)))
    except Exception as error:
        raise SettingsError(
            f"target_control.filter: {name} failed with {type(error).__name__}: {error} on the {len(ids)} tokens of "
            f"{text[:60]!r}; wanted one truth value for each token"
        ) from error
    truths = said.ndim == 1 and said.dtype.kind in "biuf"
    if not truths or len(said) != len(ids):
        gave = f"{len(said)} values" if truths else repr(said.tolist())[:60]
        raise SettingsError(
            f"target_control.filter: {name} gave {gave} for the {len(ids)} tokens of {text[:60]!r}; wanted one truth "
            "value for each token"
        )
    return [bool(value) for value in said]

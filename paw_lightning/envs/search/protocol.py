"""The protocol of a search agent and its world: calls, and retrieved documents as an observation.

The policy writes ``<search>query</search>`` or ``<answer>text</answer>``; the world puts what it found in
``<information>``. Tiny models say the same as ``search query`` and ``answer text``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from paw_lightning.text.actions import THINK, ActionFormat, ParsedAction

ObservationForm = Literal["plain", "verl_agent", "search_r1"]
FORMS = ("plain", "verl_agent", "search_r1")
NOTHING_FOUND = "No search results found."
INVALID_COMMAND = "I can only search <words> or answer <text>."
INVALID_TAGS = (
    "\nMy previous action is invalid. If I want to search, I should put the query between <search> and </search>. "
    "If I want to give the final answer, I should put the answer between <answer> and </answer>. Let me try again.\n"
)
"""Search-R1's own words: policies trained with its protocol know them."""

PAIR = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL | re.IGNORECASE)
OPENING = re.compile(r"<(?:search|answer)>", re.IGNORECASE)
CLOSING = re.compile(r"</(?:search|answer)>", re.IGNORECASE)
INFORMATION = re.compile(r"<information>", re.IGNORECASE)
COMMAND = re.compile(r"(search|answer)\s+(.+)", re.DOTALL | re.IGNORECASE)
LOOKALIKE = re.compile(r"<(?=\s*/?\s*(?:think|search|information|answer)\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """What an action asks for: a search for its content, or that its content be judged as the answer."""

    kind: Literal["search", "answer"]
    content: str


def read_call(text: str) -> Call | None:
    """The call in an action: the first tag pair, else a plain command; None when there is none, or an empty one.

    Whatever follows the first closing tag is cut off before looking.
    """
    return _call(_first_pair(text) or COMMAND.fullmatch(text.strip()))


def _first_pair(text: str) -> re.Match[str] | None:
    closing = CLOSING.search(text)
    return PAIR.search(text[: closing.end()]) if closing else None


def _call(found: re.Match[str] | None) -> Call | None:
    content = found.group(2).strip() if found else ""
    if found is None or not content:
        return None
    return Call("search" if found.group(1).lower() == "search" else "answer", content)


def read_tags(text: str) -> tuple[str, bool]:
    """The policy's text as the one tag pair that is sent to the world, and whether it was well-formed.

    Well-formed is verl-agent's rule: exactly one opening ``<search>`` or ``<answer>`` in the whole text, duplicates
    and mixtures are not; here it also has to hold something. Text without a pair is sent as "", a plain command too.
    """
    call = _call(_first_pair(text))
    if call is None:
        return "", False
    return f"<{call.kind}>{call.content}</{call.kind}>", len(OPENING.findall(text)) == 1


class SearchTags(ActionFormat):
    """``<search>...</search>`` or ``<answer>...</answer>``, the paper's, named by its path in `action_format`."""

    def parse(self, text: str) -> ParsedAction:
        """The first pair up to the first closing tag, see :func:`read_tags`."""
        return ParsedAction(*read_tags(text))

    def write(self, command: str) -> str:
        """A search; an action that is a call already stays as it is."""
        return command if _first_pair(command) else f"<search>{command}</search>"

    def runs_on(self, text: str) -> bool:
        """After the first closing tag, or with an ``<information>`` of its own outside the thought."""
        closing = CLOSING.search(text)
        behind = text[closing.end() :].strip() if closing else ""
        return bool(behind or INFORMATION.search(THINK.sub("", text)))


def neutralise(text: str) -> str:
    """Retrieved text with its tags made harmless: it can neither close the information tag nor look like an action.

    The rule: the ``<`` of whatever looks like one of the protocol's four tags, opening or closing, in any case and
    with any spaces in it, becomes ``&lt;``. Everything else stays as it is.
    """
    return LOOKALIKE.sub("&lt;", text)


def observe(documents: Sequence[str], form: ObservationForm) -> str:
    """Retrieved documents (``title newline text``, as in Search-R1's corpus) as an observation.

    plain: the texts without their titles, one a line. verl_agent: ``<information>`` around a JSON object whose
    "result" lists the documents. search_r1: ``<information>`` around ``Doc i(Title: ...) text`` lines.
    """
    if form == "plain":
        lines = (" ".join(contents.partition("\n")[2].split()) or " ".join(contents.split()) for contents in documents)
        return neutralise("\n".join(line for line in lines if line)) or NOTHING_FOUND
    if form == "verl_agent":
        listed = "".join(f"Doc {i}: {contents.strip()}\n" for i, contents in enumerate(documents, 1))
        result = json.dumps({"result": neutralise(listed) or NOTHING_FOUND})
        return f"<information>{result}</information>"
    parts = (contents.partition("\n") for contents in documents)
    listed = "".join(f"Doc {i}(Title: {title}) {text}\n" for i, (title, _, text) in enumerate(parts, 1))
    return f"\n\n<information>{neutralise(listed.strip()) or NOTHING_FOUND}</information>\n\n"

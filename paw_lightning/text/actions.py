"""From the policy's text to the command that the environment gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from paw_lightning.envs.search.protocol import read_tags

ActionFormat = Literal["plain", "tags", "search"]


@dataclass(frozen=True)
class ParsedAction:
    """What the policy's text means."""

    text: str
    well_formed: bool


THINK = re.compile(r"<think>.*?</think>", re.DOTALL)


ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)


HAN = re.compile(r"[\u4e00-\u9fff]")


def parse_action(text: str, action_format: ActionFormat) -> ParsedAction:
    """Read the environment's command out of the policy's text.

    plain: the text is the action; it is well-formed when it is one non-empty line.
    tags: the first ``<action>`` pair, lower-cased; well-formed when there is a ``<think>`` pair before it and no Han
    character. Without the pair the last 30 characters are sent, so that a near miss can still act. Both rules are
    those the paper's base implementation uses.
    search: the first ``<search>`` or ``<answer>`` pair up to the first closing tag; see `read_tags`.
    """
    if action_format == "search":
        return ParsedAction(*read_tags(text))
    if action_format == "plain":
        action = text.strip()
        return ParsedAction(action, bool(action) and "\n" not in action)
    match = ACTION.search(text)
    action = (match.group(1) if match else text[-30:]).strip().lower()
    think = THINK.search(text)
    ordered = match is not None and think is not None and think.end() <= match.start()
    return ParsedAction(action, bool(ordered and action and not HAN.search(text)))

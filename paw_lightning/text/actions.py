"""From the policy's text to the command that the environment gets."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass

from paw_lightning.errors import SettingsError

THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class ParsedAction:
    """What the policy's text means."""

    text: str
    """The command, as the environment gets it."""
    well_formed: bool


class ActionFormat(ABC):
    """How an answer of the policy holds its action; `rollout.prompt.action_format` names one, also a class of yours."""

    @abstractmethod
    def parse(self, text: str) -> ParsedAction:
        """Read the environment's command out of the policy's text."""

    @abstractmethod
    def runs_on(self, text: str) -> bool:
        """Whether text follows where the action should be over: the policy has begun to write its own observation."""


class Plain(ActionFormat):
    """The whole answer is the action; it is well-formed when it is one non-empty line."""

    def parse(self, text: str) -> ParsedAction:
        """The text without the white space around it."""
        action = text.strip()
        return ParsedAction(action, bool(action) and "\n" not in action)

    def runs_on(self, text: str) -> bool:
        """After a line break."""
        return "\n" in text.strip()


class Tags(ActionFormat):
    """``<think>...</think><action>...</action>``, the paper's; both rules below are its base implementation's.

    The action is the first ``<action>`` pair, lower-cased; well-formed when there is a ``<think>`` pair before it and no
    Han character. Without the pair the last 30 characters are sent, so that a near miss can still act.
    """

    def parse(self, text: str) -> ParsedAction:
        """The first pair's content, or the last 30 characters."""
        match = ACTION.search(text)
        action = (match.group(1) if match else text[-30:]).strip().lower()
        think = THINK.search(text)
        ordered = match is not None and think is not None and think.end() <= match.start()
        return ParsedAction(action, bool(ordered and action and not HAN.search(text)))

    def runs_on(self, text: str) -> bool:
        """After ``</action>``."""
        return bool("".join(text.split("</action>", 1)[1:]).strip())


SHIPPED = {
    "plain": "paw_lightning.text.actions.Plain",
    "tags": "paw_lightning.text.actions.Tags",
    "search": "paw_lightning.envs.search.protocol.SearchTags",
}


def action_format(name: str) -> ActionFormat:
    """The format of a short name (plain, tags, search) or of a class path.

    Raises:
        SettingsError: there is no such class, or it is no ActionFormat.
    """
    module, _, leaf = SHIPPED.get(name, name).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), leaf)()
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise SettingsError(
            f"rollout.prompt.action_format is {name!r}; wanted one of {sorted(SHIPPED)}, or the class path of an "
            f"ActionFormat: {error}"
        ) from error
    if not isinstance(found, ActionFormat):
        raise SettingsError(f"rollout.prompt.action_format is {name!r}; wanted the class path of an ActionFormat")
    return found


def parse_action(text: str, name: str) -> ParsedAction:
    """What a text means in the format of this name."""
    return action_format(name).parse(text)

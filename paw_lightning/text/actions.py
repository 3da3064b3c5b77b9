"""From the policy's text to the command that the environment gets."""

from __future__ import annotations

import importlib
import re

from paw_lightning.errors import SettingsError
from paw_lightning.text.action_format import ActionFormat, ParsedAction
from paw_lightning.text.tool_calls import ToolCall

THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
HAN = re.compile(r"[\u4e00-\u9fff]")


class Plain(ActionFormat):
    """The whole answer is the action; it is well-formed when it is one non-empty line.

    Of an answer that goes on with a thought which the prompt has opened, it is what follows ``</think>``.
    """

    def parse(self, text: str) -> ParsedAction:
        """The text without the white space around it."""
        action = text.strip()
        return ParsedAction(action, bool(action) and "\n" not in action)

    def read(self, text: str, opened: str = "") -> ParsedAction:
        """What follows a thought that the prompt has opened; the opening itself is no action."""
        return self.parse(text.rpartition("</think>")[2] if "<think>" in opened else text)

    def write(self, command: str) -> str:
        """The command itself."""
        return command

    def runs_on(self, text: str) -> bool:
        """After a line break."""
        return "\n" in text.strip()


class Tags(ActionFormat):
    """``<think>...</think><action>...</action>``, the paper's; both rules below are its base implementation's.

    The action is the first ``<action>`` pair, lower-cased; well-formed when there is a ``<think>`` pair before it and
    no Han character. Without the pair the last 30 characters are sent, so that a near miss can still act.
    """

    def parse(self, text: str) -> ParsedAction:
        """The first pair's content, or the last 30 characters."""
        match = ACTION.search(text)
        action = (match.group(1) if match else text[-30:]).strip().lower()
        think = THINK.search(text)
        ordered = match is not None and think is not None and think.end() <= match.start()
        return ParsedAction(action, bool(ordered and action and not HAN.search(text)))

    def write(self, command: str) -> str:
        """A thought, then the command in its tags."""
        return f"<think>what next?</think><action>{command}</action>"

    def runs_on(self, text: str) -> bool:
        """After ``</action>``."""
        return bool("".join(text.split("</action>", 1)[1:]).strip())


SHORT_NAMES: dict[str, type[ActionFormat]] = {"plain": Plain, "tags": Tags, "tool_call": ToolCall}


def action_format(name: str) -> ActionFormat:
    """The format of a short name (plain, tags, tool_call) or of a class path.

    Raises:
        SettingsError: there is no such class, or it is no ActionFormat.
    """
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]()
    module, _, leaf = name.rpartition(".")
    wanted = f"wanted one of {sorted(SHORT_NAMES)}, or the class path of an ActionFormat"
    try:
        found = getattr(importlib.import_module(module), leaf)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"rollout.prompt.action_format is {name!r}; {wanted}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, ActionFormat)):
        raise SettingsError(f"rollout.prompt.action_format is {name!r}, which names {found!r}; {wanted}")
    return found()


def parse_action(text: str, name: str) -> ParsedAction:
    """What a text means in the format of this name."""
    return action_format(name).parse(text)

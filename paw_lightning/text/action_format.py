"""What an action format is: how an answer of the policy holds its action."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class ParsedAction:
    """What the policy's text means."""

    text: str
    """The command, as the environment gets it."""
    well_formed: bool


class ActionFormat(ABC):
    """How an answer of the policy holds its action; `rollout.prompt.action_format` names one, also a class of yours."""

    calls_tools: ClassVar[bool] = False
    """Actions are calls of the tools that the environment names."""

    def of(self, chat: Any) -> ActionFormat:
        """The format as the dialogue `chat`, a ChatFormat, writes it."""
        return self

    @abstractmethod
    def parse(self, text: str) -> ParsedAction:
        """Read the environment's command out of the policy's text."""

    @abstractmethod
    def write(self, command: str) -> str:
        """A command as a policy that has learnt the format writes it: :meth:`parse` reads it back, well-formed."""

    def read(self, text: str, opened: str = "") -> ParsedAction:
        """:meth:`parse` of an answer whose beginning the prompt has written, ``<think>`` for example.

        That beginning counts where the answer is well-formed only with it.
        """
        parsed = self.parse(text)
        if parsed.well_formed or not opened.strip():
            return parsed
        whole = self.parse(opened + text)
        return whole if whole.well_formed else parsed

    def answer(self, command: str, opened: str = "") -> str:
        """:meth:`write` without what the prompt has written of it already."""
        text, opened = self.write(command), opened.strip()
        return text[len(opened) :] if opened and text.startswith(opened) else text

    @abstractmethod
    def runs_on(self, text: str) -> bool:
        """Whether text follows where the action should be over: the policy has begun to write its own observation."""

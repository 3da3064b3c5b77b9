"""How an episode becomes token sequences: one for each transition, or one that grows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar

from paw_lightning.errors import SettingsError
from paw_lightning.text.prompts import Prompt, PromptBuilder, PromptTooLongError, Turn
from paw_lightning.types import Transition


@dataclass(frozen=True)
class Context:
    """One decision context."""

    ids: list[int]
    """All that the policy reads before it acts; a growing list in the episode layout."""
    prompt_ids: list[int]
    turn_ids: list[int]
    dropped_turns: int = 0


class Layout(ABC):
    """The token side of one episode; `rollout.layout` names one, also a class of yours.

    It is built with (prompts, the episode's task, its first observation, `rollout.max_observation_tokens`).
    """

    grows: ClassVar[bool] = False
    """Every decision context begins with the one before it: a sampler may go on where it ended."""
    unread: ClassVar[frozenset[str]] = frozenset()
    """Settings of `rollout.prompt` that this layout never looks at: setting one is refused."""

    def __init__(self, prompts: PromptBuilder, task: str, initial: str, max_observation_tokens: int) -> None:
        self.prompts, self.task, self.initial = prompts, task, initial
        self.max_observation_tokens = max_observation_tokens

    @abstractmethod
    def context(self, observation: str, admissible: list[str]) -> Context:
        """What the policy reads at the next turn. Raises PromptTooLongError when that is too long."""

    @abstractmethod
    def record(self, transition: Transition, admissible: list[str]) -> None:
        """Take in an answered action, and write the transition's bridge_ids and observation_ids.

        Args:
            admissible: what the environment admits after it.
        """


class StepLayout(Layout):
    """One sequence per transition, each decision context rendered anew from the last turns: the paper's layout."""

    unread = frozenset({"turn_template"})

    def __init__(self, prompts: PromptBuilder, task: str, initial: str, max_observation_tokens: int) -> None:
        super().__init__(prompts, task, initial, max_observation_tokens)
        self.turns: list[Turn] = []

    def context(self, observation: str, admissible: list[str]) -> Context:
        ids, dropped = self.prompts.fit(self.task, observation, self.turns, self.initial, admissible)
        return Context(ids, ids, self.prompts.chat.after_ids, dropped)

    def record(self, transition: Transition, admissible: list[str]) -> None:
        chat = self.prompts.chat
        transition.bridge_ids = chat.bridge_after(transition.action_ids)
        if transition.predictable:
            transition.observation_ids = chat.encode_within(transition.observation_text, self.max_observation_tokens)
        self.turns.append(Turn(transition.anchor, transition.action_text))


class EpisodeLayout(Layout):
    """One sequence per episode, token in, token out: prompt, action as sampled, bridge, turn text, action, ...

    What was read or written once stays as it is. Nothing is tokenised a second time or rendered through the chat
    template again, so a template that strips the thinking of earlier turns cannot change what the policy has read.
    The turn text (``rollout.prompt.turn_template``) is encoded so that the observation's tokens are its own.
    """

    grows = True
    unread = frozenset({"template", "history_turn", "history_length"})

    def __init__(self, prompts: PromptBuilder, task: str, initial: str, max_observation_tokens: int) -> None:
        super().__init__(prompts, task, initial, max_observation_tokens)
        self.ids: list[int] = []
        self.pending: list[int] = []
        """What follows the last observation up to the next action."""
        self.length = 0
        """Tokens before the next action."""
        self.played = 0

    def context(self, observation: str, admissible: list[str]) -> Context:
        if not self.played:
            prompt = self.prompts.build(self.task, observation, [], observation, admissible)
            self.ids = list(prompt)
            return Context(self.ids, prompt, self.prompts.chat.after_ids)
        limit = self.prompts.prompt.max_tokens
        if self.length > limit:
            raise PromptTooLongError(
                f"the transcript has at least {self.length} tokens before action {self.played + 1}; wanted at most "
                f"{limit} (rollout.prompt.max_tokens)"
            )
        self.ids += self.pending
        return Context(self.ids, [], self.pending)

    def record(self, transition: Transition, admissible: list[str]) -> None:
        chat, observation = self.prompts.chat, transition.observation_text
        self.played += 1
        before, after = self.prompts.turn(self.task, admissible, self.played + 1)
        fewest = chat.fewest_tokens(observation)
        self.length = len(self.ids) + len(transition.action_ids) + fewest
        if fewest > self.max_observation_tokens and self.length > self.prompts.prompt.max_tokens:
            # It may be a megabyte, and the next context is too long whatever it says.
            transition.bridge_ids = chat.bridge_after(transition.action_ids)
            return
        transition.bridge_ids, ids, self.pending = chat.encode_turn(transition.action_ids, before, observation, after)
        self.ids += transition.action_ids + transition.bridge_ids
        if transition.predictable and len(ids) <= self.max_observation_tokens:
            transition.observation_ids = ids
            self.ids += ids
        else:
            self.pending = ids + self.pending  # read, but never predicted
        self.length = len(self.ids) + len(self.pending)


LAYOUTS: dict[str, type[Layout]] = {"step": StepLayout, "episode": EpisodeLayout}


def check_prompt(layout: type[Layout], prompt: Prompt) -> None:
    """Refuse settings of the prompt that the layout never reads."""
    for field in fields(Prompt):
        value = getattr(prompt, field.name)
        if field.name in layout.unread and value != field.default:
            raise SettingsError(
                f"rollout.prompt.{field.name} is {value!r}, which {layout.__name__} never reads; wanted it left out, "
                "or another rollout.layout"
            )

"""The two ways in which an episode becomes token sequences: one per transition, or one that grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from paw_lightning.text.prompts import PromptBuilder, PromptTooLongError, Turn
from paw_lightning.types import Transition

LayoutName = Literal["step", "episode"]


@dataclass(frozen=True)
class Context:
    """One decision context."""

    ids: list[int]
    """All that the policy reads before it acts; a growing list in the episode layout."""
    prompt_ids: list[int]
    turn_ids: list[int]
    dropped_turns: int = 0


class Layout(Protocol):
    """The token side of one episode."""

    grows: ClassVar[bool]
    """Every decision context begins with the one before it: a sampler may go on where it ended."""

    def context(self, observation: str, admissible: list[str]) -> Context:
        """What the policy reads at the next turn. Raises PromptTooLongError when that is too long."""

    def record(self, transition: Transition, admissible: list[str]) -> None:
        """Take in an answered action, and write the transition's bridge_ids and observation_ids.

        `admissible` is what the environment admits after it.
        """


class StepLayout:
    """One sequence per transition, each decision context rendered anew from the last turns: the paper's layout."""

    grows = False

    def __init__(self, prompts: PromptBuilder, task: str, initial: str, max_observation_tokens: int) -> None:
        self.prompts, self.task, self.initial = prompts, task, initial
        self.max_observation_tokens = max_observation_tokens
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


class EpisodeLayout:
    """One sequence per episode, token in, token out: prompt, action as sampled, bridge, turn text, action, ...

    What was read or written once stays as it is. Nothing is tokenised a second time or rendered through the chat
    template again, so a template that strips the thinking of earlier turns cannot change what the policy has read.
    The turn text (``rollout.prompt.turn_template``) is encoded in three pieces, so that the observation's tokens are
    its own.
    """

    grows = True

    def __init__(self, prompts: PromptBuilder, task: str, initial: str, max_observation_tokens: int) -> None:
        self.prompts, self.task = prompts, task
        self.max_observation_tokens = max_observation_tokens
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
        chat = self.prompts.chat
        self.played += 1
        before, after = self.prompts.turn(self.task, admissible, self.played + 1)
        transition.bridge_ids = [*chat.bridge_after(transition.action_ids), *before]
        self.pending = [*after, *chat.after_ids]
        self.ids += transition.action_ids + transition.bridge_ids
        fewest = chat.fewest_tokens(transition.observation_text)
        self.length = len(self.ids) + fewest
        if fewest > self.max_observation_tokens and self.length > self.prompts.prompt.max_tokens:
            return  # a megabyte that nobody will read or predict
        ids = chat.encode_text(transition.observation_text)
        if transition.predictable and len(ids) <= self.max_observation_tokens:
            transition.observation_ids = ids
            self.ids += ids
        else:
            self.pending = ids + self.pending  # read, but never predicted
        self.length = len(self.ids) + len(self.pending)


LAYOUTS: dict[LayoutName, type[StepLayout] | type[EpisodeLayout]] = {"step": StepLayout, "episode": EpisodeLayout}

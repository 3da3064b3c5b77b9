"""Decision contexts: what the policy reads before it acts, as text and as token ids."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass

from paw_lightning.errors import SettingsError
from paw_lightning.text.actions import action_format
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.tool_calls import Tool, sample_call


@dataclass(frozen=True)
class Prompt:
    """How a decision context is written (config key ``rollout.prompt``).

    Templates are ``str.format`` strings.

    Args:
        template: a turn of the step layout, over ``task``, ``initial_observation``, ``observation``, ``history``,
            ``admissible_commands`` and ``step`` (1 at the first turn).
        first_template: the first turn, where there is no history; the fields of `template`.
        turn_template: each later turn of the episode layout, over ``task``, ``observation`` (once),
            ``admissible_commands`` and ``step``; the transcript itself is the history there, so `template`,
            `history_turn` and `history_length` belong to the step layout.
        history_turn: one past turn within ``{history}``, over ``task``, ``observation`` (seen before the action),
            ``action`` and ``step``.
        history_length: how many past turns are shown; 2 is the paper's for ALFWorld and WebShop.
        action_format: plain: the whole answer is the action; tags: ``<think>...</think><action>...</action>``, the
            paper's; tool_call: a call of one of the environment's tools, as the model's chat template writes it; or the
            class path of an ActionFormat, one of yours or an environment's.
        command_template: a line of ``{admissible_commands}``, over ``command``.
        unlisted_commands: admissible commands that are left out of that list.
        max_tokens: longest decision context. The step layout drops the oldest history first to meet it; where that does
            not help, as in the episode layout, the episode ends as cut off (the whole group is lost if that is its
            first turn).
    """

    template: str = "{initial_observation}\n{history}{observation}\nTask: {task}"
    first_template: str = "{observation}\nTask: {task}"
    turn_template: str = "{observation}\nTask: {task}"
    history_turn: str = "{observation}\n> {action}\n"
    history_length: int = 2
    action_format: str = "plain"
    command_template: str = "'{command}'"
    unlisted_commands: tuple[str, ...] = ()
    max_tokens: int = 2048

    def __post_init__(self) -> None:
        known = {"task", "initial_observation", "observation", "history", "admissible_commands", "step"}
        _check_fields("template", self.template, known)
        _check_fields("first_template", self.first_template, known)
        _check_fields("history_turn", self.history_turn, {"task", "observation", "action", "step"})
        _check_fields("turn_template", self.turn_template, {"task", "observation", "admissible_commands", "step"})
        _check_fields("command_template", self.command_template, {"command"})
        fields = [part[1:] for part in string.Formatter().parse(self.turn_template) if part[1] == "observation"]
        if fields != [("observation", "", None)]:
            raise SettingsError(
                f"rollout.prompt.turn_template is {self.turn_template!r}; wanted a plain {{observation}} in it exactly "
                "once"
            )
        if self.history_length < 0:
            raise SettingsError(f"rollout.prompt.history_length is {self.history_length}; wanted 0 or more")
        if self.max_tokens < 1:
            raise SettingsError(f"rollout.prompt.max_tokens is {self.max_tokens}; wanted 1 or more")
        action_format(self.action_format)  # refuses an unknown one


def _check_fields(name: str, template: str, known: set[str]) -> None:
    try:
        unknown = {part for _, part, _, _ in string.Formatter().parse(template) if part is not None} - known
    except ValueError as error:
        raise SettingsError(f"rollout.prompt.{name} is not a format string: {error}") from error
    if unknown:
        raise SettingsError(
            f"rollout.prompt.{name} uses unknown fields {sorted(unknown)}; wanted some of {sorted(known)}"
        )


def _halves(template: str) -> list[str]:
    """Cut a format string at its ``{observation}`` fields, so that what stands around them is encoded apart."""
    halves = [""]
    for literal, name, spec, conversion in string.Formatter().parse(template):
        halves[-1] += literal.replace("{", "{{").replace("}", "}}")
        if name == "observation":
            halves.append("")
        elif name is not None:
            halves[-1] += "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
    return halves


@dataclass(frozen=True)
class Turn:
    """One past turn as the prompt shows it."""

    observation: str
    action: str


class PromptTooLongError(ValueError):
    """The prompt does not fit even without history."""


class PromptBuilder:
    """Writes decision contexts as token ids."""

    def __init__(self, prompt: Prompt, chat: ChatFormat, tools: Sequence[Tool] = ()) -> None:
        self.prompt = prompt
        self.chat = chat
        self.form = action_format(prompt.action_format).of(chat)
        self.tools = tools
        """What actions may call; empty where they are no tool calls."""
        self.before_observation, self.after_observation = _halves(prompt.turn_template)

    def with_tools(self, tools: Sequence[Tool] | None) -> PromptBuilder:
        """For a world with these tools; the builder itself where actions are not tool calls.

        Raises SettingsError where they are, and the world names none.
        """
        if not self.form.calls_tools:
            return self
        if not tools:
            raise SettingsError(
                f"rollout.prompt.action_format is {self.prompt.action_format!r} and the environment names no tools; "
                "wanted a list of them in info['tools'] at each reset (rollout.environment), or another action_format"
            )
        return PromptBuilder(self.prompt, self.chat.with_tools(tools), tools)

    @property
    def sample_command(self) -> str:
        """A command in a form that the environment can read, whatever it says to it."""
        return str(sample_call(self.tools[0])) if self.tools else "look"

    def build(
        self, task: str, observation: str, turns: Sequence[Turn], initial: str, admissible: list[str]
    ) -> list[int]:
        """The prompt's token ids, with as much history as fits; see :meth:`fit`."""
        return self.fit(task, observation, turns, initial, admissible)[0]

    def fit(
        self, task: str, observation: str, turns: Sequence[Turn], initial: str, admissible: list[str]
    ) -> tuple[list[int], int]:
        """Return the prompt's ids, and how many of the turns to be shown were dropped, oldest first, to make it fit.

        Raises PromptTooLongError when it is too long without any history.
        """
        length, limit = self.prompt.history_length, self.prompt.max_tokens
        shown = list(turns[-length:]) if length else []

        def written(dropped: int) -> list[int] | None:
            text = self.render(task, observation, shown[dropped:], len(turns), initial, admissible)
            if self.chat.fewest_tokens(text) > limit:
                return None
            ids = self.chat.encode_prompt(text)
            return ids if len(ids) <= limit else None

        if (ids := written(0)) is not None:
            return ids, 0
        ids, enough, too_few = written(len(shown)), len(shown), 0
        if ids is None:
            raise PromptTooLongError(
                f"the prompt without any history has more than {limit} tokens, the most that rollout.prompt.max_tokens "
                "allows"
            )
        while enough - too_few > 1:  # by halves: a long history is not tokenised once for every turn of it
            middle = (enough + too_few) // 2
            if (attempt := written(middle)) is not None:
                ids, enough = attempt, middle
            else:
                too_few = middle
        return ids, enough

    def turn(self, task: str, admissible: list[str], step: int) -> tuple[str, str]:
        """What stands before and after the observation in a later turn's text (episode layout)."""
        fields = {"task": task, "admissible_commands": self.listed(admissible), "step": step}
        return self.before_observation.format(**fields), self.after_observation.format(**fields)

    def listed(self, admissible: Sequence[str]) -> str:
        """The text of ``{admissible_commands}``."""
        shown = [command for command in admissible if command not in self.prompt.unlisted_commands]
        return "\n".join(self.prompt.command_template.format(command=command) for command in shown)

    def render(
        self,
        task: str,
        observation: str,
        shown: Sequence[Turn],
        played: int,
        initial: str,
        admissible: list[str],
    ) -> str:
        """A prompt's text, with the turns to be shown in its history after so many that were played."""
        first = played + 1 - len(shown)
        history = "".join(
            self.prompt.history_turn.format(task=task, observation=turn.observation, action=turn.action, step=first + i)
            for i, turn in enumerate(shown)
        )
        template = self.prompt.template if played else self.prompt.first_template
        return template.format(
            task=task,
            initial_observation=initial,
            observation=observation,
            history=history,
            admissible_commands=self.listed(admissible),
            step=played + 1,
        )

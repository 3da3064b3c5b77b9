"""The dialogue probe: would perfect answers, under this tokenizer, template and action format, be read as such?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.layouts import EpisodeLayout, StepLayout
from paw_lightning.rollouts.runner import Runner, stop_token_ids
from paw_lightning.text.actions import action_format
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.encoding import valid_text
from paw_lightning.text.prompts import PromptBuilder, PromptTooLongError, Turn
from paw_lightning.text.template import FROZEN, Message, refusal, rendered
from paw_lightning.text.tool_calls import Call
from paw_lightning.text.tool_template import answered, called
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Transition

TURNS = 3
"""Contexts that are compared: a template may write the first and the last message otherwise than those between."""


def check_dialogue(runner: Runner, module: PaWModule) -> None:
    """Play a short dialogue of the first observation and ideal actions through encode, stop, decode, parse and bridge.

    Each context has to be what the model's own chat template makes of the same texts; what is not is refused before
    anything is played. An earlier answer may differ: as in every transcript it is read as it was written, where a
    template may leave out its thought.

    Raises:
        SettingsError: what differs, and the key that sets it.
    """
    look = runner.first_look()
    if look is None and action_format(runner.settings.prompt.action_format).calls_tools:
        return  # which tools there are only the environment knows: playing will report what ails it
    observation, info = look or ("You see a desk.", {})
    commands = [command for command in info.get("admissible_commands") or [] if command.strip()]
    prompts, language_model = runner.prompts, module.language_model
    stops = stop_token_ids(module.chat, language_model)
    probe = Probe(prompts, observation, str(info.get("task", "")), commands, stops)
    used = probe.check_answer() + probe.check_observation()
    try:
        if runner.settings.layout is StepLayout:
            used += probe.check_prompts()
        elif runner.settings.layout is EpisodeLayout:
            used += probe.check_transcript(runner.settings.max_observation_tokens)
    except PromptTooLongError:
        pass  # playing reports it, and counts it
    rows: int = language_model.get_input_embeddings().num_embeddings  # type: ignore[union-attr,assignment]
    if max(used) >= rows:
        token = module.tokenizer.convert_ids_to_tokens(max(used))
        raise refusal(
            module.tokenizer,
            f"writes {token!r} as token {max(used)}, and the model knows {rows} tokens; wanted a model whose "
            "embeddings were resized to its tokenizer",
        )
    if str(module.tokenizer.chat_template).startswith(FROZEN):
        rank_zero_info("the chat template writes the date: it is 26 July 2024 in every run and in the exported policy")


@dataclass(frozen=True)
class Probe:
    """A dialogue's texts, and what has to become of them; each check returns the token ids that it has seen."""

    prompts: PromptBuilder
    observation: str
    task: str
    commands: list[str]
    stops: Sequence[int]

    @property
    def chat(self) -> ChatFormat:
        """The dialogue as tokens."""
        return self.prompts.chat

    @property
    def command(self) -> str:
        """An action that the environment admits, as far as it says."""
        return self.commands[0] if self.commands else self.prompts.sample_command

    @property
    def answer(self) -> str:
        """What a perfect policy writes."""
        return self.prompts.form.answer(self.command, self.chat.scaffold.opened)

    # The answer

    def check_answer(self) -> list[int]:
        """An ideal answer stops where it ends, and is read as the well-formed action that it is."""
        name = self.prompts.prompt.action_format
        ids = self.chat.encode_answer(self.answer)
        if early := [i for i in ids[:-1] if i in self.stops]:
            token = self.chat.tokenizer.convert_ids_to_tokens(early[0])
            raise SettingsError(
                f"rollout.prompt.action_format is {name!r}, whose answer {self.answer!r} holds {token!r}, which ends "
                "an action under model.path; wanted an answer that ends where its turn ends"
            )
        answer = self.chat.read_answer(ids, self.stops)
        parsed = self.prompts.form.read(answer.text, answer.opened)
        if not parsed.well_formed or self.command.strip().casefold() not in parsed.text.casefold():
            form = "well-formed" if parsed.well_formed else "not well-formed"
            raise SettingsError(
                f"rollout.prompt.action_format is {name!r}, which writes {self.command!r} as {self.answer!r} and reads "
                f"it back under the tokenizer of model.path as {parsed.text!r}, {form}; wanted the command, well-formed"
            )
        return ids

    # The contexts

    def check_observation(self) -> list[int]:
        """A text without look-alikes of control tokens has the tokenizer's own ids."""
        text = valid_text(self.observation)
        ids = self.chat.encode_text(text)
        if self._is_harmless(text):
            self._compare("the first observation", ids, self._own(text))
        return ids

    def check_prompts(self) -> list[int]:
        """Step layout: every prompt is the template's rendering of its text."""
        seen: list[int] = []
        turns: list[Turn] = []
        for _ in range(TURNS):
            fields = self.task, self.observation
            ids, dropped = self.prompts.fit(*fields, turns, self.observation, self.commands)
            length = self.prompts.prompt.history_length
            shown = turns[max(0, len(turns) - length + dropped) :] if length else []
            text = self.prompts.render(*fields, shown, len(turns), self.observation, self.commands)
            if self._is_harmless(text):
                self._compare(f"prompt {len(turns) + 1}", ids, self._template_ids([text]))
            turns.append(Turn(self.observation, self.command))
            seen += ids
        return seen

    def check_transcript(self, max_observation_tokens: int) -> list[int]:
        """Episode layout: the growing transcript is the template's rendering of the whole dialogue."""
        layout = EpisodeLayout(self.prompts, self.task, self.observation, max_observation_tokens)
        action = self.chat.encode_answer(self.answer)
        text = self.prompts.render(self.task, self.observation, [], 0, self.observation, self.commands)
        texts, ids = [text], list(layout.context(self.observation, self.commands).ids)
        if not self._is_harmless(text + self.answer):
            return ids  # what looks like a control token is read in other tokens on purpose
        self._compare("the first prompt", ids, self._template_ids(texts))
        first = self._text(ids)
        first = first[: len(first) - len(self.chat.scaffold.opened)]
        for turn in range(2, TURNS + 1):
            read = len(ids) + len(action)
            layout.record(self._transition(action), self.commands)
            ids = list(layout.context(self.observation, self.commands).ids)
            before, after = self.prompts.turn(self.task, self.commands, turn)
            texts += [self.answer, before + self.observation + after]
            self._compare_transcript(turn, ids, self._template_ids(texts), first, ids[read:])
        return ids

    def _compare_transcript(self, turn: int, ids: list[int], wanted: list[int], first: str, latest: list[int]) -> None:
        """All of it; but for earlier answers, where the template leaves out or adds a thought.

        `first` is how a transcript begins, `latest` what was read after the last action. Where the tokens differ, the
        texts decide: tokens at the two ends of an observation are split so that those between are its own.
        """
        text, whole = self._text(ids), self._text(wanted)
        scaffold = self.chat.scaffold
        if scaffold.opened or scaffold.heading.strip() or "think" in self.answer:
            same = whole.startswith(first) and (
                wanted[-len(latest) :] == latest or whole.endswith(self._text(latest).lstrip())
            )
        else:
            same = ids == wanted or text == whole
        if not same:
            self._compare(f"the transcript before action {turn}", ids, wanted)

    # What the tokenizer itself says

    def _own(self, text: str) -> list[int]:
        return self.chat.tokenizer(text, add_special_tokens=False).input_ids

    def _template_ids(self, texts: list[str]) -> list[int]:
        """A dialogue by the tokenizer's own chat template; of a base model, by one line per message."""
        tokenizer = self.chat.tokenizer
        texts = [valid_text(text) for text in texts]
        if tokenizer.chat_template is None:
            ends = ["\n", f"{tokenizer.eos_token}\n"]
            return [*self.chat.first_ids, *self._own("".join(t + ends[i % 2] for i, t in enumerate(texts)))]
        text = rendered(tokenizer, self._messages(texts), prompt=True, tools=self.prompts.tools)
        return self._own(text)

    def _messages(self, texts: list[str]) -> list[Message]:
        """The dialogue as a chat template is told of it: a question, then answers and what was said to them."""
        tools = self.prompts.tools
        call = Call.read(self.command) if tools else None
        if call is None:
            roles = ["user", "assistant"]
            return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
        turns = [
            called(call.name, call.arguments) if i % 2 else answered(call.name, text) for i, text in enumerate(texts)
        ]
        return [{"role": "user", "content": texts[0]}, *turns[1:]]

    def _text(self, ids: list[int]) -> str:
        return self.chat.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _is_harmless(self, text: str) -> bool:
        return not any(name in text for name in self.chat.encoder.look_alikes)

    def _compare(self, what: str, ids: list[int], wanted: list[int]) -> None:
        """Refuse a difference, and show the tokens where it begins."""
        if ids == wanted:
            return
        place = next(
            (i for i, (a, b) in enumerate(zip(ids, wanted, strict=False)) if a != b), min(len(ids), len(wanted))
        )
        names = [self.chat.tokenizer.convert_ids_to_tokens(some[place : place + 4]) for some in (ids, wanted)]
        raise refusal(
            self.chat.tokenizer,
            f"gives {what} other tokens than it would be trained in: {names[1]} at token {place}, and in training "
            f"{names[0]}; wanted a chat template that writes every turn alike, whatever comes before and after it",
        )

    def _transition(self, action: list[int]) -> Transition:
        """A turn that was answered by the observation once more."""
        return Transition(
            prompt_ids=[],
            action_ids=action,
            sampled_logprobs=[],
            sampled_entropies=[],
            action_text=self.command,
            observation_text=self.chat.as_read(self.observation, [])[0],
            anchor=self.observation,
            reward=0.0,
            well_formed=True,
            admissible=True,
        )

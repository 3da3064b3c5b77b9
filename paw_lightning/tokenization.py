"""From an environment's text to token ids and back: prompts and action parsing."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from paw_lightning.envs.search_protocol import read_tags

ActionFormat = Literal["plain", "tags", "search"]
SENTINELS = ("\ue000", "\ue001", "\ue002")  # private-use characters: they split a rendered chat template


@dataclass(frozen=True)
class Prompt:
    """How a decision context is written (config key ``rollout.prompt``).

    Templates are ``str.format`` strings over ``task``, ``initial_observation``, ``observation``, ``history``,
    ``admissible_commands`` and ``step`` (1 at the first turn); ``history_turn`` is over ``task``, ``observation`` (what
    was seen before the action), ``action`` and ``step``.
    """

    template: str = "{initial_observation}\n{history}{observation}\nTask: {task}"
    first_template: str = "{observation}\nTask: {task}"
    """Used at the first turn, where there is no history."""
    turn_template: str = "{observation}\nTask: {task}"
    """Text of each later turn in the episode layout, over ``task``, ``observation`` (once), ``admissible_commands`` and
    ``step``; the transcript itself is the history, so `template` and the history's keys are of the step layout."""
    history_turn: str = "{observation}\n> {action}\n"
    history_length: int = 2
    """Past turns that are shown, as in the paper (2 for ALFWorld and WebShop)."""
    action_format: ActionFormat = "plain"
    """plain: the whole answer is the action; tags: ``<think>...</think><action>...</action>``; search:
    ``<search>...</search>`` or ``<answer>...</answer>``; the latter two as in the paper."""
    max_tokens: int = 2048
    """Longest decision context. Step layout: the oldest history is dropped first to meet it. Where dropping does not
    help, as in the episode layout, the episode ends as cut off (the whole group is lost if that is its first turn)."""

    def __post_init__(self) -> None:
        known = {"task", "initial_observation", "observation", "history", "admissible_commands", "step"}
        _check_fields("template", self.template, known)
        _check_fields("first_template", self.first_template, known)
        _check_fields("history_turn", self.history_turn, {"task", "observation", "action", "step"})
        _check_fields("turn_template", self.turn_template, {"task", "observation", "admissible_commands", "step"})
        fields = [part[1:] for part in string.Formatter().parse(self.turn_template) if part[1] == "observation"]
        if fields != [("observation", "", None)]:
            raise ValueError(
                f"rollout.prompt.turn_template is {self.turn_template!r}; wanted a plain {{observation}} in it exactly "
                "once"
            )
        if self.history_length < 0:
            raise ValueError(f"rollout.prompt.history_length is {self.history_length}; wanted 0 or more")
        if self.max_tokens < 1:
            raise ValueError(f"rollout.prompt.max_tokens is {self.max_tokens}; wanted 1 or more")


def _check_fields(name: str, template: str, known: set[str]) -> None:
    try:
        unknown = {part for _, part, _, _ in string.Formatter().parse(template) if part is not None} - known
    except ValueError as error:
        raise ValueError(f"rollout.prompt.{name} is not a format string: {error}") from error
    if unknown:
        raise ValueError(f"rollout.prompt.{name} uses unknown fields {sorted(unknown)}; wanted some of {sorted(known)}")


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


def valid_text(text: str) -> str:
    """The text with unpaired surrogates, which no encoding can write, replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Turn:
    """One past turn as the prompt shows it."""

    observation: str
    action: str


@dataclass(frozen=True)
class ParsedAction:
    """What the policy's text means."""

    text: str
    well_formed: bool


class PromptTooLongError(ValueError):
    """The prompt does not fit even without history."""


class ChatFormat:
    """The fixed token ids that a model's chat template puts around texts.

    Texts of an environment are always encoded with special tokens split into ordinary pieces, so that no observation
    can become a control token; only the template's own scaffold may contain control tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        question, answer, reply = SENTINELS
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no eos token; wanted one: it ends every action (model.path)")
        if tokenizer.chat_template is None:
            # A base model without a chat template: one line per turn.
            before, after, bridge = "", "\n", f"{tokenizer.eos_token}\n"
        else:
            user = {"role": "user", "content": question}
            prompt = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
            before, after = self._split(prompt, question)
            dialogue = tokenizer.apply_chat_template(
                [user, {"role": "assistant", "content": answer}, {"role": "user", "content": reply}],
                tokenize=False,
            )
            bridge = self._split(self._split(dialogue, answer)[1], reply)[0]
        self.before_ids = self._encode_scaffold(before)
        self.after_ids = self._encode_scaffold(after)
        self.bridge_ids = self._encode_scaffold(bridge)
        markers = self._role_markers(before + after + bridge)
        self.roles = _any_of(markers)
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        self.normalize = normalizer.normalize_str if normalizer else str
        self.normalized_roles = _any_of([self.normalize(marker) for marker in markers]) if normalizer else None
        added = tokenizer.get_added_vocab()
        self.longest_token = max(len(token) for token in tokenizer.get_vocab() if token not in added)

    def _role_markers(self, scaffold: str) -> list[str]:
        """Added tokens that the tokenizer does not call special, so would not split in a text.

        Those of the scaffold and all that look like a tag; others, runs of spaces for example, are ordinary text.
        """
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values() if not token.special]
        return [text for text in added if text in scaffold or re.fullmatch(r"<[^ ].*>", text)]

    @staticmethod
    def _split(rendered: str, sentinel: str) -> tuple[str, str]:
        parts = rendered.split(sentinel)
        if len(parts) != 2:
            raise ValueError(
                f"the chat template repeats or drops a message ({len(parts) - 1} copies; wanted 1): use another "
                "tokenizer (model.path)"
            )
        return parts[0], parts[1]

    def _encode_scaffold(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids if text else []

    def encode_text(self, text: str) -> list[int]:
        """Token ids of untrusted text: control tokens in it stay ordinary text; unpaired surrogates become "?"."""
        pieces = [piece for _, piece in self._pieces(text)]
        if not pieces:
            return []
        encoded = self.tokenizer(pieces, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return [i for ids in encoded for i in ids]

    def encode_within(self, text: str, limit: int) -> list[int]:
        """:meth:`encode_text` of a text of at most `limit` tokens; empty for a longer one, which is never cut."""
        if self.fewest_tokens(text) > limit:
            return []
        ids = self.encode_text(text)
        return ids if len(ids) <= limit else []

    def fewest_tokens(self, text: str) -> int:
        """No fewer tokens than this can spell the text: enough to turn a megabyte away without tokenising it."""
        return -(-len(text) // self.longest_token)

    def text_offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end character of every token that :meth:`encode_text` makes of a text.

        Raises NotImplementedError for a tokenizer that is not one of the fast ones.
        """
        offsets = []
        for start, piece in self._pieces(text):
            options = {"split_special_tokens": True, "return_offsets_mapping": True}
            encoded = self.tokenizer(piece, add_special_tokens=False, **options)
            offsets += [(start + first, start + last) for first, last in encoded.offset_mapping]
        return offsets

    def _pieces(self, text: str) -> list[tuple[int, str]]:
        """The parts of a text that are encoded apart, each with its first character's place."""
        text = valid_text(text)
        # A look-alike of a role marker is cut after its first character: no piece is a marker any more.
        cuts = [match.start() + 1 for match in self.roles.finditer(text)] if self.roles else []
        pieces = _cut(text, cuts)
        if self.normalized_roles and any(self.normalized_roles.search(self.normalize(piece)) for _, piece in pieces):
            return _cut(text, range(1, len(text)))  # a normaliser would make a marker of a piece: no two letters meet
        return pieces

    def bridge_after(self, action_ids: Sequence[int]) -> list[int]:
        """Turn-boundary ids that still have to come between an action as sampled and the next observation."""
        if action_ids and self.bridge_ids and action_ids[-1] == self.bridge_ids[0]:
            return self.bridge_ids[1:]
        return self.bridge_ids


def _any_of(markers: list[str]) -> re.Pattern[str] | None:
    """Matches the markers, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True)))) if markers else None


def _cut(text: str, cuts: Sequence[int]) -> list[tuple[int, str]]:
    """The parts of a text between cuts, each with its first character's place."""
    pairs = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return [(start, text[start:stop]) for start, stop in pairs if stop > start]


class PromptBuilder:
    """Writes decision contexts as token ids."""

    def __init__(self, prompt: Prompt, chat: ChatFormat) -> None:
        self.prompt = prompt
        self.chat = chat
        self.before_observation, self.after_observation = _halves(prompt.turn_template)

    def build(
        self, task: str, observation: str, turns: Sequence[Turn], initial: str, admissible: list[str]
    ) -> list[int]:
        """Return the ids of :meth:`fit`."""
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
            text = self._render(task, observation, shown[dropped:], len(turns), initial, admissible)
            if self.chat.fewest_tokens(text) > limit:
                return None
            ids = [*self.chat.before_ids, *self.chat.encode_text(text), *self.chat.after_ids]
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

    def turn(self, task: str, admissible: list[str], step: int) -> tuple[list[int], list[int]]:
        """Ids of what stands before and after the observation in a later turn's text (episode layout)."""
        fields = {"task": task, "admissible_commands": _listed(admissible), "step": step}
        before, after = self.before_observation.format(**fields), self.after_observation.format(**fields)
        return self.chat.encode_text(before), self.chat.encode_text(after)

    def _render(
        self,
        task: str,
        observation: str,
        shown: Sequence[Turn],
        played: int,
        initial: str,
        admissible: list[str],
    ) -> str:
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
            admissible_commands=_listed(admissible),
            step=played + 1,
        )


def _listed(admissible: list[str]) -> str:
    return "\n".join(f"'{command}'" for command in admissible if command != "help")


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

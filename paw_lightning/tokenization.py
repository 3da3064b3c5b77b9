"""From an environment's text to token ids and back: prompts, action parsing, and padded mini-batches."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from paw_lightning.types import Minibatch, Transition

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
    history_turn: str = "{observation}\n> {action}\n"
    history_length: int = 2
    """Past turns that are shown, as in the paper (2 for ALFWorld and WebShop)."""
    action_format: Literal["plain", "tags"] = "plain"
    """plain: the whole answer is the action; tags: ``<think>...</think><action>...</action>`` as in the paper."""
    max_tokens: int = 2048
    """Longest prompt; the oldest history is dropped first to meet it."""

    def __post_init__(self) -> None:
        known = {"task", "initial_observation", "observation", "history", "admissible_commands", "step"}
        _check_fields("template", self.template, known)
        _check_fields("first_template", self.first_template, known)
        _check_fields("history_turn", self.history_turn, {"task", "observation", "action", "step"})
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
        self.roles = self._role_markers(before + after + bridge)

    def _role_markers(self, scaffold: str) -> re.Pattern[str] | None:
        """Added tokens of the scaffold that the tokenizer does not call special, so would not split in a text."""
        added = self.tokenizer.added_tokens_decoder.values()
        markers = [re.escape(token.content) for token in added if not token.special and token.content in scaffold]
        return re.compile("|".join(markers)) if markers else None

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
        text = text.encode("utf-8", "replace").decode("utf-8")
        # A look-alike of a role marker is cut after its first character: no piece is a marker any more.
        cuts = [match.start() + 1 for match in self.roles.finditer(text)] if self.roles else []
        pieces = [text[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        encode = self.tokenizer
        return [
            i
            for piece in pieces
            if piece
            for i in encode(piece, add_special_tokens=False, split_special_tokens=True).input_ids
        ]

    def bridge_after(self, action_ids: Sequence[int]) -> list[int]:
        """Turn-boundary ids that still have to come between an action as sampled and the next observation."""
        if action_ids and self.bridge_ids and action_ids[-1] == self.bridge_ids[0]:
            return self.bridge_ids[1:]
        return self.bridge_ids


class PromptBuilder:
    """Writes decision contexts as token ids, independent of earlier turns' token ids (the paper's step layout)."""

    def __init__(self, prompt: Prompt, chat: ChatFormat) -> None:
        self.prompt = prompt
        self.chat = chat

    def build(
        self, task: str, observation: str, turns: Sequence[Turn], initial: str, admissible: list[str]
    ) -> list[int]:
        """Return the prompt's ids, dropping the oldest shown turns while it is too long.

        Raises PromptTooLongError when it is too long without any history.
        """
        length = self.prompt.history_length
        shown = list(turns[-length:]) if length else []
        while True:
            text = self._render(task, observation, shown, len(turns), initial, admissible)
            ids = [*self.chat.before_ids, *self.chat.encode_text(text), *self.chat.after_ids]
            if len(ids) <= self.prompt.max_tokens:
                return ids
            if not shown:
                raise PromptTooLongError(
                    f"the prompt has {len(ids)} tokens without any history; wanted at most {self.prompt.max_tokens} "
                    "(rollout.prompt.max_tokens)"
                )
            shown = shown[1:]

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
            admissible_commands="\n".join(f"'{command}'" for command in admissible if command != "help"),
            step=played + 1,
        )


THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
HAN = re.compile(r"[\u4e00-\u9fff]")


def parse_action(text: str, action_format: Literal["plain", "tags"]) -> ParsedAction:
    """Read the environment's command out of the policy's text.

    plain: the text is the action; it is well-formed when it is one non-empty line.
    tags: the first ``<action>`` pair, lower-cased; well-formed when there is a ``<think>`` pair before it and no Han
    character. Without the pair the last 30 characters are sent, so that a near miss can still act. Both rules are
    those the paper's base implementation uses.
    """
    if action_format == "plain":
        action = text.strip()
        return ParsedAction(action, bool(action) and "\n" not in action)
    match = ACTION.search(text)
    action = (match.group(1) if match else text[-30:]).strip().lower()
    think = THINK.search(text)
    ordered = match is not None and think is not None and think.end() <= match.start()
    return ParsedAction(action, bool(ordered and action and not HAN.search(text)))


@dataclass(frozen=True)
class Row:
    """One transition on its way into a mini-batch, with the weights its tokens carry."""

    transition: Transition
    policy_weight: float
    """Of each action token."""
    wm_weight: float
    """Of each observation token; 0 leaves the observation out."""
    wm_coefficient: float

    @property
    def length(self) -> int:
        """Tokens of the row without padding."""
        t = self.transition
        context = len(t.prompt_ids) + len(t.action_ids)
        return context + len(t.bridge_ids) + len(t.target_ids) if t.target_ids else context


def collate(rows: Sequence[Row], pad_token_id: int, *, on_policy: bool) -> Minibatch:
    """Right-pad rows to one rectangle.

    Right padding needs no attention mask under causal attention: no real token can see the padding after it.
    """
    width = max(row.length for row in rows)
    input_ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    action_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    observation_mask = torch.zeros((len(rows), width), dtype=torch.bool)
    flat: dict[str, list[torch.Tensor]] = {
        "advantages": [],
        "old": [],
        "reference": [],
        "policy": [],
        "wm": [],
        "lambda": [],
    }
    for i, row in enumerate(rows):
        t, targets = row.transition, row.transition.target_ids
        assert t.old_logprobs is not None, "scoring writes old_logprobs before collate"
        start, stop = len(t.prompt_ids), len(t.prompt_ids) + len(t.action_ids)
        ids = t.prompt_ids + t.action_ids + (t.bridge_ids + targets if targets else [])
        input_ids[i, : len(ids)] = torch.tensor(ids)
        action_mask[i, start:stop] = True
        observation_mask[i, len(ids) - len(targets) : len(ids)] = True
        importance = torch.ones(len(t.action_ids)) if t.importance is None else t.importance
        flat["advantages"].append(t.advantage * importance)  # the surrogate is linear in the advantage
        flat["policy"].append(torch.full((len(t.action_ids),), row.policy_weight))
        flat["old"].append(t.old_logprobs)
        if t.reference_logprobs is not None:
            flat["reference"].append(t.reference_logprobs)
        flat["wm"].append(torch.full((len(targets),), row.wm_weight))
        flat["lambda"].append(torch.full((len(targets),), row.wm_coefficient))
    return Minibatch(
        input_ids=input_ids,
        action_mask=action_mask,
        observation_mask=observation_mask,
        advantages=torch.cat(flat["advantages"]),
        old_logprobs=torch.cat(flat["old"]),
        reference_logprobs=torch.cat(flat["reference"]) if flat["reference"] else None,
        policy_weights=torch.cat(flat["policy"]),
        wm_weights=torch.cat(flat["wm"]),
        wm_coefficients=torch.cat(flat["lambda"]),
        on_policy=on_policy,
    )

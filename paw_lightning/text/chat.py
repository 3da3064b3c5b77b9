"""A dialogue with an environment as token ids: the chat template's scaffold, and texts that stay texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from paw_lightning.errors import SettingsError
from paw_lightning.text.encoding import Part, TextEncoder, valid_text
from paw_lightning.text.template import Scaffold, refusal, trimmed
from paw_lightning.text.tool_calls import Tool
from paw_lightning.text.tool_template import tool_scaffold


@dataclass(frozen=True)
class Answer:
    """What the policy wrote, as text."""

    text: str
    opened: str
    """What counts as written before it: the prompt's own beginning of the answer."""


class ChatFormat:
    """The token ids that a model's tokenizer and chat template make of a dialogue with an environment.

    Ordinary text gets the tokenizer's own ids, id for id as ``apply_chat_template`` gives them. In a text of an
    environment that looks like a control token the likeness is split into ordinary pieces: no observation can become
    one, only the template's own scaffold may hold them. Every added token is a control token unless it is white space.

    Args:
        tokenizer: of Transformers.

    Raises:
        SettingsError: the tokenizer has no eos token, or the template ends an answer with no token of its own.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise refusal(tokenizer, "has no eos token; wanted one: it ends every action")
        self.encoder = TextEncoder(tokenizer)
        self.first_ids = _beginning(tokenizer) if tokenizer.chat_template is None else []
        self._take(Scaffold.of(tokenizer))
        self.stop_ids = {*self.end_ids, tokenizer.eos_token_id}

    def _take(self, scaffold: Scaffold) -> None:
        self.scaffold = scaffold
        self._with_tools: dict[str, ChatFormat] = {}
        self.before_ids = [*self.first_ids, *self.encoder.trusted(scaffold.before)]
        self.after_ids = self.encoder.trusted(scaffold.after)
        self.bridge_ids = self.encoder.trusted(scaffold.bridge)
        self.end_ids = self._ends()

    def stopped_by(self, stops: Sequence[int]) -> ChatFormat:
        """The same dialogue, in which some more tokens end an action."""
        twin = copy(self)
        twin.stop_ids, twin._with_tools = {*self.stop_ids, *stops}, {}
        return twin

    def with_tools(self, tools: Sequence[Tool]) -> ChatFormat:
        """The same dialogue, in which actions are calls of these tools.

        Raises:
            SettingsError: the chat template does not know tools, or a tool's description holds a control token.
        """
        told = json.dumps(list(tools), ensure_ascii=False)
        if told not in self._with_tools:
            if hidden := [name for name in self.encoder.look_alikes if name in told]:
                raise SettingsError(
                    f"rollout.environment describes its tools with {hidden[0]!r} in {told[:200]!r}, a control token of "
                    "model.path; wanted descriptions without it"
                )
            twin = copy(self)
            twin._take(tool_scaffold(self.tokenizer, tools, self._end_text))
            twin.stop_ids = {*self.stop_ids, *twin.end_ids}
            self._with_tools[told] = twin
        return self._with_tools[told]

    @property
    def _end_text(self) -> str:
        """The token with which the template ends an answer, as text."""
        return str(self.tokenizer.decode([self.bridge_ids[self._first_end()]], skip_special_tokens=False))

    def _ends(self) -> list[int]:
        """Tokens with which the template ends an answer: the first control token behind a last, or an earlier, one."""
        earlier, last = (
            self.encoder.controls(ids)[:1] for ids in (self.bridge_ids, self.encoder.trusted(self.scaffold.ending))
        )
        if not earlier:
            raise refusal(
                self.tokenizer,
                f"ends an answer with {self.scaffold.bridge!r} by its chat template, in which no token is its own; "
                "wanted a control token there, which can end an action",
            )
        self._closing = bool(last)
        # With a heading of its own an answer may be several messages, and only the last one ends it.
        several = last and self.encoder.controls(self.encoder.trusted(self.scaffold.heading))
        return [*dict.fromkeys([*last, *([] if several else earlier)])]

    def identity(self) -> dict[str, Any]:
        """What two runs have to share to read the same texts in the same tokens."""
        ids = [self.before_ids, self.after_ids, self.bridge_ids]
        return {
            "chat template before a message": self.scaffold.before,
            "chat template before an answer": self.scaffold.after,
            "chat template after an answer": self.scaffold.bridge,
            "tokens of the chat template": hashlib.sha256(repr(ids).encode()).hexdigest()[:16],
        }

    # From text to ids

    def encode_prompt(self, text: str) -> list[int]:
        """A whole prompt of one message: what ``apply_chat_template`` makes of it, with the generation prompt."""
        scaffold, text = self.scaffold, self.scaffold.trim(valid_text(text))
        [ids] = self.encoder.groups([[Part(scaffold.before, True), Part(text), Part(scaffold.after, True)]])
        return [*self.first_ids, *ids]

    def encode_turn(
        self, action_ids: Sequence[int], before: str, observation: str, after: str
    ) -> tuple[list[int], list[int], list[int]]:
        """What follows an action in a transcript: ids up to the observation, its own, and those to the next action.

        `before` and `after` stand around the observation, which :meth:`as_read` has written, in the same message. A
        token that would hold a part of the observation and a part of what is beside it is split there, so that the
        observation's tokens are its own; only a blank before its first word belongs to that word.
        """
        scaffold = self.scaffold
        around = [self.as_read(valid_text(part), [])[0] for part in (before, after)]
        before, observation, after = self._trimmed([around[0], valid_text(observation), around[1]])
        first, middle, last = self.encoder.groups(
            [
                [Part(scaffold.bridge, True), Part(before)],
                [Part(observation)],
                [Part(after), Part(scaffold.turn_after, True)],
            ]
        )
        return first[self._written(action_ids) :], middle, last

    def _trimmed(self, parts: list[str]) -> list[str]:
        """The parts of a message, without the white space that the template takes from its two ends."""
        message, trims = "".join(parts), self.scaffold.turn_trims
        start = len(message) - len(trimmed(message + "x", trims)) + 1
        stop = len(trimmed("x" + message, trims)) - 1
        borders = [0, len(parts[0]), len(parts[0]) + len(parts[1]), len(message)]
        return [message[max(a, start) : max(min(b, stop), start, a)] for a, b in pairwise(borders)]

    def as_read(self, observation: str, spans: list[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
        """A later observation as the template writes it, and where spans of its characters are then."""
        tools = self.scaffold.tools
        return (observation, spans) if tools is None else tools.written(observation, spans)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of untrusted text: control tokens in it stay ordinary text; unpaired surrogates become "?"."""
        return self.encoder.text(text)

    def encode_within(self, text: str, limit: int) -> list[int]:
        """:meth:`encode_text` of a text of at most `limit` tokens; empty for a longer one, which is never cut."""
        if self.fewest_tokens(text) > limit:
            return []
        ids = self.encode_text(text)
        return ids if len(ids) <= limit else []

    def fewest_tokens(self, text: str) -> int:
        """No fewer tokens than this can spell the text: enough to turn a megabyte away without tokenising it."""
        return -(-len(text) // self.longest_token)

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token that a text can be spelled with."""
        tokens = {i: token for token, i in self.tokenizer.get_vocab().items() if i not in self.encoder.control_ids}
        return max(map(len, tokens.values()))

    def text_offsets(self, text: str, ids: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Start and end character of every token of a text, see :meth:`TextEncoder.offsets`."""
        return self.encoder.offsets(text, ids)

    # The end of an action

    def _first_end(self) -> int:
        """Place in the bridge of the token that ends an answer."""
        return next(i for i, token in enumerate(self.bridge_ids) if token in self.encoder.control_ids)

    def _written(self, action_ids: Sequence[int]) -> int:
        """How many tokens of the bridge an action has made needless by its own last token."""
        place, last = self._first_end(), action_ids[-1] if action_ids else None
        return place + 1 if last == self.bridge_ids[place] or (self._closing and last in self.stop_ids) else 0

    def bridge_after(self, action_ids: Sequence[int]) -> list[int]:
        """Turn-boundary ids that still have to come between an action as sampled and the next observation.

        A token that ended the action stands in the place of the template's own end of turn, whichever it is.
        """
        return self.bridge_ids[self._written(action_ids) :]

    def encode_answer(self, text: str) -> list[int]:
        """An answer as a policy that has learnt the template writes it after a prompt, end of turn included.

        The text is the policy's own: it may hold control tokens.
        """
        scaffold, place = self.scaffold, self._first_end()
        texts = [scaffold.after, scaffold.heading + text, scaffold.bridge]
        _, answer, bridge = self.encoder.groups([[Part(text, trusted=True)] for text in texts])
        return [*answer, *bridge[: place + 1]]

    def read_answer(self, action_ids: Sequence[int], stops: Sequence[int] | frozenset[int] = ()) -> Answer:
        """An action's text, all tokens of its own in it, but for those that end it or pad.

        It ends where the policy goes on with the next message, should that begin with no token that stops an action.
        """
        ends = {*self.stop_ids, *stops, self.tokenizer.pad_token_id}
        ids, bridge = list(action_ids), self.bridge_ids
        next_turn = next((i for i in range(len(ids)) if ids[i : i + len(bridge)] == bridge), len(ids))
        words = [i for i in ids[:next_turn] if i not in ends]
        text = self.tokenizer.decode(words, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        heading = self.scaffold.heading.strip()
        head, found, rest = text.rpartition(heading) if heading else ("", "", text)
        return Answer(rest, self.scaffold.opened + head + found)


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before every text; what it puts behind one would end it before the answer."""
    whole, bare = tokenizer("x").input_ids, tokenizer("x", add_special_tokens=False).input_ids
    places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    return whole[: places[0]] if places else []

"""A dialogue with an environment as token ids: the chat template's scaffold, and texts that stay texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from paw_lightning.text.template import Scaffold, refusal


def valid_text(text: str) -> str:
    """The text with unpaired surrogates, which no encoding can write, replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


STRANGE = "\U000f1234"
"""A letter that no tokenizer knows."""


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
        stops: tokens that end an action besides those that tokenizer and template name.

    Raises:
        SettingsError: the tokenizer has no eos token, or the template ends an answer with no token of its own.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        if tokenizer.eos_token_id is None:
            raise refusal(tokenizer, "has no eos token; wanted one: it ends every action")
        self.scaffold = scaffold = Scaffold.of(tokenizer)
        named = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if _is_control(token)}
        self.look_alikes = {*named.values()}
        # Where any strange letter becomes the unknown token, its id says nothing of a text.
        self.unknown = {tokenizer.unk_token_id} & {*tokenizer(STRANGE, add_special_tokens=False).input_ids}
        self.control_ids = named.keys() - self.unknown
        self._known: dict[str, list[int]] = {}
        self.first_ids = _beginning(tokenizer) if tokenizer.chat_template is None else []
        self.before_ids = [*self.first_ids, *self._encode_scaffold(scaffold.before)]
        self.after_ids = self._encode_scaffold(scaffold.after)
        self.bridge_ids = self._encode_scaffold(scaffold.bridge)
        self.end_ids = self._ends()
        self.stop_ids = {*self.end_ids, *stops, tokenizer.eos_token_id}

    def _ends(self) -> list[int]:
        """Tokens with which the template ends an answer: the first control token behind a last, or an earlier, one."""
        earlier, last = (
            self._controls(ids)[:1] for ids in (self.bridge_ids, self._encode_scaffold(self.scaffold.ending))
        )
        if not earlier:
            raise refusal(
                self.tokenizer,
                f"ends an answer with {self.scaffold.bridge!r} by its chat template, in which no token is its own; "
                "wanted a control token there, which can end an action",
            )
        self._closing = bool(last)
        # With a heading of its own an answer may be several messages, and only the last one ends it.
        several = last and self._controls(self._encode_scaffold(self.scaffold.heading))
        return [*dict.fromkeys([*last, *([] if several else earlier)])]

    def _controls(self, ids: Sequence[int]) -> list[int]:
        return [i for i in ids if i in self.control_ids]

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

    def _encode_scaffold(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return self._known[text]

    def encode_prompt(self, text: str) -> list[int]:
        """A whole prompt of one message: what ``apply_chat_template`` makes of it, with the generation prompt."""
        scaffold, text = self.scaffold, self.scaffold.trim(valid_text(text))
        [ids] = self._encode_groups([[(scaffold.before, True), (text, False), (scaffold.after, True)]])
        return [*self.first_ids, *ids]

    def encode_turn(
        self, action_ids: Sequence[int], before: str, observation: str, after: str
    ) -> tuple[list[int], list[int], list[int]]:
        """What follows an action in a transcript: ids up to the observation, its own, and those to the next action.

        `before` and `after` stand around the observation in the same message. A token that would hold a part of the
        observation and a part of what is beside it is split there, so that the observation's tokens are its own.
        """
        scaffold = self.scaffold
        before, observation, after = self._trimmed([valid_text(part) for part in (before, observation, after)])
        first, middle, last = self._encode_groups(
            [
                [(scaffold.bridge, True), (before, False)],
                [(observation, False)],
                [(after, False), (scaffold.after, True)],
            ]
        )
        return first[self._written(action_ids) :], middle, last

    def _trimmed(self, parts: list[str]) -> list[str]:
        """The parts of a message, without the white space that the template takes from its two ends."""
        message = "".join(parts)
        start = len(message) - len(self.scaffold.trim(message + "x")) + 1
        stop = len(self.scaffold.trim("x" + message)) - 1
        borders = [0, len(parts[0]), len(parts[0]) + len(parts[1]), len(message)]
        return [message[max(a, start) : max(min(b, stop), start, a)] for a, b in pairwise(borders)]

    def _encode_groups(self, groups: list[list[tuple[str, bool]]]) -> list[list[int]]:
        """Ids of each group of (text, is it trusted), tokenised as one text and cut between groups."""
        parts = [part for group in groups for part in group]
        options = {"return_offsets_mapping": True} if len(groups) > 1 and self.tokenizer.is_fast else {}
        encoded = self.tokenizer("".join(text for text, _ in parts), add_special_tokens=False, verbose=False, **options)
        wanted = [i for text, trusted in parts if trusted for i in self._controls(self._encode_scaffold(text))]
        harmless = self._is_ordinary("".join(text for text, trusted in parts if not trusted), encoded.input_ids, wanted)
        if not harmless or (len(groups) > 1 and not options):
            encode = {True: self._encode_scaffold, False: self.encode_text}
            return [[i for text, trusted in group for i in encode[trusted](text)] for group in groups]
        if len(groups) == 1:
            return [encoded.input_ids]
        border, places = 0, [0]
        for k, group in enumerate(groups[:-1], 1):
            border += sum(len(text) for text, _ in group)
            if any(start < border < stop for start, stop in encoded.offset_mapping):
                return self._encode_groups(groups[:k]) + self._encode_groups(groups[k:])
            tokens = enumerate(encoded.offset_mapping)
            places.append(next((i for i, (_, stop) in tokens if stop > border), len(encoded.input_ids)))
        return [encoded.input_ids[a:b] for a, b in zip(places, [*places[1:], None], strict=True)]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of untrusted text: control tokens in it stay ordinary text; unpaired surrogates become "?"."""
        text = valid_text(text)
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids if text else []
        if self._is_ordinary(text, ids):
            return ids
        return [i for _, _, piece in self._pieces(text) for i in piece]

    def _is_ordinary(self, text: str, ids: Sequence[int], wanted: Sequence[int] = ()) -> bool:
        """Whether the ids of a text hold no other control tokens than the wanted ones."""
        return self._controls(ids) == list(wanted) and not (self.unknown and self.tokenizer.unk_token in text)

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
        tokens = {i: token for token, i in self.tokenizer.get_vocab().items() if i not in self.control_ids}
        return max(map(len, tokens.values()))

    @cached_property
    def _likeness(self) -> re.Pattern[str]:
        """Matches the name of any control token, the longest first."""
        return re.compile("|".join(map(re.escape, sorted(self.look_alikes, key=len, reverse=True))))

    def _pieces(self, text: str) -> list[tuple[int, str, list[int]]]:
        """Parts of a text that hold no control token when encoded apart: first character's place, text and ids."""
        # A look-alike is cut after its first character: no piece is one any more.
        pieces = _cut(text, [match.start() + 1 for match in self._likeness.finditer(text)])
        found: list[tuple[int, str, list[int]]] = []
        for (start, piece), ids in zip(pieces, self._encode_apart([piece for _, piece in pieces]), strict=True):
            if self._controls(ids):  # a normaliser made one of a piece: no two letters meet
                letters = self._encode_apart(list(piece))
                found += [(start + k, piece[k], own) for k, own in enumerate(letters)]
            else:
                found.append((start, piece, ids))
        return found

    def _encode_apart(self, pieces: list[str]) -> list[list[int]]:
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return self.tokenizer(pieces, **options).input_ids

    def text_offsets(self, text: str, ids: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Start and end character of every token of a text: of those that :meth:`encode_text` makes, or of `ids`.

        `ids` are the text's tokens within a transcript, whose first and last may be others; such a token is given all
        characters of the text that no equal token holds.

        Raises NotImplementedError for a tokenizer that is not one of the fast ones.
        """
        own: list[int] = []
        offsets: list[tuple[int, int]] = []
        text = valid_text(text)
        plain = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if self._is_ordinary(text, plain.input_ids):
            own, offsets = plain.input_ids, [tuple(pair) for pair in plain.offset_mapping]
        else:
            for start, piece, piece_ids in self._pieces(text):
                options = {"split_special_tokens": True, "return_offsets_mapping": True}
                encoded = self.tokenizer(piece, add_special_tokens=False, **options)
                own += piece_ids
                offsets += [(start + first, start + last) for first, last in encoded.offset_mapping]
        return offsets if ids is None or list(ids) == own else _aligned(own, offsets, ids)

    # The end of an action

    def _first_end(self) -> int:
        """Place in the bridge of the token that ends an answer."""
        return next(i for i, token in enumerate(self.bridge_ids) if token in self.control_ids)

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
        groups = [[(scaffold.after, True)], [(scaffold.heading + text, True)], [(scaffold.bridge, True)]]
        _, answer, bridge = self._encode_groups(groups)
        return [*answer, *bridge[: place + 1]]

    def read_answer(self, action_ids: Sequence[int], stops: Sequence[int] | frozenset[int] = ()) -> Answer:
        """An action's text, all tokens of its own in it, but for those that end it or pad."""
        ends = {*self.stop_ids, *stops, self.tokenizer.pad_token_id}
        words = [i for i in action_ids if i not in ends]
        text = self.tokenizer.decode(words, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        heading = self.scaffold.heading.strip()
        head, found, rest = text.rpartition(heading) if heading else ("", "", text)
        return Answer(rest, self.scaffold.opened + head + found)


def _is_control(token: Any) -> bool:
    """Whether an added token is more than white space, or a letter of the alphabet."""
    name = token.content.replace("\u2581", " ").strip()
    return bool(name) and (token.special or len(name) > 1)


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer itself puts before every text; what it puts behind one would end it before the answer."""
    whole, bare = tokenizer("x").input_ids, tokenizer("x", add_special_tokens=False).input_ids
    places = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    return whole[: places[0]] if places else []


def _cut(text: str, cuts: Sequence[int]) -> list[tuple[int, str]]:
    """The parts of a text between cuts, each with its first character's place."""
    pairs = zip([0, *cuts], [*cuts, len(text)], strict=True)
    return [(start, text[start:stop]) for start, stop in pairs if stop > start]


def _aligned(own: Sequence[int], offsets: list[tuple[int, int]], ids: Sequence[int]) -> list[tuple[int, int]]:
    """Offsets for `ids`, by the tokens that they share with the text's own at their start and their end."""
    shortest = min(len(own), len(ids))
    head = next((i for i in range(shortest) if own[i] != ids[i]), shortest)
    left = shortest - head
    tail = next((i for i in range(left) if own[-1 - i] != ids[-1 - i]), left)
    other = offsets[head : len(own) - tail]
    span = (other[0][0], other[-1][1]) if other else (0, 0)
    return offsets[:head] + [span] * (len(ids) - head - tail) + offsets[len(own) - tail :]

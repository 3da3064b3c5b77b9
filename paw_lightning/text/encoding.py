"""Texts as token ids: ordinary text as the tokenizer has it, and look-alikes of control tokens as ordinary text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any

STRANGE = "\U000f1234"
"""A letter that no tokenizer knows."""
LEAD = "\n"
"""Stands before a piece of a text that is encoded apart, where a tokenizer would begin a text with a blank."""
KEPT, SHORT = 1024, 1000
"""How many encodings are kept for when they are asked for again, and the most characters of each: a group's episodes
read the same answers over and over."""
Offsets = list[tuple[int, int]]
"""First character and end of each token."""


def valid_text(text: str) -> str:
    """The text with unpaired surrogates, which no encoding can write, replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Part:
    """A stretch of a longer text."""

    text: str
    trusted: bool = False
    """It is the chat template's, and may hold control tokens."""


class TextEncoder:
    """A tokenizer that knows which of its tokens no text of an environment may become.

    Those are all added tokens that are more than white space, special or not.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        named = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if _is_control(token)}
        self.look_alikes = {*named.values()}
        # Where any strange letter becomes the unknown token, its id says nothing of a text.
        self.unknown = {tokenizer.unk_token_id} & {*self._call(STRANGE).input_ids}
        self.control_ids = named.keys() - self.unknown
        self._trusted: dict[str, list[int]] = {}
        self._kept = lru_cache(KEPT)(self._encode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_kept"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._kept = lru_cache(KEPT)(self._encode)  # of this one: a copy may be given another tokenizer

    def controls(self, ids: Sequence[int]) -> list[int]:
        """The control tokens among some ids."""
        return [i for i in ids if i in self.control_ids]

    def trusted(self, text: str) -> list[int]:
        """Ids of a chat template's own text."""
        if text not in self._trusted:
            self._trusted[text] = self._call(text).input_ids if text else []
        return list(self._trusted[text])

    def text(self, text: str) -> list[int]:
        """Ids of an environment's text."""
        text = valid_text(text)
        ids = self._call(text).input_ids if text else []
        return ids if self._is_ordinary(text, ids) else [i for _, _, piece in self._pieces(text) for i in piece]

    def groups(self, groups: Sequence[Sequence[Part]], *, goes_on: bool = False) -> list[list[int]]:
        """Ids of each group of parts, tokenised as one text and cut between the groups.

        Where a token would hold something of two groups, or a part looks like a control token, it is encoded apart.

        Args:
            goes_on: the text does not begin here.
        """
        key = tuple(map(tuple, groups))
        short = sum(len(part.text) for group in key for part in group) <= SHORT
        return [list(ids) for ids in (self._kept if short else self._encode)(key, goes_on)]

    def _encode(self, groups: tuple[tuple[Part, ...], ...], goes_on: bool) -> list[list[int]]:
        parts = [part for group in groups for part in group]
        text = "".join(part.text for part in parts)
        alone = len(groups) == 1
        if alone or self.tokenizer.is_fast:
            ids, offsets = self._tokens(text, goes_on=goes_on, offsets=not alone)
            wanted = [i for part in parts if part.trusted for i in self.controls(self.trusted(part.text))]
            if self._is_ordinary("".join(part.text for part in parts if not part.trusted), ids, wanted):
                return [ids] if alone else self._cut(groups, text, ids, offsets, goes_on)
        return [self._apart(group, goes_on=goes_on or k > 0) for k, group in enumerate(groups)]

    def _cut(
        self, groups: Sequence[Sequence[Part]], text: str, ids: list[int], offsets: Offsets, goes_on: bool
    ) -> list[list[int]]:
        """The tokens of each group; groups that share a token are encoded anew, apart."""
        border, places = 0, [0]
        for k, group in enumerate(groups[:-1], 1):
            border += sum(len(part.text) for part in group)
            place = self._place(text, border, ids, offsets)
            if place is None:
                return self.groups(groups[:k], goes_on=goes_on) + self.groups(groups[k:], goes_on=True)
            places.append(place)
        return [ids[a:b] for a, b in pairwise([*places, len(ids)])]

    def _place(self, text: str, border: int, ids: Sequence[int], offsets: Offsets) -> int | None:
        """The first token behind a border within a text; None where a token holds something of both sides.

        A word may take the blank before it along, and a control token the white space beside it.
        """
        found = next(((i, *pair) for i, pair in enumerate(offsets) if pair[1] > border), None)
        if found is None:
            return len(ids)
        i, start, stop = found
        blank = text[start:border].isspace()
        if start >= border or (blank and not text[border:stop].isspace()):
            return i
        return i + 1 if ids[i] in self.control_ids else None

    def _apart(self, parts: Sequence[Part], *, goes_on: bool) -> list[int]:
        """The parts one after the other, none of which may become a control token that it is not."""
        ids: list[int] = []
        for k, part in enumerate(parts):
            if part.trusted:
                ids += self.trusted(part.text)
            else:
                ids += [i for _, _, own in self._pieces(valid_text(part.text), goes_on=goes_on or k > 0) for i in own]
        return ids

    def _is_ordinary(self, text: str, ids: Sequence[int], wanted: Sequence[int] = ()) -> bool:
        """Whether the ids of a text hold no other control tokens than the wanted ones."""
        return self.controls(ids) == list(wanted) and not (self.unknown and self.tokenizer.unk_token in text)

    def offsets(self, text: str, ids: Sequence[int] | None = None) -> Offsets:
        """Start and end character of every token of a text: of those that :meth:`text` makes, or of `ids`.

        `ids` are the text's tokens within a transcript, whose first and last may be others; such a token is given all
        characters of the text that no equal token holds.

        Raises NotImplementedError for a tokenizer that is not one of the fast ones.
        """
        text = valid_text(text)
        own, offsets = self._tokens(text, offsets=True)
        if not self._is_ordinary(text, own):
            own, offsets = [], []
            for start, piece, piece_ids in self._pieces(text):
                _, inner = self._tokens(piece, goes_on=start > 0, offsets=True, split=True)
                own += piece_ids
                offsets += [(start + first, start + last) for first, last in inner]
        return offsets if ids is None or list(ids) == own else _aligned(own, offsets, ids)

    # Pieces that hold no control token

    def _pieces(self, text: str, *, goes_on: bool = False) -> list[tuple[int, str, list[int]]]:
        """Parts of a text that hold no control token when encoded apart: first character's place, text and ids."""
        # A look-alike is cut after its first character: no piece is one any more.
        cuts = [match.start() + 1 for match in self._likeness.finditer(text)]
        pieces = [(start, text[start:stop]) for start, stop in pairwise([0, *cuts, len(text)]) if stop > start]
        found: list[tuple[int, str, list[int]]] = []
        encoded = self._encode_apart([(piece, goes_on or start > 0) for start, piece in pieces])
        for (start, piece), ids in zip(pieces, encoded, strict=True):
            if self.controls(ids):  # a normaliser made one of a piece: no two letters meet
                letters = self._encode_apart([(letter, goes_on or start + k > 0) for k, letter in enumerate(piece)])
                found += [(start + k, piece[k], own) for k, own in enumerate(letters)]
            else:
                found.append((start, piece, ids))
        return found

    @cached_property
    def _likeness(self) -> re.Pattern[str]:
        """Matches the name of any control token, the longest first; nothing where there is none."""
        names = sorted(self.look_alikes, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) or "(?!)")

    def _encode_apart(self, pieces: list[tuple[str, bool]]) -> list[list[int]]:
        """Ids of each (piece, does it go on a text)."""
        led = [goes_on and self._begins_with_blank and not piece.startswith(LEAD) for piece, goes_on in pieces]
        texts = [LEAD * lead + piece for lead, (piece, _) in zip(led, pieces, strict=True)]
        encoded = self._call(texts, split_special_tokens=True).input_ids if texts else []
        skipped = len(self._lead_ids)
        return [ids[skipped:] if lead else ids for lead, ids in zip(led, encoded, strict=True)]

    # The tokenizer

    def _tokens(
        self, text: str, *, goes_on: bool = False, offsets: bool = False, split: bool = False
    ) -> tuple[list[int], Offsets]:
        """Ids, and offsets if asked for, of a text that begins here or goes on."""
        lead = LEAD if goes_on and self._begins_with_blank and not text.startswith(LEAD) else ""
        options = {"return_offsets_mapping": True} if offsets else {}
        encoded = self._call(lead + text, split_special_tokens=split, **options)
        skipped = len(self._lead_ids) if lead else 0
        pairs = encoded.offset_mapping[skipped:] if offsets else []
        return encoded.input_ids[skipped:], [(first - len(lead), last - len(lead)) for first, last in pairs]

    @cached_property
    def _lead_ids(self) -> list[int]:
        return self._call(LEAD).input_ids

    @cached_property
    def _begins_with_blank(self) -> bool:
        """Whether a word has another token at the beginning of a text than behind a line break (SentencePiece)."""
        return self._call(f"{LEAD}x").input_ids != [*self._lead_ids, *self._call("x").input_ids]

    def _call(self, text: str | list[str], **options: Any) -> Any:
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **options)


def _is_control(token: Any) -> bool:
    """Whether an added token is more than white space, or a letter of the alphabet."""
    name = token.content.replace("\u2581", " ").strip()
    return bool(name) and (token.special or len(name) > 1)


def _aligned(own: Sequence[int], offsets: Offsets, ids: Sequence[int]) -> Offsets:
    """Offsets for `ids`, by the tokens that they share with the text's own at their start and their end."""
    shortest = min(len(own), len(ids))
    head = next((i for i in range(shortest) if own[i] != ids[i]), shortest)
    left = shortest - head
    tail = next((i for i in range(left) if own[-1 - i] != ids[-1 - i]), left)
    other = offsets[head : len(own) - tail]
    span = (other[0][0], other[-1][1]) if other else (0, 0)
    return offsets[:head] + [span] * (len(ids) - head - tail) + offsets[len(own) - tail :]

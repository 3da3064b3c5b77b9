"""What a model's chat template puts around texts, and texts as token ids that can never be control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from paw_lightning.errors import SettingsError

SENTINELS = ("\ue000", "\ue001", "\ue002")  # private-use characters: they split a rendered chat template


def valid_text(text: str) -> str:
    """The text with unpaired surrogates, which no encoding can write, replaced by "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


class ChatFormat:
    """The fixed token ids that a model's chat template puts around texts.

    Texts of an environment are always encoded with special tokens split into ordinary pieces, so that no observation
    can become a control token; only the template's own scaffold may contain control tokens.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        question, answer, reply = SENTINELS
        if tokenizer.eos_token_id is None:
            raise self._refusal("has no eos token; wanted one: it ends every action")
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

    def _split(self, rendered: str, sentinel: str) -> tuple[str, str]:
        parts = rendered.split(sentinel)
        if len(parts) != 2:
            raise self._refusal(f"writes a message {len(parts) - 1} times by its chat template; wanted once")
        return parts[0], parts[1]

    def _refusal(self, fault: str) -> SettingsError:
        return SettingsError(f"model.path is {self.tokenizer.name_or_path!r}, whose tokenizer {fault}")

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

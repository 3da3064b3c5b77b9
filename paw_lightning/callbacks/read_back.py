"""Whether a written policy is the trained one: loaded again it gives the same token ids and the same log-probs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from transformers import AutoTokenizer

from paw_lightning.callbacks.canary_checks import TOLERANCE, shortened
from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.models.playable import readable
from paw_lightning.samplers.base import evaluating

TEXTS = (
    'You are in a room.  You see desk 1, shelf 12 and a "lamp" (off).\nTask: don\'t leave!\n\n> go to desk 1',
    "search[women 's shoes , size 7 !]\tx != y ? 1 : 2 ...   naïve façade: 12,345.60 €, 你好 мир 🙂",
    ' <think>\n</think><action>{"name": "f", "arguments": [1, 2]}</action>\r\n',
)
"""What tokenizers differ in: blanks, line ends, digits, punctuation, apostrophes, other scripts, tags."""
LONGEST, READ = 512, 64
"""Tokens of a sequence, and how many of the last of them are compared."""


@dataclass(frozen=True)
class Distance:
    """How far another model is from the trained one, over the tokens that were read."""

    divergence: float
    """Mean KL(trained || other) of the distributions of a token, nats."""
    largest: float
    """Largest difference of the log-probs of the tokens themselves, nats."""
    mean: float
    """Mean difference of these, nats."""


@dataclass(frozen=True)
class Trained:
    """What the trained policy says of a few sequences, on the CPU; the model itself may be freed meanwhile."""

    sequences: list[list[int]]
    logprobs: list[Tensor]
    """Of each sequence float [READ or fewer, V]."""
    arithmetic: torch.dtype
    """That they were computed in: float32, so that it is weights that are compared and not the rounding of activations,
    unless the device has no room for float32 weights."""

    @classmethod
    def read(cls, model: Any, tokenizer: Any, sequences: Sequence[list[int]]) -> Trained:
        """Read the sequences, or the fixed texts where there are none."""
        chosen = sequences or [tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS]
        cut = [ids[:LONGEST] for ids in chosen if len(ids) > 1]
        try:
            return cls(cut, _read(model, cut, torch.float32), torch.float32)
        except torch.OutOfMemoryError:
            return cls(cut, _read(model, cut, model.dtype), model.dtype)

    def distance(self, model: Any) -> Distance:
        """From the trained policy to another model of the same tokens."""
        divergences, gaps = [], []
        others = _read(model, self.sequences, self.arithmetic)
        for ids, trained, other in zip(self.sequences, self.logprobs, others, strict=True):
            difference = (trained - other).double()
            # KL = sum p (d - 1 + exp(-d)), d = log p - log q: no term is below 0, so that rounding cancels nothing
            divergences.append((trained.exp() * (difference + torch.expm1(-difference))).sum(-1))
            gaps.append(difference.gather(1, torch.tensor(ids[-len(trained) :])[:, None]).abs())
        gap = torch.cat(gaps)
        return Distance(torch.cat(divergences).mean().item(), gap.max().item(), gap.mean().item())


@torch.no_grad()
def _read(model: Any, sequences: Sequence[list[int]], arithmetic: torch.dtype) -> list[Tensor]:
    """Log-probs float [READ or fewer, V] of the last tokens of each sequence."""
    found = []
    with evaluating(model), at_least(model, arithmetic), readable(model, widened=arithmetic == torch.float32):
        for ids in sequences:
            count = min(READ, len(ids) - 1)
            logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
            found.append(logits[0, -count - 1 : -1].float().log_softmax(-1).cpu())
    return found


@contextmanager
def at_least(model: nn.Module, arithmetic: torch.dtype) -> Iterator[None]:
    """Coarser weights are held in this type inside, and come out as they were: widening loses nothing."""
    own = {p: p.dtype for p in model.parameters() if p.dtype.itemsize < arithmetic.itemsize}
    try:
        for p in own:
            p.data = p.data.to(arithmetic)
        yield
    finally:
        for p, dtype in own.items():
            p.data = p.data.to(dtype)


def distance_to(trained: Trained, load: Callable[[], Any], device: torch.device) -> tuple[Distance, torch.dtype]:
    """Load a model, compare and forget it; on the CPU where the device has no room for a second model."""
    try:
        model = load().to(device)
        return trained.distance(model), model.dtype
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
    model = load()
    return trained.distance(model), model.dtype


def check_model(trained: Trained, load: Callable[[], Any], device: torch.device, directory: Path) -> Distance:
    """Compare the written model with the trained one.

    Raises:
        SettingsError: they differ by more than the written type rounds; the message names the directory.
    """
    distance, dtype = distance_to(trained, load, device)
    allowed = max(TOLERANCE[trained.arithmetic], TOLERANCE[dtype])
    if not distance.mean <= allowed:
        raise SettingsError(
            f"the policy in {directory}, loaded again, gives log-probs that differ from the trained one's by "
            f"{distance.mean:.2g} nats on average; wanted at most {allowed:g}, as rounding explains"
        )
    return distance


def check_tokenizer(tokenizer: Any, directory: Path) -> None:
    """Compare the written tokenizer with the one that was trained with.

    Raises:
        SettingsError: they read a text or render a dialogue differently; the message names the directory.
    """
    special = "".join(tokenizer.all_special_tokens)
    expected = _token_ids(tokenizer, special)
    again = _token_ids(load_tokenizer(str(directory)), special)
    if different := _first_difference(expected, again):
        raise SettingsError(
            f"the tokenizer in {directory}, loaded again, reads {different} otherwise than the one that was trained "
            "with; wanted a tokenizer that save_pretrained keeps as it is (model.path)"
        )
    if different := _first_difference(expected, _token_ids(AutoTokenizer.from_pretrained(directory), special)):
        rank_zero_warn(
            f"AutoTokenizer reads {different} otherwise than the policy was trained on: load the exported tokenizer "
            f"with {type(tokenizer).__name__}.from_pretrained"
        )


def _token_ids(tokenizer: Any, special: str) -> dict[str, list[int]]:
    """Token ids of texts, of control tokens, of a text as the tokenizer begins one, and of a dialogue."""
    texts = {shortened(text): text for text in TEXTS}
    texts |= {"control tokens": special, "a dialogue under its chat template": _dialogue(tokenizer)}
    found = {name: tokenizer(text, add_special_tokens=False).input_ids for name, text in texts.items()}
    ends = {"the padding token": [tokenizer.pad_token_id], "the token at the end": [tokenizer.eos_token_id]}
    return found | {"the beginning of a text": tokenizer(TEXTS[0]).input_ids} | ends


def _dialogue(tokenizer: Any) -> str:
    """A dialogue of three turns as rendered; a template's refusal is as good as a rendering."""
    turns = zip(("user", "assistant", "user"), (TEXTS[0], "go to desk 1", "Nothing happens."), strict=True)
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _first_difference(expected: dict[str, list[int]], found: dict[str, list[int]]) -> str | None:
    different = [name for name, ids in expected.items() if found.get(name) != ids]
    return different[0] if different else None

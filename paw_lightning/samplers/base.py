"""The interface of a sampler: prompts in, actions out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn


@dataclass(frozen=True)
class Generation:
    """One sampled action."""

    token_ids: list[int]
    """As sampled, the stop token included when one was drawn."""
    logprobs: list[float]
    """log q of each token under the distribution it was drawn from (temperature applied), in nats."""
    entropies: list[float]
    """Entropy of that distribution at each token, in nats; empty where the sampler does not know (scoring fills in)."""
    stopped: bool
    """Ended with a stop token (False: ran into max_new_tokens)."""


class Sampler(ABC):
    """Turns prompts into actions. `rollout.sampler` can name a class of yours: only `generate` has to be written.

    It is built with (language model, token ids that end an action, padding token id), and its own settings by name.
    """

    trainers_arithmetic: ClassVar[bool] = False
    """Its log-probs are those of the training forward but for rounding: `rollout.old_logprobs` may take them."""

    holds_weights: ClassVar[bool] = False
    """It plays from a copy of the weights that `update_weights` alone changes: with `rollout.ahead` it is asked in a
    thread while the model trains, and reads nothing of the model between `prepare` and `release`."""

    sleep: bool = False
    """What it asks gives its memory back between two rollouts, while the model trains."""

    context_length: int | None = None
    """Tokens of a prompt and its action that it reads at most; None where only the model's own limit counts, or before
    `update_weights`."""

    @abstractmethod
    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """One action for each prompt, in the same order.

        Args:
            prompts: whole token ids of each decision context.
            temperature: of the softmax; 0 is greedy.
            max_new_tokens: longest action.
            uniforms: float [B, max_new_tokens] in [0, 1): the random numbers to draw with, if the sampler can use them.
        """

    connections: int = 0
    """Prompts that :meth:`ask` answers side by side, called from so many threads; 0: it has no `ask`, and writes a
    turn's actions together."""

    def ask(self, prompt: list[int], *, temperature: float, max_new_tokens: int, uniforms: Tensor) -> Generation:
        """One action, as `generate` would write it: each episode then goes on as soon as its own answer is there.

        Args:
            uniforms: float [max_new_tokens].
        """
        raise NotImplementedError(f"{type(self).__name__} has connections, and no ask")

    def prepare(self, prompt: list[int]) -> None:  # noqa: B027 - most are always ready
        """Called before each prompt that is asked for, in the thread that plays.

        With `rollout.ahead` that is not the main thread, which has called it once before the update.
        """

    def update_weights(self) -> None:  # noqa: B027 - most read the live model
        """The model's weights have changed, and prompts come next; called on every rank before each rollout and
        evaluation."""

    def release(self) -> None:  # noqa: B027 - most have nothing to give back
        """A rollout or an evaluation is over, and an update comes next: give back memory of the trainer's device that
        only sampling needs. Called on every rank; `update_weights` comes before the next prompt."""

    def session(self) -> Sampler:
        """A sampler for one rollout of growing transcripts; one that remembers what it has read saves time.

        The weights do not change while it is in use. A prompt may begin with an earlier prompt and its action, or
        not; a transcript may also never come back.
        """
        return self


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is back in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True

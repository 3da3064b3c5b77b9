"""Deterministic samplers with weights of their own, as a server has them, in this process."""

from __future__ import annotations

import copy
import threading
from typing import Any, ClassVar

from torch import Tensor

from paw_lightning.errors import SamplerFailedError
from paw_lightning.samplers.base import Generation
from paw_lightning.samplers.native import NativeSampler


class Copied(NativeSampler):
    """Plays from a copy of the model, prompt by prompt."""

    holds_weights = True
    connections = 2
    asked: ClassVar[list[str]] = []
    """The threads that have played, one entry for each prompt."""

    def __init__(self, model: Any, *arguments: Any) -> None:
        super().__init__(model, *arguments)
        self.live = model

    def update_weights(self) -> None:
        self.model = copy.deepcopy(self.live).eval()

    def prepare(self, prompt: list[int]) -> None:
        self.asked.append(threading.current_thread().name)

    def ask(self, prompt: list[int], *, uniforms: Tensor, **settings: Any) -> Generation:
        [action] = self.generate([prompt], uniforms=uniforms[None], **settings)
        return action


class Before(Copied):
    """The same before the update."""

    holds_weights = False


class Together(Copied):
    """The same in lock step."""

    connections = 0


class TogetherBefore(Together):
    """The same before the update."""

    holds_weights = False


class Failing(Copied):
    """Answers no prompt of the third rollout."""

    syncs = 0

    def update_weights(self) -> None:
        super().update_weights()
        self.syncs += 1

    def ask(self, prompt: list[int], **settings: Any) -> Generation:
        if threading.current_thread() is not threading.main_thread() and self.syncs == 2:
            raise SamplerFailedError("the server is on fire; wanted another (rollout.sampler)")
        return super().ask(prompt, **settings)

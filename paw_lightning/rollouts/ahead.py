"""Ahead: the runner of a run that plays its next rollout with the weights from before the update."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

import torch

from paw_lightning import ranks
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.provenance import played_with
from paw_lightning.rollouts.recording import pack, unpack
from paw_lightning.rollouts.runner import Policy, Progress, Runner
from paw_lightning.rollouts.settings import RolloutSettings
from paw_lightning.rollouts.tasks import TaskOrder
from paw_lightning.rollouts.timing import timed
from paw_lightning.types import Rollout

PATIENCE = 2.0
"""Seconds that a run which breaks off waits for the thread that plays; it is a daemon and holds up no exit."""
STATE = "rollout played ahead"


class GivenUp(BaseException):
    """The run has broken off, and nobody will train on what is being played."""


class Aside(threading.Thread):
    """Plays beside the update; its rollout, or its error, is there once it has ended."""

    def __init__(self, play: Callable[[], Rollout], line: Any) -> None:
        super().__init__(daemon=True, name="playing ahead")
        self.play, self.line = play, line
        self.rollout: Rollout | None = None
        self.error: BaseException | None = None
        self.given_up = False

    def run(self) -> None:
        """Play, and talk to the other ranks over a line of its own."""
        try:
            with ranks.over(self.line):
                self.rollout = self.play()
        except BaseException as error:
            self.error = error


class Ahead(Runner):
    """Trains iteration k on what the weights at the start of iteration k - 1 have played; the first one on its own.

    A sampler that holds a copy of the weights (`Sampler.holds_weights`), and an expert, play beside the update, in a
    thread. Any other reads the trained weights themselves, and plays before the update: the same run, without gain.

    The rollout is off-policy by one update. The policy's ratio is taken against the log-probs of the weights that
    played, as the sampler has recorded them, in every step; with `rollout.importance_cap` against the trainer's before
    the first step, and the advantage carries trainer over sampler, capped: the decoupled objective of Hilton, Cobbe and
    Schulman (2022), where the cap is a choice. What else scoring writes is said by the weights that are trained.
    """

    def __init__(
        self, settings: RolloutSettings, tasks: TaskOrder, policy: Policy, progress: Progress | None = None
    ) -> None:
        super().__init__(settings, tasks, policy, self._tell)
        self._shown = progress
        self._iterations: int | None = None
        self._line: Any = None
        self._thread: Aside | None = None
        self._next: Rollout | None = None
        """Played, and not yet trained on."""

    @property
    def beside(self) -> bool:
        """The next rollout is played while the update runs."""
        return self.settings.demonstrated or self.sampler.holds_weights

    def begin(self, iterations: int | None, timeout: timedelta | None) -> None:
        """Learn the length of the run, after which nothing is played; every rank has to call it.

        Args:
            iterations: None where the run has no end.
            timeout: that a rank waits for the others.
        """
        self._iterations = iterations
        if not self.settings.demonstrated and self.sampler.sleep:
            raise SettingsError(
                "rollout.ahead is 1 and rollout.sampler.init_args.sleep is true: a server that sleeps cannot play "
                "beside the update; wanted one of the two"
            )
        if self.beside:
            self._line = ranks.second_line(timeout)
        else:
            ranks.warn(
                f"rollout.ahead is 1 and {type(self.sampler).__name__} samples from the trained weights themselves: it "
                "plays before each update and not beside it, so that nothing is gained (rollout.sampler: vllm)"
            )

    # In the order of an iteration

    def play(self, iteration: int, task_seeds: list[int]) -> Rollout:
        """What was played ahead; where nothing was, play."""
        rollout, self._next = self._next, None
        if rollout is None or rollout.iteration != iteration:
            rollout = super().play(iteration, task_seeds)
        same = rollout.fingerprints["policy"] == self.fingerprints()["policy"]
        rollout.off_policy = not same and not rollout.demonstrated
        rollout.metrics["rollout/staleness"] = float(rollout.ahead and not rollout.demonstrated)
        return rollout

    def score(self, rollout: Rollout) -> None:
        """Score with the weights that are trained, and keep the name of those that played."""
        super().score(rollout)
        played = {} if rollout.demonstrated else {"policy": rollout.fingerprints["policy"]}
        rollout.fingerprints = self.fingerprints() | played

    def hand_over(self, rollout: Rollout) -> None:
        """Begin the next rollout before the first step; without a thread, play all of it."""
        number = rollout.iteration + 1
        if self._iterations is not None and number >= self._iterations:
            super().hand_over(rollout)
            return
        play = partial(self._ahead, number, self.train_tasks(number), self.fingerprints())
        if not self.beside:
            with timed(rollout.seconds, "waiting"):
                self._next = play()
            super().hand_over(rollout)
            return
        if not self.settings.demonstrated:
            # The sampler may look at the trainer's weights, which are about to change.
            with self.policy.arithmetic():
                ranks.together(partial(self.sampler.prepare, rollout.transitions[0].prompt_ids))
        self.policy.free()
        self._thread = Aside(play, self._line)
        self._thread.start()

    def settle(self, seconds: dict[str, float] | None = None) -> None:
        """Wait until nobody plays; every rank has to call it.

        Args:
            seconds: gets the wall clock of it, as "waiting".

        Raises:
            Exception: what playing has failed with.
        """
        if self._thread is None:
            return
        with timed({} if seconds is None else seconds, "waiting"):
            self._thread.join()
        thread, self._thread = self._thread, None
        if thread.error is not None:
            raise thread.error
        self._next = thread.rollout
        ranks.together(self.sampler.release)

    def give_up(self) -> None:
        """Let the thread end after the turn that it is in."""
        if self._thread is not None:
            self._thread.given_up = True
            self._thread.join(PATIENCE)

    def close(self) -> None:
        """Close every environment; nobody plays in them any more."""
        self.give_up()
        ranks.hang_up(self._line)
        self._line = None
        super().close()

    # In the thread

    def _ahead(self, iteration: int, task_seeds: list[int], fingerprints: dict[str, str]) -> Rollout:
        rollout = self._rollout(iteration, task_seeds, fingerprints)
        rollout.ahead = True
        return rollout

    def _tell(self, finished: int, total: int, stage: str) -> None:
        thread = threading.current_thread()
        if not isinstance(thread, Aside):
            if self._shown is not None:
                self._shown(finished, total, stage)
        elif thread.given_up:
            raise GivenUp

    def _precision(self) -> AbstractContextManager[None]:
        # Some of them change the default dtype, which threads share with the update.
        return nullcontext() if isinstance(threading.current_thread(), Aside) else super()._precision()

    # Checkpoints: the weights that have played are gone, so what they played is kept

    def state(self) -> dict[str, Any]:
        """The rollout that the next iteration trains on, as plain data; every rank has to call it."""
        self.settle()
        if self._next is None:
            return {}
        packed = pack(self._next, self._played_with, self.tasks.seed)
        return {STATE: torch.frombuffer(bytearray(packed), dtype=torch.uint8)}

    def load(self, state: dict[str, Any]) -> None:
        """Take up what the run had played before it was stopped, unless this one plays otherwise."""
        if STATE not in state:
            return
        rollout, header = unpack(state[STATE].cpu().numpy().tobytes())
        if header.settings == self._played_with and header.seed == self.tasks.seed:
            self._next = rollout
        else:
            ranks.warn(
                f"the checkpoint's rollout of iteration {header.iteration} was played with other settings and is left "
                "out: this iteration is played anew, with the weights that it trains"
            )

    @property
    def _played_with(self) -> dict[str, Any]:
        return played_with(self.settings, self.tasks, self.policy.chat)

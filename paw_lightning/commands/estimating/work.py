"""What one iteration has to do: episodes to play, tokens to read, write, score and train on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

SPREAD = 4.0
"""Sum of the two parameters of the Beta distribution that lengths are drawn from (choice)."""


@dataclass(frozen=True)
class Work:
    """The iteration of a run. Means may be fractions; what is written `most_` is a limit of the settings."""

    groups: int
    group_size: int
    turns: float
    most_turns: int
    action: float
    most_action: int
    prompt: float
    """Tokens before an action; before the last one where transcripts grow."""
    observation: float
    growing: bool
    """An episode is one row (`rollout.layout: episode`), rather than a row for each turn."""
    passes: int
    """Forward passes over the rollout that scoring makes."""
    micro_batches: int
    """Of one iteration, on each device."""
    optimizer_steps: int
    padding: float = 0.05
    """Share of the places of a micro-batch that hold nobody's token."""

    @property
    def episodes(self) -> int:
        return self.groups * self.group_size

    @property
    def fresh(self) -> float:
        """Tokens that a growing transcript gains before an action: p = T f + (T - 1) a, solved for f, at least 1."""
        return max(1.0, (self.prompt - (self.turns - 1) * self.action) / self.turns)

    def read(self, turn: int) -> float:
        """Tokens that a sampler which remembers reads for one row at this turn, the first being 0.

        The first prompt of a group is the same for all its episodes, and read once.
        """
        new = self.fresh if self.growing else self.prompt
        return new if turn else new / self.group_size

    def context(self, turn: int) -> float:
        """Tokens before the action of this turn."""
        return self.fresh + turn * (self.fresh + self.action) if self.growing else self.prompt

    @property
    def rows(self) -> float:
        """Training rows of one iteration, on all devices."""
        return self.episodes * (1.0 if self.growing else self.turns)

    @property
    def scored_row(self) -> float:
        """Tokens of a row up to its last action."""
        return (self.turns * (self.fresh + self.action)) if self.growing else self.prompt + self.action

    @property
    def trained_row(self) -> float:
        """The same with the observation that PaW predicts behind it."""
        return self.scored_row + self.observation

    @property
    def predicted(self) -> float:
        """Tokens of a trained row that the head reads: actions, and the observations that follow them."""
        return (self.action + self.observation) * (self.turns if self.growing else 1.0)

    @property
    def generated(self) -> float:
        """Action tokens of one iteration."""
        return self.episodes * self.turns * self.action


def drawn(dice: random.Random, mean: float, most: int) -> int:
    """A length between 1 and `most` with about this mean: `most` x Beta(4 m, 4 - 4 m), m = mean / most (choice)."""
    if mean >= most:
        return most
    share = mean / most
    return max(1, round(most * dice.betavariate(SPREAD * share, SPREAD * (1 - share))))


def episodes(work: Work, seed: int) -> list[list[list[int]]]:
    """Tokens of every action: [group][episode][turn]. Each episode has a seed of its own, whoever plays it."""
    return [
        [_episode(work, f"{seed} {group} {member}") for member in range(work.group_size)]
        for group in range(work.groups)
    ]


def _episode(work: Work, seed: str) -> list[int]:
    dice = random.Random(seed)
    turns = drawn(dice, work.turns, work.most_turns)
    return [drawn(dice, work.action, work.most_action) for _ in range(turns)]


def dealt(groups: list[list[list[int]]], ranks: int) -> list[list[list[int]]]:
    """The episodes of each rank: neighbouring groups, cut where :func:`paw_lightning.ranks.rank_slice` cuts them."""
    ends = [len(groups) * rank // ranks for rank in range(ranks + 1)]
    return [[e for group in groups[a:b] for e in group] for a, b in pairwise(ends)]

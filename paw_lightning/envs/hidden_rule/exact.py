"""What can be reached and known in the hidden-rule world: exact values, without playing it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Player = Literal["knowing", "ignorant", "blind"]
Belief = tuple[int, ...]
"""At one door: how often the bolt was seen to show each lever that may still be right, sorted."""


@dataclass(frozen=True)
class Exact:
    """Exact values of one setting of the world.

    The rule is drawn uniformly: every kind of door has each of the L levers with probability 1/L, whatever the others
    have. Values without knowledge of it are means over rules. Three players:

    - `knowing`: it knows the rule, and pulls the right lever until it moves.
    - `ignorant`: it meets each episode anew and knows all about the world but the rule. Within the episode it remembers
      everything and plays as well as can be (Bayes). What it learns at one door says nothing about another, as no kind
      comes twice in an episode.
    - `blind`: it pulls a lever drawn uniformly at every turn and reads nothing.

    Args:
        doors: kinds of door, D.
        levers: L.
        horizon: doors of an episode, H, all of different kinds.
        pulls: turns of an episode, P.
        slip: how often a lever jams.
        noise: how often a bolt is seen as one of the L - 1 wrong levers.
        tells: whether a bolt is seen at all after a wrong pull.
        dense: each door pays 1 / H; otherwise the last one pays 1.
    """

    doors: int
    levers: int
    horizon: int
    pulls: int
    slip: float = 0.0
    noise: float = 0.0
    tells: bool = True
    dense: bool = False

    # What a player reaches

    def success(self, player: Player) -> float:
        """The largest probability with which this player opens all doors of an episode.

        `knowing` and `blind` open one with the same probability q at every pull, q = 1 - slip and (1 - slip) / L, so
        they succeed with P(Binomial(P, q) >= H). `ignorant` is dynamic programming over (doors left, pulls left, belief
        at this door).

        Example: 2 of 4 levers in 2 pulls, no noise: knowing 1, ignorant and blind 1/16. With a third pull the ignorant
        player may miss once at either door, and then sees the bolt: 1/16 + 2 * 3/4 * 1/4 = 7/16.
        """
        if player == "ignorant":
            return self._best(0.0, 1.0)
        return math.fsum(self._opened(player)[self.horizon :])

    def expected_return(self, player: Player) -> float:
        """The largest mean return of this player, for a `success_reward` of 1.

        Sparse it is the success probability; dense E[min(H, doors opened)] / H.
        """
        if not self.dense:
            return self.success(player)
        if player == "ignorant":
            return self._best(1 / self.horizon, 0.0)
        return math.fsum(p * min(self.horizon, n) for n, p in enumerate(self._opened(player))) / self.horizon

    def _opened(self, player: Player) -> list[float]:
        """Binomial(P, q): the probability of each number of pulls that would open a door."""
        q = (1 - self.slip) / (self.levers if player == "blind" else 1)
        return [math.comb(self.pulls, n) * q**n * (1 - q) ** (self.pulls - n) for n in range(self.pulls + 1)]

    def _best(self, door: float, end: float) -> float:
        """What the ignorant player can expect where each door pays `door`, and the last one `end` beside it."""
        fresh = (0,) * self.levers
        known: dict[tuple[int, int, Belief], float] = {}

        def value(doors: int, pulls: int, belief: Belief) -> float:
            if not doors:
                return end
            if pulls < (doors if not door else 1):
                return 0.0
            state = doors, pulls, belief
            if state not in known:
                known[state] = max(pull(*state, place) for place in _different(belief))
            return known[state]

        def pull(doors: int, pulls: int, belief: Belief, place: int) -> float:
            chance = self.chances(belief)
            moved = chance[place] * (door + value(doors - 1, pulls - 1, fresh))
            for after, probability in self._wrong(belief, place):
                moved += probability * value(doors, pulls - 1, after)
            stuck = value(doors, pulls - 1, belief) if self.slip else 0.0
            return (1 - self.slip) * moved + self.slip * stuck

        return value(self.horizon, self.pulls, fresh)

    def chances(self, belief: Belief) -> list[float]:
        """The probability that each lever is the right one, from how often the bolt was seen to show it (Bayes).

        A lever seen n of N times has the weight (1 - noise)^n (noise / (L - 1))^(N - n).
        """
        seen, other = sum(belief), self._other
        weights = [(1 - self.noise) ** n * other ** (seen - n) for n in belief]
        return [weight / math.fsum(weights) for weight in weights]

    def _wrong(self, belief: Belief, place: int) -> Iterator[tuple[Belief, float]]:
        """(Belief, probability) after the lever in this place moved and was wrong: it is ruled out, and a bolt seen."""
        chance = self.chances(belief)
        left, misses = belief[:place] + belief[place + 1 :], chance[:place] + chance[place + 1 :]
        wrong = math.fsum(misses)
        if not wrong:
            return
        if not self.tells:
            yield left, wrong
            return
        outcomes: dict[Belief, float] = defaultdict(float)
        for i, chance_here in enumerate(misses):
            after = tuple(sorted((*left[:i], left[i] + 1, *left[i + 1 :])))
            outcomes[after] += chance_here * (1 - self.noise) + (wrong - chance_here) * self._other
        outcomes[left] += wrong * self._other * (self.levers - len(left))  # a lever that is ruled out
        yield from ((after, probability) for after, probability in outcomes.items() if probability > 0)

    # What can be known of the next observation

    def answer_entropy(self, opened: int, *, knowing: bool) -> float:
        """H of the answer to the first pull at a door, nats; the lever is drawn uniformly.

        Knowing the rule, what is left is whether the lever jams, the noise of the bolt, and which door comes next
        (one of the D - 1 - `opened` not met yet). Without it, also what the rule is. It is H(answer | door, lever,
        rule) and H(answer | door, lever), over rows of doors drawn uniformly from all of them.

        Args:
            opened: doors opened before in this episode, 0 to H - 1.
            knowing: the rule is known.

        Raises:
            ValueError: there is no such door.
        """
        if not 0 <= opened < self.horizon:
            raise ValueError(
                f"opened is {opened}; wanted 0 to {self.horizon - 1}, the doors before one of {self.horizon}"
            )
        following = self.doors - 1 - opened if opened < self.horizon - 1 else 1
        moves, right = 1 - self.slip, 1 / self.levers
        colours = self.levers - 1
        if knowing:
            opens = [self.slip, *[moves / following] * following]
            sees = [1.0 - self.noise, *[self._other] * colours] if self.tells else [1.0]
            shut = [self.slip, *(moves * p for p in sees)]
            return right * _entropy(opens) + (1 - right) * _entropy(shut)
        answers = [self.slip, *[moves * right / following] * following]
        if not self.tells:
            return _entropy([*answers, moves * (1 - right)])
        # The lever that was pulled can be named by noise alone
        own, another = self.noise * right, (1 - self.noise + (self.levers - 2) * self._other) * right
        return _entropy([*answers, moves * own, *[moves * another] * colours])

    def knowable_share(self, opened: int) -> float:
        """The share of the answer's entropy that goes away with knowledge of the rule, I(rule; answer) / H(answer)."""
        without = self.answer_entropy(opened, knowing=False)
        return (without - self.answer_entropy(opened, knowing=True)) / without

    @cached_property
    def _other(self) -> float:
        """Probability of each single wrong lever."""
        return self.noise / (self.levers - 1)


def _different(belief: Belief) -> list[int]:
    """One place of each count: levers of equal count are alike."""
    return [belief.index(count) for count in sorted(set(belief))]


def _entropy(probabilities: list[float]) -> float:
    return math.fsum(-p * math.log(p) for p in probabilities if p > 0)

"""Scripted players of the hidden-rule world that do not know the rule."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence


class IgnorantPlayer:
    """Plays one episode from its text alone, as well as one can who does not know the rule.

    At each door it pulls the lever that the bolt was seen to show most often, among those not found wrong; ties
    fall at random. Make one for each episode and pass every observation to ``act``.
    """

    def __init__(self, levers: Sequence[str], rng: random.Random) -> None:
        self.levers, self.rng = list(levers), rng
        self.seen: dict[str, int] = {}
        """Lever that may still be right -> how often the bolt was seen to show it."""
        self.door = self.pulled = ""

    def act(self, observation: str) -> str:
        """The next command, given the latest observation."""
        if door := re.search(r"(?:before|Next is) the (\w+) door", observation):
            self.door = door[1]
            self.seen = dict.fromkeys(self.levers, 0)
        elif "stays shut" in observation:
            self.seen.pop(self.pulled, None)
            bolt = re.search(r"(?:It opens|reads \w+) with (\w+)", observation)
            if bolt and bolt[1] in self.seen:
                self.seen[bolt[1]] += 1
        most = max(self.seen.values())
        self.pulled = self.rng.choice([lever for lever, count in self.seen.items() if count == most])
        return f"open {self.door} with {self.pulled}"

"""SafeEnv: a small world of tools, a safe whose code lies in one of several places."""

from __future__ import annotations

from random import Random

from paw_lightning.envs.loading import check_split, wrong_argument
from paw_lightning.envs.tools import ToolEnv, ToolError
from paw_lightning.text.tool_calls import Call

PLACES = ("desk", "shelf", "bed", "drawer", "sofa", "cabinet")
HELD_OUT = {"val": 8, "test": 9}
"""Last digit of the digits' sum, of the codes that validation and test keep for themselves."""


class SafeEnv(ToolEnv):
    """A safe with a code, which a note in one of some places tells: look there, then enter it.

    Two tools, `look_in` and `enter`. The code is entered right within `places` + 1 calls by a player who looks into one
    place after the other, and guessed in one of 10 ** `digits` calls by one who does not. No code of `val` or `test`
    opens a safe of `train`.

    Args:
        split: "train", "val" or "test".
        places: 1 to 6, in another order in each task.
        digits: of the code, 1 to 9.
    """

    task = "Open the safe."

    def __init__(self, split: str = "train", *, places: int = 3, digits: int = 2) -> None:
        super().__init__(split)
        check_split(split)
        if not 1 <= places <= len(PLACES):
            raise wrong_argument("places", places, f"1 to {len(PLACES)}")
        if not 1 <= digits <= 9:
            raise wrong_argument("digits", digits, "1 to 9")
        self._count, self.digits = places, digits

    def start(self, random: Random) -> str:
        """Hide a note with a code of the split."""
        self._places = random.sample(PLACES, self._count)
        self._note = random.choice(self._places)
        self._code = ""
        while not self._code or _split_of(self._code) != self.split:
            self._code = "".join(random.choice("0123456789") for _ in range(self.digits))
        self._unseen, self._found = list(self._places), False
        return f"A safe. A note is in one of: {', '.join(self._places)}."

    def look_in(self, place: str) -> str:
        """Look for the note.

        Args:
            place: Where to look.
        """
        if place not in self._places:
            raise ToolError(f"no {place} here, only {', '.join(self._places)}")
        self._unseen = [other for other in self._unseen if other != place]
        if place != self._note:
            return f"The {place} is empty."
        self._found = True
        return f"A note: {self._code}."

    def enter(self, code: str) -> str:
        """Enter a code at the safe.

        Args:
            code: The digits.
        """
        if code != self._code:
            return "The safe stays shut."
        self.finish(won=True)
        return "The safe opens."

    def demonstrate(self) -> str:
        """Look into each place in turn, then enter what the note says."""
        if self._found:
            return str(Call("enter", {"code": self._code}))
        return str(Call("look_in", {"place": self._unseen[0]}))


def _split_of(code: str) -> str:
    return next((split for split, digit in HELD_OUT.items() if sum(map(int, code)) % 10 == digit), "train")

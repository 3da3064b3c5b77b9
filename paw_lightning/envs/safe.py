"""SafeEnv: a small world of tools, a safe whose code lies in one of several places."""

from __future__ import annotations

from random import Random
from zlib import crc32

from paw_lightning.envs.loading import check_split, wrong_argument
from paw_lightning.envs.tools import ToolEnv, ToolError
from paw_lightning.text.tool_calls import Call

PLACES = ("desk", "shelf", "bed", "drawer", "sofa", "cabinet")
COLORS = ("red", "green", "blue", "white", "black", "gold", "pink", "gray")
HELD_OUT = {"val": 8, "test": 9}
"""What validation and test keep for themselves, of ten: last digit of a code's digits' sum, or of a safe's checksum."""


class SafeEnv(ToolEnv):
    """A safe with a code, which a note in one of some places tells: look there, then enter it.

    Two tools, `look_in` and `enter`. The code is entered right within `places` + 1 calls by a player who looks into one
    place after the other, and guessed in one of 10 ** `digits` calls by one who does not. No code of `val` or `test`
    opens a safe of `train`; of colors, which all splits share, no safe of theirs is one of `train`.

    Args:
        split: "train", "val" or "test".
        places: 1 to 6, in another order in each task.
        digits: of the code, 1 to 9; None: it is one of eight colors, with nothing to spell for the smallest policies.
    """

    task = "Open the safe."

    def __init__(self, split: str = "train", *, places: int = 3, digits: int | None = 2) -> None:
        super().__init__(split)
        check_split(split)
        if not 1 <= places <= len(PLACES):
            raise wrong_argument("places", places, f"1 to {len(PLACES)}")
        if digits is not None and not 1 <= digits <= 9:
            raise wrong_argument("digits", digits, "1 to 9, or null for a color")
        self._count, self.digits = places, digits

    def start(self, random: Random) -> str:
        """Hide a note with a code of the split."""
        while True:  # a row of places may have no color of the split
            self._places = random.sample(PLACES, self._count)
            self._note = random.choice(self._places)
            self._code = draw_code(random, self.digits)
            if self._own_split() == self.split:
                break
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
            code: As the note has it.
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

    def _own_split(self) -> str:
        of_color = crc32(" ".join((*self._places, self._note, self._code)).encode())
        number = of_color if self.digits is None else sum(map(int, self._code))
        return next((split for split, digit in HELD_OUT.items() if number % 10 == digit), "train")


def draw_code(random: Random, digits: int | None) -> str:
    """A code of any split."""
    if digits is None:
        return random.choice(COLORS)
    return "".join(random.choice("0123456789") for _ in range(digits))

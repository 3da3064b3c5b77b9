"""A world with two tools, as the documentation writes it."""

from __future__ import annotations

from typing import Literal

from paw_lightning import ToolEnv, ToolError


class Safe(ToolEnv):
    task = "Open the safe."

    def start(self, random) -> str:
        self.code = random.choice(["red", "blue"])
        self.read = False
        return "There is a safe with a red and a blue button, and a note."

    def read_note(self) -> str:
        """Read the note."""
        self.read = True
        return f"It says: {self.code}."

    def press(self, color: Literal["red", "blue"], times: int = 1) -> str:
        """Press a button.

        Args:
            color: Of the button.
            times: How often.
        """
        if not times:
            raise ToolError("not at all?")
        self.finish(won=color == self.code)
        return "Click."

    def demonstrate(self) -> str:
        action = f'"press", "arguments": {{"color": "{self.code}"}}' if self.read else '"read_note", "arguments": {}'
        return f'{{"name": {action}}}'

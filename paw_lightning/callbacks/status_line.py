"""A line at the foot of the terminal that all other output passes by."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TextIO

ERASE_LINE = "\r\x1b[K"


class StatusLine:
    """Keeps one line of text below whatever else this process writes to the terminal while it is open.

    Args:
        terminal: the stream the line is drawn on.
    """

    def __init__(self, terminal: TextIO) -> None:
        self.terminal, self.text = terminal, ""
        self.midway = False
        """Somebody else has begun a line and not ended it: nothing may be drawn until he does."""
        self.streams: dict[str, TextIO] = {}

    @property
    def width(self) -> int:
        """Characters that fit; a full line would wrap."""
        return os.get_terminal_size(self.terminal.fileno()).columns - 1

    def open(self) -> None:
        """Pass on what others write, `logging` included, which has taken hold of the streams long ago."""
        self.streams = {name: getattr(sys, name) for name in ("stdout", "stderr") if getattr(sys, name).isatty()}
        for name, stream in self.streams.items():
            above = Above(stream, self)
            setattr(sys, name, above)
            _hand_over(stream, above)

    def close(self) -> None:
        """Wipe the line and give the streams back."""
        self.show("")
        for name, stream in self.streams.items():
            above = getattr(sys, name)
            if isinstance(above, Above):  # else somebody has put his own there since
                setattr(sys, name, stream)
                _hand_over(above, stream)
        self.streams = {}

    def show(self, text: str) -> None:
        """Change the line."""
        self.text = text
        if not self.midway:
            self.terminal.write(ERASE_LINE + text)
            self.terminal.flush()

    def pass_by(self, stream: TextIO, text: str) -> int:
        """Write somebody else's text above the line."""
        if not self.midway:
            self.terminal.write(ERASE_LINE)
            self.terminal.flush()
        written = stream.write(text)
        stream.flush()
        self.midway = not text.endswith("\n")
        self.show(self.text)
        return written


class Above:
    """A stream whose text goes above a status line."""

    def __init__(self, stream: TextIO, line: StatusLine) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        """Write text."""
        return self._line.pass_by(self._stream, text) if text else 0

    def writelines(self, lines: list[str]) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _hand_over(old: Any, new: Any) -> None:
    """Let every log handler that writes to one stream write to another."""
    loggers = [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for handler in [handler for logger in loggers for handler in logger.handlers]:
        # Python's handler of last resort has no stream of its own: it asks `sys` every time.
        if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") is old:
            handler.setStream(new)

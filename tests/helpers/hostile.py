"""What runs code of its own where it is unpickled: it makes a folder."""

from __future__ import annotations

import os
from pathlib import Path


class Hostile:
    """Unpickling it makes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)

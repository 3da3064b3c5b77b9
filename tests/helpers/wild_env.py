"""The toy world in bad company: on one task, at the second turn, it kills, hangs, floods or leaks its process."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from paw_lightning.envs.loading import import_extra
from tests.helpers.toy_env import ToyEnv


class WildEnv(ToyEnv):
    """Misbehaves as `trick` says on task `victim`, as often as there are files to delete in the folder `lives`."""

    def __init__(self, split: str = "train", victim: int = 1, trick: str = "", lives: str = "") -> None:
        super().__init__(split)
        self.victim, self.trick, self.lives = victim, trick, lives

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.turn == 1 and self.seed == self.victim and self.trick and self._spend_a_life():
            getattr(self, f"_{self.trick}")()
        return super().step(action)

    def _spend_a_life(self) -> bool:
        for path in Path(self.lives).iterdir():
            try:
                path.unlink()
            except FileNotFoundError:  # another copy of the environment took it
                continue
            return True
        return False

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _hang(self) -> None:
        time.sleep(1000)

    def _raise(self) -> None:
        raise ConnectionError("the world fell over")

    def _exit(self) -> None:
        sys.exit("usage: step ACTION")

    def _garbage(self) -> None:
        for number in range(3, 256):
            with suppress(OSError):
                if stat.S_ISSOCK(os.fstat(number).st_mode):
                    os.write(number, b'[["oh", {\xff\n')

    def _leak(self) -> None:
        self.leak = [bytearray(2**24) for _ in range(2**10)]  # 16 GiB


class RudeEnv(ToyEnv):
    """Does to its process what some libraries do: prints, takes standard output away, forgets the command line."""

    def __init__(self, split: str = "train") -> None:
        super().__init__(split)
        print("welcome to my world", flush=True)
        os.write(1, b"more noise\n")
        os.close(1)
        sys.stdout = sys.argv = None  # type: ignore[assignment]
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class SlowEnv(ToyEnv):
    """Takes a third of a second for everything."""

    def reset(self, **options: Any) -> tuple[str, dict[str, Any]]:
        time.sleep(0.3)
        return super().reset(**options)

    def step(self, action: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        time.sleep(0.3)
        return super().step(action)


class FamilyEnv(ToyEnv):
    """Starts a process of its own, and tells its number."""

    def reset(self, **options: Any) -> tuple[str, dict[str, Any]]:
        child = subprocess.Popen(["sleep", "1000"])
        observation, info = super().reset(**options)
        return observation, info | {"child": child.pid}


class LacksPackage(ToyEnv):
    """Needs a package that nobody has."""

    def __init__(self, split: str = "train") -> None:
        import_extra("a_package_that_is_not_there", "gym", "LacksPackage")
        super().__init__(split)

"""TextWorld: games made by its own `tw-make`, one file per task, kept for the next run (extra `textworld`)."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import ENVIRONMENT, expand, import_extra, install_hint, wrong_argument
from paw_lightning.errors import SettingsError

BANNER = re.compile(r".*\$\$[^\n]*\n", re.DOTALL)
"""The letters, drawn in dollar signs, that every game opens with."""
STATUS = re.compile(r"\s*>\s+-=[^\n]*=-\s*-?\d+/\d+\s*$")
"""The prompt and the line with room, score and moves that the interpreter draws at the top of its window."""


class TextWorldEnv(TextEnv):
    """TextWorld games; the reward is the change of the score, R_max the game's largest score.

    A game is made when it is first played, which takes seconds, and lies in `folder` from then on.

    Args:
        split: chooses the seeds of the games that are made.
        make: what `tw-make` is called with, but for the seed and the file, as in ``"tw-coin_collector --level 5"``.
        folder: where the games are kept; ``~`` and environment variables are expanded.
        num_tasks: how many games the split has.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        make: str = "tw-coin_collector --level 3",
        folder: str = "runs/textworld",
        num_tasks: int = 100,
    ) -> None:
        self._textworld = import_extra("textworld", "textworld")
        if num_tasks < 1:
            raise wrong_argument("num_tasks", num_tasks, "at least 1")
        self.num_tasks: int | None = num_tasks
        self._split, self._make = split, make
        name = f"{shlex.split(make)[0]}-{hashlib.blake2b(make.encode(), digest_size=4).hexdigest()}"
        self._folder = Path(expand(folder, "folder")) / name
        wanted = ("admissible_commands", "won", "lost", "max_score", "objective", "score")
        self._infos = self._textworld.EnvInfos(**dict.fromkeys(wanted, True))
        self._game: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start game number `seed` of the split, making it if it is not there."""
        self.close()
        path = self._file((seed or 0) % self.num_tasks)  # type: ignore[operator]
        self._game = self._textworld.start(str(path), request_infos=self._infos)
        state = self._game.reset()
        self._score = 0
        start = {"task": state.objective, "max_reward": float(state.max_score), "group_key": path.stem}
        return _text(BANNER.sub("", state.feedback)), _info(state) | start

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action."""
        state, _, done = self._game.step(action)
        reward, self._score = state.score - self._score, state.score
        return _text(state.feedback), float(reward), bool(done), False, _info(state)

    def close(self) -> None:
        """Unload the game."""
        if self._game is not None:
            self._game.close()
        self._game = None

    def _file(self, number: int) -> Path:
        """The compiled game; one process makes it while the others that want it wait."""
        path = self._folder / f"{self._split}-{number}.z8"
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                self._run_tw_make(path, number)
        return path

    def _run_tw_make(self, path: Path, number: int) -> None:
        seed = int.from_bytes(hashlib.blake2b(path.stem.encode(), digest_size=3).digest(), "big")
        beside = shutil.which("tw-make", path=str(Path(sys.executable).parent)) or shutil.which("tw-make")
        if beside is None:
            raise SettingsError(f"tw-make is not installed; wanted it for {ENVIRONMENT}: {install_hint('textworld')}")
        draft = path.with_name(f"draft-{path.name}")
        command = [beside, *shlex.split(self._make), "--seed", str(seed), "--output", str(draft), "-f"]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed: {made.stderr.strip()[-500:]}")
        draft.with_suffix(".json").rename(path.with_suffix(".json"))  # TextWorld reads goal, commands and score from it
        draft.rename(path)


def _text(feedback: str) -> str:
    return STATUS.sub("", feedback).strip()


def _info(state: Any) -> dict[str, Any]:
    return {"admissible_commands": sorted(state.admissible_commands), "won": bool(state.won)}

"""MixtureEnv: several environments in one run, by weight."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import ENVIRONMENT, EnvironmentSpec, build_environment, plain_spec, wrong_argument


class MixtureEnv(TextEnv):
    """Plays each task in one of several environments, chosen by the task's seed alone.

    Of any n consecutive seeds each environment gets its share of n to within one task for each environment before it,
    and sees its own tasks 0, 1, 2, ... in order. ``info["environment"]`` is the environment's name, under which
    rollout and validation metrics are logged too; R_max is each one's own.

    Args:
        split: handed on.
        environments: ``{name: {class_path: ..., init_args: {...}, weight: 1.0}}``.

    Raises:
        SettingsError: no environment, one that cannot be built, or a weight that is not positive.
    """

    def __init__(self, split: str = "train", *, environments: dict[str, EnvironmentSpec]) -> None:
        if not environments:
            raise wrong_argument("environments", environments, "{name: {class_path: ..., weight: ...}}")
        specs = {name: plain_spec(spec, ("weight",)) for name, spec in environments.items()}
        weights = {name: float(spec.pop("weight", 1.0)) for name, spec in specs.items()}
        for name, weight in weights.items():
            if not name or "/" in name:
                raise wrong_argument("environments", list(environments), "plain names, without /")
            if not 0 < weight < math.inf:
                raise wrong_argument(f"environments.{name}.weight", weight, "a positive number")
        self._split, self._specs, self._shares = split, specs, shares(weights)
        self._built: dict[str, TextEnv] = {}
        self._random = random.Random(f"{split} task order")
        self._current: TextEnv | None = None

    def begin_reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        """Begin the reset in the environment that plays the task."""
        if seed is not None:
            _, env, number = self._choose(seed)
            env.begin_reset(seed=number, options=options)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task `seed`; without one, one that the mixture draws."""
        name, self._current, number = self._choose(self._random.randrange(2**31) if seed is None else seed)
        observation, info = self._current.reset(seed=number, options=options)
        return observation, info | {"environment": name, "group_key": f"{name}/{info.get('group_key', number)}"}

    def begin_step(self, action: str) -> None:
        """Begin the step in the environment that is being played."""
        self._playing().begin_step(action)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action in the environment that is being played."""
        return self._playing().step(action)

    def peek(self, action: str) -> str:
        """Ask the environment that is being played."""
        return self._playing().peek(action)

    def demonstrate(self) -> str:
        """Ask the environment that is being played."""
        return self._playing().demonstrate()

    def close(self) -> None:
        """Close every environment."""
        while self._built:
            self._built.popitem()[1].close()

    def _playing(self) -> TextEnv:
        if self._current is None:
            raise RuntimeError("no episode has been started: call reset() first")
        return self._current

    def _choose(self, seed: int) -> tuple[str, TextEnv, int]:
        """Name, environment (built when it is first needed) and the environment's own task number."""
        name, number = assign(seed, self._shares)
        if name not in self._built:
            self._built[name] = build_environment(
                self._specs[name], self._split, f"{ENVIRONMENT}.init_args.environments.{name}"
            )
        return name, self._built[name], number


def shares(weights: dict[str, float]) -> list[tuple[str, Fraction]]:
    """Each name with its share of the weight that the names before it leave over; the last share is 1."""
    left = sum(map(Fraction, weights.values()))
    result = []
    for name, weight in weights.items():
        result.append((name, Fraction(weight) / left))
        left -= Fraction(weight)
    return result


def assign(seed: int, parts: list[tuple[str, Fraction]]) -> tuple[str, int]:
    """The name of the environment that plays a seed, and how many smaller seeds the same environment plays.

    With share s, the seeds at which floor(s (i + 1)) steps up from floor(s i) are the name's; the others, renumbered,
    go to the names after it in the same way.
    """
    for name, share in parts:
        before = int(seed * share)
        if int((seed + 1) * share) > before:
            return name, before
        seed -= before
    raise AssertionError("the last share is 1")

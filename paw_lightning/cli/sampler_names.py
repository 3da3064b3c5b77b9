"""The samplers that have a short name, where settings of their own are given: the parser wants a class for these."""

from __future__ import annotations

from collections.abc import Sequence

from paw_lightning.cli.arguments import settings_of
from paw_lightning.cli.keys import CLASS_KEYS
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.settings import SAMPLERS

KEY = "rollout.sampler"
DEFAULT = "native"
PATHS = {name: f"{sampler.__module__}.{sampler.__qualname__}" for name, sampler in SAMPLERS.items()}  # type: ignore[attr-defined]
"""Short name -> class path."""


def with_sampler_paths(args: Sequence[str]) -> list[str]:
    """The arguments, with the class's path before the first setting of a sampler that has a short name so far.

    Example: ``--rollout.sampler vllm --rollout.sampler.urls X`` becomes ``--rollout.sampler vllm
    --rollout.sampler=paw_lightning.samplers.vllm.VLLMSampler --rollout.sampler.urls X``. The name may as well stand in
    a file, or nowhere.

    Raises:
        SettingsError: a short name stands where only a class's path may.
    """
    for setting in settings_of([*args]):
        if setting.key == f"{KEY}.class_path" and (path := PATHS.get(str(setting.value))):
            raise SettingsError(f"{setting.key}{setting.place} is {setting.value!r}; wanted {path!r}")
    words: list[str] = []
    for word in args:
        inner = word.removeprefix(f"--{KEY}.").partition("=")[0] if word.startswith(f"--{KEY}.") else None
        if inner is not None and inner not in CLASS_KEYS - {"init_args"}:
            named = [str(s.value) for s in settings_of(words) if s.key in (KEY, f"{KEY}.class_path")]
            if path := PATHS.get(named[-1] if named else DEFAULT):
                words.append(f"--{KEY}={path}")
        words.append(word)
    return words

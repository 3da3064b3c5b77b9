"""What episodes were played with, by the keys of a configuration: a replay has to be told the same."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from paw_lightning.models.identity import tokenizer_digest
from paw_lightning.rollouts.settings import RolloutSettings
from paw_lightning.rollouts.tasks import TaskOrder
from paw_lightning.text.chat import ChatFormat

TOKENIZER = "tokenizer"
PLAYING = (
    "max_steps",
    "max_action_tokens",
    "max_observation_tokens",
    "temperature",
    "old_logprobs",
    "importance_cap",
    "ahead",
)
"""Settings of `rollout` that shape what is played and recorded; the others are about how fast, or evaluations."""


def played_with(settings: RolloutSettings, tasks: TaskOrder, chat: ChatFormat) -> dict[str, Any]:
    """Everything that training episodes depend on but the weights, the seed, and how their environment fails."""
    name, arguments = environment_of(settings.environment)
    found = {
        "rollout.environment": name,
        **{f"rollout.environment.init_args.{key}": value for key, value in arguments.items()},
        **{f"rollout.prompt.{key}": value for key, value in vars(settings.prompt).items()},
        "rollout.layout": settings.layout.__name__,
        **{f"rollout.{key}": getattr(settings, key) for key in PLAYING},
        "data.groups": tasks.groups,
        "data.group_size": tasks.group_size,
        "data.dynamic_sampling": tasks.dynamic_sampling,
        TOKENIZER: tokenizer_digest(chat),
    }
    return json.loads(json.dumps(found, default=_plain))  # as a file gives it back


def environment_of(factory: Callable[..., Any]) -> tuple[str, dict[str, Any]]:
    """Class path and arguments of what builds an environment; of a function its own path, and no arguments."""
    arguments: dict[str, Any] = {}
    while isinstance(factory, functools.partial):
        arguments = {**factory.keywords, **arguments}
        classes = [part for part in factory.args if isinstance(part, type)]  # the command line's partial calls a class
        factory = classes[0] if classes else factory.func
    named = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{named.__module__}.{named.__qualname__}", arguments


def _plain(value: Any) -> Any:
    """A namespace of the command line as a dictionary, anything else by its class."""
    return value.as_dict() if hasattr(value, "as_dict") else type(value).__qualname__

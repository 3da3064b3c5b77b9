"""Checks of a configuration, made before anything in it is built."""

from __future__ import annotations

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

import torch

from paw_lightning.errors import SettingsError


def check_configuration(config: Any) -> None:
    """Refuse settings that would fail later, inside another library.

    Raises:
        SettingsError: names the key.
    """
    if config.get("ckpt_path") == "best":
        raise SettingsError(
            "ckpt_path is 'best', which only the process that trained knows; wanted RUN/checkpoints/best.ckpt"
        )
    if config.get("weights_only") is False:
        raise SettingsError(
            "weights_only is false, which would run what code a checkpoint brings along; wanted true, or no such key"
        )
    check_environment(config.rollout.environment)
    check_optimizer(config.model.optimizer)
    check_writable(config.trainer.logger)


def check_environment(spec: Any) -> None:
    """Refuse a class that cannot be built with a split, or that lacks `reset` or `step`."""
    path = getattr(spec, "class_path", None)
    if path is None:
        return
    module, _, name = path.rpartition(".")
    cls = getattr(importlib.import_module(module), name)
    if not inspect.isclass(cls):
        return
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise SettingsError(f"rollout.environment is {path}, which lacks {missing}; wanted a class with reset and step")
    takes = [p.kind for p in inspect.signature(cls).parameters.values()]
    if not takes or takes[0] not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    ):
        raise SettingsError(
            f"rollout.environment is {path}, whose __init__ takes no split; wanted __init__(self, split, ...): it is "
            "built with 'train', 'val' or 'test'"
        )


def check_optimizer(spec: Any) -> None:
    """Build the optimizer for one parameter, so that a wrong argument is seen before the model is built."""
    path = getattr(spec, "class_path", None)
    if path is None:
        return
    module, _, name = path.rpartition(".")
    arguments = dict(vars(spec.init_args)) if spec.get("init_args") else {}
    try:
        getattr(importlib.import_module(module), name)([torch.nn.Parameter(torch.zeros(1))], **arguments)
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{key}: {value}" for key, value in arguments.items() if str(value) in str(error))
        raise SettingsError(f"model.optimizer is {name} with {given or arguments}; {error}") from error


def check_writable(logger: Any) -> None:
    """Refuse a folder for runs that cannot be made or written."""
    options = getattr(logger, "init_args", None)
    folder = options.get("save_dir") if options else None
    if not folder or "://" in str(folder):
        return
    path = Path(folder).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        what = "may not be written to" if there.is_dir() else "is no folder"
        raise SettingsError(
            f"trainer.logger.init_args.save_dir is {str(folder)!r} and {there} {what}; wanted a folder to write runs to"
        )

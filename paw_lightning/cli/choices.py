"""The classes that may be given by their short name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

CHOICES = {
    "rollout.environment": ("paw_lightning.envs", "paw_lightning.envs.adapters"),
    "rollout.advantage": ("paw_lightning.policy.advantages",),
    "trainer.logger": ("lightning.pytorch.loggers",),
}
"""Key -> packages whose classes it takes."""


def choices(key: str) -> dict[str, str]:
    """Short name -> the first line of its docstring, for every class that the key takes.

    Adapters import their packages when the environment is built, so that all of them can be listed.
    """
    found: dict[str, str] = {}
    for name in CHOICES[key]:
        package = importlib.import_module(name)
        modules = [package]
        if not hasattr(package, "__all__"):
            modules = [
                importlib.import_module(f"{name}.{info.name}") for info in pkgutil.iter_modules(package.__path__)
            ]
        for module in modules:
            for label in getattr(module, "__all__", vars(module)):
                member = getattr(module, label)
                own = inspect.isclass(member) and member.__module__.startswith(name)
                if own and not inspect.isabstract(member):
                    found[label] = (inspect.getdoc(member) or "").partition("\n")[0]
    return found


def listing(key: str) -> str:
    """The choices, one a line."""
    rows = choices(key)
    width = max(map(len, rows))
    head = f"{key} takes one of these, or package.module.Class of your own; --{key}.help NAME explains its arguments."
    return "\n".join([head, "", *(f"  {name:{width}}  {text}" for name, text in rows.items())])

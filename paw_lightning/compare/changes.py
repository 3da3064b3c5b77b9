"""What has changed between two versions of a comparison."""

from __future__ import annotations

import re
from typing import Any

SHOWN = 8


def differences(old: dict[str, Any], new: dict[str, Any], whole: bool = True) -> list[str]:
    """What has changed between two resolved comparisons, a line for each key; added arms and seeds are no change.

    Dropped ones are, unless the old one need not be in the new one as a `whole`.
    """
    kept = {
        "arms": {name: arm for name, arm in new["arms"].items() if name in old["arms"]},
        "seeds": [seed for seed in old["seeds"] if seed in new["seeds"]],
    }
    if not whole:
        old = {**old, "arms": {name: old["arms"][name] for name in kept["arms"]}, "seeds": kept["seeds"]}
    then, now = _flat(old), _flat({**new, **kept})
    values = {key: (then.get(key, "absent"), now.get(key, "absent")) for key in {**then, **now}}
    return [f"{key}: {before} there, {after} now" for key, (before, after) in values.items() if before != after]


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """{dotted key: leaf as text}; an empty mapping or list is a leaf."""
    if not isinstance(tree, dict | list) or not tree:
        return {prefix: repr(tree)}
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    leaves: dict[str, str] = {}
    for key, value in items:
        leaves |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def of_training(change: str) -> bool:
    """Whether a change is one of how runs are trained, and not of what is compared."""
    return bool(re.match(r"common\b|arms\.[^.]+\.(configs|arguments)\b", change))


def listed(changes: list[str]) -> str:
    """The first changes, and how many there are besides."""
    more = [f"and {len(changes) - SHOWN} more"] if len(changes) > SHOWN else []
    return "; ".join([*changes[:SHOWN], *more])

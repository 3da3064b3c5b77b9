"""How many tokens a model reads in one way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def context_window(config: Any) -> tuple[int | None, str]:
    """The most tokens of a row, and what bounds them in words; None where nothing does.

    Models whose rotary factors change where a row passes a length (`longrope`, `dynamic`) would read the same tokens
    otherwise in a longer row than in a shorter one, and from a cache otherwise than anew: that length bounds them.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    changes = [length for length in _rotary_changes(text) if length is not None]
    if changes and (positions is None or min(changes) < positions):
        return min(changes), f"the {min(changes)} positions up to which the model's rotary factors stay the same"
    return positions, f"the model's {positions} positions"


def _rotary_changes(text: Any) -> Iterator[int | None]:
    """Lengths at which rotary factors change; one set of factors for all layers, or one for each kind of layer."""
    parameters = getattr(text, "rope_parameters", None) or {}
    for factors in [parameters] if "rope_type" in parameters else parameters.values():
        if isinstance(factors, dict) and factors.get("rope_type") in ("longrope", "dynamic"):
            yield factors.get("original_max_position_embeddings")

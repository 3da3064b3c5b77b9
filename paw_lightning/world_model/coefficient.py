"""How much the world model counts in each group (eq. 10), and what is configured in its place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import Tensor

from paw_lightning.errors import SettingsError
from paw_lightning.types import Rollout
from paw_lightning.world_model.loss import Kind, WorldModelLoss

RETURN_TOLERANCE = 1e-4
"""How far, as a fraction of R_max, a return may exceed it: returns are sums, and sums are rounded."""
MAX_RETURN_FIX = "set reward_balance.max_return to the largest return an episode can reach"


def linear_coefficient(iteration: int, start: float, final: float, iterations: int) -> float:
    """start + (final - start) min(iteration / iterations, 1): a function of the iteration alone."""
    return start + (final - start) * min(iteration / iterations, 1.0)


def reward_adaptive_coefficient(returns: Sequence[float], max_return: float | None, source: str) -> float:
    """lambda_g = clamp(1 - mean(returns) / R_max, 0, 1) (eq. 10).

    choice: the paper does not clamp, nor say that the returns are the environment's, before penalties.

    Args:
        returns: R(tau) of the group's episodes.
        max_return: R_max, the largest attainable return, in the same unit.
        source: name of the environment, for the error.

    Raises:
        ValueError: R_max is missing, not positive or exceeded; a return is not finite.
    """
    max_return = checked_max_return(max_return, source)
    if not returns:
        raise ValueError(f"a group of {source} has no episode, so no mean return")
    if not all(map(math.isfinite, returns)):
        raise ValueError(f"{source} gave the returns {list(returns)}; wanted finite numbers")
    if max(returns) > max_return * (1 + RETURN_TOLERANCE):
        raise SettingsError(
            f"{source} gave a return of {max(returns)}, above its largest, {max_return}; {MAX_RETURN_FIX}"
        )
    return min(max(1 - math.fsum(returns) / len(returns) / max_return, 0.0), 1.0)


def checked_max_return(max_return: float | None, source: str) -> float:
    """R_max as eq. 10 can divide by it; ValueError where it is missing or not a positive number."""
    if max_return is None:
        raise SettingsError(f"{source} does not state its largest return; {MAX_RETURN_FIX}")
    if not (math.isfinite(max_return) and max_return > 0):
        raise SettingsError(
            f"the largest return of {source} is {max_return}; wanted a positive number: {MAX_RETURN_FIX}"
        )
    return max_return


Measure = Callable[[Rollout], tuple[Tensor, Tensor]]
"""Reads an update's targets as they will be trained on: their log-probs [M], nats, and their groups' lambda [M]."""


def matching_scale(loss: WorldModelLoss, kind: Kind, logprobs: Tensor, coefficients: Tensor) -> float:
    """The factor that gives `loss` the effective weight of another kind on the same tokens.

    c = sum_i lambda_i w_kind(p_i) / sum_i lambda_i w(p_i), so that the mean of lambda w(p) over the tokens, what
    ``wm/effective_weight`` shows, becomes that of `kind`, and what remains between two runs is the shape of w.
    choice: every token counts alike here, whatever the length of its observation.

    Args:
        logprobs: float [M] of the targets, nats.
        coefficients: float [M], lambda of each target's group.

    Returns:
        1 where `loss` itself has no weight on any token: there is nothing to scale.
    """
    own = (coefficients.double() * loss.token_weights(logprobs.double())).sum().item()
    wanted = (coefficients.double() * replace(loss, kind=kind).token_weights(logprobs.double())).sum().item()
    return wanted / own if own else 1.0

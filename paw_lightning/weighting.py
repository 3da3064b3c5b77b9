"""PaW's two selectors: which transitions teach the world model, and how much each of their tokens weighs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

RETURN_TOLERANCE = 1e-4
"""Relative; a return is a sum of rewards, so rounding can lift it above its bound."""
MAX_RETURN_FIX = "set reward_balance.max_return to the largest return an episode can reach"


def action_entropy(
    token_entropies: Sequence[float], logprobs: Sequence[float], form: Literal["full", "sampled"] = "full"
) -> float:
    """H(a | h): the mean over an action's tokens of their entropy, nats (eq. 4).

    The printed formula and its text disagree, so both are offered (choice: `full`):
    `full` is the mean of H(pi(. | h, a_<i)) over the vocabulary; `sampled` is the mean of -q_i log q_i with
    q_i the probability of the token that was sampled, and is never above 1/e.

    Args:
        token_entropies: entropy of the distribution at each action token, nats; read by `full`.
        logprobs: log q_i of each action token, nats; read by `sampled`.

    Returns:
        0 for an action without tokens.
    """
    if form == "full":
        terms = list(token_entropies)
    elif form == "sampled":
        terms = [-math.exp(logprob) * logprob for logprob in logprobs]
    else:
        raise ValueError(f"entropy_selection.entropy is {form!r}; wanted 'full' or 'sampled'")
    return math.fsum(terms) / len(terms) if terms else 0.0


def select_top_entropy(entropies: Sequence[float] | Tensor, alpha: float) -> Tensor:
    """S_alpha: the ceil(alpha N) transitions of highest action entropy, as bool [N] (eq. 4).

    choice: the paper does not say how ties fall; the earlier transition wins.

    Args:
        entropies: H(a | h) of the whole update pool, nats.
        alpha: share to keep, in [0, 1].

    Raises:
        ValueError: alpha outside [0, 1], or an entropy that is not finite.
    """
    return _keep_highest(_finite(entropies), _kept(alpha, len(entropies)))


def select_lowest_probability(logprobs: Sequence[float] | Tensor, alpha: float) -> Tensor:
    """The ceil(alpha N) transitions whose sampled action has the lowest mean log-prob, as bool [N]."""
    return _keep_highest(-_finite(logprobs), _kept(alpha, len(logprobs)))


def select_random(count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """ceil(alpha N) of N = `count` transitions drawn without replacement, as bool [N]: a control for eq. 4."""
    return _keep_highest(torch.rand(count, generator=generator), _kept(alpha, count))


def first_occurrences(keys: Sequence[Hashable]) -> Tensor:
    """The transitions that repeat no earlier one, as bool [N]; equal keys are what makes two the same."""
    first: dict[Hashable, int] = {}
    return torch.tensor([first.setdefault(key, i) == i for i, key in enumerate(keys)], dtype=torch.bool)


def shuffled_places(keys: Sequence[Hashable], generator: torch.Generator) -> list[int]:
    """A random permutation that gives as few places as possible an item equal to their own.

    A plain shuffle leaves about one item in place, and with repeated items many more; here a place keeps an equal one
    only where a single item fills more than half of all places (then 2 m - N do, with m copies among N).

    Args:
        keys: what makes two items equal.

    Returns:
        For each place the index of the item it gets.
    """
    order = torch.randperm(len(keys), generator=generator).tolist()
    partners = torch.randperm(len(keys), generator=generator).tolist()
    for i, key in enumerate(keys):
        if keys[order[i]] != key:
            continue
        j = next((j for j in partners if keys[j] != key and keys[order[j]] != key), None)
        if j is None:
            break  # every place has or gets this item: no other item is misplaced, and no swap helps
        order[i], order[j] = order[j], order[i]
    return order


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
        raise ValueError(f"{source} gave a return of {max(returns)}, above its largest, {max_return}; {MAX_RETURN_FIX}")
    return min(max(1 - math.fsum(returns) / len(returns) / max_return, 0.0), 1.0)


def checked_max_return(max_return: float | None, source: str) -> float:
    """R_max as eq. 10 can divide by it; ValueError where it is missing or not a positive number."""
    if max_return is None:
        raise ValueError(f"{source} does not state its largest return; {MAX_RETURN_FIX}")
    if not (math.isfinite(max_return) and max_return > 0):
        raise ValueError(f"the largest return of {source} is {max_return}; wanted a positive number: {MAX_RETURN_FIX}")
    return max_return


def wm_token_weights(
    groups: Sequence[int],
    selected: Sequence[bool],
    observation_lengths: Sequence[int],
    coefficients: Sequence[float],
) -> list[float]:
    """Weight of each observation token of each transition: lambda_g / (G |S_g| |o|) (eqs. 9 and 11).

    G counts every group, also those without a selected transition. A selected transition without observation
    tokens has no loss to average and is not in S_g (choice: the paper does not say).

    Args:
        groups: index g of each transition's group.
        selected: whether each transition is in S_alpha.
        observation_lengths: |o| of each transition, target tokens.
        coefficients: lambda_g of all G groups.

    Returns:
        One weight per transition; 0 where there is nothing to learn. Times |o| they sum to the mean of lambda_g
        over all groups, those with an empty S_g counted as 0.
    """
    taught = [bool(chosen) and length > 0 for chosen, length in zip(selected, observation_lengths, strict=True)]
    sizes = Counter(group for group, learns in zip(groups, taught, strict=True) if learns)
    return [
        coefficients[group] / (len(coefficients) * sizes[group] * length) if learns else 0.0
        for group, learns, length in zip(groups, taught, observation_lengths, strict=True)
    ]


def check_alpha(alpha: float) -> None:
    """Raise ValueError for a share outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"entropy_selection.alpha is {alpha}; wanted a share in [0, 1]")


def _kept(alpha: float, count: int) -> int:
    check_alpha(alpha)
    return math.ceil(Fraction(str(alpha)) * count)  # the decimal as written: 0.7 * 10 is 7.000000000000001 in binary


def _finite(scores: Sequence[float] | Tensor) -> Tensor:
    scores = torch.as_tensor(scores, dtype=torch.float64)
    if not scores.isfinite().all():
        first = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"entropy_selection: transition {first} scores {scores[first].item()}; wanted a finite number. "
            "The policy's logits are broken: look at the learning rate and the precision"
        )
    return scores


def _keep_highest(scores: Tensor, count: int) -> Tensor:
    order = scores.argsort(descending=True, stable=True)
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[order[:count]] = True
    return mask

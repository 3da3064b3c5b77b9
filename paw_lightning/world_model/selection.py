"""Which transitions teach the world model: the share of highest action entropy (eq. 4), and what it is compared with.

A selection rule is a score for each transition; the ceil(alpha N) highest are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from typing import Any, Literal

import torch
from torch import Tensor

from paw_lightning.errors import SettingsError
from paw_lightning.types import Transition

Rule = Callable[[Sequence[Transition], torch.Generator], Any]
"""Scores N transitions with a number each, the highest being kept; the generator is the only randomness."""


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
        raise SettingsError(f"entropy_selection.entropy is {form!r}; wanted 'full' or 'sampled'")
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
    scores = _finite(entropies)
    order = scores.argsort(descending=True, stable=True)
    mask = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    mask[order[: _kept(alpha, len(scores))]] = True
    return mask


def by_entropy(transitions: Sequence[Transition], generator: torch.Generator) -> list[float]:
    """The rule of eq. 4: H(a | h), nats."""
    return [t.action_entropy for t in transitions]


def by_surprise(transitions: Sequence[Transition], generator: torch.Generator) -> list[float]:
    """The rule `lowest_probability`: minus the mean log-prob of the sampled action, nats."""
    return [-_mean(t.sampled_logprobs) for t in transitions]


def by_chance(transitions: Sequence[Transition], generator: torch.Generator) -> Tensor:
    """The rule `random`: a number drawn for each transition."""
    return torch.rand(len(transitions), generator=generator)


RULES: dict[str, Rule] = {"entropy": by_entropy, "lowest_probability": by_surprise, "random": by_chance}


def select(rule: Rule, transitions: Sequence[Transition], alpha: float, generator: torch.Generator) -> list[bool]:
    """S_alpha: which of N transitions are among the ceil(alpha N) that the rule scores highest.

    choice: the paper does not say how ties fall; the earlier transition wins.

    Raises:
        ValueError: alpha outside [0, 1], or a score that is not finite, see :func:`select_top_entropy`.
    """
    return select_top_entropy(rule(transitions, generator), alpha).tolist()


def first_occurrences(keys: Sequence[Hashable]) -> Tensor:
    """The transitions that repeat no earlier one, as bool [N]; equal keys are what makes two the same."""
    first: dict[Hashable, int] = {}
    return torch.tensor([first.setdefault(key, i) == i for i, key in enumerate(keys)], dtype=torch.bool)


def check_alpha(alpha: float) -> None:
    """Raise SettingsError for a share outside [0, 1]."""
    if not 0 <= alpha <= 1:
        raise SettingsError(f"entropy_selection.alpha is {alpha}; wanted a share in [0, 1]")


def _kept(alpha: float, count: int) -> int:
    check_alpha(alpha)
    return math.ceil(Fraction(str(alpha)) * count)  # the decimal as written: 0.7 * 10 is 7.000000000000001 in binary


def _finite(scores: Sequence[float] | Tensor) -> Tensor:
    scores = torch.as_tensor(scores, dtype=torch.float64)
    if not scores.isfinite().all():
        first = int((~scores.isfinite()).nonzero()[0])
        raise ValueError(
            f"entropy_selection.rule gives transition {first} the score {scores[first].item()}; wanted a finite number "
            "(entropies and log-probs that are not come of broken weights: model.optimizer, trainer.precision)"
        )
    return scores


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0

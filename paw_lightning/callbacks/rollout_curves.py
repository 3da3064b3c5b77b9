"""What EnvironmentLoop logs of a rollout or an evaluation."""

from __future__ import annotations

import math
import statistics

from paw_lightning.rollouts.dynamic_sampling import without_variance
from paw_lightning.types import Episode, Rollout, RolloutGroup


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The curves every run shows, of all that was played, trained on or not.

    Outcomes, lengths, validity, groups that teach the policy nothing, seconds, and what others have put into the
    rollout's metrics.
    """
    groups = rollout.played
    episodes = [episode for group in groups for episode in group.episodes]
    transitions = [t for group in groups for t in group.transitions]
    phases = {name: value for name, value in rollout.seconds.items() if name not in ("total", "update")}
    return {
        **outcome_metrics("rollout", episodes),
        **_parts("rollout", groups),
        "rollout/valid_action_rate": _mean(t.admissible for t in transitions),
        "rollout/well_formed_rate": _mean(t.well_formed for t in transitions),
        "rollout/truncated_action_rate": _mean(t.truncated for t in transitions),
        "rollout/history_truncations": float(sum(t.dropped_turns > 0 for t in transitions)),
        "rollout/context_overflows": float(sum(e.overflowed for e in episodes)),
        "rollout/all_fail_groups": _mean(not any(e.won for e in g.episodes) for g in groups),
        "rollout/all_success_groups": _mean(all(e.won for e in g.episodes) for g in groups),
        "rollout/zero_variance_groups": _mean(map(without_variance, groups)),
        "rollout/dropped_groups": float(rollout.dropped_groups),
        **rollout.metrics,
        "time/rollout_s": rollout.seconds.get("total", 0.0),
        **{f"time/rollout_{name}_s": value for name, value in phases.items()},
        "time/update_s": rollout.seconds.get("update", 0.0),
    }


def evaluation_metrics(split: str, groups: list[RolloutGroup], lost: int) -> dict[str, float]:
    """How an evaluation went: rates over the tasks that could be played, and how many could not.

    The success rate is nan where all were lost. Its standard error, over n tasks whose own rates have variance v, is
    sqrt(v / n): with one episode of each, sqrt(p (1 - p) / n).
    """
    episodes = [episode for group in groups for episode in group.episodes]
    outcomes = outcome_metrics(split, episodes) if episodes else {}
    if episodes:
        rates = [_mean(e.won for e in group.episodes) for group in groups]
        outcomes[f"{split}/success_rate_stderr"] = math.sqrt(statistics.pvariance(rates) / len(groups))
    elif lost:
        outcomes[f"{split}/success_rate"] = math.nan
    return {**outcomes, **_parts(split, groups), f"{split}/dropped_tasks": float(lost)}


def _parts(prefix: str, groups: list[RolloutGroup]) -> dict[str, float]:
    """The outcomes of each environment of a mixture."""
    metrics: dict[str, float] = {}
    for name in sorted({g.environment for g in groups} - {""}):
        episodes = [e for g in groups if g.environment == name for e in g.episodes]
        metrics.update(outcome_metrics(f"{prefix}/{name}", episodes))
    return metrics


def outcome_metrics(prefix: str, episodes: list[Episode]) -> dict[str, float]:
    """How episodes went, under names that begin with `prefix`."""
    return {
        f"{prefix}/return": _mean(e.episode_return for e in episodes),
        f"{prefix}/success_rate": _mean(e.won for e in episodes),
        f"{prefix}/episode_length": _mean(len(e.transitions) for e in episodes),
    }


def _mean(values: object) -> float:
    numbers = [float(v) for v in values]  # type: ignore[attr-defined]
    return sum(numbers) / len(numbers) if numbers else 0.0

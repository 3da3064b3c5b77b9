"""What EnvironmentLoop logs of a rollout or an evaluation."""

from __future__ import annotations

from paw_lightning.types import Episode, Rollout


def rollout_metrics(rollout: Rollout) -> dict[str, float]:
    """The curves every run shows: outcomes, lengths, validity, and groups that teach the policy nothing."""
    episodes, transitions, groups = rollout.episodes, rollout.transitions, rollout.groups
    won = [all(e.won for e in g.episodes) for g in groups]
    lost = [not any(e.won for e in g.episodes) for g in groups]
    parts: dict[str, float] = {}
    for name in sorted({g.environment for g in groups} - {""}):
        parts.update(
            outcome_metrics(f"rollout/{name}", [e for g in groups if g.environment == name for e in g.episodes])
        )
    return {
        **outcome_metrics("rollout", episodes),
        **parts,
        "rollout/valid_action_rate": _mean(t.admissible for t in transitions),
        "rollout/well_formed_rate": _mean(t.well_formed for t in transitions),
        "rollout/truncated_action_rate": _mean(t.truncated for t in transitions),
        "rollout/history_truncations": float(sum(t.dropped_turns > 0 for t in transitions)),
        "rollout/context_overflows": float(sum(e.overflowed for e in episodes)),
        "rollout/all_fail_groups": _mean(lost),
        "rollout/all_success_groups": _mean(won),
        "rollout/dropped_groups": float(rollout.dropped_groups),
    }


def outcome_metrics(prefix: str, episodes: list[Episode]) -> dict[str, float]:
    """How episodes went, under names that begin with `prefix`."""
    return {
        f"{prefix}/return": _mean(e.episode_return for e in episodes),
        f"{prefix}/success_rate": _mean(e.won for e in episodes),
        f"{prefix}/episode_length": _mean(len(e.transitions) for e in episodes),
    }


def sampler_gap(rollout: Rollout) -> float:
    """Mean |log p - log q| over action tokens: how far the sampler's arithmetic is from the trainer's, in nats."""
    gaps = [
        abs(p - q)
        for t in rollout.transitions
        if t.old_logprobs is not None
        for p, q in zip(t.old_logprobs.tolist(), t.sampled_logprobs, strict=True)
    ]
    return _mean(gaps)


def _mean(values: object) -> float:
    numbers = [float(v) for v in values]  # type: ignore[attr-defined]
    return sum(numbers) / len(numbers) if numbers else 0.0

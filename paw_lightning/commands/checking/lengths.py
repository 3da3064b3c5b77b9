"""How long prompts, actions and observations are, against the limits that cut them."""

from __future__ import annotations

from collections.abc import Sequence

from paw_lightning.commands.checking.findings import Finding, failure, ok, warning
from paw_lightning.commands.checking.texts import contexts
from paw_lightning.commands.run_settings import RunSettings
from paw_lightning.commands.terminal import headline
from paw_lightning.types import Episode, Transition

QUANTILES = (0.5, 0.9, 1.0)


def quantile(values: Sequence[int], q: float) -> int:
    """The smallest value that at least the share q of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-q * len(ordered) // 1) - 1)]


def show_lengths(settings: RunSettings, scripted: list[Episode], sampled: list[Transition]) -> list[Finding]:
    """Print the table and judge it; prompts and observations are of scripted episodes, actions of the policy."""
    rollout, encode = settings.rollout, settings.prompts.chat.encode_text
    transitions = [t for episode in scripted for t in episode.transitions]
    prompts = [len(ids) for episode in scripted for ids in contexts(episode)]
    observations = [len(encode(t.observation_text)) for t in transitions if t.observation_text.strip()]
    commands = [len(t.action_ids) for t in transitions]
    actions = [len(t.action_ids) for t in sampled]
    headline(f"tokens: {len(scripted)} episodes of random actions, {len(sampled)} actions of the policy")
    print(f"  {'':24}{'median':>8}{'90 %':>8}{'most':>8}   limit (rollout.)")
    rows = [
        ("prompt", prompts, f"{rollout.prompt.max_tokens} prompt.max_tokens"),
        ("observation", observations, f"{rollout.max_observation_tokens} max_observation_tokens"),
        ("action, as scripted", commands, f"{rollout.max_action_tokens} max_action_tokens"),
        ("action of the policy", actions, f"{rollout.max_action_tokens} max_action_tokens"),
    ]
    for name, values, limit in rows:
        if values:
            print(f"  {name:24}" + "".join(f"{quantile(values, q):8}" for q in QUANTILES) + f"   {limit}")
    turns = [len(episode.transitions) for episode in scripted]
    print(f"  {'turns of an episode':24}" + "".join(f"{quantile(turns, q):8}" for q in QUANTILES), end="")
    print(f"   {rollout.max_steps} max_steps")
    return [
        _judge_prompts(scripted, prompts, rollout.prompt.max_tokens),
        _judge_observations(observations, rollout.max_observation_tokens),
        _judge_actions(commands, sampled, rollout.max_action_tokens),
    ]


def _judge_prompts(episodes: list[Episode], prompts: list[int], limit: int) -> Finding:
    cut = sum(episode.overflowed for episode in episodes)
    dropped = sum(t.dropped_turns > 0 for episode in episodes for t in episode.transitions)
    if cut:
        text = f"{cut} of {len(episodes)} episodes ended because their prompt grew beyond {limit} tokens"
        return warning("prompt", f"{text}; raise rollout.prompt.max_tokens, or show less history")
    if dropped:
        text = f"{dropped} of {len(prompts)} prompts lost history to stay within {limit} tokens"
        return warning("prompt", f"{text}; raise rollout.prompt.max_tokens, or lower rollout.prompt.history_length")
    return ok("prompt", f"at most {max(prompts)} of {limit} tokens")


def _judge_observations(observations: list[int], limit: int) -> Finding:
    long = sum(length > limit for length in observations)
    if long:
        share = f"{long} of {len(observations)} observations ({long / len(observations):.0%})"
        text = f"{share} have more than {limit} tokens and are never predicted; raise rollout.max_observation_tokens"
        return warning("observation", text)
    return ok("observation", f"at most {max(observations, default=0)} of {limit} tokens")


def _judge_actions(commands: list[int], sampled: list[Transition], limit: int) -> Finding:
    if max(commands) > limit:
        text = f"an admissible action has {max(commands)} tokens, and {limit} are allowed"
        return failure("action", f"{text}; raise rollout.max_action_tokens")
    well, right = (sum(getattr(t, name) for t in sampled) for name in ("well_formed", "admissible"))
    said = f"of {len(sampled)} actions of the policy {well} are well formed and {right} admissible"
    if sampled and not well:
        text = f"{said}; look at the prompt above: does it say how to answer (rollout.prompt)?"
        return warning("action", text)
    return ok("action", said)

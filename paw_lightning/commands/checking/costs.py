"""Time, measured on a short rollout and one micro-batch here, and memory, computed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from paw_lightning.commands.checking.findings import Finding, ok, warning
from paw_lightning.commands.checking.texts import selected_rows
from paw_lightning.commands.run_settings import RunSettings, make_collector, native_sampler
from paw_lightning.commands.terminal import headline, say
from paw_lightning.models.policy_world_model import PolicyWorldModel
from paw_lightning.rollouts.collector import PlayedGroups
from paw_lightning.types import Episode
from paw_lightning.update.collate import rectangle
from paw_lightning.update.rows import Row

EPISODES = 4
TURNS = 4
ACTION_TOKENS = 64
"""Bounds of the short rollout, so that a large model's check ends."""


@dataclass(frozen=True)
class Measured:
    """What one short rollout and one micro-batch took."""

    played: PlayedGroups
    rollout: float
    """Seconds for each turn of an episode, as a part of `EPISODES` side by side."""
    update: float
    """Seconds of forward and backward for each token of a row."""


def measure(settings: RunSettings, model: PreTrainedModel) -> Measured:
    """Play a few turns with the policy, then run one micro-batch of their rows forwards and backwards.

    Both are done twice and the faster counts: the first also warms up.
    """
    rollout = settings.rollout
    sampler = native_sampler(settings, model)
    collector = make_collector(
        settings,
        sampler,
        sorted(sampler.stop_token_ids),
        lambda: rollout.environment("train"),
        max_steps=min(rollout.max_steps, TURNS),
        max_action_tokens=min(rollout.max_action_tokens, ACTION_TOKENS),
    )
    with torch.no_grad(), settings.arithmetic():
        runs = [collector.play(range(EPISODES), 1, temperature=rollout.temperature, seed=("check",)) for _ in range(2)]
    collector.close()
    played = min(runs, key=lambda run: sum(run.seconds.values()))
    if not played.groups:
        return Measured(played, 0.0, 0.0)
    return Measured(
        played, seconds_per_turn(played, rollout.max_action_tokens), seconds_per_token(settings, model, played)
    )


def seconds_per_turn(played: PlayedGroups, max_action_tokens: int) -> float:
    """Seconds per turn of one episode; actions that the short rollout cut off count as the longest allowed."""
    transitions = [t for group in played.groups for t in group.transitions]
    cut_short = any(t.truncated for t in transitions) and max_action_tokens > ACTION_TOKENS
    longer = max_action_tokens * len(transitions) / sum(len(t.action_ids) for t in transitions) if cut_short else 1.0
    generation = played.seconds["generation"]
    return (generation * longer + sum(played.seconds.values()) - generation) / len(transitions)


def seconds_per_token(settings: RunSettings, model: PreTrainedModel, played: PlayedGroups) -> float:
    """Seconds per token of forward and backward, over the last row of each episode."""
    rows: list[Row] = [selected_rows(group)[-1] for group in played.groups]
    heads = PolicyWorldModel(model, settings.module.separate_head).to(settings.device).train()
    batch = [tensor.to(settings.device) for tensor in rectangle(rows)]
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        with settings.arithmetic():
            out = heads(*batch, settings.rollout.temperature)
        (-out.action_logprobs.mean() - out.target_logprobs.sum()).backward()
        heads.zero_grad(set_to_none=True)
        if settings.device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds) / batch[0].numel()


def show_time(settings: RunSettings, measured: Measured, scripted: list[Episode], row_tokens: int) -> Finding:
    """Print what an iteration would take on this machine; `row_tokens` are those of the scripted episodes' rows."""
    if not measured.rollout:
        return warning("time", "not measured: no episode could be played")
    episodes = settings.data.tasks.groups * settings.data.tasks.group_size
    rollout = episodes * settings.rollout.max_steps * measured.rollout
    update = episodes * row_tokens / len(scripted) * measured.update
    turns = f"{episodes} episodes of at most {settings.rollout.max_steps} turns"
    headline(f"time of one iteration here ({settings.device.type}): {turns}")
    say(f"rollout {_seconds(rollout)} ({measured.rollout * 1e3:.1f} ms a turn, {EPISODES} episodes side by side)", "  ")
    say(f"update  {_seconds(update)} ({measured.update * 1e6:.0f} us a token, forward and backward)", "  ")
    say(
        f"Stretched from a rollout of {TURNS} turns and one micro-batch: episodes that end sooner take less, larger "
        "batches less on an accelerator; scoring, validation and the optimizer come on top.",
        "  ",
    )
    waiting, cores = os.getloadavg()[0], os.cpu_count() or 1
    if waiting > 1.5 * cores:
        say(f"This machine was busy: {waiting:.0f} tasks for {cores} cores. Measure again when it is not.", "  ")
    return ok("time", f"about {_seconds(rollout + update)} for an iteration on this machine, if no episode ends early")


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"

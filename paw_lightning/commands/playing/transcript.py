"""Finished episodes as a person reads them."""

from __future__ import annotations

import math
from typing import Any

from paw_lightning.commands.terminal import WIDTH, headline, painted, say, wrapped
from paw_lightning.types import Episode, RolloutGroup, Transition


def contexts(episode: Episode) -> list[list[int]]:
    """The token ids of each decision context, whole, as the policy read them.

    A transition without a prompt of its own carries on the sequence of the one before (episode layout).
    """
    read: list[list[int]] = []
    after: list[int] = []
    for t in episode.transitions:
        read.append(list(t.prompt_ids) if t.begins_row else [*after, *t.turn_ids])
        after = [*read[-1], *t.action_ids, *t.bridge_ids, *t.observation_ids]
    return read


def visible(tokenizer: Any, ids: list[int]) -> str:
    """The text of token ids with every control token in sight, as the model sees it."""
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def print_episode(
    number: int, group: RolloutGroup, episode: Episode, split: str, tokenizer: Any, *, prompts: bool
) -> None:
    """Print one episode; with `prompts`, before each action what is new in its decision context."""
    most = "" if group.max_return is None else f" of {group.max_return:g}"
    won = "won" if episode.won else "lost" if episode.finished else "cut off"
    turns = len(episode.transitions)
    headline(
        f"episode {number}: {split} task {episode.task_seed}: {won}, return {episode.episode_return:g}{most}, "
        f"{turns} turn{'s' * (turns != 1)}"
    )
    say(f"Task: {episode.task or '(the environment states none)'}")
    known: list[int] = []
    for i, (t, context) in enumerate(zip(episode.transitions, contexts(episode), strict=True), start=1):
        if i == 1:
            say(t.anchor, "    ")
        if prompts:
            new = context[len(known) :] if known and context[: len(known)] == known else context
            kind = "carried on with" if len(new) < len(context) else "prompt of"
            say(f"[{kind} {len(new)} tokens, {len(context)} in all]", "    ", colour="magenta")
            say(visible(tokenizer, new), "    | ", "    | ", colour="magenta")
            known = [*context, *t.action_ids]
        _print_turn(i, t)


def _print_turn(number: int, t: Transition) -> None:
    """An action with what there is to say of it at the right, and the answer below."""
    marks = [f"H {sum(t.sampled_entropies) / len(t.sampled_entropies):.2f}"] if t.sampled_entropies else []
    marks += [] if t.admissible else ["not admissible"]
    marks += [] if t.well_formed else ["malformed"]
    marks += ["cut off"] if t.truncated else []
    marks += [f"reward {t.reward:g}"] if t.reward else []
    lines = wrapped(t.action_text, f"[{number}] > ")
    label = ", ".join(marks)
    fits = len(lines[-1]) + len(label) + 2 <= WIDTH
    last = lines.pop() if fits else ""
    lines.append(last + label.rjust(WIDTH - len(last)))
    for line in lines:
        print(painted(line, "cyan"))
    if t.observation_text.strip():
        say(t.observation_text, "    ")


def success_line(episodes: list[Episode], lost: int) -> str:
    """The success rate with its standard error, sqrt(p (1 - p) / n), and how many tasks are missing in it."""
    n = len(episodes)
    if not n:
        return f"success unknown: all {lost} tasks were lost to their environment"
    won = sum(episode.won for episode in episodes)
    rate = won / n
    missing = f"; {lost} more were lost to their environment" if lost else ""
    error = math.sqrt(rate * (1 - rate) / n)
    return f"success {won} of {n}: {rate:.1%} ± {error:.1%} (standard error){missing}"

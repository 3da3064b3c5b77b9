"""A prompt as the model reads it, and a training row with what each token is for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from paw_lightning.commands.playing.transcript import contexts, visible
from paw_lightning.commands.terminal import WIDTH, Colour, headline, painted, wrapped
from paw_lightning.types import Episode, Rollout, RolloutGroup
from paw_lightning.update.rows import Row, build_rows

COLOURS: dict[str, Colour] = {"context": "dim", "action": "green", "bridge": "magenta", "observation": "cyan"}
PURPOSE = {
    "context": "read",
    "action": "trains the policy",
    "bridge": "read",
    "observation": "trains the world model",
}


def show_prompts(episode: Episode, tokenizer: Any) -> None:
    """Print the first decision context, and a later one: the third or the last there is."""
    read = contexts(episode)
    for turn in sorted({0, min(2, len(read) - 1)}):
        headline(f"prompt of turn {turn + 1}, as the model reads it: {len(read[turn])} tokens")
        for line in wrapped(visible(tokenizer, read[turn]), "  | ", "  | "):
            print(line)


def show_row(group: RolloutGroup, tokenizer: Any, *, alpha: float) -> None:
    """Print the row of an episode's first two turns (step layout: of the second turn) with roles and token counts."""
    row = two_turn_rows(group, select=alpha > 0)[-1]
    counts = {role: sum(len(ids) for name, ids in parts(row) if name == role) for role in PURPOSE}
    headline(f"training row: {row.length} tokens")
    for role, purpose in PURPOSE.items():
        print("  " + painted(f"{role:12}{counts[role]:6} tokens, {purpose}", COLOURS[role]))
    if alpha > 0:
        print(f"  (every observation is a target here; entropy_selection.alpha is {alpha:g})")
    else:
        print("  (entropy_selection.alpha is 0: no observation is a target)")
    print("-" * WIDTH)
    for role, ids in parts(row):
        first = f"{role:12}{len(ids):6}  | "
        text = visible(tokenizer, ids).replace("\n", "⏎\n").removesuffix("\n")
        for line in wrapped(text, first, " " * (len(first) - 2) + "| "):
            print(painted(line, COLOURS[role]))


def two_turn_rows(group: RolloutGroup, *, select: bool) -> list[Row]:
    """The training rows of the first two turns of a group's first episode; with `select` all they saw is a target."""
    group = copy.deepcopy(group)
    episode = group.episodes[0]
    episode.transitions = episode.transitions[:2]
    group.episodes = [episode]
    return selected_rows(group, select=select)


def selected_rows(group: RolloutGroup, *, select: bool = True) -> list[Row]:
    """The training rows of a group; with `select` every observation that may be predicted is a target."""
    group.coefficient = 1.0
    for t in group.transitions:
        t.selected = select and bool(t.observation_ids)
    return build_rows(Rollout(0, [group]))


def parts(row: Row) -> Iterator[tuple[str, list[int]]]:
    """The row's segments that hold tokens, with their roles as a reader knows them."""
    after_action = False
    for segment in row.segments:
        role = {"target": "observation"}.get(segment.role, segment.role)
        if segment.role == "context" and after_action:
            role = "bridge"  # what the chat template puts between an action and the next observation
        after_action = segment.role == "action"
        if segment.ids:
            yield role, segment.ids

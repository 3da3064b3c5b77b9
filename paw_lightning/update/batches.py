"""How an update is cut: into optimizer steps, then into micro-batches, every token with its weight."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from paw_lightning import ranks
from paw_lightning.errors import SettingsError, one_of
from paw_lightning.seeding import generator
from paw_lightning.types import Episode, MicroBatch, Rollout, Terms
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Row, build_rows

Normalization = Literal["token_mean", "sequence_mean", "group_mean"]


@dataclass(frozen=True)
class UpdateCutter:
    """Cuts a rollout into the micro-batches that are trained on; the arguments are those of RolloutDataModule."""

    minibatches: int = 2
    normalization: Normalization = "token_mean"
    world_model_interval: int = 0
    world_model_horizon: int = 1
    world_model_discount: float = 1.0
    seed: int = 0
    left_out_teach: bool = False

    def __post_init__(self) -> None:
        one_of("data.normalization", self.normalization, get_args(Normalization))
        for name in ("minibatches", "world_model_horizon"):
            if getattr(self, name) < 1:
                raise SettingsError(f"data.{name} is {getattr(self, name)}; wanted at least 1")
        if self.world_model_interval < 0:
            raise SettingsError(f"data.world_model_interval is {self.world_model_interval}; wanted at least 0")
        if not 0 < self.world_model_discount <= 1:
            raise SettingsError(
                f"data.world_model_discount is {self.world_model_discount}; wanted above 0 and at most 1"
            )
        if self.world_model_horizon == 1 and self.world_model_discount != 1:
            raise SettingsError(
                f"data.world_model_discount is {self.world_model_discount} and data.world_model_horizon is 1, which "
                "leaves nothing to discount; wanted world_model_discount 1, or a longer horizon"
            )

    def micro_batches(self, rollout: Rollout, accumulate: int) -> Iterator[MicroBatch]:
        """The micro-batches of the first optimizer step, of the second, and so on: `accumulate` of them a step.

        All ranks hold the whole update, and each gets its own part of every step.
        """
        rank, size = ranks.world()
        for step, (terms, rows) in enumerate(self.steps(rollout)):
            # Neighbours are of like length, so ranks finish together.
            for micro_rows in split_evenly(rows, accumulate * size, lambda row: row.length)[rank::size]:
                batch = collate(
                    micro_rows,
                    on_policy=step == 0 and not rollout.off_policy,
                    temperature=rollout.temperature,
                    foreign_logprobs=rollout.foreign_logprobs,
                    demonstrated=rollout.demonstrated,
                    idle=rollout.idle,
                )
                yield restrict(batch, terms)

    def steps(self, rollout: Rollout) -> list[tuple[Terms, list[Row]]]:
        """What each optimizer step of an iteration trains, and on which rows."""
        if not self.world_model_interval:
            return [("joint", rows) for rows in self.minibatch_rows(rollout)]
        first, cycle = rollout.iteration * self.minibatches, self.world_model_interval + 1
        kinds: list[Terms] = [
            "world_model" if step % cycle == self.world_model_interval else "policy"
            for step in range(first, first + self.minibatches)
        ]
        rows = {
            "policy": iter(self.minibatch_rows(without_targets(rollout), kinds.count("policy"))),
            "world_model": iter(self.minibatch_rows(rollout, kinds.count("world_model"))),
        }
        return [(terms, next(rows[terms])) for terms in kinds]

    def minibatch_rows(self, rollout: Rollout, parts: int | None = None) -> list[list[Row]]:
        """Cut an update into `parts` (None: `minibatches`) random parts, one per optimizer step, and weigh every token.

        World-model weights carry the number of parts, so that the mean over the steps is eq. 11 of the whole update.
        With fewer rows than parts (groups were lost) the last parts get one placeholder row without any loss:
        PaWModule leaves the weights alone there.
        """
        # Rows of the whole update, target tokens weighed
        count = self.minibatches if parts is None else parts
        rows = build_rows(rollout, horizon=self.world_model_horizon, discount=self.world_model_discount, scale=count)
        if len(rows) < count:
            ranks.warn(
                f"iteration {rollout.iteration} has {len(rows)} rows for {count} optimizer steps: {count - len(rows)} "
                "of them learn nothing and leave the weights alone (data.minibatches, data.groups)"
            )
        # Dealt to the steps at random
        randomness = generator(self.seed, "rows", rollout.iteration)
        shuffled: list[Row] = []
        for acts in (True, False):  # apart, so that each step has its share of the actions
            kind = [row for row in rows if bool(row.having("action")) is acts]
            shuffled += [kind[i] for i in torch.randperm(len(kind), generator=randomness).tolist()]
        dealt = [shuffled[part::count] for part in range(count)]
        minibatches = [part or [rows[0].weightless()] for part in dealt]
        # Action tokens weighed over their step
        for minibatch in minibatches:
            actions = [(row.group, segment) for row in minibatch for segment in row.having("action")]
            weights = action_weights([(group, len(segment.ids)) for group, segment in actions], self.normalization)
            for (_, segment), weight in zip(actions, weights, strict=True):
                segment.weight = weight
        return minibatches


def action_weights(actions: list[tuple[int, int]], normalization: Normalization) -> list[float]:
    """Weight of each token of actions given as (group, number of tokens); over all tokens they sum to 1.

    `token_mean`: every token counts alike; `sequence_mean`: every action does; `group_mean`: every group does. An
    action without any token (some samplers give one) has none to weigh, and counts in no mean.
    """
    shares: list[int] = [0] * len(actions)  # token_mean: all actions share in one
    if normalization == "sequence_mean":
        shares = list(range(len(actions)))
    elif normalization == "group_mean":
        shares = [group for group, _ in actions]
    tokens = Counter[int]()
    for share, (_, length) in zip(shares, actions, strict=True):
        tokens[share] += length
    count = sum(map(bool, tokens.values()))
    return [1 / (count * tokens[share]) if tokens[share] else 0.0 for share in shares]


def without_targets(rollout: Rollout) -> Rollout:
    """The same rollout with nothing selected: its rows carry the policy loss alone and append no observation."""

    def unselected(episode: Episode) -> Episode:
        transitions = [dataclasses.replace(t, selected=False) for t in episode.transitions]
        return dataclasses.replace(episode, transitions=transitions)

    groups = [dataclasses.replace(g, episodes=list(map(unselected, g.episodes))) for g in rollout.groups]
    return dataclasses.replace(rollout, groups=groups, left_out_teach=False)


def restrict(batch: MicroBatch, terms: Terms) -> MicroBatch:
    """Name the losses that a micro-batch carries; for the world model alone, no token is an action token any more."""
    if terms != "world_model":
        return dataclasses.replace(batch, terms=terms)
    names = "advantages old_logprobs reference_logprobs action_index policy_weights old_values value_targets"
    vectors = {name: getattr(batch, name) for name in names.split()}
    empty: dict[str, Any] = {name: None if vector is None else vector[:0] for name, vector in vectors.items()}
    return dataclasses.replace(batch, terms=terms, action_mask=torch.zeros_like(batch.action_mask), **empty)


def split_evenly(rows: list[Row], parts: int, cost: Callable[[Row], int]) -> list[list[Row]]:
    """Cut rows into exactly `parts` lists of like cost, rows of like length together so that little is padded.

    With fewer rows than parts the rest are one token of context each, without anything to learn: the number of
    micro-batches must not vary, since Lightning mis-scales a short accumulation and ranks would wait for each other.

    Example: costs 1, 1, 2, 4 in two parts are [1, 1, 2] and [4].
    """
    # Enough rows for all parts
    ordered = sorted(rows, key=cost)
    while len(ordered) < parts:
        ordered.insert(0, ordered[-1].weightless())
    # A cut where a part has its share of the cost, or where each row left has to begin one
    total = sum(map(cost, ordered))
    pieces: list[list[Row]] = [[]]
    spent = 0
    for i, row in enumerate(ordered):
        left = len(ordered) - i
        missing = parts - len(pieces)
        if pieces[-1] and missing and (spent * parts >= total * len(pieces) or left == missing):
            pieces.append([])
        pieces[-1].append(row)
        spent += cost(row)
    return pieces

"""GraphGPO: credit by how near to success a turn leads, in the graph of all transitions of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages.base import KEY, GroupAdvantage, Level, check, penalties
from paw_lightning.policy.advantages.comparing import (
    Normalization,
    anchor_clusters,
    check_normalization,
    check_steps,
    outcome_advantages,
    standardize,
    standardize_within,
)
from paw_lightning.types import RolloutGroup

SUCCESS = -1
"""The node that stands for every success; the other nodes count from 0."""


@dataclass(frozen=True)
class GraphGPO(GroupAdvantage):
    """GRPO, plus how much nearer to success a turn leads than others from its state: A = A_episode + omega A_step.

    Cheng et al., arXiv 2605.26684, and its recipe for verl-agent. The turns of all episodes of the group are the edges
    of one graph. A state is what the environment calls it (`info["state_key"]`), else an observation, and a won
    episode's last turn leads to the one node of success. With d(s) the fewest turns from s to success along edges of
    the graph, the edge from s to s' is worth

        R = success_reward gamma^d(s')

    (eq. 4; the recipe leaves out the paper's constant factor gamma, and so does this), and A_step is R standardised
    over all turns that left s, as in :class:`GiGPO`. So a good step of a lost episode gains and a detour of a won one
    loses. A group without success, a turn that nobody else's is compared with, and a state whose turns all lead
    equally near, have A_step = 0. Where a text is no state (it reads alike with the thing in hand and without), the
    graph has ways to success that nobody can go.

    From where success is out of reach, d is the largest finite distance plus 1. Choices where the paper is silent, as
    the recipe has them: every turn costs 1; a turn that was made twice counts twice; std is unbiased, plus 1e-6, in
    which the differences vanish more than six or seven turns away from success unless gamma is larger. A choice of
    this package: penalties are no part of R.

    Example: a won episode went from "hall" to "kitchen" and there succeeded, a lost one from "hall" to "cellar". Then d
    is 1 in "kitchen", 2 in "hall" and 3 in "cellar"; the first turns are worth 1 and 0.01, A_step = +-0.7071.

    Args:
        level: of the episode part, as in GRPO.
        omega: weight of the step part; >= 0. The paper calls it beta^G.
        gamma: discount per turn of distance, in (0, 1). The paper calls it omega.
        success_reward: > 0; matters with `mean_norm`, where it should be the return of a success.
        normalization: both parts divide by std + 1e-6 (`mean_std_norm`), or neither does (`mean_norm`).
        similarity: in (0, 1]; the difflib ratio to a state's first observation from which on another is the same state.
            1 wants equal text, as names of states always have to be.
        invalid_action_penalty: as in GRPO.
        penalty_in_score: as in GRPO.
    """

    level: Level = "trajectory"
    omega: float = 1.0
    gamma: float = 0.1
    success_reward: float = 10.0
    normalization: Normalization = "mean_std_norm"
    similarity: float = 1.0
    invalid_action_penalty: float = 0.0
    penalty_in_score: bool = False

    def __post_init__(self) -> None:
        check(self.level, self.invalid_action_penalty)
        check_steps(self.omega, self.similarity)
        check_normalization(self.normalization)
        if not 0 < self.gamma < 1:
            raise SettingsError(f"{KEY}.gamma is {self.gamma}; wanted a discount between 0 and 1")
        if not self.success_reward > 0:
            raise SettingsError(f"{KEY}.success_reward is {self.success_reward}; wanted above 0")

    @property
    def compares_turns(self) -> bool:
        """Turns of one state are compared, also within one episode."""
        return self.omega > 0

    def __call__(self, group: RolloutGroup) -> list[float]:
        """One advantage per transition, in the order of `group.transitions`."""
        divide = self.normalization == "mean_std_norm"
        in_score, apart = penalties(group, self.invalid_action_penalty, self.penalty_in_score)
        outcome = outcome_advantages(group, self.level, in_score, lambda scores: standardize(scores, divide))
        edges = transition_graph(group, self.similarity)
        distances = success_distances(edges)
        unreachable = max(distances.values()) + 1
        worth = [self.success_reward * self.gamma ** distances.get(end, unreachable) for _, end in edges]
        leaving: defaultdict[int, list[int]] = defaultdict(list)
        for i, (start, _) in enumerate(edges):
            leaving[start].append(i)
        step = standardize_within(leaving.values(), worth, divide)
        return [a + self.omega * s - penalty for a, s, penalty in zip(outcome, step, apart, strict=True)]


def transition_graph(group: RolloutGroup, similarity: float = 1.0) -> list[tuple[int, int]]:
    """Every turn of a group as (node it was chosen in, node it led to), in the order of `group.transitions`.

    What follows an episode's last turn is SUCCESS where it was won, else the state that it ended in.
    """
    played = [episode for episode in group.episodes if episode.transitions]
    clusters = anchor_clusters([s for e in played for s in e.states], 1 if group.names_states else similarity)
    node_of = {i: node for node, members in enumerate(clusters) for i in members}
    edges: list[tuple[int, int]] = []
    place = 0
    for episode in played:
        nodes = [node_of[place + i] for i in range(len(episode.transitions) + 1)]
        place += len(nodes)
        if episode.won:
            nodes[-1] = SUCCESS
        edges += pairwise(nodes)
    return edges


def success_distances(edges: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Fewest edges from each node to SUCCESS, of those that reach it: breadth first, backwards."""
    before: defaultdict[int, set[int]] = defaultdict(set)
    for start, end in edges:
        before[end].add(start)
    distances, frontier = {SUCCESS: 0}, {SUCCESS}
    while frontier:
        distance = distances[next(iter(frontier))] + 1
        frontier = {start for end in frontier for start in before[end]} - distances.keys()
        distances |= dict.fromkeys(frontier, distance)
    return distances

"""The records that travel from an environment's text to an optimizer step, and who writes each field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass
class Transition:
    """One turn of one episode: a decision context, the action written in it, and what the environment answered."""

    # Written by the collector.
    prompt_ids: list[int]
    """Token ids of the decision context h_t; empty where it continues the row of the one before (`begins_row`)."""
    action_ids: list[int]
    """Token ids of a_t exactly as sampled, the end-of-turn token included when the policy wrote it."""
    sampled_logprobs: list[float]
    """log q(a_i | h, a_<i) of each action token under the distribution that was sampled from, in nats; of an expert's
    action the policy's, which scoring writes."""
    sampled_entropies: list[float]
    """Entropy of that distribution at each action token, in nats; empty for a sampler that does not know."""
    action_text: str
    """What was sent to the environment."""
    observation_text: str
    """The environment's answer o_{t+1}."""
    anchor: str
    """The observation the action was chosen in."""
    reward: float
    """The environment's reward r_t, before any penalty."""
    well_formed: bool
    """The policy's text could be parsed into an action."""
    admissible: bool
    """The environment reacted to the action, or lists it as admissible (or says neither)."""
    answer_text: str = ""
    """All that the policy wrote, the action within it."""
    truncated: bool = False
    """The action ran to the length limit without an end-of-turn token."""
    turn_ids: list[int] = field(default_factory=list)
    """What comes between o_t and a_t in a row that carries on from the transition before: context."""
    dropped_turns: int = 0
    """Past turns that the prompt would have shown and had no room for."""
    predictable: bool = True
    """The environment allows o_{t+1} as a world-model target."""
    nuisance_spans: list[tuple[int, int]] = field(default_factory=list)
    """Character spans of observation_text that nobody can predict, as the environment labels them."""
    counterfactual_ids: list[int] | None = None
    """Token ids of the answer to another action in the same state; None where nobody asked for one or none exists."""

    # Written by the layout.
    bridge_ids: list[int] = field(default_factory=list)
    """Turn-boundary tokens between a_t and o_{t+1}: context, never a target."""
    observation_ids: list[int] = field(default_factory=list)
    """Token ids of o_{t+1}: the world-model targets; empty when it is not to be predicted."""

    # Written by scoring.
    token_entropies: list[float] = field(default_factory=list)
    """Entropy of the policy at each action token, in nats: the sampler's, or computed where it gave none."""
    old_logprobs: Tensor | None = None
    """float [A]: log-probs of the behaviour policy that the ratio is taken against, in nats."""
    reference_logprobs: Tensor | None = None
    """float [A]: log-probs under the reference policy, in nats; None when no KL is asked for."""
    old_values: Tensor | None = None
    """float [A]: the critic's value before each action token, with the weights that played; None without a critic."""

    importance: Tensor | None = None
    """float [A]: truncated ratio of the trainer's to the sampler's probability; None where none is corrected for."""

    # Written by the advantage.
    advantage: float = 0.0
    """Advantage of every token of the action; their mean where each has its own."""
    token_advantages: Tensor | None = None
    """float [A]: an advantage for each action token (PPO); None where `advantage` holds for all."""
    value_targets: Tensor | None = None
    """float [A]: what the critic should have said, A + V before whitening; None without a critic."""

    # Written by EntropySelection.
    action_entropy: float = 0.0
    """H(a_t | h_t), in nats (eq. 4)."""
    selected: bool = False
    """The transition is in S_alpha: its observation is predicted."""

    # Written by TargetControl.
    target_mask: list[bool] | None = None
    """Which of observation_ids may be targets; None where no filter has said so, and all may."""
    counterfactual_mask: list[bool] | None = None
    """The same of counterfactual_ids."""
    control_ids: list[int] | None = None
    """Token ids that take the observation's place as targets; None where the true observation is predicted, and
    empty where the control has nothing to offer."""
    control_mask: list[bool] | None = None
    """Which of control_ids may be targets, as of target_mask."""
    target_sign: int = 1
    """1, or -1 where what it teaches counts against itself (the control `noise_sign`)."""

    @property
    def begins_row(self) -> bool:
        """Its decision context was read from the start; otherwise it carries on the row of the transition before."""
        return bool(self.prompt_ids)

    @property
    def predicted_ids(self) -> list[int]:
        """What a world model that predicts o_{t+1} is taught: the observation, or the control in its place."""
        return self.observation_ids if self.control_ids is None else self.control_ids

    @property
    def predicted_mask(self) -> list[bool] | None:
        """Which of predicted_ids are targets, the others being context; None: all are."""
        return self.target_mask if self.control_ids is None else self.control_mask

    @property
    def predicted_count(self) -> int:
        """|o|: how many of predicted_ids are targets."""
        return len(self.predicted_ids) if self.predicted_mask is None else sum(self.predicted_mask)

    @property
    def target_ids(self) -> list[int]:
        """What this transition teaches the world model; empty when it is not selected."""
        mask = self.predicted_mask or [True] * len(self.predicted_ids)
        return [i for i, taught in zip(self.predicted_ids, mask, strict=True) if taught] if self.selected else []

    @property
    def teachable(self) -> bool:
        """Its observation has a token that may be a target."""
        return bool(self.observation_ids) and (self.target_mask is None or any(self.target_mask))


def alike(numbers: Sequence[float]) -> bool:
    """All are equal but for rounding: they lie within 2e-7 of the largest size, which float32 may make of rewards.

    [0.1, 0.2, 0.3] and [0.3, 0.3] have different sums, yet a comparison of the two teaches nothing.
    """
    return not numbers or max(numbers) - min(numbers) <= 2e-7 * max(map(abs, numbers))


@dataclass
class Episode:
    """One playthrough of one task; the collector writes every field."""

    task_seed: int
    member: int
    task: str
    transitions: list[Transition] = field(default_factory=list)
    won: bool = False
    finished: bool = False
    """The environment ended it (False: the step limit or the context limit did)."""
    overflowed: bool = False
    """It was cut off because its next decision context would have been too long."""
    kind: str = ""
    """What sort of task it is, as the environment says; empty where it does not."""
    errors: list[str] = field(default_factory=list)
    """Why it was started again: what its environment failed with, once for each attempt before this one."""
    state_keys: list[str] = field(default_factory=list)
    """The state before each of the T turns and after the last, T + 1 names, as the environment tells them; empty where
    it does not."""
    last_observation: str = ""
    """The last one as the environment wrote it, where the chat template writes it otherwise; empty elsewhere."""

    @property
    def states(self) -> list[str]:
        """T + 1 states: the environment's names of them, else the observations, which stand for the states."""
        return self.state_keys or [t.anchor for t in self.transitions] + [
            self.last_observation or t.observation_text for t in self.transitions[-1:]
        ]

    @property
    def episode_return(self) -> float:
        """R(tau) = sum of r_t, before penalties; the same in whatever order the rewards came."""
        return math.fsum(t.reward for t in self.transitions)


@dataclass
class RolloutGroup:
    """k episodes of the same task from the same start; the collector writes all but the coefficient."""

    group_key: str
    max_return: float | None
    """R_max as the environment states it; None when it does not."""
    episodes: list[Episode]
    environment: str = ""
    """Name of the environment in a mixture; empty otherwise."""

    # Written by RewardBalance.
    coefficient: float = 0.0
    """lambda_g (eq. 10 or what is configured in its place)."""

    @property
    def returns(self) -> list[float]:
        return [episode.episode_return for episode in self.episodes]

    @property
    def names_states(self) -> bool:
        """The environment names its states."""
        return any(episode.state_keys for episode in self.episodes)

    @property
    def transitions(self) -> list[Transition]:
        """Episode by episode, in time order."""
        return [t for episode in self.episodes for t in episode.transitions]


@dataclass
class Rollout:
    """Everything played for one iteration: the pool P of an update. The Runner writes it; metrics have many writers."""

    iteration: int
    groups: list[RolloutGroup]
    """Those that are trained on; with several ranks every rank holds them all."""
    temperature: float = 1.0
    """Of the distribution that the actions were drawn from; the policy loss reads the same one."""
    demonstrated: bool = False
    """An expert wrote the actions, not the policy: no ratio is taken against whoever wrote them."""
    idle: bool = False
    """The advantage teaches the policy nothing; the iteration writes it."""
    left_out: list[RolloutGroup] = field(default_factory=list)
    """Groups that were played and do not train the policy: all their returns are equal (dynamic sampling)."""
    left_out_teach: bool = False
    """They still teach the world model; the iteration writes it."""
    failures: list[str] = field(default_factory=list)
    """Why each of the groups that were lost to a failing environment was."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Of the weights that played (`policy`) and scored (`critic`, `reference`)."""
    replayed: bool = False
    """It was read from a file: nobody has played it here."""
    off_policy: bool = False
    """Other weights than those that are trained wrote the actions: those before the last update, or a replay's."""
    ahead: bool = False
    """It was played before the update of the iteration before it, or beside that (`rollout.ahead`)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by phase; `total`, the whole rollout, is the iteration's to write, and `update`, which comes
    after it, EnvironmentLoop's; `waiting` is for the next rollout, which is played ahead."""
    foreign_logprobs: bool = False
    """`old_logprobs` are those of a sampler whose arithmetic is not the trainer's; scoring writes it."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Scalars to log, by tag; each tag has one writer."""

    @property
    def episodes(self) -> list[Episode]:
        return [episode for group in self.groups for episode in group.episodes]

    @property
    def transitions(self) -> list[Transition]:
        return [t for group in self.groups for t in group.transitions]

    @property
    def played(self) -> list[RolloutGroup]:
        """All groups, those that dynamic sampling leaves out among them."""
        return self.groups + self.left_out

    @property
    def teaching(self) -> list[RolloutGroup]:
        """The groups whose transitions may teach the world model."""
        return self.played if self.left_out_teach else self.groups

    @property
    def teaching_transitions(self) -> list[Transition]:
        """All transitions that may teach the world model."""
        return [t for group in self.teaching for t in group.transitions]

    @property
    def dropped_groups(self) -> int:
        """How many groups were lost."""
        return len(self.failures)


@dataclass
class Evaluation:
    """What was played of a validation, or of a test at one temperature; EnvironmentLoop writes it."""

    split: str
    temperature: float
    groups: list[RolloutGroup] = field(default_factory=list)
    """One for each task: the episodes that were played of it."""
    failures: list[str] = field(default_factory=list)
    """Why each of the tasks that could not be played was lost."""


Terms = Literal["joint", "policy", "world_model"]
"""Which losses an optimizer step carries: both, or one alone."""


@dataclass
class MicroBatch:
    """One right-padded micro-batch, written by `collate`: B rows, T tokens, N action tokens and M target tokens.

    The flat vectors follow the row-major order of their mask; a row may hold several actions and targets.

    Example: one row of the episode layout, two turns, the second observation not selected ("p" prompt, "a" action,
    "b" bridge, "o" observation, "t" turn)::

        input_ids     p p p a a b o o o t a a
        action_mask   . . . 1 1 . . . . . 1 1     N = 4
        target_mask   . . . . . . 1 1 1 . . .     M = 3
    """

    input_ids: Tensor
    """long [B, T]: prompt | action | bridge | observation | turn | action | ... | padding."""
    action_mask: Tensor
    """bool [B, T]: True on the N action tokens."""
    target_mask: Tensor
    """bool [B, T]: True on the M world-model targets."""
    advantages: Tensor
    """float [N]."""
    old_logprobs: Tensor
    """float [N], nats."""
    reference_logprobs: Tensor | None
    """float [N], nats."""
    action_index: Tensor
    """long [N], below N: which of the micro-batch's actions each token belongs to; an action is whole."""
    policy_weights: Tensor
    """float [N]: what each action token's loss is multiplied by; they sum to 1 over one optimizer step."""
    target_weights: Tensor
    """float [M]: lambda_g / (groups * selected in group * |o|) * optimizer steps per rollout (eqs. 9 and 11), summed
    over the transitions that teach the target."""
    target_coefficients: Tensor
    """float [M]: lambda_g of each target's group, for monitoring."""
    on_policy: bool
    """No optimizer step was made since the rollout: the policy is still the one that sampled."""
    old_values: Tensor | None = None
    """float [N]; None without a critic."""
    value_targets: Tensor | None = None
    """float [N]; None without a critic."""
    position_ids: Tensor | None = None
    """long [B, T]; None where tokens are read in order."""
    visible: Tensor | None = None
    """bool [B, 1, T, T]: which tokens (last axis) each token sees; None where it sees all before it."""
    terms: Terms = "joint"
    """Which losses the step carries; `restrict` writes it, and where the world model trains alone empties N."""
    temperature: float = 1.0
    """Of the softmax whose log-probs the policy loss takes: the one that the actions were drawn at."""
    idle: bool = False
    """Its actions teach the policy nothing: the world model trains alone."""
    tokens: int = 0
    """Of its B T tokens those that are no padding."""
    predicted: list[Transition] = field(default_factory=list)
    """Whose observation the targets are, one transition for each stretch of `predicted_ids` in their order."""
    unit_ratio: bool = False
    """The ratio is 1 by definition: `on_policy`, and `old_logprobs` are of the trainer's own arithmetic; or an expert
    wrote the actions, whom the policy is not compared with."""

    def to(self, device: torch.device) -> MicroBatch:
        """The same with its tensors on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)

"""The records that travel from an environment's text to an optimizer step, and who writes each field."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Transition:
    """One turn of one episode: a decision context, the action written in it, and what the environment answered."""

    # Written by the collector.
    prompt_ids: list[int]
    """Token ids of the decision context h_t."""
    action_ids: list[int]
    """Token ids of a_t exactly as sampled, the end-of-turn token included when the policy wrote it."""
    bridge_ids: list[int]
    """Turn-boundary tokens between a_t and o_{t+1}: context, never a target."""
    observation_ids: list[int]
    """Token ids of o_{t+1}: the world-model targets; empty when there is nothing to predict."""
    sampled_logprobs: list[float]
    """log q(a_i | h, a_<i) of each action token under the distribution that was sampled from, in nats."""
    token_entropies: list[float]
    """Entropy of that distribution at each action token, in nats; scoring fills it in for a sampler without any."""
    action_text: str
    """What was sent to the environment."""
    observation_text: str
    """The environment's answer o_{t+1}."""
    anchor: str
    """The observation the action was chosen in: the state key of step-level groups."""
    reward: float
    """The environment's reward r_t, before any penalty."""
    well_formed: bool
    """The policy's text could be parsed into an action."""
    admissible: bool
    """The environment lists the action as admissible (or gives no list)."""
    truncated: bool = False
    """The action ran to the length limit without an end-of-turn token."""

    # Written by scoring.
    old_logprobs: Tensor | None = None
    """float [A]: log-probs of the behaviour policy that the ratio is taken against, in nats."""
    reference_logprobs: Tensor | None = None
    """float [A]: log-probs under the reference policy, in nats; None when no KL is asked for."""

    importance: Tensor | None = None
    """float [A]: truncated ratio of the trainer's to the sampler's probability; None where none is corrected for."""

    # Written by EnvironmentLoop.
    advantage: float = 0.0
    """Advantage of every token of the action."""

    # Written by EntropySelection.
    action_entropy: float = 0.0
    """H(a_t | h_t), in nats (eq. 4)."""
    wm_selected: bool = False
    """The transition is in S_alpha: its observation is appended and predicted."""

    # Written by TargetControl.
    control_ids: list[int] | None = None
    """Token ids that take the observation's place as targets; None where the true observation is predicted."""

    @property
    def target_ids(self) -> list[int]:
        """What the world model predicts; empty for an unselected transition: its observation is not even appended."""
        if not self.wm_selected:
            return []
        return self.observation_ids if self.control_ids is None else self.control_ids


@dataclass
class Episode:
    """One playthrough of one task; the collector writes every field."""

    task_seed: int
    member: int
    task: str
    transitions: list[Transition] = field(default_factory=list)
    won: bool = False
    finished: bool = False
    """The environment ended it (False: the step limit did)."""

    @property
    def episode_return(self) -> float:
        """R(tau) = sum of r_t, before penalties."""
        return sum(t.reward for t in self.transitions)


@dataclass
class RolloutGroup:
    """k episodes of the same task from the same start."""

    group_key: str
    max_return: float | None
    """R_max as the environment states it (collector); None when it does not."""
    episodes: list[Episode]

    # Written by RewardBalance.
    wm_coefficient: float = 0.0
    """lambda_g of eq. 10."""

    @property
    def returns(self) -> list[float]:
        return [episode.episode_return for episode in self.episodes]

    @property
    def transitions(self) -> list[Transition]:
        """Episode by episode, in time order."""
        return [t for episode in self.episodes for t in episode.transitions]


@dataclass
class Rollout:
    """Everything played for one iteration: the pool P of an update."""

    iteration: int
    groups: list[RolloutGroup]
    dropped_groups: int = 0
    """Groups lost to a failing environment (collector)."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by phase (collector)."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Scalars that EntropySelection and RewardBalance want logged."""

    @property
    def episodes(self) -> list[Episode]:
        return [episode for group in self.groups for episode in group.episodes]

    @property
    def transitions(self) -> list[Transition]:
        return [t for group in self.groups for t in group.transitions]


@dataclass
class Minibatch:
    """One right-padded micro-batch; written by tokenization.collate. B rows, T tokens, N action and M target tokens.

    The flat vectors follow the row-major order of their mask.
    """

    input_ids: Tensor
    """long [B, T]: prompt | action | bridge | observation | padding."""
    action_mask: Tensor
    """bool [B, T]: True on the N action tokens."""
    observation_mask: Tensor
    """bool [B, T]: True on the M world-model targets."""
    advantages: Tensor
    """float [N]."""
    old_logprobs: Tensor
    """float [N], nats."""
    reference_logprobs: Tensor | None
    """float [N], nats."""
    policy_weights: Tensor
    """float [N]: what each action token's loss is multiplied by; they sum to 1 over one optimizer step."""
    wm_weights: Tensor
    """float [M]: lambda_g / (groups * selected in group * |o|) * optimizer steps per rollout (eqs. 9 and 11)."""
    wm_coefficients: Tensor
    """float [M]: lambda_g of each target's group, for monitoring."""
    on_policy: bool
    """No optimizer step was made since the rollout: the policy is still the one that sampled."""

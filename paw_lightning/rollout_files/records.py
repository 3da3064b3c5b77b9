"""What a rollout file holds, as plain data; what a field leaves at its default is not written."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

FORMAT, VERSION = "paw_lightning rollout", 1
FLOAT_LISTS = (
    "sampled_logprobs",
    "sampled_entropies",
    "token_entropies",
    "old_logprobs",
    "reference_logprobs",
    "old_values",
    "importance",
    "token_advantages",
    "value_targets",
    "target_logprobs",
    "loss_weights",
)
"""Fields of a turn that hold a number for each token."""
SAME = {"token_entropies": "sampled_entropies", "old_logprobs": "sampled_logprobs"}
"""A field that holds the name of another one instead of numbers has the same numbers."""


@dataclass
class Header:
    """What holds for a whole file: its first line."""

    split: Literal["train", "val", "test"] = "train"
    iteration: int = 1
    """Of training, counted from 1; of an evaluation the iterations before it, 0 where nothing was trained yet."""
    temperature: float = 1.0
    package: str = ""
    """Version of paw_lightning that wrote it."""
    environment: str = ""
    """Class path."""
    model: str = ""
    """`model.path`."""
    layout: str = ""
    advantage: str = ""
    """Class name, as of layout."""
    world_model_loss: str = ""
    """The kind of loss, or the class of a loss of the user's own."""
    rho: float | None = None
    """Where the loss reads it (`clipped_mae`)."""
    seed: int = 0
    weights: str = ""
    """Fingerprint of the language model that played."""
    critic: str | None = None
    """Fingerprint of the critic whose values are recorded."""
    reference: str | None = None
    """Fingerprint of the reference policy whose log-probs are recorded."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What the episodes were played with, by the keys of a configuration."""
    demonstrated: bool = False
    """An expert wrote the actions."""
    counterfactuals: bool = False
    """Turns hold the answer to another action where there is one."""
    foreign_logprobs: bool = False
    """The log-probs are of a sampler whose arithmetic is not the trainer's."""
    off_policy: bool = False
    """Replayed by other weights than those that played."""
    error: str = ""
    """What broke the update off; empty where nothing did."""
    failures: list[str] = field(default_factory=list)
    """Why each of the groups that were lost to a failing environment was; `dropped_groups` counts them."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What was logged of the rollout, by tag."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall clock by phase."""
    float64: list[str] = field(default_factory=list)
    """Fields whose numbers are not those of float32."""
    texts: dict[int, str] = field(default_factory=dict)
    """Token id -> its text, for every id in the file."""

    @property
    def dropped_groups(self) -> int:
        """How many groups were lost."""
        return len(self.failures)


@dataclass
class RecordedTurn:
    """One turn: a transition (types.py), and how the update has read its observation."""

    prompt_ids: list[int] = field(default_factory=list)
    """What the policy read; empty where the turn goes on in the row of the one before (layout `episode`)."""
    turn_ids: list[int] = field(default_factory=list)
    action_ids: list[int] = field(default_factory=list)
    bridge_ids: list[int] = field(default_factory=list)
    observation_ids: list[int] = field(default_factory=list)
    target_mask: list[bool] | None = None
    """Which observation tokens may be targets (`target_control.filter`)."""
    control_ids: list[int] | None = None
    control_mask: list[bool] | None = None
    target_sign: int = 1
    """-1 where what the turn teaches counts against itself (the control `noise_sign`)."""
    counterfactual_ids: list[int] | None = None
    counterfactual_mask: list[bool] | None = None
    action_text: str = ""
    """What was sent to the environment."""
    answer_text: str = ""
    """All that the policy wrote."""
    observation_text: str = ""
    """What the environment answered."""
    anchor: str = ""
    """The observation that the action was chosen in."""
    reward: float = 0.0
    well_formed: bool = True
    admissible: bool = True
    truncated: bool = False
    predictable: bool = True
    dropped_turns: int = 0
    nuisance_spans: list[list[int]] = field(default_factory=list)
    sampled_logprobs: list[float] = field(default_factory=list)
    sampled_entropies: list[float] = field(default_factory=list)
    token_entropies: list[float] = field(default_factory=list)
    old_logprobs: list[float] | None = None
    reference_logprobs: list[float] | None = None
    old_values: list[float] | None = None
    importance: list[float] | None = None
    advantage: float = 0.0
    token_advantages: list[float] | None = None
    value_targets: list[float] | None = None
    action_entropy: float = 0.0
    selected: bool = False
    target_logprobs: list[float] | None = None
    """Log-prob of each target token in the forward pass that trained it: before the optimizer step it is part of. A
    token that the mask rules out is no target and has none."""
    target_step: int | None = None
    """Which optimizer step of the iteration that was; in step 0 nothing of this iteration was learnt yet."""
    target_weight: float | None = None
    """What the loss of each of these tokens is multiplied by, lambda / (groups * selected * |o|) (eqs. 9, 11)."""
    loss_weights: list[float] | None = None
    """w(p), how much the loss pulls at each of these tokens as a cross-entropy; four digits."""


@dataclass
class RecordedEpisode:
    """One episode, and what holds for its group."""

    group: int = 0
    """Place of its group in the rollout; those that were left out come last."""
    group_key: str = ""
    max_return: float | None = None
    environment: str = ""
    """Its name in a mixture."""
    coefficient: float = 0.0
    """lambda of the group."""
    left_out: bool = False
    """Played, and not trained on (dynamic sampling), but perhaps as the world model's targets."""
    task_seed: int = 0
    member: int = 0
    task: str = ""
    kind: str = ""
    won: bool = False
    finished: bool = False
    overflowed: bool = False
    errors: list[str] = field(default_factory=list)
    """Why it was started again: what its environment failed with, once for each attempt before this one."""
    turns: list[RecordedTurn] = field(default_factory=list)
    state_keys: list[str] = field(default_factory=list)
    """The state before each turn and after the last, where the environment names them."""
    last_observation: str = ""
    """The last one as the environment wrote it, where the chat template writes it otherwise."""

    @property
    def episode_return(self) -> float:
        """The sum of its rewards; the file holds it as `return`."""
        return math.fsum(turn.reward for turn in self.turns)

    @property
    def retries(self) -> int:
        """How often it was started again; the file holds it too, as it does `ended`."""
        return len(self.errors)

    @property
    def ended(self) -> str:
        """Why it is over: `won`, `lost`, `turn limit` or `context limit`."""
        if self.finished:
            return "won" if self.won else "lost"
        return "context limit" if self.overflowed else "turn limit"


@dataclass
class RolloutFile:
    """All of a file."""

    header: Header
    episodes: list[RecordedEpisode]


DEFAULTS: dict[type, dict[str, Any]] = {kind: vars(kind()) for kind in (Header, RecordedEpisode, RecordedTurn)}
"""What a file leaves out."""


def expected_texts(action_text: str, before: RecordedTurn | None) -> dict[str, str]:
    """What two fields of a turn hold where they are left out: mostly what another one says already."""
    return {"answer_text": action_text, "anchor": before.observation_text if before is not None else ""}

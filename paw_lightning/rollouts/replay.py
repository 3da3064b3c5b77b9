"""Replay: the runner of a run that trains on what another run has played."""

from __future__ import annotations

from functools import partial
from typing import Any

from paw_lightning import ranks
from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files.run import KEY, RecordedRun
from paw_lightning.rollouts import scoring
from paw_lightning.rollouts.ahead import Ahead
from paw_lightning.rollouts.collector import PlayedGroups
from paw_lightning.rollouts.episodes import FirstLook
from paw_lightning.rollouts.provenance import played_with
from paw_lightning.rollouts.recording import restore
from paw_lightning.rollouts.runner import Policy, Progress, Runner
from paw_lightning.rollouts.settings import RolloutSettings
from paw_lightning.rollouts.tasks import Split, TaskOrder
from paw_lightning.rollouts.timing import timed
from paw_lightning.text.actions import action_format
from paw_lightning.types import Rollout, RolloutGroup


class Replay(Runner):
    """Reads training rollouts in place of playing them: no environment is built for them, and no sampler asked.

    Where the weights are those that played, the rollout is what it was. Otherwise it is off-policy: the policy's ratio
    is taken against the recorded log-probs from the first optimizer step on.

    What the recording lacks, or another critic or reference has said, is scored by the current models. An expert's
    actions belong to no policy, so that nothing of them is off-policy: other weights score them anew.
    """

    def __init__(
        self,
        settings: RolloutSettings,
        tasks: TaskOrder,
        policy: Policy,
        progress: Progress | None,
        run: RecordedRun,
    ) -> None:
        super().__init__(settings, tasks, policy, progress)
        self.run = run
        self._warned = self._stale = False

    def check(self, iterations: int | None, key: str) -> None:
        """Refuse what the recording cannot give, but for files that are missing.

        Args:
            iterations: of the whole run; None where it has no end.
            key: what says so, and its value.

        Raises:
            SettingsError: it is shorter, or was played with other settings.
        """
        run = self.run
        if iterations is None or iterations > run.length:
            asked, most = "no end" if iterations is None else f"{iterations} iterations", run.length
            raise SettingsError(
                f"{key} asks for {asked}, and {KEY} holds {most}; wanted trainer.max_epochs of at most {most}"
            )
        header = run.first_header()
        if header.demonstrated != self.settings.demonstrated:
            now, wrote, other = (
                ("not ", "an expert's", "it") if header.demonstrated else ("", "the policy's", "another")
            )
            raise SettingsError(
                f"rollout.advantage is {now}Imitation, and the actions of {KEY} are {wrote}; wanted {other}"
            )
        if self.settings.counterfactuals and not header.counterfactuals:
            raise SettingsError(
                f"target_control.targets is 'wrong_action', and {KEY} was recorded without answers to other actions; "
                "wanted another control, or a recording of a run with this one"
            )
        there = [number for number in run.files if number <= iterations]
        run.check_settings(played_with(self.settings, self.tasks, self.policy.chat), there)

    # In place of an environment

    def num_tasks(self, split: Split) -> int | None:
        """Of training nobody asks an environment."""
        return None if split == "train" else super().num_tasks(split)

    def train_tasks(self, iteration: int, extra_round: int = 0) -> list[int]:
        """The file says which they were."""
        return []

    def first_look(self) -> FirstLook | None:
        """How the first recorded episode begins; a world with tools is asked for them, which no file holds."""
        if not self._first:
            episode = self.run.read(min(self.run.files)).episodes[0]
            info: dict[str, Any] = {"task": episode.task, "max_reward": episode.max_return}
            if action_format(self.settings.prompt.action_format).calls_tools:
                look = self.collector("train").first_look(episode.task_seed)
                info["tools"] = None if look is None else look[1].get("tools")
            self._first.append((episode.turns[0].anchor, info))
        return self._first[0]

    # In place of playing

    def refresh(self) -> None:
        """Take over the trained weights; whoever plays the evaluations gets them when there is one."""
        self.policy.gather()
        self._stale = True

    def evaluate(self, split: Split, task_seeds: list[int], samples: int, temperature: float) -> PlayedGroups:
        """Play unseen tasks."""
        if self._stale:
            self._inform_sampler()
            self._stale = False
        return super().evaluate(split, task_seeds, samples, temperature)

    def play(self, iteration: int, task_seeds: list[int]) -> Rollout:
        """Read an iteration's rollout; every rank reads all of it."""
        seconds: dict[str, float] = {}
        with timed(seconds, "reading"):
            found: list[Rollout] = []
            ranks.together(lambda: found.append(restore(self.run.read(iteration + 1))))
        [rollout] = found
        rollout.seconds = seconds
        same = rollout.fingerprints.get("policy") == self.fingerprints()["policy"]
        rollout.off_policy = not same and not rollout.demonstrated
        rollout.metrics["rollout/off_policy"] = float(rollout.off_policy)
        if rollout.off_policy and not self._warned:
            self._warned = True
            ranks.warn(
                f"the rollouts of iteration {iteration + 1} were played by other weights than those that are trained: "
                "from here on ratios are taken against the recorded log-probs (rollout/off_policy is 1)"
            )
        if self.progress:
            episodes = sum(len(group.episodes) for group in rollout.played)
            self.progress(episodes, episodes, "train")
        return rollout

    # Scoring what was not said

    def score(self, rollout: Rollout) -> None:
        """Write what the recording lacks, and take away what nobody asks for now."""
        now, then = self.fingerprints(), rollout.fingerprints
        played = then.get("policy") == now["policy"]
        values = "critic" in now and not (played and then.get("critic") == now["critic"])
        reference = "reference" in now and then.get("reference") != now["reference"]
        if rollout.demonstrated and not played:
            self._score_parts(rollout, self._score)
        elif values or reference:
            self._score_parts(rollout, partial(self._score_rest, values=values, reference=reference))
        self._score_left_out(rollout)
        for t in rollout.transitions:
            t.old_values = t.old_values if "critic" in now else None
            t.reference_logprobs = t.reference_logprobs if "reference" in now else None
        own = {"policy": now["policy"]} if rollout.demonstrated else {"policy": then["policy"]}
        rollout.fingerprints = now | own

    def _score_rest(self, groups: list[RolloutGroup], *, values: bool, reference: bool) -> list[RolloutGroup]:
        """Values and the reference's log-probs, as far as asked for; the policy's own are recorded."""
        transitions = [t for group in groups for t in group.transitions]
        limits = self.settings.temperature, self.settings.scoring_tokens
        if values:
            scoring.write_policy_scores(self.policy.played_model, transitions, *limits, logprobs=False, values=True)
        if reference:
            self._score_reference(transitions)
        return groups


def player(
    settings: RolloutSettings, tasks: TaskOrder, policy: Policy, progress: Progress | None, replay: str | None
) -> Runner:
    """Who plays a run, or reads what the run in the folder `replay` has played."""
    if replay is not None:  # which plays nothing, ahead or not
        return Replay(settings, tasks, policy, progress, RecordedRun(replay))
    return (Ahead if settings.ahead else Runner)(settings, tasks, policy, progress)

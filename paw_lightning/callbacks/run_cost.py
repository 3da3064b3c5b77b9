"""RunCost: where an iteration's time goes, at what speed, and which key would move it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from paw_lightning import ranks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.errors import SettingsError
from paw_lightning.training.module import PaWModule
from paw_lightning.types import MicroBatch, Rollout

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "L4": 121e12}
"""Dense bfloat16 operations per second by a part of the device's name, as their makers state them."""
PADDED = 0.25
"""Share of padding from which on it is worth a word."""


class RunCost(RolloutCallback):
    """Logs tokens per second and padding, and says once, and at the end, what an iteration's time is spent on.

    ============================== =================================================================================
    tag                            what it tells
    ============================== =================================================================================
    time/generated_tokens_per_s    action tokens over the seconds of generation
    time/scored_tokens_per_s       tokens of the rollout over the seconds of scoring; only where scoring reads anything
    time/trained_tokens_per_s      tokens of the update, padding apart, over its seconds
    time/validation_s              seconds of the iteration's validation; only where there is one
    time/update_mfu                6 N operations a trained token over what the GPU's maker states; GPUs it knows only
    time/padding_share             share of the update's tokens that are padding
    ============================== =================================================================================

    Of several ranks all tokens are counted.

    Args:
        after: iterations after which the sentence comes for the first time; 0 never says it.
    """

    def __init__(self, after: int = 3) -> None:
        if after < 0:
            raise SettingsError(f"run_cost.after is {after}; wanted at least 0 (0 never says anything)")
        self.after = after
        self.totals = Counter[str]()
        """Seconds by phase over all iterations of this process; `iteration` is all of them."""
        self.iterations = 0
        self.padding = 0.0
        self._rollout: Rollout | None = None
        self._tokens = self._places = 0
        self._begun = self._update_begun = self._update_ended = self._validation = 0.0

    # What happens when

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin an iteration."""
        self._rollout, self._tokens, self._places, self._validation = None, 0, 0, 0.0
        self._begun = time.perf_counter()

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Keep what was played until its update is over."""
        self._rollout = rollout

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Count what is trained."""
        if batch_idx == 0:
            self._update_begun = time.perf_counter()
        self._tokens, self._places = self._tokens + batch.tokens, self._places + batch.input_ids.numel()

    def on_train_batch_end(self, *_: Any) -> None:
        """The last one ends the update."""
        self._update_ended = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin a validation."""
        self._validation = -time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End it."""
        self._validation += time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the iteration's speeds."""
        assert isinstance(pl_module, PaWModule)
        rollout, self._rollout = self._rollout, None
        if rollout is None:
            return  # resumed from a checkpoint that was saved between the last step and here
        tokens, places = (sum(counts) for counts in zip(*ranks.gathered((self._tokens, self._places)), strict=True))
        phases = self._phases(rollout)
        found = speeds(rollout, phases, tokens, places) | self._utilisation(pl_module, tokens, phases)
        pl_module.log_dict(found, sync_dist=True)
        self.totals.update(phases)
        self.iterations, self.padding = self.iterations + 1, 1 - tokens / max(places, 1)
        if self.iterations == self.after:
            self._say(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it for the whole run, unless that was just said."""
        assert isinstance(pl_module, PaWModule)
        if self.after and self.iterations > self.after:
            self._say(trainer, pl_module)

    # What is made of it

    def _phases(self, rollout: Rollout) -> dict[str, float]:
        """Seconds by phase, and of the whole iteration; what no phase has taken is in `iteration` alone."""
        played = {
            name: rollout.seconds.get(name, 0.0) for name in ("generation", "environment", "tokenization", "scoring")
        }
        update = self._update_ended - self._update_begun
        whole = time.perf_counter() - self._begun
        return {**played, "update": update, "validation": self._validation, "iteration": whole}

    def _utilisation(self, module: PaWModule, tokens: int, phases: Mapping[str, float]) -> dict[str, float]:
        name = torch.cuda.get_device_name(module.device) if module.device.type == "cuda" else ""
        peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
        if peak is None or not phases["update"]:
            return {}
        numbers = sum(p.numel() for p in module.language_model.parameters())
        return {"time/update_mfu": 6 * numbers * tokens / phases["update"] / peak / ranks.world()[1]}

    def _say(self, trainer: L.Trainer, module: PaWModule) -> None:
        settings, cpu = self.runner.settings, module.device.type == "cpu"
        facts = {
            "padded": self.padding > PADDED,
            "cpu": cpu,
            "full precision": str(trainer.precision) == "32-true",
            "reference": bool(module.policy_loss.kl_coefficient),
            "grows": settings.layout.grows,
        }
        rank_zero_info(sentence({name: total / self.iterations for name, total in self.totals.items()}, facts))


def speeds(rollout: Rollout, phases: Mapping[str, float], tokens: int, places: int) -> dict[str, float]:
    """The curves of an iteration in which so many tokens were trained, in rectangles of so many places."""
    transitions = rollout.transitions
    generated = sum(len(t.action_ids) for t in transitions)
    read = sum(len(t.prompt_ids) + len(t.turn_ids) * (not t.begins_row) + len(t.action_ids) for t in transitions)
    made = {"generated": (generated, "generation"), "scored": (read, "scoring"), "trained": (tokens, "update")}
    rates = {
        f"time/{name}_tokens_per_s": count / phases[phase]
        for name, (count, phase) in made.items()
        if phases[phase] > 0.01 * phases["iteration"]
    }
    validation = {"time/validation_s": phases["validation"]} if phases["validation"] else {}
    return rates | validation | {"time/padding_share": 1 - tokens / max(places, 1)}


def sentence(phases: Mapping[str, float], facts: Mapping[str, bool]) -> str:
    """Seconds of a mean iteration by phase, the largest first, and the keys that move the largest.

    Example: "time:    an iteration takes 103 s: update 70 %, generation 29 %; ..."
    """
    whole = phases["iteration"]
    parts = {name: seconds for name, seconds in phases.items() if name != "iteration"}
    parts["other"] = max(0.0, whole - sum(parts.values()))
    largest_first = sorted(parts, key=lambda name: -parts[name])
    shares = ", ".join(f"{name} {parts[name] / whole:.0%}" for name in largest_first if parts[name] >= 0.01 * whole)
    seconds = f"{whole:.0f}" if whole >= 10 else f"{whole:.2g}"
    return f"time:    an iteration takes {seconds} s: {shares}; {advice(largest_first[0], facts)}"


def advice(phase: str, facts: Mapping[str, bool]) -> str:
    """What would make a phase shorter."""
    if phase == "update":
        if facts["padded"]:
            return "much of the update is padding: raise trainer.accumulate_grad_batches"
        if facts["full precision"]:
            where = " if the processor multiplies bfloat16" if facts["cpu"] else ""
            return f"a shorter update: trainer.precision bf16-mixed{where}, or fewer data.groups"
        return "a shorter update: fewer data.groups, a smaller model.path" + ("" if facts["cpu"] else ", or more GPUs")
    if phase == "generation":
        longer = "" if facts["grows"] else "rollout.layout episode, which reads nothing twice, "
        server = "" if facts["cpu"] else ", or a server (rollout.sampler vllm)"
        return f"shorter generation: {longer}smaller rollout.max_action_tokens or rollout.max_steps{server}"
    if phase == "scoring":
        return "shorter scoring: " + (
            "model.policy_loss.kl_coefficient 0 needs no reference"
            if facts["reference"]
            else "a larger rollout.scoring_tokens"
        )
    return {
        "environment": "faster environments: WorkerEnv in rollout.environment lets them step side by side",
        "tokenization": "faster tokenization: a fast tokenizer in model.path, shorter observations",
        "validation": "less validation: trainer.check_val_every_n_epoch, data.validation_tasks",
        "other": "the rest is checks, curves and checkpoints: last_checkpoint.every_n_epochs, world_model_health.every",
    }[phase]

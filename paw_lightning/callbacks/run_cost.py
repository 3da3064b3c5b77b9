"""RunCost: where an iteration's time goes, at what speed, and which key would move it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from paw_lightning import ranks
from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.ahead import Ahead
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.training.module import PaWModule
from paw_lightning.training.strategies import full_name
from paw_lightning.types import MicroBatch, Rollout

PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "L4": 121e12}
"""Dense bfloat16 operations per second by a word of the device's name, as the makers state them."""
SLOWER = re.compile(r"PCIe|NVL|Laptop|MIG", re.IGNORECASE)
"""Variants of a device with another peak."""
PLAYING = ("generation", "environment", "tokenization")
PHASES = (*PLAYING, "scoring", "update", "waiting", "validation")
"""`waiting` is for the rollout that is played ahead, all of it where it is played before the update."""
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
    time/update_mfu                6 N operations a trained token over what the GPU's maker states; only for GPUs whose
                                   figure is known, whole models (no shards) and full training (no LoRA)
    time/padding_share             share of the update's tokens that are padding
    ============================== =================================================================================

    Of several ranks all tokens are counted, and the slowest one's seconds; not counted are the tokens of episodes that
    were lost to a failing environment.

    Args:
        after: iterations after which the sentence comes for the first time; 0 never says it.
    """

    def __init__(self, after: int = 3) -> None:
        if after < 0:
            raise SettingsError(f"run_cost.after is {after}; wanted at least 0 (0 never says anything)")
        self.after = after
        self.totals = Counter[str]()
        """Seconds by phase over all iterations of this process, `iteration` being the whole; tokens and places."""
        self.iterations = 0
        self._phases: dict[str, float] = {}
        """Of the iteration that is over but for its checkpoints; empty where none is."""
        self._rollout: Rollout | None = None
        self._tokens = self._places = 0
        self._begun = self._validation = 0.0

    # What happens when

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin an iteration, when the one before has saved its checkpoints too."""
        assert isinstance(pl_module, PaWModule)
        self._close(trainer, pl_module)
        self._rollout, self._tokens, self._places, self._validation = None, 0, 0, 0.0
        self._begun = time.perf_counter()

    def on_rollout_end(self, trainer: L.Trainer, pl_module: L.LightningModule, rollout: Rollout) -> None:
        """Keep what was played until its update is over."""
        self._rollout = rollout

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: MicroBatch, batch_idx: int
    ) -> None:
        """Count what is trained."""
        self._tokens, self._places = self._tokens + batch.tokens, self._places + batch.input_ids.numel()

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
        gathered = ranks.gathered((self._tokens, self._places, self._seconds(rollout)))
        tokens, places = sum(part[0] for part in gathered), sum(part[1] for part in gathered)
        self._phases = {name: max(part[2][name] for part in gathered) for name in gathered[0][2]}
        found = speeds(rollout, self._phases, tokens, places, scored=self._scores(pl_module, rollout))
        found |= self._utilisation(pl_module, tokens)
        pl_module.log_dict(found, sync_dist=True)
        if rollout.ahead:  # they passed in the iteration before, whose `waiting` is what they cost
            self._phases |= dict.fromkeys(PLAYING, 0.0)
        self.totals.update({"tokens": tokens, "places": places})

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say it for the whole run, unless that was just said."""
        assert isinstance(pl_module, PaWModule)
        self._close(trainer, pl_module)
        if self.after and self.iterations > self.after:
            self._say(trainer, pl_module)

    # What is made of it

    def _close(self, trainer: L.Trainer, module: PaWModule) -> None:
        """Count the iteration that is over."""
        if self._phases:
            self.totals.update({**self._phases, "iteration": time.perf_counter() - self._begun})
            self._phases, self.iterations = {}, self.iterations + 1
            if self.iterations == self.after:
                self._say(trainer, module)

    def _seconds(self, rollout: Rollout) -> dict[str, float]:
        """Of each phase, and of the iteration up to here."""
        known = {name: rollout.seconds.get(name, 0.0) for name in PHASES[:-1]}
        return {**known, "validation": self._validation, "iteration": time.perf_counter() - self._begun}

    def _scores(self, module: PaWModule, rollout: Rollout) -> bool:
        """Whether scoring reads the rollout at all: the sampler may have said everything."""
        told = self.runner.settings.takes_sampled_logprobs(self.runner.sampler) and not rollout.demonstrated
        return not told or bool(module.policy_loss.kl_coefficient) or module.critic != "none"

    def _utilisation(self, module: PaWModule, tokens: int) -> dict[str, float]:
        """What the update makes of the GPU; nothing where it cannot be told."""
        peak = peak_flops(torch.cuda.get_device_name(module.device)) if module.device.type == "cuda" else None
        if peak is None or module.is_sharded or module.lora.rank:
            return {}
        numbers = sum(p.numel() for p in module.language_model.parameters())
        return {"time/update_mfu": 6 * numbers * tokens / self._phases["update"] / peak / ranks.world()[1]}

    def _say(self, trainer: L.Trainer, module: PaWModule) -> None:
        phases = {name: self.totals[name] / self.iterations for name in (*PHASES, "iteration")}
        facts = {
            "padded": 1 - self.totals["tokens"] / max(self.totals["places"], 1) > PADDED,
            "cpu": module.device.type == "cpu",
            "full precision": full_name(trainer.precision) == "32-true",
            "reference": bool(module.policy_loss.kl_coefficient),
            "grows": self.runner.settings.layout.grows,
            "native": isinstance(self.runner.sampler, NativeSampler),
            "beside": isinstance(self.runner, Ahead) and self.runner.beside,
        }
        rank_zero_info(sentence(phases, facts))


def peak_flops(device: str) -> float | None:
    """Operations per second of a GPU by its name; None where nobody has written it down.

    Example: "NVIDIA H100 80GB HBM3" is known, "NVIDIA L40" and "NVIDIA H100 PCIe" are not.
    """
    known = (flops for word, flops in PEAK_FLOPS.items() if re.search(rf"\b{word}\b", device))
    return None if SLOWER.search(device) else next(known, None)


def speeds(
    rollout: Rollout, phases: Mapping[str, float], tokens: int, places: int, *, scored: bool
) -> dict[str, float]:
    """The curves of an iteration in which so many tokens were trained, in rectangles of so many places.

    `scored`: scoring reads the rollout. It is asked, as on several ranks no clock may decide which curves there are.
    """
    transitions = rollout.transitions
    played = [t for group in rollout.played for t in group.transitions]
    generated = sum(len(t.action_ids) for t in played)
    read = sum(len(t.prompt_ids) + len(t.turn_ids) * (not t.begins_row) + len(t.action_ids) for t in transitions)
    made = {"generated": (generated, "generation"), "scored": (read, "scoring"), "trained": (tokens, "update")}
    rates = {
        f"time/{name}_tokens_per_s": count / phases[phase]
        for name, (count, phase) in made.items()
        if phases[phase] > 0 and (scored or phase != "scoring")
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
        server = ", or a server (rollout.sampler vllm)" if facts["native"] and not facts["cpu"] else ""
        return f"shorter generation: {longer}smaller rollout.max_action_tokens or rollout.max_steps{server}"
    if phase == "scoring":
        return "shorter scoring: " + (
            "model.policy_loss.kl_coefficient 0 needs no reference"
            if facts["reference"]
            else "a larger rollout.scoring_tokens"
        )
    if phase == "waiting" and not facts["beside"]:
        return "nothing is played beside the update: a server (rollout.sampler vllm), or rollout.ahead 0"
    return {
        "waiting": "the update is over before the next rollout is: faster environments, or a faster server",
        "environment": "faster environments: those in processes of their own (WorkerEnv) step side by side",
        "tokenization": "faster tokenization: a fast tokenizer in model.path, shorter observations",
        "validation": "less validation: trainer.check_val_every_n_epoch, data.validation_tasks",
        "other": "less of what is beside: last_checkpoint.every_n_epochs, world_model_health.every",
    }[phase]

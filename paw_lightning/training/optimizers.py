"""The run's one optimizer: how it is built, and what a resumed run changes about it."""

from __future__ import annotations

import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from paw_lightning.errors import SettingsError
from paw_lightning.training.muon import MuonWithAdamW

OPTIMIZER, SCHEDULER = "model.optimizer", "model.lr_scheduler"
COUNTS = frozenset({"base_lrs", "last_epoch", "_step_count", "_last_lr", "_is_initial", "_get_lr_called_within_step"})
"""What a scheduler's state holds beside its settings."""


class OptimizerSetup:
    """Builds the optimizer and its schedule, and carries over into a resumed run what is configured otherwise.

    A checkpoint restores the optimizer with the settings of the run that saved it. Those that are configured otherwise
    now win, and the optimizer's momenta are kept; the others stay as they were restored, to the last bit.

    Args:
        optimizer: called with the parameters, or groups of them.
        scheduler: called with the optimizer; None keeps the rate.
    """

    def __init__(self, optimizer: OptimizerCallable, scheduler: LRSchedulerCallable | None) -> None:
        self.optimizer_factory, self.scheduler_factory = optimizer, scheduler
        self.groups: list[dict[str, Any]] = []
        """The settings of each group of parameters, as built; none before."""
        self.settings: dict[str, str] = {}
        """All settings as built, by key, written as Python does: what a checkpoint holds; empty before."""
        self.saved: dict[str, str] | None = None
        """Those of the run that saved the checkpoint; None in a new run, and where they have been carried over."""

    def build(self, parameters: list[Any], flattened: bool = False) -> Any:
        """What Lightning wants of `configure_optimizers`; `flattened` says that the strategy cut weights into vectors.

        Raises:
            SettingsError: the optimizer needs matrices that are none any more, or its epsilon is 0 for these weights.
        """
        # The optimizer
        optimizer = self.optimizer_factory(parameters)
        if flattened and isinstance(optimizer, MuonWithAdamW):
            raise SettingsError(
                f"{OPTIMIZER} is MuonWithAdamW and trainer.strategy is paw_fsdp, which cuts matrices into vectors, so "
                "that Muon would have none; wanted trainer.strategy: paw_fsdp2 (the config strategy/fsdp2)"
            )
        check_epsilon(optimizer)
        self.groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        self.settings = {OPTIMIZER: type(optimizer).__qualname__} | {
            _key(number, name): repr(value) for number, group in enumerate(self.groups) for name, value in group.items()
        }
        if self.scheduler_factory is None:
            return optimizer
        # Its schedule
        scheduler = self.scheduler_factory(optimizer)
        self.settings |= {SCHEDULER: type(scheduler).__qualname__} | _held_by(scheduler) | self._held_beside(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "epoch"}}

    def _held_beside(self, optimizer: torch.optim.Optimizer) -> dict[str, str]:
        """The settings that some schedules write into the optimizer's groups."""
        return {
            f"{SCHEDULER}.init_args.{name}" + _whose(number): repr(value)
            for number, (group, own) in enumerate(zip(optimizer.param_groups, self.groups, strict=True))
            for name, value in group.items()
            if name not in own and name != "params" and (name, value) != ("initial_lr", own["lr"])
        }

    def resume(self, saved: dict[str, str], checkpoint: dict[str, Any]) -> None:
        """Take note of the settings of the run that saved the checkpoint, and drop the state of another schedule.

        Raises:
            SettingsError: it had another optimizer, or one that kept less of each weight than this one needs.
        """
        if saved[OPTIMIZER] != self.settings[OPTIMIZER]:
            raise SettingsError(
                f"{OPTIMIZER} is {self.settings[OPTIMIZER]} and that of the run which saved the checkpoint (ckpt_path) "
                f"is {saved[OPTIMIZER]}, whose state no other can go on with; wanted {saved[OPTIMIZER]}, or a new run "
                "from the exported policy (model.path)"
            )
        changed = [key for key, value in self.settings.items() if saved.get(key) != value]
        states = checkpoint.get("optimizer_states", [])
        kept = next((of_weight for state in states for of_weight in state["state"].values()), None)
        lacking = [needed - set(kept) for needed in self._needed()] if changed and kept else []
        if missing := min(lacking, key=len, default=set()):
            raise SettingsError(
                f"{' and '.join(changed)} differ from the run that saved the checkpoint (ckpt_path), which kept no "
                f"{' and no '.join(sorted(missing))} of its weights; wanted the settings that decide about it as they "
                "were, or a new run from the exported policy (model.path)"
            )
        if saved.get(SCHEDULER) != self.settings.get(SCHEDULER):
            checkpoint["lr_schedulers"] = []  # no schedule can read it
        self.saved = saved

    def _needed(self) -> list[set[str]]:
        """What the optimizer keeps of a vector, and what of a matrix: some take one kind alone."""
        found = []
        for shape in ((1,), (2, 2)):
            weights = [torch.nn.Parameter(torch.zeros(shape)) for _ in self.groups]
            try:
                groups = [{"params": [weight]} for weight in weights]
                optimizer = self.optimizer_factory(weights if len(weights) == 1 else groups)
                for weight in weights:
                    weight.grad = torch.ones(shape)
                optimizer.step(lambda: 0.0)  # some ask for the loss
            except Exception:  # an optimizer of the other kind
                continue
            found.append({name for state in optimizer.state.values() for name in state})
        return found

    def carry_over(self, trainer: L.Trainer) -> None:
        """Give the restored optimizer the settings that are configured otherwise now.

        With another rate or another schedule, the rate becomes that of a run which had both from its beginning.
        """
        saved, self.saved = self.saved, None
        if saved is None:
            return
        # What each group of parameters has otherwise
        [optimizer] = trainer.optimizers
        rates_differ = _schedule(saved) != _schedule(self.settings)
        for number, (group, configured) in enumerate(zip(optimizer.param_groups, self.groups, strict=True)):
            changes = {name: v for name, v in configured.items() if saved.get(_key(number, name)) != repr(v)}
            group.update(changes)
            rates_differ |= "lr" in changes
        if not rates_differ:
            return
        # The rate
        for group, configured in zip(optimizer.param_groups, self.groups, strict=True):
            group["lr"] = configured["lr"]
            group.pop("initial_lr", None)  # from which a schedule would begin
        if self.scheduler_factory is not None:
            restored: Any = trainer.lr_scheduler_configs[0]
            same = saved.get(SCHEDULER) == self.settings[SCHEDULER]
            steps = restored.scheduler.last_epoch if same else trainer.current_epoch
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*lr_scheduler.step.*")  # this optimizer has made no step yet
                restored.scheduler = self.scheduler_factory(optimizer)
                for _ in range(steps):
                    restored.scheduler.step()


def check_epsilon(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a guard against division by 0 that is itself 0 in the arithmetic of the weights (float16)."""
    for group in optimizer.param_groups:
        epsilon = group.get("eps")
        dtypes = {p.dtype for p in group["params"]} if isinstance(epsilon, float) else set()
        for dtype in dtypes:
            if epsilon and not torch.tensor(epsilon, dtype=dtype):
                raise SettingsError(
                    f"{OPTIMIZER} is {type(optimizer).__name__} with eps {epsilon:g}, which is 0 in {dtype} weights "
                    "(trainer.precision, model.dtype), so that it would divide by 0; wanted trainer.precision: "
                    f"16-mixed, or {OPTIMIZER}.init_args.eps of at least 1e-7"
                )


def _held_by(scheduler: Any) -> dict[str, str]:
    """The settings in a scheduler's own state, as it is built."""
    return {
        f"{SCHEDULER}.init_args.{name}": repr(value)
        for name, value in scheduler.state_dict().items()
        if name not in COUNTS and " at 0x" not in repr(value)  # an address is another one in every process
    }


def _key(group: int, name: str) -> str:
    return f"{OPTIMIZER}.init_args.{name}" + _whose(group)


def _whose(group: int) -> str:
    """A critic's own parameters are the second group."""
    return " of the critic" if group else ""


def _schedule(settings: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in settings.items() if key.startswith(SCHEDULER)}

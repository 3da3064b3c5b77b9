"""The optimizer of a resumed run: what is configured otherwise wins, all else stays as it was restored."""

from __future__ import annotations

import warnings
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from paw_lightning.errors import SettingsError
from paw_lightning.training.optimizers import OptimizerSetup

ADAM = partial(AdamW, lr=0.1)
STOPPED, END = 3, 7
"""Steps of the schedule before the run is stopped, and in all."""


class Run:
    """As much of Lightning as an optimizer sees: one step of optimizer and schedule per epoch, and what is saved."""

    def __init__(self, setup: OptimizerSetup, groups: int = 1) -> None:
        self.setup = setup
        weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(groups)]
        built = setup.build([{"params": [w]} for w in weights])
        self.optimizer = built["optimizer"] if isinstance(built, dict) else built
        schedules = [SimpleNamespace(**built["lr_scheduler"])] if isinstance(built, dict) else []
        self.trainer = SimpleNamespace(optimizers=[self.optimizer], lr_scheduler_configs=schedules, current_epoch=0)

    def train(self, until: int) -> None:
        while self.trainer.current_epoch < until:
            for group in self.optimizer.param_groups:
                group["params"][0].grad = torch.ones(2)
            self.optimizer.step()
            for schedule in self.trainer.lr_scheduler_configs:
                schedule.scheduler.step()
            self.trainer.current_epoch += 1

    def resume(self, other: Run) -> Run:
        states = [old.scheduler.state_dict() for old in other.trainer.lr_scheduler_configs]
        checkpoint = {"optimizer_states": [other.optimizer.state_dict()], "lr_schedulers": states}
        self.setup.resume(other.setup.settings, checkpoint)
        self.optimizer.load_state_dict(other.optimizer.state_dict())
        for mine, state in zip(self.trainer.lr_scheduler_configs, checkpoint["lr_schedulers"], strict=False):
            mine.scheduler.load_state_dict(state)
        self.trainer.current_epoch = other.trainer.current_epoch
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.setup.carry_over(self.trainer)
        return self

    def settings(self) -> list[dict]:
        return [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]


def stopped(optimizer=ADAM, schedule=None, groups: int = 1) -> Run:
    run = Run(OptimizerSetup(optimizer, schedule), groups)
    run.train(STOPPED)
    return run


def warmed_up(optimizer, total: int) -> LRScheduler:
    parts = [ConstantLR(optimizer, 0.5, total_iters=2), CosineAnnealingLR(optimizer, total)]
    return SequentialLR(optimizer, parts, milestones=[2])


SCHEDULES = {
    "none": (None, None),
    "added": (None, partial(StepLR, step_size=2)),
    "removed": (partial(StepLR, step_size=2), None),
    "another": (partial(StepLR, step_size=2), partial(LinearLR, total_iters=5)),
    "foreign": (partial(StepLR, step_size=2), partial(LambdaLR, lr_lambda=lambda epoch: 0.9**epoch)),
    "same": (partial(StepLR, step_size=2), partial(StepLR, step_size=2)),
    "longer": (partial(CosineAnnealingLR, T_max=5, eta_min=0.01), partial(CosineAnnealingLR, T_max=9, eta_min=0.01)),
    "nested": (partial(warmed_up, total=5), partial(warmed_up, total=9)),
    "cycle": (
        partial(OneCycleLR, max_lr=1.0, total_steps=8, cycle_momentum=False),
        partial(OneCycleLR, max_lr=2.0, total_steps=8, cycle_momentum=False),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_rate_is_that_of_a_run_with_these_settings_from_its_beginning(name: str, rate: float) -> None:
    before, now = SCHEDULES[name]
    unbroken = Run(OptimizerSetup(partial(AdamW, lr=rate), now))
    resumed = Run(OptimizerSetup(partial(AdamW, lr=rate), now)).resume(stopped(schedule=before))
    unbroken.train(STOPPED)
    for epoch in range(STOPPED, END):
        assert resumed.optimizer.param_groups[0]["lr"] == unbroken.optimizer.param_groups[0]["lr"], epoch
        unbroken.train(epoch + 1)
        resumed.train(epoch + 1)


class Matrices(torch.optim.SGD):
    """Takes matrices alone, as Muon does."""

    def __init__(self, params, lr: float) -> None:
        super().__init__(params, lr=lr, momentum=0.9)
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("matrices alone")


@pytest.mark.parametrize("optimizer", [Matrices, torch.optim.Adafactor])
def test_an_optimizer_of_matrices_is_resumed_at_another_rate(optimizer: type) -> None:
    """What it keeps of a matrix may be other than what it keeps of a vector; its eps may be two numbers."""
    weights = [torch.nn.Parameter(torch.ones(2, 2))]
    first = OptimizerSetup(partial(optimizer, lr=0.1), None)
    built = first.build(weights)
    weights[0].grad = torch.ones(2, 2)
    built.step()
    resumed = OptimizerSetup(partial(optimizer, lr=0.2), None)
    resumed.build([torch.nn.Parameter(torch.ones(2, 2))])
    resumed.resume(first.settings, {"optimizer_states": [built.state_dict()]})
    assert resumed.saved == first.settings


def test_changed_settings_win_and_momenta_stay() -> None:
    first = stopped()
    resumed = Run(OptimizerSetup(partial(AdamW, lr=0.1, weight_decay=0.5, betas=(0.5, 0.9)), None)).resume(first)
    [group] = resumed.settings()
    assert (group["lr"], group["weight_decay"], group["betas"]) == (0.1, 0.5, (0.5, 0.9))
    [state], [old] = resumed.optimizer.state.values(), first.optimizer.state.values()
    assert state["step"] == STOPPED and torch.equal(state["exp_avg"], old["exp_avg"]) and old["exp_avg"].any()


def test_each_group_has_its_own_settings() -> None:
    """The critic's rate is that of the second group."""

    def rates(first: float, second: float):
        def build(groups):
            groups[1]["lr"] = second
            return AdamW(groups, lr=first)

        return build

    resumed = Run(OptimizerSetup(rates(0.1, 0.7), None), 2).resume(stopped(rates(0.1, 0.2), groups=2))
    assert [group["lr"] for group in resumed.settings()] == [0.1, 0.7]


def test_what_an_optimizer_counts_in_its_groups_is_left_alone() -> None:
    """Some keep a state of theirs beside the settings; as they are configured alike, what was restored stays."""

    class Counting(AdamW):
        def __init__(self, groups, lr) -> None:
            super().__init__(groups, lr)
            self.param_groups[0]["k"] = 0

        def step(self, closure=None):
            self.param_groups[0]["k"] += 1
            super().step(closure)

    resumed = Run(OptimizerSetup(partial(Counting, lr=0.2), None)).resume(stopped(partial(Counting, lr=0.1)))
    assert resumed.settings()[0]["k"] == STOPPED and resumed.settings()[0]["lr"] == 0.2


class Halving(LRScheduler):
    """A schedule that keeps its rule as a function."""

    def __init__(self, optimizer) -> None:
        self.rule = lambda epoch: 0.5**epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [rate * self.rule(self.last_epoch) for rate in self.base_lrs]


def test_a_schedule_of_a_function_is_the_same_in_every_process() -> None:
    """Its address is not, and would make it look like another one."""
    first, second = (Run(OptimizerSetup(ADAM, Halving)) for _ in range(2))
    assert first.setup.settings == second.setup.settings


def test_another_optimizer_is_refused() -> None:
    message = (
        r"model\.optimizer is SGD and that of the run .* is AdamW, whose state no other can go on with; wanted AdamW"
    )
    with pytest.raises(SettingsError, match=message):
        Run(OptimizerSetup(partial(SGD, lr=0.1), None)).resume(stopped())


def test_what_was_not_kept_cannot_be_gone_on_with() -> None:
    """AMSGrad needs the largest second moment so far; the other way round nothing is missing."""
    message = r"init_args\.amsgrad differ .* which kept no max_exp_avg_sq of its weights"
    with pytest.raises(SettingsError, match=message):
        Run(OptimizerSetup(partial(ADAM, amsgrad=True), None)).resume(stopped())
    Run(OptimizerSetup(ADAM, None)).resume(stopped(partial(ADAM, amsgrad=True))).train(END)
    Run(OptimizerSetup(partial(SGD, lr=0.1, momentum=0.9), None)).resume(stopped(partial(SGD, lr=0.1))).train(END)


@pytest.mark.parametrize(
    ("dtype", "epsilon", "refused"),
    [
        (torch.float16, 1e-8, True),  # below half of 2^-24, float16's smallest number
        (torch.float16, 1e-7, False),
        (torch.bfloat16, 1e-8, False),
        (torch.float32, 1e-8, False),
        (torch.float16, 0.0, False),  # as asked for
    ],
)
def test_an_epsilon_that_vanishes_is_refused(dtype: torch.dtype, epsilon: float, refused: bool) -> None:
    setup = OptimizerSetup(partial(AdamW, lr=0.1, eps=epsilon), None)
    weights = [torch.nn.Parameter(torch.ones(2, dtype=dtype))]
    if refused:
        with pytest.raises(SettingsError, match=r"eps 1e-08, which is 0 in torch\.float16 weights"):
            setup.build(weights)
    else:
        setup.build(weights)

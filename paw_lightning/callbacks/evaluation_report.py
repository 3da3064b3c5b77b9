"""EvaluationReport: what `validate` and `test` have found, as sentences, as a page and as numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.evaluation_statistics import Line, lines
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import run_folder, shown
from paw_lightning.types import Evaluation

SAID_KINDS = 20
"""Kinds of task that the terminal tells of; the page has all."""
EXPLANATION = """\
Intervals are of 95 %, for another draw of tasks: Wilson's. Several episodes of one task are alike, so they count as
fewer. pass@k is how likely one of k attempts at a task wins, and best of k the mean return of the best of them, both
over all choices of k of a task's episodes.
"""


class EvaluationReport(RolloutCallback):
    """Says how `validate` or `test` went, in the terminal and as `<split>_report.md` and `.json` in the run's folder.

    Success with 95 % intervals, by kind of task where the environment names kinds (``info["kind"]``) or is a mixture;
    with `data.test_samples` above 1 also what the best of several attempts wins; one table for each of
    `rollout.test_temperatures`.

    Args:
        enabled: false says nothing.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.evaluations: list[Evaluation] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget what was interrupted."""
        self.evaluations = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget what was interrupted."""
        self.evaluations = []

    def on_evaluation_end(self, trainer: L.Trainer, pl_module: L.LightningModule, evaluation: Evaluation) -> None:
        """Keep what was played; the validations of a training run are curves."""
        if self.enabled and trainer.state.fn in (TrainerFn.VALIDATING, TrainerFn.TESTING):
            self.evaluations.append(evaluation)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report a `validate`."""
        self._report(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report a `test`."""
        self._report(trainer, pl_module)

    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        evaluations, self.evaluations = self.evaluations, []
        if not evaluations:
            return
        assert isinstance(pl_module, PaWModule)
        policy = named(trainer, pl_module)
        rank_zero_info(f"policy:  {policy}")
        for evaluation in evaluations:
            for sentence in sentences(evaluation):
                rank_zero_info(sentence)
        folder = run_folder(trainer)  # asks all ranks
        if folder is not None and trainer.is_global_zero:
            write(folder, policy, evaluations)
            rank_zero_info(f"report:  {shown(folder / report_name(evaluations))}")


def named(trainer: L.Trainer, module: PaWModule) -> str:
    """Whose weights have played."""
    if trainer.ckpt_path:
        return f"the checkpoint {trainer.ckpt_path}"
    if trainer.global_step:
        return f"{module.path}, as trained in this process"
    return f"{module.path}, as it is" if module.weights == "pretrained" else f"random weights of {module.path}"


def sentences(evaluation: Evaluation) -> list[str]:
    """What the terminal says."""
    said = []
    for number, found in enumerate(lines(evaluation)[: 1 + SAID_KINDS]):
        low, high = found.interval
        of = f"{found.tasks} tasks" + (f" x {found.samples}" if found.samples > 1 else "")
        best = "".join(f", pass@{k} {rate:.1%}" for k, rate in [*found.pass_at.items()][-1:])
        head = f"         {found.kind}:" if number else f"{evaluation.split} at temperature {evaluation.temperature:g}:"
        said.append(f"{head} {found.success_rate:.1%} of {of} (95 % interval {low:.1%} to {high:.1%}){best}")
    if evaluation.failures:
        lost, last = len(evaluation.failures), evaluation.failures[-1]
        said.append(f"         {lost} more were lost to their environment; the last failure: {last}")
    return said


def report_name(evaluations: Sequence[Evaluation]) -> str:
    """The page's file."""
    return f"{evaluations[0].split}_report.md"


def write(folder: Path, policy: str, evaluations: Sequence[Evaluation]) -> None:
    """The page, and its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / report_name(evaluations)
    page.write_text(markdown(policy, evaluations), encoding="utf-8")
    page.with_suffix(".json").write_text(json.dumps(numbers(policy, evaluations), indent=1) + "\n", encoding="utf-8")


def numbers(policy: str, evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The report for programs; rates and interval ends in [0, 1]."""
    parts = [
        {
            "temperature": evaluation.temperature,
            "lost_tasks": len(evaluation.failures),
            "lines": [asdict(found) for found in lines(evaluation)],
        }
        for evaluation in evaluations
    ]
    return {"policy": policy, "split": evaluations[0].split, "evaluations": parts}


def markdown(policy: str, evaluations: Sequence[Evaluation]) -> str:
    """The report for people."""
    parts = [f"# {evaluations[0].split.capitalize()} report\n\nPolicy: {policy}.\n"]
    for evaluation in evaluations:
        parts.append(f"## Temperature {evaluation.temperature:g}\n\n{table(lines(evaluation))}")
        if evaluation.failures:
            parts.append(f"{len(evaluation.failures)} tasks were lost to their environment and count nowhere.\n")
    return "\n".join([*parts, EXPLANATION])


def table(found: Sequence[Line]) -> str:
    """A Markdown table of the lines; a sentence where there are none."""
    if not found:
        return "No task could be played.\n"
    attempts = [*found[0].pass_at]
    heads = ["tasks", "number", "success", "95 % interval", "return", "turns"]
    heads += [f"pass@{k}" for k in attempts] + [f"best of {k}" for k in attempts]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)], *map(cells, found)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def cells(found: Line) -> list[str]:
    """One row."""
    low, high = found.interval
    number = f"{found.tasks}" + (f" x {found.samples}" if found.samples > 1 else "")
    kind = found.kind.replace("|", "\\|").replace("\n", " ")
    row = [kind, number, f"{found.success_rate:.1%}", f"{low:.1%} to {high:.1%}"]
    row += [f"{found.mean_return:.3g}", f"{found.turns:.1f}"]
    row += [f"{rate:.1%}" for rate in found.pass_at.values()]
    return row + [f"{value:.3g}" for value in found.best_of.values()]

"""LoggerSetup: what a run's loggers get besides curves, whichever they are."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from paw_lightning.event_files import EVENTS
from paw_lightning.training.loggers import FolderCurves, keep_curves, unserved, write_settings
from paw_lightning.training.module import PaWModule
from paw_lightning.training.run_folder import run_folder, shown

FIRST_PAGE = {
    "1 Does it learn?": {
        "success": ["rollout/success_rate", "val/success_rate"],
        "return": ["rollout/return", "val/return"],
    },
    "2 Policy": {
        "entropy, nats": ["train/entropy", "rollout/action_entropy"],
        "KL, nats": ["train/approx_kl", "train/reference_kl"],
        "share of clipped tokens": ["train/clip_fraction"],
    },
    "3 World model": {
        "loss": ["train/wm_loss"],
        "-log p of a target token, nats": ["wm/observation_nll", "val/observation_nll"],
        "lambda": ["wm/coefficient", "wm/coefficient_max"],
        "share of transitions predicted": ["wm/selected_fraction"],
    },
    "4 Seconds of an iteration": {
        "by phase": [
            *(f"time/rollout_{phase}_s" for phase in ("generation", "environment", "tokenization", "scoring")),
            "time/update_s",
            "time/validation_s",
        ],
    },
}
"""TensorBoard's tab CUSTOM SCALARS: {heading: {chart: curves}}; the tab sorts headings by name."""


class LoggerSetup(L.Callback):
    """Gives each of a run's loggers what Lightning's common interface has no word for.

    All settings of the run (`log_hyperparams`) and `config.yaml`; TensorBoard a first page of the curves that matter,
    under CUSTOM SCALARS; the run's folder its curves, where no logger writes them there. A logger that takes no texts
    and histograms is named once: what it would have got lies in the run's folder.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Add the curves' file, when every logger knows its folder and nothing has been logged."""
        folder = run_folder(trainer)  # asks all ranks
        if stage != "fit" or folder is None or any(_writes_curves(logger, folder) for logger in trainer.loggers):
            return
        curves = FolderCurves(folder)
        keep_curves(curves)
        trainer.loggers.append(curves)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write what a run has once."""
        assert isinstance(pl_module, PaWModule)
        folder = run_folder(trainer)  # asks all ranks
        if folder is None or not trainer.is_global_zero:
            return
        for logger in unserved(trainer.loggers):
            if not isinstance(logger, CSVLogger):
                name = type(logger).__name__
                rank_zero_info(f"logger:  {name} takes no episodes and histograms; they are files in {shown(folder)}")
        if pl_module.configuration is not None:
            write_settings(trainer, pl_module.configuration, folder / "config.yaml")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and not _continues(logger):
                logger.experiment.add_custom_scalars(first_page())


def first_page() -> dict[str, dict[str, list[object]]]:
    """The first page as SummaryWriter takes it; a curve is named by a pattern, which has to end where its name does."""
    return {
        heading: {chart: ["Multiline", [f"{tag}$" for tag in tags]] for chart, tags in charts.items()}
        for heading, charts in FIRST_PAGE.items()
    }


def _writes_curves(logger: object, folder: Path) -> bool:
    return isinstance(logger, TensorBoardLogger | CSVLogger) and Path(logger.log_dir).resolve() == folder.resolve()


def _continues(logger: TensorBoardLogger) -> bool:
    """Its folder has the event files of an earlier process, with a first page in them."""
    return len(list(Path(logger.log_dir).glob(EVENTS))) > 1

"""The command line: ``paw-lightning fit|validate|test --config FILE ...``."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from paw_lightning import callbacks
from paw_lightning.datamodule import RolloutDataModule
from paw_lightning.module import PaWModule

# Callbacks get keys of their own: of a list only the last item could be overridden from the command line.
SECTIONS = {
    "rollout": callbacks.EnvironmentLoop,
    "entropy_selection": callbacks.EntropySelection,
    "reward_balance": callbacks.RewardBalance,
    "rollout_samples": callbacks.RolloutSamples,
    "policy_export": callbacks.PolicyExport,
    "success_report": callbacks.SuccessReport,
}
TRAINER_DEFAULTS: dict[str, Any] = {
    "log_every_n_steps": 1,
    "inference_mode": False,  # tensors made under it may not enter a sharded model's training later
    "enable_model_summary": False,
    "logger": {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": "runs", "name": "paw_lightning"},
    },
}


class PaWCLI(LightningCLI):
    """A LightningCLI with one top-level section for each of the package's callbacks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections; one seed rules everything random."""
        for name, callback in SECTIONS.items():
            parser.add_lightning_class_args(callback, name)
        parser.link_arguments("seed_everything", "data.seed")


def main(args: list[str] | None = None) -> PaWCLI:
    """Run one command line."""
    return PaWCLI(
        PaWModule,
        RolloutDataModule,
        args=args,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        trainer_defaults={
            **TRAINER_DEFAULTS,
            "callbacks": [callbacks.GracefulStop(), callbacks.IterationProgressBar()],
        },
        save_config_kwargs={"overwrite": True},
    )


if __name__ == "__main__":
    main()

"""The top-level keys of a configuration, and the subcommands; names only, so that reading them imports nothing."""

SECTIONS = {
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
    "model": "paw_lightning.training.module.PaWModule",
    "data": "paw_lightning.training.datamodule.RolloutDataModule",
    "rollout": "paw_lightning.callbacks.EnvironmentLoop",
    "entropy_selection": "paw_lightning.callbacks.EntropySelection",
    "target_control": "paw_lightning.callbacks.TargetControl",
    "reward_balance": "paw_lightning.callbacks.RewardBalance",
    "canaries": "paw_lightning.callbacks.Canaries",
    "world_model_health": "paw_lightning.callbacks.WorldModelHealth",
    "run_health": "paw_lightning.callbacks.RunHealth",
    "run_cost": "paw_lightning.callbacks.RunCost",
    "rollout_files": "paw_lightning.callbacks.RolloutFiles",
    "rollout_samples": "paw_lightning.callbacks.RolloutSamples",
    "graceful_stop": "paw_lightning.callbacks.GracefulStop",
    "policy_export": "paw_lightning.callbacks.PolicyExport",
    "success_report": "paw_lightning.callbacks.SuccessReport",
    "evaluation_report": "paw_lightning.callbacks.EvaluationReport",
    "last_checkpoint": "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "best_checkpoint": "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
}
"""Section of a configuration -> the class whose arguments stand in it."""
SINGLE_KEYS = ("config", "print_config", "help", "seed_everything", "ckpt_path", "weights_only", "verbose")
"""Keys without a section. The last two are for experts: they are arguments of Lightning's methods."""

TRAINING = {
    "fit": "train a policy and its world model",
    "validate": "play the validation tasks with a policy or a checkpoint",
    "test": "play the test tasks with a policy or a checkpoint",
}
"""Subcommands that Lightning runs."""
COMMANDS = {
    "play": ("paw_lightning.commands.play", "play an environment in the terminal, or watch a policy play it"),
    "check": ("paw_lightning.commands.check", "look at one environment, prompt and training row before training"),
    "estimate": ("paw_lightning.commands.estimate", "memory and time that a configuration will need"),
    "compare": ("paw_lightning.compare.command", "train several methods with several seeds and compare them"),
    "plot": ("paw_lightning.commands.plot", "draw the curves of a run"),
    "view": (
        "paw_lightning.commands.view",
        "read a run's episodes token by token in a browser, or two runs side by side",
    ),
    "export": ("paw_lightning.commands.export", "write a checkpoint's policy as a Hugging Face model"),
    "configs": ("paw_lightning.commands.configs", "list the shipped configurations, or copy one to edit"),
}
"""Other subcommands: the module whose function `command` runs it, and what it does."""

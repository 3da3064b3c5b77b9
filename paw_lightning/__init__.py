"""PaW: policy and world-model co-training for language agents, on PyTorch Lightning.

The names below are imported when they are first asked for, so that ``import paw_lightning`` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paw_lightning.callbacks import (
        Canaries,
        EntropySelection,
        EnvironmentLoop,
        EvaluationReport,
        GracefulStop,
        IterationProgressBar,
        LoggerSetup,
        PolicyExport,
        RewardBalance,
        RolloutFiles,
        RolloutSamples,
        SuccessReport,
        TargetControl,
        WorldModelHealth,
    )
    from paw_lightning.envs import (
        HiddenRuleEnv,
        HouseholdEnv,
        MixtureEnv,
        RecordedEpisodes,
        SafeEnv,
        SearchEnv,
        ShopEnv,
        TextEnv,
        ToolEnv,
        ToolError,
        WorkerEnv,
    )
    from paw_lightning.models.lora import LoRA
    from paw_lightning.policy.advantages import GAE, GRPO, HGPO, RLOO, GiGPO, GraphGPO, Imitation, NoReward
    from paw_lightning.policy.losses import PolicyLoss
    from paw_lightning.text.prompts import Prompt
    from paw_lightning.training.datamodule import RolloutDataModule
    from paw_lightning.training.module import PaWModule
    from paw_lightning.training.muon import MuonWithAdamW
    from paw_lightning.world_model.loss import WorldModelLoss

__version__ = "0.1.0"
__all__ = [
    "GAE",
    "GRPO",
    "HGPO",
    "RLOO",
    "Canaries",
    "EntropySelection",
    "EnvironmentLoop",
    "EvaluationReport",
    "GiGPO",
    "GracefulStop",
    "GraphGPO",
    "HiddenRuleEnv",
    "HouseholdEnv",
    "Imitation",
    "IterationProgressBar",
    "LoRA",
    "LoggerSetup",
    "MixtureEnv",
    "MuonWithAdamW",
    "NoReward",
    "PaWModule",
    "PolicyExport",
    "PolicyLoss",
    "Prompt",
    "RecordedEpisodes",
    "RewardBalance",
    "RolloutDataModule",
    "RolloutFiles",
    "RolloutSamples",
    "SafeEnv",
    "SearchEnv",
    "ShopEnv",
    "SuccessReport",
    "TargetControl",
    "TextEnv",
    "ToolEnv",
    "ToolError",
    "WorkerEnv",
    "WorldModelHealth",
    "WorldModelLoss",
]

_HOMES = {
    "callbacks": "Canaries EntropySelection EnvironmentLoop EvaluationReport GracefulStop IterationProgressBar "
    "LoggerSetup PolicyExport RewardBalance RolloutFiles RolloutSamples SuccessReport TargetControl WorldModelHealth",
    "envs": "HiddenRuleEnv HouseholdEnv MixtureEnv RecordedEpisodes SafeEnv SearchEnv ShopEnv TextEnv ToolEnv "
    "ToolError WorkerEnv",
    "models.lora": "LoRA",
    "policy.advantages": "GAE GRPO GiGPO GraphGPO HGPO Imitation NoReward RLOO",
    "policy.losses": "PolicyLoss",
    "text.prompts": "Prompt",
    "training.datamodule": "RolloutDataModule",
    "training.module": "PaWModule",
    "training.muon": "MuonWithAdamW",
    "world_model.loss": "WorldModelLoss",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it (PEP 562)."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value  # the next look-up finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

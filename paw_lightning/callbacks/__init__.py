"""Lightning callbacks: the environment loop, PaW's three parts, checks, and what a person sees of a run."""

from paw_lightning.callbacks.base import RolloutCallback
from paw_lightning.callbacks.canaries import Canaries
from paw_lightning.callbacks.environment_loop import EnvironmentLoop
from paw_lightning.callbacks.evaluation_report import EvaluationReport
from paw_lightning.callbacks.graceful_stop import GracefulStop
from paw_lightning.callbacks.logger_setup import LoggerSetup
from paw_lightning.callbacks.policy_export import PolicyExport
from paw_lightning.callbacks.progress import IterationProgressBar
from paw_lightning.callbacks.rollout_files import RolloutFiles
from paw_lightning.callbacks.rollout_samples import RolloutSamples
from paw_lightning.callbacks.run_cost import RunCost
from paw_lightning.callbacks.run_health import RunHealth
from paw_lightning.callbacks.success_report import SuccessReport
from paw_lightning.callbacks.world_model_health import WorldModelHealth
from paw_lightning.world_model.callbacks import EntropySelection, RewardBalance, TargetControl

__all__ = [
    "Canaries",
    "EntropySelection",
    "EnvironmentLoop",
    "EvaluationReport",
    "GracefulStop",
    "IterationProgressBar",
    "LoggerSetup",
    "PolicyExport",
    "RewardBalance",
    "RolloutCallback",
    "RolloutFiles",
    "RolloutSamples",
    "RunCost",
    "RunHealth",
    "SuccessReport",
    "TargetControl",
    "WorldModelHealth",
]

"""Text environments: plain Python, no torch."""

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.household import HouseholdEnv
from paw_lightning.envs.worker import WorkerEnv

__all__ = ["HouseholdEnv", "TextEnv", "WorkerEnv"]

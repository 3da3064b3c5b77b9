"""An environment in a process of its own."""

from paw_lightning.envs.worker.env import WorkerEnv

__all__ = ["WorkerEnv"]

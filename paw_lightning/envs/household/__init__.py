"""The household world: ALFWorld's text engine in plain Python."""

from paw_lightning.envs.household.env import HouseholdEnv

__all__ = ["HouseholdEnv"]

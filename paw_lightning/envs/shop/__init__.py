"""The shop world: WebShop's text engine in plain Python."""

from paw_lightning.envs.shop.env import ShopEnv

__all__ = ["ShopEnv"]

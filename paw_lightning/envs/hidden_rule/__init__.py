"""The hidden-rule world: which lever opens which door has to be found out, and how much can be known is exact."""

from paw_lightning.envs.hidden_rule.env import HiddenRuleEnv

__all__ = ["HiddenRuleEnv"]

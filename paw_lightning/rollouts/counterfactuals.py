"""What the world would have answered to another action (`target_control.targets: wrong_action`)."""

from __future__ import annotations

from collections.abc import Sequence

from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.episodes import EpisodeError, check_observation, describe


def counterfactual(env: TextEnv, admissible: Sequence[str] | None, taken: str, drawn: int) -> str | None:
    """The answer to another admissible action than the one taken; None where there is no other.

    Args:
        drawn: a random number that chooses among the others.

    Raises:
        EpisodeError: the environment fails.
        SettingsError: it lists no admissible commands, or cannot answer without playing.
    """
    others = sorted(set(admissible or []) - {taken})
    if admissible is None:
        raise SettingsError(
            f"target_control.targets is 'wrong_action' and {type(env).__name__} lists no "
            "info['admissible_commands'], of which it draws another action; wanted other targets or another "
            "rollout.environment"
        )
    if not others:
        return None
    other = others[drawn % len(others)]
    try:
        observation = env.peek(other)
        check_observation(observation, True)
    except NotImplementedError as error:  # not a broken episode: no group could be played
        raise SettingsError(str(error)) from error
    except FAILURES as error:
        raise EpisodeError(describe(env, f"peek({other!r})", error)) from error
    return observation

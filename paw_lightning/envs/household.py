"""The household environment: ALFWorld's games and generated houses behind the text environment protocol."""

from __future__ import annotations

NUISANCES = ("none", "random_ids", "stochastic")
FAILURE_PROBABILITY = 0.2
"""How often an action that would change the house fails under ``nuisance: stochastic``."""
FAILURE = "You fumble, and nothing changes."


class HouseholdEnv:
    """Household tasks in text: official ALFWorld games, or seeded houses with the same rules and words.

    Three sources: one official game (``game_file``), a folder of official games (``data_path``), generated houses
    (neither). Plays exactly one of ALFWorld's six ``tasks`` per episode, reward ``success_reward`` when it is solved.

    Args:
        split: "train", "val" or "test"; with ``data_path`` the folders train, valid_seen and valid_unseen.
        game_file: path of one ``game.tw-pddl``; every seed plays it.
        data_path: the folder that contains ``json_2.1.1``, that folder, or a split's folder (then any split plays it).
            ``~`` and environment variables are expanded; empty means generated houses.
        tasks: which task types occur; in generated houses a name given twice is twice as likely.
        receptacles: number of receptacles in a generated house.
        objects: number of objects in a generated house, a task's lamp included.
        nuisance: "random_ids" ends each observation with a tag that nobody can predict; "stochastic" makes
            state-changing actions fail with probability 0.2. Both depend on ``options["episode_seed"]``.
        success_reward: reward of the winning step, and ``info["max_reward"]``.
        brief_intro: leave the welcome and the task out of the first observation (the task is in ``info["task"]``).
        num_tasks: use only this many tasks of the split; None means all games, or as many houses as there are seeds.

    Raises:
        ValueError: a value that cannot work; the message names the key.
    """

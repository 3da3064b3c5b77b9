"""The hidden-rule environment: its texts, what a rule holds for, what is seeded, and its errors."""

from __future__ import annotations

import pytest

from paw_lightning.envs import HiddenRuleEnv, TextEnv
from paw_lightning.envs.hidden_rule.env import DOORS, LEVERS, rows_of_doors
from paw_lightning.errors import SettingsError

SMALL = {"doors": 4, "levers": 3, "horizon": 2}


def wrong(env: HiddenRuleEnv) -> str:
    """A lever that is not the right one now."""
    start, _, right = env.demonstrate().rpartition(" ")
    return next(f"{start} {lever}" for lever in env.levers if lever != right)


def test_an_episode_word_by_word() -> None:
    env = HiddenRuleEnv("val", **SMALL, success_reward=2.0)
    assert isinstance(env, TextEnv) and env.num_tasks == 1  # a tenth of 4 * 3 rows
    observation, info = env.reset(seed=5)
    first, second = rows_of_doors(4, 2)["val"][0]
    assert observation == f"You stand before the {first} door."
    assert info == {
        "admissible_commands": [f"open {first} with {lever}" for lever in ("amber", "black", "blue")],
        "won": False,
        "task": "Open 2 doors with at most 3 pulls. The levers are amber, black, blue.",
        "max_reward": 2.0,
        "group_key": "val/0",
        "nuisance_spans": [],
    }
    bolt = env.demonstrate().split()[-1]
    assert env.step(wrong(env))[:4] == (f"The door stays shut. Its bolt reads {first} with {bolt}.", 0.0, False, False)
    text, reward, over, _, info = env.step(env.demonstrate())
    assert (text, reward, over) == (f"The door opens. Next is the {second} door.", 0.0, False)
    [(start, stop)] = info["nuisance_spans"]
    assert text[start:stop] == second, "which door comes next is in no rule"
    assert env.step(env.demonstrate())[:3] == ("The door opens. You are free.", 2.0, True)
    with pytest.raises(RuntimeError, match=r"reset\(\) before step"):
        env.step("open oak with red")


def test_the_last_turn_tells_as_much_as_any() -> None:
    env = HiddenRuleEnv(**SMALL, spare=0)
    env.reset(seed=0)
    env.step(wrong(env))
    text, reward, over, _, info = env.step(wrong(env))
    assert "Its bolt reads" in text and (reward, over, info["won"]) == (0.0, True, False)


def test_what_is_no_pull_costs_a_turn() -> None:
    env = HiddenRuleEnv(**SMALL)
    env.reset(seed=0)
    door, other = (row := rows_of_doors(4, 2)["train"][0])
    # another door than the one in front of the player, and a lever of larger worlds
    answers = [env.step(action) for action in (f"open {other} with amber", f"open {door} with violet", "look")]
    assert row == env._row
    assert [answer[0] for answer in answers] == ["Nothing happens."] * 3
    assert [answer[2] for answer in answers] == [False, False, True]


def test_one_rule_holds_in_all_splits_and_another_seed_gives_another() -> None:
    rules = [HiddenRuleEnv(split, rule_seed=7).rule for split in ("train", "val", "test")]
    assert rules[0] == rules[1] == rules[2] != HiddenRuleEnv(rule_seed=8).rule
    two = [HiddenRuleEnv(doors=3, levers=2, horizon=2, rule_seed=seed).rule for seed in range(200)]
    drawn = [lever for rule in two for lever in rule.values()]
    # 600 drawn of two: 300 +- 4 * sqrt(150)
    assert abs(drawn.count("amber") - 300) < 49


def test_no_two_splits_share_a_row_and_each_row_is_of_different_doors() -> None:
    rows = rows_of_doors(12, 3)
    assert {name: len(own) for name, own in rows.items()} == {"val": 132, "test": 132, "train": 1056}
    together = [row for own in rows.values() for row in own]
    assert len(set(together)) == 12 * 11 * 10 and all(len(set(row)) == 3 for row in together)
    assert {door for row in rows["train"] for door in row} == set(DOORS[:12]), "nothing is asked that training lacks"


def test_noise_and_slips_are_the_episode_seed_s() -> None:
    env = HiddenRuleEnv(**SMALL, spare=8, slip=0.3, noise=0.4)

    def play(seed: int) -> list[str]:
        env.reset(seed=1, options={"episode_seed": seed})
        action = wrong(env)
        answers = []
        for _ in range(8):
            seen = env.peek(action)
            answers.append(env.step(action)[0])
            assert answers[-1] == seen, "a peek changes nothing and sees what comes"
        return answers

    assert play(0) == play(0) != play(1)
    assert len({answer for seed in range(5) for answer in play(seed)}) == 4  # it jams, or any of three colours


def test_what_noise_makes_is_labelled() -> None:
    """Jams and misread bolts are unpredictable, right ones are not."""
    env = HiddenRuleEnv(**SMALL, spare=80, slip=0.3, noise=0.4)
    env.reset(seed=1, options={"episode_seed": 0})
    bolt, action = env.demonstrate().split()[-1], wrong(env)
    for _ in range(60):
        text, *_, info = env.step(action)
        labelled = [text[start:stop] for start, stop in info["nuisance_spans"]]
        if text == "The lever jams.":
            assert labelled == [text]
        else:
            seen = text.removesuffix(".").split()[-1]
            assert labelled == ([] if seen == bolt else [seen])


@pytest.mark.parametrize(("doors", "last"), [(3, []), (4, ["next"])])
def test_the_next_door_is_labelled_unless_it_is_the_only_one_left(doors: int, last: list[str]) -> None:
    """Of three kinds the second door may be two, the third is what remains; of four it may still be two."""
    env = HiddenRuleEnv(doors=doors, levers=2, horizon=3, spare=0)
    env.reset(seed=0)
    for labels in (["next"], last):
        text, *_, info = env.step(env.demonstrate())
        following = text.split()[-2]
        assert [text[start:stop] for start, stop in info["nuisance_spans"]] == [following for _ in labels]


def test_what_a_wrong_pull_shows() -> None:
    """The rule, the lever alone, or nothing: of the same door."""
    shown = []
    for tells in ("rule", "lever", "nothing"):
        env = HiddenRuleEnv(**SMALL, tells=tells)
        door = env.reset(seed=0)[0].split()[-2]
        shown.append(env.step(wrong(env))[0])
    lever = env.rule[door]
    assert shown == [
        f"The door stays shut. Its bolt reads {door} with {lever}.",
        f"The door stays shut. It opens with {lever}.",
        "The door stays shut.",
    ]


def test_dense_pays_by_the_door_and_nothing_tells_nothing() -> None:
    env = HiddenRuleEnv(**SMALL, reward="dense", tells="nothing", success_reward=3.0)
    env.reset(seed=0)
    assert env.step(wrong(env))[0].endswith("door stays shut.")
    assert [env.step(env.demonstrate())[1] for _ in range(2)] == [1.5, 1.5]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"doors": 2}, "doors is 2; wanted from 3 to 24"),
        ({"levers": 1}, "levers is 1; wanted from 2 to 16"),
        ({"horizon": 1}, "horizon is 1; wanted from 2 to 12"),
        ({"doors": 24, "horizon": 5}, "horizon is 5; wanted at most 3 with 24 doors, or fewer doors"),
        ({"spare": -1}, "spare is -1; wanted at least 0"),
        ({"slip": 1.0}, "slip is 1.0; wanted a probability below 1"),
        ({"noise": 0.6}, "noise is 0.6; wanted a probability of at most 0.5"),
        ({"tells": "all"}, r"tells is 'all'; wanted one of \['rule', 'lever', 'nothing'\]"),
        ({"reward": "rich"}, r"reward is 'rich'; wanted one of \['sparse', 'dense'\]"),
        ({"success_reward": 0}, "success_reward is 0; wanted a positive number"),
        ({"num_tasks": 2000}, "num_tasks is 2000; wanted between 1 and 1056"),
    ],
)
def test_wrong_settings_are_named(settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=f"rollout.environment.init_args.{message}"):
        HiddenRuleEnv(**settings)


def test_names_are_one_word_each_and_different() -> None:
    assert len({*DOORS, *LEVERS}) == len(DOORS) + len(LEVERS) == 40
    assert all(name.isalpha() for name in DOORS + LEVERS) and sorted(LEVERS) == LEVERS

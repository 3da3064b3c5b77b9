"""The environment class on generated houses: protocol, options, errors."""

import pickle
import random
import re
import sys
from typing import Any

import pytest

from paw_lightning.envs import HouseholdEnv, TextEnv
from paw_lightning.envs.household.env import FAILURE


def transcript(env: HouseholdEnv, seed: int = 0, steps: int = 30, **options: Any) -> list[Any]:
    """Random play with its own dice: everything the environment returned."""
    rng = random.Random(7)
    returned: list[Any] = [env.reset(seed=seed, options=options)]
    info = returned[0][1]
    for _ in range(steps):
        returned.append(env.step(rng.choice(info["admissible_commands"])))
        if returned[-1][2]:
            break
        info = returned[-1][4]
    return returned


def test_it_speaks_the_protocol() -> None:
    env = HouseholdEnv("val", success_reward=10.0)
    assert isinstance(env, TextEnv)
    assert env.num_tasks is None
    observation, info = env.reset(seed=5)
    assert observation.endswith(f"Your task is to: {info['task']}")
    assert info["admissible_commands"] == sorted(info["admissible_commands"])
    assert {"help", "inventory", "look"} < set(info["admissible_commands"])
    assert (info["won"], info["max_reward"], info["group_key"], info["nuisance_spans"]) == (False, 10.0, "val/5", [])
    plan = env.expert_plan()
    steps = [env.step(command) for command in plan]
    assert [step[1] for step in steps] == [0.0] * (len(plan) - 1) + [10.0]
    assert [step[2] for step in steps] == [False] * (len(plan) - 1) + [True]
    assert not any(step[3] for step in steps)
    assert steps[-1][4]["won"]
    assert set(steps[-1][4]) == set(info)
    assert env.walkthrough is None
    env.close()


@pytest.mark.parametrize("task", ["clean", "heat", "pick_two", "look"])
def test_one_name_is_one_state(task: str) -> None:
    """Whatever way led to it, the house reacts to the same commands, and the expert has as far to go.

    But for doors far away, which names leave out: none is ever closed here, and the expert may have to open one.
    """
    env = HouseholdEnv(tasks=[task], receptacles=4, objects=6, state_keys=True)
    rng, found, meetings = random.Random(1), dict[str, tuple[list[str], int]](), 0
    for _ in range(60):
        _, info = env.reset(seed=3)
        for _ in range(40):
            doors = sum(command.startswith("open") for command in env.expert_plan())
            seen = info["admissible_commands"], len(env.expert_plan()) - doors
            meetings += info["state_key"] in found
            assert found.setdefault(info["state_key"], seen) == seen
            useful = [c for c in info["admissible_commands"] if c.split()[0] not in ("look", "help", "close")]
            _, _, won, _, info = env.step(env.expert_plan()[0] if rng.random() < 0.4 else rng.choice(useful))
            if won:
                break
    assert meetings > 200 and len(found) > 50


def test_the_name_of_a_state_by_hand() -> None:
    env = HouseholdEnv(tasks=["clean"], state_keys=True)
    assert env.reset(seed=0)[1]["state_key"] == "", "in the middle of the room"
    assert [env.step(command)[4]["state_key"] for command in env.expert_plan()] == [
        "drawer 1",
        "drawer 1; open drawer 1",
        "drawer 1; open drawer 1; held cloth 1",
        "sinkbasin 1; held cloth 1",
        "sinkbasin 1; held cloth 1 clean",
        "cabinet 1; held cloth 1 clean",
        "cabinet 1; open cabinet 1; held cloth 1 clean",
        "cabinet 1; open cabinet 1; cloth 1 in cabinet 1 clean",
    ]
    assert "state_key" not in HouseholdEnv().reset(seed=0)[1]


def test_step_needs_a_running_episode() -> None:
    env = HouseholdEnv()
    for call in (lambda: env.step("look"), env.expert_plan, lambda: env.walkthrough):
        with pytest.raises(RuntimeError, match=r"call reset\(\)"):
            call()
    env.reset(seed=0)
    for command in env.expert_plan():
        env.step(command)
    with pytest.raises(RuntimeError, match="episode is over"):
        env.step("look")
    env.reset(seed=0)
    assert env.step(" inventory \n")[0] == "You are not carrying anything."


def test_seeds_and_splits_are_different_houses() -> None:
    train, again, val = HouseholdEnv("train"), HouseholdEnv("train"), HouseholdEnv("val")
    houses = [train.reset(seed=seed)[0] for seed in range(50)]
    assert houses == [again.reset(seed=seed)[0] for seed in range(50)]
    assert len(set(houses)) == 50
    assert not set(houses) & {val.reset(seed=seed)[0] for seed in range(50)}


def test_num_tasks_bounds_the_seeds() -> None:
    env = HouseholdEnv(num_tasks=3)
    assert env.num_tasks == 3
    assert env.reset(seed=4) == env.reset(seed=1)
    assert {env.reset()[1]["group_key"] for _ in range(60)} == {"train/0", "train/1", "train/2"}


def test_tasks_weigh_by_repetition() -> None:
    env = HouseholdEnv(tasks=["look", "look", "look", "pick"])
    looks = sum("examine" in env.reset(seed=seed)[1]["task"] for seed in range(400))
    # 3/4 of 400 draws: 300 expected, standard deviation sqrt(400 * 3/4 * 1/4) = 8.7.
    assert abs(looks - 300) < 5 * 8.7


def test_sizes_shape_the_house() -> None:
    small, large = HouseholdEnv(receptacles=2, objects=2), HouseholdEnv(receptacles=12, objects=20)
    assert len([c for c in small.reset(seed=0)[1]["admissible_commands"] if c.startswith("go to")]) == 2
    assert len([c for c in large.reset(seed=0)[1]["admissible_commands"] if c.startswith("go to")]) == 12


def test_brief_intro_lists_the_receptacles_only() -> None:
    full, full_info = HouseholdEnv().reset(seed=1)
    brief, brief_info = HouseholdEnv(brief_intro=True).reset(seed=1)
    seen = full.split("\n\n")[1].removeprefix("You are in the middle of a room. Looking quickly around you, you see ")
    assert brief == f"You see {seen}"
    assert brief_info == full_info


def test_random_ids_mark_exactly_the_unpredictable_characters() -> None:
    plain = transcript(HouseholdEnv())
    noisy = transcript(HouseholdEnv(nuisance="random_ids"))
    tags = []
    for clean, tagged in zip(plain, noisy, strict=True):
        ((start, end),) = tagged[-1]["nuisance_spans"]
        tags.append(tagged[0][start:end])
        assert re.fullmatch(r"[0-9a-f]{4}", tags[-1])
        assert tagged[0][:start] + tagged[0][end:] == f"{clean[0]} (tag )"
    assert len(set(tags)) >= len(tags) - 1  # two of ~30 tags out of 65,536 coincide with probability 0.007
    other = transcript(HouseholdEnv(nuisance="random_ids"), episode_seed=1)
    assert other[0][0] != noisy[0][0]
    assert other[0][1]["task"] == noisy[0][1]["task"]


def test_stochastic_commands_fail_visibly_and_change_nothing() -> None:
    env = HouseholdEnv(nuisance="stochastic")
    failures = 0
    for member in range(500):
        _, before = env.reset(seed=0, options={"episode_seed": member})
        target = next(command for command in before["admissible_commands"] if command.startswith("go to"))
        text, _, _, _, info = env.step(target)
        if text == FAILURE:
            failures += 1
            assert info["nuisance_spans"] == [(0, len(FAILURE))]
            assert info["admissible_commands"] == before["admissible_commands"]
        else:
            assert info["nuisance_spans"] == []
        assert env.step("inventory")[0] == "You are not carrying anything."  # looking never fails
        assert env.step("dance")[0] == "Nothing happens."
    # 20 % of 500: 100 expected, standard deviation sqrt(500 * 0.2 * 0.8) = 8.9.
    assert abs(failures - 100) < 5 * 8.9


def test_a_group_without_nuisance_is_identical_and_with_it_reproducible() -> None:
    assert transcript(HouseholdEnv(), episode_seed=1) == transcript(HouseholdEnv(), episode_seed=2)
    for nuisance in ("random_ids", "stochastic"):
        runs = [transcript(HouseholdEnv(nuisance=nuisance), episode_seed=seed) for seed in (1, 1, 2)]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]


def test_copies_do_not_disturb_each_other() -> None:
    alone = [transcript(HouseholdEnv(nuisance="stochastic"), seed=seed) for seed in (1, 2)]
    envs = [HouseholdEnv(nuisance="stochastic") for _ in alone]
    for seed, env in enumerate(envs, start=1):
        env.reset(seed=seed, options={})
    dice = [random.Random(7) for _ in envs]
    answers: list[list[Any]] = [[], []]
    infos = [alone[0][0][1], alone[1][0][1]]
    for turn in range(min(map(len, alone)) - 1):
        for i, env in enumerate(envs):
            answers[i].append(env.step(dice[i].choice(infos[i]["admissible_commands"])))
            infos[i] = answers[i][-1][4]
            assert answers[i][-1] == alone[i][turn + 1]


def test_a_pickled_episode_goes_on_as_if_nothing_happened() -> None:
    env = HouseholdEnv(nuisance="stochastic")
    env.reset(seed=2)
    env.step(env.expert_plan()[0])
    twin = pickle.loads(pickle.dumps(env))
    commands = env.expert_plan()[:2]
    assert [env.step(command) for command in commands] == [twin.step(command) for command in commands]


def test_nothing_global_is_touched(capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(0)
    before, arguments = random.getstate(), list(sys.argv)
    transcript(HouseholdEnv(nuisance="stochastic"))
    HouseholdEnv().reset()
    assert random.getstate() == before
    assert sys.argv == arguments
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "dev"}, r"split is 'dev'.*train.*val.*test"),
        ({"tasks": ["pick", "bake"]}, r"tasks is \['pick', 'bake'\]; wanted.*pick_two"),
        ({"tasks": "pick"}, r"tasks is 'pick'; wanted.*list"),
        ({"tasks": []}, r"tasks is \[\]; wanted.*non-empty"),
        ({"nuisance": "fog"}, r"nuisance is 'fog'; wanted.*random_ids"),
        ({"receptacles": 1}, r"receptacles is 1; wanted at least 2"),
        ({"objects": 1, "tasks": ["pick", "pick_two"]}, r"objects is 1; wanted at least 2.*'pick_two'"),
        ({"success_reward": 0.0}, r"success_reward is 0\.0; wanted a positive"),
        ({"num_tasks": 0}, r"num_tasks is 0; wanted at least 1"),
        (
            {"data_path": "/nonexistent/data"},
            r"data_path is '/nonexistent/data'; wanted .*json_2\.1\.1/train or .*; empty",
        ),
        ({"game_file": "/nonexistent/game"}, r"game_file is '/nonexistent/game'; wanted a readable"),
        ({"game_file": "a", "data_path": "b"}, r"game_file is 'a'; wanted only one of .*data_path.* 'b'"),
    ],
)
def test_bad_configuration_names_the_key(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HouseholdEnv(**arguments)


def test_an_empty_data_path_means_generated_houses() -> None:
    assert HouseholdEnv(data_path="").reset(seed=0) == HouseholdEnv().reset(seed=0)


@pytest.mark.parametrize("nuisance", ["none", "random_ids", "stochastic"])
def test_a_peek_is_the_answer_and_leaves_no_trace(nuisance: str) -> None:
    """Beside every step all other commands are tried; the transcript is that of an undisturbed twin."""
    env, twin = HouseholdEnv(nuisance=nuisance), HouseholdEnv(nuisance=nuisance)
    rng = random.Random(3)
    _, info = env.reset(seed=4)
    twin.reset(seed=4)
    for _ in range(15):
        command = rng.choice(info["admissible_commands"])
        answers = {other: env.peek(other) for other in info["admissible_commands"]}
        result = env.step(command)
        assert result == twin.step(command)
        assert answers[command] == result[0]
        assert len(set(answers.values())) > 1
        info = result[4]
        if result[2]:
            break


def test_an_environment_without_a_peek_names_the_key() -> None:
    class Mute(HouseholdEnv):
        peek = TextEnv.peek

    with pytest.raises(NotImplementedError, match=r"target_control\.targets is .wrong_action. and Mute cannot answer"):
        Mute().peek("look")

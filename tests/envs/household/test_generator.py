"""Generated houses: always solvable, reproducible, and playable without knowing what is behind the doors."""

import os
import random
import subprocess
import sys
from collections import Counter

import pytest

from paw_lightning.envs.household.env import HouseholdEnv
from paw_lightning.envs.household.expert import ExplorerExpert, parse_task
from paw_lightning.envs.household.game import TASKS, Goal
from paw_lightning.envs.household.generator import generate_game


def play(env: HouseholdEnv, commands: list[str]) -> bool:
    """Play until the end; every command must be admissible, all but the last must not win."""
    won = False
    admissible = env.step("look")[4]["admissible_commands"]
    for command in commands:
        assert not won
        assert command in admissible
        _, reward, won, _, info = env.step(command)
        assert reward == float(won)
        admissible = info["admissible_commands"]
    return won


def explore(env: HouseholdEnv, seed: int, rng: random.Random, detours: float = 0.0) -> int:
    """Steps the explorer needs, 51 when 50 are not enough; a share of its commands is replaced by random ones."""
    observation, info = env.reset(seed=seed)
    explorer = ExplorerExpert(rng, info["task"])
    for step in range(1, 51):
        command = explorer.act(observation, info["admissible_commands"])
        assert command in info["admissible_commands"]
        if rng.random() < detours:
            command = rng.choice(info["admissible_commands"])
        observation, _, done, _, info = env.step(command)
        if done:
            return step
    return 51


def test_the_plan_solves_a_thousand_houses_of_all_six_types() -> None:
    env = HouseholdEnv()
    counts: Counter[str] = Counter()
    for seed in range(1000):
        _, info = env.reset(seed=seed)
        assert play(env, env.expert_plan())
        counts[parse_task(info["task"]).task] += 1
    # 1,000 uniform draws over six types: 167 expected, standard deviation sqrt(1000 * 1/6 * 5/6) = 11.8.
    assert set(counts) == set(TASKS)
    assert min(counts.values()) > 167 - 5 * 11.8


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("receptacles", "objects"), [(2, 2), (3, 12), (25, 40)])
def test_the_extremes_of_size_are_solvable(task: str, receptacles: int, objects: int) -> None:
    env = HouseholdEnv(tasks=[task], receptacles=receptacles, objects=objects)
    for seed in range(20):
        env.reset(seed=seed)
        engine = env._engine
        assert engine is not None
        assert len(engine.game.receptacles) == receptacles
        assert not {"fridge 2", "microwave 2", "sinkbasin 2"} & set(engine.game.receptacles)
        assert sum(len(names) for names in engine.contents.values()) == objects
        assert play(env, env.expert_plan())


def start_and_goal(env: HouseholdEnv, seed: int) -> tuple[str, frozenset[str]]:
    _, info = env.reset(seed=seed)
    assert env._engine is not None
    return info["task"], frozenset(env._engine.game.receptacles)


@pytest.mark.parametrize("tasks", [TASKS, ("pick",)])
def test_no_start_and_goal_is_in_two_splits(tasks: tuple[str, ...]) -> None:
    """What a player sees at first, in whatever order it is listed: with 3 receptacles draws meet again often."""
    envs = [HouseholdEnv(split, tasks=tasks, receptacles=3, objects=2) for split in ("train", "val", "test")]
    houses = [{start_and_goal(env, seed) for seed in range(300)} for env in envs]
    assert len(houses[0] | houses[1] | houses[2]) == sum(map(len, houses))
    assert min(map(len, houses)) > 80


@pytest.mark.parametrize("task", TASKS)
def test_every_split_has_houses_of_the_smallest_size(task: str) -> None:
    """Else the draw would go on for ever."""
    for split in ("train", "val", "test"):
        env = HouseholdEnv(split, tasks=[task], receptacles=2, objects=2)
        assert start_and_goal(env, 0) == start_and_goal(env, 0)


def test_most_training_houses_are_the_first_draw() -> None:
    """14 of 16 shares train: of 800 first draws 700 are kept, standard deviation sqrt(800 * 7/8 * 1/8) = 9.4."""
    env, kept = HouseholdEnv(), 0
    for seed in range(800):
        env.reset(seed=seed)
        assert env._engine is not None
        kept += env._engine.game == generate_game(random.Random(f"train house {seed}"), TASKS, 6, 8)
    assert 700 - 4 * 9.4 < kept < 700 + 4 * 9.4


def test_the_plan_takes_over_after_any_detour() -> None:
    env, rng = HouseholdEnv(), random.Random(0)
    for seed in range(100):
        _, info = env.reset(seed=seed)
        done = False
        for _ in range(15):
            _, _, done, _, info = env.step(rng.choice(info["admissible_commands"]))
            if done:
                break
        assert done or play(env, env.expert_plan())


def test_the_plan_leaves_the_episode_alone() -> None:
    env = HouseholdEnv()
    env.reset(seed=3)
    before = env.step("look")
    env.expert_plan()
    assert env.step("look") == before


@pytest.mark.parametrize("nuisance", ["none", "random_ids", "stochastic"])
@pytest.mark.parametrize("brief_intro", [False, True])
def test_the_explorer_solves_nearly_all_houses_within_fifty_steps(nuisance: str, brief_intro: bool) -> None:
    env, rng = HouseholdEnv(nuisance=nuisance, brief_intro=brief_intro), random.Random(1)
    solved = sum(explore(env, seed, rng) <= 50 for seed in range(200))
    assert solved >= 190  # 95 %


def test_the_explorer_takes_over_after_detours() -> None:
    env, rng = HouseholdEnv(), random.Random(2)
    solved = sum(explore(env, seed, rng, detours=0.3) <= 50 for seed in range(200))
    assert solved >= 180


def test_the_explorer_has_to_look_for_things() -> None:
    env, rng = HouseholdEnv(), random.Random(3)
    searching = sum(explore(env, seed, rng) for seed in range(200))
    planned = 0
    for seed in range(200):
        env.reset(seed=seed)
        planned += len(env.expert_plan())
    assert searching > 1.2 * planned  # the plan goes straight to the object, the explorer opens doors in vain


def test_the_explorer_believes_the_text() -> None:
    """It opens the closed thing it faces, and treats an object again that somebody cooled after heating."""
    explorer = ExplorerExpert(random.Random(0), "put a hot mug in shelf.")
    away = ["go to fridge 1", "go to microwave 1", "go to shelf 1"]
    assert explorer.act("You see a fridge 1, a microwave 1, and a shelf 1.", away) in away
    closed = explorer.act(
        "You arrive at fridge 1. The fridge 1 is closed.", ["examine fridge 1", "open fridge 1", *away]
    )
    assert closed == "open fridge 1"
    inside = "You open the fridge 1. The fridge 1 is open. In it, you see a egg 1, and a mug 2."
    assert explorer.act(inside, ["examine fridge 1", "take mug 2 from fridge 1"]) == "take mug 2 from fridge 1"
    assert explorer.act("You pick up the mug 2 from the fridge 1.", away) == "go to microwave 1"
    assert explorer.act("You heat the mug 2 using the microwave 1.", away) == "go to shelf 1"
    assert explorer.act("You cool the mug 2 using the fridge 1.", away) == "go to microwave 1"


def test_nothing_wanted_starts_at_the_target() -> None:
    env = HouseholdEnv(tasks=["pick", "pick_two", "clean", "heat", "cool"], objects=30)
    for seed in range(100):
        env.reset(seed=seed)
        engine = env._engine
        assert engine is not None
        goal = engine.game.goal
        for receptacle in engine.game.goal_receptacles:
            assert not [name for name in engine.contents[receptacle] if name.split()[0] == goal.object]


def test_a_seed_is_the_same_house_in_every_process() -> None:
    code = "from paw_lightning.envs import HouseholdEnv as E; e = E(); print([e.reset(seed=s) for s in range(20)])"
    runs = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", code]
        runs.append(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)
    assert runs[0] == runs[1]
    assert runs[0].count("Your task is to") == 20


@pytest.mark.parametrize(
    ("sentence", "goal"),
    [
        ("put a tomato in diningtable.", Goal("pick", "tomato", "diningtable")),
        ("put some winebottle on diningtable.", Goal("pick", "winebottle", "diningtable")),
        ("examine the book with the desklamp.", Goal("look", "book", "desklamp")),
        ("look at bowl under the floorlamp.", Goal("look", "bowl", "floorlamp")),
        ("clean some ladle and put it in countertop.", Goal("clean", "ladle", "countertop")),
        ("put a hot apple in fridge.", Goal("heat", "apple", "fridge")),
        ("cool some lettuce and put it in countertop.", Goal("cool", "lettuce", "countertop")),
        ("find two newspaper and put them in drawer.", Goal("pick_two", "newspaper", "drawer")),
        ("put two newspaper in drawer.", Goal("pick_two", "newspaper", "drawer")),
    ],
)
def test_goal_sentences_are_understood(sentence: str, goal: Goal) -> None:
    assert parse_task(sentence) == goal


def test_an_unknown_goal_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match="task='make me a sandwich'"):
        parse_task("make me a sandwich")

"""Official ALFWorld games against recordings of the reference engine; needs data that is not in the project."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs import HouseholdEnv
from paw_lightning.envs.household.expert import parse_task
from paw_lightning.envs.household.files import load_game


def differences(env: HouseholdEnv, record: dict[str, Any]) -> list[str]:
    observation, info = env.reset()
    found = ["intro"] * (observation != record["intro"])
    found += ["first commands"] * (info["admissible_commands"] != record["admissible"])
    for command, feedback, admissible, reward, done, won in record["steps"]:
        observation, our_reward, our_done, truncated, info = env.step(command)
        ours = (observation, info["admissible_commands"], our_reward, our_done, truncated, info["won"])
        found += [command] * (ours != (feedback, admissible, reward, done, False, won))
    return found


def test_every_recorded_step_is_reproduced_exactly(official: Path, recordings: list[dict[str, Any]]) -> None:
    wrong = {}
    for record in recordings:
        env = HouseholdEnv(game_file=str(official / record["game"]))
        if found := differences(env, record):
            wrong[record["game"], record["phase"]] = found
    assert not wrong
    assert Counter(record["phase"] for record in recordings) == {"explore": 96, "walkthrough": 96}


def test_the_recordings_would_notice_a_changed_word(official: Path, recordings: list[dict[str, Any]]) -> None:
    record = json.loads(json.dumps(recordings[0]))
    record["steps"][0][1] += " "
    record["steps"][1][2].pop()
    env = HouseholdEnv(game_file=str(official / record["game"]))
    assert differences(env, record) == [record["steps"][0][0], record["steps"][1][0]]


def test_valid_seen_is_complete_and_every_game_can_be_won(official: Path) -> None:
    env = HouseholdEnv("val", data_path=str(official))
    # Table 2 of the ALFWorld paper, seen split: pick 35, look 13, clean 27, heat 16, cool 25, pick two 24.
    assert env.num_tasks == 140
    counts: Counter[str] = Counter()
    keys = set()
    for seed in range(140):
        _, info = env.reset(seed=seed)
        keys.add(info["group_key"])
        assert env._engine is not None
        goal = env._engine.game.goal
        assert parse_task(info["task"]) == goal
        counts[goal.task] += 1
        for solution in (env.walkthrough, env.expert_plan()):
            env.reset(seed=seed)
            assert solution is not None
            done = False
            for command in solution:
                assert not done
                _, reward, done, _, _ = env.step(command)
            assert done and reward == 1.0
    assert counts == {"pick": 35, "look": 13, "clean": 27, "heat": 16, "cool": 25, "pick_two": 24}
    assert len(keys) == 140


def test_the_order_is_fixed_and_seeds_wrap_around(official: Path) -> None:
    keys = [HouseholdEnv("val", data_path=str(official)).reset(seed=seed)[1]["group_key"] for seed in (0, 1, 140, 141)]
    assert keys[:2] == keys[2:]
    assert keys[0] != keys[1]
    bounded = HouseholdEnv("val", data_path=str(official), num_tasks=1)
    assert [bounded.reset(seed=seed)[1]["group_key"] for seed in range(3)] == [keys[0]] * 3


def test_tasks_filter_the_games(official: Path) -> None:
    env = HouseholdEnv("val", data_path=str(official), tasks=["look", "heat"])
    assert env.num_tasks == 13 + 16
    assert all(("lamp" in task or "hot" in task or "heat" in task) for task in all_tasks(env))


def all_tasks(env: HouseholdEnv) -> list[str]:
    return [env.reset(seed=seed)[1]["task"] for seed in range(env.num_tasks or 0)]


def test_the_data_path_may_be_any_of_three_folders(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json_2.1.1").symlink_to(official)
    monkeypatch.setenv("SOME_GAMES", str(tmp_path))
    expected = HouseholdEnv("val", data_path=str(official)).reset(seed=0)
    for path in ("$SOME_GAMES", tmp_path / "json_2.1.1", tmp_path / "json_2.1.1" / "valid_seen"):
        assert HouseholdEnv("val", data_path=str(path)).reset(seed=0) == expected


def test_a_group_shares_the_parsed_game(official: Path, recordings: list[dict[str, Any]]) -> None:
    path = str(official / recordings[0]["game"])
    members = [HouseholdEnv(game_file=path) for _ in range(2)]
    for member in members:
        member.reset(seed=0)
    assert members[0]._engine is not None and members[1]._engine is not None
    assert members[0]._engine.game is members[1]._engine.game is load_game(path)


def test_official_games_refuse_what_does_not_apply(
    official: Path, recordings: list[dict[str, Any]], tmp_path: Path
) -> None:
    path = str(official / recordings[0]["game"])
    task = load_game(path).goal.task
    others = [name for name in ("pick", "look") if name != task][:1]
    for message, arguments in {
        rf"game_file is .*; wanted a game of the tasks .*, which '{task}' is not": {"game_file": path, "tasks": others},
        "receptacles is 3; wanted no setting of it or of objects": {"game_file": path, "receptacles": 3},
        "num_tasks is 2; wanted between 1 and 1": {"game_file": path, "num_tasks": 2},
        "valid_seen'; wanted the folder above it: the split 'train' plays train": {
            "data_path": str(official / "valid_seen")
        },
    }.items():
        with pytest.raises(ValueError, match=message):
            HouseholdEnv(**arguments)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match=r"a folder with games for the split 'test'.*valid_unseen.*empty means"):
        HouseholdEnv("test", data_path=str(tmp_path))
    with pytest.raises(ValueError, match=r"tasks is \['pick'\]; wanted tasks that occur"):
        HouseholdEnv(data_path=str(tmp_path), tasks=["pick"])
    broken = tmp_path / "game.tw-pddl"
    broken.write_text("{}")
    with pytest.raises(ValueError, match="wanted a readable ALFWorld"):
        HouseholdEnv(game_file=str(broken))

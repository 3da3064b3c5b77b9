"""The experts that worlds bring along, and files of recorded episodes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs import HouseholdEnv, MixtureEnv, RecordedEpisodes, SearchEnv, ShopEnv, TextEnv, WorkerEnv
from paw_lightning.errors import SettingsError
from tests.helpers.toy_env import ToyEnv

QUICK = {"tasks": ["pick"], "receptacles": 4, "objects": 2, "brief_intro": True}


def wins(env: TextEnv, seed: int, turns: int) -> bool:
    env.reset(seed=seed, options={"episode_seed": 0})
    for _ in range(turns):
        *_, terminated, _, info = env.step(env.demonstrate())
        if terminated:
            return bool(info["won"])
    return False


@pytest.mark.parametrize(
    ("env", "turns", "share"),
    [
        # Four places, at worst all looked into (a way and an opening each), then take, go, put: 11 turns.
        (HouseholdEnv("train", **QUICK), 12, 1.0),
        (HouseholdEnv("train", receptacles=8, objects=10), 60, 1.0),
        (SearchEnv("train"), 4, 1.0),
        # It takes the first product that may be it: now and then another one would have been right.
        (ShopEnv("train", products=60, brief=True, page_size=3, observation="lines"), 20, 0.8),
    ],
    ids=["pick", "all tasks", "search", "shop"],
)
def test_experts_solve_their_worlds(env: TextEnv, turns: int, share: float) -> None:
    assert sum(wins(env, seed, turns) for seed in range(30)) >= share * 30


def test_the_household_expert_sees_what_the_player_sees() -> None:
    """Asked late it knows what was seen before; a peek shows it nothing; the episode's dice decide where it looks."""
    early, late = HouseholdEnv("train", **QUICK), HouseholdEnv("train", **QUICK)
    for env in (early, late):
        env.reset(seed=3, options={"episode_seed": 5})
    for _ in range(4):
        action = early.demonstrate()
        for command in late._started().admissible:
            late.peek(command)
        assert early.demonstrate() == action, "asked twice it says the same"
        assert early.step(action) == late.step(action)
    assert early.demonstrate() == late.demonstrate()
    firsts = set()
    for episode_seed in range(8):
        early.reset(seed=3, options={"episode_seed": episode_seed})
        firsts.add(early.demonstrate())
    assert len(firsts) > 1


def test_mixtures_and_workers_hand_the_question_on() -> None:
    spec = {"class_path": "paw_lightning.envs.HouseholdEnv", "init_args": QUICK}
    house, mixture = HouseholdEnv("train", **QUICK), MixtureEnv("train", environments={"house": spec})
    worker = WorkerEnv("train", environment=spec)
    for env in (house, mixture, worker):
        env.reset(seed=1, options={"episode_seed": 0})
    assert house.demonstrate() == mixture.demonstrate() == worker.demonstrate()
    worker.close()


@pytest.mark.parametrize("env", [ToyEnv(), ShopEnv("train", products=60, observation="text")], ids=["toy", "shop"])
def test_a_world_without_an_expert_says_so(env: TextEnv) -> None:
    env.reset(seed=0)
    with pytest.raises(NotImplementedError, match=r"rollout.advantage is Imitation and \w+ has no expert"):
        env.demonstrate()


LINES: list[dict[str, Any]] = [
    {
        "task": f"task {i}",
        "turns": [
            {"observation": f"start {i}", "action": "look", "answer": "<think>hm</think><action>look</action>"},
            {"observation": "you see it", "action": "take it", "admissible_commands": ["take it", "go"]},
        ],
        "last_observation": "done\u2028",
    }
    for i in range(20)
]


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "episodes.jsonl"
    lines = [json.dumps(line, ensure_ascii=False) for line in LINES]
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return str(file)


def test_a_recording_is_played_back_whatever_is_done(path: str) -> None:
    """Two turns, one of them as recorded: 1 / 2; both: 1, and won."""
    env = RecordedEpisodes("train", path=path)
    for actions, rewards, won in ((["Look ", "go"], [0.5, 0.0], False), (["look", "take it"], [0.5, 0.5], True)):
        observation, info = env.reset(seed=0)
        assert (observation, info["task"], info["max_reward"]) == ("start 0", "task 0", 1.0)
        assert "admissible_commands" not in info
        assert env.demonstrate() == "<think>hm</think><action>look</action>"
        first, second = env.step(actions[0]), None
        assert first[0] == "you see it" and first[4]["admissible_commands"] == ["take it", "go"]
        assert env.demonstrate() == "take it"
        second = env.step(actions[1])
        assert [first[1], second[1]] == rewards
        assert (second[0], second[2], second[4]["won"]) == ("done\u2028", True, won)


def test_splits_share_nothing_and_leave_nothing_out(path: str) -> None:
    """Of 20 episodes validation keeps 8 and 18, test 9 and 19; with a world to play in training has all."""
    seen = {split: [RecordedEpisodes(split, path=path).reset(seed=i)[1]["task"] for i in range(n)]
            for split, n in (("train", 16), ("val", 2), ("test", 2))}  # fmt: skip
    assert seen["val"] == ["task 8", "task 18"] and seen["test"] == ["task 9", "task 19"]
    assert sorted(itertools.chain(*seen.values())) == sorted(line["task"] for line in LINES)
    house = {"class_path": "paw_lightning.envs.HouseholdEnv", "init_args": QUICK}
    assert RecordedEpisodes("train", path=path, environment=house).num_tasks == 20
    lived = RecordedEpisodes("val", path=path, environment=house)
    assert lived.reset(seed=2) == HouseholdEnv("val", **QUICK).reset(seed=2)
    assert lived.num_tasks is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "at least one episode"),
        ('{"task": "t", "turns": []}', r"line 1 is none \(ValueError: no turns\)"),
        ('{"task": "t", "turns": [{"observation": "o"}]}', r"line 1 is none \(KeyError: 'action'\)"),
        (json.dumps(LINES[0]) + '\n{"task": 7, "turns": []}', "line 2 is none"),
        ("nonsense", "line 1 is none"),
        (json.dumps(LINES[0]).replace('["take it", "go"]', '"take it"'), "line 1 is none .*which is no list"),
    ],
)
def test_a_broken_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "e.jsonl"
    file.write_text(content)
    with pytest.raises(SettingsError, match=r"rollout.environment.init_args.path.*" + message):
        RecordedEpisodes("train", path=str(file))


def test_a_file_that_is_not_there_and_a_split_without_episodes(path: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="a file with one episode a line"):
        RecordedEpisodes("train", path=str(tmp_path / "none.jsonl"))
    few = tmp_path / "few.jsonl"
    few.write_text(json.dumps(LINES[0]))
    with pytest.raises(SettingsError, match="more than 1 episodes, as 'val' gets none"):
        RecordedEpisodes("val", path=str(few))

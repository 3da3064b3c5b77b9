"""Environments in processes of their own: what crosses, what overlaps, and what a failure costs."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs import HouseholdEnv, TextEnv, WorkerEnv
from paw_lightning.envs.worker.env import WorkerError
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.collector import Collector, PlayedGroups
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from tests.helpers import runs
from tests.helpers.playing import END, TOKENIZER, ScriptedSampler
from tests.helpers.toy_env import ToyEnv


def worker(name: str, timeout: float = 30.0, memory: float | None = None, **init_args: Any) -> WorkerEnv:
    spec = {"class_path": f"tests.helpers.wild_env.{name}", "init_args": init_args}
    return WorkerEnv("train", environment=spec, step_timeout=timeout, memory_limit_mb=memory)


def alive(pid: int) -> bool:
    """Whether a process runs (a dead one whose parent has not asked does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether a process ends within some time."""
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not alive(pid)


def collector(make_env: Any, retries: int) -> Collector:
    return Collector(
        make_env,
        PromptBuilder(Prompt(), ChatFormat(TOKENIZER)),
        ScriptedSampler(),
        max_steps=5,
        max_action_tokens=6,
        max_observation_tokens=100,
        stop_token_ids=[END],
        episode_retries=retries,
    )


def play(make_env: Any, retries: int = 0, tasks: tuple[int, ...] = (0, 1, 2)) -> PlayedGroups:
    c = collector(make_env, retries)
    played = c.play(tasks, 2, temperature=1.0, seed=("run", 0))
    c.close()
    return played


def record(played: PlayedGroups) -> dict[int, list[list[tuple[str, str, float]]]]:
    """Task -> episodes -> (action, observation, reward)."""
    return {
        group.episodes[0].task_seed: [
            [(t.action_text, t.observation_text, t.reward) for t in episode.transitions] for episode in group.episodes
        ]
        for group in played.groups
    }


def test_a_worker_plays_what_the_environment_plays() -> None:
    spec = {"class_path": "paw_lightning.envs.HouseholdEnv", "init_args": {"nuisance": "random_ids", "num_tasks": 5}}
    inside = HouseholdEnv("val", nuisance="random_ids", num_tasks=5)
    outside = WorkerEnv("val", environment=spec)
    assert outside.num_tasks == 5
    options = {"episode_seed": 2**62}
    mine, theirs = inside.reset(seed=3, options=options), outside.reset(seed=3, options=options)
    assert mine[0] == theirs[0]
    for command in ["look", *inside.expert_plan()]:
        mine, theirs = inside.step(command), outside.step(command)
        assert mine[:4] == theirs[:4]
        assert mine[4] | {"nuisance_spans": None} == theirs[4] | {"nuisance_spans": None}
        assert [list(span) for span in mine[4]["nuisance_spans"]] == theirs[4]["nuisance_spans"], "JSON has no tuples"
    assert theirs[2], "the plan wins"
    outside.close()


def test_steps_and_resets_of_workers_overlap() -> None:
    """Three seats: one turn takes one environment's 0.3 s, not three's; reset and three turns make 1.2 s of 3.6."""
    envs = [worker("SlowEnv") for _ in range(3)]
    for env in envs:
        assert env.num_tasks is None  # it runs
    pool = iter(envs)
    played = collector(lambda: next(pool), 0).play([0, 1, 2], 1, temperature=1.0, seed=("run", 0))
    for env in envs:
        env.close()
    assert len(played.groups) == 3 and played.failures == []
    assert 1.2 <= played.seconds["environment"] < 2.4, "a worker's time counts as the environment's"
    assert played.seconds["tokenization"] + played.seconds["generation"] < 0.5


@pytest.mark.parametrize(
    ("trick", "cause"),
    [
        ("kill", "the worker ended (SIGKILL)"),
        ("hang", "no answer within 3 s (step_timeout, reset_timeout)"),
        ("raise", "ConnectionError: the world fell over"),
        ("exit", "failed with WorkerError: SystemExit: usage: step ACTION"),
        ("garbage", "wanted a line of JSON"),
        ("leak", "MemoryError"),
    ],
)
def test_a_failure_is_played_again_and_leaves_no_trace(trick: str, cause: str, tmp_path: Path, caplog) -> None:
    (tmp_path / "one").touch()

    def make() -> TextEnv:
        return worker("WildEnv", 3.0 if trick == "hang" else 30.0, 256, trick=trick, lives=str(tmp_path))

    with caplog.at_level(logging.WARNING):
        played = play(make, retries=1)
    assert not list(tmp_path.iterdir()), "it has failed"
    assert cause in caplog.text and "playing an episode of task 1 again" in caplog.text
    assert (played.failures, played.retried_episodes) == ([], 1)
    assert record(played) == record(play(ToyEnv)), "success, rewards and texts are those of a run without failures"


def test_a_failure_beyond_the_retries_costs_its_whole_group(tmp_path: Path) -> None:
    """Two lives: one episode of task 1 fails, is played again, and fails again."""
    for name in ("one", "two", "three"):
        (tmp_path / name).touch()
    played = play(lambda: worker("WildEnv", trick="kill", lives=str(tmp_path)), retries=1)
    [message] = played.failures
    assert "WorkerEnv.step" in message and "SIGKILL" in message and "rollout.environment" in message
    everything = record(play(ToyEnv))
    assert record(played) == {task: everything[task] for task in (0, 2)}, "the others lost nothing"


def test_retries_are_counted_by_episode(tmp_path: Path) -> None:
    """Both members of task 1 fail once at the same turn; both are played again."""
    for name in ("one", "two"):
        (tmp_path / name).touch()
    played = play(lambda: worker("WildEnv", trick="raise", lives=str(tmp_path)), retries=1)
    assert (played.failures, played.retried_episodes) == ([], 2)
    assert record(played) == record(play(ToyEnv))


def test_a_worker_is_used_again_and_a_failed_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    env = worker("WildEnv", trick="raise", lives=str(tmp_path))
    env.reset(seed=1)
    first = env.pid
    env.reset(seed=1)
    assert env.pid == first
    env.step("x")
    with pytest.raises(WorkerError, match=r"the world fell over \(wild_env\.py:47\)"):
        env.step("x")
    assert env.pid is None and gone(first)
    env.reset(seed=1)
    env.step("x")
    assert env.step("x")[0] == "turn 2: 1 letters"
    env.close()


def test_a_library_may_print_and_replace_standard_output() -> None:
    env = worker("RudeEnv")
    assert env.reset(seed=4)[0] == "start of 4"
    assert env.step("abc")[0] == "turn 1: 3 letters"
    last = env.pid
    env.close()
    assert gone(last)


def test_a_worker_survives_ctrl_c() -> None:
    env = worker("SlowEnv")
    env.reset(seed=0)
    env.begin_step("ab")
    os.kill(env.pid, signal.SIGINT)
    assert env.step("ab")[0] == "turn 1: 2 letters"
    assert os.getsid(env.pid) != os.getsid(0), "the terminal's Ctrl-C does not even reach it"
    env.close()


def test_closing_ends_what_the_environment_started() -> None:
    env = worker("FamilyEnv")
    _, info = env.reset(seed=0)
    pids = env.pid, info["child"]
    assert all(map(alive, pids))
    env.close()
    assert all(map(gone, pids))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_die_with_their_parent(number: signal.Signals) -> None:
    code = (
        "import time; from paw_lightning.envs import WorkerEnv\n"
        "env = WorkerEnv(environment={'class_path': 'tests.helpers.wild_env.FamilyEnv'})\n"
        "info = env.reset(seed=0)[1]; print(env.pid, info['child'], flush=True); time.sleep(100)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    parent.send_signal(number)
    parent.wait()
    assert all(map(gone, pids))


@pytest.mark.parametrize(
    ("class_path", "cause"),
    [
        (
            "tests.helpers.wild_env.Nobody",
            "init_args.environment.class_path is 'tests.helpers.wild_env.Nobody', which names None; wanted a subclass",
        ),
        ("no_such_package.Env", "wanted a class that can be imported: No module named 'no_such_package'"),
    ],
)
def test_an_environment_that_cannot_be_built_says_why(class_path: str, cause: str) -> None:
    env = WorkerEnv("train", environment={"class_path": class_path})
    with pytest.raises(SettingsError, match=cause):
        env.reset(seed=0)
    assert env.pid is None


def test_settings_that_cannot_work_are_refused() -> None:
    toy = {"class_path": "tests.helpers.toy_env.ToyEnv"}
    with pytest.raises(ValueError, match="step_timeout is 0"):
        WorkerEnv("train", environment=toy, step_timeout=0)
    with pytest.raises(ValueError, match=r"wanted \{class_path"):
        WorkerEnv("train", environment={"class": "tests.helpers.toy_env.ToyEnv"})
    env = WorkerEnv("train", environment=toy)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step("x")
    env.reset(seed=0)
    env.begin_step("x")
    with pytest.raises(RuntimeError, match="finish that one first"):
        env.step("y")
    env.close()


def test_a_run_with_failing_workers_ends_normally(tiny_model_dir: str, tmp_path: Path) -> None:
    """Iterations play tasks 0-1 and 2-3: one life is lost on task 1, so the first iteration plays one episode again."""
    lives = tmp_path / "lives"
    lives.mkdir()
    (lives / "one").touch()
    spec = {"class_path": "tests.helpers.wild_env.WildEnv", "init_args": {"trick": "kill", "lives": str(lives)}}
    plain = runs.fit(tmp_path / "plain", tiny_model_dir, data__validation_tasks=1)
    wild = runs.fit(
        tmp_path / "wild",
        tiny_model_dir,
        data__validation_tasks=1,
        rollout__environment="paw_lightning.envs.WorkerEnv",
        rollout__environment__init_args__environment=spec,
    )
    expected, found = runs.curves(plain), runs.curves(wild)
    assert list(found["rollout/retried_episodes"].values()) == [1.0, 0.0]
    for tag in (
        "rollout/dropped_groups",
        "rollout/success_rate",
        "rollout/return",
        "val/success_rate",
        "wm/coefficient",
    ):
        assert found[tag] == expected[tag]
    assert list(found["rollout/dropped_groups"].values()) == [0.0, 0.0]


def test_a_worker_peeks_without_playing() -> None:
    """The answer is the one that playing the action gives afterwards; who cannot peek says so by type."""
    spec = {"class_path": "paw_lightning.envs.HouseholdEnv", "init_args": {"receptacles": 3, "objects": 2}}
    env = WorkerEnv("val", environment=spec)
    _, info = env.reset(seed=1)
    action = next(command for command in info["admissible_commands"] if command.startswith("go to"))
    seen = env.peek(action)
    assert seen == env.step(action)[0]
    env.close()
    toy = WorkerEnv("train", environment={"class_path": "tests.helpers.toy_env.ToyEnv"})
    toy.reset(seed=1)
    with pytest.raises(NotImplementedError, match=r"target_control\.targets.*has no `peek`"):
        toy.peek("a")
    toy.close()


def test_a_worker_does_not_peek_while_it_steps() -> None:
    env = worker("ToyEnv")
    with pytest.raises(RuntimeError, match="peek without a running episode"):
        env.peek("a")
    env.reset(seed=1)
    env.begin_step("a")
    with pytest.raises(RuntimeError, match="peek first, then begin the step"):
        env.peek("b")
    assert env.step("a")[0] == "turn 1: 1 letters", "the step goes on"
    env.close()


def play_counterfactuals(make_env: Any) -> PlayedGroups:
    c = collector(make_env, 1)
    c.counterfactuals, c.max_observation_tokens = True, 1000  # none is too long
    try:
        return c.play([0, 1], 2, temperature=1.0, seed=("run", 0))
    finally:
        c.close()


def test_workers_record_the_counterfactuals_of_the_environment() -> None:
    spec = {"class_path": "paw_lightning.envs.HouseholdEnv", "init_args": {"receptacles": 3, "objects": 2}}
    inside = play_counterfactuals(lambda: HouseholdEnv("train", receptacles=3, objects=2))
    outside = play_counterfactuals(lambda: WorkerEnv("train", environment=spec))
    assert outside.failures == [] and outside.groups == inside.groups
    assert all(t.counterfactual_ids for group in outside.groups for t in group.transitions)


def test_a_worker_that_cannot_peek_stops_the_run() -> None:
    """No group is dropped and no episode is played again: the setting is wrong, not the episode."""
    spec = {"class_path": "tests.helpers.toy_env.ToyEnv", "init_args": {"commands": True}}
    with pytest.raises(SettingsError, match=r"target_control\.targets.*has no `peek`"):
        play_counterfactuals(lambda: WorkerEnv("train", environment=spec))


def test_a_package_that_the_workers_environment_lacks_is_a_setting() -> None:
    """It cannot come later: no retry, no traceback, but the remedy."""
    env = worker("LacksPackage")
    with pytest.raises(
        SettingsError, match=r"a_package_that_is_not_there is not installed; wanted it for LacksPackage: .*extra `gym`"
    ):
        _ = env.num_tasks

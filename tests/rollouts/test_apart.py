"""Episodes at their own pace: the same as in lock step, only sooner."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.relay import Relay
from tests.helpers.playing import ScriptedSampler, collector, play
from tests.helpers.toy_env import ToyEnv


class Apart(ScriptedSampler):
    """Answers each prompt by itself, after a while that differs from one to the next."""

    connections = 4

    def __init__(self, pause: float = 0.002) -> None:
        super().__init__()
        self.pause, self.prepared, self.threads = pause, 0, set()

    def prepare(self, prompt: list[int]) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.prepared += 1

    def ask(self, prompt: list[int], *, uniforms: Any, **settings: Any) -> Any:
        self.threads.add(threading.current_thread().name)
        time.sleep(self.pause * random.random())
        [action] = self.generate([prompt], uniforms=uniforms[None], **settings)
        return action


class Slow(ToyEnv):
    """Steps after a while that differs from one to the next."""

    pause = 0.002

    def step(self, action: str) -> Any:
        time.sleep(self.pause * random.random() * 2)
        return super().step(action)


def told(played: Any) -> list[Any]:
    return [(g.group_key, [(e.member, e.won, e.transitions) for e in g.episodes]) for g in played.groups]


def test_episodes_are_those_of_lock_step() -> None:
    """Whatever order answers and steps come in; several answers are waited for at a time."""
    wanted = play(collector(), tasks=range(6))
    for _ in range(3):
        player = collector(Apart())
        player.make_env = Slow
        played = play(player, tasks=range(6))
        assert told(played) == told(wanted) and played.failures == []
    sampler = player.sampler
    assert len(sampler.threads) > 1
    assert sampler.prepared == len(sampler.prompts) == 6 * 2 * 3
    assert {*played.seconds} == {"generation", "environment", "tokenization"}


def test_counterfactuals_are_asked_for_before_the_step() -> None:
    class Peeking(ToyEnv):
        def peek(self, action: str) -> str:
            return f"as if {action} at {self.turn if hasattr(self, 'turn') else 0}"

    players = [collector(sampler, commands=True) for sampler in (ScriptedSampler(), Apart())]
    for player in players:
        player.counterfactuals, player.make_env = True, lambda: Peeking(commands=True)
    step, apart = (told(play(player)) for player in players)
    assert step == apart
    assert any(t.counterfactual_ids for _, episodes in apart for *_, turns in episodes for t in turns)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_failing_environment_costs_what_it_costs_in_lock_step(retries: int) -> None:
    """The third step of all fails once: played again where that is allowed, the group is lost where it is not."""

    def results(sampler: Any) -> Any:
        steps = iter(range(1000))
        lock = threading.Lock()

        class Once(ToyEnv):
            def step(self, action: str) -> Any:
                with lock:
                    number = next(steps)
                if number == 2:
                    raise ConnectionError("the world fell over")
                return super().step(action)

        player = collector(sampler)
        player.make_env, player.episode_retries = Once, retries
        return play(player, tasks=range(4))

    step, apart = results(ScriptedSampler()), results(Apart())
    assert len(apart.groups) == len(step.groups) == 3 + retries
    assert len(apart.failures) == len(step.failures) == 1 - retries
    assert apart.retried_episodes == step.retried_episodes == retries
    if retries:
        whole = {key: [(m, w, t) for m, w, t in episodes] for key, episodes in told(play(collector(), tasks=range(4)))}
        assert dict(told(apart)) == whole


def test_progress_counts_finished_episodes() -> None:
    seen = []
    collector(Apart()).play((0, 1), 2, temperature=1.0, seed=("run", 0), progress=lambda *counts: seen.append(counts))
    assert seen[-1] == (4, 4) and sorted(done for done, _ in seen) == [done for done, _ in seen]


def test_an_error_ends_the_rollout() -> None:
    class Broken(Apart):
        def ask(self, *args: Any, **settings: Any) -> Any:
            raise SettingsError("rollout.sampler is broken; wanted another")

    with pytest.raises(SettingsError, match="wanted another"):
        play(collector(Broken()))


@pytest.mark.parametrize("pause", [0.0, 0.05])
def test_slow_environments_are_not_waited_for_by_all(pause: float) -> None:
    """12 episodes of 3 turns; a step takes 0 to 0.1 s. In lock step a turn lasts as long as its slowest step, and one
    environment after the other: 36 steps of 0.05 s. Apart: the sum of the slowest episode's three steps."""
    times = []
    for sampler in (ScriptedSampler(), Apart(0.0)):
        player = collector(sampler)
        player.make_env = type("Paced", (Slow,), {"pause": pause})
        started = time.perf_counter()
        play(player, tasks=range(6))
        times.append(time.perf_counter() - started)
    step, apart = times
    if pause:
        assert apart < step / 1.8
    else:
        assert apart < step + 0.5


def test_work_that_follows_runs_in_the_thread_that_waits() -> None:
    """Two kinds of work, three pieces one after the other; waiting is counted for the first kind that is under way."""
    seconds: dict[str, float] = {}
    relay, done = Relay({"slow": 1, "quick": 1}, seconds), []

    def then(result: str) -> None:
        done.append((result, threading.current_thread() is threading.main_thread()))
        if result == "a":
            relay.submit("quick", lambda: "b", then)

    relay.submit("slow", lambda: (time.sleep(0.05), "a")[1], then)
    relay.run()
    assert done == [("a", True), ("b", True)]
    assert seconds["slow"] >= 0.045 and {*seconds} == {"slow", "quick"}


def test_a_process_that_ends_does_not_wait_for_work_that_never_does() -> None:
    """The work sleeps for a minute; the error of another piece ends the run, and the process with it."""
    program = (
        "import time\n"
        "from paw_lightning.rollouts.relay import Relay\n"
        "relay = Relay({'slow': 2}, {})\n"
        "relay.submit('slow', lambda: time.sleep(60), print)\n"
        "relay.submit('slow', lambda: 1 / 0, print)\n"
        "relay.run()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=45, check=False)
    assert ended.returncode == 1 and "ZeroDivisionError" in ended.stderr

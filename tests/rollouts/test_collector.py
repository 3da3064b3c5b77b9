"""Playing: what is recorded, and what a misbehaving environment costs."""

from __future__ import annotations

import logging
import sys

import pytest
import torch

from paw_lightning.text.prompts import Prompt
from tests.helpers.playing import TOKENIZER, ScriptedSampler, collector, play
from tests.helpers.toy_env import ToyEnv


def test_transitions_chain_and_keep_sampled_ids() -> None:
    played = play(collector())
    assert [len(group.episodes) for group in played.groups] == [2, 2]
    for episode in (e for group in played.groups for e in group.episodes):
        assert len(episode.transitions) == 3 and episode.finished
        for before, after in zip(episode.transitions, episode.transitions[1:], strict=False):
            assert after.anchor == before.observation_text
        for t in episode.transitions:
            assert TOKENIZER.decode(t.action_ids) == t.action_text + "<|end|>"
            assert TOKENIZER.decode(t.observation_ids) == t.observation_text
            assert len(t.sampled_logprobs) == len(t.sampled_entropies) == len(t.action_ids)


class Endless(ToyEnv):
    """Never ends by itself."""

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation or "still here", reward, False, False, info


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_an_episode_lasts_max_steps_turns_and_no_more(steps: int) -> None:
    player = collector()
    player.make_env, player.max_steps = Endless, steps
    episodes = [e for group in play(player).groups for e in group.episodes]
    assert [len(e.transitions) for e in episodes] == [steps] * 4
    assert not any(e.finished or e.overflowed for e in episodes), "cut off, not ended"


class Named(ToyEnv):
    """Names its states: so many turns played."""

    silent: int | None = None
    """The state without a name."""
    turns = 0

    def named(self, info):
        return info if self.turns == self.silent else {**info, "state_key": f"{self.turns} played"}

    def reset(self, **keys):
        self.turns = 0
        observation, info = super().reset(**keys)
        return observation, self.named(info)

    def step(self, action):
        *answer, info = super().step(action)
        self.turns += 1
        return *answer, self.named(info)


def test_the_names_of_states_are_recorded() -> None:
    player = collector()
    player.make_env = Named
    for episode in (e for group in play(player).groups for e in group.episodes):
        assert episode.state_keys == episode.states == ["0 played", "1 played", "2 played", "3 played"]
    for episode in (e for group in play(collector()).groups for e in group.episodes):
        assert episode.state_keys == []
        assert episode.states == [*(t.anchor for t in episode.transitions), episode.transitions[-1].observation_text]


def test_a_last_observation_is_a_state_as_the_environment_wrote_it() -> None:
    """A template may write it otherwise, in quotes for example; as anchors, the observations are the world's own."""
    plain, shouted = collector(), collector()
    shouted.prompts.chat.as_read = lambda text, spans: (text.upper(), spans)
    for one, other in zip(play(plain).groups, play(shouted).groups, strict=True):
        for said, loud in zip(one.episodes, other.episodes, strict=True):
            assert said.states == loud.states and not said.last_observation
            assert loud.transitions[-1].observation_text == loud.states[-1].upper() != loud.states[-1]


def test_a_group_in_which_some_episodes_name_their_states_is_lost() -> None:
    """Names and observations cannot be compared: of two episodes of the first task one tells names."""
    kinds = iter([Named, ToyEnv, ToyEnv, ToyEnv])
    player = collector()
    player.make_env = lambda: next(kinds)()
    played = play(player)
    [failure] = played.failures
    assert failure.startswith("info['state_key'] names the states of 1 of 2 episodes")
    assert "wanted a name in all of them, or in none" in failure
    assert [group.names_states for group in played.groups] == [False]


@pytest.mark.parametrize(("silent", "named"), [(0, "'1 played'"), (2, "None")])
def test_states_have_names_always_or_never(silent: int, named: str) -> None:
    class Forgetful(Named):
        pass

    Forgetful.silent = silent
    player = collector()
    player.make_env = Forgetful
    played = play(player)
    assert not played.groups
    assert f"info['state_key'] is {named}; wanted a name at reset and at every step, or never" in played.failures[0]


def test_the_name_of_a_state_is_text() -> None:
    class Numbered(ToyEnv):
        def reset(self, **keys):
            observation, info = super().reset(**keys)
            return observation, {**info, "state_key": 3}

    player = collector()
    player.make_env = Numbered
    assert "info['state_key'] is 3; wanted a str" in play(player).failures[0]


def test_group_members_share_the_start_and_differ_later() -> None:
    sampler = ScriptedSampler()
    played = play(collector(sampler), tasks=(0,) * 1)
    first, second = sampler.prompts[0]
    assert first == second, "the same decision context at the first turn"
    texts = [[t.action_text for t in e.transitions] for e in played.groups[0].episodes]
    assert texts[0] != texts[1]


def test_episodes_depend_on_the_seed_alone() -> None:
    def texts(c, seed):
        return [[t.action_text for t in e.transitions] for g in play(c, seed=seed).groups for e in g.episodes]

    c = collector()
    assert texts(c, ("run", 0)) == texts(c, ("run", 0)) == texts(collector(), ("run", 0))
    assert texts(c, ("run", 0)) != texts(c, ("run", 1))


def test_a_task_plays_the_same_in_any_company() -> None:
    alone = play(collector(), tasks=(1,)).groups[0]
    among = play(collector(), tasks=(4, 1, 7)).groups[1]
    assert [t.action_ids for t in alone.transitions] == [t.action_ids for t in among.transitions]


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        ("raise", "ConnectionError: the world fell over"),
        ("exit", "SystemExit: usage: step ACTION"),
        ("empty", "an empty observation"),
        ("number", "observation of type int"),
    ],
)
def test_a_failing_environment_costs_its_whole_group(failure: str, cause: str, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        played = play(collector(fail_on=1, failure=failure), tasks=(0, 1, 2))
    assert [group.episodes[0].task_seed for group in played.groups] == [0, 2]
    assert all(len(e.transitions) == 3 for g in played.groups for e in g.episodes), "the others lost nothing"
    [message] = played.failures
    assert cause in message and "ToyEnv.step" in message and "rollout.environment" in message
    assert cause in caplog.text


def test_ctrl_c_in_an_environment_is_the_users() -> None:
    with pytest.raises(KeyboardInterrupt):
        play(collector(fail_on=1, failure="interrupt"))


def test_a_prompt_that_cannot_fit_costs_its_group() -> None:
    played = play(collector(prompt=Prompt(max_tokens=30)))
    assert played.groups == []
    assert "rollout.prompt.max_tokens" in played.failures[0]


def test_finished_episodes_are_not_generated_for() -> None:
    sampler = ScriptedSampler()
    play(collector(sampler))
    assert [len(prompts) for prompts in sampler.prompts] == [4, 4, 4], "three turns, although five were allowed"


def test_close_closes_every_environment() -> None:
    made: list[ToyEnv] = []

    def make() -> ToyEnv:
        made.append(ToyEnv())
        return made[-1]

    c = collector()
    c.make_env = make
    play(c)
    play(c)
    assert len(made) == 4, "environments are reused"
    c.close()
    assert all(env.closed for env in made)


def test_uniforms_are_fixed_by_episode_and_turn() -> None:
    class Recorder(ScriptedSampler):
        def generate(self, prompts, *, uniforms, **settings):
            self.seen = [*getattr(self, "seen", []), uniforms.clone()]
            return super().generate(prompts, uniforms=uniforms, **settings)

    sampler = Recorder()
    play(collector(sampler))
    assert len(torch.unique(torch.stack(sampler.seen).flatten())) == 3 * 4 * 6, "no two numbers are shared"


def test_a_task_that_comes_twice_is_not_played_alike() -> None:
    first, second = play(collector(), tasks=(1, 1)).groups
    texts = [[t.action_ids for t in group.transitions] for group in (first, second)]
    assert texts[0] != texts[1]
    assert [e.member for e in second.episodes] == [2, 3]
    assert texts[0] == [t.action_ids for t in play(collector(), tasks=(1,)).groups[0].transitions]


class Broken(ToyEnv):
    """Breaks where `where` says, once, in the first environment that is made."""

    made = 0

    def __init__(self, where: str) -> None:
        Broken.made += 1
        self.where = where if Broken.made == 1 else ""
        if self.where == "init":
            raise OSError("no room")
        if self.where == "exit":
            raise SystemExit(2)
        super().__init__()

    def reset(self, **options):
        observation, info = super().reset(**options)
        bad = {"info": None, "max_reward": {"max_reward": "ten"}, "commands": {"admissible_commands": [1]}}
        return observation, bad.get(self.where, info)

    def close(self) -> None:
        super().close()
        if self.where == "close":
            raise OSError("the door is stuck")
        if self.where == "close and exit":
            sys.exit("the door is stuck")


@pytest.mark.parametrize("where", ["init", "exit", "info", "max_reward", "commands"])
def test_foreign_code_may_break_anywhere(where: str) -> None:
    Broken.made = 0
    c = collector()
    c.make_env = lambda: Broken(where)
    played = play(c)
    assert [group.episodes[0].task_seed for group in played.groups] == [1]
    assert len(played.failures) == 1


@pytest.mark.parametrize("where", ["close", "close and exit"])
def test_an_environment_that_cannot_be_closed_is_left_behind(where: str, caplog) -> None:
    Broken.made = 0
    c = collector()
    c.make_env = lambda: Broken(where)
    play(c)
    c.close()
    assert "the door is stuck" in caplog.text


def test_overlong_observations_are_played_but_not_predicted() -> None:
    c = collector()
    c.max_observation_tokens = 5
    transitions = [t for group in play(c).groups for t in group.transitions]
    assert all(t.observation_text and t.observation_ids == [] for t in transitions)


class Talkative(ToyEnv):
    """Says of every step what a collector can be told: only the second action was fine, the last page is no target."""

    def step(self, action: str):
        observation, reward, terminated, truncated, info = super().step(action)
        said = {"admissible_action": self.turn == 2, "predictable": not terminated}
        return observation, reward, terminated, truncated, info | said


def test_the_environment_says_what_was_admissible_and_what_is_no_target() -> None:
    c = collector()
    c.make_env = lambda: Talkative(commands=True)  # its list would call every action inadmissible
    episodes = [e for group in play(c).groups for e in group.episodes]
    assert len(episodes) == 4
    for episode in episodes:
        assert [t.admissible for t in episode.transitions] == [False, True, False]
        assert [t.predictable for t in episode.transitions] == [True, True, False]
        assert [bool(t.observation_ids) for t in episode.transitions] == [True, True, False]
        assert episode.transitions[-1].observation_text, "it is played and shown all the same"


def test_a_first_look_leaves_no_environment_in_mid_episode() -> None:
    """An environment may refuse a reset before its episode is over: who looked closes it, and another plays."""
    made: list[OneEpisode] = []

    class OneEpisode(ToyEnv):
        def __init__(self) -> None:
            super().__init__()
            self.resets, self.closed = 0, False
            made.append(self)

        def reset(self, **settings):
            self.resets += 1
            return super().reset(**settings)

        def close(self) -> None:
            self.closed = True

    player = collector()
    player.make_env = OneEpisode
    look = player.first_look(0)
    assert look is not None and "task" in look[1]
    assert [(env.resets, env.closed) for env in made] == [(1, True)]
    assert not player._idle

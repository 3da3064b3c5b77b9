"""The tools that make base policies: their players, the tasks that these play, and one policy made end to end."""

from __future__ import annotations

import random
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from paw_lightning.commands.parsing import parse_settings
from paw_lightning.envs.search.facts import fact_base
from paw_lightning.models.loading import load_language_model, load_tokenizer
from paw_lightning.text.tool_calls import Call
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts: each finds its neighbours in its own folder

import make_base_policy
from base_worlds import HOUSEHOLD, SEARCH, TOOLS, WORLDS, World
from played_world import PlayedWorld
from players import Onward, Skill, SweepingPlayer, names, play
from tiny_models import train_tokenizer

GENERATED = [name for name in WORLDS if name != "alfworld"]


def episode(world: World, number: int, skill: Skill, dice: int = 0) -> list[tuple[str, ...]]:
    """(task, observation, action, answer) of each turn."""
    env, task = world.start(number)
    return list(play(env, task, world.player, random.Random(f"{dice} {number}"), skill, world.turns))


def wins(noise: float, insight: float, count: int = 300) -> float:
    """Share of questions whose last command is the right answer."""
    env = SEARCH.environment("train")
    won = 0
    for question in range(count):
        *_, last = play(env, question, SEARCH.player, random.Random(question), Skill(noise, insight), 4)
        won += last[2] == env.expert_plan()[-1]
    return won / count


def test_skill_decides() -> None:
    assert wins(noise=0.0, insight=1.0) == 1.0
    # without insight any new name of the document: one of 3 in a third of the questions, one of 2 in two thirds:
    # 1/3 * 1/3 + 2/3 * 1/2 = 0.44, standard deviation sqrt(0.44 * 0.56 / 300) = 0.029
    assert abs(wins(noise=0.0, insight=0.0) - 0.44) < 5 * 0.029
    assert wins(noise=1.0, insight=1.0) < 0.2


def test_a_house_is_searched_or_known() -> None:
    """Without noise every house is solved; who knows the places needs no turn to search: go, (open,) take, go, put."""
    searched, known = ([episode(HOUSEHOLD, number, Skill(0.0, insight)) for number in range(20)] for insight in (0, 1))
    assert sum(map(len, known)) < 0.75 * sum(map(len, searched))
    assert all(turns[-1][2].startswith("move ") for turns in known)


def test_a_sweep_goes_on_from_where_the_player_stands() -> None:
    """The first that is left from there on, from the end back to the beginning; anything else is for the dice."""
    onward = Onward(random.Random(0))
    onward.places, onward.here = ["a 1", "b 1", "c 1", "d 1"], "b 1"
    assert onward.choice(["a 1", "c 1", "d 1"]) == "c 1"
    onward.here = "d 1"
    assert onward.choice(["b 1", "c 1"]) == "b 1"
    assert {onward.choice(["go to a 1", "go to b 1"]) for _ in range(20)} == {"go to a 1", "go to b 1"}
    onward.here = ""
    assert {onward.choice(onward.places) for _ in range(60)} == {*onward.places}, "it begins anywhere"


def test_a_sweeping_player_takes_the_places_as_they_are_listed() -> None:
    """And wins: its visits, up to where it finds what it wants, are a piece of the list, which has no end."""
    for number in range(10):
        env, house = HOUSEHOLD.start(number)
        listed = re.findall(r"\ba ([a-z]+ \d+)", env.reset(seed=house)[0])
        turns = list(play(env, house, SweepingPlayer, random.Random(number), Skill(0.0), 40))
        assert turns[-1][2].startswith("move ")
        found = next(i for i, turn in enumerate(turns) if turn[2].startswith("take "))
        visits = [turn[2].removeprefix("go to ") for turn in turns[:found] if turn[2].startswith("go to ")]
        begin = listed.index(visits[0])
        assert visits == (listed[begin:] + listed[:begin])[: len(visits)]


def test_mistakes_change_nothing_and_are_got_over() -> None:
    """Half of all actions are mistakes: right at another turn, or with another number."""
    answers, won = [], 0
    for number in range(30):
        env, house = HOUSEHOLD.start(number)
        skill = Skill(0.0, mistakes=0.5)
        turns = list(play(env, house, SweepingPlayer, random.Random(number), skill, 60))
        answers += [turn[3] for turn in turns]
        won += turns[-1][2].startswith("move ")
    # a number may be drawn as it was, and another cabinet's is a place too: fewer than half
    assert 0.2 < answers.count("Nothing happens.") / len(answers) < 0.5
    assert won >= 28


def test_a_safe_is_opened_as_well_as_its_player_plays() -> None:
    """Without noise always, within the turns of the config; by any calls in 1 - (1 - 1/2 x 1/8)^4 = 22.8 % of safes.

    That is 45.5 of 200, with a standard deviation of 5.9.
    """
    ends = {noise: [episode(TOOLS, number, Skill(noise))[-1][-1] for number in range(200)] for noise in (0.0, 1.0)}
    assert ends[0.0].count("The safe opens.") == 200
    assert 28 <= ends[1.0].count("The safe opens.") <= 63


def test_a_call_is_a_few_tokens() -> None:
    """A digit, a name and what stands between them; a code is copied digit by digit."""
    texts = [text for text, _ in zip(TOOLS.texts(0), range(30), strict=False)]
    tokenizer = train_tokenizer(texts, TOOLS.vocabulary, TOOLS.words())
    call = str(Call("enter", {"code": "47"}))
    pieces = [tokenizer.decode([token]) for token in tokenizer(call).input_ids]
    assert pieces == ['{"name": "enter", "arguments": {"code": "', "4", "7", '"}}']


def test_questions_are_of_other_facts_than_those_of_training() -> None:
    skill = Skill(0.5, 0.5)
    played = [episode(SEARCH, number, skill) for number in range(480)]
    assert played[:20] == [episode(SEARCH, number, skill) for number in range(20)]
    assert len({turns[0][0] for turns in played}) == 480, "within one fact base no two questions are alike"
    lands = SEARCH.rollout["environment"]["init_args"]["lands"]
    trained_on = {text.partition("\n")[2] for text in fact_base(lands, 0).documents}
    found = {answer for turns in played for *_, answer in turns if answer}
    assert len(found) > 100 and not found & trained_on


def test_names() -> None:
    text = "Who is the mayor of Zola Miru? The mayor of Zola Miru is Teko Balu. No."
    assert names(text) == ["Zola Miru", "Zola Miru", "Teko Balu"]


@pytest.mark.parametrize("name", GENERATED)
def test_a_played_world_demonstrates_what_its_player_plays(name: str) -> None:
    """Followed to the letter, it gives the player's own episode, each action behind what begins it (a space)."""
    world, skill = WORLDS[name], Skill(0.4, 0.5)
    for number in range(5):
        env = PlayedWorld(world=name, noise=0.4, insight=0.5, dice=3)
        observation, _ = env.reset(seed=number)
        turns, over = [], False
        while not over and len(turns) < world.turns:
            shown = env.demonstrate()
            assert shown == env.demonstrate(), "it may be asked twice"
            answer, _, terminated, truncated, _ = env.step(shown.removeprefix(world.action_prefix))
            turns.append((observation, shown, answer))
            observation, over = answer, terminated or truncated
        played = episode(world, number, skill, dice=3)
        wanted = [(seen, world.action_prefix + done, answer) for _, seen, done, answer in played]
        assert turns == wanted


@pytest.mark.slow
def test_a_policy_is_made_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three short runs of imitation, the second in the step layout: another policy after each, the same one again."""
    short = tuple(replace(phase, iterations=2, episodes=8) for phase in SEARCH.phases)
    world = replace(SEARCH, phases=short)
    assert [phase.layout for phase in short] == ["episode", "step", "episode"]
    imitate, policies = make_base_policy.imitate, list[dict[str, torch.Tensor]]()

    def watched(world: World, number: int, start: Path, output: Path, seed: int) -> None:
        policies.append(_weights(start))
        imitate(world, number, start, output, seed)
        policies.append(_weights(output))

    monkeypatch.setattr(make_base_policy, "imitate", watched)
    for name in ("one", "again"):
        make_base_policy.make(world, tmp_path / name, seed=0)
    one, again = policies[:6], policies[6:]
    assert [_same(*pair) for pair in zip(one, again, strict=True)] == [True] * 6
    # start and output of phase 1, of phase 2, of phase 3: each trains, and the next begins where it ended
    assert [_same(*pair) for pair in pairwise(one)] == [False, True, False, True, False]
    assert _same(_weights(tmp_path / "one"), one[-1])
    tokenizer = load_tokenizer(str(tmp_path / "one"))
    assert len(tokenizer) == load_language_model(str(tmp_path / "one")).config.vocab_size <= SEARCH.vocabulary


@pytest.mark.parametrize("name", WORLDS)
def test_players_are_imitated_at_temperature_1(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the world plays at: imitated at 0.4, a policy wins at 0.4 what it should win at 1, half as much."""
    begun = list[list[str]]()
    monkeypatch.setattr(make_base_policy, "train", lambda args: begun.append(args) or 0)
    make_base_policy.imitate(WORLDS[name], 0, tmp_path / "start", tmp_path / "made", seed=0)
    [(command, *arguments)] = begun
    assert command == "fit" and parse_settings(arguments).rollout.temperature == 1.0


def test_a_stopped_phase_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run says that a signal has stopped it: nothing follows, and the tool's status is the run's."""
    begun = list[list[str]]()
    monkeypatch.setattr(make_base_policy, "train", lambda args: begun.append(args) or 143)
    with pytest.raises(SystemExit) as ended:
        make_base_policy.make(WORLDS["search"], tmp_path / "made", seed=0)
    assert (ended.value.code, len(begun)) == (143, 1)


def test_a_relative_output_lies_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs have no folder of their own, below which a relative one would be sought: nothing would be written."""
    made = list[Path]()
    monkeypatch.setattr(make_base_policy, "make", lambda world, output, seed: made.append(output))
    monkeypatch.setattr("sys.argv", ["make_base_policy.py", "--output", "runs/mine"])
    monkeypatch.chdir(tmp_path)
    make_base_policy.main()
    assert made == [tmp_path / "runs" / "mine"]


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in load_language_model(str(folder)).named_parameters()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)

"""Exact values of the hidden-rule world: by hand, by enumeration, and met by scripted players."""

from __future__ import annotations

import math
import random
from collections import Counter
from itertools import product

import pytest

from paw_lightning.envs import HiddenRuleEnv
from paw_lightning.envs.hidden_rule.exact import Exact
from paw_lightning.envs.hidden_rule.players import IgnorantPlayer


def test_two_of_four_levers_by_hand() -> None:
    """One try each: 1/16. With a third pull one door may be missed, and its bolt is seen: 1/16 + 2 * 3/4 * 1/4."""
    assert Exact(5, 4, 2, 2).success("ignorant") == pytest.approx(1 / 16)
    assert Exact(5, 4, 2, 3).success("ignorant") == pytest.approx(7 / 16)
    assert Exact(5, 4, 2, 4).success("ignorant") == pytest.approx(1.0), "a miss at each door"
    # who sees no bolt has ruled out one of four: right at once (1/4), or second of two tries at one of the doors (1/4)
    silent = Exact(5, 4, 2, 3, tells=False)
    assert silent.success("ignorant") == pytest.approx(1 / 16 + 2 / 16)
    # a blind one does not even rule out: 3 pulls, at least 2 right: 3 * (1/16)(3/4) + 1/64
    assert silent.success("blind") == pytest.approx(3 / 16 * 3 / 4 + 1 / 64)
    assert silent.success("knowing") == 1.0


def test_a_slip_by_hand() -> None:
    """Knowing, two doors in three pulls, a tenth of which jam: 0.9^2 + 2 * 0.1 * 0.9^2 = 0.972."""
    slippery = Exact(5, 4, 2, 3, slip=0.1)
    assert slippery.success("knowing") == pytest.approx(0.972)
    # ignorant: no jam 0.9^3 * 7/16 + one jam, among the first two or at last: 0.1 * 0.9^2 * 2 * 1/16, + 0.9^2 0.1 / 16
    assert slippery.success("ignorant") == pytest.approx(0.729 * 7 / 16 + 0.081 * 3 / 16)


def test_noise_by_hand() -> None:
    """One door more than can be missed, three levers, noise 0.2: after a miss the bolt is right or not.

    Two levers are left, x the true one. Seen as x with 0.8, as the other one with 0.1, as the one ruled out with 0.1:
    then both are alike. A second try is right with 0.8 + 0.1 / 2 = 0.85, whatever was seen.
    """
    noisy = Exact(3, 3, 2, 3, noise=0.2)
    assert noisy.chances((0, 1)) == pytest.approx([1 / 9, 8 / 9])
    assert noisy.success("ignorant") == pytest.approx(1 / 9 + 2 * (2 / 3 * 0.85) / 3)


def test_dense_returns_by_hand() -> None:
    """Two doors, two pulls, two levers: blind opens 0, 1, 2 of them with 1/4, 1/2, 1/4, half the reward each."""
    dense = Exact(3, 2, 2, 2, dense=True)
    assert dense.expected_return("blind") == pytest.approx(0.5)
    # ignorant: the first is right with 1/2; after a miss it is surely opened: (1/2)(1 + 1/2)/2 + (1/2)(1/2)
    assert dense.expected_return("ignorant") == pytest.approx(0.375 + 0.25)
    assert dense.expected_return("knowing") == 1.0
    assert Exact(3, 2, 2, 2).expected_return("blind") == pytest.approx(0.25), "sparse: the success probability"


@pytest.mark.parametrize(("pulls", "noise", "slip"), [(2, 0.0, 0.0), (3, 0.3, 0.0), (4, 0.3, 0.25), (5, 0.5, 0.1)])
def test_knowledge_orders_the_players(pulls: int, noise: float, slip: float) -> None:
    exact = Exact(6, 5, 2, pulls, slip, noise)
    values = [exact.success(player) for player in ("blind", "ignorant", "knowing")]
    assert values == sorted(values) and 0 < values[0] < values[2] <= 1


def scripted(player: str, episodes: int, **settings) -> tuple[float, float, Exact]:
    """Success rate and mean return of a scripted player, each episode under another rule."""
    rng, won, total = random.Random(5), 0, 0.0
    rules = [HiddenRuleEnv(rule_seed=seed, **settings) for seed in range(20)]
    for episode in range(episodes):
        env = rules[episode % len(rules)]
        observation, info = env.reset(seed=episode, options={"episode_seed": episode})
        ignorant, over = IgnorantPlayer(env.levers, rng), False
        while not over:
            if player == "knowing":
                action = env.demonstrate()
            else:
                action = ignorant.act(observation) if player == "ignorant" else rng.choice(info["admissible_commands"])
            observation, reward, over, _, info = env.step(action)
            total += reward
        won += info["won"]
    return won / episodes, total / episodes, env.exact


WORLDS = {
    "as configured": {},
    "noise and slips": {"tells": "lever", "levers": 5, "spare": 3, "slip": 0.1, "noise": 0.3},
    "dense": {"doors": 6, "levers": 4, "spare": 0, "slip": 0.2, "reward": "dense"},
    "silent": {"levers": 4, "spare": 6, "tells": "nothing"},
}


def assert_met(player: str, episodes: int, **settings) -> None:
    """Within four standard errors; a return lies in [0, 1], so that its variance is at most r (1 - r)."""
    won, total, exact = scripted(player, episodes, **settings)
    for found, wanted in ((won, exact.success(player)), (total, exact.expected_return(player))):
        assert abs(found - wanted) <= 4 * math.sqrt(max(wanted * (1 - wanted), 0.0) / episodes) + 1e-9


@pytest.mark.parametrize("player", ["knowing", "ignorant", "blind"])
@pytest.mark.parametrize("world", WORLDS)
def test_scripted_players_meet_the_bounds(world: str, player: str) -> None:
    assert_met(player, 600, **WORLDS[world])


@pytest.mark.slow
@pytest.mark.parametrize("player", ["knowing", "ignorant", "blind"])
@pytest.mark.parametrize("world", WORLDS)
def test_scripted_players_meet_the_bounds_over_ten_thousand_episodes(world: str, player: str) -> None:
    assert_met(player, 10_000, **WORLDS[world])


def entropy(counts: Counter) -> float:
    total = sum(counts.values())
    return -sum(p / total * math.log(p / total) for p in counts.values() if p)


@pytest.mark.parametrize("noise", [0.0, 0.25])
@pytest.mark.parametrize("tells", [True, False])
@pytest.mark.parametrize("slip", [0.0, 0.2])
def test_entropies_by_enumeration(noise: float, tells: bool, slip: float) -> None:
    """Every right lever, lever pulled, slip, misreading and next door of D = 4, L = 3, with its probability."""
    exact = Exact(4, 3, 2, 3, slip, noise, tells)
    known: list[float] = []
    unknown: list[Counter] = []
    for pulled in range(3):
        mixed: Counter = Counter()
        for right in range(3):
            answers: Counter = Counter({"jam": slip})
            if pulled == right:
                answers.update({f"next {door}": (1 - slip) / 3 for door in range(3)})  # three kinds not met yet
            elif tells:
                for seen in range(3):
                    answers[f"bolt {seen}"] += (1 - slip) * (1 - noise if seen == right else noise / 2)
            else:
                answers["shut"] += 1 - slip
            known.append(entropy(answers))
            mixed.update({answer: p / 3 for answer, p in answers.items()})
        unknown.append(mixed)
    with_rule, without = sum(known) / 9, sum(map(entropy, unknown)) / 3
    assert exact.answer_entropy(0, knowing=True) == pytest.approx(with_rule)
    assert exact.answer_entropy(0, knowing=False) == pytest.approx(without)
    assert exact.knowable_share(0) == pytest.approx(1 - with_rule / without)
    assert exact.answer_entropy(1, knowing=False) < without, "behind the last door comes nothing"
    for opened in (-1, 2):
        with pytest.raises(ValueError, match=f"opened is {opened}; wanted 0 to 1"):
            exact.answer_entropy(opened, knowing=True)


def test_without_noise_the_last_answer_is_the_rule() -> None:
    """Knowing, nothing is left: ln 8 nats (open, or seven colours) are all of them knowable. Silent: H(1/8)."""
    exact = Exact(12, 8, 3, 4)
    assert exact.answer_entropy(2, knowing=False) == pytest.approx(math.log(8))
    assert exact.answer_entropy(2, knowing=True) == 0.0 and exact.knowable_share(2) == 1.0
    silent = Exact(12, 8, 3, 4, tells=False)
    assert silent.answer_entropy(2, knowing=False) == pytest.approx(math.log(8) - 7 / 8 * math.log(7))


def test_the_world_answers_with_the_stated_probabilities() -> None:
    """4,000 first pulls of each of two levers at one door; each answer's share within four standard errors."""
    exact_noise, slip = 0.3, 0.2
    env = HiddenRuleEnv(doors=4, levers=3, horizon=2, noise=exact_noise, slip=slip)
    right = env.rule
    for lever, trials in product(env.levers[:2], [4000]):
        counts: Counter = Counter()
        for episode in range(trials):
            observation, _ = env.reset(seed=0, options={"episode_seed": episode})
            door = observation.split()[-2]
            counts[env.step(f"open {door} with {lever}")[0]] += 1
        wanted = {"The lever jams.": slip}
        if right[door] == lever:
            [opened] = [answer for answer in counts if "opens" in answer]
            wanted[opened] = 1 - slip
        else:
            for colour in env.levers:
                p = 1 - exact_noise if colour == right[door] else exact_noise / 2
                wanted[f"The door stays shut. Its bolt reads {door} with {colour}."] = (1 - slip) * p
        assert counts.keys() == wanted.keys()
        for answer, p in wanted.items():
            assert abs(counts[answer] / trials - p) < 4 * math.sqrt(p * (1 - p) / trials)

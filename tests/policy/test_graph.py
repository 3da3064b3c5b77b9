"""GraphGPO: graphs drawn and worked out by hand, and what must hold of any."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paw_lightning.errors import SettingsError
from paw_lightning.policy.advantages import GRPO, GiGPO, GraphGPO
from paw_lightning.policy.advantages.graph import SUCCESS, success_distances, transition_graph
from paw_lightning.types import RolloutGroup
from tests.helpers.factories import make_episode, make_group, make_transition

HALF = 0.5**0.5


def walks(*paths: str, success: float = 10.0) -> RolloutGroup:
    """One episode per path, each letter an observation; the last is what follows the last turn, "!" success."""
    episodes = []
    for member, path in enumerate(paths):
        won = path.endswith("!")
        turns = [make_transition(anchor=a, observation_text=b) for a, b in pairwise(path)]
        turns[-1].reward = success * won
        episodes.append(make_episode(turns, member=member, won=won))
    return RolloutGroup("task", success, episodes)


def test_the_graph_and_its_distances_by_hand() -> None:
    # H=0 K=1 (the end of the first is no state: success); H K C=2 D=3; C is where the second one ended, too.
    group = walks("HK!", "HKC", "DC")
    assert transition_graph(group) == [(0, 1), (1, SUCCESS), (0, 1), (1, 3), (4, 3)]
    # backwards from success: K 1, H 2; neither C nor D reaches it
    assert success_distances(transition_graph(group)) == {SUCCESS: 0, 1: 1, 0: 2}


def test_a_path_through_several_episodes_is_found() -> None:
    """No episode went A, B, C, success; the lost first one shows that A leads to B."""
    edges = transition_graph(walks("AB", "BC", "C!"))
    assert sorted(success_distances(edges).values()) == [0, 1, 2, 3]


# H leads to K (won) and to C (lost). d: K 1, H 2, C unreachable, 2 + 1 = 3.
# Worth: H->K 10 x 0.1^1 = 1, K->! 10, H->C 10 x 0.1^3 = 0.01. From H: 1 and 0.01, mean 0.505, +-0.495, std 0.7.
# Returns 10 and 0: mean 5, std sqrt 50. Over rows 10, 10, 0: mean 20 / 3, std sqrt(100 / 3) = 5.7735.
FORK = walks("HK!", "HC")


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        (GraphGPO(), [HALF + HALF, HALF, -HALF - HALF]),
        (GraphGPO(omega=3), [HALF + 3 * HALF, HALF, -HALF - 3 * HALF]),
        (GraphGPO(level="row"), [0.57735 + HALF, 0.57735, -1.15470 - HALF]),
        (GraphGPO(normalization="mean_norm"), [5 + 0.495, 5, -5 - 0.495]),
        (GraphGPO(normalization="mean_norm", level="row"), [10 / 3 + 0.495, 10 / 3, -20 / 3 - 0.495]),
        # gamma 0.5: 5 and 1.25, +-1.875; a success worth 2: 1 and 0.25, +-0.375
        (GraphGPO(normalization="mean_norm", gamma=0.5), [6.875, 5, -6.875]),
        (GraphGPO(normalization="mean_norm", gamma=0.5, success_reward=2), [5.375, 5, -5.375]),
    ],
)
def test_a_fork_by_hand(algorithm: GraphGPO, expected: list[float]) -> None:
    assert algorithm(FORK) == pytest.approx(expected, rel=1e-4)


def test_a_good_step_of_a_lost_episode_gains_and_a_detour_of_a_won_one_loses() -> None:
    """The won one goes A, D, A, B, success; the lost one A, B, A.

    d: B 1, A 2, D 3. From A: to D 10 x 0.1^3 = 0.01, to B 1, to B 1: mean 0.67, std 0.99 / sqrt 3 = 0.5716, so that
    D has -1.1547 and B 0.57735. From B: to success 10, to A 10 x 0.1^2 = 0.1: +-0.7071. D is left once.
    Returns 10 and 0 give +-0.7071.
    """
    detour, back, there, home = -1.1547, 0.0, 0.57735, HALF
    expected = [*(HALF + a for a in (detour, back, there, home)), -HALF + there, -HALF - HALF]
    assert GraphGPO()(walks("ADAB!", "ABA")) == pytest.approx(expected, rel=1e-4)


def test_standing_still_is_no_progress() -> None:
    """The same answer again: an edge from A to A. d(A) is 1, so that it is worth 1 and success 10: -+0.7071."""
    standing, winning = GraphGPO(normalization="mean_norm", level="trajectory")(walks("AA!"))
    assert (standing, winning) == (-4.5, 4.5)


@pytest.mark.parametrize("paths", [["AB", "AC", "ABA"], ["A!", "A!"], ["AB!", "AB!"], ["AB!", "CD!"]])
def test_no_step_credit_where_nothing_differs(paths: list[str]) -> None:
    """All failed, or every turn from a state leads equally near: GRPO's advantage, bit for bit."""
    group = walks(*paths)
    assert GraphGPO()(group) == GRPO()(group)


def test_without_weight_it_is_grpo() -> None:
    group = walks("ADAB!", "ABA", "AB!")
    for level in ("trajectory", "row"):
        assert GraphGPO(level=level, omega=0)(group) == GRPO(level=level)(group)


def test_it_is_gigpo_where_every_episode_wins_by_the_shortest_way_from_where_it_is() -> None:
    """Then a step's discounted return is gamma to the distance: 10 x 0.5^(turns left)."""
    group = walks("ABC!", "AC!", "DBC!", "DC!")
    assert GraphGPO(gamma=0.5)(group) == pytest.approx(GiGPO(gamma=0.5)(group))
    assert any(GraphGPO(gamma=0.5)(group))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ABCD", min_size=2, max_size=6).flatmap(lambda p: st.sampled_from([p, p + "!"])), min_size=2))
def test_the_order_of_episodes_and_the_names_of_states_play_no_part(paths: list[str]) -> None:
    group = walks(*paths)
    forward = GraphGPO()(group)
    backward = GraphGPO()(RolloutGroup("task", 10.0, group.episodes[::-1]))
    counts = [len(e.transitions) for e in group.episodes]
    parts, start = [], 0
    for count in counts:
        parts.append(forward[start : start + count])
        start += count
    assert backward == pytest.approx([a for part in parts[::-1] for a in part], abs=1e-9)
    renamed = walks(*(path.translate(str.maketrans("ABCD", "DACB")) for path in paths))
    assert GraphGPO()(renamed) == pytest.approx(forward, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ABC", min_size=2, max_size=6).flatmap(lambda p: st.sampled_from([p, p + "!"])), min_size=1))
def test_steps_that_lead_nearer_have_more(paths: list[str]) -> None:
    """Of two turns from one state the one that leads nearer to success has the larger step advantage."""
    group = walks(*paths)
    whole, outcome = GraphGPO(normalization="mean_norm")(group), GRPO(normalize_std=False)(group)
    steps = [a - o for a, o in zip(whole, outcome, strict=True)]
    edges = transition_graph(group)
    distances = success_distances(edges)
    for (start, end), mine in zip(edges, steps, strict=True):
        for (other_start, other_end), others in zip(edges, steps, strict=True):
            if start == other_start and distances.get(end, 99) < distances.get(other_end, 99):
                assert mine > others
    for node in {start for start, _ in edges}:
        assert sum(s for (start, _), s in zip(edges, steps, strict=True) if start == node) == pytest.approx(0, abs=1e-9)


def test_similar_observations_are_one_state() -> None:
    """ "abcdefghij" and "abcdefghiX" have ratio 0.9: with 0.9 the fork of two ends of one state, with 1 two states."""
    group = walks("HK!", "HC")
    for episode, name in zip(group.episodes, ("abcdefghij", "abcdefghiX"), strict=True):
        episode.transitions[0].anchor = name
    assert GraphGPO(similarity=0.9)(group) == pytest.approx(GraphGPO()(FORK))
    assert GraphGPO()(group) == GRPO()(group)


def test_a_penalty_is_no_part_of_the_distance() -> None:
    group = walks("HK!", "HC")
    group.episodes[1].transitions[0].well_formed = False
    plain = GraphGPO(normalization="mean_norm")
    assert replace(plain, invalid_action_penalty=0.5)(group) == pytest.approx([5.495, 5, -5.995])
    # in the score: returns 10 and -0.5, +-5.25
    inside = replace(plain, invalid_action_penalty=0.5, penalty_in_score=True)
    assert inside(group) == pytest.approx([5.25 + 0.495, 5.25, -5.25 - 0.495])


def test_groups_without_turns() -> None:
    assert GraphGPO()(RolloutGroup("task", 1.0, [])) == []
    assert GraphGPO()(RolloutGroup("task", 1.0, [make_episode([]), make_episode([], won=True)])) == []
    assert GraphGPO()(make_group([3.0], [1])) == [0.0]
    assert GraphGPO(level="row")(make_group([3.0], [1])) == [3.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gamma": 1.0}, "gamma is 1.0; wanted a discount between 0 and 1"),
        ({"gamma": 0.0}, "gamma is 0.0"),
        ({"omega": -1.0}, "omega is -1.0"),
        ({"success_reward": 0.0}, "success_reward is 0.0; wanted above 0"),
        ({"similarity": 1.5}, "similarity is 1.5"),
        ({"normalization": "std"}, "normalization is 'std'"),
        ({"level": "turn"}, "level is 'turn'"),
    ],
)
def test_bad_settings_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=rf"rollout\.advantage\.init_args\.{message}"):
        GraphGPO(**wrong)

"""Advantages: numbers worked out by hand, then the reference implementation's on random groups."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paw_lightning.policy.advantages.comparing import anchor_clusters, discounted_returns
from paw_lightning.policy.advantages.gae import GAE, explained_variance, gae, whiten
from paw_lightning.policy.advantages.group import GRPO, RLOO, GiGPO
from paw_lightning.types import Rollout, RolloutGroup
from tests.helpers.factories import make_episode, make_group, make_transition

one_success = make_group([10] + [0] * 7, [10] + [50] * 7)


@pytest.mark.parametrize(
    ("algorithm", "success", "failure"),
    [
        # 8 returns: mean 1.25, squares 8.75^2 + 7 * 1.25^2 = 87.5, std sqrt(87.5 / 7) = 3.5355
        (GRPO(), 8.75 / 3.53553, -1.25 / 3.53553),
        (GRPO(normalize_std=False), 8.75, -1.25),
        # 360 rows, 10 of them 10: mean 1 / 3.6 = 0.27778, squares 10 * 9.72222^2 + 350 * 0.27778^2 = 972.22,
        # std sqrt(972.22 / 359) = 1.64565
        (GRPO(level="row"), 9.72222 / 1.64565, -0.27778 / 1.64565),
        # the other seven have mean 0; for a failure they have mean 10 / 7
        (RLOO(), 10, -10 / 7),
        (RLOO(level="row"), 9.72222 * 360 / 359, -0.27778 * 360 / 359),
        # every anchor differs, so the step part is 0
        (GiGPO(), 8.75 / 3.53553, -1.25 / 3.53553),
    ],
)
def test_one_success_of_eight(algorithm, success, failure):
    assert algorithm(one_success) == pytest.approx([success] * 10 + [failure] * 350, rel=1e-4)


def test_published_rounding_of_both_conventions():
    ends = [(a(one_success)[0], a(one_success)[-1]) for a in (GRPO(level="row"), GRPO(), RLOO(level="row"))]
    assert [tuple(round(x, 2) for x in end) for end in ends] == [(5.91, -0.17), (2.47, -0.35), (9.75, -0.28)]


@pytest.mark.parametrize("algorithm", [GRPO, RLOO, GiGPO])
@pytest.mark.parametrize("level", ["trajectory", "row"])
@pytest.mark.parametrize("value", [0.0, 0.1, 10.0])
def test_equal_returns_teach_nothing(algorithm, level, value):
    """Exactly: a rounding of 1e-16 would else be blown up, or decide which way a step goes."""
    group = make_group([value] * 3, [2, 3, 1])
    assert algorithm(level=level)(group) == [0.0] * 6
    rounded = make_group([value, value * 3 / 3, value * (1 + 2e-16)], [2, 3, 1])
    assert algorithm(level=level)(rounded) == [0.0] * 6


@pytest.mark.parametrize("penalty", [0.1, 0.001])
def test_penalty_is_a_term_of_its_own_by_default(penalty):
    group = make_group([0] * 8, [50] * 8, invalid=[(0, i) for i in range(20)])
    expected = [-penalty] * 20 + [0.0] * 380
    for algorithm in (GRPO, RLOO, GiGPO):
        for level in ("trajectory", "row"):
            assert algorithm(level=level, invalid_action_penalty=penalty)(group) == pytest.approx(expected)


@pytest.mark.parametrize(("penalty", "blown_up"), [(0.1, -4.35), (0.001, -4.33)])
def test_penalty_in_score_cancels_its_size(penalty, blown_up):
    # 20 of 400 rows at -c: mean -c / 20, deviation 0.95 c, std c sqrt(20 * 0.95 / 399) = 0.21822 c: 0.95 / 0.21822
    group = make_group([0] * 8, [50] * 8, invalid=[(0, i) for i in range(20)])
    algorithm = GRPO(level="row", invalid_action_penalty=penalty, penalty_in_score=True)
    assert round(algorithm(group)[0], 2) == blown_up


def test_penalty_in_score_at_trajectory_level_lowers_the_return():
    # scores 1 - 2 * 0.25 = 0.5 and 0: leave one out gives 0.5 and -0.5
    group = make_group([1, 0], [2, 1], invalid=[(0, 0), (0, 1)])
    assert RLOO(invalid_action_penalty=0.25, penalty_in_score=True)(group) == [0.5, 0.5, -0.5]


def test_group_of_one():
    group = make_group([3.0], [1])
    for algorithm in (GRPO, RLOO, GiGPO):
        assert algorithm()(group) == [0.0]
        assert algorithm(level="row")(group) == [3.0]


@pytest.mark.parametrize("algorithm", [GRPO(), GRPO(level="row"), RLOO(), RLOO(level="row"), GiGPO(), GiGPO("row")])
def test_episodes_without_turns_have_no_advantages(algorithm):
    assert algorithm(RolloutGroup("task", 1.0, [])) == []
    assert algorithm(RolloutGroup("task", 1.0, [make_episode([]), make_episode([])])) == []


@given(st.lists(st.tuples(st.floats(-10, 10), st.integers(1, 5)), min_size=2, max_size=6))
def test_outcome_advantages_are_balanced_and_constant_within_an_episode(episodes):
    returns, turns = zip(*episodes, strict=True)
    group = make_group(returns, turns)
    for algorithm in (GRPO(), GRPO(normalize_std=False), RLOO()):
        left = iter(algorithm(group))
        per_episode = [[next(left) for _ in range(count)] for count in turns]
        assert all(len(set(values)) == 1 for values in per_episode)
        assert sum(values[0] for values in per_episode) == pytest.approx(0, abs=1e-6)
    for algorithm in (GRPO(level="row"), RLOO(level="row")):
        assert sum(algorithm(group)) == pytest.approx(0, abs=1e-6)


def test_discounted_returns():
    assert discounted_returns([1.0, 0.0, 4.0], 0.5) == [2.0, 2.0, 4.0]  # 1 + 0.5 * 2, 0 + 0.5 * 4, 4
    assert discounted_returns([], 0.5) == []


def test_gigpo_compares_turns_from_the_same_observation():
    # G with gamma 0.5: episode 0 (return 4) 2, 4; episode 1 (return 0) 0, 0.
    # "hall" holds G 2 and 0: mean 1, std sqrt 2. "shelf" and "desk" are alone.
    # Episode part: returns 4 and 0, mean 2, std sqrt 8.
    group = make_group([4, 0], [2, 2], anchors=[["hall", "shelf"], ["hall", "desk"]])
    half = 0.5**0.5
    assert GiGPO(gamma=0.5)(group) == pytest.approx([2 * half, half, -2 * half, -half], rel=1e-5)
    assert GiGPO(gamma=0.5, omega=3)(group) == pytest.approx([4 * half, half, -4 * half, -half], rel=1e-5)
    assert GiGPO(gamma=0.5, normalization="mean_norm")(group) == [3, 2, -3, -2]


def test_gigpo_penalty():
    # As above without division; turn 0 of episode 1 is invalid. Apart: its advantage is -3 - 0.5.
    # In the score: returns 4 and -0.5 deviate by 2.25, and "hall" holds 2 and -0.5, which deviate by 1.25.
    options = {"anchors": [["hall", "shelf"], ["hall", "desk"]], "invalid": [(1, 0)]}
    group = make_group([4, 0], [2, 2], **options)
    algorithm = {"gamma": 0.5, "normalization": "mean_norm", "invalid_action_penalty": 0.5}
    assert GiGPO(**algorithm)(group) == [3, 2, -3.5, -2]
    assert GiGPO(penalty_in_score=True, **algorithm)(group) == [3.5, 2.25, -3.5, -2.25]


def test_anchor_clusters():
    # "abcdefghij" against "abcdefghiX": 9 of 10 match, ratio 0.9. "abcdefghYX" has 0.8 to the first member.
    anchors = ["abcdefghij", "abcdefghiX", "abcdefghYX", "abcdefghij"]
    assert anchor_clusters(anchors) == [[0, 3], [1], [2]]
    assert anchor_clusters(anchors, 0.9) == [[0, 1, 3], [2]]  # greedy: 2 resembles 1, but 1 opened no cluster
    assert anchor_clusters(anchors, 0.8) == [[0, 1, 2, 3]]
    assert anchor_clusters([]) == []
    # One word of 200 is another: 1,485 of 1,489 and 1,487 letters match, a ratio of 0.997
    words = [f"word{i}" for i in range(200)]
    long = [" ".join(words), " ".join([*words[:100], "other", *words[101:]])]
    assert anchor_clusters(long, 0.9) == [[0, 1]], "letters that come often are no noise"


def test_gae_by_hand():
    # delta = [0 + 0.5 * 2 - 1, 4 - 2] = [0, 2]; A = [0 + 0.5 * 0.5 * 2, 2] = [0.5, 2]; targets A + V
    advantages, targets = gae(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 2.0]), gamma=0.5, gae_lambda=0.5)
    assert advantages.tolist() == [0.5, 2.0]
    assert targets.tolist() == [1.5, 4.0]


def test_gae_runs_through_the_turns_of_an_episode():
    # Rewards on last tokens: [0, 1 - 0.5] and [3]; values 0. At gamma = lambda = 1 the advantage is the return to go.
    episode = make_episode([make_transition(reward=1.0, well_formed=False), make_transition(reward=3.0)])
    values = [torch.zeros(2), torch.zeros(1)]
    turns = GAE(invalid_action_penalty=0.5)(episode, values)
    assert [advantages.tolist() for advantages, _ in turns] == [[3.5, 3.5], [3.0]]
    # Row level: each turn alone, its last token paid the return 4, less the penalty.
    rows = GAE(level="row", invalid_action_penalty=0.5)(episode, values)
    assert [advantages.tolist() for advantages, _ in rows] == [[3.5, 3.5], [4.0]]


def two_turns():
    """Values [1, 2] and [4], rewards 1 and 3; an observation lies between the turns."""
    first = make_transition(reward=1.0, old_values=torch.tensor([1.0, 2.0]), observation_ids=[7] * 9)
    return make_episode([first, make_transition(reward=3.0, action_ids=[4], old_values=torch.tensor([4.0]))])


def test_gae_skips_the_observations_between_turns():
    # gamma = lambda = 0.5. delta = [0.5 * 2 - 1, 1 + 0.5 * 4 - 2, 3 - 4] = [0, 1, -1]: the nine observation tokens
    # discount nothing. A = [0.25 * 0.75, 1 - 0.25, -1]; targets A + V.
    turns = GAE(gamma=0.5, gae_lambda=0.5, whiten=False).of_update([two_turns()])
    assert [a.tolist() for a, _ in turns] == [[0.1875, 0.75], [-1.0]]
    assert [target.tolist() for _, target in turns] == [[1.1875, 2.75], [3.0]]
    # Row level: the last token of each turn is paid 4, and nothing follows it. delta = [0, 4 - 2] and [4 - 4].
    rows = GAE(level="row", gamma=0.5, gae_lambda=0.5, whiten=False).of_update([two_turns()])
    assert [a.tolist() for a, _ in rows] == [[0.5, 2.0], [0.0]]


def test_whitening_is_over_all_tokens_of_the_update():
    # 1, 3 and 5: mean 3, unbiased std 2. Targets are not touched.
    whitened = whiten([torch.tensor([1.0, 3.0]), torch.tensor([5.0])])
    assert torch.cat(whitened).tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=1e-5)
    assert [len(a) for a in whitened] == [2, 1]
    plain, white = (GAE(whiten=on).of_update([two_turns(), two_turns()]) for on in (False, True))
    tokens = torch.cat([a for a, _ in white])
    assert tokens.mean().item() == pytest.approx(0, abs=1e-6) and tokens.std().item() == pytest.approx(1, abs=1e-4)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, white, strict=True))


@pytest.mark.parametrize(
    "advantages",
    [
        [],
        [torch.tensor([3.0])],
        [torch.tensor([2.0, 2.0]), torch.tensor([2.0])],
        [torch.tensor([0.1 + 0.2, 0.3]), torch.tensor([0.3]).nextafter(torch.tensor([1.0]))],  # but for rounding
    ],
)
def test_whitening_leaves_no_advantage_where_nothing_differs(advantages):
    assert torch.cat([torch.empty(0), *whiten(advantages)]).tolist() == [0.0] * sum(map(len, advantages))


def test_explained_variance_by_hand():
    # Targets 0, 2: variance 2. Errors 0, 1: variance 0.5.
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0])) == 0.75
    assert explained_variance(torch.tensor([5.0, 5.0]), torch.tensor([0.0, 2.0])) == 0.0
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])) is None
    assert explained_variance(torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0000002])) is None


def test_gae_of_a_turn_without_tokens():
    """Its reward of 2 falls on the token before it, at turn 0: there 1 + 2 + 4, and 4 at turn 2. V = 0, gamma 1."""
    episode = make_episode([make_transition(reward=r) for r in (1.0, 2.0, 4.0)])
    for t, count in zip(episode.transitions, (1, 0, 1), strict=True):
        t.action_ids, t.old_values = t.action_ids[:count], torch.zeros(count)
    rollout = Rollout(0, [RolloutGroup("key", 1.0, [episode])])
    GAE(whiten=False).write(rollout)
    assert [t.token_advantages.tolist() for t in episode.transitions] == [[7.0], [], [4.0]]
    assert [t.advantage for t in episode.transitions] == [7.0, 0.0, 4.0]
    GAE(whiten=False, level="row").write(rollout)
    assert [t.token_advantages.tolist() for t in episode.transitions] == [[7.0], [], [7.0]]


def test_gae_without_values_names_the_critic():
    with pytest.raises(ValueError, match=r"model\.critic"):
        GAE().of_update([make_episode([make_transition()])])


def test_gae_extremes():
    rewards, values = torch.randn(7), torch.randn(7, requires_grad=True)
    to_go = rewards.flip(0).cumsum(0).flip(0)
    advantages, targets = gae(rewards, values, gamma=1.0, gae_lambda=1.0)
    torch.testing.assert_close(targets, to_go)
    assert not advantages.requires_grad and not targets.requires_grad
    one_step, _ = gae(rewards, values, gamma=1.0, gae_lambda=0.0)
    torch.testing.assert_close(one_step, rewards + torch.cat([values[1:], torch.zeros(1)]).detach() - values.detach())
    assert [len(x) for x in gae(torch.empty(0), torch.empty(0))] == [0, 0]
    assert GAE()(make_episode([]), []) == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: GRPO(level="token"), "level is 'token'"),
        (lambda: RLOO(invalid_action_penalty=-0.1), "invalid_action_penalty is -0.1"),
        (lambda: GiGPO(gamma=1.5), "gamma is 1.5"),
        (lambda: GiGPO(omega=-1), "omega is -1"),
        (lambda: GiGPO(similarity=0), "similarity is 0"),
        (lambda: GiGPO(normalization="std"), "normalization is 'std'"),
        (lambda: GAE(gae_lambda=2), "gae_lambda are 1.0 and 2"),
    ],
)
def test_bad_settings_are_named(build, message):
    with pytest.raises(ValueError, match=f"rollout.advantage.init_args.*{message}"):
        build()


def golden_algorithms(case):
    row = {"level": "row", "invalid_action_penalty": case["invalid_penalty"], "penalty_in_score": True}
    algorithms = {
        "grpo_row": GRPO(**row),
        "dr_grpo_row": GRPO(normalize_std=False, **row),
        "rloo_row": RLOO(**row),
        "grpo_trajectory": GRPO(),
        "dr_grpo_trajectory": GRPO(normalize_std=False),
    }
    for normalization in ("mean_norm", "mean_std_norm"):
        for name, similarity in (("exact", 1.0), ("sim0.9", 0.9)):
            algorithms[f"gigpo_row_{normalization}_{name}"] = GiGPO(
                gamma=case["gamma"], normalization=normalization, similarity=similarity, **row
            )
    return algorithms


def golden_group(episodes):
    return RolloutGroup(
        "task",
        10.0,
        [
            make_episode(
                [make_transition(anchor=t["anchor"], reward=t["reward"], well_formed=t["valid"]) for t in turns]
            )
            for turns in episodes
        ],
    )


def test_reference_implementation(shared):
    for case in json.loads((shared / "golden" / "group_advantages.json").read_text()):
        algorithms = golden_algorithms(case)
        assert {*algorithms, "step_returns"} == set(case["expected"])
        groups = [golden_group(episodes) for episodes in case["groups"]]
        for name, algorithm in algorithms.items():
            got = [a for group in groups for a in algorithm(group)]
            assert got == pytest.approx(case["expected"][name], rel=1e-3, abs=1e-5), (case["seed"], name)
        episodes = [episode for group in groups for episode in group.episodes]
        step_returns = [
            g for e in episodes for g in discounted_returns([t.reward for t in e.transitions], case["gamma"])
        ]
        assert step_returns == pytest.approx(case["expected"]["step_returns"], rel=1e-3, abs=1e-5)

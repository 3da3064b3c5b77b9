"""Made-up catalogues: every goal can be met, an expert meets it from the text alone, and no word is a trap."""

import random
from collections import Counter

import pytest

from paw_lightning.envs.shop.env import ShopEnv
from paw_lightning.envs.shop.expert import ShopExpert, parse_wish
from paw_lightning.envs.shop.generator import DEPARTMENTS, FIRST, LAST, generate_products
from paw_lightning.envs.shop.reward import normalize_color

BRIEF = {"products": 200, "brief": True, "page_size": 3}


@pytest.mark.parametrize("settings", [BRIEF, {"products": 100}], ids=["brief", "full"])
def test_every_goal_can_be_met(settings: dict) -> None:
    store = ShopEnv(**settings).store
    assert len(store.goals) > 500
    assert all(store.score(goal.product, goal.options, goal) == 1.0 for goal in store.goals)


@pytest.mark.parametrize("catalogue_seed", [0, 1])
def test_the_expert_meets_every_wish_in_a_brief_shop_in_few_turns(catalogue_seed: int) -> None:
    env = ShopEnv(**BRIEF, observation="lines", catalogue_seed=catalogue_seed)
    turns: Counter[int] = Counter()
    for seed in range(300):
        observation, info = env.reset(seed=seed)
        expert = ShopExpert(info["task"])
        done, turn = False, 0
        while not done:
            observation, reward, done, _, info = env.step(expert.act(observation))
            assert info["admissible_action"]
            turn += 1
            assert turn <= 15
        assert reward == 1.0
        turns[turn] += 1
    # Search, open, one option for each group (one or two), buy; a few products have to be left again.
    assert turns[4] + turns[5] > 270


def test_the_expert_meets_wishes_in_a_full_shop() -> None:
    """Attributes may be hidden among the features, prices may be ranges: it can take long."""
    env = ShopEnv(products=300, observation="lines")
    for seed in range(300):
        observation, info = env.reset(seed=seed)
        expert = ShopExpert(info["task"])
        for _ in range(250):
            observation, reward, done, _, _ = env.step(expert.act(observation))
            if done:
                break
        assert done and reward == 1.0, info["task"]


def test_the_expert_goes_by_the_page_whatever_was_played() -> None:
    env, rng = ShopEnv(**BRIEF, observation="lines"), random.Random(0)
    won = 0
    for seed in range(60):
        observation, info = env.reset(seed=seed)
        expert = ShopExpert(info["task"])
        for _ in range(60):
            action = expert.act(observation)
            others = [a for a in info["admissible_commands"] if a not in ("click[buy now]", "search[<your query>]")]
            if rng.random() < 0.3 and others:
                action = rng.choice(others)
            observation, _, done, _, info = env.step(action)
            if done:
                break
        won += info["won"]
    assert won >= 55, "a stray click may choose an option that scores as well"


def test_wishes_are_read_from_the_task() -> None:
    asked = "Find me easy clean, non slip frying pan with color: red, and pack: set of four"
    wish = parse_wish(f"{asked}, and price lower than 30.00 dollars")
    assert wish.words == {"easy", "clean", "non", "slip", "frying", "pan"} and wish.kind == "pan"
    assert wish.options == {"color": "red", "pack": "set of four"} and wish.price_upper == 30.0
    assert wish.query == "easy clean non slip frying pan red set of four"
    plain = parse_wish("Find me foldable armchair")
    assert plain.options == {} and plain.price_upper == float("inf")
    with pytest.raises(ValueError, match="expected e"):
        parse_wish("put a mug in cabinet.")


def test_no_option_is_a_trap() -> None:
    """WebShop's reward reduces what was bought to a colour word: a value that contains one would never be right."""
    for department in DEPARTMENTS:
        for values in department.options.values():
            assert all(normalize_color(value) == value for value in values)
        values = [value for group in department.options.values() for value in group]
        assert len(values) == len(set(values)), "a value of two groups would hide one of them"
        assert not set(values) & {"description", "features", "reviews", "buy now", "search"}


@pytest.mark.parametrize("settings", [{"products": 60, "brief": True}, {"products": 80}], ids=["brief", "full"])
def test_no_wish_is_in_two_splits(settings: dict) -> None:
    """Of 100 products and more, two ask for the same in the same words now and then."""
    left_out = 0
    for seed in range(25):
        store = ShopEnv(**settings, catalogue_seed=seed).store
        tenth = len(store.goals) // 10
        splits = {name: store.split(name) for name in ("train", "val", "test")}
        assert splits["train"] == list(range(2 * tenth, len(store.goals))), "nothing is taken from training"
        wishes = [{store.goals[number].instruction for number in numbers} for numbers in splits.values()]
        assert len(wishes[0] | wishes[1] | wishes[2]) == sum(map(len, wishes)), "no wish in two of them"
        left = [n for n in range(2 * tenth) if n not in {*splits["val"], *splits["test"]}]
        assert {store.goals[n].instruction for n in left} <= wishes[0] | wishes[1], "and no other is left out"
        left_out += len(left)
    assert left_out > 0


def test_brief_products_have_names_as_far_as_they_go() -> None:
    """Nine digits by 26 syllables."""
    names = [product.asin for product in generate_products(random.Random(3), 234, brief=True)]
    assert len(set(names)) == 234 and {name[1:] for name in names} == {*FIRST, *LAST}
    assert generate_products(random.Random(3), 235, brief=True)[0].asin.isdigit()


@pytest.mark.parametrize("brief", [True, False])
def test_catalogues_are_seeded_and_of_any_size(brief: bool) -> None:
    products = generate_products(random.Random(3), 500, brief)
    assert products == generate_products(random.Random(3), 500, brief)
    assert products != generate_products(random.Random(4), 500, brief)
    assert len({product.asin for product in products}) == 500
    assert {len(product.asin) for product in products} == {4}
    assert len({product.query for product in products}) == sum(len(d.kinds) for d in DEPARTMENTS)
    ranges = sum(" to " in product.price_tag for product in products)
    # Full shops: 10 % of 500 draws, 50 expected, standard deviation 6.7.
    assert ranges == 0 if brief else 50 - 5 * 6.7 < ranges < 50 + 5 * 6.7


def test_brief_pages_are_short() -> None:
    env = ShopEnv(**BRIEF, observation="lines")
    for seed in range(100):
        observation, info = env.reset(seed=seed)
        expert = ShopExpert(info["task"])
        for _ in range(3):
            observation = env.step(expert.act(observation))[0]
            assert len(observation) < 250

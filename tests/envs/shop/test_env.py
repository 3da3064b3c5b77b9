"""The shop environment on made-up catalogues: protocol, options, errors, sharing."""

import pickle
import random
import sys
from typing import Any

import pytest

from paw_lightning.envs import ShopEnv, TextEnv
from paw_lightning.envs.shop.env import SEARCH
from paw_lightning.envs.shop.expert import ShopExpert
from paw_lightning.errors import SettingsError

SMALL: dict[str, Any] = {"products": 60, "brief": True}


def solution(env: ShopEnv) -> list[str]:
    """What buys the wanted product, from whatever page; looks behind the scenes."""
    assert env._engine is not None
    goal = env._engine.goal
    found = env.store.search(goal.product.title.lower())
    pages = found.index(goal.product) // env.page_size
    choices = [f"click[{value}]" for value in goal.options.values()]
    product = f"click[{goal.product.asin}]"
    return [f"search[{goal.product.title}]", *["click[Next >]"] * pages, product, *choices, "click[Buy Now]"]


def play(env: ShopEnv, actions: list[str]) -> list[Any]:
    return [env.step(action) for action in actions]


def random_play(env: ShopEnv, seed: int = 0, steps: int = 30) -> list[Any]:
    rng = random.Random(7)
    returned: list[Any] = [env.reset(seed=seed)]
    info = returned[0][1]
    for _ in range(steps):
        action = rng.choice(info["admissible_commands"])
        returned.append(env.step(f"search[{info['task']}]" if action == SEARCH else action))
        if returned[-1][2]:
            break
        info = returned[-1][4]
    return returned


def test_it_speaks_the_protocol() -> None:
    env = ShopEnv("val", **SMALL)
    assert isinstance(env, TextEnv)
    observation, info = env.reset(seed=3)
    assert observation == f"WebShop [SEP] Instruction: [SEP] {info['task']} [SEP] Search"
    assert info["admissible_commands"] == [SEARCH]
    assert (info["won"], info["task_score"], info["max_reward"], info["predictable"]) == (False, 0.0, 1.0, True)
    steps = play(env, solution(env))
    assert [step[1] for step in steps] == [0.0] * (len(steps) - 1) + [1.0]
    assert [step[2] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert not any(step[3] for step in steps)
    last = steps[-1][4]
    assert (last["won"], last["task_score"], last["admissible_commands"]) == (True, 1.0, [])
    assert all(set(step[4]) == set(info) for step in steps)
    assert {step[4]["group_key"] for step in steps} == {info["group_key"]}
    env.close()


def test_the_page_that_prints_the_reward_is_no_target() -> None:
    env = ShopEnv(**SMALL)
    env.reset(seed=0)
    steps = play(env, solution(env))
    assert [step[4]["predictable"] for step in steps] == [True] * (len(steps) - 1) + [False]
    assert "Your score (min 0.0, max 1.0) [SEP] 1.0" in steps[-1][0]
    assert not any("Your score" in step[0] for step in steps[:-1])


def test_admissible_is_what_the_shop_reacts_to() -> None:
    env = ShopEnv(**SMALL)
    _, info = env.reset(seed=0)
    product = env.store.goals[env._goals[0]].product
    for action, reacts in [
        ("search[mug]", True),
        (f"search[{product.title}]", True),
        ("click[search]", False),
        ("click[Back to Search]", True),
        ("click[search]", False),
        ("click[buy now]", False),
        ("buy it", False),
    ]:
        assert env.step(action)[4]["admissible_action"] is reacts, action
    assert info["admissible_action"]
    env.step(f"search[{product.title}]")
    _, _, _, _, info = env.step(f"click[{product.asin}]")
    assert SEARCH not in info["admissible_commands"], "there is no search field, though a search would work"
    assert info["admissible_commands"][:2] == ["click[back to search]", "click[< prev]"]
    for command in info["admissible_commands"]:
        twin = pickle.loads(pickle.dumps(env))
        assert twin.step(command)[4]["admissible_action"], command


def test_the_hidden_searches_are_words() -> None:
    env = ShopEnv(**SMALL)
    env.reset(seed=0)
    for mode in ("<r>", "<a> leak proof", "<c> home", "<q> travel mug"):
        pages = {env.step(f"search[{mode}]")[0] for _ in range(3)}
        assert len(pages) == 1, "nothing is drawn"
        assert pages == {env.step(f"search[{mode[3:]} ]")[0]}, "the sign means nothing"
    assert "Total results: 0" in env.step("search[<r>]")[0]


@pytest.mark.parametrize(
    ("settings", "full", "part"),
    [
        ({}, 1.0, 1.0),
        ({"success_reward": 10.0}, 10.0, 10.0),
        ({"reward": "success"}, 1.0, 0.0),
        ({"reward": "success", "success_reward": 10.0}, 10.0, 0.0),
    ],
)
def test_reward_modes(settings: dict[str, Any], full: float, part: float) -> None:
    env = ShopEnv(**SMALL, **settings)
    _, info = env.reset(seed=0)
    assert info["max_reward"] == full
    assert play(env, solution(env))[-1][1] == full
    env.reset(seed=0)
    assert env._engine is not None
    wanted = len(env._engine.goal.options)
    _, reward, _, _, info = play(env, [a for a in solution(env) if a not in _options(env)])[-1]
    # Without the options: attribute and price of attribute, options and price.
    score = 2 / (2 + wanted)
    assert info["task_score"] == pytest.approx(score) and not info["won"]
    assert reward == pytest.approx(part * score)


def _options(env: ShopEnv) -> list[str]:
    assert env._engine is not None
    return [f"click[{value}]" for value in env._engine.goal.options.values()]


def test_observation_forms_show_the_same_pages() -> None:
    envs = {name: ShopEnv(**SMALL, observation=name) for name in ("text", "text_rich", "quoted", "lines")}
    first = {name: env.reset(seed=0) for name, env in envs.items()}
    task = first["text"][1]["task"]
    assert first["lines"][0] == "Search" and first["quoted"][0] == "'Search'"
    actions = solution(envs["text"])[:2]
    pages = {name: play(env, actions)[-1][0] for name, env in envs.items()}
    segments = pages["text"].split(" [SEP] ")
    assert pages["lines"].split("\n") == segments[2:]
    assert pages["quoted"] == " [SEP] ".join(f"'{segment}'" for segment in segments[2:])
    rich = [line.removeprefix("[button] ").removesuffix(" [button_]") for line in pages["text_rich"].split("\n")]
    stripped = [line.strip().removeprefix("[button] ") for line in rich if line]
    assert stripped == segments
    assert task in pages["text"] and task not in pages["lines"]


def test_page_size() -> None:
    env = ShopEnv(**SMALL, page_size=4)
    env.reset(seed=0)
    _, _, _, _, info = env.step("search[mug steel red]")
    assert len(info["admissible_commands"]) == 2 + 4  # back to search, next >, and the products


def test_seeds_and_splits_are_different_goals() -> None:
    envs = {split: ShopEnv(split, **SMALL) for split in ("train", "val", "test")}
    sizes = {split: env.num_tasks for split, env in envs.items()}
    keys = {split: {env.reset(seed=s)[1]["group_key"] for s in range(env.num_tasks)} for split, env in envs.items()}
    assert all(len(keys[split]) == sizes[split] for split in envs)
    assert not keys["train"] & keys["val"] and not keys["train"] & keys["test"] and not keys["val"] & keys["test"]
    tasks = [envs["train"].reset(seed=seed)[1]["task"] for seed in range(20)]
    assert tasks == [ShopEnv("train", **SMALL).reset(seed=seed)[1]["task"] for seed in range(20)]


def test_num_tasks_bounds_the_seeds() -> None:
    env = ShopEnv(**SMALL, num_tasks=3)
    assert env.reset(seed=4) == env.reset(seed=1)
    assert len({env.reset()[1]["group_key"] for _ in range(60)}) == 3


def test_step_needs_a_running_episode() -> None:
    env = ShopEnv(**SMALL)
    with pytest.raises(RuntimeError, match=r"call reset\(\)"):
        env.step("search[mug]")
    env.reset(seed=0)
    play(env, solution(env))
    with pytest.raises(RuntimeError, match="episode is over"):
        env.step("search[mug]")
    env.reset(seed=0)
    assert env.step("search[mug]")[4]["admissible_action"]


def test_the_same_play_gives_the_same_pages() -> None:
    assert random_play(ShopEnv(**SMALL), seed=5) == random_play(ShopEnv(**SMALL), seed=5)


def test_interleaved_copies_do_not_disturb_each_other() -> None:
    alone = random_play(ShopEnv(**SMALL), seed=2)
    env, other = ShopEnv(**SMALL), ShopEnv(**SMALL)
    rng = random.Random(7)
    together: list[Any] = [env.reset(seed=2)]
    other.reset(seed=9)
    info = together[0][1]
    while len(together) < len(alone):
        action = rng.choice(info["admissible_commands"])
        together.append(env.step(f"search[{info['task']}]" if action == SEARCH else action))
        info = together[-1][4]
        other.step("search[lamp]")
        other.step("click[next >]")
    assert together == alone


def test_copies_share_one_catalogue() -> None:
    envs = [ShopEnv(split, **SMALL, observation=form) for split in ("train", "val") for form in ("text", "lines")]
    assert len({id(env.store) for env in envs}) == 1
    assert ShopEnv(**SMALL, catalogue_seed=1).store is not envs[0].store


def test_catalogue_seeds_are_different_shops() -> None:
    shops = [ShopEnv(**SMALL, catalogue_seed=seed).store for seed in (0, 1)]
    titles = [{product.title for product in shop.products} for shop in shops]
    assert titles[0] != titles[1]
    assert len(titles[0] & titles[1]) < 10


def test_a_pickled_episode_goes_on_as_if_nothing_happened() -> None:
    env = ShopEnv(**SMALL)
    env.reset(seed=2)
    actions = solution(env)
    env.step(actions[0])
    pickled = pickle.dumps(env)
    assert len(pickled) < 60_000, "the catalogue stays at home"
    twin = pickle.loads(pickled)
    assert twin.store is env.store
    assert play(env, actions[1:]) == play(twin, actions[1:])


def test_nothing_tells_what_to_buy_but_the_task() -> None:
    """Before it is searched for, no part of what a player gets names the wanted product; the expert uses the rest."""
    env = ShopEnv(products=300, brief=True, observation="lines")
    for seed in range(50):
        observation, info = env.reset(seed=seed)
        assert env._engine is not None
        wanted = env._engine.goal.product
        seen = f"{observation} {info}"
        assert wanted.asin not in seen and wanted.title not in seen and wanted.price_tag not in seen
    assert set(vars(ShopExpert(info["task"]))) == {"task", "rejected", "known", "title", "tries", "wish"}


def test_nothing_global_is_touched(capsys: pytest.CaptureFixture[str]) -> None:
    random.seed(0)
    before, arguments = random.getstate(), list(sys.argv)
    env = ShopEnv(products=61, catalogue_seed=99)
    env.reset()
    random_play(env)
    assert random.getstate() == before
    assert sys.argv == arguments
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("split is 'dev'; wanted one of", {"split": "dev"}),
        ("observation is 'html'; wanted one of", {"observation": "html"}),
        ("reward is 'sparse'; wanted one of", {"reward": "sparse"}),
        ("page_size is 0; wanted at least 1", {"page_size": 0}),
        ("success_reward is 0; wanted a positive", {"success_reward": 0}),
        ("products is 3; wanted between 20", {"products": 3}),
        ("num_tasks is 0; wanted between 1 and", {"num_tasks": 0, **SMALL}),
        ("num_tasks is 99999; wanted between 1 and", {"num_tasks": 99999, **SMALL}),
        ("products is 50; wanted no setting of it or of brief", {"products": 50, "data_path": "x"}),
        ("the environment variable NO_SHOP_HERE is not set", {"data_path": "$NO_SHOP_HERE"}),
        ("wanted a folder with items_shuffle_1000.json", {"data_path": "nowhere"}),
    ],
)
def test_values_that_cannot_work_are_named(message: str, arguments: dict[str, Any]) -> None:
    if arguments.get("data_path") == "nowhere":
        pytest.importorskip("rapidfuzz", reason="NO RAPIDFUZZ: pip install 'paw-lightning[webshop]'")
        pytest.importorskip("nltk", reason="NO NLTK: pip install 'paw-lightning[webshop]'")
    with pytest.raises(ValueError, match=message):
        ShopEnv(**arguments)


@pytest.mark.parametrize("package", ["nltk", "rapidfuzz"])
def test_a_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # importing it now fails
    if package == "rapidfuzz":
        pytest.importorskip("nltk", reason="NO NLTK: pip install 'paw-lightning[webshop]'")
    with pytest.raises(
        SettingsError, match=rf"{package} is not installed; wanted it for official WebShop data.*extra `webshop`"
    ):
        ShopEnv(data_path=str(tmp_path))
    ShopEnv(**SMALL)


def test_a_made_up_shop_needs_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nltk", "rapidfuzz", "bm25s", "thefuzz", "spacy"):
        monkeypatch.setitem(sys.modules, package, None)
    env = ShopEnv(products=62, brief=False)
    env.reset(seed=1)
    assert play(env, solution(env))[-1][4]["won"]

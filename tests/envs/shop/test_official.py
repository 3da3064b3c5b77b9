"""Official WebShop products against recordings of the official text environment; needs data not in the project."""

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from paw_lightning.envs import ShopEnv
from paw_lightning.envs.shop.catalogue import Product
from paw_lightning.envs.shop.engine import ShopEngine
from paw_lightning.envs.shop.pages import write_text
from paw_lightning.envs.shop.store import Store
from tests.conftest import golden_records

Episode = dict[str, Any]


@pytest.fixture(scope="session")
def recordings(shared: Path) -> list[Episode]:
    """First line: the prices that were drawn; then 120 episodes with what the real index found."""
    return golden_records(shared, "webshop_transcripts.jsonl.gz")


@pytest.fixture(scope="session")
def products_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """WEBSHOP_DATA, else the archive of the reference data, unpacked."""
    for package in ("nltk", "rapidfuzz"):
        pytest.importorskip(package, reason=f"NO {package.upper()}: pip install 'paw-lightning[webshop]'")
    if "WEBSHOP_DATA" in os.environ:
        yield Path(os.environ["WEBSHOP_DATA"])
        return
    archive = request.getfixturevalue("shared") / "data" / "webshop" / "webshop_1000.tar.xz"
    if not archive.is_file():
        pytest.skip(f"NO WEBSHOP PRODUCTS: set WEBSHOP_DATA to the folder with the two files, or provide {archive}")
    folder = tmp_path_factory.mktemp("webshop")
    with tarfile.open(archive, "r:xz") as members:
        members.extractall(folder, filter="data")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def env(products_folder: Path) -> ShopEnv:
    return ShopEnv("test", data_path=str(products_folder))


def differences(store: Store, episode: Episode) -> list[str]:
    """Replay an episode with the recorded search results."""
    by_asin = {product.asin: product for product in store.products}

    def search(query: str) -> list[Product]:
        return [by_asin[asin] for asin in episode["hits"][query]]

    shop = ShopEngine(store.goals[episode["goal_index"]], search, store.score)
    found = [] if seen(shop) == (episode["first"], episode["clickables"], 0.0, False) else ["first"]
    for action, *expected in episode["steps"]:
        shop.step(action)
        if seen(shop) != tuple(expected):
            found.append(action)
    return found


def seen(shop: ShopEngine) -> tuple[str, list[str], float, bool]:
    return write_text(shop.segments), list(shop.clickables), shop.score or 0.0, shop.page == "done"


def test_every_recorded_step_is_reproduced_exactly(env: ShopEnv, recordings: list[Episode]) -> None:
    """Observations, clickables, rewards and ends."""
    episodes = recordings[1:]
    assert len(episodes) == 120 and sum(len(episode["steps"]) for episode in episodes) == 1359
    assert {e["goal_index"]: found for e in episodes if (found := differences(env.store, e))} == {}


def test_the_recordings_would_notice_a_changed_word(env: ShopEnv, recordings: list[Episode]) -> None:
    episode = json.loads(json.dumps(next(e for e in recordings[1:] if e["steps"][-1][-1])))
    episode["steps"][0][1] += " "
    episode["steps"][-1][3] += 0.001
    assert differences(env.store, episode) == [episode["steps"][0][0], episode["steps"][-1][0]]


def test_the_own_search_finds_what_the_real_index_found(env: ShopEnv, recordings: list[Episode]) -> None:
    """At least 95 % of first pages are asked for; with the words of Unicode and Lucene's rounding it is all 50 hits."""
    searches = {query: hits for episode in recordings[1:] for query, hits in episode["hits"].items()}
    assert len(searches) == 122
    same = [[product.asin for product in env.store.search(query)] == hits for query, hits in searches.items()]
    assert sum(same) == len(same)


def test_prices_and_goals_are_those_of_the_same_seed(env: ShopEnv, recordings: list[Episode]) -> None:
    prices = {product.asin: product.price for product in env.store.products}
    assert prices == pytest.approx(recordings[0]["prices"], abs=0.005)  # recorded in cents
    assert len(env.store.goals) == 6910
    for episode in recordings[1:]:
        ours, theirs = env.store.goals[episode["goal_index"]], episode["goal"]
        assert ours.instruction == theirs["instruction_text"]
        assert (ours.product.asin, ours.price_upper) == (theirs["asin"], theirs["price_upper"])
        assert (list(ours.attributes), ours.options) == (theirs["attributes"], theirs["goal_options"])


def test_another_seed_draws_other_prices(env: ShopEnv, products_folder: Path) -> None:
    other = ShopEnv("test", data_path=str(products_folder), catalogue_seed=1)
    pairs = zip(env.store.products, other.store.products, strict=True)
    assert sum(one.price != two.price for one, two in pairs) == 93, "the products that have a price range"
    orders = [[goal.product.asin for goal in each.store.goals] for each in (env, other)]
    assert orders[0] == orders[1], "the order of the goals is everybody's"


def test_the_official_split(env: ShopEnv, products_folder: Path) -> None:
    train = ShopEnv("train", data_path=str(products_folder))
    assert env.num_tasks == 500 and train.num_tasks == 6410
    assert env.reset(seed=7)[1]["group_key"] == "goal 7"
    assert train.reset(seed=0)[1]["group_key"] == "goal 500"
    assert ShopEnv("val", data_path=str(products_folder)).reset(seed=7) == env.reset(seed=7)
    assert train.store is env.store
    products = [{each.store.goals[number].product.asin for number in each._goals} for each in (env, train)]
    assert len(products[0] & products[1]) > 0.5 * len(products[0]), "as documented: tests share products with train"


def test_what_the_wanted_product_itself_is_worth(env: ShopEnv) -> None:
    """Not always 1: an option like "black2626" is reduced to "black" when it is bought, and then is not what was asked
    for. That caps the success rate of a perfect customer on the test goals at 96 %."""
    store = env.store
    scores = [store.score(goal.product, goal.options, goal) for goal in store.goals]
    assert sum(score == 1.0 for score in scores[:500]) == 480
    assert sum(score == 1.0 for score in scores) == 6452
    assert min(scores) == pytest.approx(2 / 3)


def test_the_data_path_may_be_a_variable_a_folder_or_a_file(
    env: ShopEnv, products_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_SHOP", str(products_folder))
    expected = env.reset(seed=0)
    for path in ("$SOME_SHOP", str(products_folder / "items_shuffle_1000.json")):
        assert ShopEnv("test", data_path=path).reset(seed=0) == expected
    (tmp_path / "items_shuffle_1000.json").write_text("{}")
    with pytest.raises(ValueError, match="wanted a folder with"):
        ShopEnv(data_path=str(tmp_path))
    (tmp_path / "items_ins_v2_1000.json").write_text("{}")
    with pytest.raises(ValueError, match="too few for the split"):
        ShopEnv(data_path=str(tmp_path))
    (tmp_path / "items_shuffle_1000.json").write_text('[{"asin": "B1"}]')
    with pytest.raises(ValueError, match=r"items_shuffle_1000\.json is not WebShop's"):
        ShopEnv(data_path=str(tmp_path), catalogue_seed=2)

"""A shop ready to be visited: products, goals, search and score, shared by all who visit it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from paw_lightning.envs.loading import wrong_argument
from paw_lightning.envs.shop.catalogue import Product, load_products
from paw_lightning.envs.shop.generator import generate_products
from paw_lightning.envs.shop.goals import Goal, make_goals
from paw_lightning.envs.shop.reward import Similarity, same_words, score, token_set_ratio
from paw_lightning.envs.shop.search import Stem, make_index, porter, same, words

OFFICIAL_TEST_GOALS = 500
SPLITS = ("train", "val", "test")


class Store:
    """Products with their search index and goals; nothing in it changes while customers visit."""

    def __init__(
        self,
        products: Sequence[Product],
        rng: random.Random,
        stem: Stem,
        similarity: Similarity,
        origin: tuple[Callable[..., Store], tuple[Any, ...]],
    ) -> None:
        self.products = sorted(products, key=lambda product: product.asin)  # hits with equal scores come in this order
        self.goals = make_goals(products, rng)
        self.origin = origin
        """The cached function and its arguments that open this very store."""
        self._stem, self._similarity = stem, similarity
        self._index = make_index([words(product.document, stem) for product in self.products])
        self._found = lru_cache(maxsize=10_000)(self._find)

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        """Pickle how the store is opened instead of its contents: another process opens its own copy, once."""
        return self.origin

    def search(self, query: str) -> tuple[Product, ...]:
        """At most 50 products for a lower-case query, best first."""
        return self._found(query)

    def _find(self, query: str) -> tuple[Product, ...]:
        return tuple(self.products[number] for number in self._index.search(words(query, self._stem)))

    def score(self, product: Product, chosen: dict[str, str], goal: Goal) -> float:
        """The reward for a purchase, in [0, 1]."""
        return score(product, chosen, goal, self._similarity)

    def split(self, name: str) -> range:
        """Numbers of the split's goals.

        Official goals are split as in the published WebShop results of verl-agent: 0 to 499 are for testing ("val" and
        "test" are the same), the rest for training. Of a generated shop's goals a tenth is "test", a tenth "val". In
        both, goals for one product fall into several splits: an evaluation is about unseen wishes, not unseen products.

        Raises:
            SettingsError: the shop has too few goals for that.
        """
        official = self.origin[0] is official_store
        count = len(self.goals)
        tenth = count // 10
        tests = (0, OFFICIAL_TEST_GOALS) if official else (0, tenth)
        validation = tests if official else (tenth, 2 * tenth)
        numbers = {"test": range(*tests), "val": range(*validation), "train": range(validation[1], count)}[name]
        if not numbers or numbers[-1] >= count:
            source = self.origin[1][0]
            key, given = ("data_path", str(source)) if official else ("products", source)
            raise wrong_argument(key, given, f"more products: their {count} goals are too few for the split {name!r}")
        return numbers


@lru_cache(maxsize=4)
def official_store(data_path: Path, seed: int) -> Store:
    """WebShop's own products; ``seed`` draws the prices of products with a price range, and the goals' price limits."""
    rng = random.Random(seed)
    stem, similarity = porter(), token_set_ratio()
    return Store(load_products(data_path, rng), rng, stem, similarity, (official_store, (data_path, seed)))


@lru_cache(maxsize=4)
def generated_store(products: int, brief: bool, seed: int) -> Store:
    """A made-up shop, the same for every split."""
    rng, origin = random.Random(f"shop {seed}"), (generated_store, (products, brief, seed))
    return Store(generate_products(rng, products, brief), rng, same, same_words, origin)

"""A shop ready to be visited: products, goals, search and score, shared by all who visit it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
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

    def split(self, name: str) -> Sequence[int]:
        """Numbers of the split's goals.

        Goals for one product fall into several splits: an evaluation is about unseen wishes, not unseen products.

        Raises:
            SettingsError: the shop has too few goals for that.
        """
        numbers = self._splits[name]
        if not numbers or numbers[-1] >= len(self.goals):
            key = "data_path" if self._official else "products"
            wanted = f"more products: their {len(self.goals)} goals are too few for the split {name!r}"
            raise wrong_argument(key, str(self.origin[1][0]) if self._official else self.origin[1][0], wanted)
        return numbers

    @property
    def _official(self) -> bool:
        return self.origin[0] is official_store

    @cached_property
    def _splits(self) -> Mapping[str, Sequence[int]]:
        return official_splits(len(self.goals)) if self._official else generated_splits(self.goals)


def official_splits(count: int) -> dict[str, range]:
    """As in the published WebShop results of verl-agent: goals 0 to 499 are "val" as well as "test", the rest "train".

    Some goals of "test" have the words of a training goal.
    """
    tests = range(OFFICIAL_TEST_GOALS)
    return {"train": range(OFFICIAL_TEST_GOALS, count), "val": tests, "test": tests}


def generated_splits(goals: Sequence[Goal]) -> dict[str, list[int]]:
    """The first tenth is "test", the second "val", the rest "train"; in "val" and "test" without known wishes.

    Two goals may have the same words. A wish of "train" is none of "val", and a wish of either is none of "test".
    """
    tenth = len(goals) // 10
    parts = {"train": range(2 * tenth, len(goals)), "val": range(tenth, 2 * tenth), "test": range(tenth)}
    splits: dict[str, list[int]] = {}
    known: set[str] = set()
    for name, numbers in parts.items():
        splits[name] = [number for number in numbers if goals[number].instruction not in known]
        known.update(goals[number].instruction for number in numbers)
    return splits


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

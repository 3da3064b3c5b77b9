"""What a customer wants: goals made from products, as WebShop makes its synthetic ones."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import dataclass

from paw_lightning.envs.shop.catalogue import Product

PRICE_LIMITS = [10.0 * i for i in range(1, 100)]
NO_LIMIT = 1_000_000.0
SHUFFLE_SEED = 233
"""The official order of goals; the split into test and training goals depends on it."""


@dataclass(frozen=True)
class Goal:
    """What to buy. Only ``instruction`` is ever shown."""

    product: Product
    """A product that fulfils the goal."""
    instruction: str
    attributes: tuple[str, ...]
    options: dict[str, str]
    """Option name -> the wanted value."""
    price_upper: float
    """Dollars; NO_LIMIT when the instruction names none."""


def make_goals(products: Iterable[Product], rng: random.Random) -> list[Goal]:
    """One goal for every combination of options of every product that has an instruction, in the official order.

    The price limit of a product's goals is the larger of two that ``rng`` samples out of the first four multiples of
    10 dollars above its price; there is none when fewer than two are left below 1,000.
    """
    goals = []
    for product in products:
        if product.instruction is None:
            continue
        limits = [limit for limit in PRICE_LIMITS if limit > product.price][:4]
        price_upper = max(rng.sample(limits, 2)) if len(limits) >= 2 else NO_LIMIT
        price_text = f", and price lower than {price_upper:.2f} dollars" if len(limits) >= 2 else ""
        names = sorted(product.options)
        for values in itertools.product(*(product.options[name] for name in names)):
            wanted = dict(zip(names, values, strict=True))
            choice = ", and ".join(f"{name}: {value}" for name, value in wanted.items())
            instruction = product.instruction + (f" with {choice}" if choice else "") + price_text
            goals.append(Goal(product, instruction, product.instruction_attributes, wanted, price_upper))
    random.Random(SHUFFLE_SEED).shuffle(goals)
    return goals

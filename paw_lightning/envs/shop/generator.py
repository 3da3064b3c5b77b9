"""Made-up products for the shop: seeded and of any number, with texts written for this package."""

from __future__ import annotations

import random
from dataclasses import dataclass

from paw_lightning.envs.shop.catalogue import Product, draw_price, parse_pricing

MIN_PRODUCTS = 20
MAX_PRODUCTS = 1_000_000
FIRST, LAST = (
    ("bel", "cor", "dun", "fen", "gal", "hol", "kir", "lum", "mor", "nor", "pel", "quin", "ros", "sal", "tor", "ven"),
    ("ba", "da", "ko", "lin", "mar", "no", "ra", "so", "ta", "vo"),
)
"""Syllables of brand names."""
BRIEF_NAMES = [f"{digit}{syllable}" for digit in range(1, 10) for syllable in (*FIRST, *LAST)]
"""What brief products are clicked by: two tokens that a small model can learn to copy. Numbers stand in every price,
and it did not learn to copy those in 1,500 steps. The digit keeps the tokens the same behind a bracket."""
COLORS = ("black", "blue", "brown", "gray", "green", "orange", "pink", "purple", "red", "white", "yellow")
PATTERNS = ("checked", "dotted", "plain", "striped")
PRICE_RANGE_SHARE = 0.1
BRIEF_VALUES, BRIEF_GROUPS = 3, 2


@dataclass(frozen=True)
class Department:
    """Things of one kind: what they are made of, what they can be praised for, and in which variants they come."""

    path: str
    kinds: tuple[str, ...]
    materials: tuple[str, ...]
    attributes: tuple[str, ...]
    options: dict[str, tuple[str, ...]]
    prices: tuple[int, int]
    """Lowest and highest price, dollars."""


SIZES = ("small", "medium", "large", "x-large")
DEPARTMENTS = (
    Department(
        path="Home › Furniture",
        kinds=("armchair", "bookshelf", "coffee table", "footstool", "night stand", "writing desk"),
        materials=("bamboo", "beech", "oak", "pine", "rattan", "walnut"),
        attributes=("easy assembly", "foldable", "scratch proof", "space saving", "stackable", "sturdy"),
        options={"color": COLORS, "size": SIZES[:3], "style": ("classic", "modern", "cozy")},
        prices=(30, 300),
    ),
    Department(
        path="Home › Kitchen",
        kinds=("bread box", "cutting board", "frying pan", "mixing bowl", "tea kettle", "water jug"),
        materials=("ceramic", "copper", "enamel", "glass", "iron", "steel"),
        attributes=("dishwasher safe", "easy clean", "heat resistant", "leak proof", "non slip", "rust free"),
        options={"color": COLORS, "size": SIZES[:3], "pack": ("single", "pair", "set of four")},
        prices=(8, 80),
    ),
    Department(
        path="Clothing › Wear",
        kinds=("bathrobe", "cardigan", "hooded jacket", "rain coat", "scarf", "sun hat"),
        materials=("cotton", "fleece", "linen", "silk", "velvet", "wool"),
        attributes=("breathable", "hand made", "loose fit", "machine washable", "quick drying", "waterproof"),
        options={"color": COLORS, "size": SIZES, "pattern": PATTERNS},
        prices=(12, 140),
    ),
    Department(
        path="Outdoors › Travel",
        kinds=("backpack", "camping lamp", "hammock", "sleeping bag", "travel mug", "umbrella"),
        materials=("aluminum", "canvas", "felt", "leather", "nylon", "titanium"),
        attributes=("compact", "heavy duty", "lightweight", "long lasting", "shock proof", "wind proof"),
        options={"color": COLORS, "size": SIZES[:3], "pattern": PATTERNS},
        prices=(10, 120),
    ),
)
PRAISE = (
    "We made it for people who want something {one} every day.",
    "Its {material} parts are cut and joined by hand.",
    "Customers call it {one} and keep it for years.",
    "It suits a gift as well as your own use.",
    "The {material} is checked twice before it leaves the workshop.",
    "Send it back within a month if it disappoints you.",
)


def generate_products(rng: random.Random, count: int, brief: bool) -> list[Product]:
    """Draw ``count`` products, each with an instruction, so each with goals.

    Args:
        brief: names to click instead of numbers, as far as they go; short titles that say everything the goals ask
            for, one attribute, two groups of three options, fixed prices. Otherwise longer pages, on which attributes
            may have to be looked for among the features, three groups of options, and price ranges.
    """
    names = rng.sample(BRIEF_NAMES, count) if brief and count <= len(BRIEF_NAMES) else _numbers(rng, count)
    draw = _brief_product if brief else _full_product
    return [draw(rng, name, DEPARTMENTS[place % len(DEPARTMENTS)]) for place, name in enumerate(names)]


def _numbers(rng: random.Random, count: int) -> list[str]:
    digits = max(3, len(str(2 * count)))
    return [str(number) for number in rng.sample(range(10 ** (digits - 1), 10**digits), count)]


def _brief_product(rng: random.Random, asin: str, department: Department) -> Product:
    kind, material = rng.choice(department.kinds), rng.choice(department.materials)
    attribute = rng.choice(department.attributes)
    groups = rng.sample(sorted(department.options), rng.randint(1, BRIEF_GROUPS))
    options = {name: _some(rng, department.options[name], BRIEF_VALUES) for name in sorted(groups)}
    price = float(rng.randint(*department.prices))
    return Product(
        asin=asin,
        title=f"{_brand(rng)} {attribute} {material} {kind}",
        description=f"A {kind} of {material}.",
        bullets=(f"{attribute}.".capitalize(), f"Made of {material}."),
        category=department.path.split(" › ")[0].lower(),
        query=kind,
        product_category=f"{department.path} › {kind.capitalize()}",
        price=price,
        price_tag=f"${price}",
        options=options,
        attributes=(attribute, material),
        instruction=f"Find me {attribute} {kind}",
        instruction_attributes=(attribute,),
    )


def _full_product(rng: random.Random, asin: str, department: Department) -> Product:
    kind, material = rng.choice(department.kinds), rng.choice(department.materials)
    attributes = rng.sample(department.attributes, rng.randint(2, 4))
    in_title = attributes[: rng.randint(0, len(attributes))]  # search knows them all, from the description
    wanted = tuple(sorted(rng.sample(attributes, rng.randint(1, min(3, len(attributes))))))
    names = rng.sample(sorted(department.options), rng.randint(1, len(department.options)))
    options = {
        name: _some(rng, department.options[name], rng.randint(2, len(department.options[name]))) for name in names
    }
    prices, tag = _pricing(rng, *department.prices)
    praise = _praise(rng, attributes[0], material)
    return Product(
        asin=asin,
        title=", ".join([f"{_brand(rng)} {material} {kind}", *in_title]),
        description=f"{', '.join(attributes).capitalize()} {kind} of {material}. {praise}",
        bullets=(*(f"{each.capitalize()}: see for yourself." for each in attributes), f"Material: {material}."),
        category=department.path.split(" › ")[0].lower(),
        query=kind,
        product_category=f"{department.path} › {kind.capitalize()}",
        price=draw_price(prices, rng),
        price_tag=tag,
        options=options,
        attributes=(*attributes, material),
        instruction=f"Find me {', '.join(wanted)} {kind}",
        instruction_attributes=wanted,
    )


def _pricing(rng: random.Random, lowest: int, highest: int) -> tuple[list[float], str]:
    price = rng.uniform(lowest, highest)
    ranged = rng.random() < PRICE_RANGE_SHARE
    return parse_pricing(f"${price:.2f} - ${1.5 * price:.2f}" if ranged else f"${price:.2f}")


def _praise(rng: random.Random, attribute: str, material: str) -> str:
    sentences = rng.sample(PRAISE, rng.randint(2, len(PRAISE)))
    return " ".join(sentence.format(one=attribute, material=material) for sentence in sentences)


def _brand(rng: random.Random) -> str:
    return (rng.choice(FIRST) + rng.choice(LAST)).capitalize()


def _some(rng: random.Random, values: tuple[str, ...], count: int) -> tuple[str, ...]:
    """``count`` of the values, in their own order."""
    chosen = set(rng.sample(values, min(count, len(values))))
    return tuple(value for value in values if value in chosen)

"""What a shop sells: products, their prices, and the official WebShop files."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paw_lightning.errors import SettingsError

DEFAULT_PRICE = 100.0
SMALL_FILE = "items_shuffle_1000.json"
FULL_FILE = "items_shuffle.json"
ASIN_LENGTH = 10
"""Official entries with longer product numbers are dropped."""


@dataclass(frozen=True)
class Product:
    """One product as its pages show it."""

    asin: str
    """Product number, unique in its catalogue."""
    title: str
    description: str
    bullets: tuple[str, ...]
    """The lines of the features page."""
    category: str
    query: str
    """The search that this product was found with, lower-case."""
    product_category: str
    """A path of categories, its parts set apart by "›"."""
    price: float
    """Dollars; of a product with a price range, one price that was drawn when the catalogue was made."""
    price_tag: str
    """The price or the price range, as shown."""
    options: dict[str, tuple[str, ...]]
    """Option name -> its values, in page order."""
    attributes: tuple[str, ...]
    """Hidden properties that goals are about."""
    instruction: str | None = None
    """How goals for this product begin; None: there are none."""
    instruction_attributes: tuple[str, ...] = ()
    """The attributes that its goals ask for."""

    @property
    def document(self) -> str:
        """What the search index knows of the product."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        return " ".join([self.title, self.description, self.bullets[0] if self.bullets else "", options]).lower()


def expand(path: str | os.PathLike[str]) -> Path:
    """Replace ``~`` and environment variables.

    Raises:
        ValueError: a variable is not set.
    """
    for name in re.findall(r"\$\{?(\w+)", os.fspath(path)):
        if name not in os.environ:
            raise SettingsError(f"data_path is {path!r}, but the environment variable {name} is not set")
    return Path(os.path.expanduser(os.path.expandvars(path)))


def find_files(data_path: Path) -> tuple[Path, Path]:
    """The products' file and the attributes' file.

    Args:
        data_path: the folder that WebShop's setup script fills; in it the 1,000-product set is preferred. Or the
            products' file itself.

    Raises:
        ValueError: a file is missing; names what was looked for.
    """
    candidates = [data_path / SMALL_FILE, data_path / FULL_FILE] if not data_path.is_file() else [data_path]
    for items in candidates:
        attributes = items.with_name(items.name.replace("items_shuffle", "items_ins_v2"))
        if items.is_file() and attributes.is_file() and attributes != items:
            return items, attributes
    raise SettingsError(
        f"data_path={str(data_path)!r}: expected a folder with {SMALL_FILE} and items_ins_v2_1000.json, or with "
        f"{FULL_FILE} and items_ins_v2.json; change data_path, or leave it empty for a generated shop"
    )


def load_products(data_path: Path, rng: random.Random) -> list[Product]:
    """Read the official files; ``rng`` draws the price of every product that has a range, in the file's order.

    Raises:
        ValueError: the files are missing or not WebShop's.
    """
    items, attributes = find_files(data_path)
    try:
        stored = json.loads(items.read_text(encoding="utf-8"))
        known = json.loads(attributes.read_text(encoding="utf-8"))
        products, seen = [], {"nan"}
        for item in stored:
            asin = item["asin"]
            if asin not in seen and len(asin) <= ASIN_LENGTH:
                seen.add(asin)
                products.append(_product(item, known.get(asin, {}), rng))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise SettingsError(f"data_path={str(data_path)!r}: {items.name} is not WebShop's: {error!r}") from error
    return products


def _product(item: dict[str, Any], known: dict[str, Any], rng: random.Random) -> Product:
    prices, tag = parse_pricing(item.get("pricing"))
    bullets = item["small_description"]
    return Product(
        asin=item["asin"],
        title=item["name"],
        description=item["full_description"],
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
        category=item["category"],
        query=item["query"].lower().strip(),
        product_category=item["product_category"],
        price=draw_price(prices, rng),
        price_tag=tag,
        options=_options(item["customization_options"] or {}),
        attributes=tuple(known.get("attributes", ["DUMMY_ATTR"])),
        instruction=known.get("instruction"),
        instruction_attributes=tuple(known.get("instruction_attributes") or ()),
    )


def parse_pricing(text: str | None) -> tuple[list[float], str]:
    """Prices in dollars (one, or the two ends of a range) and the tag that shows them."""
    prices = [float(re.sub(r"[^\d.]", "", part)) for part in (text or "").split("$")[1:]][:2]
    prices = prices or [DEFAULT_PRICE]
    return prices, " to ".join(f"${price}" for price in prices)


def draw_price(prices: list[float], rng: random.Random) -> float:
    """The price that is paid."""
    return prices[0] if len(prices) == 1 else rng.uniform(*prices)


def _options(stored: dict[str, Iterable[dict[str, str]] | None]) -> dict[str, tuple[str, ...]]:
    return {
        name.lower(): tuple(content["value"].strip().replace("/", " | ").lower() for content in contents)
        for name, contents in stored.items()
        if contents is not None
    }

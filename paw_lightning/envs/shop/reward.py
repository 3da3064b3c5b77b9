"""What a purchase is worth: WebShop's score, quirks included."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from paw_lightning.envs.loading import import_extra
from paw_lightning.envs.shop.catalogue import Product
from paw_lightning.envs.shop.goals import Goal
from paw_lightning.envs.shop.words import COLORS, NO_NOUNS

Similarity = Callable[[str, str], float]
"""How alike two texts are, 0 to 100; above MATCH they count as the same."""

MATCH = 85


def score(product: Product, chosen: Mapping[str, str], goal: Goal, similarity: Similarity) -> float:
    """The reward for buying ``product`` with the ``chosen`` options, in [0, 1]; 1 is what was asked for.

    r = r_type * (attributes found + options found + [price <= limit]) / (attributes + options + 1)
    """
    found = sum(_has_attribute(product, wanted, similarity) for wanted in goal.attributes)
    found += sum(_is_chosen(pair, chosen, similarity) for pair in goal.options.items())
    found += product.price <= goal.price_upper
    return found / (len(goal.attributes) + len(goal.options) + 1) * type_score(product, goal.product)


def type_score(product: Product, wanted: Product) -> float:
    """1, or less for another kind of thing: 0.5, 0.1, or 0.

    The title score is the share of the wanted title's nouns that the product's title has; where it is below 0.1 it
    overrules a match of query or category, as in WebShop. Choice: what counts as a noun is any word of letters that is
    not a common function word; WebShop asks a language model. Buying the wanted product scores 1 either way.
    """
    nouns = title_nouns(wanted.title)
    title_score = len(set(nouns) & set(title_nouns(product.title))) / len(nouns) if nouns else 0.2
    if title_score < 0.1:
        return 0.0 if title_score == 0 else 0.1
    return 1.0 if product.query == wanted.query or _same_category(product, wanted) or title_score > 0.2 else 0.5


def title_nouns(title: str) -> list[str]:
    """Lower-case words of letters that may be nouns; a word that occurs twice comes twice."""
    return [w for w in re.findall(r"\w+", title.lower()) if w.isalpha() and len(w) > 1 and w not in NO_NOUNS]


def _same_category(product: Product, wanted: Product) -> bool:
    parts = [{part.strip() for part in one.product_category.split("›")} for one in (product, wanted)]
    return len(parts[0] & parts[1]) >= 2


def _has_attribute(product: Product, wanted: str, similarity: Similarity) -> bool:
    if any(similarity(attribute, wanted) > MATCH for attribute in product.attributes):
        return True
    return any(wanted in text.lower() for text in (product.title, " ".join(product.bullets), product.description))


def _is_chosen(pair: tuple[str, str], chosen: Mapping[str, str], similarity: Similarity) -> bool:
    # WebShop looks for a colour in the pair itself, not in its text: it finds one only if name or value is just that.
    # Otherwise "('size', 'navy blue')" is compared, and any value made of words of it is as good.
    wanted = next((color for color in COLORS if color in pair), str(pair))
    return any(similarity(normalize_color(value), wanted) > MATCH for value in chosen.values())


def normalize_color(text: str) -> str:
    """The first colour word contained in the text, else the text."""
    return next((color for color in COLORS if color in text), text)


def same_words(one: str, other: str) -> float:
    """100 if all words of one text are among the other's, else 0: enough where words have one spelling."""
    left, right = (set(re.findall(r"[a-z0-9]+", text.lower())) for text in (one, other))
    return 100.0 if left and right and (left <= right or right <= left) else 0.0


def token_set_ratio() -> Similarity:
    """The fuzzy similarity that WebShop uses.

    Raises:
        SettingsError: rapidfuzz is missing; names the extra that brings it.
    """
    rapidfuzz = import_extra("rapidfuzz", "webshop", "official WebShop data")

    def similarity(one: str, other: str) -> float:
        # As the older wrapper around it does: ASCII only, whole numbers.
        plain = (rapidfuzz.utils.default_process(text.encode("ascii", "ignore").decode()) for text in (one, other))
        return round(rapidfuzz.fuzz.token_set_ratio(*plain))

    return similarity

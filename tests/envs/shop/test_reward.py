"""The score of a purchase, worked out by hand."""

from dataclasses import replace

import pytest

from paw_lightning.envs.shop.catalogue import Product
from paw_lightning.envs.shop.goals import NO_LIMIT, Goal
from paw_lightning.envs.shop.reward import (
    normalize_color,
    same_words,
    score,
    title_nouns,
    token_set_ratio,
    type_score,
)

MUG = Product(
    asin="1",
    title="Lumra leak proof steel travel mug",
    description="A mug that keeps tea warm.",
    bullets=("Fits every bag.", "Easy Clean."),
    category="home",
    query="travel mug",
    product_category="Outdoors › Travel › Mug",
    price=19.5,
    price_tag="$19.5",
    options={"color": ("navy blue", "red"), "size": ("small", "large")},
    attributes=("leak proof", "steel"),
)
GOAL = Goal(MUG, "Find me ...", ("leak proof", "easy clean"), {"color": "navy blue", "size": "small"}, 30.0)
OTHER = replace(MUG, asin="2", title="Corba wool scarf", query="scarf", product_category="Clothing › Wear › Scarf")


@pytest.mark.parametrize(
    ("chosen", "changes", "expected"),
    [
        # Two attributes (one of the list, one of the features page), two options and the price: 5 of 5.
        ({"color": "navy blue", "size": "small"}, {}, 1.0),
        ({"color": "navy blue"}, {}, 4 / 5),
        ({"color": "red", "size": "large"}, {}, 3 / 5),
        ({}, {}, 3 / 5),
        # Dollars: 30.00 is within the limit, 30.01 is not.
        ({"color": "navy blue", "size": "small"}, {"price": 30.0}, 1.0),
        ({"color": "navy blue", "size": "small"}, {"price": 30.01}, 4 / 5),
        # Attributes are looked for in list, title, features, and description, in any case.
        ({}, {"attributes": (), "title": "A Leak Proof mug", "bullets": ()}, 2 / 5),
        ({}, {"attributes": (), "title": "A mug", "bullets": (), "description": "EASY CLEAN"}, 2 / 5),
    ],
)
def test_what_was_found_over_what_was_wanted(chosen: dict[str, str], changes: dict, expected: float) -> None:
    assert score(replace(MUG, **changes), chosen, GOAL, same_words) == pytest.approx(expected)


def test_a_goal_without_options_or_limit() -> None:
    goal = Goal(MUG, "", ("leak proof",), {}, NO_LIMIT)
    assert score(MUG, {"color": "red"}, goal, same_words) == 1.0  # (1 + 0 + 1) / (1 + 0 + 1)
    assert score(replace(MUG, price=5000.0), {}, goal, same_words) == 1.0


def test_the_kind_of_thing() -> None:
    # Nouns of the wanted title: lumra, leak, proof, steel, travel, mug.
    assert title_nouns(MUG.title) == ["lumra", "leak", "proof", "steel", "travel", "mug"]
    assert type_score(MUG, MUG) == 1.0
    assert type_score(OTHER, MUG) == 0.0, "no common noun"
    assert type_score(replace(OTHER, query="travel mug"), MUG) == 0.0, "which overrules the query"
    one = replace(OTHER, title="Corba steel scarf")
    assert type_score(one, MUG) == 0.5, "1 of 6 is above 0.1 and not above 0.2"
    assert type_score(replace(one, query="travel mug"), MUG) == 1.0
    assert type_score(replace(one, product_category="Mug › Travel"), MUG) == 1.0, "two common parts, in any order"
    assert type_score(replace(one, product_category="Home › Travel"), MUG) == 0.5
    assert type_score(replace(one, title="steel mug"), MUG) == 1.0, "2 of 6 is above 0.2"
    many = replace(MUG, title="mug " + " ".join("abcdefghijk"[i] * 2 for i in range(11)))  # 12 nouns
    assert type_score(replace(OTHER, title="mug"), many) == 0.1, "1 of 12 is below 0.1"
    assert type_score(replace(OTHER, title="mug", query="travel mug"), many) == 0.1
    assert type_score(OTHER, replace(MUG, title="7 x 7")) == 0.5, "without nouns the title counts 0.2"


def test_a_wrong_thing_pays_its_part() -> None:
    half = replace(MUG, title="steel scarf", query="scarf", product_category="Clothing")
    # 1 of 6 nouns: 0.5. Found: leak proof, easy clean, navy blue, small, and the price: 5 of 5.
    assert score(half, {"color": "navy blue", "size": "small"}, GOAL, same_words) == pytest.approx(0.5)


def test_colours() -> None:
    assert normalize_color("a3-wine red") == "red", "the list's order, not the text's, decides"
    assert normalize_color("navy blue") == "blue"
    assert normalize_color("striped") == "striped"


def test_the_colour_quirk() -> None:
    """A bought colour is reduced to its colour word, the wanted one only if it is just that word."""

    def bought(value: str, wanted: str) -> bool:
        goal = Goal(MUG, "", ("leak proof",), {"color": wanted}, NO_LIMIT)
        return score(MUG, {"color": value}, goal, same_words) == 1.0

    assert bought("red", "red")
    assert bought("dark red", "dark")
    assert bought("light navy", "navy blue") is False  # "light" is no word of "('color', 'navy blue')"
    assert bought("royal blue", "navy blue"), "blue is in both"
    assert not bought("rustic", "rustic"), "rust is a colour: what is bought becomes 'rust', what is wanted does not"


def test_same_words_is_the_fuzzy_ratio_where_words_have_one_spelling() -> None:
    pytest.importorskip("rapidfuzz", reason="NO RAPIDFUZZ: pip install 'paw-lightning[webshop]'")
    fuzzy = token_set_ratio()
    for one, other in [
        ("leak proof", "leak proof"),
        ("navy", "('color', 'navy blue')"),
        ("x-large", "('size', 'x-large')"),
    ]:
        assert same_words(one, other) == fuzzy(one, other) == 100
    for one, other in [("leak proof", "space saving"), ("small", "('size', 'large')"), ("wool", "steel"), ("", "red")]:
        assert same_words(one, other) == 0 and fuzzy(one, other) <= 85
    # The fuzzy ratio also takes one spelling for another: 2 * 13 letters in common of 14 + 13 = 96.
    assert fuzzy("machine washes", "machine washs") == 96 and same_words("machine washes", "machine washs") == 0
    assert fuzzy("café", "caf") == 100, "letters beyond ASCII are left out"

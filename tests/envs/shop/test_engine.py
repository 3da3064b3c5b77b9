"""Pages, clicks and options, on a catalogue of two products."""

import pytest

from paw_lightning.envs.shop.catalogue import Product, draw_price, parse_pricing
from paw_lightning.envs.shop.engine import ShopEngine
from paw_lightning.envs.shop.goals import Goal, make_goals
from paw_lightning.envs.shop.pages import write_lines, write_quoted, write_rich, write_text


def product(asin: str, **changes) -> Product:
    fields = {
        "title": f"Mug {asin}",
        "description": "Keeps tea warm.",
        "bullets": ("Of steel.", "No handle."),
        "category": "home",
        "query": "mug",
        "product_category": "Home › Mug",
        "price": 9.0,
        "price_tag": "$9.0",
        "options": {"color": ("red", "blue"), "size": ("small", "blue")},
        "attributes": ("steel",),
        "instruction": "Find me steel mug",
        "instruction_attributes": ("steel",),
    }
    return Product(asin=asin, **{**fields, **changes})


PRODUCTS = [product(f"B{i}") for i in range(12)]
TASK = "Find me steel mug with color: red, and size: small"
GOAL = Goal(PRODUCTS[0], TASK, ("steel",), {"color": "red", "size": "small"}, 1e6)


def engine(**changes) -> ShopEngine:
    def search(query: str) -> list[Product]:
        return [] if query == "nothing" else PRODUCTS

    return ShopEngine(GOAL, search, lambda bought, chosen, goal: len(chosen) / 2, **changes)


def text(shop: ShopEngine) -> str:
    return write_text(shop.segments)


def walk(shop: ShopEngine, *actions: str) -> ShopEngine:
    for action in actions:
        assert shop.step(action), action
    return shop


HEAD = f"Instruction: [SEP] {TASK} [SEP] Back to Search"
ITEM = (
    f"{HEAD} [SEP] < Prev [SEP] color [SEP] red [SEP] blue [SEP] size [SEP] small [SEP] blue [SEP] Mug B0 [SEP] "
    "Price: $9.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
)


def test_every_page() -> None:
    shop = engine(page_size=2)
    assert text(shop) == f"WebShop [SEP] Instruction: [SEP] {TASK} [SEP] Search"
    assert list(shop.clickables) == ["search"]
    walk(shop, "search[Mugs]")
    found = "B0 [SEP] Mug B0 [SEP] $9.0 [SEP] B1 [SEP] Mug B1 [SEP] $9.0"
    assert text(shop) == f"{HEAD} [SEP] Page 1 (Total results: 12) [SEP] Next > [SEP] {found}"
    assert list(shop.clickables) == ["back to search", "next >", "b0", "b1"]
    walk(shop, "click[Next >]")
    found = "B2 [SEP] Mug B2 [SEP] $9.0 [SEP] B3 [SEP] Mug B3 [SEP] $9.0"
    assert text(shop) == f"{HEAD} [SEP] Page 2 (Total results: 12) [SEP] < Prev [SEP] Next > [SEP] {found}"
    walk(shop, "click[< prev]", "click[B0]")
    assert text(shop) == ITEM
    buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
    assert list(shop.clickables) == [*buttons, "red", "blue", "small"]
    walk(shop, "click[description]")
    assert text(shop) == f"{HEAD} [SEP] < Prev [SEP] Keeps tea warm."
    walk(shop, "click[< prev]", "click[features]")
    assert text(shop) == f"{HEAD} [SEP] < Prev [SEP] Of steel. [SEP] No handle."
    assert list(shop.clickables) == ["back to search", "< prev"]
    walk(shop, "click[< prev]", "click[reviews]")
    assert text(shop) == f"{HEAD} [SEP] < Prev"
    walk(shop, "click[< prev]", "click[buy now]")
    assert text(shop).startswith("Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it")
    assert text(shop).endswith("Your score (min 0.0, max 1.0) [SEP] 0.0 [SEP] Reward Details [SEP] None")
    assert shop.page == "done" and shop.score == 0 and not shop.clickables


def test_past_the_last_page_there_is_nothing_and_still_a_next_one() -> None:
    shop = walk(engine(), "search[mug]", "click[next >]", "click[next >]", "click[next >]")
    assert text(shop) == f"{HEAD} [SEP] Page 4 (Total results: 12) [SEP] < Prev [SEP] Next >"
    walk(shop, "search[nothing]")
    assert text(shop) == f"{HEAD} [SEP] Page 1 (Total results: 0) [SEP] Next >"


@pytest.mark.parametrize(
    "way", [[], ["search[mug]"], ["search[mug]", "click[b1]"], ["search[mug]", "click[b1]", "click[features]"]]
)
def test_search_works_on_every_page(way: list[str]) -> None:
    shop = walk(engine(), *way, "search[Mug]")
    assert shop.page == "results" and shop.number == 1


@pytest.mark.parametrize(
    "action",
    ["", "dance", "search", "search[]", "click[]", "click[search]", "click[foo]", "Search[mug]", " search[mug]"],
)
def test_what_the_shop_does_not_react_to_changes_nothing(action: str) -> None:
    for way in ([], ["search[mug]", "click[b1]"]):
        shop = walk(engine(), *way)
        before = text(shop), list(shop.clickables), shop.score
        assert not shop.step(action)
        assert (text(shop), list(shop.clickables), shop.score) == before


def test_brackets_are_read_greedily_and_what_follows_is_ignored() -> None:
    asked: list[str] = []
    shop = ShopEngine(GOAL, lambda query: asked.append(query) or [], lambda *_: 0.0)
    walk(shop, "search[a] b] please")
    assert asked == ["a] b"]
    assert not shop.step("search[a [b] c]"), "up to its last bracket, this names no action"


def test_options_stay_on_the_pages_of_a_product_and_are_lost_on_the_results() -> None:
    shop = walk(engine(), "search[mug]", "click[b0]", "click[red]", "click[features]", "click[< prev]", "click[small]")
    assert shop.chosen == {"color": "red", "size": "small"}
    assert text(shop) == ITEM, "mode text does not show what was chosen"
    walk(shop, "click[blue]")
    assert shop.chosen == {"color": "red", "size": "blue"}, "a value of two groups goes to the last"
    walk(shop, "click[< prev]", "click[b0]")
    assert shop.chosen == {}
    walk(shop, "click[red]", "search[mug]", "click[b0]")
    assert shop.chosen == {}


def test_back_from_a_product_leads_to_its_page_of_results() -> None:
    shop = walk(engine(), "search[mug]", "click[next >]", "click[b11]", "click[< prev]")
    assert shop.number == 2 and "b11" in shop.clickables
    walk(shop, "click[back to search]")
    assert shop.page == "search" and list(shop.clickables) == ["search"]


def test_an_option_called_like_a_button_hides_it() -> None:
    odd = product("B0", options={"pages": ("description", "plain")})
    shop = ShopEngine(GOAL, lambda query: [odd], lambda *_: 0.0)
    walk(shop, "search[mug]", "click[b0]", "click[description]")
    assert shop.page == "item" and shop.chosen == {"pages": "description"}


def test_the_receipt_writes_options_as_a_web_page_does() -> None:
    odd = product("B0", options={"size": ("5'", "7"), "a & b": ("é",)})
    shop = ShopEngine(GOAL, lambda query: [odd], lambda *_: 0.25)
    walk(shop, "search[mug]", "click[b0]", "click[5']", "click[é]", "click[buy now]")
    assert '[SEP] {"a \\u0026 b": "\\u00e9", "size": "5\\u0027"} [SEP]' in text(shop)
    assert " [SEP] 0.25 [SEP] " in text(shop)
    assert not shop.step("search[mug]"), "the visit is over"


def test_the_rich_form_marks_what_can_be_and_what_was_clicked() -> None:
    shop = walk(engine(page_size=1), "search[mug]", "click[b0]", "click[red]", "click[small]")
    lines = write_rich(shop.segments, shop.chosen, shop.visited).split("\n")
    assert lines[:4] == ["You have clicked small.", "You have clicked red.", "Instruction:", TASK]
    assert lines[4:8] == [
        "[button] Back to Search [button_]",
        "[button] < Prev [button_]",
        "color",
        "  [clicked button] red [clicked button_]",
    ]
    assert lines[8] == "  [button] blue [button_]"
    assert lines[-1] == "[button] Buy Now [button_]"
    walk(shop, "click[< prev]")
    rich = write_rich(shop.segments, shop.chosen, shop.visited)
    assert rich.endswith("\n\n[clicked button] B0 [clicked button_]\nMug B0\n$9.0")
    walk(shop, "click[back to search]", "search[mug]")
    assert "\n\n[button] B0 [button_]\n" in write_rich(shop.segments, shop.chosen, shop.visited)
    assert "[SEP]" not in rich


def test_the_forms_without_the_task() -> None:
    shop = engine(page_size=1)
    assert write_quoted(shop.segments, TASK) == "'Search'"
    assert write_lines(shop.segments, TASK, {}) == "Search"
    walk(shop, "search[mug]")
    quoted = "'Back to Search' [SEP] 'Page 1 (Total results: 12)' [SEP] 'Next >' [SEP] 'B0' [SEP] 'Mug B0' [SEP] '$9.0'"
    assert write_quoted(shop.segments, TASK) == quoted
    walk(shop, "click[b0]", "click[blue]")
    lines = write_lines(shop.segments, TASK, shop.chosen).split("\n")
    assert lines[:8] == ["Back to Search", "< Prev", "color", "red", "blue", "size", "small", "[blue]"]
    walk(shop, "click[buy now]")
    assert write_lines(shop.segments, TASK, shop.chosen).split("\n")[0] == "Thank you for shopping with us!"


@pytest.mark.parametrize(
    ("pricing", "prices", "tag"),
    [
        (None, [100.0], "$100.0"),
        ("", [100.0], "$100.0"),
        ("$1,019.90", [1019.9], "$1019.9"),
        ("$19.99 - $27.99", [19.99, 27.99], "$19.99 to $27.99"),
        ("$3 - $2 - $1", [3.0, 2.0], "$3.0 to $2.0"),
    ],
)
def test_prices_are_read_as_webshop_reads_them(pricing: str | None, prices: list[float], tag: str) -> None:
    assert parse_pricing(pricing) == (prices, tag)


def test_a_price_range_is_drawn_once_and_only_then_the_dice_roll() -> None:
    class Dice:
        rolls = 0

        def uniform(self, low: float, high: float) -> float:
            self.rolls += 1
            return low + 0.25 * (high - low)

    dice = Dice()
    assert draw_price([7.0], dice) == 7.0 and dice.rolls == 0  # type: ignore[arg-type]
    assert draw_price([10.0, 30.0], dice) == 15.0 and dice.rolls == 1  # type: ignore[arg-type]


def test_goals_by_hand() -> None:
    class Dice:
        def sample(self, limits: list[float], count: int) -> list[float]:
            self.limits = limits
            return limits[1::-1]

    dice = Dice()
    goals = make_goals([product("B0"), product("B1", instruction=None)], dice)  # type: ignore[arg-type]
    assert dice.limits == [10.0, 20.0, 30.0, 40.0], "the next four tens above 9 dollars"
    assert sorted(goal.instruction for goal in goals) == [
        f"Find me steel mug with color: {color}, and size: {size}, and price lower than 20.00 dollars"
        for color in ("blue", "red")
        for size in ("blue", "small")
    ]
    assert {goal.price_upper for goal in goals} == {20.0}
    # Above 980 dollars only one limit is left, so there is none; a product without options has one goal.
    [dear] = make_goals([product("B2", price=985.0, options={})], dice)  # type: ignore[arg-type]
    assert (dear.instruction, dear.price_upper) == ("Find me steel mug", 1_000_000.0)

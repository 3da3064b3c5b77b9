"""What each page of the shop shows, and the ways to write a page as text."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence

from paw_lightning.envs.shop.catalogue import Product

Segment = tuple[str, str, str]
"""Kind ("text", "button", "product" or "option"), text, and of an option the name of its group."""

SEPARATOR = " [SEP] "


def _texts(*texts: str) -> list[Segment]:
    # What is empty makes no text at all on a page.
    return [("text", text, "") for text in texts if text]


def _buttons(*texts: str) -> list[Segment]:
    return [("button", text, "") for text in texts]


def search_page(instruction: str) -> list[Segment]:
    """Where a visit starts."""
    return [*_texts("WebShop", "Instruction:", instruction), *_buttons("Search")]


def results_page(instruction: str, products: Sequence[Product], number: int, total: int) -> list[Segment]:
    """One page of found products; there is always a next page, if need be an empty one."""
    segments = _head(instruction) + _texts(f"Page {number} (Total results: {total})")
    segments += _buttons("< Prev", "Next >") if number > 1 else _buttons("Next >")
    for product in products:
        segments += [("product", product.asin, ""), *_texts(product.title, product.price_tag)]
    return segments


def item_page(instruction: str, product: Product) -> list[Segment]:
    """A product with its options."""
    segments = _head(instruction) + _buttons("< Prev")
    for name, values in product.options.items():
        segments += _texts(name) + [("option", value, name) for value in values if value]
    segments += _texts(product.title, f"Price: {product.price_tag}", "Rating: N.A.")
    return segments + _buttons("Description", "Features", "Reviews", "Buy Now")


def sub_page(instruction: str, product: Product, name: str) -> list[Segment]:
    """Description, features, or reviews (which no product has)."""
    contents = {"description": [product.description], "features": product.bullets, "reviews": []}[name]
    return _head(instruction) + _buttons("< Prev") + _texts(*contents)


def done_page(product: Product, chosen: Mapping[str, str], score: float) -> list[Segment]:
    """The receipt. It prints the reward."""
    options = json.dumps(dict(sorted(chosen.items())))
    for character in "<>&'":  # as a web template writes them
        options = options.replace(character, f"\\u{ord(character):04x}")
    purchased = {"asin": product.asin, "options": options} | dict.fromkeys(
        ("attrs", "category", "query", "product category"), "None"
    )
    return _texts(
        *("Thank you for shopping with us!", "Your code:", "None", "(Paste it in your MTurk interface.)"),
        *("Purchased", *(text for pair in purchased.items() for text in pair)),
        *("Target", "asin", "options", "attrs", "price upper", "instuction text"),
        *("category", "product category", "query", "Goal", "None"),
        *("Reward", "Your score (min 0.0, max 1.0)", str(score), "Reward Details", "None"),
    )


def _head(instruction: str) -> list[Segment]:
    return [*_texts("Instruction:", instruction), *_buttons("Back to Search")]


def write_text(segments: Sequence[Segment]) -> str:
    """WebShop's mode "text"."""
    return SEPARATOR.join(text.strip() for _, text, _ in segments)


def write_rich(segments: Sequence[Segment], chosen: Mapping[str, str], visited: Collection[str]) -> str:
    """WebShop's mode "text_rich": a segment a line, what can be clicked and what was clicked marked."""
    address = json.dumps(chosen)  # WebShop recognises a chosen value by its quoted text in the page's address
    lines: list[str] = []
    clicked: list[str] = []
    for kind, text, _ in segments:
        text = text.strip()
        done = (kind == "option" and f'"{text}"' in address) or (kind == "product" and text in visited)
        if kind == "option" and done:
            clicked.insert(0, f"You have clicked {text}.")
        before = {"product": "\n", "option": "  "}.get(kind, "")
        state = "clicked button" if done else "button"
        lines.append(text if kind == "text" else f"{before}[{state}] {text} [{state}_]")
    return "\n".join([*clicked, *lines])


def write_quoted(segments: Sequence[Segment], instruction: str) -> str:
    """What verl-agent shows: mode "text" after the instruction, every segment in quotes."""
    return SEPARATOR.join(f"'{text.strip()}'" for _, text, _ in without_task(segments, instruction))


def write_lines(segments: Sequence[Segment], instruction: str, chosen: Mapping[str, str]) -> str:
    """For small models: a segment a line, without the instruction, a chosen option in brackets."""
    rows = without_task(segments, instruction)
    return "\n".join(
        f"[{text}]" if kind == "option" and chosen.get(group) == text else text for kind, text, group in rows
    )


def without_task(segments: Sequence[Segment], instruction: str) -> Sequence[Segment]:
    """What follows the instruction; everything on a page that does not show it."""
    texts = [text for _, text, _ in segments]
    return segments[texts.index(instruction) + 1 :] if instruction in texts else segments

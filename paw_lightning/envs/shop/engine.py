"""Pages and clicks of the shop: WebShop's text environment without browser, server or HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from paw_lightning.envs.shop.catalogue import Product
from paw_lightning.envs.shop.goals import Goal
from paw_lightning.envs.shop.pages import Segment, done_page, item_page, results_page, search_page, sub_page

PAGE_SIZE = 10
ACTION = re.compile(r"(.+)\[(.+)\]")
SUB_PAGES = ("description", "features", "reviews")

Search = Callable[[str], Sequence[Product]]
"""Query (lower-case) -> products, best first."""
Score = Callable[[Product, dict[str, str], Goal], float]
"""Bought product, chosen options, goal -> reward in [0, 1]."""
PageName = Literal["search", "results", "item", "description", "features", "reviews", "done"]


class ShopEngine:
    """One visit to the shop.

    ``page`` names where the customer is, ``segments`` says what that page shows, ``clickables`` what can be clicked
    there, and ``score`` what the purchase was worth (None before it).
    """

    def __init__(self, goal: Goal, search: Search, score: Score, page_size: int = PAGE_SIZE) -> None:
        self.goal = goal
        self._search, self._score, self.page_size = search, score, page_size
        self.score: float | None = None
        self.results: Sequence[Product] = ()
        self.number = 1
        """Number of the page of results."""
        self.visited: set[str] = set()
        """Products looked at since the search page."""
        self.product: Product | None = None
        self.chosen: dict[str, str] = {}
        """Option name -> chosen value."""
        self._show("search")

    def step(self, action: str) -> bool:
        """Play ``search[words]`` (possible on every page) or ``click[text]``; return whether the shop reacted."""
        match = ACTION.match(action)
        name, argument = (match[1], match[2].lower()) if match else ("", "")
        if self.page == "done":
            return False
        if name == "search":
            self.results = self._search(argument)
            self._show_results(1)
        elif name == "click" and argument != "search" and argument in self.clickables:
            self._click(argument)
        else:
            return False
        return True

    def _click(self, text: str) -> None:
        option = self.clickables[text]
        if option:
            self.chosen[option] = text
            self._show("item")
        elif text == "buy now":
            self.score = self._score(self._bought(), self.chosen, self.goal)
            self._show("done")
        elif text == "back to search":
            self.visited = set()
            self._show("search")
        elif text in ("next >", "< prev") and self.page == "results":
            self._show_results(self.number + (1 if text == "next >" else -1))
        elif text == "< prev" and self.page == "item":
            self._show_results(self.number)
        elif text in SUB_PAGES:
            self._show(text)  # type: ignore[arg-type]
        else:
            if text != "< prev":
                self.product = next(product for product in self.results if product.asin.lower() == text)
                self.visited.add(self.product.asin)
            self._show("item")

    def _show_results(self, number: int) -> None:
        self.number = number
        self.product, self.chosen = None, {}
        self._show("results")

    def _show(self, page: PageName) -> None:
        self.page = page
        self.segments = self._segments()
        # An option that is called like something else on the page, or like an option of an earlier group, hides it.
        self.clickables: dict[str, str] = {
            text.lower(): "" for kind, text, _ in self.segments if kind in ("button", "product")
        }
        self.clickables.update({text: group for kind, text, group in self.segments if kind == "option"})

    def _segments(self) -> list[Segment]:
        instruction = self.goal.instruction
        if self.page == "search":
            return search_page(instruction)
        if self.page == "results":
            last = self.number * self.page_size
            return results_page(instruction, self.results[last - self.page_size : last], self.number, len(self.results))
        product = self._bought()
        if self.page == "item":
            return item_page(instruction, product)
        if self.page == "done":
            assert self.score is not None
            return done_page(product, self.chosen, self.score)
        return sub_page(instruction, product, self.page)

    def _bought(self) -> Product:
        assert self.product is not None, "these pages are about a product"
        return self.product

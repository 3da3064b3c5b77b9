"""A customer who shops by what the pages say, and by nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

TASK = re.compile(r"Find me (.+?)(?: with ([^:]+: .+?))?(?:, and price lower than ([\d.]+) dollars)?$")
RESULT = re.compile(r"^(\d\w*)\n(.+)\n(\$.+)$", re.MULTILINE)
PRICE = re.compile(r"\$([\d.]+)")
MAX_PAGE = 5
"""Pages of results that are looked through."""


@dataclass(frozen=True)
class Wish:
    """What the task sentence of a made-up shop asks for."""

    words: frozenset[str]
    """Words of the kind of thing and of its attributes."""
    kind: str
    """The last word of the kind of thing."""
    options: dict[str, str]
    price_upper: float
    query: str
    """What to search for."""


def parse_wish(task: str) -> Wish:
    """Read a task sentence.

    Raises:
        ValueError: it is none of a made-up shop's.
    """
    match = TASK.match(task)
    if match is None:
        raise ValueError(f"task={task!r}: expected e.g. 'Find me foldable armchair with color: red'")
    options = dict(pair.split(": ", 1) for pair in match[2].split(", and ")) if match[2] else {}
    what = match[1].replace(",", "")
    return Wish(
        frozenset(what.split()),
        what.split()[-1],
        options,
        float(match[3] or "inf"),
        " ".join([what, *options.values()]),
    )


@dataclass
class ShopExpert:
    """Plays one episode of a made-up shop from its text (``observation: lines``).

    Searches for what was asked, opens the first product that may be it, looks at its features where the title does not
    say all, chooses the options and buys. Make one per episode, with ``info["task"]``, and pass *every* observation of
    the episode to ``act``. What it returns need not be what is played next: it goes by the page.
    """

    task: str
    rejected: set[str] = field(default_factory=set)
    """Titles of products that are not it."""
    known: dict[str, set[str]] = field(default_factory=dict)
    """Title -> words of the product's other pages."""
    title: str = ""
    """Title of the product last seen."""
    tries: int = 0
    """How often all results were looked through in vain."""

    def __post_init__(self) -> None:
        self.wish = parse_wish(self.task)

    def act(self, observation: str) -> str:
        """The next action, given the latest observation."""
        if observation == "Search":
            return f"search[{self.wish.query}]"
        if match := re.search(r"^Page (\d+) \(Total", observation, re.MULTILINE):
            return self._pick(observation, int(match[1]))
        if observation.endswith("Buy Now"):
            return self._decide(observation.split("\n"))
        self.known.setdefault(self.title, set()).update(_words(observation))
        return "click[< prev]"

    def _pick(self, page: str, number: int) -> str:
        results = RESULT.findall(page)
        for asin, title, price in results:
            if title not in self.rejected and self._affordable(price) and self.wish.kind in _words(title):
                return f"click[{asin}]"
        if results and number < MAX_PAGE:
            return "click[next >]"
        self.tries += 1
        self.rejected.clear()
        return f"search[{self.wish.query}]" if number > 1 or not results else f"click[{results[0][0]}]"

    def _decide(self, lines: list[str]) -> str:
        """On a product's page: buy it, prepare to, find out more, or leave it."""
        self.title, price = lines[-7], lines[-6]
        shown = {line.strip("[]"): line for line in lines[2:-7]}
        missing = self.wish.words - _words(self.title) - self.known.get(self.title, set())
        if missing and self.title not in self.known:
            return "click[features]"
        wanted = [value for value in self.wish.options.values() if value in shown or not self.desperate]
        if not self.desperate and (missing or not self._affordable(price) or not shown.keys() >= set(wanted)):
            self.rejected.add(self.title)
            return "click[< prev]"
        return next((f"click[{value}]" for value in wanted if shown[value] == value), "click[buy now]")

    @property
    def desperate(self) -> bool:
        """Whether it would buy anything by now."""
        return self.tries > 1

    def _affordable(self, price: str) -> bool:
        """The upper end of a price range is within the limit; at the second try, the lower end."""
        ends = [float(end) for end in PRICE.findall(price)]
        return self.desperate or (min if self.tries else max)(ends) <= self.wish.price_upper


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]+", text.lower()))

"""The shop environment: WebShop's products, or a made-up catalogue, behind the text environment protocol."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import check_split, expand, wrong_argument
from paw_lightning.envs.shop.engine import PAGE_SIZE, ShopEngine
from paw_lightning.envs.shop.expert import ShopExpert
from paw_lightning.envs.shop.generator import MAX_PRODUCTS, MIN_PRODUCTS
from paw_lightning.envs.shop.pages import write_lines, write_quoted, write_rich, write_text
from paw_lightning.envs.shop.store import Store, generated_store, official_store

OBSERVATIONS = ("text", "text_rich", "quoted", "lines")
REWARDS = ("score", "success")
DEFAULT_PRODUCTS = 1000
SEARCH = "search[<your query>]"


class ShopEnv(TextEnv):
    """Shopping in text: search, look at products, choose options, buy one thing.

    Pages, search and reward are WebShop's, with its two kinds of actions: ``search[words]``, possible on every page,
    and ``click[text]`` of something on the page. An action that the shop does not react to changes nothing. Buying ends
    the episode; its page prints the reward, so it is marked as no world-model target. WebShop's hidden searches
    (``<r>``, ``<a>``, ``<c>``, ``<q>``) are ordinary words here.

    All copies in a process share one catalogue. Goals of one product fall into several splits, in the official data
    too: an evaluation is about unseen wishes, not unseen products. Of the 1,000-product set's 500 test goals 20 cannot
    be won even with the wanted product (their colour is one that WebShop's score does not recognise when it is bought).

    Args:
        split: "train", "val" or "test". Official goals: 0 to 499 are "val" as well as "test", the rest is "train", as
            in verl-agent. Of made-up goals a tenth is "test" and another tenth "val", less the wishes that "train" has
            as well.
        data_path: folder with ``items_shuffle_1000.json`` and ``items_ins_v2_1000.json`` (or the full set's files, or
            the products' file itself). ``~`` and environment variables are expanded; empty means a made-up shop. Needs
            the extra ``webshop``.
        products: number of made-up products.
        brief: made-up products with short pages, for small models.
        catalogue_seed: which shop is made up; with official data, which prices are drawn where WebShop draws them when
            it loads (products with a price range, and the goals' limits; 0 gives those of ``random.seed(0)`` there).
        page_size: products on a page of results; WebShop has 10.
        observation: "text" and "text_rich" are WebShop's modes; "quoted" is verl-agent's form of "text", without the
            instruction; "lines" is a short form for small models, without the instruction, chosen options in brackets.
        reward: "score" pays ``success_reward`` times WebShop's score in [0, 1], which is 1 only for what was asked for;
            "success" pays ``success_reward`` for a score of 1 and nothing else.
        success_reward: the largest reward, and ``info["max_reward"]``.
        num_tasks: use only the first so many goals of the split; None: all.

    Raises:
        SettingsError: a value that cannot work, or official data without the extra ``webshop``.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        data_path: str | None = None,
        products: int = DEFAULT_PRODUCTS,
        brief: bool = False,
        catalogue_seed: int = 0,
        page_size: int = PAGE_SIZE,
        observation: str = "text",
        reward: str = "score",
        success_reward: float = 1.0,
        num_tasks: int | None = None,
    ) -> None:
        check_split(split)
        _check("observation", observation, OBSERVATIONS)
        _check("reward", reward, REWARDS)
        if page_size < 1:
            raise wrong_argument("page_size", page_size, "at least 1")
        if success_reward <= 0:
            raise wrong_argument("success_reward", success_reward, "a positive number")
        self.split, self.page_size, self.observation, self.data_path = split, page_size, observation, data_path
        self.reward, self.success_reward = reward, float(success_reward)
        self.store = _open(data_path, products, brief, catalogue_seed)
        goals = self.store.split(split)
        if num_tasks is not None and not 1 <= num_tasks <= len(goals):
            raise wrong_argument(
                "num_tasks", num_tasks, f"between 1 and {len(goals)}, the number of goals of {split!r}"
            )
        self.num_tasks: int = num_tasks or len(goals)
        self._goals = goals[: self.num_tasks]
        self._task_rng = random.Random(f"{split} task order")
        self._engine: ShopEngine | None = None
        self._expert: ShopExpert | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start task ``seed`` modulo ``num_tasks``; without a seed, one that the environment draws."""
        number = self._goals[(self._task_rng.randrange(self.num_tasks) if seed is None else seed) % self.num_tasks]
        self._group_key, self._expert = f"goal {number}", None
        self._engine = ShopEngine(self.store.goals[number], self.store.search, self.store.score, self.page_size)
        return self._write(), self._info(True)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action; where the shop does not react, the page stays as it is.

        Raises:
            RuntimeError: no episode is running.
        """
        engine = self._started()
        if engine.score is not None:
            raise RuntimeError("the episode is over: call reset() before step()")
        reacted = engine.step(action)
        info = self._info(reacted)
        paid = info["won"] if self.reward == "success" else info["task_score"]
        return self._write(), self.success_reward * paid, engine.score is not None, False, info

    def demonstrate(self) -> str:
        """The next action of a customer who goes by the pages, in made-up shops with `observation: lines`."""
        if self.data_path or self.observation != "lines":
            return super().demonstrate()
        if self._expert is None:
            self._expert = ShopExpert(self._started().goal.instruction)
        return self._expert.act(self._write())

    def close(self) -> None:
        """Do nothing: the shop is shared and stays."""

    def _started(self) -> ShopEngine:
        if self._engine is None:
            raise RuntimeError("no episode has been started: call reset() first")
        return self._engine

    def _write(self) -> str:
        engine = self._started()
        if self.observation == "text":
            return write_text(engine.segments)
        if self.observation == "text_rich":
            return write_rich(engine.segments, engine.chosen, engine.visited)
        if self.observation == "quoted":
            return write_quoted(engine.segments, engine.goal.instruction)
        return write_lines(engine.segments, engine.goal.instruction, engine.chosen)

    def _info(self, reacted: bool) -> dict[str, Any]:
        engine = self._started()
        commands = [f"click[{text}]" for text in engine.clickables if text != "search"]
        return {
            "admissible_commands": [SEARCH] * (engine.page == "search") + commands,
            "admissible_action": reacted,
            "won": engine.score == 1,
            "task_score": engine.score or 0.0,
            "predictable": engine.score is None,
            "task": engine.goal.instruction,
            "max_reward": self.success_reward,
            "group_key": self._group_key,
        }


def _open(data_path: str | None, products: int, brief: bool, seed: int) -> Store:
    if data_path:
        if (products, brief) != (DEFAULT_PRODUCTS, False):
            wanted = f"no setting of it or of brief (which is {brief}) beside data_path, which brings its own products"
            raise wrong_argument("products", products, wanted)
        return official_store(Path(expand(data_path, "data_path")), seed)
    if not MIN_PRODUCTS <= products <= MAX_PRODUCTS:
        raise wrong_argument("products", products, f"between {MIN_PRODUCTS} and {MAX_PRODUCTS}")
    return generated_store(products, brief, seed)


def _check(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise wrong_argument(key, value, f"one of {list(choices)}")

"""Search-augmented question answering behind the text environment protocol."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from paw_lightning.envs.base import TextEnv
from paw_lightning.envs.loading import check_split, expand, wrong_argument
from paw_lightning.envs.search.facts import HOPS, MAX_LANDS, MIN_LANDS, fact_base
from paw_lightning.envs.search.protocol import (
    FORMS,
    INVALID_COMMAND,
    INVALID_TAGS,
    ObservationForm,
    observe,
    read_call,
)
from paw_lightning.envs.search.questions import Question, exact_match, load_questions
from paw_lightning.envs.search.retrievers import OverlapRetriever, Retriever

DEFAULT_LANDS = 100
NAME = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+")
"""What an invented name looks like."""


class SearchEnv(TextEnv):
    """Questions that are answered by searching documents: invented facts, or a data set with a retriever.

    An action is ``<search>query</search>`` or ``<answer>text</answer>``, or plain ``search query`` or ``answer text``;
    anything else is told so, and costs a turn. An answer ends the episode and pays ``success_reward`` if it is an
    exact match of a gold answer, else 0. The last turn's observation is empty: nothing follows an answer, and what a
    search in the last turn would find could not be used any more, so it is not made (as in verl-agent).

    Args:
        split: "train", "val" or "test".
        data_path: folder with the questions ``train``, ``dev`` (or ``val``) and ``test`` as .jsonl or .parquet, rows
            as in FlashRAG or Search-R1. ``~`` and environment variables are expanded; empty means invented facts.
        retriever: who finds documents; None searches the invented facts in memory.
        lands: size of the fact base, 3 to 409: 9 questions of one hop and 6 of two hops for each land. A tenth of
            the lands is asked about in validation, a tenth in test.
        hops: how many documents the invented questions need: 1, 2, or both.
        fact_seed: another number gives other facts with other names.
        topk: documents per search.
        observation_form: `plain`: the documents' texts, one a line; `verl_agent` and `search_r1`: ``<information>`` as
            the two write it.
        max_turns: turns of an episode.
        success_reward: reward of a right answer, and ``info["max_reward"]``.
        num_tasks: use only the first so many questions of the split; None: all.

    Raises:
        SettingsError: a value that cannot work; the message names its key.
    """

    def __init__(
        self,
        split: str = "train",
        *,
        data_path: str | None = None,
        retriever: Retriever | None = None,
        lands: int = DEFAULT_LANDS,
        hops: Sequence[int] = HOPS,
        fact_seed: int = 0,
        topk: int = 3,
        observation_form: ObservationForm = "plain",
        max_turns: int = 4,
        success_reward: float = 1.0,
        num_tasks: int | None = None,
    ) -> None:
        check_split(split)
        _check(topk, observation_form, max_turns, success_reward)
        self.split, self.topk, self.max_turns = split, topk, max_turns
        self.observation_form, self.success_reward = observation_form, float(success_reward)
        self._names: frozenset[str] = frozenset()
        if data_path:
            if (lands, tuple(hops), fact_seed) != (DEFAULT_LANDS, HOPS, 0):
                others = f"hops (which is {hops}), fact_seed (which is {fact_seed})"
                wanted = (
                    f"no setting of it or of {others} beside data_path={data_path!r}, which brings its own questions"
                )
                raise wrong_argument("lands", lands, wanted)
            if retriever is None:
                raise wrong_argument(
                    "retriever", retriever, f"one for the questions of data_path, which is {data_path!r}"
                )
            self._questions = load_questions(expand(data_path, "data_path"), split)
            self.retriever = retriever
        else:
            _check_facts(lands, hops)
            self._names = fact_base(lands, fact_seed).names
            self._questions = _fact_questions(lands, fact_seed, split, tuple(hops))
            self.retriever = retriever or _fact_retriever(lands, fact_seed)
        self.num_tasks: int = _task_count(num_tasks, len(self._questions))
        self._task_rng = random.Random(f"{split} question order")
        self._question: Question | None = None
        self._over = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Ask question ``seed`` modulo ``num_tasks``, or without a seed one that the environment draws."""
        number = (self._task_rng.randrange(self.num_tasks) if seed is None else seed) % self.num_tasks
        self._question = self._questions[number]
        self._group_key = f"{self.split}/{number}"
        self._turn, self._over = 0, False
        self._read = self._question.text
        return self._question.text, self._info(won=False, text="")

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Play one action.

        Raises:
            RuntimeError: no episode is running.
            RetrievalError: the search failed for good.
        """
        question = self._started()
        if self._over:
            raise RuntimeError("the episode is over: call reset() before step()")
        self._turn += 1
        call = read_call(action)
        answer = call.content if call and call.kind == "answer" else None
        self._over = answer is not None or self._turn >= self.max_turns
        if self._over:
            won = answer is not None and exact_match(answer, question.answers)
            return "", self.success_reward * won, answer is not None, answer is None, self._info(won=won, text="")
        if call is None:
            text = INVALID_COMMAND if self.observation_form == "plain" else INVALID_TAGS
        else:
            self._read += f"\n{call.content}"
            text = observe(self.retriever.search(call.content, self.topk), self.observation_form)
        return text, 0.0, False, False, self._info(won=False, text=text)

    def expert_plan(self) -> list[str]:
        """Commands that answer the current question from its start; empty for questions of a data set."""
        return list(self._started().plan)

    def demonstrate(self) -> str:
        """The next command of one who knows which documents to look for, for questions about invented facts."""
        plan = self._started().plan
        return plan[min(self._turn, len(plan) - 1)] if plan else super().demonstrate()

    def _started(self) -> Question:
        if self._question is None:
            raise RuntimeError("no episode has been started: call reset() first")
        return self._question

    def _info(self, *, won: bool, text: str) -> dict[str, Any]:
        question = self._started()
        # An invented name is news where it comes up first; afterwards the policy has read it.
        named = [match for match in NAME.finditer(text) if match.group() in self._names]
        news = [match.span() for match in named if match.group() not in self._read]
        self._read += f"\n{text}"
        return {
            "won": won,
            "task": question.text,
            "kind": question.kind,
            "max_reward": self.success_reward,
            "group_key": self._group_key,
            "nuisance_spans": news,
        }


@lru_cache(maxsize=8)  # every copy of the environment shares one index
def _fact_retriever(lands: int, fact_seed: int) -> OverlapRetriever:
    return OverlapRetriever(fact_base(lands, fact_seed).documents)


@lru_cache(maxsize=32)
def _fact_questions(lands: int, fact_seed: int, split: str, hops: tuple[int, ...]) -> tuple[Question, ...]:
    """The split's questions with these numbers of hops, shuffled in an order that never changes."""
    asked = fact_base(lands, fact_seed).questions[split]
    questions = [question for count in hops for question in asked[count]]
    random.Random(f"facts {fact_seed} {split} order").shuffle(questions)
    return tuple(questions)


def _check(topk: int, form: str, max_turns: int, success_reward: float) -> None:
    if form not in FORMS:
        raise wrong_argument("observation_form", form, f"one of {list(FORMS)}")
    for name, value in {"topk": topk, "max_turns": max_turns}.items():
        if value < 1:
            raise wrong_argument(name, value, "at least 1")
    if not success_reward > 0:
        raise wrong_argument("success_reward", success_reward, "a positive number")


def _check_facts(lands: int, hops: Sequence[int]) -> None:
    if not MIN_LANDS <= lands <= MAX_LANDS:
        raise wrong_argument("lands", lands, f"from {MIN_LANDS} (one for each split) to {MAX_LANDS} (all names)")
    if not hops or not set(hops) <= set(HOPS) or len(set(hops)) < len(hops):
        raise wrong_argument("hops", hops, f"a list of different numbers out of {list(HOPS)}")


def _task_count(asked: int | None, questions: int) -> int:
    if asked is not None and not 1 <= asked <= questions:
        raise wrong_argument("num_tasks", asked, f"between 1 and {questions}, the number of questions")
    return asked or questions

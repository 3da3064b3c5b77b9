"""A seeded base of invented facts: documents to search, and questions over one or two of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from paw_lightning.envs.search.questions import Question

LAND = ("capital", "ruler", "river")
DETAILS = {"capital": ("mayor", "bridge"), "ruler": ("teacher", "horse"), "river": ("source", "ferry")}
"""What a land is asked for -> what the thing found there is asked for in turn."""
PERSONS = ("ruler", "mayor", "teacher")
HOPS = (1, 2)
NAME_WORDS = 64
"""First words of a name, and second words."""
NAMES_PER_LAND = 1 + len(LAND) + sum(map(len, DETAILS.values()))
MIN_LANDS, MAX_LANDS = 3, NAME_WORDS**2 // NAMES_PER_LAND
"""At least one land for each split; at most as many as there are names for."""


@dataclass(frozen=True)
class FactBase:
    """Documents of ``lands`` lands, and questions that are disjoint between splits, as are the facts they need."""

    documents: tuple[str, ...]
    """``title newline text``: one for each land, and one for each capital, ruler and river."""
    questions: dict[str, dict[int, tuple[Question, ...]]]
    """Split -> hops -> questions: 9 one-hop and 6 two-hop questions for each land."""
    names: frozenset[str]
    """Every invented name; which of them answers a question can only be known by reading the documents."""


@lru_cache(maxsize=8)  # every copy of the environment shares one base
def fact_base(lands: int, seed: int) -> FactBase:
    """Draw the base number ``seed``; a tenth of its lands is for validation and a tenth for test, the rest trains."""
    rng = random.Random(f"facts {seed}")
    names = _names(rng, lands * NAMES_PER_LAND)
    documents: list[str] = []
    free = iter(names)
    questions = [_add_land(free, documents) for _ in range(lands)]
    held_out = max(1, lands // 10)
    bounds = {
        "train": (0, lands - 2 * held_out),
        "val": (lands - 2 * held_out, lands - held_out),
        "test": (lands - held_out, lands),
    }
    splits = {
        split: {hops: _shuffled(rng, [q for land in questions[start:stop] for q in land[hops]]) for hops in HOPS}
        for split, (start, stop) in bounds.items()
    }
    return FactBase(tuple(documents), splits, frozenset(names))


def _words(place: str) -> list[str]:
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    pairs = [first + second for first in syllables for second in syllables]
    return [word.capitalize() for word in random.Random(f"names {place}").sample(pairs, NAME_WORDS)]


def _names(rng: random.Random, count: int) -> list[str]:
    """Different names of two words each. The words are few and always the same, so that a tiny policy's tokenizer has
    one token for each, while what they name differs from base to base."""
    first, second = _words("first"), _words("second")
    pairs = rng.sample(range(NAME_WORDS**2), count)
    return [f"{first[pair // NAME_WORDS]} {second[pair % NAME_WORDS]}" for pair in pairs]


def _add_land(names: Iterator[str], documents: list[str]) -> dict[int, list[Question]]:
    """Write one land's documents and return the questions about it, by hops."""
    land = next(names)
    found = {relation: next(names) for relation in LAND}
    documents.append(_document(land, found))
    asked: dict[int, list[Question]] = {1: [_question([relation], land, [name]) for relation, name in found.items()]}
    asked[2] = []
    for relation, name in found.items():
        details = {detail: next(names) for detail in DETAILS[relation]}
        documents.append(_document(name, details))
        for detail, value in details.items():
            asked[1].append(_question([detail], name, [value]))
            asked[2].append(_question([detail, relation], land, [name, value]))
    return asked


def _document(subject: str, facts: dict[str, str]) -> str:
    return f"{subject}\n" + " ".join(f"The {relation} of {subject} is {value}." for relation, value in facts.items())


def _question(relations: Sequence[str], subject: str, found: Sequence[str]) -> Question:
    """``relations`` from the outermost to the one next to ``subject``; ``found`` in the order of the searches."""
    text = f"{'Who' if relations[0] in PERSONS else 'What'} is the {' of the '.join(relations)} of {subject}?"
    searches = tuple(f"search {name}" for name in (subject, *found[:-1]))
    return Question(text, (found[-1],), (*searches, f"answer {found[-1]}"), f"{len(searches)}-hop")


def _shuffled(rng: random.Random, questions: list[Question]) -> tuple[Question, ...]:
    rng.shuffle(questions)
    return tuple(questions)

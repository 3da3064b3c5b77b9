"""The invented fact base: sizes, splits, and questions that its own retriever answers."""

import pytest

from paw_lightning.envs import SearchEnv
from paw_lightning.envs.search.facts import fact_base
from paw_lightning.envs.search.questions import normalise


def test_sizes() -> None:
    base = fact_base(20, 0)
    # a land, its capital, ruler and river: 4 documents; 1 + 3 + 6 names
    assert len(base.documents) == len(set(base.documents)) == 20 * 4
    assert len(base.names) == 20 * 10
    # a tenth of the lands, 2, is held out for each of val and test
    for split, lands in {"train": 16, "val": 2, "test": 2}.items():
        assert [len(base.questions[split][hops]) for hops in (1, 2)] == [lands * 9, lands * 6]


def test_splits_share_neither_question_nor_fact() -> None:
    """A name that is subject, step or answer in one split is none in another, so no training question gives it away."""
    base = fact_base(30, 1)
    texts, used = [], []
    for split in ("train", "val", "test"):
        questions = [q for asked in base.questions[split].values() for q in asked]
        texts.append({q.text for q in questions})
        assert len(texts[-1]) == len(questions)
        used.append({command.split(" ", 1)[1] for q in questions for command in q.plan})
        assert used[-1] <= base.names
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert not (used[0] & used[1] or used[0] & used[2] or used[1] & used[2])


def test_seeds() -> None:
    assert fact_base(5, 3).documents == fact_base.__wrapped__(5, 3).documents
    assert set(fact_base(5, 3).documents) != set(fact_base(5, 4).documents)
    fact_base.cache_clear()


def test_names_survive_normalisation() -> None:
    assert all(normalise(name) == name.lower() for name in fact_base(300, 0).names)


@pytest.mark.parametrize("topk", [1, 3])
def test_the_plan_answers_every_question(topk: int) -> None:
    """All 100 x (9 + 6) = 1,500 questions; each answer stands in the first document of the last search."""
    solved = 0
    for split in ("train", "val", "test"):
        env = SearchEnv(split, topk=topk)
        for task in range(env.num_tasks):
            env.reset(seed=task)
            *searches, answer = env.expert_plan()
            for command in searches:
                text, reward, terminated, truncated, _ = env.step(command)
                assert (reward, terminated, truncated) == (0.0, False, False)
            assert answer.removeprefix("answer ") in text.split("\n")[0]
            solved += env.step(answer)[4]["won"]
    assert solved == 1500


def test_two_hops_need_two_documents() -> None:
    env = SearchEnv(hops=[2], topk=3)
    for task in range(100):
        question, _ = env.reset(seed=task)
        first, _, answer = env.expert_plan()
        assert answer.removeprefix("answer ") not in env.step(first)[0], question

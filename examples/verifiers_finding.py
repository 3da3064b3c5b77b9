"""An environment of the package `verifiers`: find a thing in one of six places, where it always is.

`paw-lightning fit --config verifiers/base` plays it. It needs `pip install '.[verifiers]'`.
"""

from __future__ import annotations

from random import Random

import verifiers as vf
from datasets import Dataset

HOME = {
    "apple": "countertop",
    "book": "shelf",
    "cloth": "sinkbasin",
    "egg": "fridge",
    "mug": "cabinet",
    "spoon": "drawer",
}


class Finding(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        place = messages[-1].content.removeprefix("go to ").removesuffix(" 1")
        seen = next((thing for thing, home in HOME.items() if home == place), None)
        text = f"You arrive at {place} 1. On the {place} 1, you see a {seen} 1." if seen else "Nothing happens."
        answer = [vf.UserMessage(content=text)]
        if place == state["answer"]:
            state["final_env_response"] = answer  # ends the episode
        return answer


def found(completion, answer) -> float:
    """The reward of an episode: 1 if the policy went to the right place."""
    return float(any(said.role == "assistant" and said.content == f"go to {answer} 1" for said in completion))


def rows(number: int, name: str) -> Dataset:
    made = []
    for index in range(number):
        random = Random(f"{name} {index}")
        thing = random.choice(sorted(HOME))
        places = ", ".join(f"a {place} 1" for place in random.sample(sorted(HOME.values()), len(HOME)))
        made.append({"question": f"You see {places}.\nTask: find a {thing}.", "answer": HOME[thing]})
    return Dataset.from_list(made)


def load_environment(max_turns: int = 2) -> vf.Environment:
    rubric = vf.Rubric(funcs=[found])
    return Finding(dataset=rows(1000, "train"), eval_dataset=rows(200, "eval"), rubric=rubric, max_turns=max_turns)

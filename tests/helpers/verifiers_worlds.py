"""Environments of the package `verifiers`, as tests want them; `load_environment(kind=...)` makes one."""

from __future__ import annotations

import random

import verifiers as vf
from datasets import Dataset

cleaned: list[str] = []
"""Answers of the rows whose episodes were cleaned up after."""
NUMBERS = ["one", "two", "three", "four", "five", "six"]


async def look_in(place: str) -> str:
    """Look for the note.

    Args:
        place: Where.
    """
    if place == "moon":
        raise ValueError("too far")
    return "" if place == "shelf" else f"The {place} is empty."


async def enter(code: int) -> str:
    """Enter a code.

    Args:
        code: Of the safe.
    """
    return f"{code}?"


def right(completion, answer) -> float:
    return float(completion[-1].content == answer)


def called(completion) -> float:
    return float(any(said.role == "tool" and said.tool_call_id == "call_1" for said in completion))


class Safe(vf.ToolEnv):
    @vf.cleanup
    async def clean(self, state):
        cleaned.append(state["answer"])


async def tell(letter: int, secret: str) -> str:
    """Tell a letter of the secret.

    Args:
        letter: Its number.
        secret: Which the policy does not see.
    """
    return secret[letter]


class Hidden(vf.StatefulToolEnv):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.add_tool(tell, args_to_skip=["secret"])

    def update_tool_args(self, tool_name, tool_args, messages, state, **kwargs):
        return tool_args | {"secret": state["answer"]}


class Drawn(vf.MultiTurnEnv):
    """Draws when it starts and at every turn; what it is told is counted in the state."""

    async def setup_state(self, state, **kwargs):
        if state["answer"] == "two":
            raise vf.InfraError("no room")
        state["prompt"] = [*state["prompt"], vf.UserMessage(content=f"start {random.random()}")]
        state["told"] = []
        return state

    async def env_response(self, messages, state, **kwargs):
        said = messages[-1].content
        if said == "raise":
            raise vf.InfraError("gone")
        if said == "exit":
            raise SystemExit(3)
        if said == "stop":
            state["final_env_response"] = [vf.UserMessage(content="The end.")]
        state["told"].append(said)
        parts = [{"type": "text", "text": f"{len(state['told'])} {random.random()}"}]
        return [vf.UserMessage(content=[*parts, {"type": "image_url", "image_url": {"url": "x"}}])]


def load_environment(kind: str = "safe", evaluated: int = 5) -> vf.Environment:
    rows = [{"question": f"What is {number}?", "answer": number} for number in NUMBERS]
    data = {"dataset": Dataset.from_list(rows), "system_prompt": "Be brief."}
    if evaluated:
        data["eval_dataset"] = Dataset.from_list(
            [row | {"question": f"Eval {row['answer']}"} for row in rows[:evaluated]]
        )
    if kind == "untrained":
        del data["dataset"]
    rubric = vf.Rubric(funcs=[right, called, right, right], weights=[0.7, 0.5, 0.2, 0.1])
    if kind == "judged":
        rubric = vf.RubricGroup([rubric, vf.JudgeRubric(judge_client=object())])  # type: ignore[arg-type]
    if kind == "compared":
        rubric.add_reward_func(compared)
    if kind == "drawn":
        return Drawn(rubric=vf.Rubric(funcs=[turns]), **data)
    if kind == "single":
        return vf.SingleTurnEnv(rubric=vf.Rubric(funcs=[right]), **data)
    if kind == "group":
        return vf.EnvGroup([load_environment("single"), load_environment("judged")])
    if kind == "hidden":
        return Hidden(rubric=vf.Rubric(funcs=[right]), **data)
    if kind == "both":
        return vf.EnvGroup([load_environment("single"), load_environment("hidden")])
    stop_errors = [ValueError] if kind == "strict" else []
    return Safe(tools=[look_in, enter], rubric=rubric, max_turns=4, stop_errors=stop_errors, **data)


def compared(completions) -> list[float]:
    return [0.0 for _ in completions]


def turns(state) -> float:
    return float(len(state["told"]))

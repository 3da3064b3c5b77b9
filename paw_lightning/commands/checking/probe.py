"""Plays an environment without a model and checks every answer against the contract of `TextEnv`."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from paw_lightning.commands.checking.findings import Finding, failure
from paw_lightning.commands.checking.location import described
from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.rollouts.episodes import check_info, check_observation, check_state_key, named_state
from paw_lightning.text.tool_calls import Tool, sample_call


@dataclass(frozen=True)
class Answer:
    """What an environment said at one point: everything that a run sees of it."""

    observation: str
    reward: float
    ended: tuple[bool, bool]
    admissible: list[str] | None


@dataclass
class Trace:
    """One episode of a probe."""

    task_seed: int
    task: str
    start: Answer
    actions: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    max_reward: float | None = None
    tools: Sequence[Tool] = ()
    named: list[str] = field(default_factory=list)
    """The name of the first state; empty where states have no names."""
    won: bool | None = None
    """None where no step's info had the key."""

    @property
    def total(self) -> float:
        """The return."""
        return sum(answer.reward for answer in self.answers)

    @property
    def ended(self) -> bool:
        """The environment ended the episode itself."""
        return bool(self.answers) and any(self.answers[-1].ended)


class Breach(Exception):
    """The environment breaks the contract, and the probe cannot continue."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


def choose(admissible: list[str] | None, observation: str, rng: random.Random, tools: Sequence[Tool] = ()) -> str:
    """An action that needs no model: an admissible command, a call of a tool, or one to three words just seen."""
    if admissible:
        # A page of help is no turn of a typical episode, and prompts do not list it either.
        return rng.choice([command for command in admissible if command != "help"] or admissible)
    if tools:
        return str(sample_call(rng.choice(tools), rng.choice))
    words = re.findall(r"\w+", observation) or ["look"]
    start = rng.randrange(len(words))
    return " ".join(words[start : start + 3])


def play_probe(env: TextEnv, task_seed: int, steps: int, *, episode_seed: int = 0) -> Trace:
    """Play at most `steps` actions; the same seeds choose the same ones. Raises Breach."""
    rng = random.Random(f"probe {task_seed}")
    trace = begin_probe(env, task_seed, episode_seed)
    latest = trace.start
    for _ in range(steps):
        action = choose(latest.admissible, latest.observation, rng, trace.tools)
        latest = step(env, trace, action)
        if any(latest.ended):
            break
    return trace


def begin_probe(env: TextEnv, task_seed: int, episode_seed: int = 0) -> Trace:
    """Reset and check the answer. Raises Breach."""
    call = f"{type(env).__name__}.reset(seed={task_seed})"
    try:
        env.begin_reset(seed=task_seed, options={"episode_seed": episode_seed})
        answer = env.reset(seed=task_seed, options={"episode_seed": episode_seed})
    except FAILURES as error:
        raise Breach(failure("reset", f"{call} raised {described(error, type(env))}")) from error
    observation, info = _parts(call, "reset", answer, ("observation", "info"))
    admissible = _checked(call, "reset", observation, info, terminal=False)
    trace = Trace(task_seed, str(info.get("task", "")), Answer(observation, 0.0, (False, False), admissible))
    trace.tools = info.get("tools") or ()
    trace.named = named_state(info)
    trace.max_reward = None if info.get("max_reward") is None else float(info["max_reward"])
    return trace


def step(env: TextEnv, trace: Trace, action: str) -> Answer:
    """Play one action, check the answer and add both to the trace. Raises Breach."""
    call = f"{type(env).__name__}.step({action!r})"
    try:
        env.begin_step(action)
        answer = env.step(action)
    except FAILURES as error:
        raise Breach(failure("step", f"{call} raised {described(error, type(env))}")) from error
    names = ("observation", "reward", "terminated", "truncated", "info")
    observation, reward, terminated, truncated, info = _parts(call, "step", answer, names)
    for name, value in (("terminated", terminated), ("truncated", truncated)):
        if not isinstance(value, int) and type(value).__name__ not in ("bool", "bool_"):  # numpy's are no bool
            raise Breach(failure("step", f"{call} returned {name} {value!r}; wanted True or False"))
    if not isinstance(reward, Real) or reward != reward or abs(float(reward)) == float("inf"):
        raise Breach(failure("step", f"{call} returned the reward {reward!r}; wanted a finite number"))
    ended = bool(terminated), bool(truncated)
    admissible = _checked(call, "step", observation, info, terminal=any(ended), before=trace.named)
    if "won" in info:
        trace.won = bool(trace.won) or bool(info["won"])
    trace.actions.append(action)
    trace.answers.append(Answer(observation, float(reward), ended, admissible))
    return trace.answers[-1]


def _parts(call: str, name: str, answer: Any, wanted: tuple[str, ...]) -> tuple[Any, ...]:
    if isinstance(answer, tuple) and len(answer) == len(wanted):
        return answer
    got = f"a tuple of {len(answer)}" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
    raise Breach(failure(name, f"{call} returned {got}; wanted ({', '.join(wanted)})"))


def _checked(
    call: str, name: str, observation: Any, info: Any, *, terminal: bool, before: list[str] | None = None
) -> list[str] | None:
    """The admissible commands, after the checks that a rollout makes of every answer."""
    try:
        check_observation(observation, terminal)
        admissible = check_info(info)
        if before is not None:
            check_state_key(info, before)
        return admissible
    except (TypeError, ValueError) as error:
        raise Breach(failure(name, f"{call} returned {error}")) from error

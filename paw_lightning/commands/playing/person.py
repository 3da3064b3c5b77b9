"""A person plays an episode in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paw_lightning.commands.terminal import columns, painted, say
from paw_lightning.envs.base import TextEnv
from paw_lightning.text.tool_calls import Call, Tool, decoded

HELP = (
    "An action is a number from the list or any text; a text of the list is always played. Tab completes a command of "
    "the list, the arrow keys bring earlier ones back. `?` is this help and the task again; `q` or an empty line ends "
    "the episode. Where there are tools, an action is a tool's name, with its arguments in JSON where it has some."
)
Ask = Callable[[list[str]], str]
"""Returns the next line for the commands that are admissible now; raises EOFError where there is none."""


@dataclass
class Hand:
    """What the player holds: where the episode stands."""

    task: str
    admissible: list[str]
    max_return: float | None
    tools: list[Tool] = field(default_factory=list)
    turn: int = 0
    rewards: list[float] = field(default_factory=list)
    won: bool = False
    over: bool = False

    @property
    def total(self) -> float:
        """The return so far."""
        return sum(self.rewards)


def play_by_hand(env: TextEnv, task_seed: int, max_steps: int, ask: Ask) -> Hand:
    """Play one task to its end, to `max_steps` or until the player stops; returns where it ended."""
    observation, info = env.reset(seed=task_seed, options={"episode_seed": 0})
    hand = Hand(str(info.get("task", "")), _commands(info), info.get("max_reward"), list(info.get("tools") or []))
    say(f"Task: {hand.task or '(the environment states none)'}", colour="bold")
    say(f"largest attainable return (R_max): {_number(hand.max_return)}; at most {max_steps} turns; ? for help")
    _show_tools(hand)
    while not hand.over and hand.turn < max_steps:
        _show(observation, hand)
        action = _next_action(hand, ask)
        if action is None:
            break
        observation, reward, terminated, truncated, info = env.step(action)
        hand.turn += 1
        hand.rewards.append(float(reward))
        hand.won = hand.won or bool(info.get("won", False))
        hand.over = bool(terminated or truncated)
        reacted = "" if info.get("admissible_action", action in hand.admissible or not hand.admissible) else _LOST_TURN
        hand.admissible = _commands(info)
        say(f"> {action}    (turn {hand.turn}, reward {reward:g}{reacted})", colour="cyan")
    if hand.over and observation.strip():
        say(observation)
    _show_end(hand, max_steps)
    return hand


_LOST_TURN = ", not admissible"


def _commands(info: dict[str, Any]) -> list[str]:
    return list(info.get("admissible_commands") or [])


def _number(value: float | None) -> str:
    return "not stated" if value is None else f"{value:g}"


def _show(observation: str, hand: Hand) -> None:
    print()
    say(observation)
    for line in columns([f"{i:2} {command}" for i, command in enumerate(hand.admissible, start=1)]):
        print(painted(line, "dim"))


def _next_action(hand: Hand, ask: Ask) -> str | None:
    """What the player wants to do; None when nothing more."""
    while True:
        try:
            line = ask(hand.admissible).strip()
        except EOFError:
            print()
            return None
        if line in hand.admissible:
            return line
        if line in ("", "q"):
            return None
        if line == "?":
            say(HELP)
            say(f"Task: {hand.task}")
            _show_tools(hand)
        elif line.isdecimal() and hand.admissible:
            if 1 <= int(line) <= len(hand.admissible):
                return hand.admissible[int(line) - 1]
            say(f"{line} is no number of the list; wanted 1 to {len(hand.admissible)}, or a text", colour="yellow")
        else:
            return _spoken(line, hand.tools)


def _show_tools(hand: Hand) -> None:
    """A line for each tool: name, arguments, what it does."""
    for tool in hand.tools:
        function = tool["function"]
        parameters = (function.get("parameters") or {}).get("properties") or {}
        named = [name + _choices(schema) for name, schema in parameters.items()]
        say(f"{function['name']}({', '.join(named)}): {function.get('description', '')}", colour="dim")


def _choices(schema: Any) -> str:
    values = schema.get("enum") if isinstance(schema, dict) else None
    return f": {' | '.join(map(str, values))}" if values else ""


def _spoken(line: str, tools: list[Tool]) -> str:
    """A line as the environment gets it: `NAME` or `NAME {...}` of a tool is a call of it."""
    name, _, rest = line.partition(" ")
    arguments, end = decoded(rest.strip() or "{}")
    whole = end == len(rest.strip() or "{}")
    if isinstance(arguments, dict) and whole and any(tool["function"]["name"] == name for tool in tools):
        return str(Call(name, arguments))
    return line


def _show_end(hand: Hand, max_steps: int) -> None:
    """The last line: how it ended, with which return."""
    played = f"{hand.turn} turn{'s' * (hand.turn != 1)}, return {hand.total:g} of {_number(hand.max_return)}"
    if hand.won:
        say(f"won: {played}", colour="green")
    elif hand.over:
        say(f"lost: {played}", colour="red")
    elif hand.turn >= max_steps:
        say(f"cut off after {max_steps} turns (rollout.max_steps): {played}", colour="red")
    else:
        say(f"stopped: {played}")


def ask_standard_input() -> Ask:
    """Reads lines, with history and completion if somebody sits there; lines of a file are not shown twice."""
    if not sys.stdin.isatty():
        return lambda admissible: input()
    import readline

    known: list[str] = []

    def complete(text: str, state: int) -> str | None:
        matches = [command for command in known if command.startswith(text)]
        return matches[state] if state < len(matches) else None

    def ask(admissible: list[str]) -> str:
        known[:] = admissible
        return input("> ")

    readline.set_completer(complete)
    readline.set_completer_delims("")  # a command has blanks: the whole line is completed
    readline.parse_and_bind("tab: complete")
    return ask

"""What a model is told of a tool, and what a call under that is told."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

import pytest
from transformers.utils import get_json_schema

from paw_lightning import ToolEnv
from paw_lightning.envs.tool_schema import argument_fault, tool_schema
from paw_lightning.errors import SettingsError
from tests.helpers.tool_world import Safe


def every_type(a: str, b: int, c: float, d: bool, e: list[int], f: dict[str, int], g: Literal["x", "y"] = "x") -> str:
    """Do it.

    At once.

    Args:
        a: First, in
            two lines.
        b: Second.
        c: Third.
        d: Fourth.
        e: Fifth.
        f: Sixth.
        g: Seventh.

    Returns:
        Nothing.
    """
    return ""


def maybe(a: int | None = None) -> str:
    """Do it.

    Args:
        a: A number.
    """
    return ""


# Schemas


def test_a_schema_is_made_of_hints_and_docstring() -> None:
    function = tool_schema(every_type)["function"]
    described = {"a": "First, in two lines.", "b": "Second.", "g": "Seventh."}
    properties = function["parameters"]["properties"]
    assert function["description"] == "Do it. At once."
    assert {name: properties[name]["description"] for name in described} == described
    assert [properties[name]["type"] for name in "abcdefg"] == [
        *("string", "integer", "number", "boolean", "array", "object", "string")
    ]
    assert properties["e"]["items"] == {"type": "integer"} and properties["g"]["enum"] == ["x", "y"]
    assert function["parameters"]["required"] == list("abcdef"), "what has a default may be left out"


def test_a_lone_argument_may_take_two_lines_or_stand_at_the_margin() -> None:
    def act(color: str) -> str:
        raise AssertionError("is only described")

    for lines in (
        "    color: Of the button,\n        either: red or blue.",
        "color: Of the button,\n  either: red or blue.",
    ):
        act.__doc__ = f"Press.\n\nArgs:\n{lines}"
        properties = tool_schema(act)["function"]["parameters"]["properties"]
        assert properties["color"]["description"] == "Of the button, either: red or blue."


@pytest.mark.parametrize(
    "method",
    [
        "step(self, *a, **k): return super().step(*a, **k)",
        "start(self, random=None): return 'x'",
        "finish(self, *, won=True, reward=None): pass",
        "earn(self, reward=1.0): pass",
        "close(self, force=False): pass",
        "reset(self, seed=None, options=None): return super().reset(seed=seed)",
        "demonstrate(self) -> str: return ''",
    ],
)
def test_methods_of_every_environment_may_be_written_anew(method: str) -> None:
    """Whoever can be called like them is no tool of another meaning."""
    names: dict[str, Any] = {"ToolEnv": ToolEnv}
    look = "def look(self) -> str:\n        'Look.'"
    start = "def start(self, random): return 'x'"
    exec(f"class Own(ToolEnv):\n    {start}\n    {look}\n    def {method}", names)
    own = names["Own"]()
    assert [tool["function"]["name"] for tool in own.tools] == ["look"]


@pytest.mark.parametrize("heading", ["Note", "Examples", "Yields"])
def test_sections_of_a_docstring_that_nobody_knows(heading: str) -> None:
    def act(x: int) -> str:
        raise AssertionError("is only described")

    act.__doc__ = (
        f"Do it.\n\n    Args:\n        x: It,\n            whole.\n\n    {heading}:\n        Only: once.\n    "
    )
    function = tool_schema(act)["function"]
    assert (function["description"], function["parameters"]["properties"]["x"]["description"]) == (
        "Do it.",
        "It, whole.",
    )


@pytest.mark.parametrize("function", [maybe, Safe.press, Safe.read_note], ids=lambda function: function.__name__)
def test_a_schema_is_the_one_that_transformers_makes(function: Any) -> None:
    """But for what is said of the returned value, which chat templates do not write."""
    bound = getattr(Safe(), function.__name__, function)
    theirs = get_json_schema(bound)
    theirs["function"].pop("return", None)
    assert tool_schema(bound) == theirs


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ("def act(self) -> str: return ''", "act has no docstring"),
        ("def act(self, x) -> str:\n        '''Do.'''", "act has the argument x; wanted a name and a type hint"),
        ("def act(self, x: int) -> str:\n        '''Do.'''", "act does not describe its argument x"),
        (
            "def act(self, x: bytes) -> str:\n        '''Do.\n\n        Args:\n            x: It.\n        '''",
            "of the type",
        ),
        ("def act(self, *x: int) -> str:\n        '''Do.'''", "wanted a name and a type hint"),
        ("def act(self, x: int, /) -> str:\n        '''Do.'''", "wanted a name and a type hint"),
        ("async def act(self) -> str:\n        '''Do.'''", "act is an async function"),
        (
            "def act(self, x: Literal[Color.A]):\n        '''Do.\n\n        Args:\n            x: It.\n        '''",
            "of the type",
        ),
        ("_act = 1", "no public method"),
        (
            "def look(self) -> str: return ''\n    def close(self, door: str) -> str: return ''",
            "method close has other arguments, or another answer, than every environment's close has; wanted a tool",
        ),
        ("def look(self) -> str: return ''\n    def close(self) -> str: return ''", "method close has other arguments"),
        ("def look(self) -> str: return ''\n    def peek(self): return ''", "method peek has other arguments"),
    ],
)
def test_a_tool_that_cannot_be_described_is_refused(tool: str, message: str) -> None:
    names: dict[str, Any] = {"ToolEnv": ToolEnv, "Literal": Literal, "Color": Enum("Color", "A")}
    exec(f"class Bad(ToolEnv):\n    def start(self, random): return 'x'\n    {tool}", names)
    with pytest.raises(
        SettingsError, match=f"rollout.environment is Bad, (whose tools cannot be described: )?.*{message}"
    ):
        names["Bad"]().reset(seed=0)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ({"color": "red", "times": 2}, None),
        ({"color": "red"}, None),
        ({}, "the argument 'color' is missing"),
        ({"color": "green"}, "color is 'green'; it can be 'red', 'blue'"),
        ({"color": 1}, "color is 1; it has to be of type string"),
        ({"color": "red", "times": True}, "times is True; it has to be of type integer"),
        ({"color": "red", "times": 2.0}, None),
        ({"color": "red", "times": 1.5}, "times is 1.5; it has to be of type integer"),
        ({"color": "red", "why": "x"}, "there is no argument 'why', only color, times"),
    ],
)
def test_arguments_are_looked_at(arguments: dict[str, Any], fault: str | None) -> None:
    assert argument_fault(tool_schema(Safe().press)["function"]["parameters"], arguments) == fault


def test_null_where_it_may_be() -> None:
    parameters = tool_schema(maybe)["function"]["parameters"]
    assert argument_fault(parameters, {"a": None}) is None
    assert argument_fault(parameters, {"a": "x"}) == "a is 'x'; it has to be of type integer or null"
    assert argument_fault({"properties": {"a": {"anyOf": []}}}, {"a": "x"}) is None, "what nobody knows is let through"
    assert argument_fault({"properties": {"a": True}}, {"a": "x"}) is None, "JSON schema's word for any"


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], None),
        ([1, 2.0], None),
        ([1, "x"], "a[1] is 'x'; it has to be of type integer"),
        ([True], "a[0] is True; it has to be of type integer"),
    ],
)
def test_what_stands_in_a_list_is_looked_at(value: list[Any], fault: str | None) -> None:
    parameters = {"properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    assert argument_fault(parameters, {"a": value}) == fault
    chosen = {"properties": {"a": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}}}}
    assert argument_fault(chosen, {"a": ["y", "z"]}) == "a[1] is 'z'; it can be 'x', 'y'"


@pytest.mark.parametrize(
    ("more", "let_through"), [(True, True), ({}, True), ({"type": "string"}, True), (False, False)]
)
def test_arguments_of_any_name_where_the_schema_has_them(more: Any, let_through: bool) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": more}
    assert (argument_fault(parameters, {"b": "x"}) is None) is let_through
    assert argument_fault(parameters, {"a": 1}) == "a is 1; it has to be of type string"

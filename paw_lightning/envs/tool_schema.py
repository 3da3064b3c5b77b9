"""What a model is told of a tool: a JSON schema made of a function's type hints and docstring, and calls under it."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from paw_lightning.text.tool_calls import Call, Tool

EMPTY = "(no text)"
"""What a tool says that says nothing: an observation in mid-episode needs a text."""
PLAIN: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def tool_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """A function as chat templates know a tool.

    The description is the docstring up to ``Args:``; what stands there of an argument is the argument's. The types are
    str, int, float, bool, list, dict, ``list[...]``, ``Literal[...]`` and ``... | None``.

    Raises:
        TypeError: no docstring, no type hint, a type that is none of these, an argument without a line or a name, or a
            function that has to be awaited.

    Example:
        ``def press(color: Literal["red", "blue"]) -> str`` with the docstring ``Press a button.`` and, under ``Args:``,
        ``color: Of the button.`` has the parameters ``{"type": "object", "properties": {"color": {"type": "string",
        "enum": ["red", "blue"], "description": "Of the button."}}, "required": ["color"]}``.
    """
    name = function.__name__
    if inspect.iscoroutinefunction(function):
        raise TypeError(f"{name} is an async function; wanted one that answers when it is called")
    described, arguments = _docstring(name, inspect.getdoc(function))
    hints = get_type_hints(function)
    properties, required = {}, []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in hints or parameter.kind not in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        ):
            raise TypeError(f"{name} has the argument {parameter}; wanted a name and a type hint")
        if parameter.name not in arguments:
            raise TypeError(f"{name} does not describe its argument {parameter.name}; wanted a line under `Args:`")
        properties[parameter.name] = {
            **_type_schema(name, hints[parameter.name]),
            "description": arguments[parameter.name],
        }
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": described,
            "parameters": parameters | ({"required": required} if required else {}),
        },
    }


def _docstring(name: str, text: str | None) -> tuple[str, dict[str, str]]:
    """The description, and what is said of each argument."""
    if not text:
        raise TypeError(f"{name} has no docstring; wanted one, which tells the model what it does")
    parts = re.split(r"^(\w[\w ]*):[ \t]*$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    found: dict[str, str] = {}
    for line in inspect.cleandoc(sections.get("Args", "")).splitlines():
        match = re.match(r"(\w+)(?: \(.*\))?: *(.*)", line)
        if match:
            last = match[1]
            found[last] = match[2]
        elif found and line.strip():
            found[last] = f"{found[last]} {line.strip()}"
    description, *_ = re.split(r"^(?:Args|Returns|Raises|Example):$", text, flags=re.MULTILINE)
    return " ".join(description.split()), found


def _type_schema(name: str, hint: Any) -> dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if hint in PLAIN:
        return {"type": PLAIN[hint]}
    if origin is Literal and len({type(value) for value in inner}) == 1 and type(inner[0]) in PLAIN:
        return {"type": PLAIN[type(inner[0])], "enum": list(inner)}
    if origin in (Union, types.UnionType) and type(None) in inner and len(inner) == 2:
        [other] = [part for part in inner if part is not type(None)]
        return {**_type_schema(name, other), "nullable": True}
    if origin is list and inner:
        return {"type": "array", "items": _type_schema(name, inner[0])}
    if origin is dict:
        return {"type": "object"}
    raise TypeError(
        f"{name} has an argument of the type {hint}; wanted str, int, float, bool, list, dict, a Literal or one of "
        "them | None"
    )


def read_call(action: str, tools: Iterable[Tool]) -> Call | str:
    """The call of one of these tools, or in words for the policy what is wrong with it.

    Where a schema asks for an integer the call has Python's: JSON's 2.0 is one, and a function that says `int` gets 2.
    """
    call, functions = Call.read(action), {tool["function"]["name"]: tool["function"] for tool in tools}
    if call is None:
        return "this is not one tool call in the form that was asked for"
    if call.name not in functions:
        return f"there is no tool {call.name!r}, only {', '.join(functions)}"
    parameters = functions[call.name].get("parameters") or {}
    if fault := argument_fault(parameters, call.arguments):
        return fault
    known = parameters.get("properties") or {}
    return Call(call.name, {name: _with_integers(value, known.get(name)) for name, value in call.arguments.items()})


def argument_fault(parameters: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """What is wrong with a call's arguments under a JSON schema, in words for the policy; None where nothing is.

    Names, required ones, types and choices are looked at, those within a list too, and not what stands within an
    object. A name that the schema does not hold is a fault unless it says `additionalProperties`.
    """
    known = parameters.get("properties") or {}
    if missing := [name for name in parameters.get("required") or [] if name not in arguments]:
        return f"the argument {missing[0]!r} is missing"
    for name, value in arguments.items():
        if name not in known:
            if parameters.get("additionalProperties", False) is not False:
                continue
            return f"there is no argument {name!r}, only {', '.join(known) or 'none at all'}"
        if fault := _fault(name, value, known[name]):
            return fault
    return None


def _fault(name: str, value: Any, schema: Any) -> str | None:
    """What is wrong with one value; a schema that is `true` lets any through."""
    if not isinstance(schema, dict):
        return None
    kinds, choices = _kinds(schema), schema.get("enum")
    if kinds and not any(_is_of(value, kind) for kind in kinds):
        return f"{name} is {value!r}; it has to be of type {' or '.join(kinds)}"
    if choices and value is not None and value not in choices:
        return f"{name} is {value!r}; it can be {', '.join(map(repr, choices))}"
    if isinstance(value, list):
        faults = (_fault(f"{name}[{k}]", item, schema.get("items")) for k, item in enumerate(value))
        return next(filter(None, faults), None)
    return None


def _kinds(schema: dict[str, Any]) -> list[str]:
    """The types that a schema names; none where it names none."""
    kinds = schema.get("type") or []
    return [*([kinds] if isinstance(kinds, str) else kinds), *(["null"] if schema.get("nullable") else [])]


def _is_of(value: Any, kind: str) -> bool:
    """Whether a value is of a type of JSON.

    True and false are no numbers, 2.0 is an integer, and an unknown type is any.
    """
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    whole = kind == "integer" and isinstance(value, float) and value.is_integer()
    return whole or isinstance(value, TYPES.get(kind, (object,)))


def _with_integers(value: Any, schema: Any) -> Any:
    """A value with int where its schema asks for integers, those of a list too."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, list):
        return [_with_integers(item, schema.get("items")) for item in value]
    kinds = _kinds(schema)
    whole = isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds
    return int(value) if whole else value

"""Tool calls: how a chat template writes them, and the action format that reads them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, ClassVar

from paw_lightning.text.action_format import ActionFormat, ParsedAction
from paw_lightning.text.encoding import valid_text

NAME, KEY, VALUE = "\ue003", "\ue004", "\ue005"
"""Private-use characters that stand for a call's name, an argument's and its value: they are found in a rendering."""
SEPARATORS = ((", ", ": "), (",", ":"))
"""What templates write between arguments, and between a name and its value."""
Tool = Mapping[str, Any]
"""A tool as chat templates know it: ``{"type": "function", "function": {"name", "description", "parameters"}}``."""
THOUGHT, THOUGHT_END = "<think>", "</think>"
DEEPEST = 32
"""Objects and lists within each other."""


def arguments_text(arguments: Mapping[str, Any], separators: tuple[str, str]) -> str:
    """A call's arguments as JSON."""
    return json.dumps(dict(arguments), ensure_ascii=False, separators=separators)


def decoded(text: str, start: int = 0) -> tuple[Any, int]:
    """The value that a text has in JSON from `start` on, and where it ends; None where it is not JSON.

    NaN and infinity are no JSON, nor is what is nested deeper than DEEPEST: a policy may write ever more brackets. A
    name that stands twice in an object is refused too, as readers of JSON differ in which of the two counts.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None, start
    return (value, end) if _depth_within(value, DEEPEST) else (None, start)


def _depth_within(value: Any, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return depth > 0 and all(_depth_within(item, depth - 1) for item in inner)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is no JSON")
    return value


def _whole(number: str) -> int:
    _finite(number)  # so that a tool that asks for a float can have one
    return int(number)


def _single(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


_DECODER = json.JSONDecoder(parse_constant=_finite, parse_float=_finite, parse_int=_whole, object_pairs_hook=_single)


@dataclass(frozen=True)
class Call:
    """A call of a tool: its name, and its arguments by name."""

    name: str
    arguments: dict[str, Any]

    @classmethod
    def read(cls, text: str) -> Call | None:
        """The call that an environment gets as text; None where the policy wrote none that can be read."""
        found, end = decoded(text)
        if text[end:].strip():
            return None
        if not isinstance(found, dict) or found.keys() != {"name", "arguments"}:
            return None
        name, arguments = found["name"], found["arguments"]
        return cls(name, arguments) if isinstance(name, str) and isinstance(arguments, dict) else None

    def __str__(self) -> str:
        return json.dumps({"name": self.name, "arguments": self.arguments}, ensure_ascii=False)


SAMPLES = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}, "null": None}


def sample_call(tool: Tool, choose: Callable[[Sequence[Any]], Any] = lambda choices: choices[0]) -> Call:
    """A call of a tool with made-up arguments: a value that each may have (`choose` names it), or one of its type."""
    function = tool["function"]
    parameters = (function.get("parameters") or {}).get("properties") or {}
    return Call(function["name"], {name: _sample(schema, choose) for name, schema in parameters.items()})


def _sample(schema: Any, choose: Callable[[Sequence[Any]], Any]) -> Any:
    if not isinstance(schema, dict):
        return "x"
    if choices := schema.get("enum"):
        return choose(choices)
    kind = schema.get("type", "string")
    return SAMPLES.get(kind[0] if isinstance(kind, list) else kind, "x")


@dataclass(frozen=True)
class CallSyntax:
    """How a chat template writes a call: an object in JSON, with something before and behind it."""

    before: str
    after: str
    written: str
    """The object as the template wrote it, of a call NAME with arguments {KEY: VALUE}."""
    name_key: str
    arguments_key: str
    separators: tuple[str, str] = SEPARATORS[0]
    """What the template writes between arguments, and between a name and its value."""

    def write(self, call: Call) -> str:
        """A call as a policy that has learnt the template writes it."""
        name, sample = json.dumps(NAME, ensure_ascii=False), arguments_text({KEY: VALUE}, self.separators)
        head, _, tail = self.written.partition(sample)
        name_written = json.dumps(call.name, ensure_ascii=False)
        head, tail = head.replace(name, name_written), tail.replace(name, name_written)
        return f"{self.before}{head}{arguments_text(call.arguments, self.separators)}{tail}{self.after}"

    def read(self, text: str) -> Call | None:
        """The one call of an answer, which is the end of it; None where it is in another form, or one of several.

        Before it there may be a thought, which has to end with ``</think>``: a call within it is a draft. A
        ``</think>`` that a call writes, of an answer that opens no thought before it, ends none.
        """
        rest = self._from_call(text)
        told, end = decoded(rest)
        if rest[end:].strip() != self.after.strip() or not isinstance(told, dict):
            return None
        name, arguments = told.get(self.name_key), told.get(self.arguments_key)
        if not (isinstance(name, str) and name and isinstance(arguments, dict)):
            return None
        if told.keys() - json.loads(self.written).keys():
            return None
        return Call(name, arguments)

    def runs_on(self, text: str) -> bool:
        """Whether text follows a call that is over."""
        rest = self._from_call(text)
        told, end = decoded(rest)
        return told is not None and bool(rest[end:].strip().removeprefix(self.after.strip()).strip())

    def _from_call(self, text: str) -> str:
        """An answer behind the mark of its first call; empty where it has none."""
        _, thought, rest = text.partition(THOUGHT_END)
        said = rest if thought and not self._call_holds_thought_end(text) else text
        mark = self._mark(said)
        if mark is None or _thinks(said[: mark.start()]):
            return ""
        return said[mark.end() :].strip()

    def _call_holds_thought_end(self, text: str) -> bool:
        """The first ``</think>`` is written by a call, in a name or a string, and no thought was opened before it."""
        mark = self._mark(text)
        if mark is None or THOUGHT in text[: mark.start()]:
            return False
        start = len(text) - len(text[mark.end() :].lstrip())
        told, end = decoded(text, start)
        return isinstance(told, dict) and start < text.find(THOUGHT_END) < end

    def _mark(self, text: str) -> re.Match[str] | None:
        """What the template writes before a call, whatever white space is in it."""
        own = self.before.rpartition(THOUGHT_END)[2]  # some templates write an empty thought before every call
        return re.search(r"\s*".join(map(re.escape, own.split())), text)


def calls_or_quotes(action: str) -> bool:
    """Whether an environment was sent a call, or in quotes what it would have taken for one."""
    found, _ = decoded(action)
    return Call.read(found if isinstance(found, str) else action) is not None


def _refused(text: str) -> ParsedAction:
    """An answer without one call, as the environment gets it."""
    said = text.strip()
    return ParsedAction(json.dumps(said, ensure_ascii=False) if Call.read(said) else said, False)


def _thinks(text: str) -> bool:
    """Whether the last thought that a text opens is not over."""
    return text.rfind(THOUGHT) > text.rfind(THOUGHT_END)


@dataclass(frozen=True)
class ToolDialogue:
    """What a chat template makes of calls and of the messages that answer them."""

    syntax: CallSyntax
    after: str
    """Between a tool's answer and the next action."""
    trims: tuple[str, str]
    """White space that is taken from a tool's answer."""
    quoted: bool
    """A tool's answer is written as JSON writes a string, as Llama's templates do."""

    def written(self, text: str, spans: list[tuple[int, int]]) -> tuple[str, list[tuple[int, int]]]:
        """A tool's answer as the model reads it, and where spans of its characters are then."""
        if not self.quoted:
            return text, spans
        pieces = [json.dumps(letter, ensure_ascii=False)[1:-1] for letter in text]
        places = [*accumulate(map(len, pieces), initial=0)]
        last = len(text)
        return "".join(pieces), [(places[min(a, last)], places[min(b, last)]) for a, b in spans]


@dataclass(frozen=True)
class ToolCall(ActionFormat):
    """One tool call, as the model's chat template writes it; the environment gets its name and arguments as JSON.

    Ill-formed are an answer without a call, JSON that cannot be read, and several calls in one answer, which are all
    refused (choice: one observation answers one action). The environment gets such an answer as it is, or in the quotes
    of JSON where it would read like a call in the environment's own form, and says what it says to no call.

    Example:
        Under Qwen2.5's template ``<tool_call>{"name": "press", "arguments": {"color": "red"}}</tool_call>``, with or
        without line breaks, is the action ``{"name": "press", "arguments": {"color": "red"}}``.
    """

    calls_tools: ClassVar[bool] = True
    syntax: CallSyntax | None = None

    def of(self, chat: Any) -> ToolCall:
        return self if chat.scaffold.tools is None else ToolCall(chat.scaffold.tools.syntax)

    def parse(self, text: str) -> ParsedAction:
        """The call in JSON, or the whole text."""
        call = self._syntax.read(text)
        return _refused(text) if call is None else ParsedAction(valid_text(str(call)), True)

    def read(self, text: str, opened: str = "") -> ParsedAction:
        """:meth:`parse`; a thought that the prompt has opened has to end before the call."""
        if not _thinks(opened):
            return super().read(text, opened)
        whole = self.parse(opened + text)
        return whole if whole.well_formed else _refused(text)

    def answer(self, command: str, opened: str = "") -> str:
        """A call, behind the end of a thought that the prompt has opened."""
        text = super().answer(command, opened)
        return f"{THOUGHT_END}\n\n{text}" if _thinks(opened) and not self.read(text, opened).well_formed else text

    def write(self, command: str) -> str:
        """A call as the environment gets it (or names it in `demonstrate`), in the template's form."""
        call = Call.read(command)
        if call is None:
            raise ValueError(f"{command!r} is no tool call; wanted JSON with a name and arguments")
        return self._syntax.write(call)

    def runs_on(self, text: str) -> bool:
        """After the call."""
        return self._syntax.runs_on(text)

    @property
    def _syntax(self) -> CallSyntax:
        assert self.syntax is not None, "`of` a chat format that knows tools comes first"
        return self.syntax

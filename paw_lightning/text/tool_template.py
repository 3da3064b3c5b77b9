"""What a chat template writes around tool calls and their answers, found by rendering a short dialogue."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from paw_lightning.errors import SettingsError
from paw_lightning.text.template import SENTINELS, Message, Scaffold, blanks_taken, once, refusal, rendered
from paw_lightning.text.tool_calls import (
    KEY,
    NAME,
    SEPARATORS,
    VALUE,
    CallSyntax,
    Tool,
    ToolDialogue,
    arguments_text,
    decoded,
)

IDENTIFIER = "call00000"
"""Of a call: nine letters and digits, as Mistral's templates want them."""
WANTED = "rollout.prompt.action_format: tool_call wanted"


def called(name: str, arguments: Mapping[str, Any]) -> Message:
    """An answer that calls a tool."""
    function = {"name": name, "arguments": dict(arguments)}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": IDENTIFIER, "function": function}],
    }


def answered(name: str, text: str) -> Message:
    """A tool's answer."""
    return {"role": "tool", "name": name, "tool_call_id": IDENTIFIER, "content": text}


def tool_scaffold(tokenizer: Any, tools: Sequence[Tool], end: str) -> Scaffold:
    """Render a call and its answer by the tokenizer's chat template, which is told of the tools.

    Args:
        tokenizer: of Transformers.
        tools: all that may be called.
        end: the token with which the template ends an answer.

    Raises:
        SettingsError: the template knows no tools, writes calls otherwise than in JSON, or changes what a tool says.
    """
    if tokenizer.chat_template is None:
        raise refusal(tokenizer, f"has no chat template; {WANTED} one that writes tools (model.chat_template)")
    sample = _Sample(tokenizer, tools)
    before, after = sample.prompt()
    written, turn_after = sample.call_and_answer()
    start, stop = _call_object(tokenizer, written)
    shared = _shared(after, written[:start], sample.before_answer())
    behind, found, bridge = written[stop:].partition(end)
    if not found:
        raise refusal(
            tokenizer,
            f"writes {written[stop:]!r} behind a tool call by its chat template; {WANTED} {end!r} in it, which ends an "
            "answer",
        )
    quoted = sample.is_quoted()
    return Scaffold(
        before,
        after,
        bridge=end + bridge,
        ending=end,
        opened=after[shared:],
        trims=sample.trims(lambda text: ({"role": "user", "content": text},)),
        tools=ToolDialogue(
            _syntax(tokenizer, written[shared:start], written[start:stop], behind),
            turn_after,
            ("", "") if quoted else sample.trims(lambda text: sample.dialogue(text, question="x")),
            quoted,
        ),
    )


@dataclass(frozen=True)
class _Sample:
    """A short dialogue with a call, as the chat template writes it."""

    tokenizer: Any
    tools: Sequence[Tool]

    def render(self, *messages: Message) -> str:
        return rendered(self.tokenizer, messages, prompt=True, tools=self.tools)

    def dialogue(self, answer: str, question: str = SENTINELS[0]) -> tuple[Message, ...]:
        """A question, a call of NAME with {KEY: VALUE}, and the tool's answer."""
        return {"role": "user", "content": question}, called(NAME, {KEY: VALUE}), answered(NAME, answer)

    def prompt(self) -> tuple[str, str]:
        """What is before and behind the first message; it has to name the tools."""
        question = SENTINELS[0]
        before, after = once(self.tokenizer, self.render({"role": "user", "content": question}), question)
        if not all(_name(tool) in before + after for tool in self.tools):
            raise refusal(
                self.tokenizer,
                f"leaves out the tools that its chat template is told of; {WANTED} a template that writes them "
                "(model.chat_template: tools)",
            )
        return before, after

    def call_and_answer(self) -> tuple[str, str]:
        """What is between the question and the tool's answer, the call among it, and what is behind the answer."""
        question, _, reply = SENTINELS
        head, turn_after = once(self.tokenizer, self.render(*self.dialogue(reply)), reply)
        return once(self.tokenizer, head, question)[1], turn_after

    def before_answer(self) -> str:
        """What is between the question and an answer in words, which ends it with no letter of a tag's."""
        question, answer, reply = SENTINELS
        texts = [("user", question), ("assistant", answer), ("user", reply)]
        text = self.render(*({"role": role, "content": content} for role, content in texts))
        return once(self.tokenizer, once(self.tokenizer, text, question)[1], answer)[0]

    def is_quoted(self) -> bool:
        """Whether a tool's answer is written as a string of JSON, and not as it is."""
        _, answer, reply = SENTINELS
        text = self.render(*self.dialogue(f'{answer}"\n{reply}'))
        between = once(self.tokenizer, once(self.tokenizer, text, answer)[1], reply)[0]
        if between not in ('"\n', '\\"\\n'):
            raise refusal(
                self.tokenizer,
                f"writes a quotation mark and a line break within a tool's answer as {between!r} by its chat template; "
                f"{WANTED} the text as it is, or as a string of JSON",
            )
        return between != '"\n'

    def trims(self, messages: Callable[[str], tuple[Message, ...]]) -> tuple[str, str]:
        """White space that is taken from the text of the last of some messages."""
        reply = SENTINELS[2]

        def told(text: str) -> str:
            return self.render(*messages(text))

        return blanks_taken(self.tokenizer, told, *once(self.tokenizer, told(reply), reply))


def _shared(*texts: str) -> int:
    """Letters that all of them begin with.

    Two are not enough: a prompt that ends with ``<think>`` and a call that begins with ``<tool_call>`` share ``<t``.
    """
    return sum(1 for _ in takewhile(lambda letters: len({*letters}) == 1, zip(*texts, strict=False)))


def _name(tool: Tool) -> str:
    try:
        return str(tool["function"]["name"])
    except (KeyError, TypeError) as error:
        raise SettingsError(
            f"rollout.environment names the tool {tool!r}; wanted {{'type': 'function', 'function': {{'name': ..., "
            "'description': ..., 'parameters': ...}}"
        ) from error


def _call_object(tokenizer: Any, written: str) -> tuple[int, int]:
    """Where the JSON object of the sample call begins and ends: the innermost one that holds name and arguments."""
    start = written.rfind("{", 0, written.find(NAME) + 1)
    while start >= 0:
        told, stop = decoded(written, start)
        if isinstance(told, dict) and NAME in told.values() and {KEY: VALUE} in told.values():
            return start, stop
        start = written.rfind("{", 0, start)
    raise refusal(
        tokenizer,
        f"writes a tool call as {written!r} by its chat template; {WANTED} an object in JSON with a name and arguments",
    )


def _syntax(tokenizer: Any, before: str, written: str, after: str) -> CallSyntax:
    """How the sample call is written, to the blanks between its arguments."""
    keys = {json.dumps(value): key for key, value in json.loads(written).items()}
    for separators in SEPARATORS:
        if arguments_text({KEY: VALUE}, separators) in written:
            name, arguments = keys[json.dumps(NAME)], keys[json.dumps({KEY: VALUE})]
            return CallSyntax(before, after, written, name, arguments, separators)
    raise refusal(
        tokenizer, f"writes a call's arguments as {written!r} by its chat template; {WANTED} them on one line of JSON"
    )

"""What a chat template writes around tool calls and their answers, found by rendering a short dialogue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    question, answer, reply = SENTINELS
    user: Message = {"role": "user", "content": question}
    call = called(NAME, {KEY: VALUE})

    def render(*messages: Message) -> str:
        return rendered(tokenizer, messages, prompt=True, tools=tools)

    # The prompt, which has to name the tools
    before, after = once(tokenizer, render(user), question)
    if not all(_name(tool) in before + after for tool in tools):
        raise refusal(
            tokenizer,
            f"leaves out the tools that its chat template is told of; {WANTED} a template that writes them "
            "(model.chat_template)",
        )
    # A call, and what follows it
    head, turn_after = once(tokenizer, render(user, call, answered(NAME, reply)), reply)
    written = once(tokenizer, head, question)[1]
    start, stop = _call_object(tokenizer, written)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(after, written[:start], strict=False)))
    behind, found, bridge = written[stop:].partition(end)
    if not found:
        raise refusal(
            tokenizer,
            f"writes {written[stop:]!r} behind a tool call by its chat template; {WANTED} {end!r} in it, which ends an "
            "answer",
        )
    # A tool's answer: as it is, or as a string of JSON
    text = render(user, call, answered(NAME, f'{answer}"\n{reply}'))
    between = once(tokenizer, once(tokenizer, text, answer)[1], reply)[0]
    if between not in ('"\n', '\\"\\n'):
        raise refusal(
            tokenizer,
            f"writes a quotation mark and a line break within a tool's answer as {between!r} by its chat template; "
            f"{WANTED} the text as it is, or as a string of JSON",
        )
    quoted = between != '"\n'

    def trims(*earlier: Message, role: str) -> tuple[str, str]:
        """White space that is taken from the last of some messages, the earlier of which hold no sentinel."""

        def told(text: str) -> str:
            return render(*earlier, {**answered(NAME, text), "role": role})

        return blanks_taken(tokenizer, told, *once(tokenizer, told(reply), reply))

    return Scaffold(
        before,
        after,
        bridge=end + bridge,
        ending=end,
        opened=after[shared:],
        trims=trims(role="user"),
        tools=ToolDialogue(
            _syntax(tokenizer, written[shared:start], written[start:stop], behind),
            turn_after,
            ("", "") if quoted else trims({"role": "user", "content": "x"}, call, role="tool"),
            quoted,
        ),
    )


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

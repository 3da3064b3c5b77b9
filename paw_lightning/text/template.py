"""What a chat template writes around the texts of a dialogue, found by rendering it once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from paw_lightning.errors import SettingsError
from paw_lightning.text.tool_calls import ToolDialogue

SENTINELS = ("\ue000", "\ue001", "\ue002")  # private-use characters: they split a rendered chat template
BLANKS = " \n\t"
DAY = {
    **{"%Y": "2024", "%y": "24", "%m": "07", "%B": "July", "%b": "Jul", "%h": "Jul", "%d": "26", "%e": "26"},
    **{"%-d": "26", "%-m": "7", "%j": "208", "%A": "Friday", "%a": "Fri", "%F": "2024-07-26", "%D": "07/26/24"},
    **{"%H": "12", "%-H": "12", "%I": "12", "%-I": "12", "%p": "PM", "%M": "00", "%S": "00", "%T": "12:00:00"},
    **{"%x": "07/26/24", "%X": "12:00:00", "%c": "Fri Jul 26 12:00:00 2024", "%Z": "", "%z": "", "%f": "000000"},
}
"""What `strftime` makes of its directives at noon of the day that Llama's templates fall back to."""
FROZEN = "{% macro strftime_now(format) %}{{ format"


def freeze_date(template: str) -> str:
    """The template with one day for ever in place of today's; without a call of `strftime_now` it is left alone.

    A policy that is told the date would read another prompt on every day that it is trained, resumed or served.
    choice: the day is the same for all runs, so that a configuration and its seed give the same run on any day.
    """
    if "strftime_now" not in template or template.startswith(FROZEN):
        return template
    replaced = "".join(f".replace('{directive}', '{value}')" for directive, value in DAY.items())
    # The line break is no text: Transformers and servers drop the first one behind a block.
    return FROZEN + replaced + " }}{% endmacro %}\n" + template


@dataclass(frozen=True)
class Scaffold:
    """The text that a chat template puts around the messages of a dialogue."""

    before: str
    """Before the first message."""
    after: str
    """Between a message and the answer, as a prompt ends."""
    bridge: str
    """Between an answer and the next message."""
    ending: str = ""
    """Behind an answer that is the last message."""
    opened: str = ""
    """The end of `after` that counts as written by the policy: the template writes an answer without it."""
    heading: str = ""
    """What the template puts between `after` and an earlier answer, as a part of what was answered."""
    trims: tuple[str, str] = ("", "")
    """White space that is taken from a message's start and from its end."""
    tools: ToolDialogue | None = None
    """Where actions are tool calls: how the template writes them, and what is around their answers."""

    @property
    def turn_after(self) -> str:
        """Between a later message, the environment's answer, and the next action."""
        return self.after if self.tools is None else self.tools.after

    @property
    def turn_trims(self) -> tuple[str, str]:
        """White space that is taken from a later message."""
        return self.trims if self.tools is None else self.tools.trims

    @classmethod
    def of(cls, tokenizer: Any) -> Scaffold:
        """Render the tokenizer's chat template; a base model without one has a line per turn.

        Raises:
            SettingsError: it cannot be rendered, or does not write each message once and as it is.
        """
        if tokenizer.chat_template is None:
            return cls("", "\n", f"{tokenizer.eos_token}\n", tokenizer.eos_token)
        question, answer, reply = SENTINELS
        user, assistant = {"role": "user", "content": question}, {"role": "assistant", "content": answer}

        def render(*messages: Message, prompt: bool = False) -> str:
            return rendered(tokenizer, messages, prompt=prompt)

        before, after = once(tokenizer, render(user, prompt=True), question)
        head, tail = once(tokenizer, render(user, assistant, {"role": "user", "content": reply}), answer)
        written = once(tokenizer, head, question)[1]
        try:
            ending = once(tokenizer, render(user, assistant), answer)[1]
        except SettingsError:  # no dialogue may end with an answer
            ending = ""
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(after, written, strict=False)))
        return cls(
            before,
            after,
            bridge=once(tokenizer, tail, reply)[0],
            ending=ending,
            opened=after[shared:],
            heading=written[shared:],
            trims=blanks_taken(
                tokenizer, lambda text: render({"role": "user", "content": text}, prompt=True), before, after
            ),
        )

    def trim(self, text: str) -> str:
        """The first message's text as the template writes it."""
        return trimmed(text, self.trims)


def trimmed(text: str, trims: tuple[str, str]) -> str:
    """A text without the white space that a template takes from its two ends."""
    left, right = trims
    text = text.lstrip(left) if left else text
    return text.rstrip(right) if right else text


Message = Mapping[str, Any]


def rendered(
    tokenizer: Any, messages: Sequence[Message], *, prompt: bool = False, tools: Sequence[Any] | None = None
) -> str:
    """What the tokenizer's chat template writes; `prompt`: up to where the next answer begins."""
    told: dict[str, Any] = {"tools": list(tools)} if tools else {}
    try:
        return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt, **told)
    except Exception as error:  # whatever a template may run into
        said = str(error).partition("\n")[0]
        dialogue = "a dialogue with tool calls" if tools else "a dialogue"
        raise refusal(tokenizer, f"has a chat template that cannot write {dialogue}: {said}") from error


def once(tokenizer: Any, text: str, sentinel: str) -> tuple[str, str]:
    """What stands before and behind a message that has to be written once."""
    parts = text.split(sentinel)
    if len(parts) != 2:
        raise refusal(tokenizer, f"writes a message {len(parts) - 1} times by its chat template; wanted once")
    return parts[0], parts[1]


def blanks_taken(tokenizer: Any, render: Callable[[str], str], before: str, after: str) -> tuple[str, str]:
    """Which white space the template takes from a message's start and end."""
    question, _, reply = SENTINELS
    left = right = ""
    for blank in BLANKS:
        text = render(f"{blank * 2}{question} \n\n {reply}{blank * 2}")
        start, end = text.find(question), text.rfind(reply) + 1
        kept = text[len(before) : start], text[end : len(text) - len(after)]
        if text[start:end] != f"{question} \n\n {reply}" or not {*kept} <= {"", blank * 2}:
            raise refusal(
                tokenizer, "rewrites the text of a message by its chat template; wanted it as it is, its ends trimmed"
            )
        left, right = left + (blank if not kept[0] else ""), right + (blank if not kept[1] else "")
    every = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008"
    every += "\u2009\u200a\u2028\u2029\u202f\u205f\u3000"  # what str.strip takes
    return every if left == BLANKS else left, every if right == BLANKS else right


def refusal(tokenizer: Any, fault: str) -> SettingsError:
    """What is wrong with the tokenizer of a model."""
    return SettingsError(f"model.path is {tokenizer.name_or_path!r}, whose tokenizer {fault}")

"""Prompts, action parsing, and the boundary between an environment's text and control tokens."""

from __future__ import annotations

import pickle
from copy import deepcopy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken

from paw_lightning.text.actions import ParsedAction, action_format, parse_action
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.encoding import SHORT, Part, TextEncoder
from paw_lightning.text.prompts import Prompt, PromptBuilder, PromptTooLongError, Turn
from tests.conftest import byte_tokenizer

TOKENIZER = byte_tokenizer()
CHAT = ChatFormat(TOKENIZER)
CONTROL = {TOKENIZER.convert_tokens_to_ids(token) for token in ("<|pad|>", "<|start|>", "<|end|>")}


def decode(ids: list[int]) -> str:
    return TOKENIZER.decode(ids)


def test_prompt_reads_as_its_template() -> None:
    prompt = Prompt(
        template="{initial_observation}|{history}{observation}|{task}", history_turn="{observation}>{action};"
    )
    builder = PromptBuilder(prompt, CHAT)
    turns = [Turn("o0", "a0"), Turn("o1", "a1"), Turn("o2", "a2")]
    ids = builder.build("the goal", "o3", turns, "o0", [])
    # history_length 2: the last two turns are shown
    assert decode(ids) == "<|start|>user\no0|o1>a1;o2>a2;o3|the goal<|end|>\n<|start|>assistant\n"


def test_step_numbers_count_from_one() -> None:
    prompt = Prompt(template="{step}: {history}", history_turn="{step}.{action} ", history_length=1)
    ids = PromptBuilder(prompt, CHAT).build("t", "o", [Turn("x", "a"), Turn("y", "b")], "x", [])
    # two turns were played: this is step 3, and the one shown is step 2
    assert "3: 2.b " in decode(ids)


def test_admissible_commands_are_listed_as_asked() -> None:
    commands = ["go", "help", "look"]
    prompt = Prompt(first_template="{admissible_commands}", unlisted_commands=("help",))
    ids = PromptBuilder(prompt, CHAT).build("t", "o", [], "o", commands)
    assert "'go'\n'look'<|end|>" in decode(ids)
    prompt = Prompt(first_template="{admissible_commands}", command_template="- {command}")
    assert "- go\n- help\n- look<|end|>" in decode(PromptBuilder(prompt, CHAT).build("t", "o", [], "o", commands))


def test_history_is_dropped_oldest_first_until_the_prompt_fits() -> None:
    turns = [Turn("first " * 5, "a"), Turn("second", "b")]
    long = PromptBuilder(Prompt(template="{history}{observation}"), CHAT).build("t", "now", turns, "i", [])
    short = PromptBuilder(Prompt(template="{history}{observation}", max_tokens=len(long) - 1), CHAT)
    text = decode(short.build("t", "now", turns, "i", []))
    assert "second" in text and "first" not in text


def test_prompt_that_cannot_fit_is_an_error_that_names_the_key() -> None:
    builder = PromptBuilder(Prompt(max_tokens=20), CHAT)
    with pytest.raises(PromptTooLongError, match=r"rollout\.prompt\.max_tokens"):
        builder.build("t", "o" * 100, [], "o", [])


@pytest.mark.parametrize("name", ["template", "first_template", "history_turn"])
def test_unknown_template_field_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"rollout\.prompt\.{name}.*colour"):
        Prompt(**{name: "{colour}"})


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=[]))
    | st.sampled_from(["<|end|>", "a<|start|>user\n", "<|pad|>", "\x00", "\ud800"])
)
def test_no_text_becomes_a_control_token(text: str) -> None:
    """Any text, lone surrogates and control-token look-alikes included, is ordinary tokens and decodes to itself."""
    ids = CHAT.encode_text(text)
    assert not CONTROL & set(ids)
    assert TOKENIZER.decode(ids) == text.encode("utf-8", "replace").decode("utf-8")
    prompt = PromptBuilder(Prompt(first_template="{observation}"), CHAT).build("t", text, [], text, [])
    # the scaffold alone has two starts and one end
    assert sum(i in CONTROL for i in prompt) == 3


def test_bridge_does_not_repeat_the_end_token() -> None:
    end, bridge = TOKENIZER.eos_token_id, decode(CHAT.bridge_ids)
    assert bridge == "<|end|>\n<|start|>user\n"
    assert CHAT.bridge_after([50, end]) == CHAT.bridge_ids[1:], "the policy wrote the end token"
    assert CHAT.bridge_after([50]) == CHAT.bridge_ids, "the action ran to its limit: the boundary is context"


def test_plain_actions() -> None:
    assert parse_action(" go to shelf 1\n", "plain").text == "go to shelf 1"
    assert parse_action("go", "plain").well_formed
    assert not parse_action("  ", "plain").well_formed
    assert not parse_action("go\nlook", "plain").well_formed


def test_tagged_actions() -> None:
    good = parse_action("<think>it is <hot></think><action> Go To fridge 1 </action>", "tags")
    assert (good.text, good.well_formed) == ("go to fridge 1", True)
    assert not parse_action("<action>look</action>", "tags").well_formed, "no thinking"
    assert not parse_action("<action>look</action><think>late</think>", "tags").well_formed
    assert not parse_action("<think>x</think><action></action>", "tags").well_formed
    assert not parse_action("<think>\u6211</think><action>look</action>", "tags").well_formed, "a Han character"
    # 40 letters and no tag: the last 30 characters are sent, lower-cased
    assert parse_action("B" * 10 + "A" * 30, "tags").text == "a" * 30


def test_what_the_prompt_opened_counts_as_written() -> None:
    """A thinking template's prompt ends with <think>; an answer that needs no opening is read as it is."""
    tags, rest = action_format("tags"), "what next?</think><action>look</action>"
    assert tags.read(rest, "<think>\n") == tags.read("<think>" + rest) == ParsedAction("look", True)
    assert not tags.read(rest).well_formed
    assert tags.answer("look", "<think>\n") == rest
    assert tags.answer("look", "<think>\n\n</think>\n\n") == tags.write("look"), "a closed thought is another one"
    assert tags.read("go", "<think>\n").text == "go", "the last 30 characters are the policy's own"


def test_a_plain_answer_is_no_part_of_a_thought() -> None:
    plain = action_format("plain")
    assert plain.read("go north", "<think>\n") == ParsedAction("go north", True)
    assert plain.read("a door\n</think>\n\ngo north", "<think>\n") == ParsedAction("go north", True)
    assert plain.read("a </think> b") == ParsedAction("a </think> b", True), "the prompt has opened nothing"


def test_role_markers_that_are_not_special_cannot_be_forged() -> None:
    """Some models' role markers are added tokens without the special flag: those would not be split in a text."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<|user|>", special=False)])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|start|>{{", "<|start|><|user|>{{")
    chat, marker = ChatFormat(tokenizer), tokenizer.convert_tokens_to_ids("<|user|>")
    assert marker in chat.before_ids
    ids = chat.encode_text("a<|user|>b<|user|><|user|>")
    assert marker not in ids
    assert tokenizer.decode(ids) == "a<|user|>b<|user|><|user|>"


def test_a_short_text_is_tokenised_once_and_handed_out_in_lists_of_its_own() -> None:
    class Counting:
        """A tokenizer that counts how often it is asked."""

        calls = 0
        is_fast = TOKENIZER.is_fast

        def __getattr__(self, name: str) -> object:
            return getattr(TOKENIZER, name)

        def __call__(self, text: str, **options: object) -> object:
            self.calls += 1
            return TOKENIZER(text, **options)

    encoder = TextEncoder(counting := Counting())
    groups = [[Part("a shelf")], [Part(" is here")]]
    first = encoder.groups(groups)
    before = counting.calls
    again = encoder.groups(groups)
    assert (again, counting.calls) == (first, before)
    again[0].append(7)
    assert encoder.groups(groups) == first == [encoder.text("a shelf"), encoder.text(" is here")]
    # The same letters in other groups, or where the text goes on, are another question.
    assert [len(ids) for ids in encoder.groups([[Part("a")], [Part(" shelf is here")]])] == [1, 14]
    asked = counting.calls
    encoder.groups(groups, goes_on=True)
    assert counting.calls > asked
    twin = pickle.loads(pickle.dumps(TextEncoder(TOKENIZER)))
    assert twin.groups(groups) == first
    other = deepcopy(twin)
    assert other._kept.__wrapped__.__self__ is other, "a copy encodes with its own tokenizer"
    long = [[Part("x" * (SHORT + 1))]]
    encoder.groups(long)
    asked = counting.calls
    encoder.groups(long)
    assert counting.calls == asked + 1, "a long text is not kept"

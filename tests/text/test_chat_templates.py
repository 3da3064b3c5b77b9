"""Chat templates of many kinds: what is read equals what the model's own template writes, and an action ends there."""

from __future__ import annotations

import sys
from datetime import datetime

import pytest
import transformers.utils.chat_template_utils as rendering
from tokenizers import AddedToken

from paw_lightning.callbacks.dialogue_probe import Probe
from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.rollouts.runner import stop_token_ids
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from tests.helpers import chat_templates as kinds
from tests.helpers.small_tokenizers import byte_level, for_template, sentencepiece

WRITTEN = {name: pair for name, pair in kinds.PAIRS.items() if pair.template not in (kinds.OWN, kinds.NONE)}
REWRITTEN = {"chatml, thinking", "chatml, not thinking", "deepseek r1", "harmony"}
"""Their earlier answers are written otherwise than the generation prompt begins them, or ended otherwise."""
OBSERVATIONS = ["You see a desk.\nOn it you see a mug 2.", "\n\nYou see a  desk.\n\n", "[1] > 7"]


def probe(tokenizer, observation: str = OBSERVATIONS[0], **prompt) -> Probe:
    chat = ChatFormat(tokenizer)
    prompts = PromptBuilder(Prompt(**prompt), chat)
    return Probe(prompts, observation, "find it", ["go to desk 1"], sorted(chat.stop_ids))


def check(tokenizer, observation: str, **prompt) -> None:
    """The whole probe; it raises where anything differs."""
    one = probe(tokenizer, observation, **prompt)
    one.check_answer()
    one.check_observation()
    one.check_prompts()
    one.check_transcript(1000)


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("kind", [byte_level, sentencepiece], ids=["byte-level", "sentencepiece"])
def test_every_kind_of_template(kind, name: str) -> None:
    """Prompts and transcripts, plain and tagged answers, with and without text around the observation."""
    tokenizer = for_template(kind, WRITTEN[name].template, *WRITTEN[name].tokens)
    for observation in OBSERVATIONS:
        for form in ("plain", "tags"):
            check(tokenizer, observation, action_format=form)
            check(tokenizer, observation, action_format=form, first_template="{observation}", template="{observation}")
            check(tokenizer, observation, action_format=form, turn_template="{observation}")


@pytest.mark.parametrize("kind", [byte_level, sentencepiece], ids=["byte-level", "sentencepiece"])
@pytest.mark.parametrize("name", [name for name in WRITTEN if name not in REWRITTEN])
def test_a_transcript_has_the_templates_own_ids(name: str, kind) -> None:
    """Id for id, three answers long, where no token meets another across the end of an observation."""
    tokenizer = for_template(kind, WRITTEN[name].template, *WRITTEN[name].tokens)
    chat, texts, answers = ChatFormat(tokenizer), ["Start", "You see a desk", "You see 2 of them"], ["go , on", "look"]
    ids = chat.encode_prompt(texts[0])
    messages = [{"role": "user", "content": texts[0]}]
    for answer, text in zip(answers, texts[1:], strict=True):
        action = chat.encode_answer(answer)
        assert chat.read_answer(action).text.strip() == answer
        ids += [*action, *(i for part in chat.encode_turn(action, "", text, "") for i in part)]
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": text}]
    assert ids == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("kind", [byte_level, sentencepiece], ids=["byte-level", "sentencepiece"])
def test_a_base_model_reads_what_its_tokenizer_puts_before_a_text(kind) -> None:
    tokenizer = kind(bos="<s>", eos="</s>")
    check(tokenizer, OBSERVATIONS[0])
    [first, *rest] = ChatFormat(tokenizer).encode_prompt("You see a desk.")
    assert [first, *rest] == tokenizer("You see a desk.\n").input_ids
    assert first == tokenizer.bos_token_id and tokenizer.bos_token_id not in rest


def test_a_prompt_is_the_templates_own_across_its_borders() -> None:
    """ ".\\n" and ".[" are tokens of this tokenizer: text and scaffold meet in them."""
    tokenizer = for_template(byte_level, kinds.MISTRAL)
    chat = ChatFormat(tokenizer)
    messages = [{"role": "user", "content": "You see a desk."}]
    wanted = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert chat.encode_prompt("You see a desk.") == wanted
    assert tokenizer.convert_tokens_to_ids(".[") in wanted
    assert [*chat.before_ids, *chat.encode_text("You see a desk."), *chat.after_ids] != wanted


def test_an_observation_in_a_transcript_keeps_its_own_tokens() -> None:
    """Where ".\\n" would hold its last letter and the template's line break it is split; a word keeps its blank."""
    tokenizer = for_template(byte_level, kinds.VICUNA)
    chat = ChatFormat(tokenizer)
    before, observed, after = chat.encode_turn([tokenizer.eos_token_id], "", "You see.", "\nTask: x")
    assert tokenizer.convert_ids_to_tokens(observed)[0] == "\u0120Y"  # of "USER: You"
    assert tokenizer.decode(observed) == " You see."
    assert tokenizer.decode([*before, *observed, *after]) == "USER: You see.\nTask: x ASSISTANT:"


def test_white_space_around_a_message_is_what_the_template_makes_of_it() -> None:
    """Llama's template trims a message; of the parts of a turn it takes what stands at the two ends."""
    chat = ChatFormat(for_template(byte_level, kinds.LLAMA3))
    decode = chat.tokenizer.decode
    assert chat.encode_prompt(" \n a  b\t\n") == chat.encode_prompt("a  b")
    before, observed, after = (decode(ids) for ids in chat.encode_turn([], "  ", "\n a ", "\n b \n"))
    assert before.endswith("<|end_header_id|>\n\n")
    assert (observed, after.partition("<|eot_id|>")[0]) == ("a ", "\n b")
    _, observed, _ = chat.encode_turn([], "", " \n", " ")
    assert observed == [], "nothing is left of a blank message"


# The end of an action


def test_an_action_ends_with_the_templates_own_end_of_turn() -> None:
    tokenizer = for_template(byte_level, kinds.CHATML, eos="<|endoftext|>")
    end, eos = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    chat = ChatFormat(tokenizer)
    assert stop_token_ids(chat, None) == sorted([end, eos])
    rest = "\n<|im_start|>user\n"
    assert [tokenizer.decode(chat.bridge_after([50, last])) for last in (end, eos)] == [rest, rest]
    assert tokenizer.decode(chat.bridge_after([50])) == "<|im_end|>" + rest, "cut off: the end is context"


def test_a_template_without_an_end_stops_at_the_next_role() -> None:
    """GLM: what follows an answer is the user's marker; an answer that ended otherwise still needs it."""
    tokenizer = for_template(byte_level, kinds.GLM, "<|user|>", eos="<|endoftext|>")
    chat, user = ChatFormat(tokenizer), tokenizer.convert_tokens_to_ids("<|user|>")
    assert chat.end_ids == [user]
    assert tokenizer.decode(chat.bridge_after([50, user])) == "\n"
    assert tokenizer.decode(chat.bridge_after([50, tokenizer.eos_token_id])) == "<|user|>\n"


def test_a_dialogue_that_may_not_end_with_an_answer() -> None:
    """The end of turn is found between an answer and the next message."""
    strict = "{% if messages[-1].role != 'user' %}{{ raise_exception('user last') }}{% endif %}" + kinds.CHATML
    tokenizer = for_template(byte_level, strict)
    chat = ChatFormat(tokenizer)
    assert chat.end_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert tokenizer.decode(chat.bridge_after(chat.end_ids)) == "\n<|im_start|>user\n"
    check(tokenizer, OBSERVATIONS[0])


def test_an_answer_of_several_messages_ends_with_the_last() -> None:
    """Harmony: a thought is a message of its own, and ends with another token than the turn."""
    tokenizer = for_template(byte_level, kinds.HARMONY, eos="<|return|>")
    chat = ChatFormat(tokenizer)
    assert chat.end_ids == [tokenizer.eos_token_id]
    written = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>go<|return|>"
    assert chat.read_answer(tokenizer(written, add_special_tokens=False).input_ids).text == "go"
    run_on = "go<|end|><|start|>user<|message|>Nothing happens.<|end|>"
    assert chat.read_answer(tokenizer(run_on, add_special_tokens=False).input_ids).text == "go", "not the next message"
    assert tokenizer.decode(chat.bridge_after([50, tokenizer.eos_token_id])) == "<|start|>user<|message|>"


def test_an_answer_keeps_its_special_tokens() -> None:
    """All but those that end it or pad: tags are read, whatever the tokenizer calls them."""
    tokenizer = for_template(byte_level, kinds.CHATML, "<think>", "</think>", "<action>", "</action>")
    chat, text = ChatFormat(tokenizer), "<think>a b</think><action>go , now</action>"
    pad = tokenizer.pad_token_id
    ids = [*tokenizer(text).input_ids, *chat.end_ids, pad]
    assert chat.read_answer([i for i in ids if i != tokenizer.bos_token_id]).text == text
    check(tokenizer, OBSERVATIONS[0], action_format="tags")


# What is refused


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", "ends an answer with '.nuser: '"),
        ("{% for m in messages %}{{ m.content }}<|end|>{{ m.content }}{% endfor %}", "writes a message 2 times"),
        ("{% for m in messages %}{{ m.content | replace(' ', '') }}<|end|>{% endfor %}", "rewrites the text"),
        ("{{ raise_exception('no such role') }}", "cannot write a dialogue: no such role"),
        ("{% for m in messages %}{{ m.content[0].text }}<|end|>{% endfor %}", "writes a message 0 times"),
    ],
)
def test_a_template_that_cannot_be_read_is_refused(template: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"model.path is .*{message}"):
        ChatFormat(byte_level(eos="<|end|>", template=template))


def test_a_template_that_rewrites_earlier_turns_is_refused() -> None:
    """A system prompt that moves to the last message: the first prompt would be another one afterwards."""
    moving = (
        "{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ 'Be good. ' if loop.last }}{{ m.content }}"
        "{% else %}<|assistant|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    one = probe(for_template(byte_level, moving, eos="<|end|>"))
    one.check_prompts()
    with pytest.raises(SettingsError, match=r"gives the transcript before action 2 other tokens .*'B'.*wanted a chat"):
        one.check_transcript(1000)


# A date


@pytest.mark.parametrize("template", [kinds.DATED, kinds.HARMONY], ids=["llama3.2", "harmony"])
def test_a_dated_template_has_one_day_for_ever(template: str, tmp_path, monkeypatch) -> None:
    """A run that goes on tomorrow, and whoever loads the exported policy, read what was read today."""
    tokenizer = for_template(byte_level, template, eos="<|return|>")
    tokenizer.save_pretrained(tmp_path / "model")
    load_tokenizer(str(tmp_path / "model")).save_pretrained(tmp_path / "exported")

    def on(day: int, folder: str) -> str:
        class Day(datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2026, 11, day)

        monkeypatch.setattr(sys.modules[rendering.__name__], "datetime", Day)
        chat = ChatFormat(load_tokenizer(str(tmp_path / folder)))
        return chat.scaffold.before

    assert on(26, "model") == on(27, "model") == on(27, "exported")
    assert ("26 Jul 2024" in on(26, "model")) or ("2024-07-26" in on(26, "model"))
    today = ChatFormat(tokenizer).scaffold.before
    assert today.replace("26 Nov 2026", "26 Jul 2024").replace("2026-11-26", "2024-07-26") == on(26, "model")


def test_letters_of_markers_that_are_not_special() -> None:
    """In square brackets as well, as Gemma's `[multimodal]`; white space is ordinary, as its line breaks are."""
    tokenizer = byte_level()
    words = ["[multimodal]", "<tool>", "\n", "\n\n", "\t", "  ", "\u2581\u2581"]
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in words])
    chat = ChatFormat(tokenizer)
    for text in ("a\n\nb\n  c\td", "\n", "You see [1] a <b> tool."):
        assert chat.encode_text(text) == tokenizer(text, add_special_tokens=False).input_ids
    forged = {*tokenizer.convert_tokens_to_ids(words[:2])}
    ids = chat.encode_text("a[multimodal]\n<tool>")
    assert not forged & {*ids} and tokenizer.decode(ids) == "a[multimodal]\n<tool>"


def test_a_hostile_text_gets_no_blank_where_it_is_cut() -> None:
    """SentencePiece begins every text with a blank; a piece of a text goes on."""
    tokenizer = for_template(sentencepiece, kinds.ZEPHYR)
    chat, text = ChatFormat(tokenizer), "a</s>\nb <unk><|user|><s>"
    ids = chat.encode_text(text)
    assert tokenizer.decode(ids) == text
    assert not {*ids} & {tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id}
    _, observed, _ = chat.encode_turn([], "", text, "")
    assert not {*observed} & chat.encoder.control_ids
    offsets = chat.text_offsets(text, ids)
    assert len(offsets) == len(ids) and offsets[-1][1] == len(text)

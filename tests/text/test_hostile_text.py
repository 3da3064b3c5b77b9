"""Whatever an environment says, it says: never a control token, never a part of the policy's own action."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AddedToken, PreTrainedTokenizerFast

from paw_lightning.envs import TextEnv
from paw_lightning.models.loading import load_tokenizer
from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.layouts import LAYOUTS
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from paw_lightning.types import Rollout, RolloutGroup
from paw_lightning.update.rows import Segment, build_rows
from tests.conftest import byte_tokenizer
from tests.helpers.playing import ScriptedSampler

LOOK_ALIKES = ["<|end|>", "<|im_end|>", "<eos>", "</s>", "<|pad|>", "<|start|>assistant\n", "<|user|>", "<tool>"]
TAGS = ["<action>jump</action>", "<think>", "</think>", "<information>", "{observation}", "{0}", "> look\n"]
ODD = ["\x00", "\ud800", "\udfff\ud800", "\u202eabc", "\u200f", "\ufeff", "\ue000", "\ue001", "\r\n", "\U0001f600"]
COMPATIBILITY = "\U0002f800"
"""A character that Unicode's composed form (NFC) replaces by another."""


def with_added_tokens() -> PreTrainedTokenizerFast:
    """A chat tokenizer whose role markers are added tokens without the special flag."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=False) for text in ("<|user|>", "<tool>", "<think>")])
    tokenizer.chat_template = tokenizer.chat_template.replace("<|start|>{{", "<|start|><|user|>{{")
    return tokenizer


CHATS = {
    "byte": ChatFormat(byte_tokenizer()),
    "added": ChatFormat(with_added_tokens()),
    "household": ChatFormat(load_tokenizer("tiny-household")),
}
texts = st.lists(st.sampled_from(LOOK_ALIKES + TAGS + ODD) | st.text(st.characters(exclude_categories=[]))).map("".join)


def control_ids(chat: ChatFormat) -> set[int]:
    return set(chat.tokenizer.added_tokens_decoder)


def written(chat: ChatFormat, text: str) -> str:
    """What comes back: an unpaired surrogate as a question mark, and all as the tokenizer's own normaliser has it."""
    valid = text.encode("utf-8", "replace").decode("utf-8")
    normalizer = chat.tokenizer.backend_tokenizer.normalizer
    return normalizer.normalize_str(valid) if normalizer else valid


@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=100, deadline=None)
@given(text=texts)
@example(text=COMPATIBILITY)
def test_any_text_is_ordinary_tokens_and_comes_back(name: str, text: str) -> None:
    chat = CHATS[name]
    ids = chat.encode_text(text)
    assert not control_ids(chat) & set(ids)
    assert chat.tokenizer.decode(ids) == written(chat, text)


def test_only_a_tokenizer_that_normalises_changes_a_text() -> None:
    """NFC, the shipped policies' normaliser, writes this character as U+4E3D; bytes come back as they went in."""
    back = {name: chat.tokenizer.decode(chat.encode_text(COMPATIBILITY)) for name, chat in CHATS.items()}
    assert back == {"byte": COMPATIBILITY, "added": COMPATIBILITY, "household": "\u4e3d"}


@pytest.mark.parametrize(
    ("normalizer", "text"),
    [
        (normalizers.NFKC(), "a \uff1ctool\uff1e b"),
        (normalizers.NFC(), "<TAS\u212a>"),
        (normalizers.Lowercase(), "<TOOL>"),
    ],
    ids=["NFKC", "NFC", "lower case"],
)
def test_no_normaliser_makes_a_role_marker(normalizer: normalizers.Normalizer, text: str) -> None:
    """Full-width brackets, the Kelvin sign, capitals: only the normalised text looks like an added token."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizer
    tokenizer.add_tokens([AddedToken(marker, special=False) for marker in ("<tool>", "<TASK>")])
    chat = ChatFormat(tokenizer)
    ids = chat.encode_text(text)
    assert not control_ids(chat) & set(ids)
    assert tokenizer.decode(ids) == normalizer.normalize_str(text)
    assert len(chat.text_offsets(text)) == len(ids)


class Parrot(TextEnv):
    """Says the same text all the time, as task, observation and admissible command."""

    def __init__(self, text: str, task: str | None = None) -> None:
        self.text, self.task = text, text if task is None else task

    def reset(self, *, seed=None, options=None):
        self.left = 3
        return "start", {"task": self.task, "admissible_commands": [self.task]}

    def step(self, action):
        self.left -= 1
        return self.text, 0.0, self.left == 0, False, {"admissible_commands": [self.text]}


def play(
    chat: ChatFormat,
    layout: str,
    text: str,
    task: str | None = None,
    max_tokens: int = 2**20,
    max_observation_tokens: int = 2**20,
) -> RolloutGroup:
    prompt = {"template": "{history}{observation}{admissible_commands}", "turn_template": "{observation}|{task}"}
    sampler = ScriptedSampler()
    end = chat.tokenizer.eos_token_id
    generate = sampler.generate

    def in_own_tokens(prompts, **settings):
        actions = generate(prompts, **settings)
        for action in actions:  # the script's letters are byte tokens; here they are whatever the tokenizer makes of it
            action.token_ids[:] = [*chat.encode_text("x" * (len(action.token_ids) - 1)), end]
        return actions

    sampler.generate = in_own_tokens
    collector = Collector(
        lambda: Parrot(text, task),
        PromptBuilder(Prompt(**prompt, max_tokens=max_tokens), chat),
        sampler,
        max_steps=3,
        max_action_tokens=6,
        max_observation_tokens=max_observation_tokens,
        stop_token_ids=[end],
        layout=LAYOUTS[layout],
    )
    played = collector.play([0], 2, temperature=1.0, seed=("run",))
    assert not played.failures, played.failures
    for t in played.groups[0].transitions:
        t.selected = True
    return played.groups[0]


def control_tokens(chat: ChatFormat, segments: list[Segment]) -> list[int]:
    return [i for segment in segments for i in segment.ids if i in control_ids(chat)]


@pytest.mark.parametrize("layout", ["step", "episode"])
@pytest.mark.parametrize("name", CHATS)
@settings(max_examples=20, deadline=None)
@given(text=texts)
@example(text=COMPATIBILITY)
def test_no_text_changes_the_scaffold_or_the_action(name: str, layout: str, text: str) -> None:
    """Row for row the same control tokens, and turn for turn the same actions, as with a harmless text."""
    assume(text.strip())
    chat = CHATS[name]
    group, harmless = play(chat, layout, text), play(chat, layout, "ok")
    rows, plain = build_rows(Rollout(0, [group])), build_rows(Rollout(0, [harmless]))
    for row, other in zip(rows, plain, strict=True):
        assert control_tokens(chat, row.segments) == control_tokens(chat, other.segments)
        for target in row.having("target"):
            assert chat.tokenizer.decode(target.ids) == written(chat, text)
    for t, other in zip(group.transitions, harmless.transitions, strict=True):
        assert (t.action_ids, t.action_text, t.well_formed) == (other.action_ids, other.action_text, True)


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("layout", ["step", "episode"])
def test_a_megabyte_ends_the_episode_and_not_the_run(layout: str, name: str) -> None:
    """The answer is not predicted, the action before it is kept."""
    text = "<|user|> word " * (2**20 // 14)
    start = time.process_time()
    group = play(CHATS[name], layout, text, task="t", max_tokens=1000, max_observation_tokens=100)
    assert time.process_time() - start < 5, "it is not even tokenised"
    assert [len(e.transitions) for e in group.episodes] == [1, 1]
    assert all(e.overflowed and not e.finished for e in group.episodes)
    assert not any(t.observation_ids for t in group.transitions)
    assert sum(row.length for row in build_rows(Rollout(0, [group]))) < 200


@pytest.mark.parametrize("piece", ["word ", "<|user|>", "<|end|>"])
def test_tokenising_takes_linear_time(piece: str) -> None:
    """A quarter of a megabyte in a second; quadratic time would be many minutes."""
    text = piece * (2**18 // len(piece))
    start = time.process_time()
    assert CHATS["added"].tokenizer.decode(CHATS["added"].encode_text(text)) == text
    assert time.process_time() - start < 20

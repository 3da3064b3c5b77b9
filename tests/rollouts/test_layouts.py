"""Both layouts while playing: what the policy reads, what a row holds, and what happens when it gets too long."""

from __future__ import annotations

import pytest
import torch

from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.layouts import LAYOUTS
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from paw_lightning.types import Rollout, RolloutGroup
from paw_lightning.update.rows import build_rows
from tests.conftest import byte_tokenizer
from tests.helpers.playing import END, TOKENIZER, ScriptedSampler
from tests.helpers.toy_env import ToyEnv

STRIPPING_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n"
    "{{ message['content'].split('</think>')[-1] if not loop.last else message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
"""Drops the thinking of every message but the last, as the templates of reasoning models do."""


class Thinker(ScriptedSampler):
    """Thinks, with a NUL and an odd spelling, before every action."""

    def generate(self, prompts, *, temperature, max_new_tokens, uniforms):
        plain = super().generate([list(p) for p in prompts], temperature=1, max_new_tokens=1, uniforms=uniforms)
        thought = TOKENIZER("<think>so\x00</think><action>").input_ids
        for generation in plain:
            generation.token_ids[:0] = thought
            generation.logprobs[:0] = generation.entropies[:0] = [-1.0] * len(thought)
        return plain


class Copying(ScriptedSampler):
    """Remembers every context as it was when it was read: an episode's list grows."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[int]] = []

    def generate(self, prompts, **settings):
        self.seen += [list(prompt) for prompt in prompts]
        return super().generate(prompts, **settings)


def play(
    layout: str,
    sampler=None,
    tokenizer=TOKENIZER,
    max_observation_tokens: int = 100,
    env=ToyEnv,
    retries: int = 0,
    **prompt,
) -> RolloutGroup:
    """Two episodes of one task."""
    collector = Collector(
        env,
        PromptBuilder(Prompt(**prompt), ChatFormat(tokenizer)),
        sampler or ScriptedSampler(),
        max_steps=5,
        max_action_tokens=6,
        max_observation_tokens=max_observation_tokens,
        stop_token_ids=[END],
        layout=LAYOUTS[layout],
        episode_retries=retries,
    )
    played = collector.play([7], 2, temperature=1.0, seed=("run", 0))
    assert not played.failures, played.failures
    return played.groups[0]


def rows_of(group: RolloutGroup):
    for t in group.transitions:
        t.selected = True
        t.old_logprobs = torch.tensor(t.sampled_logprobs)
    return build_rows(Rollout(0, [group]))


def text(segments) -> str:
    return TOKENIZER.decode([i for segment in segments for i in segment.ids])


def test_an_episode_reads_as_a_dialogue() -> None:
    group = play("episode", first_template="{task}: {observation}", turn_template="({step}) {observation}!")
    row = rows_of(group)[0]
    words = [t.action_text for t in group.episodes[0].transitions]
    answers = [f"turn {i}: {len(word)} letters" for i, word in enumerate(words, 1)]
    assert text(row.segments) == (
        f"<|start|>user\nbe even in house 7: start of 7<|end|>\n<|start|>assistant\n{words[0]}<|end|>\n"
        f"<|start|>user\n(2) {answers[0]}!<|end|>\n<|start|>assistant\n{words[1]}<|end|>\n"
        f"<|start|>user\n(3) {answers[1]}!<|end|>\n<|start|>assistant\n{words[2]}<|end|>\n"
        f"<|start|>user\n(4) {answers[2]}"
    )
    assert [text([s]) for s in row.having("target")] == answers, "the observations alone are predicted"
    assert [text([s]) for s in row.having("action")] == [word + "<|end|>" for word in words]


def test_the_sampler_reads_what_is_trained_on() -> None:
    sampler = ScriptedSampler()
    seen: list[list[list[int]]] = []
    generate = sampler.generate
    sampler.generate = lambda prompts, **kw: (seen.append([list(p) for p in prompts]), generate(prompts, **kw))[1]
    group = play("episode", sampler)
    for member, row in enumerate(rows_of(group)):
        ids = [i for segment in row.segments for i in segment.ids]
        for turn, t in enumerate(group.episodes[member].transitions):
            prompt = seen[turn][member]
            assert ids[: len(prompt) + len(t.action_ids)] == prompt + t.action_ids


@pytest.mark.parametrize("template", [STRIPPING_TEMPLATE, None], ids=["stripping", "no template"])
def test_thinking_of_earlier_turns_stays_where_it_was(template: str | None) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    group = play("episode", Thinker(), tokenizer)
    assert all(len(episode.transitions) == 3 for episode in group.episodes)
    for row in rows_of(group):
        assert text(row.segments).count("<think>so\x00</think><action>") == 3
        assert [s.ids for s in row.having("action")] == [s.transition.action_ids for s in row.having("action")]


def test_the_layouts_play_alike() -> None:
    """The scripted policy does not look at its prompt: the same actions, rewards and observations."""
    step, episode = play("step"), play("episode")
    for a, b in zip(step.transitions, episode.transitions, strict=True):
        assert (a.action_ids, a.reward, a.observation_text, a.anchor) == (
            b.action_ids,
            b.reward,
            b.observation_text,
            b.anchor,
        )
        assert a.observation_ids == b.observation_ids
    assert [len(rows_of(group)) for group in (step, episode)] == [6, 2]


def test_overlong_observations_are_read_and_not_predicted() -> None:
    group = play("episode", max_observation_tokens=5)
    for row in rows_of(group):
        assert not row.having("target")
        assert "turn 1: " in text(row.segments) and "turn 2: " in text(row.segments)


class Fragile(ToyEnv):
    """Breaks at its second turn, in the first environment that is made."""

    made = 0

    def __init__(self) -> None:
        Fragile.made += 1
        super().__init__(fail_on=7 if Fragile.made == 1 else None)


@pytest.mark.parametrize("layout", ["step", "episode"])
def test_an_episode_played_again_is_recorded_as_if_nothing_had_failed(layout: str) -> None:
    """The broken attempt had read one turn; nothing of it may be left in what the second reads or records."""
    Fragile.made = 0
    sampler, undisturbed = Copying(), Copying()
    again, plain = play(layout, sampler, env=Fragile, retries=1), play(layout, undisturbed)
    assert Fragile.made == 3, "two members, and a new environment for the one that failed"
    [why] = again.episodes[0].errors
    assert why.startswith("Fragile.step('x') failed with ConnectionError: the world fell over")
    again.episodes[0].errors = []
    assert again == plain
    ids = [[[s.ids for s in row.segments] for row in rows_of(group)] for group in (again, plain)]
    assert ids[0] == ids[1]
    assert sorted(undisturbed.seen + undisturbed.seen[:4:2]) == sorted(sampler.seen), "two contexts are read twice"


@pytest.mark.parametrize("layout", ["step", "episode"])
def test_too_long_a_context_ends_the_episode(layout: str) -> None:
    """Room for the first context, not for a longer one: one turn each, cut off, nothing lost of it."""
    first = len(play(layout).transitions[0].prompt_ids)
    group = play(layout, max_tokens=first, template="{history}{observation}" + "." * first)
    assert [len(episode.transitions) for episode in group.episodes] == [1, 1]
    assert all(episode.overflowed and not episode.finished for episode in group.episodes)
    whole = play(layout)
    assert not any(episode.overflowed for episode in whole.episodes)
    for cut, t in zip(group.transitions, whole.transitions[::3], strict=True):
        assert (cut.action_ids, cut.observation_ids) == (t.action_ids, t.observation_ids)


def test_dropped_history_is_counted() -> None:
    """Three turns; the third prompt would show two turns and has room for one."""
    whole = play("step")
    assert [t.dropped_turns for t in whole.transitions] == [0] * 6
    limit = max(len(t.prompt_ids) for t in whole.transitions) - 1
    assert [t.dropped_turns for t in play("step", max_tokens=limit).transitions][2::3] != [0, 0]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{history}{observation}", r"rollout\.prompt\.turn_template uses unknown fields \['history'\]"),
        ("{initial_observation}{observation}", r"rollout\.prompt\.turn_template uses unknown .*initial_observation"),
        ("{task}", r"rollout\.prompt\.turn_template .* exactly once"),
        ("{observation}{observation}", r"rollout\.prompt\.turn_template .* exactly once"),
        ("{{observation}}", r"rollout\.prompt\.turn_template .* exactly once"),
        ("{observation!r}", r"rollout\.prompt\.turn_template .* exactly once"),
    ],
)
def test_bad_turn_templates_are_named(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Prompt(turn_template=template)


def test_braces_around_the_observation_stay() -> None:
    template = "{{{observation}}} {{{step:03d}}}{admissible_commands}"
    prompt = Prompt(turn_template=template, unlisted_commands=("help",))
    before, after = PromptBuilder(prompt, ChatFormat(TOKENIZER)).turn("t", ["go", "help"], 7)
    assert (before, after) == ("{", "} {007}'go'")

"""Sessions: whole episodes, against plain forward passes and against a sampler that reads everything anew."""

from __future__ import annotations

import random

import pytest
import torch

from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.session import Session
from tests.helpers.tiny_models import (
    CONFIGS,
    NEW_TOKENS,
    VOCABULARY,
    assert_teacher_forced,
    make_model,
    random_prompts,
    tokens_of,
)

STOPS = set(range(0, VOCABULARY, 6))


@pytest.fixture(scope="module")
def model():
    return make_model(max_position_embeddings=256)


class Episodes:
    """Transcripts that grow by an action and some text each turn; they come in random order and leave at random."""

    def __init__(self, count: int, seed: int = 0, leave: float = 0.15, new_tokens: int = NEW_TOKENS) -> None:
        self.dice, self.leave, self.new_tokens = random.Random(seed), leave, new_tokens
        first = random_prompts(*[self.dice.randint(3, 20) for _ in range(count // 2)])
        self.prompts = [list(prompt) for prompt in first for _ in range(2)]

    def turn(self, sampler, turn: int):
        """One turn: (prompts, generations)."""
        self.dice.shuffle(self.prompts)
        noise = torch.rand(len(self.prompts), self.new_tokens, generator=torch.Generator().manual_seed(turn))
        prompts = [list(prompt) for prompt in self.prompts]
        generations = sampler.generate(self.prompts, temperature=0.8, max_new_tokens=self.new_tokens, uniforms=noise)
        self.prompts = [
            prompt + action.token_ids + [self.dice.randrange(1, VOCABULARY) for _ in range(self.dice.randint(1, 9))]
            for prompt, action in zip(self.prompts, generations, strict=True)
            if self.dice.random() > self.leave
        ]
        return prompts, generations


def native(model, **settings) -> NativeSampler:
    return NativeSampler(model, STOPS, 0, **settings)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("eager_to_split")
def test_logprobs_are_those_of_a_plain_forward(name: str) -> None:
    sizes = {"n_positions": 256} if name == "gpt2" else {"max_position_embeddings": 256}
    model = make_model(name, **sizes)
    session, episodes = native(model).session(), Episodes(12)
    for turn in range(6):
        prompts, generations = episodes.turn(session, turn)
        assert_teacher_forced(model, prompts, generations, temperature=0.8)


@pytest.mark.parametrize("max_batch_tokens", [65_536, 1_000, 300, 1])
def test_a_session_answers_as_the_sampler_does(model, max_batch_tokens: int) -> None:
    sampler = native(model, max_batch_tokens=max_batch_tokens)
    session, with_memory, without = sampler.session(), Episodes(16), Episodes(16)
    for turn in range(6):
        prompts, generations = with_memory.turn(session, turn)
        again, expected = without.turn(sampler, turn)
        assert prompts == again and tokens_of(generations) == tokens_of(expected)


def forwarded(model, sampler, episodes: Episodes, turns: int) -> list[list[tuple[int, int]]]:
    """[rows, tokens] of every forward call, turn by turn."""
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    by_turn = []
    for turn in range(turns):
        episodes.turn(sampler, turn)
        by_turn.append(list(shapes))
        shapes.clear()
    hook.remove()
    return by_turn


def test_only_what_is_new_is_read(model) -> None:
    """An action's last token and at most 9 new ones, the last of which is decoded: 9 at most are read."""
    first, *later = forwarded(model, native(model).session(), Episodes(16, leave=0), 5)
    assert max(tokens for _, tokens in first) > 9
    assert all(tokens <= 9 for shapes in later for _, tokens in shapes)


@pytest.mark.parametrize("max_batch_tokens", [400, 1_000, 4_000])
def test_memory_and_batch_stay_within_the_bound(model, max_batch_tokens: int, monkeypatch) -> None:
    """What is remembered and the cache that is being decoded, in rows x tokens."""
    sampler = native(model, max_batch_tokens=max_batch_tokens)
    session, most = sampler.session(), []
    decode = NativeSampler.decode

    def spy(self, prompts, cache, temperature, uniforms, *, complete=False):
        storage = cache.layers[0].storage[0]
        most.append(session._held() + storage.shape[0] * storage.shape[2])
        return decode(self, prompts, cache, temperature, uniforms, complete=complete)

    monkeypatch.setattr(NativeSampler, "decode", spy)
    episodes = Episodes(16, leave=0)
    for turn in range(6):
        episodes.turn(session, turn)
    assert max_batch_tokens / 4 < max(most) <= max_batch_tokens


def test_transcripts_that_do_not_come_back_are_forgotten(model) -> None:
    session, episodes = native(model).session(), Episodes(16)
    episodes.turn(session, 0)
    del episodes.prompts[3:]
    episodes.turn(session, 1)
    assert len(session.memory) == 3
    assert session._held() == 3 * session.memory[0].states[0][0].shape[2], "nor do their keys and values take room"


def test_unrelated_prompts_are_read_from_their_start(model) -> None:
    session = native(model).session()
    for turn in range(3):
        prompts, generations = Episodes(8, seed=turn).turn(session, turn)
        assert_teacher_forced(model, prompts, generations, temperature=0.8)


def test_a_native_sampler_offers_sessions(model) -> None:
    assert isinstance(native(model).session(), Session)
    assert native(model).session().generate([], temperature=1.0, max_new_tokens=3, uniforms=torch.zeros(0, 3)) == []


def test_bad_settings_are_named_in_a_session_too(model) -> None:
    with pytest.raises(ValueError, match=r"rollout\.max_action_tokens"):
        native(model).session().generate([[1]], temperature=1.0, max_new_tokens=0, uniforms=torch.zeros(1, 0))

"""How much keys and values may take, with a made-up reading of a GPU's memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from transformers import Qwen2Config

from paw_lightning.samplers import cache_memory
from paw_lightning.samplers.cache_memory import cache_bytes, free_bytes, passing_bytes, share
from paw_lightning.samplers.kv_cache import READ_TOKENS, token_bytes
from paw_lightning.samplers.native import NativeSampler
from tests.helpers.tiny_models import NEW_TOKENS, make_model, random_prompts

GIB = 2**30
SMALL = Qwen2Config(
    vocab_size=1000,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@pytest.fixture
def readings(monkeypatch):
    """What a GPU would say is free, one number after the other; the last one for ever."""
    numbers: list[int] = []
    monkeypatch.setattr(cache_memory, "free_bytes", lambda _: numbers.pop(0) if len(numbers) > 1 else numbers[0])
    return numbers


def test_free_is_what_the_device_has_and_what_the_allocator_keeps(monkeypatch) -> None:
    """11 free on the device, and of 7 reserved 3 in use: 15."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (11, 80))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3)
    assert free_bytes(torch.device("cuda", 0)) == 15
    assert free_bytes(torch.device("cpu")) is None


def test_share_by_hand() -> None:
    """Of 1,000 a tenth is left alone, 400 are needed for a moment, and what is left, 500, has to hold 5/4 of it."""
    assert share(1000, 400) == 400
    assert share(1000, 2000) == 0


def test_what_is_needed_for_a_moment_by_hand() -> None:
    """16,384 tokens of 2 x 2 layers x 16 numbers of keys and values and of 6 x 32 + 4 x 48 of states, 4 bytes each; for
    each of 10 rows 1,000 words of 40 bytes, twice."""
    assert READ_TOKENS["accelerator"] == 16_384
    assert passing_bytes(SMALL, 10, 4) == 16_384 * 4 * (64 + 384) + 2 * 10 * 1000 * 40


def test_a_card_of_80_gib_holds_128_long_episodes_of_a_model_of_1_5_billion() -> None:
    """28 layers x 2 x 256 numbers x 4 bytes are 57,344 bytes a token; 4 GiB hold 74,898 of them.

    Of 55 GiB free 49.5 count, 53,150 MB; reading needs 16,384 x (57,344 + 180,224) bytes, 3,892 MB, and drawing
    2 x 128 x 151,936 x 40, 1,556 MB; 4/5 of the rest, 38,162 MB, are 665,486 tokens: 128 rows of 2,599, twice."""
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
    )
    assert 2**32 // token_bytes(config, 4) == 74_898
    tokens = share(55 * GIB, passing_bytes(config, 128, 4)) // token_bytes(config, 4)
    assert tokens // (2 * 128) == 2_599


def test_on_a_cpu_it_is_the_same_everywhere() -> None:
    assert cache_bytes(make_model(), 1000) == 2**32


def test_under_autocast_copies_of_the_trained_weights_are_set_aside(readings) -> None:
    """Two bytes for every trained number in float32; 5/4 of the difference are left out of the share."""
    readings.append(GIB)
    model = make_model()
    plain = cache_bytes(model, 4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = cache_bytes(model, 4)
        model.requires_grad_(False)
        assert cache_bytes(model, 4) == plain, "frozen weights are cast anew each time"
    assert plain - mixed == pytest.approx(2 * sum(p.numel() for p in model.parameters()) / 1.25, abs=1)


def uniforms(rows: int) -> torch.Tensor:
    return torch.rand(rows, NEW_TOKENS, generator=torch.Generator().manual_seed(0))


def batches(sampler, monkeypatch) -> list[int]:
    """The numbers of rows that are written together, as it goes."""
    rows: list[int] = []
    prefill = NativeSampler.prefill

    def spy(self, prompts, room):
        rows.append(len(prompts))
        return prefill(self, prompts, room)

    monkeypatch.setattr(NativeSampler, "prefill", spy)
    return rows


def reading_for(model, tokens: int, rows: int) -> int:
    """Free bytes of which keys and values of so many tokens may be held."""
    element = 4
    needed = passing_bytes(model.config, rows, element)
    return int((tokens * token_bytes(model.config, element) * 1.25 + needed) / 0.9) + 2


def test_every_call_without_a_session_asks_anew(readings, monkeypatch) -> None:
    """8 prompts of 10 tokens and 6 to write: 64 tokens hold 4 of them, 128 all."""
    model = make_model()
    readings += [reading_for(model, 64, 8), reading_for(model, 128, 8)]
    sampler, prompts = NativeSampler(model, [], 0), random_prompts(*[10] * 8)
    rows = batches(sampler, monkeypatch)
    settings = {"temperature": 1.0, "max_new_tokens": NEW_TOKENS, "uniforms": uniforms(8)}
    first = sampler.generate(prompts, **settings)
    assert rows == [4, 4]
    second = sampler.generate(prompts, **settings)
    assert rows == [4, 4, 8]
    assert [g.token_ids for g in first] == [g.token_ids for g in second]


def test_a_session_asks_once_before_it_holds_anything(readings, monkeypatch) -> None:
    """Half of it is for what is remembered: of 128 tokens 64 are written at a time."""
    model = make_model()
    readings += [reading_for(model, 128, 8), 0]
    sampler, prompts = NativeSampler(model, [], 0), random_prompts(*[10] * 8)
    session, rows = sampler.session(), batches(sampler, monkeypatch)
    settings = {"temperature": 1.0, "max_new_tokens": NEW_TOKENS, "uniforms": uniforms(8)}
    session.generate(prompts, **settings)
    session.generate([prompt[::-1] for prompt in prompts], **settings)
    assert rows == [4, 4, 4, 4]
    assert sampler.session().budget is None, "the next rollout asks anew"


def test_with_no_room_at_all_rows_are_written_one_by_one(readings, monkeypatch) -> None:
    readings.append(0)
    sampler = NativeSampler(make_model(), [], 0)
    rows = batches(sampler, monkeypatch)
    sampler.generate(random_prompts(10, 10), temperature=1.0, max_new_tokens=NEW_TOKENS, uniforms=uniforms(2))
    assert rows == [1, 1]


def test_a_setting_is_not_asked_about(readings) -> None:
    assert NativeSampler(make_model(), [], 0, max_batch_tokens=7).token_budget(1000) == 7
    assert readings == []


@pytest.mark.parametrize("captured", [False, True])
def test_graphs_are_given_back_where_there_were_any(captured: bool, monkeypatch) -> None:
    emptied = SimpleNamespace(times=0)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: setattr(emptied, "times", emptied.times + 1))
    sampler = NativeSampler(make_model(), [], 0)
    sampler.captured = captured
    for _ in range(2):
        sampler.release()
    assert emptied.times == int(captured)

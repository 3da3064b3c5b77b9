"""Families of models: what a sampler says of an action from its cache is what training reads in the whole row."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PhimoeConfig, Qwen2Config, Qwen2ForCausalLM

from paw_lightning.commands.run_settings import load_policy, policy_words, read_settings
from paw_lightning.errors import SettingsError
from paw_lightning.models.loading import check_vocabulary, load_language_model
from paw_lightning.models.playable import check_playable
from paw_lightning.models.policy_world_model import PolicyWorldModel, check_heads
from paw_lightning.models.window import context_window
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.text.encoding import TextEncoder
from paw_lightning.training.module import PaWModule
from tests.conftest import ROOT, byte_tokenizer
from tests.helpers import architectures
from tests.helpers.architectures import OTHERS, REFUSED, REPRESENTATIVE, VOCABULARY, build

TURNS, NEW_TOKENS = 3, 6
FAMILIES = [
    *REPRESENTATIVE,
    *[pytest.param(name, marks=pytest.mark.slow) for name in OTHERS],
]


def play(model) -> tuple[list[list[int]], list[list[bool]], list[list[float]]]:
    """Five transcripts of three turns from the sampler's session, each with an observation at its end.

    Some begin alike and some do not; their lengths differ, so that batches are padded. Returns ids, which of them are
    actions, and the log-probs of these.
    """
    dice = random.Random(0)

    def text(length: int) -> list[int]:
        return [dice.randrange(3, VOCABULARY) for _ in range(length)]

    beginning = text(30)
    rows = [beginning + text(9), beginning + text(3), beginning + text(17), text(6), text(21)]
    actions = [[False] * len(row) for row in rows]
    logprobs: list[list[float]] = [[] for _ in rows]
    session = NativeSampler(model, [], 0).session()
    for turn in range(TURNS):
        noise = torch.rand(len(rows), NEW_TOKENS, generator=torch.Generator().manual_seed(turn))
        for i, action in enumerate(session.generate(rows, temperature=1.0, max_new_tokens=NEW_TOKENS, uniforms=noise)):
            observation = text(3 + 2 * i)
            rows[i] = rows[i] + action.token_ids + observation
            actions[i] += [True] * len(action.token_ids) + [False] * len(observation)
            logprobs[i] += action.logprobs
    return rows, actions, logprobs


def rectangle(rows: list[list], filler: object) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


@pytest.mark.parametrize("name", FAMILIES)
def test_whole_rows_are_read_as_they_were_played(name: str) -> None:
    """Also in the same padded batch, in training mode, and with a gradient for every action."""
    language_model = build({**REPRESENTATIVE, **OTHERS}[name])
    check_playable(language_model, name)
    model = PolicyWorldModel(language_model)
    check_heads(model)
    rows, actions, logprobs = play(language_model)
    ids, mask = rectangle(rows, 0), rectangle(actions, False)
    read = model.train()(ids, mask, torch.zeros_like(mask), 1.0).action_logprobs
    played = torch.tensor([logprob for row in logprobs for logprob in row])
    torch.testing.assert_close(read, played, atol=1e-4, rtol=0)
    read.sum().backward()
    assert language_model.get_input_embeddings().weight.grad.isfinite().all()


def test_the_documentation_lists_them() -> None:
    listed = (ROOT / "docs" / "support.md").read_text()
    assert [
        name for name in [*REPRESENTATIVE, *OTHERS, *REFUSED] if not re.search(rf"\b{re.escape(name)}", listed)
    ] == []


def save(model, directory: Path) -> str:
    model.save_pretrained(directory)
    byte_tokenizer().save_pretrained(directory)
    return str(directory)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_play_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    """When it is loaded, so that no command gets as far as a rollout."""
    build(REFUSED[name]).save_pretrained(tmp_path)
    with pytest.raises(
        SettingsError, match=r"^model\.path is .*; wanted a causal language model of attention"
    ) as error:
        load_language_model(str(tmp_path))
    assert "\n" not in str(error.value)
    assert ("(its layers need LinearAttention" in str(error.value)) == (name in ("Qwen3.5", "Mamba", "LFM2", "Bamba"))


@pytest.mark.parametrize("rate", ["attention_dropout", "router_jitter_noise"])
def test_what_is_random_in_training_is_switched_off_or_refused(rate: str, tmp_path: Path) -> None:
    """A model has to say in training what it said while it played."""
    config = PhimoeConfig(**architectures.SHAPE, **architectures.EXPERTS, **{rate: 0.5})
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(SettingsError, match=r"differ by .* nats from .* or is random in training\)"):
        check_playable(model, "phimoe")
    model.save_pretrained(tmp_path)
    load_language_model(str(tmp_path))


def test_flash_attention_is_checked_by_another_implementation_where_it_cannot_run() -> None:
    model = build(REPRESENTATIVE["Qwen2"])
    model.config._attn_implementation = "flash_attention_2"
    check_playable(model, "qwen2")
    check_heads(PolicyWorldModel(model))
    assert model.config._attn_implementation == "flash_attention_2"


def test_hidden_states_that_cannot_be_read_are_refused() -> None:
    """A model whose get_decoder gives its LM head."""
    config = architectures.of("ModernBertDecoder", sep_token_id=1, cls_token_id=2)
    with pytest.raises(SettingsError, match=r"^model\.path is .*, whose hidden states cannot be read \(TypeErr"):
        check_heads(PolicyWorldModel(build(config)))


def wide(name: str, directory: Path) -> str:
    """A model whose rotary factors change at 20 tokens, with the byte tokenizer."""
    made = architectures.CHANGING_ROTARY[name]()
    made.vocab_size = 259
    return save(build(lambda: made), directory)


@pytest.mark.parametrize("name", architectures.CHANGING_ROTARY)
def test_rotary_factors_that_change_bound_a_row(name: str, tmp_path: Path) -> None:
    config = architectures.CHANGING_ROTARY[name]()
    assert context_window(config) == (20, "the 20 positions up to which the model's rotary factors stay the same")
    kinds = {"full_attention": config.rope_parameters, "sliding_attention": {"rope_type": "default"}}
    assert context_window(Qwen2Config(rope_parameters=kinds, max_position_embeddings=64))[0] == 20
    assert context_window(Qwen2Config(max_position_embeddings=64)) == (64, "the model's 64 positions")


def test_playing_beyond_them_is_refused_before_anything_is_played(tmp_path: Path) -> None:
    """The shipped config's rows are longer than 20 tokens; `fit` asks the same function."""
    directory = wide("longrope", tmp_path / "longrope")
    settings = read_settings(policy_words(directory, ["--config", "household/base"]))
    with pytest.raises(SettingsError, match=r"rollout\.prompt\.max_tokens .* do not fit the 20 positions up to which"):
        load_policy(settings)
    small = save(build(REPRESENTATIVE["Qwen2"]), tmp_path / "small")
    with pytest.raises(SettingsError, match="259 token ids"):
        load_policy(read_settings(policy_words(small, ["--config", "household/base"])))


def test_a_vocabulary_beyond_the_embeddings_is_refused(tmp_path: Path) -> None:
    directory = save(build(REPRESENTATIVE["Qwen2"]), tmp_path)
    said = r"^model\.path is .*, whose tokenizer has 259 token ids and whose model 61 embeddings; wanted"
    with pytest.raises(SettingsError, match=said):
        PaWModule(directory).configure_model()


def test_a_token_that_no_text_becomes_may_lie_beyond_the_embeddings() -> None:
    """259 embeddings for 259 tokens and an added one, as Gemma 3 has one for images; as padding it would be read."""
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=259, hidden_size=8, num_hidden_layers=1, num_attention_heads=1))
    check_vocabulary(model, TextEncoder(tokenizer), "")
    tokenizer.pad_token = "<image>"
    with pytest.raises(SettingsError, match="260 token ids and whose model 259 embeddings"):
        check_vocabulary(model, TextEncoder(tokenizer), "")

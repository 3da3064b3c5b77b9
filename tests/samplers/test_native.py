"""The sampler, against plain forward passes without a cache, transformers' greedy search and draws worked by hand."""

import itertools
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from paw_lightning.samplers import kv_cache as module
from paw_lightning.samplers.kv_cache import buckets, shared_prefix_length
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.writing import draw
from tests.helpers.tiny_models import (
    CONFIGS,
    NEW_TOKENS,
    VOCABULARY,
    WINDOW,
    assert_teacher_forced,
    make_model,
    random_prompts,
    tokens_of,
)


@pytest.fixture(scope="module")
def model():
    return make_model()


def ragged():
    """One-token, short and long prompts, twins, twins but for the last token, one the beginning of another."""
    prompts = random_prompts(1, 9, 30, 4, 17, 2, 22, 30)
    return [*prompts, prompts[4], [*prompts[2][:-1], 5], prompts[2][:11], prompts[0]]


def uniforms_for(prompts, steps=NEW_TOKENS, seed=0):
    return torch.rand(len(prompts), steps, generator=torch.Generator().manual_seed(seed))


def sample(model, prompts, stops=(), temperature=1.0, uniforms=None, **settings):
    uniforms = uniforms_for(prompts) if uniforms is None else uniforms
    native = NativeSampler(model, stop_token_ids=stops, pad_token_id=0, **settings)
    return native.generate(prompts, temperature=temperature, max_new_tokens=uniforms.shape[1], uniforms=uniforms)


@pytest.mark.parametrize("beginning", [(), (3, 1, 4, 1, 5, 9, 2, 6)], ids=["no prefix", "prefix"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.usefixtures("eager_to_split")
def test_logprobs_and_entropies_are_those_of_a_plain_forward(name, beginning):
    model = make_model(name)
    prompts = [[*beginning, *prompt] for prompt in ragged()]
    assert_teacher_forced(model, prompts, sample(model, prompts, temperature=0.7), temperature=0.7)


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_logprobs_are_of_the_temperature_sampled_from(model, temperature):
    prompts = ragged()
    assert_teacher_forced(model, prompts, sample(model, prompts, temperature=temperature), temperature)


def test_low_precision_stays_near_a_plain_forward():
    model = make_model(dtype=torch.bfloat16)
    prompts = random_prompts(5, 12, 12)
    assert_teacher_forced(model, prompts, sample(model, prompts), tolerance=0.2)


def test_sharing_bucketing_and_batching_change_no_token(model, monkeypatch):
    prompts = random_prompts(3, 12, 25, 25, 7, beginning=[8, 9, 10, 11, 12]) * 2
    plain = sample(model, prompts)
    assert tokens_of(sample(model, prompts, max_batch_tokens=1)) == tokens_of(plain)
    assert tokens_of(sample(model, prompts, max_batch_tokens=100)) == tokens_of(plain)
    monkeypatch.setitem(module.CALL_COST, "cpu", 0)
    assert tokens_of(sample(model, prompts)) == tokens_of(plain)
    monkeypatch.setitem(module.READ_TOKENS, "cpu", 0)
    assert tokens_of(sample(model, prompts)) == tokens_of(plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_cache_is_bounded_by_its_bytes(name):
    """4 GiB by default, in tokens of what three of them really take."""
    model = make_model(name)
    layers = model(torch.tensor([[1, 2, 3]]), use_cache=True).past_key_values.layers
    token = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers) // 3
    assert NativeSampler(model, [0], 0).token_budget(5) == 2**32 // token
    assert NativeSampler(model, [0], 0, max_batch_tokens=7).token_budget(5) == 7
    with pytest.raises(ValueError, match=r"rollout\.sampler\.init_args\.max_batch_tokens is 0; wanted at least 1"):
        NativeSampler(model, [0], 0, max_batch_tokens=0)


@pytest.mark.parametrize("call_cost", [0, 10_000], ids=["read in many parts", "read at once"])
def test_no_second_copy_of_the_cache_is_held(call_cost: int, monkeypatch):
    """16 copies of four prompts: beside the cache there are copies of two layers at a time, of four."""
    model = make_model(num_hidden_layers=4, layer_types=["full_attention"] * 4)
    monkeypatch.setitem(module.CALL_COST, "cpu", call_cost)
    prompts = sorted(random_prompts(60, 61, 62, 63) * 16, key=lambda prompt: (len(prompt), prompt))
    live: list[int] = []
    tensors: list[weakref.ref] = []
    select = torch.Tensor.index_select

    def spy(self, *args):
        made = select(self, *args)
        live.append(sum(t.nbytes for t in (ref() for ref in tensors) if t is not None) + made.nbytes)
        tensors.append(weakref.ref(made))
        return made

    monkeypatch.setattr(torch.Tensor, "index_select", spy)
    cache = NativeSampler(model, [0], 0).prefill(prompts, 4)
    whole = sum(keys.nbytes + values.nbytes for keys, values in module.storage_of(cache))
    assert max(live) <= whole / 2


def test_a_row_alone_draws_what_it_draws_in_a_batch(model):
    prompts = ragged()
    uniforms = uniforms_for(prompts)
    together = tokens_of(sample(model, prompts, uniforms=uniforms))
    for row, prompt in enumerate(prompts):
        assert tokens_of(sample(model, [prompt], uniforms=uniforms[row : row + 1])) == [together[row]]
    backwards = sample(model, prompts[::-1], uniforms=uniforms.flip(0))
    assert tokens_of(backwards) == together[::-1]


def test_uniforms_are_the_only_randomness(model):
    prompts = random_prompts(6, 6)
    state = torch.get_rng_state()
    first = sample(model, prompts)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert sample(model, prompts) == first
    assert tokens_of(sample(model, prompts, uniforms=uniforms_for(prompts, seed=1))) != tokens_of(first)


def forwarded_shapes(model, prompts, **settings):
    """[rows, tokens] of every forward call of a rollout."""
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    sample(model, prompts, **settings)
    hook.remove()
    return shapes


def test_identical_prompts_are_read_once(model):
    assert forwarded_shapes(model, random_prompts(20) * 8) == [(1, 19)] + [(8, 1)] * NEW_TOKENS


def test_common_prefix_is_read_once(model):
    prompts = random_prompts(5, 5, 5, 5, 5, 5, beginning=range(1, 41))
    assert forwarded_shapes(model, prompts) == [(1, 40), (6, 4)] + [(6, 1)] * NEW_TOKENS


def test_short_and_long_prompts_are_read_apart(model):
    shapes = forwarded_shapes(model, random_prompts(*[5] * 10, 50))
    assert shapes == [(10, 4), (1, 49)] + [(11, 1)] * NEW_TOKENS


def test_finished_rows_leave_the_batch(model):
    prompts = random_prompts(*[5] * 32)
    shapes = forwarded_shapes(model, prompts, stops=range(0, VOCABULARY, 3), uniforms=uniforms_for(prompts, 40))
    rows = [rows for rows, tokens in shapes if tokens == 1]
    assert rows[0] == 32
    assert all(later == earlier or later <= earlier // 2 for earlier, later in itertools.pairwise(rows))
    assert rows[-1] < 8
    assert len(rows) < 40  # and the loop ends with the last of them


def test_greedy_is_the_greedy_search_of_transformers(model):
    prompts, stops = random_prompts(1, 5, 18, 33), [2, 7, 11]
    generations = sample(model, prompts, stops=stops, temperature=0.0)
    for prompt, generation in zip(prompts, generations, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=stops,
            pad_token_id=0,
        )
        assert generation.token_ids == expected[0, len(prompt) :].tolist()
    assert_teacher_forced(model, prompts, generations, temperature=1.0)


def test_stop_tokens_end_a_row_and_leave_the_others_alone(model):
    """Without stops every row runs to the limit; with them each is cut after its first, whoever ends before it."""
    prompts = random_prompts(*range(1, 25))
    uniforms = uniforms_for(prompts, steps=20)
    stops = set(range(0, VOCABULARY, 5))
    free = sample(model, prompts, uniforms=uniforms)
    assert not any(generation.stopped for generation in free)
    for whole, cut in zip(free, sample(model, prompts, stops=stops, uniforms=uniforms), strict=True):
        places = [place for place, token in enumerate(whole.token_ids) if token in stops]
        end = places[0] + 1 if places else 20
        assert cut.token_ids == whole.token_ids[:end]
        assert cut.stopped == bool(places)
        assert len(cut.logprobs) == len(cut.entropies) == end
        assert_close(torch.tensor(cut.logprobs), torch.tensor(whole.logprobs[:end]), atol=1e-5, rtol=0)


def test_stop_token_at_the_limit_counts_as_stopped(model):
    (free,) = sample(model, [[4, 5]], uniforms=torch.tensor([[0.3]]))
    (stopped,) = sample(model, [[4, 5]], stops=free.token_ids, uniforms=torch.tensor([[0.3]]))
    assert stopped.token_ids == free.token_ids
    assert (free.stopped, stopped.stopped) == (False, True)


@pytest.mark.parametrize(
    ("probabilities", "uniform", "token"),
    [
        ([0.5, 0.0, 0.25, 0.25], 0.0, 0),
        ([0.5, 0.0, 0.25, 0.25], 0.4999, 0),
        ([0.5, 0.0, 0.25, 0.25], 0.5001, 2),
        ([0.5, 0.0, 0.25, 0.25], 0.7499, 2),
        ([0.5, 0.0, 0.25, 0.25], 0.7501, 3),
        ([0.0, 0.0, 1.0], 0.0, 2),  # an impossible token is not drawn at the lower end
        ([0.5, 0.5, 0.0, 0.0], 1 - 2**-24, 1),  # nor at the upper end
        ([0.3, 0.7, 0.0, 0.0], 1 - 2**-53, 1),
        ([0.7, 0.1, 0.2, 0.0], 1 - 2**-53, 2),
        ([1.0, 1e-9, 0.0], 1 - 2e-9, 0),
        ([1.0, 1e-9, 0.0], 1 - 5e-10, 1),  # rarer than float32 resolves next to 1, and still drawn
    ],
)
def test_draw_by_hand(probabilities, uniform, token):
    p = torch.tensor([probabilities], dtype=torch.float64)
    tokens, logprobs, entropies = draw(p.log(), 1.0, torch.tensor([uniform], dtype=torch.float64))
    assert tokens.tolist() == [token]
    assert logprobs.item() == pytest.approx(p[0, token].log().item(), abs=1e-5)
    assert entropies.item() == pytest.approx(-torch.special.xlogy(p, p).sum().item(), abs=1e-6)


def test_draw_with_temperature_by_hand():
    """p = (1/4, 3/4) at T = 1/2 is (1/10, 9/10): squared and normalized."""
    logits = torch.tensor([[0.25, 0.75]] * 2).log()
    tokens, logprobs, _ = draw(logits, 0.5, torch.tensor([0.0999, 0.1001]))
    assert tokens.tolist() == [0, 1]
    assert_close(logprobs.exp(), torch.tensor([0.1, 0.9]))


def test_evenly_spread_uniforms_give_the_distribution():
    torch.manual_seed(0)
    count = 4000
    logits = torch.randn(7) * 2
    tokens, _, _ = draw(logits.expand(count, -1), 1.0, (torch.arange(count) + 0.5) / count)
    expected = logits.softmax(-1) * count
    assert ((torch.bincount(tokens, minlength=7) - expected).abs() <= 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_draw_over_a_full_vocabulary(dtype):
    size = 151_936
    wanted = torch.tensor([0, 1, 70_000, size - 1])
    tokens, logprobs, entropies = draw(torch.zeros(4, size, dtype=dtype), 1.0, (wanted + 0.5) / size)
    assert tokens.tolist() == wanted.tolist()
    uniform = torch.tensor(float(size)).log().expand(4)
    assert_close(logprobs, -uniform)
    assert_close(entropies, uniform)


def test_shared_prefix_length():
    assert shared_prefix_length([(1, 2, 3), (1, 2, 4, 5), (1, 2)]) == 2
    assert shared_prefix_length([(1, 2, 3)]) == 3
    assert shared_prefix_length([(), (1,)]) == 0


@pytest.mark.parametrize(
    ("max_tokens", "max_padding", "ends"),
    [
        (100, 0, [3, 4, 5]),  # only equal lengths together
        (100, 6, [4, 5]),  # 3 rows padded from 2 to 4; a fourth from 4 to 9 and they to 9 would be 26
        (100, 26, [5]),
        (4, 26, [2, 3, 4, 5]),  # two rows of 2 are 4 tokens; longer rows go alone
    ],
)
def test_buckets_by_hand(max_tokens, max_padding, ends):
    assert [bucket.stop for bucket in buckets([2, 2, 2, 4, 9], max_tokens, max_padding)] == ends


def test_generation_config_is_not_read(model):
    prompts = random_prompts(4, 9)
    expected = sample(model, prompts)
    configured = make_model()
    configured.generation_config.update(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        repetition_penalty=5.0,
        eos_token_id=list(range(VOCABULARY)),
    )
    assert sample(configured, prompts) == expected


def test_adapters_take_part(model):
    adapted = get_peft_model(make_model(), LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    prompts = random_prompts(4, 9, 9)
    generations = sample(adapted, prompts)
    assert_teacher_forced(adapted.eval(), prompts, generations)
    assert generations[0].logprobs[0] != pytest.approx(sample(model, prompts)[0].logprobs[0], abs=1e-3)


def test_weights_are_read_live():
    model, prompts = make_model(), random_prompts(4)
    native = NativeSampler(model, [], 0)
    settings = {"temperature": 1.0, "max_new_tokens": NEW_TOKENS, "uniforms": uniforms_for(prompts)}
    native.generate(prompts, **settings)
    with torch.no_grad():
        model.model.embed_tokens.weight.neg_()
    assert_teacher_forced(model, prompts, native.generate(prompts, **settings))


def test_mode_of_every_submodule_is_restored(model):
    trained, prompts = make_model(attention_dropout=0.5), random_prompts(7, 9)
    trained.train()
    trained.model.layers[0].eval()
    modes = [part.training for part in trained.modules()]
    assert sample(trained, prompts) == sample(model, prompts)  # no dropout while sampling
    assert [part.training for part in trained.modules()] == modes
    with torch.no_grad():
        trained.model.norm.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(trained, prompts)
    assert [part.training for part in trained.modules()] == modes


def test_no_prompts_no_actions(model):
    assert sample(model, [], uniforms=torch.zeros(0, 3)) == []


@pytest.mark.parametrize(
    ("prompts", "change", "message"),
    [
        ([[1], []], {}, "prompt 1 is empty"),
        ([[1] * 60], {}, r"60 tokens; wanted.* at most 58 to fit the model's 64 positions: lower rollout\.prompt\.m"),
        ([[1]], {"temperature": -1.0}, "temperature is -1.0; wanted 0"),
        ([[1]], {"uniforms": torch.zeros(1, 0)}, r"rollout\.max_action_tokens is 0; wanted at least 1"),
        ([[1]], {"uniforms": torch.zeros(2, 3)}, r"uniforms is of shape \(2, 3\); wanted \(1, 3\)"),
        ([[1]], {"uniforms": torch.ones(1, 3)}, r"outside \[0, 1\)"),
    ],
)
def test_errors_name_the_setting(model, prompts, change, message):
    with pytest.raises(ValueError, match=message):
        sample(model, prompts, **change)


def test_a_prompt_that_just_fits(model):
    prompts = [[1] * (WINDOW - NEW_TOKENS)]
    assert_teacher_forced(model, prompts, sample(model, prompts))

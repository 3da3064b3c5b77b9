"""Steps of fixed shapes, replayed as a CUDA graph would, against a cache that grows; and how often the host looks."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.testing import assert_close

from paw_lightning.samplers import steps as module
from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.steps import CAPTURES, FixedSteps, cuda_graph, waiting_refused, why_not_fixed
from paw_lightning.samplers.writing import Writing
from tests.helpers.architectures import OTHERS, REPRESENTATIVE, build
from tests.helpers.devices import HostWaits, Recorder
from tests.helpers.tiny_models import VOCABULARY, assert_teacher_forced, make_model, random_prompts, tokens_of
from tests.samplers.test_session import Episodes

STEPS = 24
CAPTURE_LOG = "paw_lightning.samplers.decoding"


@pytest.fixture
def recorder(monkeypatch) -> Recorder:
    """A CPU that captures and replays, and looks every 4 tokens."""
    recorder = Recorder()
    monkeypatch.setitem(CAPTURES, "cpu", recorder)
    monkeypatch.setitem(module.LOOK_EVERY, "cpu", 4)
    monkeypatch.setattr(module, "CAPTURE_STEPS", 8)
    monkeypatch.setattr(FixedSteps, "fewest", 8)
    return recorder


@pytest.fixture(scope="module")
def model():
    return make_model(max_position_embeddings=256)


def ragged() -> list[list[int]]:
    """Short and long prompts, twins among them."""
    prompts = random_prompts(1, 9, 30, 4, 17, 2, 22, 30)
    return [*prompts, prompts[4], prompts[0]]


def write(model, prompts, stops=(3, 7, 11), temperature=0.7, steps=STEPS, seed=0, sampler=None):
    uniforms = torch.rand(len(prompts), steps, generator=torch.Generator().manual_seed(seed))
    sampler = sampler or NativeSampler(model, stops, 0)
    return sampler.generate(prompts, temperature=temperature, max_new_tokens=steps, uniforms=uniforms)


def assert_same(first, second) -> None:
    assert tokens_of(first) == tokens_of(second)
    for one, other in zip(first, second, strict=True):
        assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-5, rtol=0)
        assert_close(torch.tensor(one.entropies), torch.tensor(other.entropies), atol=1e-5, rtol=0)
        assert one.stopped == other.stopped


@contextmanager
def growing(monkeypatch):
    """The ordinary way of a CPU inside."""
    with monkeypatch.context() as patch:
        patch.delitem(CAPTURES, "cpu")
        patch.setitem(module.LOOK_EVERY, "cpu", 1)
        yield


@pytest.mark.parametrize("name", REPRESENTATIVE)
def test_replayed_steps_write_what_a_growing_cache_does(name: str, recorder: Recorder, monkeypatch) -> None:
    model = build(REPRESENTATIVE[name])
    sampler = NativeSampler(model, [3, 7, 11], 0)
    replayed = write(model, ragged(), sampler=sampler)
    assert sampler.fixed and sampler.captured and recorder.replayed >= 4
    with growing(monkeypatch):
        assert_same(replayed, write(model, ragged()))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("stops", [(), range(0, VOCABULARY, 20), range(0, VOCABULARY, 4)], ids=["none", "few", "many"])
def test_whoever_ends_first_the_others_go_on(model, recorder: Recorder, stops, temperature, monkeypatch) -> None:
    """32 rows, so that batches are cut down before, between and after captures."""
    prompts = random_prompts(*[5, 9] * 16)
    replayed = write(model, prompts, stops, temperature)
    with growing(monkeypatch):
        assert_same(replayed, write(model, prompts, stops, temperature))


def test_a_session_remembers_what_was_replayed(model, recorder: Recorder) -> None:
    """Five turns; rows that left a batch early are written back to where the next turn reads them."""
    sampler = NativeSampler(model, set(range(0, VOCABULARY, 6)), 0)
    session, episodes = sampler.session(), Episodes(12, new_tokens=20)
    for turn in range(5):
        prompts, generations = episodes.turn(session, turn)
        assert_teacher_forced(model, prompts, generations, temperature=0.8)
    assert recorder.captured >= 5 and session.memory


def test_identical_prompts_are_still_read_once(model, recorder: Recorder) -> None:
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    write(model, random_prompts(20) * 8, stops=())
    hook.remove()
    # Read once; three trials; a few steps before the capture; the capture itself: replays call no Python.
    assert shapes == [(1, 19)] + [(8, 1)] * (3 + 4 + 1)
    assert (recorder.captured, recorder.replayed) == (1, STEPS - 4)


def test_weights_are_read_live_wherever_they_lie(recorder: Recorder) -> None:
    """Changed in place, as an optimizer does, and moved, as gathered weights are; with adapters both count."""
    model = make_model()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    sampler, prompts = NativeSampler(adapted, (), 0), random_prompts(4, 9, 9)
    for change in (None, torch.Tensor.neg_, lambda weight: weight.clone().mul_(1.5)):
        with torch.no_grad():
            for name, weight in adapted.named_parameters():
                if change and ("lora_B" in name or "embed" in name):
                    weight.data = change(weight.data)
        written = write(adapted, prompts, (), 1.0, sampler=sampler)
        assert_teacher_forced(adapted.eval(), prompts, written, tolerance=1e-4)
    assert recorder.captured == 3


def test_too_few_steps_are_not_captured(model, recorder: Recorder) -> None:
    """11 steps: after the first 4 there are 7 left, and 8 are wanted; of 12 the 8 that are left are."""
    write(model, random_prompts(5, 5), stops=(), steps=11)
    assert recorder.captured == 0
    write(model, random_prompts(5, 5), stops=(), steps=12)
    assert (recorder.captured, recorder.replayed) == (1, 8)


def test_batches_are_not_cut_down_at_the_end(model, recorder: Recorder, monkeypatch) -> None:
    """Where fewer steps are left than a capture takes, a replay of all rows goes on."""
    cut: list[int] = []
    select = FixedSteps.select
    monkeypatch.setattr(FixedSteps, "select", lambda self, keep: (cut.append(len(keep)), select(self, keep)))
    stops = range(0, VOCABULARY, 3)
    write(model, random_prompts(*[5] * 32), stops, steps=11)
    assert cut == []
    write(model, random_prompts(*[5] * 32), stops, steps=12)
    assert len(cut) == 1


# Models that cannot


def test_a_model_that_reads_otherwise_is_told_so_once(recorder: Recorder, caplog, monkeypatch) -> None:
    """GPT-Neo's local layers take their window from the number of columns."""
    model = build(OTHERS["GPT-Neo"])
    sampler = NativeSampler(model, (), 0)
    with caplog.at_level(logging.WARNING, CAPTURE_LOG):
        written = [write(model, ragged(), sampler=sampler) for _ in range(2)]
    (message,) = caplog.messages
    assert "GPTNeoForCausalLM writes without CUDA graphs" in message and "log-probs would differ by" in message
    assert recorder.captured == 0 and sampler.fixed is False
    with growing(monkeypatch):
        assert_same(written[0], write(model, ragged(), ()))


def test_a_capture_that_fails_costs_nothing_but_a_line(model, recorder: Recorder, caplog, monkeypatch) -> None:
    def fail(step):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setitem(CAPTURES, "cpu", fail)
    sampler = NativeSampler(model, [3, 7, 11], 0)
    with caplog.at_level(logging.WARNING, CAPTURE_LOG):
        written = [write(model, ragged(), sampler=sampler) for _ in range(2)]
    (message,) = caplog.messages
    assert message.endswith("RuntimeError: operation not permitted when stream is capturing")
    assert not sampler.captured
    with growing(monkeypatch):
        assert_same(written[0], write(model, ragged()))
        assert_same(written[1], write(model, ragged()))


def test_a_full_device_is_no_reason_to_go_on(model, recorder: Recorder, monkeypatch) -> None:
    def fail(step):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setitem(CAPTURES, "cpu", fail)
    with pytest.raises(torch.OutOfMemoryError):
        write(model, ragged(), ())


def prepared(model) -> tuple[NativeSampler, object, Writing]:
    sampler, prompts = NativeSampler(model, [3], 0), sorted(ragged(), key=len)
    cache = sampler.prefill(prompts, STEPS)
    uniforms = torch.rand(len(prompts), STEPS)
    return sampler, cache, Writing(prompts, cache.get_seq_length(), 1.0, uniforms, [3], 0, torch.float32)


def test_a_step_that_waits_is_refused(monkeypatch) -> None:
    """On a GPU PyTorch raises it in what `waiting_refused` surrounds: the second reading, the first may make tables."""
    model = make_model()
    _, cache, writing = prepared(model)
    assert why_not_fixed(model, cache, writing) is None
    calls = SimpleNamespace(waiting=False)

    @contextmanager
    def refused(device):
        calls.waiting = True
        yield
        calls.waiting = False

    monkeypatch.setattr(module, "waiting_refused", refused)

    def look(*args):
        if calls.waiting:
            raise RuntimeError("called a synchronizing CUDA operation")

    model.register_forward_pre_hook(look)
    assert why_not_fixed(model, cache, writing) == "RuntimeError: called a synchronizing CUDA operation"
    model.config._attn_implementation = "flash_attention_2"
    assert "flash attention" in str(why_not_fixed(model, cache, writing))


def test_the_trial_leaves_everything_as_it_was(model) -> None:
    _, cache, writing = prepared(model)
    width = cache.get_seq_length()
    states = [(k[:, :, :width].clone(), v[:, :, :width].clone()) for k, v in (layer.storage for layer in cache.layers)]
    why_not_fixed(model, cache, writing)
    assert cache.get_seq_length() == width and writing.step == 0
    for (keys, values), layer in zip(states, cache.layers, strict=True):
        assert torch.equal(keys, layer.storage[0][:, :, :width])
        assert torch.equal(values, layer.storage[1][:, :, :width])


# What is asked of CUDA


def test_waiting_is_an_error_inside_alone(monkeypatch) -> None:
    modes: list[object] = [0]
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: modes[-1])
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(KeyError), waiting_refused(torch.device("cuda")):
        assert modes[-1] == "error"
        raise KeyError
    with waiting_refused(torch.device("cpu")):
        pass
    assert modes == [0, "error", 0]


def test_a_graph_is_captured_by_this_thread_and_replayed(monkeypatch) -> None:
    """Also where the capture fails the stream is again the one that it was: the outer context is left."""
    said: list[object] = []

    @contextmanager
    def context(*what, **settings):
        said.append((what, settings))
        yield
        said.append("left")

    graph = SimpleNamespace(replay=lambda: said.append("replayed"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "stream")
    monkeypatch.setattr(torch.cuda, "stream", context)
    monkeypatch.setattr(torch.cuda, "graph", context)
    cuda_graph(lambda: said.append("step"))()
    capture = ((graph,), {"capture_error_mode": "thread_local"})
    assert said == [(("stream",), {}), capture, "step", "left", "left", "replayed"]


# How often the host looks


def waits(model, monkeypatch, *, steps: int, stops=(), every: int = 8) -> Counter[str]:
    """What would make the host wait for a GPU while a batch is written, its prompts having been read."""
    monkeypatch.setitem(module.LOOK_EVERY, "cpu", every)
    sampler = NativeSampler(model, stops, 0)
    prompts = sorted(ragged(), key=len)
    uniforms = torch.rand(len(prompts), steps, generator=torch.Generator().manual_seed(0))
    cache = sampler.prefill(prompts, steps)
    sampler.fixed = True  # tried before
    with torch.no_grad(), HostWaits() as seen:
        sampler.decode(prompts, cache, 1.0, uniforms)
    return seen


def test_the_host_looks_every_eight_tokens_and_not_in_between(model, monkeypatch) -> None:
    """Beside what is fixed for a batch, a look for each 8 tokens but the last ones: at 16 tokens 1, at 48 tokens 5."""
    monkeypatch.setitem(CAPTURES, "cpu", lambda step: step)
    few, many, late = (waits(model, monkeypatch, steps=steps) for steps in (16, 48, 49))
    assert many["_local_scalar_dense"] - few["_local_scalar_dense"] == 4
    assert late["_local_scalar_dense"] - many["_local_scalar_dense"] == 1
    others = {name: number for name, number in many.items() if name not in ("_local_scalar_dense", "__int__")}
    assert others == {name: few[name] for name in others}
    assert module.LOOK_EVERY["accelerator"] == 8


def test_on_a_cpu_it_looks_at_every_token(model) -> None:
    """Nobody waits there, and a row that has ended costs work."""
    assert module.LOOK_EVERY["cpu"] == 1 and "cpu" not in CAPTURES


@pytest.mark.parametrize(
    ("name", "look"),
    [
        ("item", lambda tensor: tensor[0].item()),
        ("tolist", lambda tensor: tensor.tolist()),
        ("__bool__", lambda tensor: bool(tensor[0])),
        ("__int__", lambda tensor: int(tensor[0])),
        ("cpu", lambda tensor: tensor.cpu()),
        ("nonzero", lambda tensor: tensor.nonzero()),
        ("index", lambda tensor: tensor[tensor > 3]),
        ("lift_fresh", lambda tensor: torch.tensor([1, 2])),
        ("isin", lambda tensor: torch.isin(tensor, tensor)),
    ],
)
def test_a_look_that_someone_adds_is_counted(name: str, look, model, monkeypatch) -> None:
    """Once for each of 16 tokens, in what draws them: the test above would fail."""
    monkeypatch.setitem(CAPTURES, "cpu", lambda step: step)
    plain = waits(model, monkeypatch, steps=16)
    record = Writing.record
    monkeypatch.setattr(Writing, "record", lambda self, logits: (look(self.current), record(self, logits)))
    assert waits(model, monkeypatch, steps=16)[name] - plain[name] >= 16


@pytest.mark.parametrize("every", [2, 5, 8, 100])
def test_how_often_it_looks_changes_no_number(model, every: int, monkeypatch) -> None:
    """Bit for bit where no row leaves; to rounding where batches are cut down later."""
    free = write(model, ragged(), stops=())
    stopped = write(model, ragged(), stops=range(0, VOCABULARY, 5))
    monkeypatch.setitem(module.LOOK_EVERY, "cpu", every)
    assert write(model, ragged(), stops=()) == free
    assert_same(write(model, ragged(), stops=range(0, VOCABULARY, 5)), stopped)

"""What a run says of its time: speeds by hand, the sentence, and the curves of a real run."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from paw_lightning.callbacks.run_cost import RunCost, advice, peak_flops, sentence, speeds
from paw_lightning.errors import SettingsError
from paw_lightning.event_files import read_scalars
from paw_lightning.training.module import PaWModule
from paw_lightning.types import Rollout
from paw_lightning.update.collate import collate
from paw_lightning.update.rows import Row, Segment
from tests.helpers import runs
from tests.helpers.factories import make_group

NOTHING = {
    "padded": False,
    "cpu": True,
    "full precision": True,
    "reference": False,
    "grows": False,
    "native": True,
    "beside": False,
}


def test_speeds_by_hand() -> None:
    """Two episodes of two turns, each 3 prompt and 2 action tokens: 8 generated in 2 s, 20 read in 1 s; of 40 places
    30 are tokens, in 10 s.
    """
    rollout = Rollout(0, [make_group([1.0, 0.0], [2, 2])])
    phases = {"generation": 2.0, "scoring": 1.0, "update": 10.0, "validation": 0.0, "iteration": 20.0}
    assert speeds(rollout, phases, 30, 40, scored=True) == {
        "time/generated_tokens_per_s": 4.0,
        "time/scored_tokens_per_s": 20.0,
        "time/trained_tokens_per_s": 3.0,
        "time/padding_share": 0.25,
    }
    found = speeds(rollout, phases | {"validation": 5.0}, 30, 40, scored=False)
    assert "time/scored_tokens_per_s" not in found and found["time/validation_s"] == 5.0


def test_tokens_of_groups_that_were_left_out_were_generated_too() -> None:
    rollout = Rollout(0, [make_group([1.0], [1])], left_out=[make_group([0.0], [2])])
    phases = {"generation": 1.0, "scoring": 0.0, "update": 1.0, "validation": 0.0, "iteration": 2.0}
    assert speeds(rollout, phases, 1, 1, scored=True)["time/generated_tokens_per_s"] == 3 * 2


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA L40", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA T4", None),
    ],
)
def test_the_peak_of_a_gpu_is_known_by_its_whole_name(name: str, flops: float | None) -> None:
    assert peak_flops(name) == flops


def test_a_growing_row_is_read_once() -> None:
    """Second turns carry 4 turn tokens and no prompt: 3 + 2 and 4 + 2 tokens for each of two episodes, in 1 s."""
    rollout = Rollout(0, [make_group([1.0, 0.0], [2, 2])])
    for episode in rollout.episodes:
        episode.transitions[1].prompt_ids, episode.transitions[1].turn_ids = [], [1, 2, 3, 4]
        episode.transitions[0].turn_ids = [1, 2]  # part of the prompt
    phases = {"generation": 1.0, "scoring": 1.0, "update": 1.0, "validation": 0.0, "iteration": 3.0}
    assert speeds(rollout, phases, 1, 1, scored=True)["time/scored_tokens_per_s"] == 22.0


def test_the_sentence_names_the_largest_phase_and_its_keys() -> None:
    phases = {"generation": 30.0, "environment": 0.1, "update": 60.0, "iteration": 100.0}
    said = sentence(phases, NOTHING)
    assert said.startswith("time:    an iteration takes 100 s: update 60%, generation 30%, other 10%; ")
    assert "trainer.precision bf16-mixed if the processor" in said and "environment" not in said
    assert "1.2 s: environment 100%; faster environments" in sentence(
        {"environment": 1.234, "iteration": 1.234}, NOTHING
    )


@pytest.mark.parametrize(
    "phase", ["update", "generation", "scoring", "environment", "tokenization", "waiting", "validation", "other"]
)
def test_every_phase_has_an_advice(phase: str) -> None:
    for changed in [{}, *({name: not value} for name, value in NOTHING.items())]:
        assert advice(phase, NOTHING | changed)


def test_advice_fits_the_run() -> None:
    assert "accumulate_grad_batches" in advice("update", NOTHING | {"padded": True})
    assert "layout episode" in advice("generation", NOTHING)
    assert "layout" not in advice("generation", NOTHING | {"grows": True})
    assert "vllm" in advice("generation", NOTHING | {"cpu": False})
    assert "vllm" not in advice("generation", NOTHING | {"cpu": False, "native": False})
    assert "vllm" in advice("waiting", NOTHING)
    assert "vllm" not in advice("waiting", NOTHING | {"beside": True})
    assert "kl_coefficient" in advice("scoring", NOTHING | {"reference": True})


def test_a_micro_batch_counts_its_tokens() -> None:
    """Rows of 5 and 2 tokens in a rectangle of 10."""
    batch = collate([Row([Segment([1] * 5)]), Row([Segment([1, 2])])], on_policy=True)
    assert (batch.tokens, batch.input_ids.numel()) == (7, 10)
    assert batch.to(torch.device("cpu")).tokens == 7


def test_a_run_logs_its_speeds_and_says_where_its_time_goes(tiny_model_dir: str, tmp_path: Path, caplog) -> None:
    with caplog.at_level(logging.INFO):
        cli = runs.fit(tmp_path, tiny_model_dir, run_cost__after=1)
    curves = read_scalars(runs.log_dir(cli))
    for tag in ("generated_tokens_per_s", "trained_tokens_per_s", "validation_s"):
        assert len(curves[f"time/{tag}"]) == 2 and min(value for _, value in curves[f"time/{tag}"]) > 0
    seconds = dict(curves["time/update_s"])
    tokens = [speed * seconds[iteration] for iteration, speed in curves["time/trained_tokens_per_s"]]
    assert tokens == pytest.approx([round(count) for count in tokens], abs=0.01), "both are of one clock"
    assert all(0 <= share < 0.9 for _, share in curves["time/padding_share"])
    said = [message for message in caplog.messages if message.startswith("time:")]
    assert len(said) == 2 and all("an iteration takes" in message for message in said)
    caplog.clear()
    runs.fit(tmp_path, tiny_model_dir, run_cost__after=0)
    assert not [message for message in caplog.messages if message.startswith("time:")]


def test_what_was_played_beside_an_update_is_not_counted_twice() -> None:
    """An update of 4 s, then 1 s of waiting for the next rollout: its 5 s of generation are no time of their own."""
    cost = RunCost()
    cost.connect(SimpleNamespace(settings=SimpleNamespace(takes_sampled_logprobs=lambda _: True), sampler=None))
    module = MagicMock(spec=PaWModule, critic="none", device=torch.device("cpu"))
    module.policy_loss = SimpleNamespace(kl_coefficient=0.0)
    for ahead, generation in ((False, 3.0), (True, 5.0)):
        rollout = Rollout(0, [make_group([1.0], [1])], ahead=ahead)
        rollout.seconds = {"generation": generation, "update": 4.0, "waiting": 1.0}
        cost._rollout, cost._begun = rollout, 0.0
        cost.on_train_epoch_end(MagicMock(), module)
        logged = module.log_dict.call_args.args[0]
        assert logged["time/generated_tokens_per_s"] == 2 / generation  # the speed is the rollout's own
        cost._close(MagicMock(), module)
    assert (cost.totals["generation"], cost.totals["update"], cost.totals["waiting"]) == (3.0, 8.0, 2.0)


def test_a_bad_number_is_named() -> None:
    with pytest.raises(SettingsError, match=r"run_cost\.after is -1; wanted at least 0"):
        RunCost(after=-1)

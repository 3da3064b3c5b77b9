"""Several processes are one: same episodes, same selection, same loss, same weights, and nobody waits for ever."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning import ranks
from paw_lightning.commands import export
from tests.helpers import runs
from tests.helpers.runs import PPO

DDP = "lightning.pytorch.strategies.DDPStrategy"
FSDP2, FSDP1 = "paw_lightning.training.strategies.FSDP2", "paw_lightning.training.strategies.FSDP1"
SETTINGS = {
    "data__groups": 3,  # two of them on the second rank
    "rollout__environment__uneven": "true",  # episodes of one, two and three turns
    "rollout__max_action_tokens": 60,  # some actions end early
    "trainer__gradient_clip_val": 0.5,
    "model__policy_loss__kl_coefficient": 0.05,
    "rollout__old_logprobs": "trainer",
    "data__normalization": "group_mean",
    "data__validation_tasks": 3,
    "reward_balance__value": 0.5,
}
LORA = {"model__lora__rank": 4}
EPISODES = {
    "rollout__layout": "episode",
    "reward_balance__match_weight_of": "cross_entropy",
    "data__dynamic_sampling": 1,
    "rollout__environment__nuisance": "true",
}
SEPARATE = PPO | {"model__critic": "separate"}
TURNS = PPO | {"data__world_model_interval": 1}
BRANCHES = SEPARATE | {
    "rollout__layout": "episode",
    "target_control__targets": "shuffled",
    "data__world_model_horizon": 2,
    "entropy_selection__alpha": 0.5,
}


@pytest.mark.parametrize(("count", "size"), [(0, 2), (1, 2), (3, 2), (16, 8), (5, 8)])
def test_shares_are_neighbours_that_join_to_the_whole(count: int, size: int, monkeypatch) -> None:
    parts = []
    for rank in range(size):
        monkeypatch.setattr(ranks, "world", lambda rank=rank: (rank, size))
        parts.append(list(range(count))[ranks.rank_slice(count)])
    assert [i for part in parts for i in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_means_weigh_every_rank_by_its_count(monkeypatch) -> None:
    """(2 * 1 + 6 * 3) / 4 = 5; what one rank has alone is that rank's."""
    monkeypatch.setattr(ranks, "gathered", lambda value: [value, {"a": (18.0, 3), "b": (1.0, 2)}])
    assert ranks.pooled_means({"a": (2.0, 1)}) == {"a": 5.0, "b": 0.5}


def test_a_failure_elsewhere_is_raised_here(monkeypatch) -> None:
    monkeypatch.setattr(ranks, "gathered", lambda value: [value, (None, "OSError: disk full")])
    with pytest.raises(RuntimeError, match="rank 1 failed with OSError: disk full"):
        ranks.together(lambda: 1)


def test_a_second_line_is_its_threads_own(monkeypatch) -> None:
    over: list[object] = []
    monkeypatch.setattr(ranks, "world", lambda: (0, 2))
    monkeypatch.setattr(ranks.dist, "all_gather_object", lambda values, value, group: over.append(group))
    with ranks.over("second"):
        ranks.gathered(1)
        thread = threading.Thread(target=ranks.gathered, args=[1])
        thread.start(), thread.join()
    ranks.gathered(1)
    assert over == ["second", None, None]


def read(directory: Path, rank: int = 0) -> tuple[list[dict], list[dict]]:
    """(The iterations' pools, the micro-batches) that a rank wrote down."""
    records = [json.loads(line) for line in (directory / f"rank{rank}.jsonl").read_text().splitlines()]
    return [r for r in records if "actions" in r], [r for r in records if "rows" in r]


def assert_same_run(one: Path, several: Path, tolerance: float = 1e-5, *, some_selected: bool = True) -> None:
    """Pools bit for bit in what is discrete, all curves and the exported weights to rounding."""
    pools, others = read(one)[0], read(several)[0]
    assert [p["actions"] for p in pools[-len(others) :]] == [p["actions"] for p in others], "the same episodes"
    assert [p["selected"] for p in pools[-len(others) :]] == [p["selected"] for p in others], "the same selection"
    assert not some_selected or any(any(p["selected"]) and not all(p["selected"]) for p in pools)
    old, new = runs.read_curves(one), runs.read_curves(several)
    for tag, points in new.items():
        for step, value in points.items():
            if not tag.startswith("time/") and tag != "rollout/logprob_gap":
                assert value == pytest.approx(old[tag][step], rel=tolerance, abs=1e-6), (tag, step)
    assert {"train/policy_loss", "train/wm_loss", "train/grad_norm", "val/return"} <= new.keys()
    expected, exported = (AutoModelForCausalLM.from_pretrained(d / "policy").state_dict() for d in (one, several))
    for name, tensor in expected.items():
        torch.testing.assert_close(exported[name], tensor, rtol=1e-3, atol=2e-4, msg=name)


def in_one_process(directory: Path, model: str, **settings) -> Path:
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.RankProbe"}
    return runs.log_dir(runs.fit(directory, model, **(SETTINGS | probe | settings)))


@pytest.fixture(scope="module")
def one(tiny_model_dir: str, tmp_path_factory) -> Path:
    """Two iterations in one process."""
    return in_one_process(tmp_path_factory.mktemp("one"), tiny_model_dir)


@pytest.fixture(scope="module")
def one_with_lora(tiny_model_dir: str, tmp_path_factory) -> Path:
    return in_one_process(tmp_path_factory.mktemp("lora"), tiny_model_dir, **LORA)


def test_ddp_is_one_process(one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    several = runs.fit_ranks(tmp_path, tiny_model_dir, DDP, **SETTINGS)
    assert_same_run(one, several)
    pools, other = (read(several, rank)[0] for rank in range(2))
    assert pools == other, "every rank holds the whole update"
    batches = [read(several, rank)[1] for rank in range(2)]
    assert len(batches[0]) == len(batches[1]) == 8
    # Weights sum to 1 over the two micro-batches of both ranks, in each of the four steps.
    for step in range(4):
        parts = [batches[rank][2 * step + i]["weight"] for rank in range(2) for i in range(2)]
        assert sum(parts) == pytest.approx(1, abs=1e-5)


def test_fsdp2_is_one_process_and_resumes_from_its_shards(one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, FSDP2, trainer__max_epochs=1, **SETTINGS)
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    assert checkpoint.is_dir(), "every rank wrote its shard"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, FSDP2, ckpt_path=checkpoint, **SETTINGS)
    assert_same_run(one, resumed)
    assert export.command([str(checkpoint), "--output", str(tmp_path / "exported")]) == 0
    assert_same_weights(stopped / "policy", tmp_path / "exported")


def assert_same_weights(first: Path, second: Path) -> None:
    expected, exported = (AutoModelForCausalLM.from_pretrained(d).state_dict() for d in (first, second))
    for name, tensor in expected.items():
        assert torch.equal(exported[name], tensor), name


@pytest.mark.slow
def test_fsdp1_is_one_process_and_resumes_from_its_shards(one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, FSDP1, trainer__max_epochs=1, **SETTINGS)
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, FSDP1, ckpt_path=checkpoint, **SETTINGS)
    assert_same_run(one, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2, FSDP1])
@pytest.mark.parametrize("variant", [EPISODES, SEPARATE, TURNS, BRANCHES], ids=["episodes", "ppo", "turns", "branches"])
def test_everything_else_on_two_ranks(variant: dict, strategy: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """Layout, dynamic sampling, matched weight, both critics, turns of the losses; canaries and health report too."""
    one = in_one_process(tmp_path / "one", tiny_model_dir, **variant)
    several = runs.fit_ranks(tmp_path / "two", tiny_model_dir, strategy, **(SETTINGS | variant))
    assert_same_run(one, several, tolerance=1e-4)
    old, new = runs.read_curves(one), runs.read_curves(several)
    looked = {"wm/gradient_cosine", "wm/gradient_norm_ratio"} & old.keys()
    assert bool(looked) == (variant != TURNS), "where losses take turns, no step has both gradients"
    assert old.keys() - new.keys() == (set() if strategy == DDP else looked)
    printed = (tmp_path / "two" / "output0.txt").read_text()
    assert printed.count("canaries: log-probs of sampler and trainer differ by") == 1
    assert printed.count("canaries: the model is sharded") == (strategy != DDP)
    assert "canaries:" not in (tmp_path / "two" / "output1.txt").read_text(), "one rank speaks"


AHEAD = {
    "rollout__ahead": 1,
    "rollout__sampler": "tests.helpers.copied_sampler.Copied",
    "rollout__old_logprobs": "sampler",
    "data__dynamic_sampling": 1,  # ranks agree after every round, beside the update
    "trainer__max_epochs": 3,
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2])
def test_all_ranks_play_ahead(strategy: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """Two processes, each with a thread that plays, and in between a stop: the run of one process."""
    one = in_one_process(tmp_path / "one", tiny_model_dir, **AHEAD)
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.SignalOnRankOne"}
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, strategy, **(SETTINGS | AHEAD | probe))
    assert set(runs.read_curves(stopped)["rollout/return"]) == {1}
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, strategy, ckpt_path=checkpoint, **(SETTINGS | AHEAD))
    assert_same_run(one, resumed, tolerance=1e-4)
    assert runs.read_curves(resumed)["rollout/staleness"] == {2: 1.0, 3: 1.0}


@pytest.mark.slow
def test_a_sampler_that_fails_ahead_on_one_rank_ends_all(tiny_model_dir: str, tmp_path: Path) -> None:
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.BrokenAhead"}
    with pytest.raises(AssertionError, match="rank 1 failed with SamplerFailedError: the server is on fire"):
        runs.fit_ranks(tmp_path, tiny_model_dir, DDP, **(SETTINGS | AHEAD | probe))


@pytest.mark.slow
def test_a_canary_on_one_rank_ends_all(tiny_model_dir: str, tmp_path: Path) -> None:
    """The second rank's masks are shifted."""
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.ShiftedMask"}
    with pytest.raises(AssertionError, match="rank 1 failed with CanaryError"):
        runs.fit_ranks(tmp_path, tiny_model_dir, DDP, **(SETTINGS | probe))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 3])
def test_shards_of_two_ranks_resume_on(devices: int, one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """Three ranks for three groups and six turns; one rank for all."""
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, FSDP2, trainer__max_epochs=1, **SETTINGS)
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, FSDP2, devices=devices, ckpt_path=checkpoint, **SETTINGS)
    assert_same_run(one, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2, FSDP1])
def test_lora_on_two_ranks(strategy: str, one_with_lora: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    settings = SETTINGS | LORA
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, strategy, trainer__max_epochs=1, **settings)
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    if strategy != FSDP1:
        state = torch.load(checkpoint, weights_only=True)["state_dict"]
        assert state and all(".lora_" in name for name in state), "one small file of adapters"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, strategy, ckpt_path=checkpoint, **settings)
    assert_same_run(one_with_lora, resumed)
    assert export.command([str(checkpoint), "--output", str(tmp_path / "exported")]) == 0
    assert_same_weights(stopped / "policy", tmp_path / "exported")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2, FSDP1])
def test_a_rank_without_groups_takes_part_in_the_update(strategy: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """One group of one-turn episodes: three rows for two steps of two micro-batches on two ranks."""
    few = {"data__groups": 1, "data__validation_tasks": 1, "data__group_size": 3}
    one = in_one_process(tmp_path / "one", tiny_model_dir, trainer__max_epochs=1, **few)
    several = runs.fit_ranks(tmp_path / "two", tiny_model_dir, strategy, trainer__max_epochs=1, **(SETTINGS | few))
    assert_same_run(one, several, some_selected=False)


@pytest.mark.slow
def test_a_group_lost_on_one_rank(tiny_model_dir: str, tmp_path: Path) -> None:
    """Task 2 fails on the second rank; in one process as in two the rest trains."""
    settings = {"rollout__environment__fail_on": 2, "trainer__max_epochs": 1, "trainer__limit_val_batches": 0}
    one = in_one_process(tmp_path / "one", tiny_model_dir, **settings)
    several = runs.fit_ranks(tmp_path / "two", tiny_model_dir, DDP, **(SETTINGS | settings))
    assert runs.read_curves(one)["rollout/dropped_groups"] == {1: 1.0}
    for tag in ("rollout/dropped_groups", "rollout/return", "train/policy_loss"):
        new, old = runs.read_curves(several)[tag], runs.read_curves(one)[tag]
        assert new == pytest.approx(old, rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_a_repeated_task_is_played_by_other_members(tiny_model_dir: str, tmp_path: Path) -> None:
    """Two tasks for four groups: both ranks play both, and no two episodes are the same."""
    settings = {"rollout__environment__num_tasks": 2, "data__groups": 4, "trainer__max_epochs": 1}
    settings |= {"trainer__limit_val_batches": 0}
    one = in_one_process(tmp_path / "one", tiny_model_dir, **settings)
    several = runs.fit_ranks(tmp_path / "two", tiny_model_dir, DDP, **(SETTINGS | settings))
    [pool], [other] = read(one)[0], read(several)[0]
    assert pool["actions"] == other["actions"]
    assert len({tuple(ids) for ids in pool["actions"]}) == len(pool["actions"])


@pytest.mark.slow
def test_a_failure_on_one_rank_ends_all_at_once(tiny_model_dir: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"rank 1 failed with FloatingPointError"):
        runs.fit_ranks(
            tmp_path,
            tiny_model_dir,
            DDP,
            **(SETTINGS | {"trainer__callbacks+": "tests.helpers.rank_probe.BrokenSampler"}),
        )


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2])
def test_a_signal_to_one_rank_stops_all(strategy: str, one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """The second rank alone is told to stop in the first of two iterations; what it saved resumes."""
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.SignalOnRankOne"}
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, strategy, **(SETTINGS | probe))
    assert set(runs.read_curves(stopped)["rollout/return"]) == {1}, "one iteration was played"
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, strategy, ckpt_path=checkpoint, **SETTINGS)
    assert_same_run(one, resumed)


@pytest.mark.slow
def test_all_ranks_break_a_validation_off_together(one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """The second rank alone is told to stop in the validation behind the first iteration, which is saved."""
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.SignalInValidation"}
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, DDP, **(SETTINGS | probe))
    curves = runs.read_curves(stopped)
    assert set(curves["rollout/return"]) == {1} and "val/success_rate" not in curves
    assert "the validation of iteration 1 is broken off" in (tmp_path / "a" / "output0.txt").read_text()
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, DDP, ckpt_path=checkpoint, **SETTINGS)
    assert_same_run(one, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2])
def test_all_ranks_drop_an_iteration_together(strategy: str, one: Path, tiny_model_dir: str, tmp_path: Path) -> None:
    """The second rank alone is told to stop, in the second iteration, which does not fit into no time at all: 143 is
    what all processes leave, rank 0 says it, and the first iteration's checkpoint goes on as the unbroken run."""
    probe = {"trainer__callbacks+": "tests.helpers.rank_probe.SignalOnRankOne"}
    probe |= {"trainer__callbacks__init_args__iteration": 1, "graceful_stop__seconds": 0}
    stopped = runs.fit_ranks(tmp_path / "a", tiny_model_dir, strategy, exit_code=143, **(SETTINGS | probe))
    assert "SIGTERM: iteration 2 is dropped (" in (tmp_path / "a" / "output0.txt").read_text()
    assert set(runs.read_curves(stopped)["rollout/return"]) == {1}, "one iteration was finished"
    checkpoint = stopped / "checkpoints" / "last.ckpt"
    resumed = runs.fit_ranks(tmp_path / "b", tiny_model_dir, strategy, ckpt_path=checkpoint, **SETTINGS)
    assert_same_run(one, resumed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", [DDP, FSDP2])
def test_bfloat16_arithmetic_on_two_ranks(strategy: str, tiny_model_dir: str, tmp_path: Path) -> None:
    """Sampler, scoring and trainer see one policy: their log-probs differ by bfloat16's rounding, not by more."""
    several = runs.fit_ranks(tmp_path, tiny_model_dir, strategy, trainer__precision="bf16-mixed", **SETTINGS)
    assert 0 < max(runs.read_curves(several)["rollout/sampler_gap"].values()) < 0.02

"""The arithmetic of an iteration against numbers worked out by hand, and the simulation against small cases."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import mean

import pytest
import torch
from jsonargparse import Namespace
from transformers import AutoModelForCausalLM

from paw_lightning import ranks
from paw_lightning.commands.estimating import costs
from paw_lightning.commands.estimating.bottleneck import Bottleneck, bottleneck, sentences
from paw_lightning.commands.estimating.costs import Reader, Trainer
from paw_lightning.commands.estimating.devices import DEVICES, Device, device
from paw_lightning.commands.estimating.iteration import Plan, Seconds, Servers, play, seconds
from paw_lightning.commands.estimating.playing import (
    REQUEST_SECONDS,
    Played,
    Worlds,
    at_their_own_pace,
    in_lock_step,
)
from paw_lightning.commands.estimating.reading import _servers, cache_of_a_server, gpus_of_a_server
from paw_lightning.commands.estimating.shapes import SIZES, Shape, config_of, shape_of
from paw_lightning.commands.estimating.work import Work, dealt, drawn, episodes

SMALL = Shape(backbone=10, head=4, layers=2, attention=3, remembered=6, vocabulary=5, total=20)
SLOW = Device(
    tflops=1e-9,  # 1,000 operations a second
    tflops_fp32=5e-10,
    bandwidth=1e-6,  # 1,000 bytes a second
    memory=1.0,
    link=4e-6,
    node_link=1e-6,
    per_node=4,
    pcie=1e-6,
    disk=2e-6,
    train_share=0.25,
    read_share=0.5,
    bandwidth_share=0.5,
    link_share=0.5,
    call_us=1e6,
    server_call_us=5e5,
)
WORK = Work(
    groups=2,
    group_size=4,
    turns=3.0,
    most_turns=3,
    action=5.0,
    most_action=5,
    prompt=70.0,
    observation=2.0,
    growing=True,
    passes=1,
    micro_batches=2,
    optimizer_steps=1,
    padding=0.0,
)
STEPS = replace(WORK, growing=False)


class Counted:
    """A model that reads a token in a second, and writes a step in ten."""

    def read(self, tokens: float, seen: float, predicted: float) -> float:
        return tokens

    def join(self, tokens: float, seen: float) -> float:
        return tokens

    def write(self, rows: float, remembered: float) -> float:
        return 10.0


class ByRow(Counted):
    """Reads for nothing; a step takes a second for each row."""

    def read(self, tokens: float, seen: float, predicted: float) -> float:
        return 0.0

    def join(self, tokens: float, seen: float) -> float:
        return 0.0

    def write(self, rows: float, remembered: float) -> float:
        return rows


# Work


def test_growing_transcripts_by_hand() -> None:
    """70 tokens before the third action are 3 f + 2 x 5: f = 20. A row has 3 x 25, and 2 of the last observation."""
    assert WORK.fresh == 20
    assert [WORK.context(turn) for turn in range(3)] == [20, 45, 70]
    assert [WORK.read(turn) for turn in range(2)] == [5, 20], "a group's first prompt is read once for four"
    assert (WORK.rows, WORK.scored_row, WORK.trained_row, WORK.predicted) == (8, 75, 77, 21)
    assert WORK.generated == 8 * 3 * 5
    assert replace(WORK, prompt=3.0).fresh == 1


def test_rows_of_turns_by_hand() -> None:
    assert [STEPS.context(turn) for turn in range(2)] == [70, 70]
    assert [STEPS.read(turn) for turn in range(2)] == [17.5, 70]
    assert (STEPS.rows, STEPS.scored_row, STEPS.trained_row, STEPS.predicted) == (24, 75, 77, 7)


@pytest.mark.parametrize(("mean_", "most"), [(25, 50), (120, 512), (5.7, 12), (45, 50)])
def test_drawn_lengths_have_the_mean_and_the_limit(mean_: float, most: int) -> None:
    dice = random.Random(1)
    lengths = [drawn(dice, mean_, most) for _ in range(4000)]
    assert mean(lengths) == pytest.approx(mean_, rel=0.05)
    assert min(lengths) >= 1 and max(lengths) <= most and len(set(lengths)) > 3
    assert drawn(dice, most, most) == most == drawn(dice, most + 1, most)


def test_episodes_are_those_of_one_rank_and_dealt_as_a_run_deals_them(monkeypatch) -> None:
    work = replace(WORK, groups=5, turns=2.0, action=2.0)
    drawn_ = episodes(work, seed=3)
    assert drawn_ == episodes(work, seed=3) != episodes(work, seed=4)
    assert len({str(episode) for group in drawn_ for episode in group}) > 10, "members of a group differ"
    assert [e for share in dealt(drawn_, 3) for e in share] == [e for group in drawn_ for e in group]
    for size in (1, 3, 8):
        for rank, share in enumerate(dealt(drawn_, size)):
            monkeypatch.setattr(ranks, "world", lambda rank=rank, size=size: (rank, size))
            assert share == [e for group in drawn_[ranks.rank_slice(5)] for e in group]


# Costs


def test_operations_by_hand() -> None:
    """2 x (10 x 5 + 4 x 1) = 108 for weights; 4 x 2 layers x 3 numbers x 2 seen x 5 tokens = 240."""
    assert costs.forward_operations(SMALL, tokens=5, seen=2, predicted=1) == 348


def test_a_writing_step_by_hand() -> None:
    """Reached: 500 operations and 500 bytes a second, 1 s for each of two layers' calls.

    3 rows: 2 x 3 x 14 / 500 = 0.168 s, more than the weights' 14 x 2 / 500 = 0.056 s. 10 tokens' keys and values are
    10 x 6 x 2 bytes: 0.24 s. Three draws of 5 words of 64 bytes: 1.92 s.
    """
    reader = Reader(SLOW, SMALL, element=2, most=100)
    assert reader.write(3, 10) == pytest.approx(2 + 0.168 + 0.24 + 1.92)
    assert reader.write(0.1, 0) == pytest.approx(2 + 0.056 + 0.064), "the weights are read for however few rows"


def test_a_server_split_over_two_by_hand() -> None:
    """Half of all times; calls of 0.5 s and two sums of 15 us for each of two layers; it draws with its own kernels."""
    server = Reader(SLOW, SMALL, element=2, most=100, server=True, gpus=2)
    assert server.write(3, 10) == pytest.approx(2 * (0.5 + 30e-6) + 0.084 + 0.12)
    assert server.join(5, 2) == pytest.approx(348 / 1000)


def test_reading_by_hand() -> None:
    """5 tokens in calls of at most 2 are three calls: 3 x 2 s, and 348 / 500 s of multiplying; float32: twice that.

    Two calls of little work read 14 x 2 bytes twice: 0.112 s.
    """
    reader = Reader(SLOW, SMALL, element=2, most=2)
    assert reader.read(5, 2, 1) == pytest.approx(6 + 0.696)
    assert Reader(SLOW, SMALL, element=4, most=2).read(5, 2, 1) == pytest.approx(6 + 1.392)
    assert reader.read(2.2, 0, 0) == pytest.approx(4 + 0.112)
    assert reader.read(0, 0, 1) == 0


def trainer(gpus: int = 1, **changes: object) -> Trainer:
    usual = {"sharded": False, "bits": 16, "weights": 40.0, "gradients": 40.0, "optimizer": 80.0}
    return Trainer(SLOW, changes.pop("shape", SMALL), gpus, checkpointing=False, **{**usual, **changes})  # type: ignore[arg-type]


def test_an_update_by_hand() -> None:
    """8 rows of 77 tokens that see 38.5, 21 of them read by the head.

    Backbone: 2 x 10 x 616 + 4 x 2 x 3 x 38.5 x 616 = 12,320 + 569,184 = 581,504, three times; head 4 x 2 x 4 x 21 x 8
    = 5,376. All over 250 a second. Two micro-batches of 3 passes through 2 layers: 12 s. The optimizer moves
    3 x 40 + 2 x 80 bytes at 500 a second: 0.56 s.
    """
    one = trainer()
    assert one.operations(WORK, 8) == 3 * 581_504 + 5_376
    assert one.computing(WORK) == pytest.approx(12 + 1_749_888 / 250)
    assert one.optimizing(WORK) == pytest.approx(0.56)
    assert one.update(WORK) == pytest.approx(12 + 1_749_888 / 250 + 0.56)
    assert one.exchanging(WORK) == 0 == one.gathering()


def test_muon_multiplies_in_every_step() -> None:
    """2,000 operations at 250 a second: 8 s more a step; ranks do not share them."""
    muon = trainer(orthogonalizing=2_000.0)
    assert muon.optimizing(WORK) == pytest.approx(0.56 + 8)
    assert replace(muon, gpus=2, sharded=True).optimizing(WORK) == pytest.approx(0.28 + 8)
    assert replace(muon, bits=32).optimizing(WORK) == pytest.approx(0.56 + 8), "bfloat16, whatever the weights are"
    assert muon.optimizing(replace(WORK, optimizer_steps=3)) == pytest.approx(3 * (0.56 + 8))


def test_what_changes_the_operations() -> None:
    """Recomputing is a fourth pass; adapters leave two of three, and three of the head's four; padding is read too."""
    base, head = 581_504, 1_344
    plain = trainer()
    assert replace(plain, checkpointing=True).operations(WORK, 8) == 4 * base + 4 * head
    assert trainer(shape=replace(SMALL, adapters=1)).operations(WORK, 8) == 2 * base + 3 * head
    assert replace(plain, backbones=2).operations(WORK, 8) == 6 * base + 4 * head
    assert plain.operations(replace(WORK, padding=0.5), 8) == 6 * base + 4 * head
    assert replace(plain, bits=32).computing(WORK) == pytest.approx(12 + 1_749_888 / 125)


def test_ranks_share_rows_but_none_has_less_than_one_a_micro_batch() -> None:
    assert trainer(2).computing(WORK) == pytest.approx(12 + 1_749_888 / 2 / 250)
    assert trainer(64).computing(WORK) == pytest.approx(12 + 1_749_888 / 4 / 250), "2 rows of 8"


def test_what_goes_over_the_links_by_hand() -> None:
    """2,000 bytes a second within a machine of four, 500 between two machines.

    DDP: twice 40 bytes, of which each of 4 ranks has a quarter itself: 60 / 2,000. Sharded, in each of two
    micro-batches 2 x 40 + 40. Two machines of 4: 7/8 of all at 500.
    """
    assert trainer(4).exchanging(WORK) == pytest.approx(0.03)
    assert trainer(4, sharded=True).exchanging(WORK) == pytest.approx(2 * 120 * 0.75 / 2000)
    assert trainer(8, sharded=True).exchanging(WORK) == pytest.approx(2 * 120 * 0.875 / 500)
    assert trainer(8, sharded=True).gathering() == pytest.approx(40 * 0.875 / 500)
    assert trainer(8).gathering() == 0, "whole models are everywhere"
    assert trainer(4, sharded=True).optimizing(WORK) == pytest.approx(0.14)
    slow_links = replace(trainer(8, sharded=True), weights=1e9)
    assert slow_links.update(WORK) == slow_links.exchanging(WORK) + slow_links.optimizing(WORK)


def test_sending_weights_by_hand() -> None:
    """100 bytes are written at 2,000 a second, and by each of three servers read and put, 60 bytes, over the bus."""
    assert costs.sending(SLOW, sent=100, held=60, servers=3) == pytest.approx(0.05 + 3 * (0.05 + 0.06))
    assert costs.sending(SLOW, 100, 60, 0) == 0


@pytest.mark.parametrize(("way", "took"), [("ipc", 3 * 160 / 500), ("nccl", 3 * 100 / 2_000)])
def test_weights_that_pass_by_the_folder_by_hand(way: str, took: float) -> None:
    """Memory and links reach half of 1,000 and 4,000 bytes a second."""
    assert costs.sending(SLOW, sent=100, held=60, servers=3, way=way) == pytest.approx(took)


@pytest.mark.parametrize(("adapters", "way"), [(0, "nccl"), (1, "disk")])
def test_the_way_of_the_weights_is_the_settings(adapters: int, way: str) -> None:
    """An adapter goes through the folder always."""
    sampler = Namespace(class_path="VLLMSampler", init_args=Namespace(transfer="nccl"))
    config = Namespace(rollout=Namespace(sampler=sampler))
    found = _servers(config, None, replace(SMALL, adapters=adapters), trainer(1))
    assert found.way == way
    made = replace(plan(1, servers=1), servers=found)
    base = Seconds(reading=1, writing=1, environment=1, idle=1, scoring=1, update=1, sync=9)
    assert ("through a file" in bottleneck(made, base).advice) == (way == "disk")


def test_scoring_and_the_exchange_of_episodes_by_hand() -> None:
    """On two ranks 4 rows of 75 tokens each, 15 of them actions; all 8 x 77 tokens of 40 bytes go to both."""
    reader = Reader(SLOW, SMALL, element=2, most=1000)
    assert costs.scoring(WORK, reader, 2) == reader.read(300, 37.5, 60)
    assert costs.scoring(replace(WORK, passes=2), reader, 2) == 2 * reader.read(300, 37.5, 60)
    assert costs.scoring(replace(STEPS, passes=1), reader, 1) == reader.read(24 * 75, 37.5, 24 * 5)
    assert costs.exchange_of_episodes(WORK, 2) == 616 * 40 / 1e8
    assert costs.exchange_of_episodes(WORK, 1) == 0


def test_a_server_takes_as_many_devices_as_hold_its_weights() -> None:
    """60 % of 80 GiB are 51.5 GB: 70B in bfloat16, 139 GB without its looked-up embeddings, take four."""
    shapes = {size: shape_of(meta(size)) for size in ("7B", "70B")}
    assert {size: gpus_of_a_server(shape, DEVICES["H100"]) for size, shape in shapes.items()} == {"7B": 1, "70B": 4}
    server = Reader(SLOW, SMALL, element=2, most=1, gpus=2)
    assert cache_of_a_server(server) == pytest.approx((0.9 * 2 * 2**30 - 28) / 12)


# Shapes and devices


def meta(size: str):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config_of(size))


@pytest.mark.parametrize(
    ("size", "total"),
    [
        ("0.5B", 494_032_768),
        ("1.5B", 1_543_714_304),
        ("3B", 3_085_938_688),
        ("7B", 7_615_616_512),
        ("14B", 14_770_033_664),
        ("32B", 32_763_876_352),
        ("70B", 70_553_706_496),
    ],
)
def test_well_known_sizes_have_their_published_number_of_parameters(size: str, total: int) -> None:
    shape, config = shape_of(meta(size)), SIZES[size]
    assert shape.total == total
    tied = config["tie_word_embeddings"]
    assert shape.backbone + shape.head * (1 if tied else 2) == total
    assert (shape.head, shape.attention) == (config["vocab_size"] * config["hidden_size"], config["hidden_size"])
    heads = config["hidden_size"] // config["num_attention_heads"] * config["num_key_value_heads"]
    assert shape.remembered == 2 * heads * shape.layers


def test_a_device_takes_better_figures() -> None:
    better = device("H100", {"tflops": 500.0, "link": None})
    assert (better.tflops, better.link) == (500.0, DEVICES["H100"].link)
    assert (better.speed(16), better.speed(32)) == (500e12, 67e12)


# Playing


def test_lock_step_by_hand() -> None:
    """Turn one: both rows read 20 / 4 tokens; 3 steps. Turn two: one row reads 20; 1 step. No world takes time."""
    played = in_lock_step([[3, 1], [2]], WORK, Counted(), Worlds(), None)
    assert (played.reading, played.writing, played.environment) == (2 * 5 + 20, 3 * 10 + 10, 0)
    assert (played.tokens, played.places) == (6, 2 * 2 + 1 + 1)


def test_ended_rows_leave_when_they_are_half() -> None:
    """4 rows write until two are left (3 steps), two until one is (4 more), one to the end (1 more).

    Seconds by rows: 4 x 3 + 2 x 4 + 1 = 21; of these places 1 + 3 + 7 + 8 = 19 held tokens.
    """
    played = in_lock_step([[1], [3], [7], [8]], WORK, ByRow(), Worlds(), None)
    assert (played.writing, played.places, played.tokens) == (21, 21, 19)
    assert in_lock_step([[4], [4], [4]], WORK, ByRow(), Worlds(), None).writing == 12


def test_what_the_cache_does_not_hold_is_written_afterwards() -> None:
    """A row takes 20 + 5 places: 50 are room for two at a time, so that four take twice as many steps."""
    four = [[5]] * 4
    assert in_lock_step(four, WORK, Counted(), Worlds(), None).writing == 50
    assert in_lock_step(four, WORK, Counted(), Worlds(), 50).writing == 100
    assert in_lock_step(four, WORK, Counted(), Worlds(), 1).writing == 200, "one at a time at the least"


def test_worlds_of_one_turn_step_one_after_the_other_or_side_by_side() -> None:
    apart, together = Worlds(1.0), Worlds(1.0, side_by_side=True)
    sums = [apart.turn(random.Random(i), 8) for i in range(400)]
    longest = [together.turn(random.Random(i), 8) for i in range(400)]
    assert mean(sums) == pytest.approx(8, rel=0.1)
    assert mean(longest) == pytest.approx(sum(1 / k for k in range(1, 9)), rel=0.1), "the harmonic number of 8"
    assert Worlds().turn(random.Random(0), 8) == 0


def test_own_pace_by_hand() -> None:
    """Two rows join after 5 tokens each: 10 s. One ends after 2 steps, one after 3; its second turn reads 20, 1 step.

    The server waits for a request and the next in between twice: behind the last answer of each turn of the longer one.
    """
    played = at_their_own_pace([[3, 1], [2]], WORK, Counted(), Worlds(), None, connections=8)
    assert played.reading == 10 + 20
    assert played.writing == pytest.approx(30 + 10)
    assert played.environment == pytest.approx(2 * REQUEST_SECONDS)
    assert played.tokens == 6 and played.places == pytest.approx(2 * 2 + 1 + 1)


def test_what_is_read_sees_what_was_there() -> None:
    """The first 20 tokens see 10 on average, though a quarter of them counts; the next 20 see the 25 and 10 more."""
    seen: list[float] = []

    class Seeing(Counted):
        def read(self, tokens: float, seen_: float, predicted: float) -> float:
            seen.append(seen_)
            return 0.0

        def join(self, tokens: float, seen_: float) -> float:
            return self.read(tokens, seen_, 1)

    in_lock_step([[5, 5]], WORK, Seeing(), Worlds(), None)
    at_their_own_pace([[5, 5]], WORK, Seeing(), Worlds(), None, 1)
    assert seen == [10, 35] * 2


def test_what_is_remembered_is_that_of_the_running_rows() -> None:
    """One row at a time: each begins with its own 20 tokens, whatever was written before."""
    held: list[float] = []

    class Holding(Counted):
        def write(self, rows: float, remembered: float) -> float:
            held.append(remembered)
            return 10.0

    at_their_own_pace([[5], [5]], WORK, Holding(), Worlds(), None, connections=1)
    assert held[0] == 20 == held[-1]


def test_a_row_that_comes_back_joins_in_mid_action() -> None:
    """The other row needs five steps in all, whoever comes and goes meanwhile."""
    played = at_their_own_pace([[1, 1], [5]], WORK, Counted(), Worlds(), None, connections=8)
    assert played.writing == pytest.approx(50)
    assert played.places == pytest.approx(5 + 1 + 1)


def test_connections_and_room_bound_what_runs_together() -> None:
    """ByRow writes nobody faster for company: 4 rows of 5 take 20 s however many run, but places show how many did."""
    four = [[5]] * 4
    for connections, room in ((4, None), (1, None), (4, 26.0)):
        assert at_their_own_pace(four, WORK, ByRow(), Worlds(), room, connections).writing == pytest.approx(20)
    steps = [
        at_their_own_pace(four, WORK, Counted(), Worlds(), room, connections).writing / 10
        for connections, room in ((4, None), (2, None), (1, None), (4, 26.0))
    ]
    assert steps == pytest.approx([5, 10, 20, 20])


def test_nobody_waits_for_the_slowest_world_at_their_own_pace() -> None:
    """A turn lasts as long as its slowest world in lock step; with 16 of them a good deal longer than the mean."""
    sixteen, work, worlds = [[5] * 8] * 16, replace(WORK, turns=8.0, most_turns=8), Worlds(50.0, side_by_side=True)
    together = in_lock_step(sixteen, work, ByRow(), worlds, None).total
    apart = at_their_own_pace(sixteen, work, ByRow(), worlds, None, 16).total
    assert apart < 0.8 * together
    assert apart >= 16 * 8 * 5, "what has to be written is written"


# The whole iteration


def plan(gpus: int = 1, servers: int = 0, **changes: object) -> Plan:
    reader = Reader(SLOW, SMALL, element=2, most=1000)
    asked = Servers(servers, connections=64, sent=100.0, held=60.0) if servers else None
    made = Plan(WORK, trainer(gpus), reader, Worlds(), None, asked, replace(reader, server=True) if servers else None)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_an_iteration_is_its_parts() -> None:
    found = seconds(plan(2))
    assert found.total == found.play + found.scoring + found.update + found.sync
    assert found.play == max(p.total for p in play(plan(2)))
    assert found.sync == costs.exchange_of_episodes(WORK, 2)
    assert found.player_busy + found.trainer_busy < 1
    sharded = trainer(2, sharded=True)
    assert seconds(replace(plan(2), trainer=sharded)).sync == found.sync + sharded.gathering() > found.sync
    with_servers = seconds(plan(2, servers=1))
    assert with_servers.sync - found.sync == pytest.approx(costs.sending(SLOW, 100, 60, 1))


def test_a_rollout_that_is_played_ahead_hides_behind_the_update() -> None:
    """max(3 + 4 + 0 + 1, 2 + 10) + 5 instead of the sum."""
    parts = Seconds(reading=3, writing=4, environment=0, idle=1, scoring=2, update=10, sync=5)
    assert (parts.total, replace(parts, ahead=True).total) == (25, 17)
    assert parts.player_busy == 7 / 25


def test_ranks_without_a_group_are_idle() -> None:
    """Two groups on four ranks: half of them play nothing, so the mean rank plays half as long as the longest."""
    found = seconds(plan(4))
    assert found.idle == pytest.approx(found.play / 2, rel=0.05)
    assert seconds(plan(1)).idle == 0


def test_a_rank_asks_one_server() -> None:
    """Rank r asks server r modulo their count: of three servers two ranks leave one alone."""
    played = play(plan(2, servers=3))
    assert [p.tokens > 0 for p in played] == [True, True, False]
    assert sum(p.tokens for p in played) == play(plan(2, servers=1))[0].tokens == 8 * 3 * 5


def test_the_longest_phase_and_its_key() -> None:
    made = plan(1)
    base = Seconds(reading=1, writing=1, environment=1, idle=1, scoring=1, update=1, sync=1)
    keys = {
        "writing": "rollout.max_action_tokens",
        "environment": "WorkerEnv",
        "idle": "more data.groups",
        "scoring": "rollout.scoring_tokens",
        "update": "fewer data.groups",
        "sync": "strategy/ddp",
    }
    for phase, key in keys.items():
        found = bottleneck(made, replace(base, **{phase: 9}))
        assert found.phase == ("generation" if phase == "writing" else phase)
        assert key in found.advice and found.share == pytest.approx((10 if phase == "writing" else 9) / 15)
    assert "data.groups is 2" in bottleneck(plan(4), replace(base, idle=9)).advice
    assert "/dev/shm" in bottleneck(plan(1, servers=1), replace(base, sync=9)).advice
    assert "more rollout.sampler.urls" in bottleneck(plan(2, servers=1), replace(base, writing=9)).advice
    assert "as many as ranks" in bottleneck(plan(1, servers=1), replace(base, writing=9)).advice
    links = replace(made, trainer=replace(trainer(4, sharded=True), weights=1e9))
    assert "accumulate_grad_batches" in bottleneck(links, replace(base, update=9)).advice


def test_what_is_hidden_is_no_bottleneck() -> None:
    """Played ahead, playing takes 13 s and training 2: the update does not count, nor playing where it is shorter."""
    base = Seconds(reading=9, writing=4, environment=0, idle=0, scoring=0, update=14, sync=1, ahead=True)
    assert bottleneck(plan(), base).phase == "update"
    assert bottleneck(plan(), replace(base, update=12.5)).phase == "generation"
    assert bottleneck(plan(), replace(base, ahead=False, update=12.5)).phase == "generation"
    assert bottleneck(plan(), replace(base, update=14, ahead=False)).phase == "update"


def test_a_hidden_phase_does_not_count_however_long_it_is() -> None:
    """13 s of generation hide behind 6 + 8 s of training; 13 s of update behind 6 + 8 s of playing."""
    base = Seconds(reading=13, writing=0, environment=0, idle=0, scoring=6, update=8, sync=1, ahead=True)
    assert bottleneck(plan(), base).phase == "update"
    assert bottleneck(plan(), replace(base, reading=6, environment=8, scoring=0, update=13)).phase == "environment"


def test_neighbours_share_a_sentence() -> None:
    told = [Bottleneck("update", 0.5, "a"), Bottleneck("update", 0.61, "a"), Bottleneck("sync", 0.7, "b")]
    assert sentences([1, 2, 4], told) == [
        "on 1, 2: update takes 50 to 61 % of the iteration; a",
        "on 4: sync takes 70 % of the iteration; b",
    ]


def test_playing_is_what_was_read_written_and_waited_for() -> None:
    assert Played(1.0, 2.0, 4.0).total == 7

"""RolloutFiles: what the files hold is what was played and learnt, and when they are written."""

from __future__ import annotations

import functools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from transformers import AutoModelForCausalLM

from paw_lightning.callbacks import RolloutFiles
from paw_lightning.callbacks.target_readings import Reading, write_readings
from paw_lightning.errors import SettingsError
from paw_lightning.rollout_files import RecordedEpisode, RecordedTurn, RolloutFile, read
from paw_lightning.rollout_files import rollout_files as files_of
from paw_lightning.rollout_files.run import RecordedRun
from paw_lightning.rollouts.recording import record
from paw_lightning.training.module import PaWModule
from paw_lightning.whole_files import PART
from tests.helpers import runs
from tests.helpers.toy_env import ToyEnv
from tests.helpers.updates import make_rollout

STILL = {
    "model__optimizer": "torch.optim.SGD",
    "model__optimizer__init_args__lr": 0.0,
    "canaries__enabled": False,  # which would miss the step
    "trainer__max_epochs": 1,
    "trainer__limit_val_batches": 0,
    "policy_export__folder": None,
    "reward_balance__coefficient": "constant",
    "reward_balance__value": 0.3,
    "model__world_model_loss__rho": 0.004,
}
"""A run whose weights stay as they are, so that every log-prob can be computed anew."""
KINDS: dict[str, dict[str, Any]] = {
    "step": {"rollout__layout": "step"},
    "episode": {"rollout__layout": "episode"},
    "placebo": {"rollout__layout": "episode", "target_control__targets": "shuffled"},
    "placebo, step": {"rollout__layout": "step", "target_control__targets": "random_tokens"},
}


@pytest.fixture
def fit(tiny_model_dir: str, tmp_path: Path) -> Any:
    return functools.partial(runs.fit, tmp_path, tiny_model_dir)


def files(cli: Any) -> dict[str, RolloutFile]:
    """What a run wrote, by the files' names."""
    return {path.name.removesuffix(".jsonl.gz"): read(path) for path in files_of(runs.log_dir(cli))}


def with_contexts(episode: RecordedEpisode) -> Iterator[tuple[RecordedTurn, list[int]]]:
    """Each turn, and all token ids that its action's row holds before the observation."""
    before: list[int] = []
    for turn in episode.turns:
        row = (turn.prompt_ids or before + turn.turn_ids) + turn.action_ids + turn.bridge_ids
        yield turn, row
        before = row + turn.observation_ids


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_what_the_training_forward_read(kind: str, fit: Any, tiny_model_dir: str) -> None:
    """Against a plain forward of each text by itself; 0.3 / (2 groups x selected of the group x |o|) x 2 steps."""
    [file] = files(fit(**STILL, **KINDS[kind])).values()
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    selected = {g: sum(t.selected for e in file.episodes if e.group == g for t in e.turns) for g in (0, 1)}
    steps, active = set(), set()
    for episode in file.episodes:
        for turn, context in with_contexts(episode):
            if not turn.selected:
                assert turn.target_logprobs is turn.target_step is turn.target_weight is turn.loss_weights is None
                continue
            target = turn.observation_ids if turn.control_ids is None else turn.control_ids
            logits = model(torch.tensor([context + target])).logits[0, len(context) - 1 : -1]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(target)[:, None])[:, 0]
            assert turn.target_logprobs == pytest.approx(expected.tolist(), abs=1e-5)
            share = 0.3 / (2 * selected[episode.group] * len(target))
            assert turn.target_weight == pytest.approx(2 * share, rel=1e-6)
            chances = [math.exp(p) for p in turn.target_logprobs]
            assert turn.loss_weights == pytest.approx([p * (p <= 0.004) for p in chances], rel=1e-3)
            steps.add(turn.target_step)
            active |= {p <= 0.004 for p in chances}
    assert steps == {0, 1} and active == {True, False}
    assert sum(selected.values()) > 10


def test_a_horizon_reads_what_is_not_selected_too(fit: Any) -> None:
    """With two steps ahead the observation after a selected one is a target; the first reading is that of its step."""
    [file] = files(fit(**STILL, data__world_model_horizon=2, entropy_selection__alpha=0.3)).values()
    for episode in file.episodes:
        before = False
        for turn in episode.turns:
            assert (turn.target_logprobs is not None) is (turn.selected or before)
            before = turn.selected
    assert any(t.target_logprobs and not t.selected for e in file.episodes for t in e.turns)


def test_of_several_readings_the_first_counts() -> None:
    """In the order of the optimizer steps, whichever rank has read: the second turn was read in steps 1 and 0."""
    rollout = make_rollout()
    episodes = record(rollout.groups)
    readings = [
        Reading(1, 0, 0.5, [-1.0], [0.1]),
        Reading(1, 1, 0.25, [-2.0], [0.2]),
        Reading(4, 1, 0.125, [-3.0], [0.3]),
    ]
    write_readings(readings, episodes)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert [turn.target_step for turn in turns] == [None, 0, None, None, 1, None]
    assert (turns[1].target_weight, turns[1].target_logprobs, turns[1].loss_weights) == (0.5, [-1.0], [0.1])


class Witness(L.Callback):
    """Keeps the rollouts of a run as they are when its iterations are over."""

    seen: ClassVar[list[Any]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        [loop] = [c for c in trainer.callbacks if type(c).__name__ == "EnvironmentLoop"]  # type: ignore[attr-defined]
        Witness.seen.append(loop._rollout)


def test_a_file_holds_what_was_played_and_decided(fit: Any) -> None:
    """Every field of transitions, episodes and groups, with a critic, a reference and a control."""
    Witness.seen = []
    settings = runs.PPO | {
        "model__policy_loss__kl_coefficient": 0.1,
        "rollout__layout": "episode",
        "target_control__targets": "shuffled",
        "rollout__environment__init_args__nuisance": True,
        "trainer__callbacks+": "tests.callbacks.test_rollout_files.Witness",
        "trainer__limit_val_batches": 0,
    }
    written = files(fit(**settings))
    assert list(written) == ["train-000001", "train-000002"]
    for rollout, file in zip(Witness.seen, written.values(), strict=True):
        assert len(file.episodes) == 6
        pairs = zip(rollout.episodes, file.episodes, strict=True)
        for place, (episode, recorded) in enumerate(pairs):
            group = rollout.groups[place // 3]
            assert (recorded.group, recorded.group_key) == (place // 3, group.group_key)
            assert (recorded.coefficient, recorded.max_return) == (group.coefficient, 1.0)
            assert (recorded.task, recorded.won, recorded.member) == (episode.task, episode.won, place % 3)
            for t, turn in zip(episode.transitions, recorded.turns, strict=True):
                for name in vars(t).keys() - {"nuisance_spans"}:
                    value = getattr(t, name)
                    assert getattr(turn, name) == (value.tolist() if isinstance(value, torch.Tensor) else value), name
                assert turn.nuisance_spans == [[0, 4]]
                assert turn.reference_logprobs and turn.old_values and turn.value_targets and turn.token_advantages
        assert any(t.control_ids for e in file.episodes for t in e.turns)


def test_the_header_says_what_played(fit: Any, tiny_model_dir: str) -> None:
    cli = fit(**STILL | {"trainer__max_epochs": 2, "model__optimizer__init_args__lr": 0.1})
    first, second = (file.header for file in files(cli).values())
    assert (first.split, first.iteration, second.iteration, first.temperature) == ("train", 1, 2, 1.0)
    assert (first.model, first.layout, first.advantage, first.seed) == (tiny_model_dir, "StepLayout", "GRPO", 0)
    assert first.environment == first.settings["rollout.environment"] == "tests.helpers.toy_env.ToyEnv"
    assert first.settings["rollout.environment.init_args.num_tasks"] is None
    assert (first.world_model_loss, first.rho) == ("ClippedMAE", 0.004)
    assert first.weights != second.weights and len(first.weights) == 16
    assert first.reference is first.critic is None
    curves = runs.curves(cli)
    for header in (first, second):
        for tag in ("rollout/return", "wm/selected_fraction"):
            assert header.metrics[tag] == pytest.approx(curves[tag][header.iteration])
    assert first.seconds["generation"] > 0
    # Texts of single tokens make up the whole: the tiny model's are bytes.
    for episode in files(cli)["train-000001"].episodes:
        for turn in episode.turns:
            text = "".join(first.texts[i] for i in turn.observation_ids)
            assert text == turn.observation_text


def test_a_file_is_there_before_any_checkpoint_of_its_iteration(fit: Any) -> None:
    cli = fit(trainer__max_epochs=1)
    folder = runs.log_dir(cli)
    times = {name: (folder / name).stat().st_mtime_ns for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt")}
    assert (folder / "rollouts" / "train-000001.jsonl.gz").stat().st_mtime_ns < min(times.values())


def test_an_iteration_played_again_has_the_same_file(fit: Any, tmp_path: Path) -> None:
    """Resumed from the first iteration's checkpoint; all but the clocks is equal."""
    first = fit(trainer__max_epochs=1, trainer__limit_val_batches=0)
    (tmp_path / "copy.ckpt").write_bytes((runs.log_dir(first) / "checkpoints" / "last.ckpt").read_bytes())
    whole = [fit(trainer__limit_val_batches=0, ckpt_path=tmp_path / "copy.ckpt") for _ in range(2)]
    pairs = [files(cli)["train-000002"] for cli in whole]
    assert pairs[0].episodes == pairs[1].episodes
    for file in pairs:
        file.header.seconds = {}
        file.header.metrics = {tag: value for tag, value in file.header.metrics.items() if "time/" not in tag}
    assert pairs[0].header == pairs[1].header


def test_what_a_killed_run_left_is_cleared_away_by_the_next(fit: Any) -> None:
    folder = runs.log_dir(fit(trainer__max_epochs=1, trainer__limit_val_batches=0))
    part = folder / "rollouts" / f"train-000002.jsonl.gz{PART}"
    part.write_bytes(b"half")
    fit(trainer__limit_val_batches=0, ckpt_path=folder / "checkpoints" / "last.ckpt")
    assert [path.name for path in (folder / "rollouts").iterdir() if PART in path.name] == []
    assert len(files_of(folder)) == 2


QUICK = {"policy_export__folder": None, "trainer__num_sanity_val_steps": -1}


@pytest.fixture(scope="module")
def three(tiny_model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of three iterations that also has the checkpoint of the first."""
    fit = functools.partial(runs.fit, tmp_path_factory.mktemp("three"), tiny_model_dir, **QUICK)
    folder = runs.log_dir(fit(trainer__max_epochs=1))
    shutil.copy(folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "first.ckpt")
    return runs.log_dir(fit(trainer__max_epochs=3, ckpt_path=folder / "checkpoints" / "last.ckpt"))


@pytest.fixture
def gone_back(three: Path, fit: Any, tmp_path: Path) -> tuple[Path, Any]:
    """A copy of that folder, and what resumes the run there from its first iteration."""
    folder = shutil.copytree(three, tmp_path / "paw_lightning" / "version_0")
    return folder, functools.partial(fit, **QUICK, ckpt_path=folder / "checkpoints" / "first.ckpt")


ALL = [f"train-00000{n}" for n in (1, 2, 3)] + [f"val-00000{n}" for n in (0, 1, 2, 3)]


def names(folder: Path) -> list[str]:
    return [path.name.removesuffix(".jsonl.gz") for path in files_of(folder)]


def test_a_run_that_went_back_leaves_no_files_of_the_other_course(gone_back: Any, caplog: Any) -> None:
    """Of three iterations the second is played anew, otherwise: later files would belong to no run."""
    folder, fit = gone_back
    assert names(folder) == ALL
    with caplog.at_level("INFO"):
        fit(trainer__max_epochs=2, seed_everything=1)
    assert names(folder) == ["train-000001", "train-000002", "val-000000", "val-000001", "val-000002"]
    assert RecordedRun(folder).length == 2
    [line] = [message for message in caplog.messages if message.startswith("rollouts:")]
    assert line.startswith("rollouts: 2 files of later iterations are removed: the run went on from iteration 1,")


def test_without_an_iteration_that_is_finished_the_other_course_stays(
    gone_back: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is still the latest one; only the rollout whose update failed is new."""
    folder, fit = gone_back

    def fail(*_: Any) -> None:
        raise FloatingPointError("the gradient norm is nan")

    monkeypatch.setattr(PaWModule, "on_before_optimizer_step", fail)
    with pytest.raises(FloatingPointError):
        fit(trainer__max_epochs=3)
    assert names(folder) == ALL
    assert [bool(read(path).header.error) for path in files_of(folder)[:3]] == [False, True, False]


def test_a_replay_of_its_own_folder_keeps_what_it_will_read(gone_back: Any) -> None:
    """The third iteration reads a file that lies after the second, which is finished by then."""
    folder, fit = gone_back
    before = read(folder / "rollouts" / "train-000003.jsonl.gz").episodes
    fit(trainer__max_epochs=3, data__replay=folder)
    assert names(folder) == ALL
    assert read(folder / "rollouts" / "train-000003.jsonl.gz").episodes == before


def test_evaluations_have_files_of_their_own(fit: Any, tiny_model_dir: str, tmp_path: Path) -> None:
    """Before training, after each iteration, and a test of its checkpoint at two temperatures."""
    cli = fit(trainer__num_sanity_val_steps=-1)
    played = files(cli)
    assert list(played) == ["train-000001", "train-000002", "val-000000", "val-000001", "val-000002"]
    assert played["val-000000"].header.weights == played["train-000001"].header.weights
    assert played["val-000001"].header.weights == played["train-000002"].header.weights
    [turn, *_] = played["val-000002"].episodes[0].turns
    assert len(turn.sampled_logprobs) == len(turn.action_ids) > 0
    assert turn.old_logprobs is turn.target_logprobs is None and not turn.selected
    assert [episode.group for episode in played["val-000002"].episodes] == [0, 1, 2, 3]
    tested = runs.fit(
        tmp_path / "test",
        tiny_model_dir,
        command="test",
        ckpt_path=runs.log_dir(cli) / "checkpoints" / "last.ckpt",
        data__test_tasks=3,
        rollout__test_temperatures="[1.0, 0.25]",
    )
    assert list(files(tested)) == ["test-000002-t0.25", "test-000002-t1"]
    header = files(tested)["test-000002-t0.25"].header
    assert (header.split, header.temperature, header.iteration) == ("test", 0.25, 2)


def test_an_update_that_fails_leaves_its_rollout_and_a_replay_fails_alike(
    fit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its second optimizer step; what the first has read is there."""
    original = PaWModule.on_before_optimizer_step

    def fail(self: PaWModule, optimizer: Any) -> None:
        original(self, optimizer)
        if self.trainer.global_step == 3:
            raise FloatingPointError("the gradient norm is nan")

    monkeypatch.setattr(PaWModule, "on_before_optimizer_step", fail)
    with pytest.raises(FloatingPointError):
        fit(trainer__limit_val_batches=0)
    [run] = (tmp_path / "paw_lightning").iterdir()
    file = read(files_of(run)[1])
    assert (file.header.iteration, file.header.error) == (2, "FloatingPointError: the gradient norm is nan")
    steps = {turn.target_step for episode in file.episodes for turn in episode.turns if turn.selected}
    assert steps == {0, 1, None}, "the last micro-batch, whose step failed, was not read"
    with pytest.raises(FloatingPointError):
        fit(trainer__limit_val_batches=0, data__replay=run)


class FailsAtFirst(ToyEnv):
    """Its first step of all fails, and every step of task 1."""

    failed = False

    def step(self, action: str) -> Any:
        if not FailsAtFirst.failed:
            FailsAtFirst.failed = True
            raise ConnectionError("once")
        if self.seed == 1:
            raise ConnectionError("always")
        return super().step(action)


def test_failures_of_the_environment_are_recorded(fit: Any) -> None:
    FailsAtFirst.failed = False
    environment = {"rollout__environment": "tests.callbacks.test_rollout_files.FailsAtFirst"}
    [file] = files(fit(**STILL, **environment)).values()
    errors = [episode.errors for episode in file.episodes]
    assert [len(each) for each in errors] == [1, 0, 0]
    assert "step('" in errors[0][0] and "failed with ConnectionError: once" in errors[0][0]
    assert file.header.dropped_groups == 1
    assert "failed with ConnectionError: always" in file.header.failures[0]


def test_groups_that_were_left_out_are_recorded_as_such(fit: Any) -> None:
    [file] = files(fit(**STILL, data__dynamic_sampling=3, data__groups=3)).values()
    left_out = [episode.left_out for episode in file.episodes]
    assert left_out == sorted(left_out) and {*left_out} == {False, True}
    for episode in file.episodes:
        same = {e.episode_return for e in file.episodes if e.group == episode.group}
        assert (len(same) == 1) is episode.left_out


def test_the_folder_has_a_bound_and_one_warning_says_when_it_is_reached(fit: Any) -> None:
    """A file has about 6 kB: of six in 20 kB the first and the latest stay."""
    settings = {"rollout_files__max_megabytes": 0.02, "rollout_files__keep_last": 1, "trainer__max_epochs": 6}
    with pytest.warns(UserWarning, match=r"rollouts has reached 0.02 MB \(rollout_files.max_megabytes\)") as caught:
        cli = fit(trainer__limit_val_batches=0, policy_export__folder=None, **settings)
    assert sum("has reached" in str(w.message) for w in caught) == 1
    names = list(files(cli))
    assert {"train-000001", "train-000006"} <= {*names} and 2 <= len(names) < 6
    assert sum(path.stat().st_size for path in files_of(runs.log_dir(cli))) <= 20_000


def test_some_iterations_are_kept(fit: Any) -> None:
    settings = {"rollout_files__keep_every": 3, "rollout_files__keep_last": 1, "trainer__max_epochs": 5}
    assert list(files(fit(trainer__limit_val_batches=0, policy_export__folder=None, **settings))) == [
        "train-000001",
        "train-000003",
        "train-000005",
    ]


def test_a_full_disk_is_one_line_and_training_goes_on(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.parent.name == "rollouts":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", full)
    line = (
        r"train-000001.jsonl.gz could not be written: No space left on device \(0.0 MB needed, .* free\): the run goes"
    )
    with pytest.warns(UserWarning, match=line) as caught:
        cli = fit(trainer__limit_val_batches=0)
    assert sum("could not be written" in str(w.message) for w in caught) == 1
    assert cli.trainer.current_epoch == 2


@pytest.mark.parametrize(
    "settings",
    [{"rollout_files__enabled": False}, {"trainer__logger": False}, {"trainer__fast_dev_run": True}],
    ids=["off", "no logger", "a trial"],
)
def test_where_there_is_no_folder_nothing_is_written(
    settings: dict[str, Any], tiny_model_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logger = {} if "trainer__logger" in settings else {"trainer.logger.init_args.save_dir": tmp_path}
    options = {name.replace("__", "."): value for name, value in settings.items()}
    more = {"model.path": tiny_model_dir, "trainer.max_epochs": 1, "last_checkpoint.dirpath": tmp_path / "kept"}
    from paw_lightning.cli import run

    run(["fit", *runs.arguments(runs.TOY | logger | more | options)])
    assert not list(tmp_path.rglob("rollouts"))


def test_a_training_step_of_ones_own_may_return_its_loss_alone(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PaWModule.training_step
    monkeypatch.setattr(PaWModule, "training_step", lambda self, *batch: original(self, *batch)["loss"])
    [file] = files(fit(**STILL)).values()
    assert all(turn.target_logprobs is None for episode in file.episodes for turn in episode.turns)


@pytest.mark.parametrize("name", ["max_megabytes", "keep_every", "keep_last"])
def test_settings_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=f"rollout_files.{name} is 0; wanted"):
        RolloutFiles(**{name: 0})


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy", ["lightning.pytorch.strategies.DDPStrategy", "paw_lightning.training.strategies.FSDP2"]
)
def test_two_ranks_write_what_one_process_writes_and_replay_it(
    strategy: str, tiny_model_dir: str, tmp_path: Path
) -> None:
    """Each reads half of the targets; the first rank writes them all. Played by two, replayed by two."""
    one = runs.fit(tmp_path / "one", tiny_model_dir, trainer__accumulate_grad_batches=4, trainer__limit_val_batches=0)
    several = {"trainer__limit_val_batches": 0, "canaries__enabled": False}
    two = runs.fit_ranks(tmp_path / "two", tiny_model_dir, strategy, **several)
    again = runs.fit_ranks(tmp_path / "again", tiny_model_dir, strategy, data__replay=two, **several)
    expected, found, replayed = files(one), *({p.stem[:12]: read(p) for p in files_of(run)} for run in (two, again))
    assert list(expected) == list(found) == list(replayed) == ["train-000001", "train-000002"]
    for name, file in expected.items():
        for old, new, third in zip(file.episodes, found[name].episodes, replayed[name].episodes, strict=True):
            assert new == third
            for a, b in zip(old.turns, new.turns, strict=True):
                assert a.action_ids == b.action_ids and a.target_step == b.target_step
                assert b.target_logprobs == (a.target_logprobs and pytest.approx(a.target_logprobs, abs=1e-4))
    curves = [{t: v for t, v in runs.read_curves(run).items() if "time/" not in t} for run in (two, again)]
    assert set(curves[1].pop("rollout/off_policy").values()) == {0.0}
    assert curves[0] == curves[1]

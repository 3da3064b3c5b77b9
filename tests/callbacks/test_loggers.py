"""What reaches which logger, read back from its own files: TensorBoard, CSV, W&B, MLflow, and one that nobody knows.

W&B and MLflow are no part of the development tools; `make test-loggers` installs them into an environment of their own.
"""

from __future__ import annotations

import csv
import json
import logging
import struct
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from paw_lightning.callbacks.logger_setup import FIRST_PAGE, first_page
from paw_lightning.event_files import read_scalars
from paw_lightning.training.loggers import keep_curves
from tests.helpers import runs

OTHER = "tests.callbacks.test_success_report.OtherLogger"
ABSENT = "not installed; `make test-loggers` installs it into an environment of its own"
BLOCK = 32 * 1024
QUICK = {"policy_export__folder": None, "trainer__num_sanity_val_steps": -1}


def logger(path: str, /, **arguments: object) -> dict[str, object]:
    return {"class_path": path if "." in path else f"lightning.pytorch.loggers.{path}", "init_args": arguments}


def fit(directory: Path, model: str, *loggers: dict, **settings: object) -> runs.PaWCLI:
    return runs.fit(directory, model, trainer__logger=json.dumps(loggers), **QUICK, **settings)


def episodes_of(folder: Path) -> list[str]:
    return [path.name for path in sorted((folder / "episodes").iterdir())]


def assert_whole_file(folder: Path, iterations: int) -> None:
    """`metrics.csv` has every iteration once, and the value before training at 0."""
    scalars = read_scalars(folder)
    assert [step for step, _ in scalars["rollout/return"]] == list(range(1, iterations + 1))
    assert [step for step, _ in scalars["val/success_rate"]] == list(range(iterations + 1))


# ---- TensorBoard


@pytest.fixture(scope="module")
def events(tiny_model_dir: str, tmp_path_factory: pytest.TempPathFactory) -> EventAccumulator:
    """A run of two iterations of two optimizer steps, the default logger's."""
    cli = runs.fit(tmp_path_factory.mktemp("events"), tiny_model_dir, **QUICK)
    events = EventAccumulator(str(runs.log_dir(cli)), size_guidance={"tensors": 0, "histograms": 0, "scalars": 0})
    return events.Reload()


def test_steps_are_iterations_for_all_that_is_logged(events: EventAccumulator) -> None:
    """0 is before training, and not the first iteration."""
    assert [e.step for e in events.Scalars("val/success_rate")] == [0, 1, 2]
    for tag in events.Tags()["scalars"]:
        assert {e.step for e in events.Scalars(tag)} <= {0, 1, 2}, tag
        assert tag.startswith("val/success_rate") or 0 not in {e.step for e in events.Scalars(tag)}, tag
    assert [e.step for e in events.Histograms("wm/coefficient_by_group")] == [1, 2]
    assert [e.step for e in events.Tensors("episodes/0/text_summary")] == [1, 2]
    assert not {"epoch", "step", "hp_metric"} & set(events.Tags()["scalars"])


def test_the_first_page_is_written_once_and_names_curves_that_exist(events: EventAccumulator) -> None:
    [event] = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == sorted(FIRST_PAGE), "in the order that the tab shows"
    named = {tag for charts in FIRST_PAGE.values() for tags in charts.values() for tag in tags}
    # Without a reference policy there is no KL to it; scoring reads nothing, as the native sampler says everything.
    assert named - set(events.Tags()["scalars"]) == {"train/reference_kl"}
    assert "val/success_rate$" in first_page()["1 Does it learn?"]["success"][1], "not its standard error as well"


def test_all_settings_are_in_the_table_of_settings(events: EventAccumulator) -> None:
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"entropy_selection.alpha" in content and b"model.optimizer.init_args.lr" in content
    assert b"val/success_rate" in events.SummaryMetadata("_hparams_/experiment").plugin_data.content


def test_a_resumed_run_has_one_first_page(tiny_model_dir: str, tmp_path: Path) -> None:
    first = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1, **QUICK)
    folder = runs.log_dir(first)
    runs.fit(tmp_path, tiny_model_dir, ckpt_path=folder / "checkpoints" / "last.ckpt", **QUICK)
    files = list(folder.glob("events.out.tfevents.*"))
    assert len(files) == 2 and sum(b"custom_scalars__config__" in path.read_bytes() for path in files) == 1
    assert_whole_file(folder, 2)


# ---- files


def test_csv_runs_have_files_and_go_on_where_they_were(tiny_model_dir: str, tmp_path: Path, recwarn) -> None:
    mine = logger("CSVLogger", save_dir=str(tmp_path), name="csv")
    folder = runs.log_dir(fit(tmp_path, tiny_model_dir, mine, trainer__max_epochs=1))
    assert episodes_of(folder) == ["iteration_00001.md"]
    checkpoint = folder / "checkpoints" / "last.ckpt"
    assert runs.log_dir(fit(tmp_path, tiny_model_dir, mine, ckpt_path=checkpoint)) == folder
    assert episodes_of(folder) == ["iteration_00001.md", "iteration_00002.md"]
    assert_whole_file(folder, 2)
    assert "entropy_selection.alpha: 0.75" in (folder / "hparams.yaml").read_text()
    [first, second] = map(json.loads, (folder / "histograms/wm/coefficient_by_group.jsonl").read_text().splitlines())
    assert (first["iteration"], second["iteration"]) == (1, 2) and len(first["values"]) == 2, "a value for each group"
    assert not [w for w in recwarn if "will be deleted" in str(w.message)]


def test_a_start_that_was_killed_loses_no_curves(tmp_path: Path) -> None:
    """Between putting the file aside and putting it back."""
    (tmp_path / "metrics.kept").write_text('step,"a,b"\n1,2\n')
    mine = CSVLogger(tmp_path.parent, name="", version=tmp_path.name)
    keep_curves(mine)
    mine.log_metrics({"a,b": 3.0, "c": 4.0}, step=2)
    mine.save()
    with (tmp_path / "metrics.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert rows == [{"a,b": "2", "c": "", "step": "1"}, {"a,b": "3.0", "c": "4.0", "step": "2"}]


def test_half_a_row_is_taken_out_before_the_next_is_written(tmp_path: Path) -> None:
    """Of one row the disk took "0.5,0.", and the next stands on its line; of the last row it took "0."."""
    file = tmp_path / "metrics.csv"
    first = CSVLogger(tmp_path.parent, name="", version=tmp_path.name)
    first.log_metrics({"a": 0.5, "b": 0.25}, step=1)
    first.save()
    whole = file.read_bytes()
    assert whole == b"a,b,step\r\n0.5,0.25,1\r\n"
    file.write_bytes(whole + b"0.5,0.")
    first.log_metrics({"a": 0.75, "b": 0.5}, step=3)
    first.save()
    assert file.read_bytes() == whole + b"0.5,0.0.75,0.5,3\r\n"
    file.write_bytes(file.read_bytes() + b"0.25,0.5,4\r\n0.")
    mine = CSVLogger(tmp_path.parent, name="", version=tmp_path.name)
    keep_curves(mine)
    assert file.read_bytes() == whole + b"0.25,0.5,4\r\n"
    mine.log_metrics({"a": 1.0, "b": 1.0, "c": 1.0}, step=5)  # a new curve: Lightning reads the file and writes it anew
    mine.save()
    scalars = read_scalars(tmp_path)
    assert scalars == {"a": [(1, 0.5), (4, 0.25), (5, 1.0)], "b": [(1, 0.25), (4, 0.5), (5, 1.0)], "c": [(5, 1.0)]}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.csv"]


def test_half_a_head_leaves_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"a,b,st")
    mine = CSVLogger(tmp_path.parent, name="", version=tmp_path.name)
    keep_curves(mine)
    mine.log_metrics({"a": 0.5}, step=1)
    mine.save()
    assert read_scalars(tmp_path) == {"a": [(1, 0.5)]}


def test_an_unknown_logger_is_named_once_and_its_folder_has_the_rest(
    tiny_model_dir: str, tmp_path: Path, caplog
) -> None:
    with caplog.at_level(logging.INFO):
        fit(tmp_path, tiny_model_dir, logger(OTHER, save_dir=str(tmp_path)))
    [folder] = (tmp_path / "project").iterdir()
    said = [message for message in caplog.messages if message.startswith("logger:")]
    assert said == [f"logger:  OtherLogger takes no episodes and histograms; they are files in {folder}"]
    assert episodes_of(folder) == ["iteration_00001.md", "iteration_00002.md"]
    assert (folder / "histograms" / "wm" / "coefficient_by_group.jsonl").exists()
    assert_whole_file(folder, 2)


def test_each_of_several_loggers_gets_its_own(tiny_model_dir: str, tmp_path: Path) -> None:
    """TensorBoard's folder is the run's: what the other two cannot take lies there, and the curves are there once."""
    given = [
        logger("TensorBoardLogger", save_dir=str(tmp_path), name="first"),
        logger("CSVLogger", save_dir=str(tmp_path), name="second"),
        logger(OTHER, save_dir=str(tmp_path)),
    ]
    cli = fit(tmp_path, tiny_model_dir, *given)
    first, second = (Path(each.log_dir) for each in cli.trainer.loggers[:2])
    assert len(cli.trainer.loggers) == 3
    assert_whole_file(first, 2)
    assert_whole_file(second, 2)
    assert "episodes/0/text_summary" in EventAccumulator(str(first)).Reload().Tags()["tensors"]
    assert episodes_of(first) and not (first / "metrics.csv").exists() and not (second / "episodes").exists()


def test_learning_rates_have_a_curve_with_and_without_a_schedule(tiny_model_dir: str, tmp_path: Path) -> None:
    """Halved after every iteration: 0.01, 0.005; the two steps of an iteration share a rate."""
    schedule = {"model__lr_scheduler": "torch.optim.lr_scheduler.ExponentialLR", "model__lr_scheduler__gamma": 0.5}
    for name, settings, rates in (("a", {}, [0.01, 0.01]), ("b", schedule, [0.01, 0.005])):
        curves = runs.curves(runs.fit(tmp_path / name, tiny_model_dir, **QUICK, **settings))
        assert curves["train/learning_rate"] == pytest.approx(dict(enumerate(rates, start=1)))
        assert "train/critic_learning_rate" not in curves


def test_what_is_off_has_no_curve(tiny_model_dir: str, tmp_path: Path) -> None:
    """Without a world model no loss of it, without a reward none of the policy; where both are there, both have one."""
    off = runs.curves(runs.fit(tmp_path / "a", tiny_model_dir, entropy_selection__alpha=0, **QUICK))
    assert not {"train/wm_loss", "wm/selected_fraction", "wm/active_token_fraction"} & set(off)
    rewardless = {"rollout__advantage": "paw_lightning.policy.advantages.NoReward"}
    alone = runs.curves(runs.fit(tmp_path / "b", tiny_model_dir, **rewardless, **QUICK))
    assert not {"train/policy_loss", "train/clip_fraction"} & set(alone)
    assert {"train/wm_loss", "wm/selected_fraction", "train/approx_kl"} <= set(alone)
    bounded = {"model__world_model_loss__kind": "mae"}
    mae = runs.curves(runs.fit(tmp_path / "c", tiny_model_dir, **bounded, **QUICK))
    assert not {"wm/active_token_fraction", "val/observation_active"} & set(mae), "it lets go of no token"
    assert {"train/policy_loss", "train/clip_fraction", "train/wm_loss"} <= set(mae)


# ---- W&B


def test_wandb_gets_episodes_histograms_settings_and_iterations(
    tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """Offline: what would be sent is read back from the record that W&B keeps."""
    wandb = pytest.importorskip("wandb", reason=ABSENT)
    monkeypatch.setenv("WANDB_SILENT", "true")
    mine = logger("WandbLogger", save_dir=str(tmp_path), project="paw", offline=True)
    try:
        cli = fit(tmp_path, tiny_model_dir, mine)
        version, settings = cli.trainer.logger.version, dict(cli.trainer.logger.experiment.config)
    finally:
        wandb.finish()
        wandb.teardown()  # its service has written everything only when it is gone
    assert settings["entropy_selection.alpha"] == 0.75 and settings["model.optimizer.init_args.lr"] == 0.01
    [store] = (tmp_path / "wandb").glob("offline-run-*")
    tables = [json.loads(path.read_text()) for path in (store / "files" / "media" / "table").rglob("*.json")]
    rows = sorted(row for table in tables for row in table["data"])
    assert {row[0] for row in rows} == {1, 2} and all("LOST" in row[2] or "WON" in row[2] for row in rows)
    history = wandb_history(store)
    steps = {record["trainer/global_step"] for record in history if "rollout/return" in record}
    assert steps == {1, 2}
    assert {r["trainer/global_step"] for r in history if "val/success_rate" in r} == {0, 1, 2}
    assert {r["trainer/global_step"] for r in history if "wm/coefficient_by_group/_type" in r} == {1, 2}
    assert (store / "files" / "config.yaml").exists()
    folder = tmp_path / "paw" / version
    assert_whole_file(folder, 2)
    assert not (folder / "episodes").exists(), "W&B has them"
    again = fit(tmp_path, tiny_model_dir, mine, ckpt_path=folder / "checkpoints" / "last.ckpt", trainer__max_epochs=3)
    wandb.finish()
    assert again.trainer.logger.version == version, "the same run of W&B goes on"
    assert_whole_file(folder, 3)


def wandb_history(store: Path) -> list[dict]:
    """The rows of an offline run's record: a log as LevelDB writes it, in blocks of 32 KiB, after a head of 7 bytes.

    A piece has a head of 7 bytes too, with its size and whether it is whole (1), the last of several (4), or not.
    """
    from wandb.proto import wandb_internal_pb2

    [path] = store.glob("*.wandb")
    data, place, content, rows = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if (room := BLOCK - place % BLOCK) < 7:
            place += room
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        content += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            record, content = wandb_internal_pb2.Record.FromString(content), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


# ---- MLflow


def test_mlflow_gets_episodes_histograms_settings_and_iterations(
    tiny_model_dir: str, tmp_path: Path, monkeypatch
) -> None:
    """In a file of SQLite, without a server; the resumed run is the same one, with the parameters of its beginning."""
    pytest.importorskip("mlflow", reason=ABSENT)
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    mine = logger("MLFlowLogger", tracking_uri=uri, artifact_location=str(tmp_path / "artifacts"))
    home = {"trainer__default_root_dir": tmp_path / "runs"}
    cli = fit(tmp_path, tiny_model_dir, mine, **home, trainer__max_epochs=1)
    run, client = cli.trainer.logger.run_id, cli.trainer.logger.experiment
    folder = tmp_path / "runs" / cli.trainer.logger.name / run
    again = fit(tmp_path, tiny_model_dir, mine, **home, ckpt_path=folder / "checkpoints" / "last.ckpt")
    assert again.trainer.logger.run_id == run
    data = client.get_run(run).data
    assert data.params["entropy_selection.alpha"] == "0.75" and data.params["trainer.max_epochs"] == "1"
    for tag, steps in {"rollout/return": [1, 2], "val/success_rate": [0, 1, 2]}.items():
        assert [point.step for point in client.get_metric_history(run, tag)] == steps
    episodes = [item.path for item in client.list_artifacts(run, "episodes")]
    assert episodes == ["episodes/iteration_00001.md", "episodes/iteration_00002.md"]
    assert len(client.list_artifacts(run, "histograms/wm/coefficient_by_group")) == 2
    assert "config.yaml" in [item.path for item in client.list_artifacts(run)]
    assert_whole_file(folder, 2)
    assert not (folder / "episodes").exists(), "MLflow has them"

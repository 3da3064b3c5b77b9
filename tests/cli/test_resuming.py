"""Where a resumed run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from paw_lightning.cli.resuming import continue_run


def config(checkpoint: Path, save_dir: Path | str, replay: str | None = None, name: str = "mine") -> Any:
    """What a command line gives, as far as it matters here."""
    init = Namespace(save_dir=str(save_dir), name=name, version=None)
    logger = Namespace(class_path="lightning.pytorch.loggers.TensorBoardLogger", init_args=init)
    trainer = Namespace(logger=logger, default_root_dir=None)
    return Namespace(ckpt_path=str(checkpoint), trainer=trainer, data=Namespace(replay=replay))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder, `runs/mine/version_3`."""
    folder = tmp_path / "home" / "runs" / "mine" / "version_3"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("")
    (folder / "checkpoints" / "last.ckpt").write_text("")
    return folder


def place(resumed: Any) -> tuple[str, str | None]:
    continue_run(resumed)
    options = resumed.trainer.logger.init_args
    return options.save_dir, options.version


@pytest.mark.parametrize("where", ["home", "elsewhere"])
def test_a_run_goes_on_in_its_folder_from_wherever(
    where: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Its configuration says `save_dir: runs`, which is another place in another folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / where)
    save_dir, version = place(config(run / "checkpoints" / "last.ckpt", "runs"))
    assert (Path(save_dir).resolve(), version) == (run.parent.parent, "version_3")
    assert not recwarn


def test_another_place_is_a_new_folder_and_said(run: Path, tmp_path: Path) -> None:
    """Another root that was named in full, or another name."""
    checkpoint = run / "checkpoints" / "last.ckpt"
    for resumed in (config(checkpoint, tmp_path / "other"), config(checkpoint, tmp_path / "home" / "runs", name="b")):
        with pytest.warns(UserWarning, match=r"ckpt_path lies in .*version_3 and trainer\.logger .*new folder"):
            assert place(resumed)[1] is None


@pytest.mark.parametrize("part", ["", "rollouts"])
def test_what_is_replayed_is_not_written_over(part: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay that begins at the recorded run's own checkpoint gets a folder of its own; another run's goes on."""
    checkpoint, home = run / "checkpoints" / "last.ckpt", run.parent.parent
    assert place(config(checkpoint, home, replay=str(run / part)))[1] is None
    assert place(config(checkpoint, home, replay=str(home / "mine" / "version_1")))[1] == "version_3"

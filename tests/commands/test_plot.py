"""The picture of a run."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from paw_lightning.commands.plot import command
from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.event_files import read_scalars


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two iterations, of which the second was written again after a resume."""
    with SummaryWriter(str(tmp_path / "run")) as writer:
        for step, value in (0, 0.1), (1, 0.9), (1, 0.2):
            writer.add_scalar("wm/coefficient", value, step)
            writer.add_scalar("wm/effective_weight", value / 100, step)
    return tmp_path / "run"


def test_scales_do_not_share_a_panel(run: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: (figures.append(figure), save(figure, path)))
    assert command([str(run)]) == 0
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert f"wrote {run / 'curves.png'}" in capsys.readouterr().out
    drawn = [axes for axes in figures[0].axes if axes.get_visible()]
    assert [axes.get_title() for axes in drawn] == ["coefficient lambda", "effective weight of the world model"]
    [line] = drawn[0].lines
    assert list(line.get_ydata()) == pytest.approx([0.1, 0.2])


def test_a_run_may_have_files_of_two_loggers(run: Path) -> None:
    """Begun with TensorBoard, resumed with a logger that leaves nothing in the folder: what came last counts."""
    (run / "metrics.csv").write_text("step,wm/coefficient,other\n1,0.25,\n2,0.5,7\n2,,8\n")
    scalars = read_scalars(run)
    assert dict(scalars["wm/coefficient"]) == pytest.approx({0: 0.1, 1: 0.25, 2: 0.5})
    assert scalars["other"] == [(2, 7.0), (2, 8.0)]


@pytest.mark.parametrize(
    "torn",
    ["2,0.2,0.3,0.25,6\n", "2,0.5,oo\n", "2,0.2.5,6\n", "x,0.25,6\n", ",0.25,6\n", "2,0.25\n", '2,"0.25,6\n', "\n"],
    ids=["glued", "no number", "glued within a number", "no step", "empty step", "short", "quoted", "empty"],
)
def test_rows_that_cannot_be_read_are_left_out(torn: str, tmp_path: Path) -> None:
    """The rows around it are read, and the last one, which is still being written or never will be, is not."""
    (tmp_path / "metrics.csv").write_text(f"step,wm/coefficient,a\n1,0.25,5\n{torn}3,0.75,7\n4,0.5,1")
    assert read_scalars(tmp_path) == {"wm/coefficient": [(1, 0.25), (3, 0.75)], "a": [(1, 5.0), (3, 7.0)]}
    assert command([str(tmp_path)]) == 0
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("content", ["", "step,a", "a,b\n1,2\n"])
def test_a_file_without_a_whole_head_holds_no_curves(content: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(content)
    assert read_scalars(tmp_path) == {}


def test_what_cannot_be_drawn_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="required: run; wanted what paw-lightning plot --help shows"):
        command([])
    with pytest.raises(SettingsError, match="the run is nowhere; wanted a folder"):
        command(["nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match="empty, which holds no curves"):
        command([str(tmp_path / "empty")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"matplotlib is not installed.*pip install 'matplotlib>=3.9'"):
        command([str(run)])


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path / "run")) as writer:
        writer.add_scalar("rollout/success_rate", 0.5, 1)
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(NotWrittenError, match=r"file/x\.png could not be written: Not a directory.*--output"):
        command([str(tmp_path / "run"), "--output", str(tmp_path / "file" / "x.png")])

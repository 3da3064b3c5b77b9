"""What a person sees of a run while it runs."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from paw_lightning.callbacks.progress import LEGEND, clock, column, number, squeezed
from paw_lightning.callbacks.status_line import ERASE_LINE, StatusLine
from tests.helpers import runs


class Terminal(io.StringIO):
    """Forty-one columns; `screen` is what a person sees of it."""

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        lines = []
        for line in self.getvalue().split("\n"):
            lines.append(line.rpartition(ERASE_LINE)[2])
        return lines


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.5432, 2, ".54"),
        (1.0, 2, "1.00"),
        (-0.471, 2, "-.47"),
        (0.0061, 3, ".006"),
        (0.0, 3, ".000"),
        (12.345, 2, "12.3"),
        (1234.5, 2, "1234"),
        (0.999, 2, "1.00"),
        (8.14, 1, "8.1"),
        (float("nan"), 2, "nan"),
    ],
)
def test_numbers_are_short(value: float, decimals: int, text: str) -> None:
    assert number(value, decimals) == text


def test_a_missing_value_keeps_its_place() -> None:
    assert column("val", 0.54, 4, 2) == "val  .54"
    assert column("val", None, 4, 2) == "        "


def test_what_does_not_fit_goes_by_expendability() -> None:
    """Whole: 9 + 2 + 4 + 2 + 8 = 25; without the expendable clock 15; and what must stay is cut off."""
    parts = [(0, "it 12/800"), (3, "9:30"), (1, "val .543")]
    assert squeezed(parts, 25) == "it 12/800  9:30  val .543"
    assert squeezed(parts, 24) == "it 12/800  val .543"
    assert squeezed(parts, 18) == "it 12/800"
    assert squeezed(parts, 5) == "it 12"


def test_clock() -> None:
    assert [clock(5), clock(65.9), clock(3605)] == ["0:05", "1:05", "1:00:05"]


def test_others_write_above_the_line(monkeypatch) -> None:
    """A log record through a handler made before, a warning, and a line printed in two halves."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", terminal)
    handler, logger = logging.StreamHandler(), logging.getLogger("tests.status_line")
    logger.addHandler(handler)
    logger.propagate = False
    line = StatusLine(terminal)
    line.open()
    line.show("it 1/3")
    logger.warning("a record")
    print("half", end="")
    line.show("it 2/3")
    print(" a line", file=sys.stderr)
    assert terminal.screen == ["a record", "half a line", "it 2/3"]
    line.close()
    assert terminal.screen == ["a record", "half a line", ""]
    assert sys.stderr is terminal and handler.stream is terminal
    logger.removeHandler(handler)


ROW = re.compile(r"it 1/2  val  [.\d]{3,4}  train .* s$")


def test_a_log_file_gets_one_line_per_iteration(tiny_model_dir: str, tmp_path: Path, capsys) -> None:
    """Validation follows the second iteration alone; every number is the curve's."""
    cli = runs.fit(tmp_path, tiny_model_dir, trainer__check_val_every_n_epoch=2, rollout__validation_temperature=0)
    lines = [line for line in capsys.readouterr().err.split("\n") if line.startswith(("it ", LEGEND))]
    assert lines[0] == LEGEND and len(LEGEND) <= 79
    first, second = lines[1:]
    curves = {tag: list(values.values()) for tag, values in runs.curves(cli).items()}
    assert first.startswith("it 1/2            train") and len(first) == len(second) <= 79
    assert second.startswith(f"it 2/2  {column('val', curves['val/success_rate'][-1], 4, 2)}  train")
    for line, i in ((first, 0), (second, 1)):
        assert column("train", curves["rollout/success_rate"][i], 4, 2) in line
        assert column("return", curves["rollout/return"][i], 5, 2) in line
        assert column("KL", curves["train/approx_kl"][i], 4, 3) in line
        assert column("H", curves["train/entropy"][i], 4, 2) in line
        assert column("wm", curves["train/wm_loss"][i], 4, 3) in line
        assert line.endswith(" s")


@pytest.mark.parametrize("columns", [80, 40, 12])
def test_the_line_fits_any_terminal(columns: int, tiny_model_dir: str, tmp_path: Path, monkeypatch) -> None:
    """Every state of the line is at most as wide as the terminal, and success is in sight down to forty columns."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((columns, 24)))
    runs.fit(tmp_path, tiny_model_dir)
    drawn = [text for text in re.split(r"\r\x1b\[K|\n", terminal.getvalue()) if "it " in text]
    assert max(map(len, drawn)) < columns
    states = [text for text in drawn if "rollout" in text or "update" in text]
    assert columns < 40 or all("train" in text for text in states[-2:])

"""What keeps the package readable: short files, and functions that fit a screen."""

from __future__ import annotations

import ast
from pathlib import Path
from statistics import median

from tests.conftest import ROOT

LINES = {path: path.read_text().count("\n") for path in sorted((ROOT / "paw_lightning").rglob("*.py"))}


def functions(path: Path) -> dict[str, int]:
    """Name -> lines of every function of a file, methods and functions within functions included."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {f"{path.name}: {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1 for node in nodes}


def test_no_file_is_longer_than_350_lines() -> None:
    assert {path.name: lines for path, lines in LINES.items() if lines > 350} == {}


def test_the_median_file_has_at_most_110_lines() -> None:
    assert median(LINES.values()) <= 110


def test_no_function_is_longer_than_50_lines() -> None:
    """From `def` to the last line, docstring included, decorators not."""
    lengths = {name: lines for path in LINES for name, lines in functions(path).items()}
    assert {name: lines for name, lines in lengths.items() if lines > 50} == {}

"""Imports go to a lower ring only; environments know no torch; only the outer rings know lightning."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "paw_lightning"
RINGS = [
    {"types", "seeding", "ranks"},
    {"advantages", "weighting", "losses", "envs"},
    {"tokenization", "rows", "attention", "models", "identity", "lora", "rollouts", "api"},
    {"strategies", "module", "datamodule", "callbacks"},
    {"cli", "__main__"},
]
RING_OF = {name: ring for ring, names in enumerate(RINGS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


def imports(path: Path) -> set[str]:
    """Every module name that the file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its ring"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_file_has_a_ring() -> None:
    assert {part(path) for path in FILES} == set(RING_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_a_lower_ring(path: Path) -> None:
    own = RING_OF[part(path)]
    for name in imports(path):
        if name.startswith("paw_lightning."):
            target = name.split(".")[1]
            if target in RING_OF:
                assert RING_OF[target] <= own, f"{path.name} imports {name} of a higher ring"
        if part(path) == "envs":
            assert name.split(".")[0] not in {"torch", "lightning", "transformers"}, f"{path.name} imports {name}"
        if name.split(".")[0] in {"lightning", "pytorch_lightning"}:
            assert own >= 3, f"{path.name} imports {name}; only the two outer rings may"

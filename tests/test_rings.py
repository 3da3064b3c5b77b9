"""Folders are the rings: imports go to a lower one only, without a circle, in functions and for types as well."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "paw_lightning"
FLOORS = [
    {"errors"},
    {"types", "seeding", "ranks", "whole_files"},
    {"config_files", "event_files", "rollout_files", "text", "world_model", "policy"},
    {"envs", "models"},
    {"update", "samplers"},
    {"rollouts", "api"},
    {"iteration"},
    {"training"},
    {"callbacks"},
    {"cli"},
    {"commands", "compare"},
    {"__main__"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}
LIGHTNING_FROM = FLOOR_OF["training"]
PARTS_AS_CALLBACKS = PACKAGE / "world_model" / "callbacks.py"
"""The one file below that is made of Lightning's callbacks: the paper's parts stand beside their formulae."""
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imports(path: Path) -> set[str]:
    """Every module that the file imports, anywhere in it; of names of this package, the module that holds them."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides its ring"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in MODULES else str(node.module))
    return names


def part(module: str) -> str:
    return module.split(".")[1]


def test_every_folder_has_a_floor() -> None:
    assert {part(name) for name in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    own = part(module_name(path))
    for name in imports(path):
        if name.startswith("paw_lightning.") and part(name) != own:
            assert FLOOR_OF[part(name)] < FLOOR_OF[own], f"{path.name} imports {name}, which is not below {own}"
        if own == "envs":
            assert name.split(".")[0] not in {"torch", "lightning", "transformers"}, f"{path.name} imports {name}"
        if name.split(".")[0] in {"lightning", "pytorch_lightning"}:
            assert FLOOR_OF[own] >= LIGHTNING_FROM or path == PARTS_AS_CALLBACKS, (
                f"{path.name} imports {name}; only the upper floors may"
            )


def test_no_two_files_import_each_other() -> None:
    """Depth first through the graph of files; a file met again on its own path closes a circle."""
    graph = {name: {n for n in imports(path) if n in MODULES and n != name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])

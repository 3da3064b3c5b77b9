"""Which keys exist: read from the signatures in the source, since importing what they belong to takes seconds."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from paw_lightning.cli.sections import SECTIONS, SINGLE_KEYS

Signature = dict[str, str | None]
"""Argument -> path of the dataclass whose fields are the keys below it; None where any key is allowed."""
HABITS = {
    "lr": "model.optimizer.init_args.lr",
    "learning_rate": "model.optimizer.init_args.lr",
    "weight_decay": "model.optimizer.init_args.weight_decay",
    "batch_size": "data.groups",
    "epochs": "trainer.max_epochs",
    "iterations": "trainer.max_epochs",
    "seed": "seed_everything",
    "gpus": "trainer.devices",
    "env": "rollout.environment",
}
"""What other frameworks call a setting -> its name here."""
LINKED = {"data.seed"}
"""Keys that others set."""
CLASS_KEYS = {"class_path", "init_args", "dict_kwargs", "help"}


def is_known(key: str) -> bool:
    """Whether a dotted key exists; what a class named in the configuration takes is left to that class."""
    head, *rest = key.split(".")
    if head not in SECTIONS:
        return head in SINGLE_KEYS
    inner = signature(SECTIONS[head])
    for part in rest:
        if inner is None or part in CLASS_KEYS:
            return True
        if part not in inner:
            return False
        below = inner[part]
        inner = signature(below) if below else None
    return key not in LINKED


def known_keys() -> Iterator[str]:
    """Every dotted key, in the order of the sections."""
    yield from SINGLE_KEYS
    for section, path in SECTIONS.items():
        yield from (key for key in _below(section, path) if key not in LINKED)


def nearest_key(key: str) -> str | None:
    """The existing key that was most likely meant."""
    head, _, rest = key.partition(".")
    last = key.rpartition(".")[2]
    if last in HABITS:
        return HABITS[last]
    everything = list(known_keys())
    if head not in SECTIONS:  # a section misspelt, and the rest as it should be
        sections = [f"{section}.{rest}" if rest else section for section in SECTIONS]
        guesses = difflib.get_close_matches(key, [name for name in sections if is_known(name)], cutoff=0.6)
    else:
        siblings = [name for name in everything if name.startswith(f"{head}.")]
        guesses = difflib.get_close_matches(key, siblings, cutoff=0.75)
    guesses += [name for name in everything if name.rpartition(".")[2] == last]
    guesses += difflib.get_close_matches(key, [*everything, *SECTIONS], cutoff=0.6)
    return guesses[0] if guesses else None


def _below(prefix: str, path: str) -> Iterator[str]:
    for name, inner in (signature(path) or {}).items():
        yield f"{prefix}.{name}"
        if inner:
            yield from _below(f"{prefix}.{name}", inner)


@cache
def signature(path: str) -> Signature | None:
    """The arguments of the class at a dotted path; None where the source does not tell."""
    found = _find(path)
    if found is None:
        return None
    module, node = found
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            arguments = item.args
            if arguments.kwarg is not None:
                return None
            named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            return {a.arg: _dataclass(module, a.annotation) for a in named if a.arg != "self"}
    if _is_dataclass(node):
        return {
            item.target.id: _dataclass(module, item.annotation)
            for item in node.body
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and "ClassVar" not in ast.unparse(item.annotation)
        }
    return None


def _dataclass(module: str, annotation: ast.expr | None) -> str | None:
    """The dataclass that an annotation names, alone or beside None."""
    if isinstance(annotation, ast.BinOp) and ast.unparse(annotation.right) == "None":
        annotation = annotation.left
    if not isinstance(annotation, ast.Name):
        return None
    found = _find(f"{module}.{annotation.id}")
    return f"{found[0]}.{found[1].name}" if found and _is_dataclass(found[1]) else None


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any(ast.unparse(decorator).startswith("dataclass") for decorator in node.decorator_list)


def _find(path: str) -> tuple[str, ast.ClassDef] | None:
    """The module and the syntax tree of a class, through the imports that lead to it."""
    module, _, name = path.rpartition(".")
    tree = _tree(module)
    for node in tree.body if tree else []:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(f"{node.module}.{alias.name}")
    return None


@cache
def _tree(module: str) -> ast.Module | None:
    package, *parts = module.split(".")
    spec = find_spec(package)  # of a whole dotted path it would import the packages on the way
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *parts)
    files = [file for file in (base.with_suffix(".py"), base / "__init__.py") if file.is_file()]
    return ast.parse(files[0].read_text(encoding="utf-8")) if files else None

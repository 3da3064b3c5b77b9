"""The constraints of `make test-lower-bounds` are the bounds of pyproject.toml."""

from __future__ import annotations

import tomllib

from tests.conftest import ROOT
from tools.lower_bounds import lower_bounds


def test_a_bound_becomes_the_only_version() -> None:
    requirements = ["torch>=2.9", "jsonargparse[signatures]>=4.53", "lightning>=2.6,!=2.6.2,<2.7", "tqdm"]
    assert lower_bounds(requirements) == {"torch": "2.9", "jsonargparse": "4.53", "lightning": "2.6"}


def test_every_dependency_has_one() -> None:
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(lower_bounds(requirements)) == len(requirements)

"""Print pyproject.toml's lower bounds as constraints for pip: `torch>=2.9` becomes `torch==2.9`.

    python tools/lower_bounds.py > constraints-lower.txt

`make test-lower-bounds` installs them and runs the tests that depend on the libraries' behaviour. What a bound brings
along is taken as new as it fits, but for the libraries below, which act through transformers.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
BELOW = {"tokenizers": "0.23.1", "huggingface_hub": "1.31.0"}
"""The oldest that the oldest transformers takes."""


def lower_bounds(requirements: list[str]) -> dict[str, str]:
    """Name (with extras left out) -> version of every `NAME>=VERSION`."""
    found = [re.match(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)", requirement) for requirement in requirements]
    return {match[1]: match[2] for match in found if match}


if __name__ == "__main__":
    project = tomllib.loads(PROJECT.read_text())["project"]
    for name, version in {**lower_bounds(project["dependencies"]), **BELOW}.items():
        print(f"{name}=={version}")

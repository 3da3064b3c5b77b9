"""What is read first: links lead somewhere, names of configs and files exist, and the site builds without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
BLOCK = re.compile(r"```.*?```", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CONFIG = re.compile(r"--config[ =]([\w/.-]+)")
COMPARISON = re.compile(r"paw-lightning compare ([a-z][\w/.-]*)")
NAMED_FILE = re.compile(r"`((?:paw_lightning|configs|tests|tools|docs|examples|benchmarks)/[\w/.-]*[\w/])`")
ABOVE, BELOW = "cli|commands|compare|callbacks|training|rollouts", "samplers|update|models|text|policy|world_model|envs"
PARTS = re.compile(rf"`((?:{ABOVE}|{BELOW})/[\w/.]*)`")
COMMANDS = {"fit", "validate", "test", "compare", "estimate", "export", "plot", "configs", "play", "check", "view"}
OWN = {"paw.yaml", "mine.yaml", "RUN/config.yaml", "..."}
"""Names that a page gives to a reader's own files."""


def missing_links(page: Path) -> list[str]:
    links = [link.split("#")[0] for link in LINK.findall(BLOCK.sub("", page.read_text()))]
    inside = [link for link in links if link and "://" not in link]
    return [link for link in inside if not (page.parent / link).exists()]


@pytest.mark.parametrize("name", TEXTS)
def test_relative_links_lead_to_files(name: str) -> None:
    assert missing_links(ROOT / name) == []


@pytest.mark.parametrize("name", TEXTS)
def test_named_configs_are_shipped(name: str) -> None:
    named = set(CONFIG.findall(TEXTS[name])) - OWN
    lost = [config for config in named if not (ROOT / "configs" / f"{config.removesuffix('.yaml')}.yaml").is_file()]
    compared = COMPARISON.findall(TEXTS[name])
    lost += [study for study in compared if not (ROOT / "configs" / "compare" / f"{study}.yaml").is_file()]
    assert lost == []


def test_config_tables_of_the_readme_name_what_is_shipped() -> None:
    """`household/base` and so on, in backquotes: a folder of configs, a slash, a name."""
    folders = {path.name for path in (ROOT / "configs").iterdir() if path.is_dir()}
    named = re.findall(r"`([a-z_]+)/([a-z_]+)`", TEXTS["README.md"])
    names = [f"{folder}/{name}" for folder, name in named if folder in folders]
    assert len(names) > 20
    assert [name for name in names if not (ROOT / "configs" / f"{name}.yaml").is_file()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_named_files_exist(name: str) -> None:
    lost = [path for path in NAMED_FILE.findall(TEXTS[name]) if not (ROOT / path).exists()]
    parts = [path for path in PARTS.findall(TEXTS[name]) if not (ROOT / "paw_lightning" / path).exists()]
    assert lost + parts == []


@pytest.mark.parametrize("name", TEXTS)
def test_commands_are_those_of_the_command_line(name: str) -> None:
    assert set(re.findall(r"\bpaw-lightning ([a-z]+)\b", TEXTS[name])) <= COMMANDS


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 10_240


def test_the_script_in_the_python_page_is_the_example() -> None:
    assert (ROOT / "examples" / "train.py").read_text().strip() in TEXTS["docs/python.md"]


def test_every_page_is_in_the_sites_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"- ([\w]+\.md)", menu)) == pages


def test_citation_names_the_version() -> None:
    from paw_lightning import __version__

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["preferred-citation"]["identifiers"][0]["value"] == "2606.02388"


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="NO MKDOCS: install the extra `docs`, or `make test`")
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "GiGPO" in (tmp_path / "reference.html").read_text()


def test_a_dead_link_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[here](page.md) [gone](nowhere.md#part) [away](https://example.org) ```[code](x)```")
    assert missing_links(page) == ["nowhere.md"]

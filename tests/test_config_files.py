"""Configuration files: found by name, laid over each other, listed and copied; none repeats what others say."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from paw_lightning import config_files
from paw_lightning.cli import PaWCLI, run
from paw_lightning.commands import configs
from paw_lightning.commands.config_text import merged_text
from paw_lightning.errors import SettingsError
from tests.conftest import ROOT

SHIPPED = config_files.shipped()
PAW = ROOT / "configs" / "household" / "paw.yaml"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ---- finding


@pytest.mark.parametrize("name", ["household/paw", "household/paw.yaml", "configs/household/paw.yaml"])
def test_a_shipped_file_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config_files.find(name) == PAW


def test_a_file_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("household/paw"), "data: {groups: 1}\n")
    assert config_files.find("household/paw").read_text() == "data: {groups: 1}\n"
    assert config_files.find(str(tmp_path / "household" / "paw")).is_file()


@pytest.mark.parametrize(
    ("name", "near"),
    [("household/pwa", "household/paw"), ("gigpo", "method/gigpo"), ("configs/wm/ecco.yaml", "wm/echo")],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=f"config is '{name}', which does not exist; did you mean .*{near}"):
        config_files.find(name)


# ---- files below files


def test_files_below_come_first_each_with_its_own_below(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "data: {groups: 1, group_size: 1, minibatches: 1}\n")
    write(tmp_path / "sub" / "b.yaml", "configs: [../a.yaml]\ndata: {group_size: 2, minibatches: 2}\n")
    top = write(tmp_path / "c.yaml", "configs:\n  - sub/b.yaml\n  - wm/off\ndata: {minibatches: 3}\n")
    names = [path.resolve().relative_to(tmp_path) for path in config_files.layers(top) if tmp_path in path.parents]
    assert [str(name) for name in names] == ["a.yaml", "sub/b.yaml", "c.yaml"]
    merged = config_files.merged(top)
    assert [merged["data"][key] for key in ("groups", "group_size", "minibatches")] == [1, 2, 3]
    assert merged["entropy_selection"]["alpha"] == 0 and "configs" not in merged


def test_a_neighbour_wins_over_a_shipped_name(tmp_path: Path) -> None:
    write(tmp_path / "wm" / "off", "entropy_selection: {alpha: 0.5}\n")
    top = write(tmp_path / "c.yaml", "configs: [wm/off]\n")
    assert config_files.merged(top)["entropy_selection"]["alpha"] == 0.5


def test_another_class_takes_no_argument_of_the_one_below() -> None:
    below = {"rollout": {"environment": {"class_path": "a.Old", "init_args": {"x": 1}}}}
    same = {"rollout": {"environment": {"class_path": "Old", "init_args": {"y": 2}}}}
    other = {"rollout": {"environment": {"class_path": "b.New", "init_args": {"y": 2}}}}
    assert config_files.lay_over(below, same)["rollout"]["environment"]["init_args"] == {"x": 1, "y": 2}
    assert config_files.lay_over(below, other)["rollout"]["environment"]["init_args"] == {"y": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("configs: [b.yaml]\n", "configs is a circle, .*a.yaml -> .*b.yaml -> .*a.yaml; wanted files that"),
        ("configs: b.yaml\n", r"configs in .*a.yaml is 'b.yaml'; wanted a list"),
        ("configs: [household/pwa]\n", "configs in .*a.yaml: config is 'household/pwa', which does not exist"),
        ("data: {groups: 1\n", "config is .*a.yaml'; wanted YAML: .*line 2, column 1"),
        ("- 1\n", r"config is .*a.yaml', which holds \[1\]; wanted a mapping"),
    ],
)
def test_a_bad_file_is_named_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", "configs: [a.yaml]\n")
    with pytest.raises(SettingsError, match=message) as refused:
        config_files.layers(write(tmp_path / "a.yaml", text))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("# head\nconfigs: [a]  # why\ndata: {groups: 1}\n", "# head\n  # why\ndata: {groups: 1}\n"),
        ("configs:\n- a\n- b\ndata: {groups: 1}\n", "\n\n\ndata: {groups: 1}\n"),  # no line moves
        ("data: {groups: 1}\nconfigs: [a]\n", "data: {groups: 1}\n\n"),
        ('{"configs": ["a"], "data": {"groups": 1}}', '{"data": {"groups": 1}}'),
        ("configs: [a]\n", "{}"),
        ("data: {configs: [a]}\n", "data: {configs: [a]}\n"),  # only at the head
        ("configs: [a\n", "configs: [a\n"),
    ],
)
def test_a_file_s_own_text(text: str, own: str) -> None:
    assert config_files.own_text(text) == own


# ---- the command line


def test_every_config_option_is_expanded_in_place(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", "data: {groups: 1}\n")
    args = ["fit", "--config", "wm/off", "--data.groups=2", f"-c={mine}", "-c", "lora", "--config={data: {groups: 3}}"]
    wm = [f"--config={SHIPPED['wm/paw']}", f"--config={SHIPPED['wm/off']}"]
    rest = [f"--config={mine}", f"--config={SHIPPED['lora']}", "--config={data: {groups: 3}}"]
    assert config_files.expand(args) == ["fit", *wm, "--data.groups=2", *rest]
    assert config_files.expand(["fit", "--config"]) == ["fit", "--config"]
    twice = config_files.expand(config_files.expand(["-c", "household/paw"]))
    assert config_files.merged(*(arg.partition("=")[2] for arg in twice)) == config_files.merged("household/paw")


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function from a command line to the settings that it comes to, from an empty folder; it builds nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(PaWCLI, "instantiate_classes", lambda self: None)
    monkeypatch.setattr(PaWCLI, "_run_subcommand", lambda self, subcommand: None)

    def parse(*args: str) -> dict[str, Any]:
        cli = run(["fit", *args])
        parsed = cli.config["fit"].as_dict()
        (tmp_path / "saved.yaml").write_text(cli._parser("fit").dump(cli.config["fit"]))
        return {key: value for key, value in parsed.items() if key != "config"}

    return parse


def test_a_list_of_files_reaches_the_run_and_a_saved_config_repeats_it(settings: Any, tmp_path: Path) -> None:
    text = "configs: [household/base, wm/echo]\ntrainer: {max_epochs: 7}\n"
    mine = write(tmp_path / "mine.yaml", text)
    parsed = settings("--config", str(mine), "--data.groups", "3")
    assert parsed["trainer"]["max_epochs"] == 7 and parsed["data"]["groups"] == 3
    assert parsed["reward_balance"]["value"] == 0.05 and parsed["model"]["path"] == "tiny-household"
    assert settings("--config", "saved.yaml") == parsed


# ---- what is shipped


@pytest.mark.parametrize("name", SHIPPED)
def test_the_first_line_says_what_it_is(name: str) -> None:
    first = SHIPPED[name].read_text().split("\n")[0]
    assert first.startswith("# ") and first.endswith((".", "?")) and len(first) <= 60


def test_no_block_of_settings_is_repeated_in_more_than_two_files() -> None:
    """A block is three settings in a row; a setting is one key with its value, wherever the line breaks are."""
    files = defaultdict(set)
    for name, path in SHIPPED.items():
        leaves = list(_leaves(yaml.safe_load(path.read_text()), ""))
        for start in range(len(leaves) - 2):
            files["\n".join(leaves[start : start + 3])].add(name)
    repeated = {block: sorted(names) for block, names in files.items() if len(names) > 2}
    assert not repeated


def _leaves(tree: Any, prefix: str) -> Any:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}")
    else:
        yield f"{prefix}: {tree!r}"


def test_commands_in_the_files_name_shipped_files() -> None:
    for name, path in SHIPPED.items():
        words = path.read_text().replace("=", " ").split()
        named = [after for word, after in pairwise(words) if word == "--config"]
        assert all(after in SHIPPED for after in named), name


# ---- paw-lightning configs


@pytest.mark.parametrize("name", SHIPPED)
def test_a_copy_says_the_same_in_one_file(name: str) -> None:
    text = merged_text(config_files.layers(SHIPPED[name]))
    assert yaml.safe_load(text) == config_files.merged(name)
    assert text.startswith(SHIPPED[name].read_text().split("\n")[0])
    assert all(len(line) <= 120 for line in text.split("\n"))


def test_comments_go_with_their_settings(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "# A.\ndata:\n  # why\n  groups: 1  # one\n  group_size: 2  # two\n")
    write(tmp_path / "b.yaml", "# B.\nconfigs: [a.yaml]\ndata: {groups: 3}\nmodel: {path: x}  # mine\n")
    text = "# B.\ndata:\n  # why\n  groups: 3\n  group_size: 2  # two\nmodel: {path: x}  # mine\n"
    assert merged_text(config_files.layers(tmp_path / "b.yaml")) == text


def test_copy_writes_a_file_and_never_over_one(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.command(["copy", "household/paw"]) == 0
    assert "next: paw-lightning fit --config paw.yaml" in capsys.readouterr().out
    assert config_files.merged("paw.yaml") == config_files.merged("household/paw")
    Path("paw.yaml").write_text("edited")
    assert configs.command(["copy", "household/paw"]) == 2
    assert "FILE is paw.yaml, which exists" in capsys.readouterr().err
    assert Path("paw.yaml").read_text() == "edited"
    assert configs.command(["copy", "household/pwa", "other.yaml"]) == 2
    assert not Path("other.yaml").exists()


def test_the_list_fits_a_terminal_and_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from paw_lightning.commands.configs import command; status = command([]);"
        "sys.exit(status or 'torch' in sys.modules)"
    )
    start = time.monotonic()
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert time.monotonic() - start < 10, "0.4 s on an idle core"
    lines = ran.stdout.split("\n")
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line[:1].islower() and ":" not in line.split()[0]] == [
        name for name, _ in sorted(SHIPPED.items(), key=lambda item: item[0].rpartition("/"))
    ]

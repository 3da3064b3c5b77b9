"""The console script before anything is imported: what it answers, and how fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from paw_lightning import __version__
from paw_lightning.cli import main

HEAVY = "bool({'torch', 'lightning', 'transformers'} & sys.modules.keys())"
SCRIPT = f"""
import sys
from paw_lightning.cli import main
try:
    main()
finally:
    print("heavy", {HEAVY})
"""


def ask(*args: str, folder: Path | None = None) -> tuple[int, str, str]:
    """(Exit status, standard output, standard error) of the console script in a process of its own."""
    run = subprocess.run([sys.executable, "-c", SCRIPT, *args], capture_output=True, text=True, cwd=folder, timeout=60)
    return run.returncode, run.stdout, run.stderr


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (["--help"], 0, "fit --config household/paw"),
        (["--version"], 0, f"paw-lightning {__version__}"),
        ([], 2, "usage: paw-lightning COMMAND"),
        (["fti"], 2, "error: command is 'fti', which does not exist; did you mean fit?"),
        (["train"], 2, "error: command is 'train', which does not exist; did you mean fit?"),
        (["predict"], 2, "error: command is 'predict', which does not exist; wanted play"),
        (["fit", "--data.gropus", "4"], 2, "error: data.gropus is no known key; did you mean data.groups?"),
        (["fit", "--dta.groups=4"], 2, "error: dta.groups is no known key; did you mean data.groups?"),
        (["fit", "--model.lr", "-1"], 2, "error: model.lr is no known key; did you mean model.optimizer.init_args.lr?"),
        (["fit", "--trainer.max_epoch", "1"], 2, "did you mean trainer.max_epochs?"),
        (["fit", "--data.temperature", "1"], 2, "did you mean rollout.temperature?"),
        (["fit", "--rollout.prompt.tempalte", "x"], 2, "did you mean rollout.prompt.template?"),
        (["fit", "--data.seed", "3"], 2, "error: data.seed is no known key; did you mean seed_everything?"),
        (["fit", "--config", "no/where.yaml"], 2, "error: config is 'no/where.yaml', which does not exist; wanted"),
        (
            ["fit", "--config=runn.yaml"],
            2,
            "error: config is 'runn.yaml', which does not exist; did you mean 'run.yaml'?",
        ),
        (["fit", "-c", "run.yaml"], 2, "error: data.gropus in run.yaml is no known key; did you mean data.groups?"),
        (["fit", "--config", "broken.yaml"], 2, "error: config is 'broken.yaml'; wanted YAML: "),
        (["fit", "--config", "list.yaml"], 2, "error: config is 'list.yaml', which holds [1, 2]; wanted a mapping"),
        (
            ["fit", "--rollout.advantage", "paw_lightning.advantages.GiGPO"],
            2,
            "which has moved; wanted 'paw_lightning.policy.advantages.GiGPO'",
        ),
        (
            ["fit", "--config", "old.yaml"],
            2,
            "rollout.environment.class_path in old.yaml is 'paw_lightning.envs.gym.MiniGridEnv', which has moved; "
            "wanted 'paw_lightning.envs.adapters.gym.MiniGridEnv'",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_needs_no_model_is_answered_in_one_line_without_importing_any(
    args: list[str], status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "run.yaml").write_text("trainer: {max_epochs: 1}\ndata:\n  gropus: 4\n")
    (tmp_path / "broken.yaml").write_text("data: {groups: [\n")
    (tmp_path / "list.yaml").write_text("[1, 2]\n")
    (tmp_path / "old.yaml").write_text("rollout: {environment: {class_path: paw_lightning.envs.gym.MiniGridEnv}}\n")
    code, out, err = ask(*args, folder=tmp_path)
    assert (code, "heavy False" in out) == (status, True), err
    assert said in (err if status else out)
    assert "Traceback" not in err and (not err.startswith("error") or len(err.splitlines()) == 1)


def test_a_run_says_what_it_is_before_it_loads(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {path: tiny-household}\nrollout: {environment: HouseholdEnv}\n")
    _, _, err = ask("fit", "--config", "run.yaml", "--data.groups", "x", folder=tmp_path)
    first, *rest = err.splitlines()
    assert first == f"paw-lightning {__version__}: fit tiny-household in HouseholdEnv ..."
    assert rest[-1] == "error: data.groups is x; wanted an integer"


def test_the_listing_of_environments_needs_no_name(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["paw-lightning", "fit", "--rollout.environment.help"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  HouseholdEnv ") for line in lines)
    assert any(line.startswith("  MiniGridEnv ") for line in lines) and not any("TextEnv " in line for line in lines)


def test_the_listing_of_advantages_needs_no_name(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["paw-lightning", "fit", "--rollout.advantage.help"])
    main()
    named = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")}
    assert named == {"GRPO", "RLOO", "GiGPO", "GraphGPO", "HGPO", "GAE", "NoReward", "Imitation"}

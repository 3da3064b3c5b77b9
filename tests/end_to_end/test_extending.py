"""docs/extending.md as printed: one part of each kind from outside the package, and a run that uses all of them."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.helpers import runs
from tests.helpers.factories import make_group
from tests.helpers.updates import make_rollout

PAGE = (ROOT / "docs" / "extending.md").read_text()
CODE = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
[CONFIG] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The page's code as a module beside its configuration."""
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return importlib.import_module("mine")


def test_a_run_uses_all_of_them(mine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = runs.FEW_EPISODES | {"trainer__max_epochs": 1, "data__groups": 8, "rollout__max_steps": 2}
    cli = runs.fit(tmp_path, "tiny-household", (tmp_path / "mine.yaml",), **settings)
    curves = runs.curves(cli)
    assert curves["wm/selected_fraction"], "something was selected"
    assert next(iter(curves["wm/selected_fraction"].values())) == pytest.approx(0.5, abs=0.05)
    assert "prompts so far" in capsys.readouterr().out, "the sampler was asked"
    assert 0 < next(iter(curves["wm/effective_weight"].values())) < 0.5, "w(p) = 2 p (1 - p) is at most 1/2"


def test_the_advantage_is_grpo_on_the_last_tokens(mine) -> None:
    """Returns 1 and 0 in one group: GRPO gives +-1/sqrt(2) (their std is 0.7071), here on one token."""
    rollout = make_rollout()
    rollout.groups = [make_group([1.0, 0.0], [1, 1])]
    mine.LastTokens(count=1).write(rollout)
    first, second = rollout.transitions
    assert first.token_advantages.tolist() == pytest.approx([0.0, 0.7071], abs=1e-4)
    assert second.token_advantages.tolist() == pytest.approx([0.0, -0.7071], abs=1e-4)


def test_the_loss_has_the_gradient_of_its_weight() -> None:
    """d loss / d log p = -w(p), for all p: finite differences at p = 0.3 give 2 * 0.3 * 0.7 = 0.42."""
    namespace: dict = {}
    exec(compile(CODE, "docs/extending.md", "exec"), namespace)
    logprobs = torch.tensor([0.3], dtype=torch.float64).log().requires_grad_()
    namespace["Brier"]().loss(logprobs).sum().backward()
    assert -logprobs.grad.item() == pytest.approx(0.42)
    assert namespace["Brier"]().weights(logprobs).item() == pytest.approx(0.42)

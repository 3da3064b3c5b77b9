"""The pure functions' page runs as printed, and plain numbers give the advantages that records give."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from paw_lightning.api import group_advantages
from paw_lightning.policy.advantages import GRPO, HGPO, RLOO, GiGPO, GraphGPO
from tests.conftest import ROOT
from tests.helpers.factories import make_group

PAGE = (ROOT / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
PRINTED = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r"paw_lightning\.api import (.*)", block)[0])
def test_block_runs_alone_and_prints_what_it_says(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    exec(compile(block, "docs/api.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed and printed == PRINTED.findall(block)


def test_page_shows_every_function() -> None:
    import paw_lightning.api

    assert [name for name in paw_lightning.api.__all__ if f"{name}(" not in "".join(BLOCKS)] == []


@pytest.mark.parametrize("level", ["trajectory", "row"])
@pytest.mark.parametrize("method", [GRPO, RLOO, GiGPO, GraphGPO, HGPO])
def test_plain_numbers_give_what_records_give(method, level) -> None:
    """Returns 10, 0, 0 on the last of 2, 3, 1 turns; the middle episode's second turn held no action."""
    advantage = method(level=level, invalid_action_penalty=0.1)
    anchors = [["hall", "attic"], ["hall", "attic", "hall"], ["attic"]]
    records = make_group([10.0, 0.0, 0.0], [2, 3, 1], invalid=[(1, 1)], anchors=anchors)
    plain = group_advantages(
        advantage,
        [[0, 10], [0, 0, 0], [0]],
        anchors=anchors,
        well_formed=[[True, True], [True, False, True], [True]],
        won=[True, False, False],
    )
    assert [len(episode) for episode in plain] == [2, 3, 1]
    assert [a for episode in plain for a in episode] == advantage(records)


def test_without_anchors_no_two_turns_are_compared() -> None:
    """Returns 1 and 0: A = +-1/2 from the episodes, and no step part."""
    assert group_advantages(GiGPO(normalization="mean_norm"), [[0, 1], [0, 0]]) == [[0.5, 0.5], [-0.5, -0.5]]


def test_names_of_states_are_compared_and_the_last_one_too() -> None:
    """Won by a, b; lost from a to c: A = +-1/2 from the episodes, and from the graph, for the turns that leave a.

    b is 1 step from success, a 2, c, from which nobody came there, counts as 3: 10 x 0.1 and 10 x 0.001 have the mean
    0.505, so +-0.495. Had the lost one ended in b, both turns would be worth 1, and the graph would add nothing.
    """
    graph = GraphGPO(normalization="mean_norm")
    ended_in = lambda last: group_advantages(  # noqa: E731
        graph, [[0, 1], [0]], won=[True, False], anchors=[["?", "?"], ["?"]], states=[["a", "b", "end"], ["a", last]]
    )
    assert [pytest.approx(row) for row in ended_in("c")] == [[0.995, 0.5], [-0.995]]
    assert [pytest.approx(row) for row in ended_in("b")] == [[0.5, 0.5], [-0.5]]


def test_other_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"anchors has \[2, 1\] turns; wanted those of turn_rewards, \[2, 2\]"):
        group_advantages(GRPO(), [[0, 1], [0, 0]], anchors=[["a", "b"], ["a"]])
    with pytest.raises(ValueError, match="won has 1 episodes; wanted those of turn_rewards, 2"):
        group_advantages(GRPO(), [[0, 1], [0, 0]], won=[True])
    with pytest.raises(
        ValueError, match=r"states has \[2, 3\] names; wanted one more than turn_rewards has turns, \[2, 2"
    ):
        group_advantages(GRPO(), [[0, 1], [0, 0]], states=[["a", "b"], ["a", "b", "c"]])


def test_neither_lightning_nor_transformers_is_imported() -> None:
    code = "import sys, paw_lightning.api; sys.exit(bool({'lightning', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0

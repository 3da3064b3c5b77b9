"""Token filters, half-true targets and drawn signs: by hand on a few transitions."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from paw_lightning.callbacks import EntropySelection, TargetControl
from paw_lightning.errors import SettingsError
from paw_lightning.types import Rollout
from paw_lightning.update.collate import branch_view, collate
from paw_lightning.update.rows import build_rows
from paw_lightning.world_model import filters
from paw_lightning.world_model.targets import half_gold
from tests.helpers.factories import make_episode, make_group, make_transition
from tests.helpers.updates import CONTROLS, FIRST, rollout_of, transcript, transition


def pieces(text: str) -> list[tuple[int, int]]:
    """Where the words of a text stand, each with the blank before it."""
    return [match.span() for match in re.finditer(r"\s?\S+", text)]


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("timestamps", "at 08:15 a knock 2026-01-31T08:15:00Z end", "at a knock end"),
        ("timestamps", "room 8 of 15", "room 8 of 15"),
        (
            "identifiers",
            "id 1b4e28ba-2fa1-11d2-883f-0016d3cca427 at 0x7ffe12ab facade deadbeef",
            "id at facade deadbeef",
        ),
        ("identifiers", "commit 1B4E28BA of 0xDEADBEEF1 FACADE", "commit of FACADE"),
        ("warnings", "ok here\nWARNING: old key\nDeprecationWarning: x\nno warning here", "ok here no warning here"),
        ("numbers", "costs 3.50 or 1,000 coins", "costs or coins"),
    ],
)
def test_shipped_filters(name: str, text: str, kept: str) -> None:
    places = pieces(text)
    said = getattr(filters, f"without_{name}")(text, places)
    left = [text[first:last].strip() for (first, last), allowed in zip(places, said, strict=True) if allowed]
    assert " ".join(left) == kept


class Letters:
    """A chat format whose tokens are letters: the place of a token is that of its letter."""

    tokenizer = SimpleNamespace(decode=lambda ids: "".join(map(chr, ids)))

    def text_offsets(self, text: str, ids: list[int]) -> list[tuple[int, int]]:
        assert len(text) == len(ids)
        return [(i, i + 1) for i in range(len(ids))]


def spoken(text: str, entropy: float = 1.0, **fields):
    """A turn whose observation is this text, a token a letter."""
    given = {
        "observation_text": text,
        "observation_ids": [ord(letter) for letter in text],
        "token_entropies": [entropy],
    }
    return make_transition(**given, **fields)


def played(*texts: str, **fields) -> Rollout:
    group = make_group([0.0], [1], max_return=1.0)
    group.episodes = [make_episode([spoken(text, len(texts) - i, **fields) for i, text in enumerate(texts)])]
    return Rollout(0, [group])


def control(rollout: Rollout, alpha: float = 1.0, **settings) -> Rollout:
    """Rule out, select, replace: in the iteration's order."""
    own = TargetControl(filter=filters.without_numbers, **settings)
    own.rule_out(rollout, Letters())
    EntropySelection(alpha=alpha).select(rollout, seed=1)
    own.replace(rollout, tokenizer=None, horizon=1, seed=1)
    return rollout


def test_what_is_ruled_out_is_no_target_and_does_not_count_in_o() -> None:
    """ "a12b": two of four letters are left, so each weighs lambda / (1 group * 1 selected * 2) = 0.5 / 2."""
    rollout = control(played("a12b"))
    rollout.groups[0].coefficient = 0.5
    [t] = rollout.transitions
    assert t.target_mask == [True, False, False, True] and t.predicted_count == 2
    assert "".join(map(chr, t.target_ids)) == "ab"
    assert rollout.metrics["wm/filtered_fraction"] == 0.5
    t.old_logprobs = torch.zeros(2)
    batch = collate(build_rows(rollout), on_policy=True)
    assert batch.input_ids[batch.target_mask].tolist() == [ord("a"), ord("b")]
    assert batch.target_weights.tolist() == [0.25, 0.25] and batch.target_coefficients.tolist() == [0.5, 0.5]
    assert batch.input_ids.tolist()[0][-4:] == [ord(letter) for letter in "a12b"], "it is read as it was"


def test_an_observation_without_a_target_takes_no_place() -> None:
    """Of four observations "77" has nothing left: alpha 0.5 keeps two of three, though its entropy is the second."""
    rollout = control(played("ab", "77", "cd", "ef"), alpha=0.5)
    assert [t.selected for t in rollout.transitions] == [True, False, True, False]
    assert rollout.metrics["wm/selected_fraction"] == 2 / 3


def test_a_filter_cuts_within_a_transcript_and_in_a_branch() -> None:
    """Observations [70 71], [72], [73 74 75]: of the first the second token is ruled out, of the last the middle one.

    With controls [90 91], [92], [93 94 95] the first two are branches; the mask of a control is its own.
    """
    masks = [[True, False], None, [True, False, True]]

    def row(controls: bool):
        transitions = transcript(*FIRST)
        for t, mask, ids in zip(transitions, masks, CONTROLS, strict=True):
            t.target_mask = mask
            if controls:
                t.control_ids, t.control_mask = ids, mask
        [row] = build_rows(rollout_of(transitions))
        return row

    batch = collate([row(False)], on_policy=True)
    assert batch.input_ids[batch.target_mask].tolist() == [70, 72, 73, 75]
    # lambda 1/2, three selected: 1/6 over 1, 1 and 2 tokens
    assert batch.target_weights.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 12, 1 / 12])
    batch = collate([row(True)], on_policy=True)
    trunk = row(True).trunk_length
    # the last control stands at the row's end, the branches behind it: each repeats a token, then its own
    assert batch.input_ids[batch.target_mask].tolist() == [93, 95, 90, 92]
    assert batch.input_ids[0, trunk:].tolist() == [50, 90, 91, 50, 92]
    assert batch.target_mask[0, trunk:].tolist() == [False, True, False, False, True]
    assert branch_view([row(True)])[0] is not None


def test_a_horizon_ends_before_an_observation_with_nothing_left() -> None:
    """Two steps ahead of the first, whose next observation has no target: all of its weight stays with its own."""
    transitions = transcript(*FIRST)
    transitions[1].target_mask = [False]
    for t in transitions[1:]:
        t.selected = False
    [row] = build_rows(rollout_of(transitions), horizon=3)
    assert [(s.ids, s.weight) for s in row.having("target")] == [([70, 71], 0.25)]


def test_controls_carry_the_mask_of_the_text_that_they_are_from() -> None:
    """Two observations can only change places; random tokens are as many as the observation, in the same places."""
    rollout = control(played("a1", "bc"), targets="shuffled")
    assert [t.control_mask for t in rollout.transitions] == [[True, True], [True, False]]
    assert ["".join(map(chr, t.target_ids)) for t in rollout.transitions] == ["bc", "a"]
    rollout = control(played("a1", "b2c", counterfactual_ids=[ord("7"), ord("x")]), targets="wrong_action")
    assert [t.target_ids for t in rollout.transitions] == [[ord("x")]] * 2


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ([True], "gave 1 values"),
        (True, "failed with TypeError"),
        (None, "failed with TypeError"),
        ("abcd", r"gave \['a', 'b', 'c', 'd'\]"),
        ([None] * 4, "gave .None, None"),
        ([[True, False]] * 4, r"gave \[\[True, False\]"),
        (torch.ones(4, 2), r"gave \[\[1"),
    ],
)
def test_a_filter_that_says_something_else_is_named(said: object, message: str) -> None:
    own = TargetControl(filter=lambda text, tokens: said)
    with pytest.raises(SettingsError, match=rf"target_control\.filter: .*<lambda> {message}.* the 4 tokens of 'a12b'"):
        own.rule_out(played("a12b"), Letters())


@pytest.mark.parametrize("said", [[1, 0, True, False], torch.tensor([1, 0, 1, 0]), np.array([True, False] * 2)])
def test_whatever_holds_truth_values_is_taken(said: object) -> None:
    rollout = played("a12b")
    TargetControl(filter=lambda text, tokens: said).rule_out(rollout, Letters())
    assert rollout.transitions[0].target_mask == [True, False, True, False]


def test_a_filter_that_fails_is_named() -> None:
    own = TargetControl(filter=lambda text, tokens: [1 / 0])
    with pytest.raises(
        SettingsError, match=r"target_control\.filter: .*failed with ZeroDivisionError: division by zero"
    ):
        own.rule_out(played("a12b"), Letters())


def test_a_tokenizer_without_places_is_named() -> None:
    class Slow(Letters):
        def text_offsets(self, text, ids):
            raise NotImplementedError

    with pytest.raises(SettingsError, match=r"target_control\.filter is .*without_numbers, and the tokenizer"):
        TargetControl(filter=filters.without_numbers).rule_out(played("a"), Slow())


def test_half_of_an_observation_is_true() -> None:
    """Own tokens below 100, those of the other from 100 on: of 5 tokens 3 are true, of 4 two, each in its own place.

    The other is one token shorter than the first and begins anew at its end: place 4 gets its token 0.
    """
    long, short = list(range(5)), list(range(100, 104))
    places = []
    for seed in range(40):
        transitions = [transition(1, [2], long, 0.0), transition(1, [2], short, 0.0)]
        (first, _), (second, _) = half_gold(transitions, torch.Generator().manual_seed(seed))
        assert [i for i in first if i < 100] == [i for i in long if first[i] == i] and sum(i < 100 for i in first) == 3
        assert all(token in (i, 100 + i % 4) for i, token in enumerate(first))
        assert len(second) == 4 and sum(i >= 100 for i in second) == 2
        assert all(token in (100 + i, i) for i, token in enumerate(second))
        places.append(tuple(i < 100 for i in first))
    assert len(set(places)) > 5, "another half each time"


def test_half_gold_mixes_the_masks_as_it_mixes_the_tokens() -> None:
    rollout = control(played("ab12", "c3d4"), targets="half_gold")
    for t in rollout.transitions:
        taught = [chr(i).isalpha() for i in t.control_ids]
        assert t.control_mask == taught
    assert 0.5 <= rollout.metrics["wm/true_token_fraction"] < 1


def test_signs_are_drawn_for_the_selected_alone_and_change_weights_alone() -> None:
    """Forty selected of eighty: about half count against themselves, the same ones again with the same seed."""

    def drawn(seed: int) -> list[int]:
        rollout = played(*["ab"] * 80)
        own = TargetControl("noise_sign")
        EntropySelection(alpha=0.5).select(rollout, seed=1)
        own.replace(rollout, tokenizer=None, horizon=1, seed=seed)
        found = [t.target_sign for t in rollout.transitions]
        assert all(t.control_ids is None for t in rollout.transitions) and not own.replaces
        assert rollout.metrics["wm/positive_fraction"] == found[:40].count(1) / 40
        assert "wm/true_target_fraction" not in rollout.metrics
        rollout.groups[0].coefficient = 1.0
        weights = [s.weight for row in build_rows(rollout) for s in row.having("target")]
        # lambda 1, forty selected, two tokens each
        assert weights == pytest.approx([sign / 80 for sign in found[:40]])
        return found

    signs = drawn(3)
    assert signs[40:] == [1] * 40
    assert 10 < signs[:40].count(-1) < 30
    assert signs == drawn(3) != drawn(4)

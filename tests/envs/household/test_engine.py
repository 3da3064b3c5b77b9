"""The engine's rules and sentences on a house small enough to work everything out by hand."""

from dataclasses import replace

import pytest

from paw_lightning.envs.household.engine import NOTHING_HAPPENS, HouseholdEngine, listing
from paw_lightning.envs.household.game import Goal, HouseholdGame

PLACES = {
    "desk 1": "study",
    "diningtable 1": "table",
    "fridge 1": "fridge corner",
    "microwave 1": "oven corner",
    "sinkbasin 1": "sink",
    "stoveburner 2": "stove",
    "stoveburner 1": "stove",
}
CONTENTS = {
    "desk 1": ("desklamp 1",),
    "diningtable 1": ("apple 2", "apple 1", "knife 1"),
    "fridge 1": ("egg 1",),
    "stoveburner 2": ("pan 1",),
}
OBJECTS = [name for names in CONTENTS.values() for name in names]
FOOD = frozenset({"apple 1", "apple 2", "egg 1"})
HOUSE = HouseholdGame(
    task="put a apple in fridge.",
    goal=Goal("pick", "apple", "fridge"),
    order=(*PLACES, *OBJECTS),
    kinds={name: name.split()[0] for name in [*PLACES, *OBJECTS]},
    receptacle_locations=PLACES,
    start="nowhere",
    contents=CONTENTS,
    can_contain=frozenset(
        [(place, food) for place in ("fridge", "microwave", "diningtable", "sinkbasin") for food in ("apple", "egg")]
        + [("stoveburner", "pan"), ("diningtable", "knife")]
    ),
    openable=frozenset({"fridge 1", "microwave 1"}),
    pickupable=frozenset(OBJECTS) - {"desklamp 1"},
    toggleable=frozenset({"desklamp 1"}),
    cleanable=FOOD,
    heatable=FOOD,
    coolable=FOOD,
    sliceable=FOOD,
    object_locations=frozenset((name, PLACES[place]) for place, names in CONTENTS.items() for name in names),
    cold=frozenset({"egg 1"}),
    vessels={"pan 1": ()},
)
TWICE = replace(HOUSE, contents={**CONTENTS, "sinkbasin 1": ("apple 2",)})
"""As official games have it: the same apple on the table and in the sink."""
TO_ALL_BUT = {
    "table": ["desk 1", "fridge 1", "microwave 1", "sinkbasin 1", "stoveburner 1", "stoveburner 2"],
    "stove": ["desk 1", "diningtable 1", "fridge 1", "microwave 1", "sinkbasin 1"],
}
ALWAYS = ["help", "inventory", "look"]


def play(*commands: str, game: HouseholdGame = HOUSE) -> tuple[HouseholdEngine, list[str]]:
    engine = HouseholdEngine(game)
    return engine, [engine.step(command) for command in commands]


def ways(location: str) -> list[str]:
    return [f"go to {name}" for name in TO_ALL_BUT[location]]


def test_lists_have_a_comma_before_every_and() -> None:
    assert [listing("xyz"[:n]) for n in range(4)] == ["nothing", "x", "x, and y", "x, y, and z"]


def test_the_intro_lists_all_receptacles_but_a_later_look_none() -> None:
    engine, (again,) = play("look")
    assert engine.intro() == (
        "-= Welcome to TextWorld, ALFRED! =-\n\n"
        "You are in the middle of a room. Looking quickly around you, you see a desk 1, a diningtable 1, a fridge 1, "
        "a microwave 1, a sinkbasin 1, a stoveburner 2, and a stoveburner 1.\n\n"
        "Your task is to: put a apple in fridge."
    )
    assert again == "You are in the middle of a room. Looking quickly around you, you see nothing."


def test_admissible_commands_at_a_surface() -> None:
    engine, (text,) = play("go to diningtable 1")
    assert text == "You arrive at diningtable 1. On the diningtable 1, you see a apple 2, a apple 1, and a knife 1."
    takes = [f"take {name} from diningtable 1" for name in ("apple 1", "apple 2", "knife 1")]
    assert engine.admissible == ["examine diningtable 1", *ways("table"), *ALWAYS, *takes]


def test_a_closed_receptacle_hides_what_is_in_it() -> None:
    engine, texts = play("go to fridge 1", "take egg 1 from fridge 1", "open fridge 1", "close fridge 1")
    assert texts == [
        "You arrive at fridge 1. The fridge 1 is closed.",
        NOTHING_HAPPENS,
        "You open the fridge 1. The fridge 1 is open. In it, you see a egg 1.",
        "You close the fridge 1.",
    ]
    assert "open fridge 1" in engine.admissible
    assert "take egg 1 from fridge 1" not in engine.admissible


def test_receptacles_at_one_location_are_faced_together() -> None:
    engine, texts = play("go to stoveburner 1", "look", "take pan 1 from stoveburner 2", "inventory")
    assert texts[0] == "You arrive at stoveburner 1. On the stoveburner 1, you see nothing."
    assert texts[1] == "You are facing the stoveburner 2, and stoveburner 1. Next to it, you see nothing."
    assert texts[3] == "You are carrying: a pan 1."
    examine = ["examine pan 1", "examine stoveburner 1", "examine stoveburner 2"]
    moves = ["move pan 1 to stoveburner 1", "move pan 1 to stoveburner 2"]
    assert engine.admissible == [*examine, *ways("stove"), *ALWAYS, *moves]


def test_look_shows_an_object_that_left_a_neighbouring_receptacle() -> None:
    """The reference lists what is here and was taken out of something here, even if it lies in the next one now."""
    _, texts = play("go to stoveburner 2", "take pan 1 from stoveburner 2", "move pan 1 to stoveburner 1", "look")
    assert texts[3] == "You are facing the stoveburner 2, and stoveburner 1. Next to it, you see a pan 1."
    _, texts = play("go to stoveburner 2", "take pan 1 from stoveburner 2", "move pan 1 to stoveburner 2", "look")
    assert texts[3].endswith("you see nothing.")


def test_look_shows_neither_held_nor_moved_objects() -> None:
    _, texts = play("go to stoveburner 2", "take pan 1 from stoveburner 2", "look")
    assert texts[2].endswith("you see nothing.")
    _, texts = play(*FETCH, "go to sinkbasin 1", "move apple 1 to sinkbasin 1", "go to diningtable 1", "look")
    assert texts[5] == "You are facing the diningtable 1. Next to it, you see nothing."


FETCH = ("go to diningtable 1", "take apple 1 from diningtable 1")
CLEAN = ("go to sinkbasin 1", "clean apple 1 with sinkbasin 1")
HEAT = ("go to microwave 1", "heat apple 1 with microwave 1")
COOL = ("go to fridge 1", "cool apple 1 with fridge 1")
CUT = (
    *("go to diningtable 1", "take knife 1 from diningtable 1", "slice apple 1 with knife 1"),
    "move knife 1 to diningtable 1",
)


@pytest.mark.parametrize(
    ("commands", "description"),
    [
        (FETCH, "There's nothing special about apple 1."),
        ((*FETCH, *CLEAN), "This is a clean apple 1."),
        ((*FETCH, *HEAT), "This is a hot apple 1."),
        ((*FETCH, *COOL), "This is a cold apple 1."),
        ((*FETCH, *CLEAN, *COOL), "This is a cool and clean apple 1."),
        ((*FETCH, *COOL, *HEAT, *CLEAN), "This is a hot and clean apple 1."),
        ((*FETCH, *HEAT, *COOL), "This is a cold apple 1."),
        ((*CUT, FETCH[1]), "This is a sliced apple 1."),
        ((*CUT, FETCH[1], *COOL), "This is a cool sliced apple 1."),
        ((*CUT, FETCH[1], *CLEAN, *HEAT), "This is a hot and clean sliced apple 1."),
    ],
)
def test_examining_the_held_object_names_its_state(commands: tuple[str, ...], description: str) -> None:
    _, texts = play(*commands, "examine apple 1")
    assert NOTHING_HAPPENS not in texts  # appliances work although their doors are closed
    assert texts[-1] == description


def test_cold_objects_and_vessels() -> None:
    _, texts = play("go to fridge 1", "open fridge 1", "take egg 1 from fridge 1", "examine egg 1")
    assert texts[-1] == "This is a cold egg 1."
    _, texts = play("go to stoveburner 1", "take pan 1 from stoveburner 2", "examine pan 1")
    assert texts[-1] == "This is a normal pan 1. In it, you see nothing."


def test_sentences_of_the_remaining_verbs() -> None:
    _, texts = play(*FETCH, *CLEAN, "move apple 1 to sinkbasin 1", "go to desk 1", "use desklamp 1", "use desklamp 1")
    assert texts[1:5] == [
        "You pick up the apple 1 from the diningtable 1.",
        "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing.",
        "You clean the apple 1 using the sinkbasin 1.",
        "You move the apple 1 to the sinkbasin 1.",
    ]
    assert texts[6:] == ["You turn on the desklamp 1."] * 2  # there is no turning off
    _, texts = play(*CUT)
    assert texts[2] == "You sliced the apple 1 with the knife 1."


def test_objects_go_only_where_they_fit_and_the_door_is_open() -> None:
    _, texts = play(
        *FETCH, "go to microwave 1", "move apple 1 to microwave 1", "go to desk 1", "move apple 1 to desk 1"
    )
    assert texts[3] == texts[5] == NOTHING_HAPPENS


@pytest.mark.parametrize("command", ["", "dance", "Look", "go to fridge", "examine apple 1", "open diningtable 1"])
def test_anything_else_changes_nothing(command: str) -> None:
    engine, _ = play("go to diningtable 1")
    before = list(engine.admissible)
    assert engine.step(command) == NOTHING_HAPPENS
    assert engine.admissible == before


SECOND = ("go to diningtable 1", "take apple 2 from diningtable 1", "go to sinkbasin 1", "move apple 2 to sinkbasin 1")


@pytest.mark.parametrize(
    ("goal", "commands"),
    [
        (Goal("pick", "apple", "sinkbasin"), (*FETCH, "go to sinkbasin 1", "move apple 1 to sinkbasin 1")),
        (Goal("pick_two", "apple", "sinkbasin"), (*FETCH, *CLEAN, "move apple 1 to sinkbasin 1", *SECOND)),
        (Goal("clean", "apple", "sinkbasin"), (*FETCH, *CLEAN, "move apple 1 to sinkbasin 1")),
        (Goal("heat", "apple", "sinkbasin"), (*FETCH, *HEAT, "go to sinkbasin 1", "move apple 1 to sinkbasin 1")),
        (Goal("cool", "apple", "sinkbasin"), (*FETCH, *COOL, "go to sinkbasin 1", "move apple 1 to sinkbasin 1")),
        (Goal("look", "apple", "desklamp"), (*FETCH, "go to desk 1", "use desklamp 1")),
    ],
    ids=lambda value: value.task if isinstance(value, Goal) else "",
)
def test_each_goal_holds_after_the_last_command_and_not_before(goal: Goal, commands: tuple[str, ...]) -> None:
    engine = HouseholdEngine(replace(HOUSE, goal=goal))
    won = []
    for command in commands:
        assert engine.step(command) != NOTHING_HAPPENS
        won.append(engine.won)
    assert won == [False] * (len(commands) - 1) + [True]


@pytest.mark.parametrize(
    ("goal", "commands"),
    [
        (Goal("heat", "apple", "sinkbasin"), (*FETCH, "go to sinkbasin 1", "move apple 1 to sinkbasin 1")),
        (Goal("heat", "apple", "sinkbasin"), (*FETCH, *HEAT, *COOL, *CLEAN, "move apple 1 to sinkbasin 1")),
        (Goal("cool", "apple", "sinkbasin"), (*FETCH, *COOL, *HEAT, *CLEAN, "move apple 1 to sinkbasin 1")),
        (Goal("look", "apple", "desklamp"), ("go to desk 1", "use desklamp 1")),
        (Goal("look", "apple", "desklamp"), (*CUT[:2], "go to desk 1", "use desklamp 1")),
        (Goal("look", "apple", "desklamp"), (*FETCH, "go to desk 1")),
    ],
)
def test_nearly_reached_goals_do_not_count(goal: Goal, commands: tuple[str, ...]) -> None:
    engine, texts = play(*commands, game=replace(HOUSE, goal=goal))
    assert NOTHING_HAPPENS not in texts
    assert not engine.won


def test_slicing_needs_the_object_at_hand() -> None:
    _, texts = play(*CUT[:2], "go to desk 1", "slice apple 1 with knife 1")
    assert texts[3] == NOTHING_HAPPENS


def test_a_lamp_that_is_on_counts_only_where_it_stands() -> None:
    game = replace(HOUSE, goal=Goal("look", "apple", "desklamp"))
    engine, _ = play("go to desk 1", "use desklamp 1", *FETCH, game=game)
    assert not engine.won
    engine.step("go to desk 1")
    assert engine.won


def test_a_copy_goes_its_own_way() -> None:
    engine, _ = play("go to fridge 1")
    twin = engine.copy()
    twin.step("open fridge 1")
    twin.step("take egg 1 from fridge 1")
    assert engine.step("examine fridge 1") == "The fridge 1 is closed."
    assert engine.held is None


def test_help_lists_every_verb() -> None:
    _, (text,) = play("help")
    for verb in ("look", "inventory", "go to", "open", "close", "take", "move", "examine", "use", "heat", "clean"):
        assert f"\n  {verb}" in text


def test_a_thing_in_two_places_has_another_state_without_one_of_them() -> None:
    """Moved from the table into the sink, where it was as well: there it can no longer be taken from the table."""
    untouched, _ = play("go to sinkbasin 1", game=TWICE)
    moves = "go to diningtable 1", "take apple 2 from diningtable 1", "go to sinkbasin 1", "move apple 2 to sinkbasin 1"
    moved, _ = play(*moves, game=TWICE)
    assert untouched.state_key() == "sinkbasin 1"
    assert moved.state_key() == "sinkbasin 1; apple 2 out of diningtable 1"
    once, _ = play(*moves)
    assert once.state_key() == "sinkbasin 1; apple 2 in sinkbasin 1", "where it is tells where it no longer is"

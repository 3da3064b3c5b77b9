"""Official ALFWorld game files (``game.tw-pddl``): finding them and reading what the engine needs from one."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path

from paw_lightning.envs.household.game import Goal, HouseholdGame
from paw_lightning.errors import SettingsError

GAME_FILE = "game.tw-pddl"
FOLDERS = {
    "pick_and_place_simple": "pick",
    "look_at_obj_in_light": "look",
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
    "pick_two_obj_and_place": "pick_two",
}
"""How the name of a game's folder begins -> its task."""
SPLIT_FOLDERS = {"train": "train", "val": "valid_seen", "test": "valid_unseen"}


def expand(path: str | os.PathLike[str]) -> str:
    """Replace ``~`` and environment variables.

    Raises:
        ValueError: a variable is not set.
    """
    for name in re.findall(r"\$\{?(\w+)", os.fspath(path)):
        if name not in os.environ:
            raise SettingsError(f"data_path or game_file is {path!r}, but the environment variable {name} is not set")
    return os.path.expanduser(os.path.expandvars(path))


@lru_cache(maxsize=256)  # a parsed house is ~0.1 MB; the episodes of a group follow each other
def load_game(path: str) -> HouseholdGame:
    """Parse one official game file; the members of a group share the result.

    Raises:
        ValueError: the file is missing or is not an ALFWorld game.
    """
    try:
        stored = json.loads(Path(path).read_text(encoding="utf-8"))
        init, goal = stored["pddl_problem"].lower().split("(:init", 1)[1].split("(:goal", 1)
        sentence = re.search(r"Your task is to: ([^\"]*)\"", stored["grammar"])
        if sentence is None:
            raise KeyError("no task sentence in the grammar")
        return _build(init, goal, sentence.group(1), tuple(stored.get("walkthrough") or ()))
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise SettingsError(f"game_file={path!r} is not a readable ALFWorld {GAME_FILE} file: {error}") from error


@lru_cache(maxsize=16)
def find_games(data_path: str, split: str, tasks: tuple[str, ...]) -> tuple[str, ...]:
    """Paths of the split's games of these tasks, in a fixed shuffled order.

    Raises:
        ValueError: there is no such folder or no such game below it; names the configuration key to change.
    """
    folder = _split_folder(Path(data_path), split)
    games = []
    for path in folder.glob(f"*/*/{GAME_FILE}"):
        kind = path.relative_to(folder).parts[0]
        # ALFWorld leaves sliced objects out, although some downloads hold such games.
        if FOLDERS.get(kind.split("-")[0]) in tasks and "Sliced" not in kind:
            games.append(str(path))
    if not games:
        raise SettingsError(f"no {GAME_FILE} of tasks={list(tasks)} below {folder}: change tasks or data_path")
    games.sort()
    random.Random("household games").shuffle(games)
    return tuple(games)


def _split_folder(root: Path, split: str) -> Path:
    wanted = SPLIT_FOLDERS[split]
    if root.name in SPLIT_FOLDERS.values() and root.name != wanted:
        raise SettingsError(
            f"data_path={str(root)!r} is the {root.name} folder, but split={split!r} plays {wanted}: "
            "set data_path to the folder above it"
        )
    candidates = [root] if root.name == wanted else [root / "json_2.1.1" / wanted, root / wanted]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise SettingsError(
        f"data_path={str(root)!r} has no games for split={split!r}: expected the folder "
        f"{' or '.join(map(str, candidates))}; change data_path or split, or leave data_path empty for generated houses"
    )


def _build(init: str, goal: str, sentence: str, walkthrough: tuple[str, ...]) -> HouseholdGame:
    facts: dict[str, list[list[str]]] = defaultdict(list)
    for predicate, arguments in re.findall(r"\((\w+) ([^()]+)\)", init):
        facts[predicate].append(arguments.split())
    names = _display_names({name for rows in facts.values() for row in rows for name in row if "_bar_" in name})
    kinds = {names[name]: kind.removesuffix("type") for name, kind in facts["objecttype"] + facts["receptacletype"]}

    def named(predicate: str) -> frozenset[str]:
        return frozenset(names[row[0]] for row in facts[predicate])

    def grouped(predicate: str) -> dict[str, tuple[str, ...]]:
        groups: dict[str, list[str]] = defaultdict(list)
        for inner, outer in sorted(facts[predicate]):
            groups[names[outer]].append(names[inner])
        return {outer: tuple(inner) for outer, inner in groups.items()}

    return HouseholdGame(
        task=sentence,
        goal=_goal(goal),
        order=tuple(names.values()),
        kinds=kinds,
        receptacle_locations={names[name]: location for name, location in facts["receptacleatlocation"]},
        start=facts["atlocation"][0][1],
        contents=grouped("inreceptacle"),
        can_contain=frozenset(
            (outer.removesuffix("type"), inner.removesuffix("type")) for outer, inner in facts["cancontain"]
        ),
        openable=named("openable"),
        pickupable=named("pickupable"),
        toggleable=named("toggleable"),
        cleanable=named("cleanable"),
        heatable=named("heatable"),
        coolable=named("coolable"),
        sliceable=named("sliceable"),
        object_locations=frozenset((names[name], location) for name, location in facts["objectatlocation"]),
        cold=named("iscool"),
        vessels=dict.fromkeys(named("isreceptacleobject"), ()) | grouped("inreceptacleobject"),
        walkthrough=walkthrough,
    )


def _display_names(ids: set[str]) -> dict[str, str]:
    """Id -> display name, sorted by id; of each kind, the first id gets the highest number."""
    bases = {name: name.split("_bar_")[0] + ("basin" if "basin" in name else "") for name in sorted(ids)}
    left = Counter(bases.values())
    names = {}
    for name, base in bases.items():
        names[name] = f"{base} {left[base]}"
        left[base] -= 1
    return names


def _goal(text: str) -> Goal:
    """Tell the six goal formulae apart by the predicates in them."""
    objects = re.findall(r"\(objecttype (\?\w+) (\w+)type\)", text)
    if "istoggled" in text:
        kinds = dict(objects)  # ?ot is the lamp, ?o what to hold under it
        return Goal("look", kinds["?o"], kinds["?ot"])
    target = re.findall(r"\(receptacletype \?\w+ (\w+)type\)", text)[0]
    flags = {"isclean": "clean", "ishot": "heat", "iscool": "cool", "?o2": "pick_two"}
    task = next((task for flag, task in flags.items() if flag in text), "pick")
    return Goal(task, objects[0][1], target)

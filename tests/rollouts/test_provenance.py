"""What episodes were played with, as a file says it."""

from __future__ import annotations

import functools

from jsonargparse import Namespace

from paw_lightning.callbacks import EnvironmentLoop
from paw_lightning.envs import MixtureEnv
from paw_lightning.rollouts.provenance import environment_of, played_with
from paw_lightning.rollouts.tasks import TaskOrder
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt
from tests.helpers.playing import TOKENIZER
from tests.helpers.toy_env import ToyEnv

TOY = "tests.helpers.toy_env.ToyEnv"


def build(instantiate: object, cls: type, split: str, **arguments: object) -> None:
    """As the command line's own partial: it is given the class, and the split when it is called."""


def test_an_environment_is_named_however_it_is_built() -> None:
    assert environment_of(ToyEnv) == (TOY, {})
    inner = functools.partial(ToyEnv, fail_on=3, uneven=True)
    assert environment_of(functools.partial(inner, fail_on=4)) == (TOY, {"fail_on": 4, "uneven": True})
    assert environment_of(functools.partial(build, None, ToyEnv, fail_on=3)) == (TOY, {"fail_on": 3})
    assert environment_of(functools.partial(build, split="x"))[0] == "tests.rollouts.test_provenance.build"


def test_settings_are_plain_data_by_their_keys() -> None:
    """A namespace of the command line becomes a dictionary, a tuple a list, an object its class."""
    spec = {"toy": Namespace(class_path=TOY, init_args=Namespace(uneven=True)), "odd": TOKENIZER}
    loop = EnvironmentLoop(
        environment=functools.partial(MixtureEnv, environments=spec),
        prompt=Prompt(unlisted_commands=("help",)),
        layout="episode",
        max_steps=7,
    )
    found = played_with(loop.settings, TaskOrder(groups=5), ChatFormat(TOKENIZER))
    assert found["rollout.environment"] == "paw_lightning.envs.mixture.MixtureEnv"
    toy = {"class_path": TOY, "init_args": {"uneven": True}}
    assert found["rollout.environment.init_args.environments"] == {"toy": toy, "odd": type(TOKENIZER).__qualname__}
    assert found["rollout.prompt.unlisted_commands"] == ["help"]
    assert (found["rollout.layout"], found["rollout.max_steps"], found["data.groups"]) == ("EpisodeLayout", 7, 5)

"""The real parser: what it explains, what it refuses, and that the door knows the same keys."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from paw_lightning.cli import training
from paw_lightning.cli.keys import known_keys
from paw_lightning.cli.moved import MOVED, new_path
from paw_lightning.cli.sections import SECTIONS
from paw_lightning.envs.base import TextEnv
from paw_lightning.errors import SettingsError
from tests.helpers import runs
from tests.helpers.toy_env import ToyEnv


class Parsed(Exception):
    """Carries what a command line was parsed to."""


class OnlyParses(training.PaWCLI):
    """Stops where classes would be built."""

    def before_instantiate_classes(self) -> None:
        raise Parsed(self)


@pytest.fixture(scope="module")
def cli() -> training.PaWCLI:
    return parse()


def parse(*args: str) -> training.PaWCLI:
    """What the command line makes of the arguments, up to the point where classes are built."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Parsed) as parsed:
        patch.setattr(training, "PaWCLI", OnlyParses)
        training.run(["fit", "--model.path=tiny-household", "--rollout.environment=HouseholdEnv", *args])
    return parsed.value.args[0]


def test_the_door_knows_every_key_and_no_other(cli: training.PaWCLI) -> None:
    for command, parser in cli._subcommand_parsers.items():
        options = {option for action in parser._actions for option in action.option_strings}
        named = {option[2:] for option in options if option.startswith("--") and not option.endswith((".help", "+"))}
        keys = named - SECTIONS.keys()
        own = {"verbose"} if command == "fit" else set()
        assert keys == set(known_keys()) - own, command


def test_every_key_of_ours_is_explained(cli: training.PaWCLI) -> None:
    parser = cli._subcommand_parsers["fit"]
    ours = [action for action in parser._actions if not action.dest.startswith("trainer.")]
    assert [action.dest for action in ours if not action.help] == []


def test_the_help_begins_with_our_keys_and_has_a_writers_keys_once(cli: training.PaWCLI) -> None:
    text = cli._subcommand_parsers["fit"].format_help()
    assert text.startswith("usage: paw-lightning fit [--config NAME|FILE ...] [--KEY VALUE ...]\n\nTrain a policy")
    assert text.index("--rollout.prompt.template") < text.index("--best_checkpoint.filename")
    assert text.index("--best_checkpoint.filename") < text.index("--trainer.accelerator")
    assert "--last_checkpoint.filename" not in text


NATIVE, VLLM = "paw_lightning.samplers.native.NativeSampler", "paw_lightning.samplers.vllm.VLLMSampler"


@pytest.mark.parametrize(
    ("args", "path", "given"),
    [
        (["--rollout.sampler=vllm", "--rollout.sampler.urls=[http://a]"], VLLM, {"urls": ["http://a"]}),
        (
            ["--rollout.sampler", "vllm", "--rollout.sampler.urls", "[http://a]", "--rollout.sampler.timeout", "9"],
            VLLM,
            {"urls": ["http://a"], "timeout": 9.0},
        ),
        (["--config=FILE", "--rollout.sampler.init_args.urls=[http://a]"], VLLM, {"urls": ["http://a"]}),
        (["--rollout.sampler.max_batch_tokens=4"], NATIVE, {"max_batch_tokens": 4}),
        ([f"--rollout.sampler={VLLM}", "--rollout.sampler.urls=[http://a]"], VLLM, {"urls": ["http://a"]}),
        (
            [
                "--config=FILE",
                "--rollout.sampler.timeout=9",
                "--rollout.sampler=native",
                "--rollout.sampler.max_batch_tokens=4",
            ],
            NATIVE,
            {"max_batch_tokens": 4},
        ),
    ],
)
def test_a_sampler_with_a_short_name_takes_settings(
    args: list[str], path: str, given: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("rollout: {sampler: vllm}")
    args = [arg.replace("FILE", str(file)) for arg in args]
    sampler = parse(*args).config.fit.rollout.sampler
    assert sampler.class_path == path and given.items() <= vars(sampler.init_args).items()


def test_a_sampler_without_settings_keeps_its_short_name() -> None:
    assert parse("--rollout.sampler=vllm").config.fit.rollout.sampler == "vllm"


def test_a_short_name_is_no_class_path(tmp_path: Path) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text("rollout: {sampler: {class_path: vllm, init_args: {timeout: 9}}}")
    wanted = re.escape(f"rollout.sampler.class_path in {file} is 'vllm'; wanted '{VLLM}'")
    with pytest.raises(SettingsError, match=wanted):
        training.run(["fit", f"--config={file}"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["--rollout.environment=HousholdEnv"],
            "rollout.environment is 'HousholdEnv', which names no class; did you mean",
        ),
        (
            ["--rollout.environment.receptacels=3"],
            "rollout.environment.init_args.receptacels is no argument of HouseholdEnv; did you mean receptacles?",
        ),
        (["--model.optimizer.lrr=1"], "model.optimizer.init_args.lrr is no argument of AdamW; did you mean lr?"),
        (
            ["--trainer.logger=WandbLoger"],
            "trainer.logger is 'WandbLoger', which names no class; did you mean WandbLogger?",
        ),
        (["--trainer.logger.sav_dir=x"], "sav_dir is no argument of TensorBoardLogger; did you mean save_dir?"),
        (["--model.critic=sharde"], "model.critic is sharde; wanted one of 'none', 'shared', 'separate'"),
        (
            ["--rollout.sampler=vllm", "--rollout.sampler.ulrs=[http://a]"],
            "rollout.sampler.init_args.ulrs is no argument of VLLMSampler; did you mean urls?",
        ),
        (["--trainer.max_epochs=x"], "trainer.max_epochs is x; wanted an integer"),
        (["--seed_everything=true"], "seed_everything is True; wanted an integer"),
        (["--rollout.advantage=GIGPO"], "rollout.advantage is 'GIGPO', which names no class; did you mean GiGPO?"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_parser_refuses_in_one_line(args: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        training.run(["fit", "--model.path=tiny-household", "--rollout.environment=HouseholdEnv", *args])
    [line] = capsys.readouterr().err.splitlines()
    assert end.value.code == 2 and line.startswith("error: ") and message in line


class NoSplit(ToyEnv):
    """An environment that cannot be told its split."""

    def __init__(self, *, size: int = 1) -> None: ...


class NoStep(TextEnv):
    """An environment that cannot be played."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        return "", {}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model.optimizer.lr=-1"], r"model\.optimizer is AdamW with lr: -1\.0; Invalid learning rate"),
        (["--trainer.accelerator=gpu"], r"trainer\.accelerator is 'gpu'; No supported gpu backend"),
        (["--trainer.logger.save_dir={file}"], r"save_dir is '.*file' and .*file is no folder; wanted a folder"),
        (
            ["--ckpt_path=best"],
            r"ckpt_path is 'best', which only the process that trained knows; wanted RUN/checkpoints",
        ),
        (["--rollout.environment=tests.cli.test_parser.NoSplit"], r"NoSplit, whose __init__ takes no split; wanted"),
        (["--rollout.environment=tests.cli.test_parser.NoStep"], r"NoStep, which lacks step; wanted a class with"),
        (["--model.path=./nowhere"], r"model\.path is '\./nowhere', which does not exist; wanted"),
        (
            ["--model.path=runs/alfworld-base"],
            r"model\.path is 'runs/alfworld-base', which does not exist; wanted it made first, as the head of its",
        ),
        (["--model.path={file}.ckpt"], r"model\.path is '.*file\.ckpt', which is a file, a run's checkpoint.*export"),
        (["--trainer.logger=paw_lightning_nowhere.Logger"], "names no class"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_others_would_refuse_later_is_refused_at_once(
    args: list[str], message: str, tmp_path: Path, capsys
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "file.ckpt").touch()
    given = [argument.format(file=tmp_path / "file") for argument in args]
    with pytest.raises((SettingsError, SystemExit)) as refused:
        training.run(["fit", "--model.path=tiny-household", "--rollout.environment=HouseholdEnv", *given])
    said = str(refused.value) + capsys.readouterr().err
    assert re.search(message, said), said


def test_the_trainer_has_sane_defaults(cli: training.PaWCLI) -> None:
    trainer = cli.config.fit.trainer
    assert (trainer.gradient_clip_val, trainer.max_epochs, trainer.num_sanity_val_steps) == (1.0, 100, -1)


def test_adapters_may_be_named_without_a_path() -> None:
    environment = parse("--rollout.environment=MiniGridEnv").config.fit.rollout.environment
    assert environment.class_path == "paw_lightning.envs.adapters.gym.MiniGridEnv"


def test_old_paths_lead_to_modules_that_are_there() -> None:
    """Old prefixes are the table's; the new ones have to exist as modules, or as names in one."""
    for new in MOVED.values():
        module, _, name = new.rpartition(".")
        assert importlib.import_module(module) and (not name or hasattr(importlib.import_module(module), name)), new
    assert new_path("paw_lightning.envs.HouseholdEnv") is None
    assert new_path("paw_lightning.rollouts.sampler.NativeSampler") == "paw_lightning.samplers.native.NativeSampler"


def test_a_resumed_runs_own_config_repeats_it(tiny_model_dir: str, tmp_path: Path) -> None:
    first = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=1)
    checkpoint = runs.log_dir(first) / "checkpoints" / "last.ckpt"
    second = runs.fit(tmp_path, tiny_model_dir, trainer__max_epochs=2, ckpt_path=checkpoint)
    assert runs.log_dir(second) == runs.log_dir(first), "one curve"
    saved = yaml.safe_load((runs.log_dir(second) / "config.yaml").read_text())
    assert saved["ckpt_path"] is None and saved["trainer"]["max_epochs"] == 2
    assert saved["trainer"]["logger"]["init_args"]["version"] is None, "a run of its own"


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    """The context is longer than any that the model knows positions for, which is seen when the model is built."""
    folder = tmp_path / "runs"
    with pytest.raises(ValueError, match="do not fit the model's"):
        runs.fit(folder, "tiny-household", rollout__prompt__max_tokens=100_000)
    assert not (folder / "paw_lightning" / "version_0").exists()

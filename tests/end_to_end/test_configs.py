"""Every shipped config runs through the command line; the README's example too."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from paw_lightning import config_files
from paw_lightning.callbacks import setup_checks
from paw_lightning.cli import PaWCLI, run
from paw_lightning.errors import SettingsError
from paw_lightning.policy import advantages
from paw_lightning.policy.advantages import GAE, GRPO, HGPO, RLOO, GiGPO, GraphGPO, Imitation, NoReward
from paw_lightning.policy.losses import PolicyLoss
from paw_lightning.training.datamodule import RolloutDataModule
from paw_lightning.world_model.callbacks import EntropySelection, RewardBalance, TargetControl
from paw_lightning.world_model.loss import WorldModelLoss
from tests.conftest import ROOT
from tests.helpers import runs

CONFIGS = ROOT / "configs"
HOUSEHOLD = sorted((CONFIGS / "household").glob("*.yaml"))
METHODS = sorted(path.stem for path in (CONFIGS / "method").glob("*.yaml"))
WM = sorted(path.stem for path in (CONFIGS / "wm").glob("*.yaml"))
SURROGATES = sorted(path.stem for path in (CONFIGS / "surrogate").glob("*.yaml"))
SMALL = {
    "trainer__max_epochs": 1,
    "trainer__check_val_every_n_epoch": 1,
    "data__groups": 2,
    "data__group_size": 2,
    "data__validation_tasks": 2,
    "policy_export__folder": None,
}


def overlay(*names: str) -> tuple[Path, ...]:
    return tuple(CONFIGS / f"{name}.yaml" for name in names)


@pytest.fixture(scope="module")
def resolve() -> Callable[..., dict]:
    """A function from config files to what the command line makes of them, defaults filled in; it builds nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PaWCLI, "instantiate_classes", lambda self: None)
        patch.setattr(PaWCLI, "_run_subcommand", lambda self, subcommand: None)
        parser = run(["fit", f"--config={CONFIGS / 'household/base.yaml'}"]).parser

    def parse(*names: str) -> dict:
        args = config_files.expand([f"--config={name}" for name in names])
        config = parser.parse_args(["fit", *args])["fit"].as_dict()
        return {key: value for key, value in config.items() if key != "config"}

    return parse


@pytest.mark.parametrize("config", HOUSEHOLD, ids=lambda path: path.stem)
def test_household_config_runs(config: Path, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, "tiny-household", (config,), **SMALL)
    curves = runs.curves(cli)
    assert curves["rollout/well_formed_rate"], "it has played"
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]


@pytest.mark.parametrize("name", ["lora", "strategy/single"])
def test_overlay_runs_in_one_process(name: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, "tiny-household", overlay("household/paw", name), **SMALL)
    assert runs.curves(cli)["rollout/well_formed_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "fsdp2"])
def test_strategy_runs_in_two_processes(strategy: str, tmp_path: Path) -> None:
    configs = overlay("household/paw", f"strategy/{strategy}")
    directory = runs.fit_ranks(tmp_path, "tiny-household", configs=configs, **SMALL)
    assert runs.read_curves(directory)["rollout/well_formed_rate"]


ALGORITHMS = {
    "gigpo": GiGPO,
    "graphgpo": GraphGPO,
    "grpo": GRPO,
    "hgpo": HGPO,
    "imitate": Imitation,
    "ppo": GAE,
    "rloo": RLOO,
    "wm_only": NoReward,
}


def test_every_method_has_an_overlay() -> None:
    assert set(METHODS) == set(ALGORITHMS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_replaces_any_other(method: str, resolve: Callable[..., dict]) -> None:
    """Laid over all other methods, an overlay gives the advantage and critic that it gives over the base."""
    alone = resolve("household/base", f"method/{method}")
    assert alone["rollout"]["advantage"]["class_path"].endswith("." + ALGORITHMS[method].__name__)
    over = resolve("household/base", *(f"method/{other}" for other in METHODS if other != method), f"method/{method}")
    assert over["rollout"]["advantage"] == alone["rollout"]["advantage"]
    assert over["model"]["critic"] == alone["model"]["critic"]


@pytest.mark.parametrize("method", METHODS)
def test_method_overlay_runs(method: str, tmp_path: Path) -> None:
    cli = runs.fit(tmp_path, "tiny-household", overlay("household/base", f"method/{method}", "wm/paw"), **SMALL)
    curves = runs.curves(cli)
    assert ("train/value_loss" in curves) == (method == "ppo")
    assert curves["wm/observation_nll"], "the world model trains beside every method"


def test_tapo_overlay_runs(tmp_path: Path) -> None:
    """Four steps per iteration: step 4 of the run, the first of the second iteration, is the world model's."""
    files = overlay("household/base", "method/grpo", "wm/tapo")
    cli = runs.fit(tmp_path, "tiny-household", files, **SMALL | {"trainer__max_epochs": 2})
    curves = runs.curves(cli)
    assert list(curves["train/wm_loss"]) == list(curves["wm/observation_nll"]) == [2]
    assert list(curves["train/policy_loss"]) == [1, 2]


def test_world_model_alone_needs_neither_group_nor_largest_return(tiny_model_dir: str, tmp_path: Path) -> None:
    """Toy world without R_max, one episode per task: only the world model's loss moves anything."""
    settings = {
        "rollout__environment": "tests.helpers.toy_env.ToyEnv",
        "rollout__environment__max_reward": None,
        "data__group_size": 1,
        "data__minibatches": 2,  # an episode is one row
        "rollout__max_steps": 3,
        "model__optimizer__init_args__lr": 0.01,
    }
    files = (CONFIGS / "household" / "paw.yaml", CONFIGS / "method" / "wm_only.yaml")
    cli = runs.fit(tmp_path, tiny_model_dir, files, **SMALL | settings | {"trainer__max_epochs": 2})
    curves = runs.curves(cli)
    assert "train/policy_loss" not in curves and curves["train/wm_loss"], "what is off has no curve"
    assert "train/reference_kl" not in curves
    assert all(value > 0 for value in curves["train/wm_loss"].values())


def test_paw_and_grpo_differ_by_paws_keys_alone() -> None:
    paw, grpo = (config_files.merged(f"household/{name}") for name in ("paw", "grpo"))
    different = {
        f"{section}.{key}"
        for section in paw.keys() | grpo.keys()
        for key in _keys(paw.get(section)) | _keys(grpo.get(section))
        if _get(paw, section, key) != _get(grpo, section, key)
    }
    allowed = {"entropy_selection.alpha", "entropy_selection.entropy", "model.world_model_loss"}
    allowed |= {"reward_balance.coefficient", "success_report.next_command"}
    assert "entropy_selection.alpha" in different
    assert different <= allowed


NOTHING_TO_LEARN = {("wm_only", "off"), ("wm_only", "tapo")}
"""Refused by name: without a world model nothing would train, and TAPO's policy steps would teach nothing."""


@pytest.mark.parametrize("surrogate", [None, *SURROGATES])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_goes_with_every_world_model_and_surrogate(
    method: str, surrogate: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built from the files as they lie on each other, and looked at as a run is before its first rollout.

    What the checks ask of model and prompt neither a method nor a world model decides.
    """
    monkeypatch.setattr(setup_checks, "check_context_window", lambda *_: None)
    monkeypatch.setattr(setup_checks, "_check_stops", lambda *_: None)
    base = config_files.merged("household/base", f"method/{method}", *([f"surrogate/{surrogate}"] if surrogate else []))
    refused = set()
    for wm in WM:
        run = _assembled(config_files.lay_over(base, config_files.merged(f"wm/{wm}")))
        assert isinstance(run.iteration.advantage, ALGORITHMS[method])
        assert run.module.policy_loss.surrogate == (surrogate or "clip")
        try:
            setup_checks.check_run(run)
        except SettingsError:
            refused.add((method, wm))
    assert refused == {pair for pair in NOTHING_TO_LEARN if pair[0] == method}


def _assembled(config: dict) -> setup_checks.Run:
    """The parts of a run that methods, world models and surrogates set, and as much of the rest as is asked for."""
    model, rollout, data = config["model"], config["rollout"], RolloutDataModule(**config["data"])
    named = rollout["advantage"]
    given = named if isinstance(named, dict) else {"class_path": named}
    advantage = getattr(advantages, given["class_path"])(**given.get("init_args", {}))
    setup_checks.check_penalty(rollout["inadmissible_action_penalty"], advantage)
    TargetControl(**config.get("target_control", {}))
    module = SimpleNamespace(
        critic=model["critic"],
        policy_loss=PolicyLoss(**model["policy_loss"]),
        world_model_loss=WorldModelLoss(**model.get("world_model_loss", {})),
        configure_model=lambda: None,
        language_model=SimpleNamespace(config=None),
        chat=None,
    )
    iteration = SimpleNamespace(
        runner=SimpleNamespace(tasks=data.tasks, settings=None),
        cutter=data.cutter,
        advantage=advantage,
        selection=EntropySelection(**config.get("entropy_selection", {})),
        balance=RewardBalance(**config.get("reward_balance", {})),
    )
    return setup_checks.Run(SimpleNamespace(), module, iteration)  # type: ignore[arg-type]


@pytest.mark.parametrize("wm", ["paw", "tapo"])
@pytest.mark.parametrize("method", ["graphgpo", "hgpo"])
def test_the_command_line_reads_a_whole_stack_of_overlays(method: str, wm: str, resolve: Callable[..., dict]) -> None:
    """The optimizer keeps the base's rate; a later surrogate replaces an earlier one."""
    stack = ["household/base", f"method/{method}", f"wm/{wm}", "lora", "optimizer/muon"]
    config = resolve(*stack, "surrogate/gspo", "surrogate/cispo")
    assert config == resolve(*stack, "surrogate/cispo")
    assert config["model"]["optimizer"]["class_path"].endswith(".MuonWithAdamW")
    assert config["model"]["optimizer"]["init_args"]["lr"] == 3e-4
    assert config["model"]["policy_loss"]["surrogate"] == "cispo" and config["data"]["normalization"] == "token_mean"


@pytest.mark.parametrize(
    "names",
    [("method/graphgpo", "wm/paw", "surrogate/gspo", "optimizer/muon"), ("method/hgpo", "surrogate/cispo", "lora")],
)
def test_surrogate_and_optimizer_overlays_run(names: tuple[str, ...], tmp_path: Path) -> None:
    """One iteration of two steps, so that the second one's ratio is none of 1; a step of 3e-4 moves log-probs."""
    settings = SMALL | {"trainer__limit_val_batches": 0, "data__minibatches": 2, "rollout__max_steps": 3}
    files = overlay("household/base", *names, "optimizer/muon")
    curves = runs.curves(runs.fit(tmp_path, "tiny-household", files, **settings))
    assert curves["train/grad_norm"][1] > 0 and curves["train/approx_kl"][1] > 0
    assert 0 <= curves["train/clip_fraction"][1] <= 1


@pytest.mark.parametrize("later", WM)
def test_a_later_world_model_replaces_an_earlier_one(later: str, resolve: Callable[..., dict]) -> None:
    """Whichever it was leaves no trace: each lies on wm/paw, which sets every key that any of them sets."""
    alone = resolve("household/base", f"wm/{later}")
    for earlier in WM:
        assert resolve("household/base", f"wm/{earlier}", f"wm/{later}") == alone, earlier


@pytest.mark.parametrize(("whole", "wm"), [("paw", "paw"), ("grpo", "off")])
def test_the_complete_configs_are_base_method_and_world_model(
    whole: str, wm: str, resolve: Callable[..., dict]
) -> None:
    """Only the command suggested at the end of a run differs."""
    complete = resolve(f"household/{whole}")
    parts = resolve("household/base", "method/grpo", f"wm/{wm}")
    complete["success_report"].pop("next_command")
    parts["success_report"].pop("next_command")
    assert complete == parts


@pytest.mark.parametrize("wm", sorted({*WM} - {"tapo"}))  # which trains its world model in the second iteration
def test_world_model_overlay_runs(wm: str, tmp_path: Path) -> None:
    quick = {"trainer__limit_val_batches": 0, "data__minibatches": 1, "rollout__max_steps": 3}
    settings = SMALL | quick
    cli = runs.fit(tmp_path, "tiny-household", overlay("household/base", "method/grpo", f"wm/{wm}"), **settings)
    curves = runs.curves(cli)
    assert list(curves["rollout/dropped_groups"].values()) == [0.0]
    assert ("wm/effective_weight" in curves) is (wm != "off")


def test_comparisons_name_files_that_are_there() -> None:
    for path in (CONFIGS / "compare").glob("*.yaml"):
        for arm in yaml.safe_load(path.read_text())["arms"].values():
            assert all(config_files.find(config).is_file() for config in arm["configs"])


def _keys(section: object) -> set[str]:
    return set(section) if isinstance(section, dict) else {""}


def _get(config: dict, section: str, key: str) -> object:
    value = config.get(section)
    return value.get(key) if isinstance(value, dict) else value


def test_readme_environment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's "bring your own" code, copied out of it and trained on with its own command, shortened.

    The policy has two tries among six places: even before training it wins some episodes of 32 and loses some.
    """
    readme = (ROOT / "README.md").read_text()
    [code] = re.findall(r"```python\n# finding\.py\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "finding.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "finding", raising=False)
    [command] = re.findall(r"paw-lightning (fit --config household/paw --rollout\.environment .*\\\n.*)", readme)
    environment, steps = re.search(r"environment (\S+) --rollout\.max_steps (\d+)", command).groups()
    quick = {"data__groups": 8, "data__group_size": 4, "data__minibatches": 1, "trainer__limit_val_batches": 0}
    cli = runs.fit(
        tmp_path,
        "tiny-household",
        (CONFIGS / "household" / "paw.yaml",),
        rollout__environment=environment,
        **{**SMALL, **quick, "rollout__max_steps": steps},
    )
    curves = runs.curves(cli)
    assert next(iter(curves["rollout/valid_action_rate"].values())) > 0.9
    assert 0.1 < next(iter(curves["rollout/success_rate"].values())) < 0.7


def test_every_config_is_tested() -> None:
    """A new folder of configs needs a test of its own: name it here."""
    adapters = {"express", "scienceworld", "textworld", "gym", "textarena", "openenv", "verl_agent", "mixture", "mcp"}
    adapters.add("verifiers")
    worlds = {"tools", "household", "alfworld", "search", "shop", "webshop", "hidden"} | adapters  # tests/envs/adapters
    overlays = {"method", "wm", "surrogate", "optimizer", "strategy", "shared", "configs"}
    assert {path.parent.name for path in CONFIGS.rglob("*.yaml")} <= {"compare"} | overlays | worlds

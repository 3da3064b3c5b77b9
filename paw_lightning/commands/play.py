"""``paw-lightning play``: a person plays an environment in the terminal, or watches a policy play it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paw_lightning.cli.command_arguments import Arguments
from paw_lightning.errors import SettingsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from paw_lightning.commands.run_settings import RunSettings
    from paw_lightning.rollouts.collector import Collector, PlayedGroups

DESCRIPTION = """Play an environment in the terminal, or watch a policy play it. --config and --KEY VALUE are those of
`paw-lightning fit`: environment, prompt and limits are read from them."""
EXAMPLES = """examples:
  paw-lightning play --config household/paw
  paw-lightning play --config household/paw --policy runs/paw_lightning/version_0/policy --episodes 20
  paw-lightning play --rollout.environment ShopEnv --split val --seed 3
"""
SIDE_BY_SIDE = 8
"""Episodes that a policy plays at once; they are printed when all of these are over."""


def command(args: list[str]) -> int:
    """Play, and return the exit status."""
    options, words = parse(args)
    return _watch(options, words) if options.policy is not None else _play(options, words)


def parse(args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """This command's own options, and the words that the settings are read from."""
    parser = Arguments("play", DESCRIPTION)
    parser.usage, parser.epilog = "paw-lightning play [options] [--config NAME] [--KEY VALUE ...]", EXAMPLES
    parser.add_argument("--split", choices=["train", "val", "test"], default="val", help="default: val")
    parser.add_argument("--seed", type=int, default=0, help="number of the first task, and seed of the random numbers")
    parser.add_argument("--policy", help="model directory, hub or bundled name, or a run's .ckpt: it plays, you watch")
    parser.add_argument("--episodes", type=int, default=5, help="how many tasks the policy plays (5)")
    parser.add_argument("--temperature", type=float, help="of the policy; default: rollout.validation_temperature")
    parser.add_argument("--prompt", action="store_true", help="print what the policy read, control tokens in sight")
    options, words = parser.parse_known_args(args)
    if options.episodes < 1:
        raise SettingsError(f"--episodes is {options.episodes}; wanted at least 1")
    if options.temperature is not None and not options.temperature >= 0:
        raise SettingsError(f"--temperature is {options.temperature}; wanted 0 (greedy) or more")
    return options, words


def _play(options: argparse.Namespace, words: list[str]) -> int:
    """A person plays one task."""
    from paw_lightning.commands.checking.location import build, described
    from paw_lightning.commands.playing.person import ask_standard_input, play_by_hand
    from paw_lightning.commands.run_settings import read_settings
    from paw_lightning.envs.base import FAILURES

    # No model plays, so the settings' model need not exist: the last word of a command line counts.
    settings = read_settings([*words, "--model.path=tiny-household"])
    env = build(settings.rollout.environment, options.split)
    try:
        play_by_hand(env, options.seed, settings.rollout.max_steps, ask_standard_input())
    except FAILURES as error:
        raise SettingsError(described(error, type(env))) from error
    finally:
        env.close()
    return 0


def _watch(options: argparse.Namespace, words: list[str]) -> int:
    """A policy plays some tasks."""
    import torch

    from paw_lightning.commands.playing.transcript import print_episode, success_line
    from paw_lightning.commands.run_settings import is_checkpoint, load_policy, policy_words, read_settings
    from paw_lightning.commands.terminal import headline, say

    settings = read_settings(policy_words(options.policy, words))
    model = load_policy(settings, options.policy if is_checkpoint(options.policy) else None)
    collector = policy_collector(settings, model, options.split)
    temperature = options.temperature
    if temperature is None:
        temperature = settings.rollout.validation_temperature
    episodes, failures = [], []
    for start in range(0, options.episodes, SIDE_BY_SIDE):
        tasks = range(options.seed + start, options.seed + min(start + SIDE_BY_SIDE, options.episodes))
        with torch.no_grad(), settings.arithmetic():
            played = watch(collector, tasks, temperature, (options.seed, options.split, 0))
        for group in played.groups:
            for episode in group.episodes:
                episodes.append(episode)
                tokenizer = settings.module.tokenizer
                print_episode(len(episodes), group, episode, options.split, tokenizer, prompts=options.prompt)
        failures += played.failures
    collector.close()
    for failure in failures:
        say(f"lost: {failure}", colour="red")
    headline(success_line(episodes, len(failures)))
    return 0 if episodes else 1


def policy_collector(settings: RunSettings, model: PreTrainedModel, split: str) -> Collector:
    """The run's collector with the policy in it."""
    from paw_lightning.commands.run_settings import make_collector, native_sampler

    sampler = native_sampler(settings, model)
    return make_collector(
        settings, sampler, sorted(sampler.stop_token_ids), lambda: settings.rollout.environment(split)
    )


def watch(collector: Collector, tasks: Sequence[int], temperature: float, seed: tuple[int | str, ...]) -> PlayedGroups:
    """Play each task once; with a run's seed the same episodes as its validation."""
    return collector.play(list(tasks), 1, temperature=temperature, seed=seed)

"""``paw-lightning check``: one environment, one model and one configuration, looked at before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paw_lightning.cli.command_arguments import Arguments

if TYPE_CHECKING:
    from paw_lightning.commands.checking.findings import Finding
    from paw_lightning.commands.run_settings import RunSettings
    from paw_lightning.types import RolloutGroup

DESCRIPTION = """Look at an environment, a model and a configuration before training: the environment's contract, a
prompt and a training row as tokens, lengths against limits, time and memory. The words are those of
`paw-lightning fit`. The exit status is 1 if anything failed."""
EXAMPLE = "example:  paw-lightning check --config household/paw --model.path tiny-household"
EPISODES = 4
"""Scripted episodes, for texts and lengths."""


def command(args: list[str]) -> int:
    """Check, and return the exit status: 1 if anything failed."""
    parser = Arguments("check", DESCRIPTION)
    parser.usage, parser.epilog = "paw-lightning check [--config NAME] [--KEY VALUE ...]", EXAMPLE
    _, words = parser.parse_known_args(args)
    from paw_lightning.commands.run_settings import read_settings
    from paw_lightning.commands.terminal import headline, painted, wrapped

    findings = check(read_settings(words))
    headline("result")
    for finding in findings:
        colour = {"ok": "green", "warning": "yellow", "FAIL": "red"}[finding.level]
        first, *rest = wrapped(finding.text, f"{finding.level:8}{finding.name:13} ")
        print(painted(first[:8], colour) + first[8:], *rest, sep="\n")  # type: ignore[arg-type]
    return int(any(finding.level == "FAIL" for finding in findings))


def check(settings: RunSettings) -> list[Finding]:
    """Print the texts that a person has to judge, and return the findings."""
    from paw_lightning.commands.checking.contract import check_contract
    from paw_lightning.commands.checking.findings import failure
    from paw_lightning.commands.checking.scripted import play_scripted

    rollout = settings.rollout
    findings = check_contract(rollout.environment, rollout.max_steps, settings.config["reward_balance"]["max_return"])
    if any(finding.level == "FAIL" for finding in findings):
        return findings  # what follows would fail for the same reason, and say it worse
    findings += _check_template(settings)
    played = play_scripted(settings, EPISODES)
    if played.failures:
        return [*findings, failure("rollout", played.failures[0])]
    return findings + _check_texts(settings, [group for group in played.groups if group.transitions])


def _check_template(settings: RunSettings) -> list[Finding]:
    """Say whether the tokenizer has a chat template; a model without one can be trained as well."""
    from paw_lightning.commands.checking.findings import ok

    if settings.module.tokenizer.chat_template is None:
        text = "the tokenizer has no chat template: a turn is a line, and the eos token ends an action"
        return [ok("template", f"{text} (meant for base models; an instruction-tuned model brings one)")]
    chat = settings.prompts.chat
    ends = " or ".join(settings.module.tokenizer.convert_ids_to_tokens(sorted(chat.stop_ids)))
    text = f"the tokenizer's chat template, rendered once and cut at the texts; {ends} ends an action"
    return [ok("template", text + (f", which {chat.scaffold.opened!r} begins" if chat.scaffold.opened else ""))]


def _check_texts(settings: RunSettings, groups: list[RolloutGroup]) -> list[Finding]:
    """Prompt, row and lengths of scripted episodes; actions and time of the policy's own."""
    from paw_lightning.commands.checking.costs import measure, show_time
    from paw_lightning.commands.checking.findings import warning
    from paw_lightning.commands.checking.lengths import show_lengths
    from paw_lightning.commands.checking.memory import show_memory
    from paw_lightning.commands.checking.texts import selected_rows, show_prompts, show_row
    from paw_lightning.commands.run_settings import load_policy

    alpha = settings.config["entropy_selection"]["alpha"]
    episodes = [episode for group in groups for episode in group.episodes]
    show_prompts(episodes[0], settings.module.tokenizer)
    show_row(groups[0], settings.module.tokenizer, alpha=alpha)
    measured = measure(settings, load_policy(settings))
    findings = [warning("rollout", text) for text in measured.played.failures[:1]]
    findings += show_lengths(settings, episodes, [t for group in measured.played.groups for t in group.transitions])
    rows = [row for group in groups for row in selected_rows(group, select=alpha > 0)]
    findings.append(show_time(settings, measured, episodes, sum(row.length for row in rows)))
    return [*findings, show_memory(settings)]

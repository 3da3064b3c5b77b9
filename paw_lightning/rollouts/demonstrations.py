"""An expert's answers, as the policy would have written them."""

from __future__ import annotations

from dataclasses import dataclass

from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.episodes import EpisodeError, describe
from paw_lightning.samplers.base import Generation
from paw_lightning.text.prompts import PromptBuilder


@dataclass(frozen=True)
class Demonstrator:
    """Writes what an environment's expert does in the run's action format, tokenizer and chat template.

    Args:
        longest: `rollout.max_action_tokens`; a longer answer is refused, as the policy could never write it.
    """

    longest: int

    def answer(self, env: TextEnv, prompts: PromptBuilder) -> Generation:
        """The expert's answer, its end of turn included; without log-probs, as no sampler has drawn it.

        Raises:
            EpisodeError: the expert fails.
            SettingsError: there is none, or its answer is too long.
        """
        try:
            shown = env.demonstrate()
        except NotImplementedError as error:  # not a broken episode: no group could be played
            raise SettingsError(str(error)) from error
        except FAILURES as error:
            raise EpisodeError(describe(env, "demonstrate()", error)) from error
        chat, form = prompts.chat, prompts.form
        opened = chat.scaffold.opened
        # A whole answer stays as it is, a bare command is put into the format; the prompt may have begun it already.
        whole = form.parse(shown).well_formed
        try:
            text = shown.removeprefix(opened.strip()) if whole else form.answer(shown, opened)
        except ValueError as error:
            raise SettingsError(
                f"{type(env).__name__}.demonstrate() gave {error} (rollout.prompt.action_format)"
            ) from error
        ids = chat.encode_answer(text)
        if len(ids) > self.longest:
            raise SettingsError(
                f"rollout.max_action_tokens is {self.longest}, and an expert's answer {text[:80]!r} has {len(ids)} "
                "tokens; wanted at least as many"
            )
        return Generation(ids, [], [], stopped=True)

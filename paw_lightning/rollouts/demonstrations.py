"""An expert's answers, as the policy would have written them."""

from __future__ import annotations

from dataclasses import dataclass

from paw_lightning.envs.base import FAILURES, TextEnv
from paw_lightning.errors import SettingsError
from paw_lightning.rollouts.episodes import EpisodeError, describe
from paw_lightning.samplers.base import Generation
from paw_lightning.text.actions import ActionFormat
from paw_lightning.text.chat import ChatFormat


@dataclass(frozen=True)
class Demonstrator:
    """Writes what an environment's expert does in the run's action format, tokenizer and chat template.

    Args:
        chat: the model's.
        action_format: the run's.
        longest: `rollout.max_action_tokens`; a longer answer is refused, as the policy could never write it.
    """

    chat: ChatFormat
    action_format: ActionFormat
    longest: int

    def answer(self, env: TextEnv) -> Generation:
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
        opened = self.chat.scaffold.opened
        # A whole answer stays as it is, a bare command is put into the format; the prompt may have begun it already.
        whole = self.action_format.parse(shown).well_formed
        text = shown.removeprefix(opened.strip()) if whole else self.action_format.answer(shown, opened)
        ids = self.chat.encode_answer(text)
        if len(ids) > self.longest:
            raise SettingsError(
                f"rollout.max_action_tokens is {self.longest}, and an expert's answer {text[:80]!r} has {len(ids)} "
                "tokens; wanted at least as many"
            )
        return Generation(ids, [], [], stopped=True)

"""Rollout files with texts of our own, as a run would have written them."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from paw_lightning.rollout_files import Header, RecordedEpisode, RecordedTurn, RolloutFile, write

END = "<|end|>"


class Words(dict[int, str]):
    """Token id -> text; a new text gets the next id."""

    def ids(self, *texts: str) -> list[int]:
        """The ids of some texts, one token each."""
        known = {text: token for token, text in self.items()}
        for text in texts:
            if text not in known:
                known[text] = len(self)
                self[len(self)] = text
        return [known[text] for text in texts]


def turn(words: Words, action: str, answer: str, **changed: Any) -> RecordedTurn:
    """A turn whose action is one token and the end token, and whose answer is a token for each word."""
    spoken = [f" {word}" for word in answer.split(" ")]
    own: dict[str, Any] = {
        "prompt_ids": words.ids("Task", ":", " do"),
        "action_ids": words.ids(action, END),
        "bridge_ids": words.ids("\n"),
        "observation_ids": words.ids(*spoken),
        "action_text": action,
        "answer_text": action,
        "observation_text": answer,
        "sampled_logprobs": [-0.25, -0.5],
        "sampled_entropies": [0.5, 0.25],
        "old_logprobs": [-0.25, -0.5],
        "advantage": -0.5,
        "selected": True,
        "target_logprobs": [-2.0] * len(spoken),
        "loss_weights": [0.125] + [0.0] * (len(spoken) - 1),
        "target_weight": 0.01,
        "target_step": 0,
    }
    return RecordedTurn(**own | changed)


def episode(words: Words, seed: int = 17, **changed: Any) -> RecordedEpisode:
    """Two turns of the same action with the same answer, then the turn limit."""
    own: dict[str, Any] = {
        "group": 0,
        "group_key": f"train/{seed}",
        "max_return": 1.0,
        "coefficient": 0.75,
        "task_seed": seed,
        "task": f"put the mug of task {seed} away.",
        "kind": "pick",
        "turns": [turn(words, "look", "you see nothing"), turn(words, "look", "you see nothing")],
    }
    return RecordedEpisode(**own | changed)


def save(run: Path, name: str, episodes: list[RecordedEpisode], words: Words, **header: Any) -> Path:
    """One rollout file of a run, `train-000001` for instance."""
    split, number = name.split("-")[:2]
    own: dict[str, Any] = {"split": split, "iteration": int(number), "texts": dict(words)}
    path = run / "rollouts" / f"{name}.jsonl.gz"
    write(path, RolloutFile(Header(**own | {"metrics": {"rollout/success_rate": 0.5}} | header), episodes))
    return path


def small_run(run: Path, won: bool = False, action: str = "open fridge") -> Path:
    """Two iterations of two groups: task 16 is won by all, task 17 lost by member 0, and by member 1 unless `won`."""
    words = Words()
    for iteration in (1, 2):
        episodes = [
            episode(words, 16, group=0, member=member, won=True, finished=True, turns=[_reward(words)])
            for member in (0, 1)
        ]
        episodes.append(episode(words, 17, group=1, member=0))
        better = {"won": True, "finished": True, "turns": [turn(words, "look", "you see nothing"), _reward(words)]}
        tried = {"turns": [turn(words, "look", "you see nothing"), turn(words, action, "it is shut")]}
        episodes.append(episode(words, 17, group=1, member=1, **(better if won else tried)))
        save(run, f"train-{iteration:06d}", episodes, words)
    untrained = {"advantage": 0.0, "selected": False, "target_logprobs": None, "loss_weights": None}
    unseen = [turn(words, "look", "you see nothing", **untrained)]
    validated = episode(words, 17, won=won, finished=True, turns=unseen)
    save(run, "val-000002", [validated], words, failures=["task 3: no answer"])
    return run


def _reward(words: Words) -> RecordedTurn:
    return turn(words, "take mug", "you have it", reward=1.0, advantage=0.5)


HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "<!-- <script>window.hacked = 3</script> --><![CDATA[",
    "javascript:window.hacked=4",
    "<a href='javascript:window.hacked=5'>x</a><iframe srcdoc='<script>parent.hacked=6</script>'></iframe>",
    "</style><style>* { display: none !important }</style>",
    "<svg onload='window.hacked = 7'><base href='https://example.org/'>",
    "line\u2028paragraph\u2029end",
    "\u202eright to left\u2066isolated",
    "null\x00byte\x1b[31m\x08",
    "lone SURROGATE surrogate",
    "${window.hacked = 8} `${1}` {{constructor}} @@SCRIPT@@ \\u003cscript\\u003e",
    "]]>\"'&lt;script&gt;window.hacked = 9&lt;/script&gt;",
    "__proto__",
    "x" * 100_000,
)


def hostile_run(run: Path) -> Path:
    """Every text of a run is one of HOSTILE, one episode for each; the file spells a lone surrogate as JSON can."""
    episodes, words = [], Words()
    for i, text in enumerate(HOSTILE):
        played = turn(words, text, text, anchor=text, answer_text=text, well_formed=False)
        odd = RecordedTurn(action_text=text, observation_text=text, predictable=False, control_ids=words.ids(text))
        named = {"group_key": text, "task": text, "kind": text, "environment": text, "errors": [text]}
        episodes.append(episode(words, i, group=i, turns=[played, odd], **named))
    odd_names = {
        "error": HOSTILE[1],
        "failures": list(HOSTILE),
        "world_model_loss": HOSTILE[0],
        "metrics": {HOSTILE[1]: 1.0},
    }
    path = save(run, "train-000001", episodes, words, **odd_names)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()).replace(b"SURROGATE", rb"\ud800")))
    return run

"""The noisy player that a tiny search policy is made from."""

from __future__ import annotations

import random
import sys
from itertools import islice

from paw_lightning.envs.search.facts import fact_base
from paw_lightning.models.loading import ASSETS, load_tokenizer
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder, Turn
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # tools are scripts: each finds its neighbours in its own folder

from household_transcripts import Transcript
from search_transcripts import make_environment, names, play, play_questions, search_texts, world


def wins(noise: float, insight: float, count: int = 300) -> float:
    """Share of training questions whose last command is the right answer."""
    env = make_environment("train")
    won = 0
    for question in range(count):
        rng = random.Random(question)
        transcript = play(env, question, rng, noise=noise, insight=insight, turns=4)
        won += transcript.turns[-1][1] == env.expert_plan()[-1]
    return won / count


def test_skill_decides() -> None:
    assert wins(noise=0.0, insight=1.0) == 1.0
    # without insight any new name of the document: one of 3 in a third of the questions, one of 2 in two thirds:
    # 1/3 * 1/3 + 2/3 * 1/2 = 0.44, standard deviation sqrt(0.44 * 0.56 / 300) = 0.029
    assert abs(wins(noise=0.0, insight=0.0) - 0.44) < 5 * 0.029
    assert wins(noise=1.0, insight=1.0) < 0.2


def test_transcripts_repeat_and_leave_the_training_facts_alone() -> None:
    played = list(islice(play_questions(3, noise=0.5, insight=0.5), 700))  # 32 lands x 15 questions, then new facts
    assert played == list(islice(play_questions(3, noise=0.5, insight=0.5), 700))
    # two of 64 x 64 names may coincide by chance between fact bases, within one they cannot
    assert len({transcript.task for transcript in played[:480]}) == 480
    assert len({transcript.task for transcript in played}) > 690
    trained_on = {
        text.partition("\n")[2] for text in fact_base(world()["environment"]["init_args"]["lands"], 0).documents
    }
    found = {answer for t in played for *_, answer in t.turns if answer}
    # 40 lands have 160 documents; nearly all of the first 32 lands' 128 are found, and some of the next facts'
    assert len(found) > 120 and not found & trained_on
    assert all(t.turns[-1][2] == "" or len(t.turns) == 4 for t in played)


def test_names() -> None:
    text = "Who is the mayor of Zola Miru? The mayor of Zola Miru is Teko Balu. No."
    assert names(text) == ["Zola Miru", "Zola Miru", "Teko Balu"]
    text = next(search_texts(0))
    assert text.startswith(("Who", "What")) and "\n> " in text and "\nQuestion: " in text


def test_training_rows_are_the_prompts_of_a_run() -> None:
    """Up to every action, a packed transcript is, token by token, the prompt that configs/search/base.yaml builds."""
    from make_base_policy import Packer

    chat, prompt = ChatFormat(load_tokenizer(str(ASSETS / "tiny-household"))), Prompt(**world()["prompt"])
    builder, packer = PromptBuilder(prompt, chat), Packer(chat, prompt)
    transcript: Transcript = next(t for t in play_questions(0, noise=0.5, insight=0.5) if len(t.turns) == 4)
    row = packer.transcript(transcript)
    ends = [i for i, label in enumerate(row.labels) if label == chat.tokenizer.eos_token_id]
    assert len(ends) == 4
    for number, stop in enumerate(ends):
        turns = [Turn(observation, action) for observation, action, _ in transcript.turns[:number]]
        observation, action, _ = transcript.turns[number]
        ids = builder.build(transcript.task, observation, turns, transcript.turns[0][0], [])
        assert row.ids[: len(ids)] == ids
        assert row.labels[len(ids) - 1 : stop] == chat.encode_text(" " + action)

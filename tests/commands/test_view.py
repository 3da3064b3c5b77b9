"""The page of a run as a text: what is in it, that nothing of it can be markup, and what is refused."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from paw_lightning.commands.view import command
from paw_lightning.commands.viewing.page import BROWSER, SCRIPTS, STYLES, joined_script
from paw_lightning.commands.viewing.parts import episode_data, part, shortened, unpacked
from paw_lightning.commands.viewing.tokens import taught_tokens
from paw_lightning.errors import NotWrittenError, SettingsError
from paw_lightning.rollout_files import RecordedEpisode, RecordedTurn, read
from tests.helpers.recorded_runs import HOSTILE, Words, episode, hostile_run, save, small_run

SOURCES = {name: (BROWSER / name).read_text() for name in SCRIPTS}


def written(*args: object) -> str:
    """The page that the command writes."""
    assert command([str(arg) for arg in args]) == 0
    return Path(str(args[-1])).read_text()


def data(page: str, kind: str) -> list[str]:
    return re.findall(rf'<script type="text/plain" data-kind="{kind}" data-run="\d">([^<]*)</script>', page)


# What the page holds


def test_a_part_is_a_table_texts_and_one_line_for_each_group(tmp_path: Path) -> None:
    table, texts, first, second = unpacked(
        part("train-000001", read(small_run(tmp_path) / "rollouts/train-000001.jsonl.gz"))
    )
    assert table["columns"]["task_seed"] == [16, 16, 17, 17] and table["columns"]["chunk"] == [0, 0, 1, 1]
    assert table["columns"]["won"] == [True, True, False, False]
    assert table["columns"]["ended"] == ["won", "won", "turn limit", "turn limit"]
    assert table["columns"]["advantage"] == [0.5, 0.5, -0.5, -0.5]
    assert "malformed" not in table["columns"]  # none is: the column says nothing
    assert [len(first), len(second)] == [2, 2]
    one = second[0]["turns"][0]
    assert "".join(texts[str(token)] for token in one["action_ids"]) == "look<|end|>"
    assert one["loss_weights"] == [0.125, 0, 0] and "reward" not in one


def test_of_a_prompt_only_what_is_new_is_kept() -> None:
    turns = [RecordedTurn(prompt_ids=[1, 2, 3]), RecordedTurn(prompt_ids=[1, 2, 4, 5])]
    prompts = [turn["prompt"] for turn in episode_data(RecordedEpisode(turns=turns))["turns"]]
    assert prompts == [{"shared": 0, "ids": [1, 2, 3]}, {"shared": 2, "ids": [4, 5]}]


def test_numbers_are_short_and_always_json() -> None:
    assert shortened([0.123456, -1234.56, math.nan, math.inf, 7, True]) == [0.1235, -1235.0, None, None, 7, True]


def test_taught_tokens_are_summed_by_weight() -> None:
    # Token 7 twice, w 0.5 and 0, log p -1 each; token 8 once with 0.25; token 9 without a number.
    words = {"target_logprobs": [-1.0, -1.0, -2.0, -1.0], "loss_weights": [0.5, 0.0, 0.25, math.nan]}
    taught = RecordedEpisode(turns=[RecordedTurn(observation_ids=[7, 7, 8, 9], selected=True, **words)])
    assert taught_tokens([taught]) == [[7, 2, 1, 0.5, -2.0], [8, 1, 1, 0.25, -2.0]]


def test_a_control_is_what_was_taught_in_the_observations_place() -> None:
    replaced = RecordedTurn(observation_ids=[1], control_ids=[2], target_logprobs=[-1.0], loss_weights=[0.5])
    assert taught_tokens([RecordedEpisode(turns=[replaced])]) == [[2, 1, 1, 0.5, -1.0]]


def test_the_page_is_written_beside_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = small_run(tmp_path / "runs" / "one")
    assert command([str(run)]) == 0
    assert re.search(r"wrote .*one/view.html: 3 rollout files, 0\.\d MB; open it in a browser", capsys.readouterr().out)
    page = (run / "view.html").read_text()
    assert "<title>runs/one</title>" in page
    assert len(data(page, "part")) == 3 and list(run.glob(".view*")) == []


def test_two_runs_are_told_apart_by_where_their_paths_differ(tmp_path: Path) -> None:
    runs = [small_run(tmp_path / name / "logs" / "version_0") for name in ("paw", "grpo")]
    page = written(*runs, "--output", tmp_path / "page.html")
    [about] = unpacked(data(page, "about")[0])
    assert about == {"runs": ["paw/…/version_0", "grpo/…/version_0"], "live": False}
    assert len(data(page, "part")) == 6 and page.count('data-run="1"') == 4  # three parts, and the curves


def test_curves_come_from_event_files(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    run = small_run(tmp_path)
    with SummaryWriter(str(run)) as writer:
        for step, value in (0, 0.5), (1, 0.25), (1, math.nan), (1, 0.75):
            writer.add_scalar("train/entropy", value, step)
    [curves] = unpacked(data(written(run, "--output", tmp_path / "page.html"), "curves")[0])
    assert curves == {"train/entropy": [[0, 0.5], [1, 0.75]]}  # what was written again replaces what was there


def test_curves_come_from_a_csv_file_as_well(tmp_path: Path) -> None:
    """Runs with CSV, W&B or MLflow have no event files; of a resumed run's iteration the later value counts."""
    run = small_run(tmp_path)
    (run / "metrics.csv").write_text("step,train/entropy,a\n0,0.5,\n1,0.25,\n1,0.75,3\n")
    [curves] = unpacked(data(written(run, "--output", tmp_path / "page.html"), "curves")[0])
    assert curves == {"train/entropy": [[0, 0.5], [1, 0.75]], "a": [[1, 3.0]]}


# What cannot get out of its place


def test_nothing_hostile_reaches_the_markup(tmp_path: Path) -> None:
    """Beside the title, all that differs from another run's page is base64."""
    run = hostile_run(tmp_path / "<img src=x onerror=hacked()>\u202e" / "'\"&-->")
    pages = [
        written(run, "--output", tmp_path / "a.html"),
        written(small_run(tmp_path / "b"), "--output", tmp_path / "b.html"),
    ]
    bare = [
        re.sub(r'(data-run="\d">)[A-Za-z0-9+/=\n]*<', r"\1<", re.sub(r"<(title|h1)>.*?</\1>", "", page))
        for page in pages
    ]
    assert sorted(set(bare[0].split("\n"))) == sorted(set(bare[1].split("\n")))
    [title] = re.findall("<title>(.*)</title>", pages[0])
    assert title == "&lt;img src=x onerror=hacked()&gt;\N{REPLACEMENT CHARACTER}/&#x27;&quot;&amp;--&gt;"
    assert not [text for text in HOSTILE if text in pages[0] and text not in pages[1]]


def test_the_policy_allows_this_script_and_style_and_no_other(tmp_path: Path) -> None:
    page = written(small_run(tmp_path), "--output", tmp_path / "page.html")
    [policy] = re.findall('http-equiv="Content-Security-Policy" content="(.*)"', page)
    for tag in ("style", "script"):
        [text] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';") and "connect-src 'none'" in policy and "unsafe" not in policy


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_makes_no_markup_of_texts(name: str) -> None:
    risky = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|\.href\s*=|\.src\b"
    assert not re.search(risky, SOURCES[name])


# The script's files


def test_script_files_are_short_and_use_earlier_ones_only() -> None:
    for name, text in [*SOURCES.items(), *((name, (BROWSER / name).read_text()) for name in (*STYLES, "page.html"))]:
        assert text.count("\n") <= 200, name
    for place, name in enumerate(SCRIPTS):
        for names, source in re.findall(r'^import \{ (.*) \} from "\./(.*)";', SOURCES[name], re.MULTILINE):
            assert source in SCRIPTS[:place], f"{name} imports {source}"
            for imported in names.split(", "):
                declared = rf"^export (?:async )?(?:function|const|let) {re.escape(imported)}\b"
                assert re.search(declared, SOURCES[source], re.MULTILINE), f"{name} imports {imported} from {source}"


def test_no_two_files_of_the_script_declare_the_same_name() -> None:
    """They become one text, in which a second function of a name would silently replace the first."""
    names = re.findall(r"^(?:async )?(?:function|const|let) ([\w$]+)", joined_script(), re.MULTILINE)
    assert len(names) > 80 and sorted(names) == sorted(set(names))


def test_every_file_of_the_page_is_in_it() -> None:
    assert {path.name for path in BROWSER.iterdir()} == {*SCRIPTS, *STYLES, "page.html"}


# What is refused


def broken(run: Path, change: str) -> Path:
    path = save(run, "train-000001", [episode(Words())], Words())
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif change == "text":
        path.write_text("no gzip")
    else:
        header, *rest = gzip.decompress(path.read_bytes()).decode().split("\n")
        path.write_bytes(
            gzip.compress("\n".join([json.dumps(json.loads(header) | json.loads(change)), *rest]).encode())
        )
    return run


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("cut", "cannot be read as a rollout file"),
        ("text", "cannot be read as a rollout file"),
        ('{"version": 2}', "of version 2.*wanted version 1"),
        ('{"format": "other"}', "is no rollout file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(change: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"train-000001.jsonl.gz.*{said}"):
        command([str(broken(tmp_path, change))])


def test_what_cannot_be_shown_or_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="required: RUN; wanted what paw-lightning view --help shows"):
        command([])
    with pytest.raises(SettingsError, match="the run is nowhere; wanted a folder"):
        command(["nowhere"])
    with pytest.raises(SettingsError, match="the runs are 3; wanted one, or two to compare"):
        command([str(tmp_path)] * 3)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsError, match=r"empty, which holds no episodes.*rollout_files.enabled true"):
        command([str(tmp_path / "empty")])
    run = small_run(tmp_path / "run")
    with pytest.raises(SettingsError, match=r"--output is .*no/page.html, which lies in a folder that does not"):
        command([str(run), "--output", str(tmp_path / "no" / "page.html")])
    with pytest.raises(SettingsError, match=r"--output is .*run, which is a folder; wanted a file"):
        command([str(run), "--output", str(run)])
    with pytest.raises(SettingsError, match="--output and --serve; wanted one of them"):
        command([str(run), "--serve", "--output", "page.html"])


def test_a_full_disk_leaves_the_page_before(tmp_path: Path, monkeypatch) -> None:
    run = small_run(tmp_path / "run")
    command([str(run)])
    page, files = (run / "view.html").read_bytes(), sorted(run.iterdir())

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWrittenError, match=r"view.html could not be written: No space left on device \(\d+"):
        command([str(run)])
    assert (run / "view.html").read_bytes() == page and sorted(run.iterdir()) == files


def test_no_model_library_is_imported(tmp_path: Path) -> None:
    run = small_run(tmp_path)
    code = (
        "import sys; from paw_lightning.commands.view import command; command(sys.argv[1:]);"
        "print('heavy', {'torch', 'lightning', 'transformers', 'jsonargparse'} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, text=True, timeout=60)
    assert "heavy set()" in ran.stdout, ran.stderr

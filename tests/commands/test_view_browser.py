"""The page in a real browser: nothing hostile runs, links restore a view, keys work, texts can be read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from paw_lightning.commands.view import command
from paw_lightning.commands.viewing.runs import open_runs
from paw_lightning.commands.viewing.server import HOST, Answer, Files
from tests.helpers.browser import Browser, needs_browser
from tests.helpers.recorded_runs import HOSTILE, Words, episode, hostile_run, save, small_run, turn

pytestmark = [needs_browser, pytest.mark.timeout(180)]
LOST = "#e=A%2Ftrain-000002%2F2"
"""Iteration 2, task 17, member 0."""
POINT_AT_ALL = """
document.querySelectorAll('.t').forEach(t => t.dispatchEvent(new PointerEvent('pointerover', {bubbles: true})))
"""
NAMELESS = """
[...document.querySelectorAll('button, select, input, [role=img]')]
    .filter(e => e.getClientRects().length && !(e.ariaLabel || e.textContent.trim() || e.labels?.length))
    .map(e => e.outerHTML)
"""
CONTRAST = Path(__file__).with_name("contrast.js")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    opened = Browser(tmp_path_factory.mktemp("browser"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def clean(browser: Browser) -> Iterator[None]:
    """Every test begins at 1280 pixels, and ends without an error, a refused script or a request to anywhere."""
    browser.errors.clear()
    browser.requests.clear()
    browser.size(1280, 900)
    yield
    assert browser.errors == []
    assert {address.split(":")[0] for address in browser.requests} <= {"file", "about", "http", "blob"}


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(small_run(tmp_path_factory.mktemp("one") / "run"))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run A loses task 17 where run B wins it with its member 1."""
    folder = tmp_path_factory.mktemp("two")
    return page(small_run(folder / "a"), small_run(folder / "b", won=True))


def page(*runs: Path) -> str:
    file = runs[0].parent / "page.html"
    assert command([*map(str, runs), "--output", str(file)]) == 0
    return file.as_uri()


def texts(browser: Browser, selector: str) -> list[str]:
    """The texts of elements; two frames later, since a turn that has just been drawn is laid out when it is seen."""
    frames = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    found = f"[...document.querySelectorAll({selector!r})].map(e => e.innerText || e.textContent)"
    return list(browser.run(f"{frames}.then(() => {found})"))


# Hostile texts


def test_no_hostile_text_becomes_markup_or_runs(browser: Browser, tmp_path: Path) -> None:
    address = page(hostile_run(tmp_path / "<img src=x onerror='window.hacked=10'>"))
    elements = "[...new Set([...document.querySelectorAll('*')].map(e => e.localName))].sort().join()"
    browser.open(address)
    browser.click("#taught summary")
    browser.click("#failures summary")
    browser.until("document.querySelector('#taught table')")
    seen = set(browser.run(elements).split(","))
    for i in range(len(HOSTILE)):
        browser.open(f"{address}#e=A%2Ftrain-000001%2F{i}&prompts=1&with=A%2Ftrain-000001%2F{(i + 1) % len(HOSTILE)}")
        browser.until("document.querySelector('#episode .transcript')")
        browser.run(POINT_AT_ALL)
        seen |= set(browser.run(elements).split(","))
        assert browser.run("window.hacked") is None
    assert not seen & {"img", "iframe", "base", "object", "embed"}
    assert browser.run("document.querySelectorAll('body script:not([data-kind])').length") == 1
    assert browser.run("document.querySelectorAll('style').length") == 1
    assert browser.run("[...document.querySelectorAll('a')].every(a => a.getAttribute('href') === '#')")
    assert {address.split(":")[0] for address in browser.requests} <= {"file", "about"}


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        (0, "</script><script>window.hacked = 1</script>"),
        (7, "line⟨U+2028⟩paragraph⟨U+2029⟩end"),
        (8, "⟨U+202E⟩right to left⟨U+2066⟩isolated"),
        (9, "null⟨U+0000⟩byte⟨U+001B⟩[31m⟨U+0008⟩"),
        (10, "lone ⟨U+D800⟩ surrogate"),
    ],
)
def test_hostile_texts_are_shown_as_they_are(place: int, shown: str, browser: Browser, tmp_path: Path) -> None:
    browser.open(f"{page(hostile_run(tmp_path / 'run'))}#e=A%2Ftrain-000001%2F{place}")
    assert shown in texts(browser, "#episode h2")[0]
    assert shown in texts(browser, ".transcript .t.action")[0] and shown in texts(browser, ".start .text")[0]


def test_a_very_long_line_widens_nothing(browser: Browser, tmp_path: Path) -> None:
    browser.size(400, 860)
    address = page(hostile_run(tmp_path / "run"))
    for place in ("", f"#e=A%2Ftrain-000001%2F{len(HOSTILE) - 1}&prompts=1"):
        browser.open(address + place)
        assert browser.run("document.documentElement.scrollWidth") == 400


# Finding one's way


def test_a_link_restores_filter_episode_turn_and_shading(browser: Browser, one: str) -> None:
    browser.open(f"{one}{LOST}&outcome=lost&turn=2&shade=entropy")
    assert texts(browser, "#episode .turn.chosen h3 button") == ["Turn 2"]
    assert browser.run("document.querySelector('[name=shade]:checked').value") == "entropy"
    # Three episodes are lost in iteration 2, then two in iteration 1; this one is the first of them.
    assert "1 of 5" in texts(browser, "#episode .bar")[0]
    browser.press("Escape")
    assert browser.run("location.hash") == "#outcome=lost&shade=entropy"
    assert set(texts(browser, "#episodes tbody tr td:first-child")) == {"✗ lost"}


def test_back_goes_back_one_step_at_a_time(browser: Browser, one: str) -> None:
    browser.open(one)
    browser.click("[data-outcome=lost]")
    browser.click("#episodes .task button")
    browser.until("!document.querySelector('#episode').hidden")
    browser.run("history.back()")
    browser.until("document.querySelector('#episode').hidden && location.hash === '#outcome=lost'")
    browser.run("history.back()")
    browser.until("location.hash === ''")
    browser.until("document.querySelectorAll('#episodes tbody tr').length === 9")
    browser.run("history.forward()")
    browser.until("document.querySelector('[data-outcome=lost]').getAttribute('aria-pressed') === 'true'")


def test_an_episode_that_is_not_there_is_said(browser: Browser, one: str) -> None:
    browser.open(f"{one}#e=A%2Fgone%2F2")
    assert "The link names the episode A/gone/2, which is not in this page." in texts(browser, "#episode")[0]
    browser.click("#episode button", "Episodes")
    assert browser.run("document.querySelector('#episode').hidden")


def test_rows_are_searched_filtered_and_sorted(browser: Browser, one: str) -> None:
    browser.open(one)
    assert texts(browser, "#outcomes button") == ["All 9", "Won 4", "Lost 5", "Trouble 0"]
    for typed, left in ("17", 5), ("#16", 4), ("MUG 17", 5), ("cup", 0), ("", 9):
        browser.run(
            f"(q => {{ q.value = {typed!r}; q.dispatchEvent(new Event('input')) }})(document.querySelector('#f-q'))"
        )
        assert browser.run("document.querySelectorAll('#episodes tbody tr').length") == left, typed
    assert browser.run("document.querySelector('#nothing').textContent") == ""
    for wanted in ("descending", "ascending", "none"):
        browser.click("[data-sort=turns]")
        assert browser.run("document.querySelector('[data-sort=turns]').closest('th').ariaSort") == wanted
    browser.click("[data-sort=turns]")
    # In training task 17 takes two turns, task 16 one; of one turn is also the validation behind iteration 2.
    wanted = ["17"] * 4 + ["16"] * 2 + ["17"] + ["16"] * 2
    assert texts(browser, "#episodes tbody tr td:nth-child(4)") == wanted
    assert "task 3: no answer" in browser.run("document.querySelector('#failures').textContent")


def test_keys_walk_through_rows_episodes_turns_and_tokens(browser: Browser, one: str) -> None:
    browser.open(one)
    for key in "jjj":
        browser.press(key)
    browser.press("Enter")
    browser.until("location.hash.includes('train-000002%2F2')")
    browser.until("document.querySelector('.transcript')")
    browser.press("j")
    browser.until("location.hash.includes('train-000002%2F3')")
    browser.press("n")
    browser.press("n")
    assert browser.run("new URLSearchParams(location.hash).get('turn')") == "2"
    browser.run("document.querySelector('.t[tabindex=\"0\"]').focus()")
    browser.press("ArrowRight")
    assert "end" in browser.run("document.activeElement.textContent")
    assert "log-prob\n−0.5\nentropy H\n0.25" in texts(browser, "#inspector")[0]
    browser.press("Escape")
    assert browser.run("document.querySelector('#inspector').hidden") and browser.run("location.hash.includes('e=')")
    browser.press("Escape")
    browser.until("document.querySelector('#episode').hidden")
    browser.until("document.activeElement.dataset.key === 'A/train-000002/3'")
    browser.press("/")
    assert browser.run("document.activeElement.id") == "f-q"
    browser.press("Escape")
    browser.press("?")
    assert browser.run("document.querySelector('#help').open")


def test_the_keyboard_stays_where_it_was(browser: Browser, two: str) -> None:
    """What is drawn anew gives the focus back: a head that sorts, an outcome, a shading, a turn."""
    browser.open(two)
    for control in "[data-sort=turns]", "[data-outcome=lost]":
        browser.run(f"document.querySelector({control!r}).focus()")
        browser.press("Enter")
        assert browser.run(f"document.activeElement === document.querySelector({control!r})")
    browser.open(f"{two}{LOST}&with=B%2Ftrain-000002%2F2")
    browser.run("document.querySelector('[name=shade]:checked').focus()")
    browser.press("ArrowRight")
    browser.until("location.hash.includes('shade=entropy')")
    browser.until("document.activeElement.value === 'entropy' && document.activeElement.isConnected")
    browser.run("document.querySelectorAll('[data-turn=\"2\"] h3 button')[1].focus()")
    browser.press("Enter")
    browser.until("document.querySelector('.turn.chosen')")
    assert browser.run("document.activeElement === document.querySelectorAll('[data-turn=\"2\"] h3 button')[1]")


def test_characters_that_are_split_over_tokens_are_shown(browser: Browser, tmp_path: Path) -> None:
    """A mug of three tokens that have no text of their own; its first token shows it."""
    words = Words()
    played = turn(words, "look", "a x and tea", observation_text=" a \U0001f375 and tea")
    split = [len(words) + i for i in range(3)]
    words |= dict.fromkeys(split, "\ufffd")
    before, _, *after = played.observation_ids
    played.observation_ids = [before, *words.ids(" "), *split, *after]
    played.target_logprobs = played.loss_weights = None
    save(tmp_path / "run", "train-000001", [episode(words, 17, turns=[played])], words)
    browser.open(page(tmp_path / "run") + "#e=A%2Ftrain-000001%2F0")
    shown = "".join(texts(browser, "#episode .turn"))
    assert "\U0001f375" in shown and "\ufffd" not in shown


# The three questions of docs/viewer.md


def test_why_did_task_17_fail_takes_three_clicks(browser: Browser, one: str) -> None:
    browser.open(f"{one}")
    browser.click("[data-outcome=lost]")
    browser.click("#episodes .task button", "task 17")
    browser.until("document.querySelector('.story')")
    story = texts(browser, ".story li")
    assert story[0] == (
        "Lost after 2 turns, return 0 of 1, ended by: turn limit. 0 of the 2 episodes of its group won. Advantage −0.5."
    )
    assert story[1] == "One turn repeats an earlier one: same action, same answer: turn 2"
    browser.click(".story button", "2")
    assert texts(browser, ".turn.chosen h3 button") == ["Turn 2"]


def test_which_tokens_still_teach_takes_one_click(browser: Browser, one: str) -> None:
    browser.open(one)
    browser.click("#taught summary")
    browser.until("document.querySelector('#taught tbody')")
    # " you": 0.125 in both turns of task 17, member 0, in one of member 1, and in the two turns of task 16.
    first = texts(browser, "#taught tbody tr:first-child td")
    assert first == ["␣you", "5", "5", "100.0 %", "0.625", "0.135"]  # p = exp(-2)
    browser.click("#taught button", "Show its episodes")
    browser.click("#episodes .task button", "task 17")
    browser.until("document.querySelector('.transcript')")
    assert texts(browser, ".t.teaches") == [" you", " you"]


def test_what_the_other_run_did_takes_three_clicks(browser: Browser, two: str) -> None:
    browser.open(f"{two}#beside=onlyB")
    assert texts(browser, "#episodes tbody tr td:first-child") == ["✗ lost"] * 3  # one in each file
    browser.click("#episodes .task button")
    browser.until("document.querySelector('aside')")
    browser.click("aside li:has(button[aria-label*='B · train 2']) button[aria-pressed]")
    browser.until("document.querySelector('.pair')")
    assert "The same action, then they differ from turn 2 on." in texts(browser, ".pair")[0]
    browser.click(".pair button", "Go to turn 2")
    assert [text.split("\n")[0] for text in texts(browser, ".turn.chosen")] == ["Turn 2", "Turn 2"]
    assert texts(browser, ".turn.chosen .t.action") == ["open fridge", "<|end|>", "take mug", "<|end|>"]


# Reading


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("shade", ["roles", "teaches", "entropy", "advantage", "surprise"])
def test_every_text_has_contrast(shade: str, dark: bool, browser: Browser, two: str) -> None:
    """At least 4.5 to 1 between each text and what lies behind it (WCAG AA)."""
    browser.size(1280, 3000, dark)
    for place in ("", f"{LOST}&with=B%2Ftrain-000002%2F2&prompts=1&turn=1&shade={shade}"):
        browser.open(two + place)
        measured = browser.run(CONTRAST.read_text())
        assert measured["count"] > 40 and measured["low"] == []


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_wider_than_the_screen(width: int, browser: Browser, two: str) -> None:
    browser.size(width, 860)
    for place in ("", f"{LOST}&with=B%2Ftrain-000002%2F3&prompts=1&shade=entropy"):
        browser.open(two + place)
        assert browser.run("document.documentElement.scrollWidth") == width


def test_everything_that_acts_has_a_name(browser: Browser, two: str) -> None:
    for place in ("", f"{LOST}&with=B%2Ftrain-000002%2F2"):
        browser.open(two + place)
        assert browser.run(NAMELESS) == []


@pytest.mark.slow
def test_five_thousand_episodes_open_within_three_seconds(browser: Browser, tmp_path: Path) -> None:
    words = Words()
    for iteration in range(1, 51):
        played = [episode(words, 100 * iteration + i, group=i // 8, member=i % 8) for i in range(100)]
        save(tmp_path / "run", f"train-{iteration:06d}", played, words)
    address = page(tmp_path / "run")
    assert min(browser.open(address) for _ in range(3)) < 3  # one of them may have met a busy machine
    assert "5,000 episodes in 50 files" in browser.run("document.querySelector('#summary').textContent")
    assert browser.run("document.querySelectorAll('#episodes tbody tr').length") < 150
    browser.run("scrollTo(0, 32 * 4000)")
    browser.until("document.querySelector('#episodes tbody tr:nth-child(2)').ariaRowIndex > 3000")


# A run in progress


def test_a_new_iteration_appears_by_itself(browser: Browser, tmp_path: Path) -> None:
    files = Files(open_runs([small_run(tmp_path / "run")]))
    with ThreadingHTTPServer((HOST, 0), partial(Answer, files)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        browser.open(f"http://{HOST}:{server.server_port}/")
        assert texts(browser, "#outcomes button")[0] == "All 9"
        save(tmp_path / "run", "train-000003", [episode(Words(), 99)], Words())
        browser.until("document.querySelector('#outcomes button').innerText === 'All 10'")
        assert texts(browser, "#episodes tbody tr:first-child td:nth-child(4)") == ["99"]
        browser.ask("Page.navigate", url="about:blank")
        server.shutdown()

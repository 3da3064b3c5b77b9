"""The search client against a server on this machine that also fails, hangs and talks nonsense."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from paw_lightning.envs import SearchEnv
from paw_lightning.envs.search.retrievers import RetrievalError
from paw_lightning.envs.search.server import SearchServer
from paw_lightning.rollouts.collector import Collector
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.text.chat import ChatFormat
from paw_lightning.text.prompts import Prompt, PromptBuilder
from tests.conftest import byte_tokenizer
from tests.helpers.fake_search_server import (
    DOCUMENTS,
    FakeServer,
    Reply,
    body,
    drip,
    hang,
    hang_up,
    running,
    status,
    well,
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with running() as fake:
        yield fake


def client(server: FakeServer, **changes: Any) -> SearchServer:
    return SearchServer(server.url, **({"timeout": 5.0, "retries": 2, "backoff": 0.0} | changes))


def test_both_request_forms_always_ask_for_scores(server: FakeServer) -> None:
    assert client(server).search("who?", 3) == DOCUMENTS
    assert pickle.loads(pickle.dumps(client(server, request_form="verl_agent"))).search("Größe", 2) == DOCUMENTS[:2]
    assert server.asked == [
        {"queries": ["who?"], "topk": 3, "return_scores": True},
        {"query": "Größe", "topk": 2, "return_scores": True},
    ]


@pytest.mark.parametrize(
    ("answer", "documents"),
    [
        ({"result": [[{"id": "1", "contents": "a"}, {"contents": "b"}]]}, ["a", "b"]),  # bare documents
        ({"result": [{"document": {"contents": "a"}, "score": 1}]}, ["a"]),  # not nested
        ({"result": [[{"document": {"title": "t", "text": "x"}, "score": 1}]]}, ["t\nx"]),
        ({"result": [[]]}, []),
        ({"result": []}, []),
    ],
)
def test_answers_of_other_servers(answer: object, documents: list[str], server: FakeServer) -> None:
    server.script = [body(answer)]
    assert client(server).search("q", 3) == documents


@pytest.mark.parametrize(
    "failure",
    [status(500), status(503), status(429), hang_up, body(b"<html>"), body({"detail": "no"}), body({"result": "no"})],
    ids=["500", "503", "429", "hang up", "html", "no result", "text result"],
)
def test_what_may_pass_is_tried_again(failure: Reply, server: FakeServer) -> None:
    server.script = [failure, failure]
    assert client(server).search("q", 3) == DOCUMENTS
    assert len(server.asked) == 3


def test_what_does_not_pass_is_an_error_that_names_the_url_and_the_key(server: FakeServer) -> None:
    server.script = [status(500)] * 3
    message = (
        rf"{re.escape(server.url)} failed 3 times, at last with HTTP status 500.*{re.escape('retriever.init_args.url')}"
    )
    with pytest.raises(RetrievalError, match=message):
        client(server).search("q", 3)
    assert len(server.asked) == 3


def test_a_refused_request_is_not_repeated(server: FakeServer) -> None:
    server.script = [status(422)]
    with pytest.raises(RetrievalError, match=r"failed 1 times, at last with HTTP status 422.*takes the search_r1 form"):
        client(server).search("q", 3)
    assert len(server.asked) == 1


@pytest.mark.parametrize("slow", [hang, drip])
def test_a_hanging_server_costs_its_timeout(slow: Reply, server: FakeServer) -> None:
    server.script = [slow]
    start = time.monotonic()
    with pytest.raises(RetrievalError, match=r"failed 1 times, at last with TimeoutError"):
        client(server, timeout=0.2, retries=0).search("q", 3)
    assert 0.2 <= time.monotonic() - start < 3


def test_nobody_there(server: FakeServer) -> None:
    absent = SearchServer("http://127.0.0.1:1/retrieve", retries=1, backoff=0.0)
    with pytest.raises(RetrievalError, match=r"http://127\.0\.0\.1:1/retrieve failed 2 times.*refused"):
        absent.search("q", 3)


def test_a_server_that_is_gone_gets_one_try_until_it_is_back(server: FakeServer) -> None:
    server.script = [status(500)] * 4
    for _ in range(2):  # three tries, then one
        with pytest.raises(RetrievalError):
            client(server).search("q", 3)
    assert len(server.asked) == 4
    assert client(server).search("q", 3) == DOCUMENTS
    server.script = [status(500)] * 2
    assert client(server).search("q", 3) == DOCUMENTS, "retries are back"


def test_waits_double(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("paw_lightning.envs.search.server.time.sleep", waits.append)
    server.script = [status(500)] * 3
    client(server, retries=3, backoff=0.5).search("q", 3)
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "file:///etc/passwd"}, r"retriever\.init_args\.url is 'file"),
        ({"request_form": "soap"}, r"request_form is 'soap'; wanted search_r1 or verl_agent"),
        ({"timeout": 0}, r"timeout is 0; wanted"),
        ({"retries": -1}, r"retries is -1; wanted"),
    ],
)
def test_bad_configuration_names_the_key(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchServer(**({"url": "http://localhost:1"} | arguments))


class SearchingSampler(Sampler):
    """Always searches; records nothing."""

    def generate(self, prompts, *, temperature, max_new_tokens, uniforms):
        ids = [*byte_tokenizer()("search Zorla").input_ids, byte_tokenizer().eos_token_id]
        return [Generation(ids, [-1.0] * len(ids), [0.5] * len(ids), True) for _ in prompts]


def test_a_failing_search_costs_its_whole_group(server: FakeServer) -> None:
    """The third search, of the second task's first episode, fails: of two groups the first is kept, complete."""
    tokenizer = byte_tokenizer()
    collector = Collector(
        lambda: SearchEnv(retriever=client(server, retries=0), max_turns=2),
        PromptBuilder(Prompt(), ChatFormat(tokenizer)),
        SearchingSampler(),
        max_steps=4,
        max_action_tokens=16,
        max_observation_tokens=100,
        stop_token_ids=[tokenizer.eos_token_id],
    )
    server.script = [well, well, status(500), well]
    played = collector.play([0, 1], 2, temperature=1.0, seed=("test",))
    [group] = played.groups
    [failure] = played.failures
    assert group.group_key == "train/0"
    assert [[t.observation_text for t in e.transitions] for e in group.episodes] == [
        ["first text\nsecond text\nthird text", ""]
    ] * 2
    assert [[len(t.observation_ids) for t in e.transitions] for e in group.episodes] == [[33, 0]] * 2
    assert "RetrievalError" in failure and server.url in failure
    assert len(server.asked) == 4, "the last turn does not search"

"""The search client against a server on this machine that also fails, hangs and talks nonsense."""

from __future__ import annotations

import json
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from paw_lightning.envs import SearchEnv
from paw_lightning.envs.search_retrievers import RetrievalError
from paw_lightning.envs.search_server import SearchServer
from paw_lightning.rollouts.collector import Collector
from paw_lightning.rollouts.sampler import Generation
from paw_lightning.tokenization import ChatFormat, Prompt, PromptBuilder
from tests.conftest import byte_tokenizer

DOCUMENTS = ['"One"\nfirst text', '"Two"\nsecond text', '"Three"\nthird text']
Reply = Callable[[BaseHTTPRequestHandler], None]


class FakeServer(ThreadingHTTPServer):
    """Answers with the scripted replies in turn, then well for good; remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, Any]] = []
        self.script: list[Reply] = []
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/retrieve"


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        (self.server.script.pop(0) if self.server.script else well)(self)

    def log_message(self, *_: object) -> None:
        pass

    def say(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def well(handler: Any) -> None:
    found = [{"document": {"id": str(i), "contents": text}, "score": 1.0 / i} for i, text in enumerate(DOCUMENTS, 1)]
    handler.say(json.dumps({"result": [found]}).encode())


def status(code: int) -> Reply:
    return lambda handler: handler.say(b"sorry", code)


def body(value: object) -> Reply:
    return lambda handler: handler.say(value if isinstance(value, bytes) else json.dumps(value).encode())


def hang(handler: Any) -> None:
    handler.server.released.wait(10)


def drip(handler: Any) -> None:
    """A byte every 50 ms: no single wait is long, but the answer never ends."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        while not handler.server.released.wait(0.05):
            handler.wfile.write(b" ")
            handler.wfile.flush()
    except OSError:
        pass


def hang_up(handler: Any) -> None:
    handler.close_connection = True
    handler.connection.close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    fake = FakeServer()
    thread = threading.Thread(target=fake.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield fake
    fake.released.set()
    fake.shutdown()
    fake.server_close()
    thread.join()


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


def test_waits_double(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("paw_lightning.envs.search_server.time.sleep", waits.append)
    server.script = [status(500)] * 3
    client(server, retries=3, backoff=0.5).search("q", 3)
    assert waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"url": "file:///etc/passwd"}, r"retriever\.init_args\.url='file"),
        ({"request_form": "soap"}, r"request_form='soap'.*search_r1 or verl_agent"),
        ({"timeout": 0}, r"timeout=0"),
        ({"retries": -1}, r"retries=-1"),
    ],
)
def test_bad_configuration_names_the_key(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchServer(**({"url": "http://localhost:1"} | arguments))


class SearchingSampler:
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
    server.script = [well, well, status(500)]
    played = collector.play([0, 1], 2, temperature=1.0, seed=("test",))
    [group] = played.groups
    [failure] = played.failures
    assert group.group_key == "train/0"
    assert [[t.observation_text for t in e.transitions] for e in group.episodes] == [
        ["first text\nsecond text\nthird text", ""]
    ] * 2
    assert [[len(t.observation_ids) for t in e.transitions] for e in group.episodes] == [[33, 0]] * 2
    assert "RetrievalError" in failure and server.url in failure
    assert len(server.asked) == 3, "the last turn does not search"

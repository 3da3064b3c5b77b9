"""A search server on this machine that also fails, hangs and talks nonsense when a test asks it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

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


@contextmanager
def running() -> Iterator[FakeServer]:
    """A server that is gone afterwards, whatever it hangs in."""
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()
        thread.join()

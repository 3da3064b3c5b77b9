"""The page of a run in progress, from this machine to this machine."""

from __future__ import annotations

import json
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from urllib.parse import parse_qs, urlsplit

from paw_lightning.commands.viewing.page import page
from paw_lightning.commands.viewing.runs import Run
from paw_lightning.errors import SettingsError

HOST = "127.0.0.1"


def serve(runs: list[Run], port: int) -> int:
    """Answer until Ctrl-C; returns the exit status.

    Raises:
        SettingsError: the port is taken, or is none.
    """
    try:
        server = ThreadingHTTPServer((HOST, port), partial(Answer, Files(runs)))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"port is {port}, which cannot be opened ({reason}); wanted a free one") from None
    server.daemon_threads = True
    print(f"serving http://{HOST}:{server.server_port}/ until Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("stopped")
    finally:
        server.server_close()
    return 0


class Files:
    """What the page asks for; one question at a time, since reading a file twice would take twice as long."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.lock = Lock()

    def answer(self, path: str, query: dict[str, list[str]]) -> str | None:
        """The text of a path; None where there is nothing. Names are looked up in a list, never opened as given."""
        with self.lock:
            if path == "/":
                return page([run.name for run in self.runs], [], [], live=True)
            if path == "/files":
                return json.dumps([run.stamps() for run in self.runs])
            place, name = query.get("run", [""])[0], query.get("name", [""])[0]
            if not place.isdecimal() or int(place) >= len(self.runs):
                return None
            run = self.runs[int(place)]
            if path == "/curves":
                return run.curves()
            return run.part(name) if path == "/part" and name in run.files() else None


class Answer(BaseHTTPRequestHandler):
    """One question of the page."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files: Files, *args: object) -> None:
        self.files = files
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answer with a text; a page of another site, which may know the port, gets nothing."""
        address = urlsplit(self.path)
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        status, text = 200, None
        try:
            if host in (HOST, "localhost"):
                text = self.files.answer(address.path, parse_qs(address.query))
        except SettingsError as error:
            status, text = 500, " ".join(str(error).split())
        if text is None:
            status, text = 404, "not found"
        body = text.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8" if address.path == "/" else "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing is printed of the questions."""

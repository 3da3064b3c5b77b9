"""Drives a headless Chromium over its own protocol, without any other tool."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BINARY = next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(
    BINARY is None or find_spec("websockets") is None,
    reason="NO CHROMIUM: install chromium and pip install websockets to test the page in a browser",
)


FIND = """
({selector, text}) => [...document.querySelectorAll(selector)]
    .find(e => e.textContent.includes(text) && e.getClientRects().length)
"""


class Browser:
    """One tab. `errors` holds what the console said of errors, exceptions and refused scripts, and every dialog."""

    def __init__(self, folder: Path) -> None:
        from websockets.sync.client import connect

        assert BINARY is not None
        flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--remote-debugging-port=0"]
        if os.geteuid() == 0:
            flags.append("--no-sandbox")
        profile = folder / "profile"
        self.process = subprocess.Popen(
            [BINARY, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port, path = self._wait(profile / "DevToolsActivePort").split()
        self.socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None)
        self.numbers = itertools.count(1)
        self.session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def _wait(self, file: Path) -> str:
        end = time.monotonic() + 60
        while not file.exists() or len(file.read_text().split()) < 2:
            assert self.process.poll() is None and time.monotonic() < end, "Chromium did not start"
            time.sleep(0.05)
        return file.read_text()

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; what happens meanwhile is taken down."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while True:
            answer = json.loads(self.socket.recv(timeout=120))
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.errors.append(str(details.get("exception", {}).get("description") or details["text"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def run(self, code: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def open(self, address: str) -> float:
        """Go to a page and wait until it says that it is ready; returns the seconds that took."""
        self.ask("Page.navigate", url="about:blank")
        start = time.perf_counter()
        self.ask("Page.navigate", url=address)
        self.until("document.documentElement?.dataset.ready === 'true'")
        return time.perf_counter() - start

    def until(self, condition: str, seconds: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, (
                f"never true: {condition} at {self.run('location.hash')}; errors: {self.errors}"
            )
            time.sleep(0.02)

    def click(self, selector: str, text: str = "") -> None:
        """A mouse click on the first element that matches and whose text holds `text`."""
        found = f"{{selector: {json.dumps(selector)}, text: {json.dumps(text)}}}"
        self.until(f"({FIND})({found})")
        place = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); const r = e.getBoundingClientRect();"
            f"return [r.left + Math.min(r.width, 40) / 2, r.top + r.height / 2]; }})(({FIND})({found}))"
        )
        mouse = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.ask("Input.dispatchMouseEvent", type=kind, **mouse)
        time.sleep(0.1)

    def press(self, key: str) -> None:
        """One key, as typed."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", key=key, code=key)
        time.sleep(0.1)

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """The window's size, and which colours the reader prefers."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path) -> None:
        """What is on the screen, as PNG."""
        file.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """End the browser."""
        self.socket.close()
        self.process.terminate()
        self.process.wait(30)

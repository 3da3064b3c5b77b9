"""The page of a run in progress: what the server answers, to whom, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from paw_lightning.commands.view import command
from paw_lightning.commands.viewing.parts import unpacked
from paw_lightning.commands.viewing.runs import open_runs
from paw_lightning.commands.viewing.server import HOST, Answer, Files
from paw_lightning.errors import SettingsError
from tests.helpers.recorded_runs import Words, episode, save, small_run


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Of a server that shows the run in tmp_path / "run"."""
    files = Files(open_runs([small_run(tmp_path / "run")]))
    with ThreadingHTTPServer((HOST, 0), partial(Answer, files)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def get(port: int, path: str, host: str = "") -> tuple[int, str]:
    connection = HTTPConnection(HOST, port, timeout=20)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_page_asks_its_own_server_and_holds_no_data(port: int) -> None:
    status, page = get(port, "/")
    assert status == 200 and "connect-src 'self'" in page and 'data-kind="part"' not in page


def test_a_new_file_is_offered_and_given(port: int, tmp_path: Path) -> None:
    [files] = json.loads(get(port, "/files")[1])
    assert list(files) == ["train-000001", "train-000002", "val-000002"]
    path = save(tmp_path / "run", "train-000003", [episode(Words(), 99)], Words())
    [files] = json.loads(get(port, "/files")[1])
    assert files["train-000003"][1] == path.stat().st_size
    table, *_ = unpacked(get(port, "/part?run=0&name=train-000003")[1])
    assert table["columns"]["task_seed"] == [99]
    assert [*unpacked(get(port, "/curves?run=0")[1])] == [{}]


def test_a_file_that_was_written_again_is_read_again(port: int, tmp_path: Path) -> None:
    get(port, "/part?run=0&name=train-000001")
    save(tmp_path / "run", "train-000001", [episode(Words(), 5)], Words())
    table, *_ = unpacked(get(port, "/part?run=0&name=train-000001")[1])
    assert table["columns"]["task_seed"] == [5]


def test_new_rows_of_a_csv_file_are_noticed(port: int, tmp_path: Path) -> None:
    """The half row is still being written."""
    file = tmp_path / "run" / "metrics.csv"
    file.write_text("step,a\n1,0.5\n2,0.")
    assert [*unpacked(get(port, "/curves?run=0")[1])] == [{"a": [[1, 0.5]]}]
    file.write_text("step,a\n1,0.5\n2,0.25\n")
    assert [*unpacked(get(port, "/curves?run=0")[1])] == [{"a": [[1, 0.5], [2, 0.25]]}]


@pytest.mark.parametrize(
    "path",
    ["/part?run=0&name=../../secret", "/part?run=0&name=%2e%2e%2fsecret", "/part?run=1&name=train-000001", "/part",
     "/curves?run=-1", "/curves?run=%C2%B2", "/config.yaml", "/../view.py"],
)  # fmt: skip
def test_nothing_else_is_given(path: str, port: int, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl.gz").write_text("secret")
    assert get(port, path) == (404, "not found")


def test_a_page_of_another_site_gets_nothing(port: int) -> None:
    assert get(port, "/files", host=f"evil.example:{port}")[0] == 404
    assert get(port, "/files", host=f"localhost:{port}")[0] == 200


def test_a_damaged_file_is_said_in_one_line(port: int, tmp_path: Path) -> None:
    (tmp_path / "run" / "rollouts" / "train-000009.jsonl.gz").write_text("no gzip")
    status, text = get(port, "/part?run=0&name=train-000009")
    assert status == 500 and "train-000009.jsonl.gz cannot be read" in text and "\n" not in text


def test_a_port_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(SettingsError, match=r"port is \d+, which cannot be opened \(Address already in use\)"):
            command([str(tmp_path), "--serve", "--port", str(taken.getsockname()[1])])
    with pytest.raises(SettingsError, match="port is 70000, which cannot be opened"):
        command([str(tmp_path), "--serve", "--port", "70000"])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="NO SIGNALS: Ctrl-C is sent as one")
def test_ctrl_c_ends_it_cleanly(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "paw_lightning", "view", str(tmp_path), "--serve", "--port", "0"]
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts what runs in its background, such as these tests, deaf to Ctrl-C, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[1]
    assert get(int(address.rstrip("/").rpartition(":")[2]), "/files") == (200, "[{}]")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "stopped\n", "")

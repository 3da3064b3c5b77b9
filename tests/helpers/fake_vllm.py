"""A stdlib server that answers a vLLM server's requests with a real model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from paw_lightning.samplers.native import NativeSampler


class FakeVLLM:
    """Its weights, and every (path, payload) it was asked for."""

    def __init__(self, directory: str, fault: str | None = None) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(directory)
        self.fault, self.calls, self.lock = fault, [], Lock()

    def answer(self, path: str, payload: dict[str, Any]) -> Any:
        with self.lock:
            self.calls.append((path, payload))
            if path == "/v1/models":
                return {"data": [{"id": "tiny"}]}
            if path == "/v1/completions":
                return {"choices": [self.complete(payload)]}
            if path == "/collective_rpc":
                assert payload["method"] == "reload_weights"
                self.model = AutoModelForCausalLM.from_pretrained(payload["kwargs"]["weights_path"])
            return None

    def complete(self, payload: dict[str, Any]) -> dict[str, Any]:
        noise = torch.rand(1, payload["max_tokens"], generator=torch.Generator().manual_seed(payload["seed"]))
        [action] = NativeSampler(self.model, payload["stop_token_ids"], 0).generate(
            [payload["prompt"]],
            temperature=payload["temperature"],
            max_new_tokens=payload["max_tokens"],
            uniforms=noise,
        )
        tokens, logprobs = action.token_ids, action.logprobs
        if self.fault == "drops the stop token" and action.stopped:
            tokens, logprobs = tokens[:-1], logprobs[:-1]
        if self.fault == "half the probability":
            logprobs = [value - 0.6931 for value in logprobs]
        reason = "stop" if action.stopped else "length"
        return {"token_ids": tokens, "logprobs": {"token_logprobs": logprobs}, "finish_reason": reason}


@contextmanager
def serving(fake: FakeVLLM) -> Iterator[str]:
    """The server's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, payload: dict[str, Any]) -> None:
            answer = fake.answer(self.path, payload)
            body = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""A stdlib server that answers a vLLM server's requests with a real model, as version 0.32 was seen to answer them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.server import DEVELOPER_ROUTES


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class FakeVLLM:
    """Its weights, and every (path, payload) it was asked for.

    Args:
        directory: the model it is started with.
        fault: what it does wrong, by name; see where `self.fault` is read.
        longest: --max-model-len.
    """

    def __init__(self, directory: str, fault: str | None = None, longest: int = 4096) -> None:
        self.directory, self.fault, self.longest = directory, fault, longest
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.lock = Lock()
        self.failures: dict[str, list[int]] = {}
        """Path -> the codes of its next answers; 0 drops the connection."""
        self.start()

    def start(self) -> None:
        """As a server that was started, or started again."""
        self.model: Any = AutoModelForCausalLM.from_pretrained(self.directory)
        self.adapters: dict[str, Any] = {}
        self.version, self.paused, self.dead = "default", False, False

    @property
    def paths(self) -> list[str]:
        """What it was asked for, but for completions."""
        return [path for path, _ in self.calls if path != "/v1/completions"]

    def answer(self, path: str, payload: dict[str, Any]) -> Any:
        route, _, query = path.partition("?")
        with self.lock:
            self.calls.append((path, payload))
            if self.failures.get(route):
                code = self.failures[route].pop(0)
                raise ConnectionResetError if code == 0 else Refused(code, "told to fail")
            if self.fault == "no developer mode" and route in DEVELOPER_ROUTES:
                raise Refused(404, "Not Found")
            name = route.strip("/").replace("/", "_")
            answers = {"pause": {"status": "paused"}, "resume": {"status": "resumed"}}
            if name in answers:
                self.paused = name == "pause"
                return answers[name]
            return getattr(self, name)(payload, query)

    def v1_models(self, payload: dict[str, Any], query: str) -> Any:
        return {"data": [{"id": "tiny", "max_model_len": self.longest}]}

    def collective_rpc(self, payload: dict[str, Any], query: str) -> Any:
        assert payload["method"] == "reload_weights"
        assert self.paused, "nothing is computed while weights are read"
        folder = Path(payload["kwargs"]["weights_path"])
        if self.fault == "cannot read":
            self.dead = True  # it has emptied the model first
            raise Refused(500, "Repo id must use alphanumeric chars, '-', '_' or '.'")
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}
        assert set(modes.values()) == {"0o644"} and oct(folder.stat().st_mode & 0o777) == "0o755", modes
        if self.fault != "keeps its weights":
            self.model = AutoModelForCausalLM.from_pretrained(folder)
        return {"results": [None]}

    def reset_prefix_cache(self, payload: dict[str, Any], query: str) -> Any:
        busy = self.fault == "always busy" or (self.fault == "busy" and "reset_running_requests=true" not in query)
        return {"success": not busy}

    def update_weight_version(self, payload: dict[str, Any], query: str) -> Any:
        self.version = payload["new_version"]
        return {"success": True}

    def weight_info(self, payload: dict[str, Any], query: str) -> Any:
        return {"weight_version": self.version}

    def v1_load_lora_adapter(self, payload: dict[str, Any], query: str) -> Any:
        assert payload["load_inplace"] is True
        folder = Path(payload["lora_path"])
        if self.fault == "no adapters":
            raise Refused(404, "Not Found")
        assert not (folder / "model.safetensors").exists(), "the adapter alone"
        base = AutoModelForCausalLM.from_pretrained(self.directory)
        self.adapters[payload["lora_name"]] = PeftModel.from_pretrained(base, folder).merge_and_unload()
        return b"Success: LoRA adapter 'policy' added successfully."

    def v1_completions(self, payload: dict[str, Any], query: str) -> Any:
        if self.dead:
            raise Refused(500, "EngineCore encountered an issue")
        model = self.model if payload["model"] == "tiny" else self.adapters.get(payload["model"])
        if model is None:
            raise Refused(404, f"The model `{payload['model']}` does not exist.")
        if len(payload["prompt"]) + payload["max_tokens"] > self.longest:
            raise Refused(400, f"This model's maximum context length is {self.longest} tokens.")
        if "prompt_logprobs" in payload:
            return {"choices": [{"prompt_logprobs": self.read(model, payload["prompt"])}]}
        return {"choices": [self.complete(model, payload)]}

    def read(self, model: Any, prompt: list[int]) -> list[Any]:
        """Log-prob of each token of a prompt; none of the first."""
        with torch.no_grad():
            logprobs = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
        pairs = enumerate(prompt[1:])
        return [None, *({str(token): {"logprob": logprobs[i, token].item()}} for i, token in pairs)]

    def complete(self, model: Any, payload: dict[str, Any]) -> dict[str, Any]:
        noise = torch.rand(1, payload["max_tokens"], generator=torch.Generator().manual_seed(payload["seed"]))
        [action] = NativeSampler(model, payload["stop_token_ids"], 0).generate(
            [payload["prompt"]],
            temperature=payload["temperature"],
            max_new_tokens=payload["max_tokens"],
            uniforms=noise,
        )
        tokens, logprobs = action.token_ids, action.logprobs
        reason = "stop" if action.stopped else "length"
        if self.fault == "drops the stop token" and action.stopped:
            tokens, logprobs = tokens[:-1], logprobs[:-1]
        if self.fault == "half the probability":
            logprobs = [value - 0.6931 for value in logprobs]
        if self.fault == "aborts":
            tokens, logprobs, reason = tokens[:2], logprobs[:2], "abort"
        if self.fault == "clips":
            tokens, logprobs, reason = tokens[:2], logprobs[:2], "length"
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
            code = 200
            try:
                answer = fake.answer(self.path, payload)
            except Refused as error:
                code, answer = error.code, {"error": {"message": str(error)}}
            except ConnectionResetError:
                self.connection.close()
                return
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            if fake.fault == "no JSON":
                body = b"<html>"
            self.send_response(code)
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

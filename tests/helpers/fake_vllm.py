"""A stdlib server that answers a vLLM server's requests with a real model, as version 0.32 was seen to answer them."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock, Thread
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from paw_lightning.samplers.native import NativeSampler
from paw_lightning.samplers.server import DEVELOPER_ROUTES
from tests.helpers.fake_nccl import FakeNCCL


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
        sleep_mode: --enable-sleep-mode.
        backend: --weight-transfer-config's.
        insecure: VLLM_ALLOW_INSECURE_SERIALIZATION.
    """

    def __init__(
        self,
        directory: str,
        fault: str | None = None,
        longest: int = 4096,
        sleep_mode: bool = False,
        backend: str | None = None,
        insecure: bool = True,
    ) -> None:
        self.directory, self.fault, self.longest = directory, fault, longest
        self.sleep_mode, self.backend, self.insecure = sleep_mode, backend, insecure
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
        self.asleep: set[str] = set()
        """The parts of its memory that it has given back."""
        self.received: dict[str, torch.Tensor] | None = None
        """What has arrived of an update that was started and not finished."""
        self.group: Any = None

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
            return getattr(self, route.strip("/").replace("/", "_"))(payload, query)

    # States

    def server_info(self, payload: dict[str, Any], query: str) -> Any:
        assert query == "config_format=json", "otherwise it is a text"
        transfer = {"backend": self.backend} if self.backend else None
        return {
            "vllm_config": {
                "model_config": {"enable_sleep_mode": self.sleep_mode},
                "weight_transfer_config": transfer,
            },
            "vllm_env": {"VLLM_ALLOW_INSECURE_SERIALIZATION": self.insecure},
        }

    def pause(self, payload: dict[str, Any], query: str) -> Any:
        assert query == "mode=wait", "no request is aborted"
        self.paused = True
        return {"status": "paused"}

    def resume(self, payload: dict[str, Any], query: str) -> Any:
        assert not self.asleep, "a step without keys and values ends a real server"
        self.paused = False
        return {"status": "resumed"}

    def is_sleeping(self, payload: dict[str, Any], query: str) -> Any:
        return {"is_sleeping": self.paused or bool(self.asleep)}

    def sleep(self, payload: dict[str, Any], query: str) -> Any:
        level, _, mode = query.removeprefix("level=").partition("&mode=")
        assert mode == "wait", "no request is aborted"
        self.paused = True
        if self.sleep_mode:  # a server without it answers alike
            self.asleep = {"weights", "kv_cache"}
            if level == "2":
                fill(self.model, 0.0)
        return {"status": "sleeping", "level": int(level)}

    def wake_up(self, payload: dict[str, Any], query: str) -> Any:
        tag = query.removeprefix("tags=")
        if self.fault == f"no room for {tag}":
            raise Refused(500, "CUDA Error: out of memory")
        self.asleep.discard(tag)
        self.paused = self.paused and bool(self.asleep)
        return {"status": "sleeping" if self.asleep else "awake", "tags": [tag]}

    # Weights

    def v1_models(self, payload: dict[str, Any], query: str) -> Any:
        return {"data": [{"id": "tiny", "max_model_len": self.longest}]}

    def collective_rpc(self, payload: dict[str, Any], query: str) -> Any:
        assert payload["method"] == "reload_weights"
        self.check_ready()
        folder = Path(payload["kwargs"]["weights_path"])
        if self.fault == "cannot read":
            self.dead = True  # it has emptied the model first
            raise Refused(500, "Repo id must use alphanumeric chars, '-', '_' or '.'")
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in folder.iterdir()}
        assert set(modes.values()) == {"0o644"} and oct(folder.stat().st_mode & 0o777) == "0o755", modes
        if self.fault != "keeps its weights":
            self.model = AutoModelForCausalLM.from_pretrained(folder)
        return {"results": [None]}

    def check_ready(self) -> None:
        assert self.paused, "nothing is computed while weights are read"
        assert "weights" not in self.asleep, "there is room for them"

    def get_world_size(self, payload: dict[str, Any], query: str) -> Any:
        return {"world_size": 1}

    def init_weight_transfer_engine(self, payload: dict[str, Any], query: str) -> Any:
        told = payload["init_info"]
        if self.fault == "no group":
            raise Refused(500, "Worker failed with error 'no NCCL'")
        if self.backend == "ipc":
            assert told == {"packed": False}
        else:
            name = base64.b64decode(told["nccl_unique_id_b64"], validate=True)
            assert len(name) == 128 and {*told} == {"nccl_unique_id_b64", "rank_offset", "world_size"}
            self.group = FakeNCCL.GROUPS[name]
            self.group.together.wait(10)
            assert (told["rank_offset"], told["world_size"]) == (1, self.group.size) == (1, 2), "behind the trainer"
            self.group.take(torch.float32, [1])  # every group begins with a sum
        return {"message": "Weight transfer initialized"}

    def start_weight_update(self, payload: dict[str, Any], query: str) -> Any:
        self.check_ready()
        if self.received is not None:
            raise Refused(500, "start_weight_update called while a weight update is already active. Call finish first.")
        self.received = {}
        return {"message": "Weight update started"}

    def update_weights(self, payload: dict[str, Any], query: str) -> Any:
        assert self.received is not None
        told = payload["update_info"]
        kinds = [getattr(torch, name) for name in told["dtype_names"]]
        if self.backend == "ipc":
            handles = pickle.loads(base64.b64decode(told["ipc_handles_pickled"]))
            tensors = [handle["GPU-of-this-server"][0] for handle in handles]
        else:
            tensors = [self.group.take(*kind) for kind in zip(kinds, told["shapes"], strict=True)]
        if self.fault == "another card":
            self.received = None
            raise Refused(500, "IPC handle not found for GPU UUID GPU-1.")
        for name, kind, shape, tensor in zip(told["names"], kinds, told["shapes"], tensors, strict=True):
            assert (tensor.dtype, list(tensor.shape)) == (kind, shape)
            self.received[name] = tensor
        return {"message": "Weights updated"}

    def finish_weight_update(self, payload: dict[str, Any], query: str) -> Any:
        assert self.received is not None
        with TemporaryDirectory() as folder:  # by the checkpoint's names, as a real server reads them
            self.model.config.save_pretrained(folder)
            save_file({name: t.contiguous() for name, t in self.received.items()}, Path(folder, "model.safetensors"))
            self.model, self.received = AutoModelForCausalLM.from_pretrained(folder), None
        return {"message": "Weight update finished"}

    def reset_prefix_cache(self, payload: dict[str, Any], query: str) -> Any:
        busy = self.fault == "always busy" or (self.fault == "busy" and "reset_running_requests=true" not in query)
        return {"success": not busy}

    def update_weight_version(self, payload: dict[str, Any], query: str) -> Any:
        self.version = payload["new_version"]
        return {"success": True}

    def weight_info(self, payload: dict[str, Any], query: str) -> Any:
        return {"weight_version": self.version}

    def v1_load_lora_adapter(self, payload: dict[str, Any], query: str) -> Any:
        assert payload["load_inplace"] is True and "weights" not in self.asleep
        folder = Path(payload["lora_path"])
        if self.fault == "no adapters":
            raise Refused(404, "Not Found")
        assert not (folder / "model.safetensors").exists(), "the adapter alone"
        base = AutoModelForCausalLM.from_pretrained(self.directory)
        self.adapters[payload["lora_name"]] = PeftModel.from_pretrained(base, folder).merge_and_unload()
        return b"Success: LoRA adapter 'policy' added successfully."

    def v1_completions(self, payload: dict[str, Any], query: str) -> Any:
        assert not (self.paused or self.asleep), "a request waits until somebody wakes the server"
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


def fill(model: Any, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


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
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()  # how fast it shuts down
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

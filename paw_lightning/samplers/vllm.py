"""Prompts -> actions from a vLLM server in an environment of its own, over HTTP; vLLM is never imported.

Tested against a small server that speaks the same requests; not yet run against a real one. Start it with
``VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --logprobs-mode processed_logprobs --generation-config vllm``.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from paw_lightning import ranks
from paw_lightning.errors import SettingsError
from paw_lightning.models.lora import has_adapters, merged
from paw_lightning.samplers.base import Generation, Sampler
from paw_lightning.samplers.paged import seed_of


class MissingServerError(ConnectionError, SettingsError):
    """No server has ever answered."""


class VLLMSampler(Sampler):
    """Asks a server that holds a copy of the weights, refreshed through a folder that both can read.

    It gives no entropies (scoring fills them in), and its arithmetic is not the trainer's: `rollout/sampler_gap`
    shows by how much, `rollout.importance_cap` corrects for it.

    Args:
        urls: of the servers; rank r asks number r modulo their count.
        weights: folder for the weights, the same path on the servers' machines.
        connections: requests under way at a time.
        timeout: seconds one request may take.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        urls: Sequence[str] = ("http://localhost:8000",),
        weights: str = "runs/vllm_weights",
        connections: int = 64,
        timeout: float = 600.0,
    ) -> None:
        self.model, self.stop_token_ids = model, list(stop_token_ids)
        self.urls, self.weights = list(urls), Path(weights).absolute()
        self.connections, self.timeout = connections, timeout
        self.name: str | None = None
        self.reached = False
        """Whether a server has ever answered; one that never did is not there."""

    def update_weights(self) -> None:
        """Write the weights once, let every server read them, and forget what they computed with the old ones."""
        if ranks.world()[0] != 0:
            return
        model = merged(self.model) if has_adapters(self.model) else self.model
        model.save_pretrained(self.weights)
        for url in self.urls:
            reload = {"method": "reload_weights", "kwargs": {"weights_path": str(self.weights)}}
            self._call(url, "/collective_rpc", reload)
            self._call(url, "/reset_prefix_cache", {})

    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """One action per prompt, each asked for by itself: in one request equal prompts would share a seed."""
        url = self.urls[ranks.world()[0] % len(self.urls)]
        self.name = self.name or self._call(url, "/v1/models")["data"][0]["id"]

        def ask(prompt: list[int], row: Tensor) -> Generation:
            request = {
                "model": self.name,
                "prompt": prompt,
                "max_tokens": max_new_tokens,
                "temperature": temperature,
                "top_p": 1.0,
                "top_k": -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "stop_token_ids": self.stop_token_ids,
                "seed": seed_of(row),
                "logprobs": 0,
                "return_token_ids": True,
            }
            return self._generation(self._call(url, "/v1/completions", request)["choices"][0], url)

        with ThreadPoolExecutor(self.connections) as pool:
            return list(pool.map(ask, prompts, uniforms))

    def _generation(self, choice: dict[str, Any], url: str) -> Generation:
        tokens, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        stopped = bool(tokens) and tokens[-1] in self.stop_token_ids
        if len(tokens) != len(logprobs) or stopped != (choice["finish_reason"] == "stop"):
            raise RuntimeError(
                f"{url} gave {len(tokens)} tokens, {len(logprobs)} log-probs and finish_reason "
                f"{choice['finish_reason']!r}; wanted a log-prob for each token, and the stop token as the last of a "
                "finished action (rollout.sampler)"
            )
        return Generation(tokens, logprobs, [], stopped)

    def _call(self, url: str, path: str, payload: dict[str, Any] | None = None) -> Any:
        """GET without a payload, else POST; the answer's JSON, or None where it has none."""
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(
                f"{url}{path} answered {error.code}: {error.read()[:500]!r} (rollout.sampler)"
            ) from error
        except OSError as error:
            kind = ConnectionError if self.reached else MissingServerError
            raise kind(f"no vLLM server at {url}{path}: {error}; start one, or set rollout.sampler: native") from error
        self.reached = True
        return json.loads(body) if body else None

"""Prompts -> actions from vLLM servers in an environment of their own, over HTTP; vLLM is never imported.

docs/scaling.md says how to start one. A server holds a copy of the weights, which is refreshed before every rollout,
proved by what the new weights say of a prompt, and watched: one that was started again in between is refused.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from paw_lightning import ranks
from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.models.lora import has_adapters
from paw_lightning.samplers.base import Generation, Sampler, evaluating
from paw_lightning.samplers.paged import seed_of
from paw_lightning.samplers.server import Server
from paw_lightning.samplers.server_states import check_flags, drop_prefixes, put_to_sleep, taking_weights
from paw_lightning.samplers.weight_transfer import NCCL, Adapter, CudaIPC, Disk, RunFolder, Transfer, check_cuda

PROVING_TOKENS = 64
"""Of a prompt's beginning, whose log-probs prove the weights."""
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 0.01, torch.bfloat16: 0.1}
"""Largest mean difference of the server's log-probs from the trainer's on a prompt, nats, by the trainer's arithmetic:
a prompt's tokens are less expected than an action's, and rounding shows more."""


class VLLMSampler(Sampler):
    """Asks servers that hold a copy of the weights, refreshed through a folder that all can read, or from card to card.

    It gives no entropies (scoring fills them in), and its arithmetic is not the trainer's: `rollout/sampler_gap`
    shows by how much, `rollout.importance_cap` corrects for it. With LoRA the adapter alone is sent, to servers that
    hold the base model.

    Args:
        urls: of the servers; rank r asks number r modulo their count.
        weights: folder for the weights, the same path on the servers' machines; each run makes a folder of its own
            in it and takes it away at the end.
        connections: requests under way at a time; each episode goes on as soon as its own answer is there.
        timeout: seconds one request may take.
        tolerance: largest mean difference of a server's log-probs from the trainer's on a prompt after the weights were
            sent, nats; null goes by the arithmetic, 1e-3 in float32, 0.01 in float16, 0.1 in bfloat16 (choice).
        sleep: the servers are on the trainer's cards: let them sleep while the update needs the memory. After a rollout
            they drop keys, values and weights (below adapters they keep the weights in the host's memory); before the
            next the weights wake, are sent, and then the keys and values get their room. Not yet run on hardware.
        transfer: how a whole model's weights get there. `disk`: through the folder; `ipc`: the server maps the
            trainer's memory, on the same card; `nccl`: from card to card. An adapter goes through the folder always.
            `ipc` and `nccl` are not yet run on hardware.
    """

    holds_weights: ClassVar[bool] = True

    def __init__(
        self,
        model: PreTrainedModel,
        stop_token_ids: Sequence[int],
        pad_token_id: int,
        urls: Sequence[str] = ("http://localhost:8000",),
        weights: str = "runs/vllm_weights",
        connections: int = 64,
        timeout: float = 600.0,
        tolerance: float | None = None,
        sleep: bool = False,
        transfer: Literal["disk", "ipc", "nccl"] = "disk",
    ) -> None:
        _check(urls, connections, timeout, tolerance)
        check_cuda(transfer)
        self.model, self.stop_token_ids = model, list(stop_token_ids)
        self.servers = [Server(url, timeout) for url in urls]
        self.connections, self.tolerance = connections, tolerance
        self.weights = Path(weights).absolute()
        self.run = uuid.uuid4().hex[:12]
        """Names this run among others that may ask the same servers, or share the folder."""
        self.syncs = 0
        """How often the weights were sent."""
        self.proved = False
        """The server has shown the weights of the last sync."""
        self.served = ""
        """The server's name of its model."""
        self.sleep, self.way = sleep, transfer
        self.transfer: Transfer | None = None
        """None before the first sync: only then it is known whether the model has adapters."""
        self.asleep = False

    # Weights

    def update_weights(self) -> None:
        """Let every server take the weights, awake whatever it was, and forget what it computed with the old ones."""
        if not self.syncs:
            self.run = ranks.gathered(self.run)[0]
        self.syncs, self.proved = self.syncs + 1, False
        if self.transfer is None:
            ranks.together(self._meet)
            self.transfer = self._way()
        if self.sleep:
            ranks.together(_give_back_cached_memory)
        self.transfer.prepare(self.syncs)
        self.asleep = False
        if ranks.world()[0] != 0:
            return
        for server in self.servers:
            whole = not has_adapters(self.model)
            with taking_weights(server, pause=whole):
                self.transfer.send(server)
                if whole:
                    drop_prefixes(server)
                    server.post("/update_weight_version", {"new_version": self._version})

    def _meet(self) -> None:
        """Read the server's name of its model, and that it was started with the flags that the settings need."""
        model = self._server.get("/v1/models")["data"][0]
        self.served, self.context_length = model["id"], model.get("max_model_len")
        for server in self.servers if ranks.world()[0] == 0 else ():
            check_flags(server, self.sleep, "disk" if has_adapters(self.model) else self.way)

    def _way(self) -> Transfer:
        """LoRA's adapter is small, and goes through the folder whatever the setting."""
        adapters = has_adapters(self.model)
        if self.way != "disk" and not adapters:
            return {"ipc": CudaIPC, "nccl": NCCL}[self.way](self.model)
        folder = RunFolder(self.weights / self.run)
        return Adapter(self.model, folder, self.served, self._adapter) if adapters else Disk(self.model, folder)

    @property
    def _adapter(self) -> str:
        """Its name on the servers: no other run's takes its place, and a server that was started again has none."""
        return f"policy-{self.run}"

    @property
    def _version(self) -> str:
        """Names this run's latest weights; also keeps the prefix caches of other weights apart."""
        return f"{self.run}-{self.syncs}"

    # Playing

    def generate(
        self, prompts: list[list[int]], *, temperature: float, max_new_tokens: int, uniforms: Tensor
    ) -> list[Generation]:
        """One action per prompt, each asked for by itself: in one request equal prompts would share a seed."""
        for prompt in prompts[:1]:
            self.prepare(prompt)
        ask = partial(self.ask, temperature=temperature, max_new_tokens=max_new_tokens)
        with ThreadPoolExecutor(self.connections) as pool:
            return list(pool.map(lambda prompt, row: ask(prompt, uniforms=row), prompts, uniforms))

    def prepare(self, prompt: list[int]) -> None:
        """Prove the weights by the first prompt after each sync: the trainer's precision is the main thread's."""
        assert self.served, "update_weights comes first"
        if not self.proved:
            self._check_version(self._server)
            self._prove(self._server, prompt[:PROVING_TOKENS])

    def ask(self, prompt: list[int], *, temperature: float, max_new_tokens: int, uniforms: Tensor) -> Generation:
        """One action for a prompt."""
        request = self._request(prompt) | {
            "max_tokens": max_new_tokens,
            "temperature": temperature,
            "stop_token_ids": self.stop_token_ids,
            "seed": seed_of(uniforms),
            "logprobs": 0,
            "return_token_ids": True,
        }
        choice = self._server.post("/v1/completions", request)["choices"][0]
        return self._generation(choice, self._server, max_new_tokens)

    def release(self) -> None:
        """A rollout is over: the server that was asked still has the weights that it began with, and may sleep now."""
        if self.proved:
            self._check_version(self._server)
        if self.transfer is None:
            return
        self.transfer.finish()
        if self.sleep and not self.asleep and ranks.world()[0] == 0:
            for server in self.servers:  # weights that are sent anew need not be kept, those below an adapter have to
                put_to_sleep(server, level=1 if has_adapters(self.model) else 2)
        self.asleep = self.sleep

    @property
    def _server(self) -> Server:
        return self.servers[ranks.world()[0] % len(self.servers)]

    def _request(self, prompt: list[int]) -> dict[str, Any]:
        """Every setting is named: what a request leaves out, a server takes from the model's generation_config."""
        neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
        name = self._adapter if has_adapters(self.model) else self.served
        return {"model": name, "prompt": prompt, "cache_salt": self._version, **neutral}

    def _generation(self, choice: dict[str, Any], server: Server, most: int) -> Generation:
        tokens, logprobs, reason = choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["finish_reason"]
        stopped = bool(tokens) and tokens[-1] in self.stop_token_ids
        whole = reason == "stop" if stopped else reason == "length" and len(tokens) == most
        if not whole or len(tokens) != len(logprobs):
            raise SamplerFailedError(
                f"the vLLM server at {server.url} gave {len(tokens)} of at most {most} tokens, {len(logprobs)} "
                f"log-probs and finish_reason {reason!r}; wanted a log-prob for each token, and a whole action: the "
                "stop token as its last, or as many tokens as were asked for (rollout.sampler)"
            )
        return Generation(tokens, logprobs, [], stopped)

    # Proof

    def _check_version(self, server: Server) -> None:
        """A server that was started again has the weights it started with; with LoRA it no longer knows the adapter."""
        if has_adapters(self.model):
            return
        version = server.get("/weight_info")["weight_version"]
        if version != self._version:
            raise SamplerFailedError(
                f"the vLLM server at {server.url} has the weights {version!r} and was sent {self._version!r}: it was "
                "started again, or another run sends it weights too; wanted a server of this run's own, and to go on "
                "from the last checkpoint (rollout.sampler.urls)"
            )

    def _prove(self, server: Server, prompt: list[int]) -> None:
        """What the server says of a prompt is what the trainer's weights say."""
        if len(prompt) < 2:
            return
        request = self._request(prompt) | {"max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0}
        said = server.post("/v1/completions", request)["choices"][0]["prompt_logprobs"][1:]
        theirs = torch.tensor([said[i][str(token)]["logprob"] for i, token in enumerate(prompt[1:])])
        own, arithmetic = self._own(prompt)
        gap = (own - theirs).abs().mean().item()
        tolerance = self.tolerance or TOLERANCE[arithmetic]
        if not gap <= tolerance:
            raise SamplerFailedError(
                f"after its weights were sent, the vLLM server at {server.url} differs from the trainer by {gap:.2g} "
                f"nats a token on a prompt; wanted at most {tolerance:g} (rollout.sampler.tolerance): it serves "
                "another --dtype than the trainer computes in (trainer.precision), another model, or has not taken the "
                "weights"
            )
        self.proved = True

    @torch.no_grad()
    def _own(self, prompt: list[int]) -> tuple[Tensor, torch.dtype]:
        """The trainer's log-probs of a prompt's tokens after the first, and what they were computed in."""
        ids = torch.tensor([prompt], device=self.model.device)
        with evaluating(self.model):
            logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1]
        logprobs = logits.float().log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        device = self.model.device.type
        autocast = torch.is_autocast_enabled(device)
        return logprobs.cpu(), torch.get_autocast_dtype(device) if autocast else logits.dtype


def _check(urls: Sequence[str], connections: int, timeout: float, tolerance: float | None) -> None:
    if not urls or not all(url.startswith(("http://", "https://")) for url in urls):
        wanted = "wanted addresses of vLLM servers, such as [http://localhost:8000]"
        raise SettingsError(f"rollout.sampler.urls is {list(urls)!r}; {wanted}")
    if connections < 1:
        raise SettingsError(f"rollout.sampler.connections is {connections}; wanted at least 1")
    if not timeout > 0:
        raise SettingsError(f"rollout.sampler.timeout is {timeout:g}; wanted seconds above 0")
    if tolerance is not None and not tolerance > 0:
        raise SettingsError(f"rollout.sampler.tolerance is {tolerance}; wanted above 0, or null")


def _give_back_cached_memory() -> None:
    """What the trainer's allocator keeps for later, no server on the same card can have."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""The states of a vLLM server: awake, paused, asleep. While it sleeps the trainer has the card."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from paw_lightning.errors import SamplerFailedError, SettingsError
from paw_lightning.samplers.server import RefusedRequestError, Server


def check_flags(server: Server, sleep: bool, transfer: str) -> None:
    """Raise SettingsError with the flag to add where a server was not started for these settings.

    Asked for, because a server without them answers a request to sleep with 200, and keeps its memory.
    """
    if not sleep and transfer == "disk":
        return
    info = server.get("/server_info?config_format=json")
    config, environment = info["vllm_config"], info["vllm_env"]
    missing = []
    if sleep and not config["model_config"]["enable_sleep_mode"]:
        missing.append("--enable-sleep-mode (rollout.sampler.sleep)")
    if transfer != "disk" and (config.get("weight_transfer_config") or {}).get("backend") != transfer:
        missing.append(f"""--weight-transfer-config '{{"backend": "{transfer}"}}' (rollout.sampler.transfer)""")
    if transfer == "ipc" and not environment.get("VLLM_ALLOW_INSECURE_SERIALIZATION"):
        missing.append("VLLM_ALLOW_INSECURE_SERIALIZATION=1 in its environment (rollout.sampler.transfer)")
    if missing:
        raise SettingsError(f"the vLLM server at {server.url} was started without {', '.join(missing)}; add it there")


@contextmanager
def taking_weights(server: Server, pause: bool) -> Iterator[None]:
    """Inside, a server has room for its weights; afterwards for keys and values too, and goes on with requests.

    Whoever put it to sleep: a run that was killed may have. Keys and values get their room last, when what sends the
    weights needs none any more, and whatever happened: requests to a server that sleeps wait without a word. One that
    finds no room stays asleep, and the next run tries again.

    Args:
        pause: no request is under way inside, lest old keys and values be kept.
    """
    asleep = _sleeps(server)
    if asleep:
        _wake(server, "weights")
    if pause:
        server.post("/pause?mode=wait", {})
    try:
        yield
    finally:
        if asleep:
            _wake(server, "kv_cache")
        if pause:
            server.post("/resume", {})  # never before: a step without keys and values ends the server


def put_to_sleep(server: Server, level: int) -> None:
    """Have the server's memory on the card, once its last request is answered: keys and values are dropped.

    Args:
        level: 1 keeps the weights in the host's memory, 2 drops them too.
    """
    server.post(f"/sleep?level={level}&mode=wait", {})


def drop_prefixes(server: Server) -> None:
    """Forget what was computed with the old weights; a busy server keeps it, and says so with HTTP 200."""
    dropped = server.post("/reset_prefix_cache", {})
    if isinstance(dropped, dict) and not dropped.get("success", True):
        dropped = server.post("/reset_prefix_cache?reset_running_requests=true", {})
    if isinstance(dropped, dict) and not dropped.get("success", True):
        raise SamplerFailedError(
            f"the vLLM server at {server.url} keeps what it has computed with the old weights, as requests are "
            "under way; wanted one that no other run asks (rollout.sampler.urls)"
        )


def _sleeps(server: Server) -> bool:
    """Whether it sleeps, in part or whole, or is paused; one without developer mode can be put to do neither."""
    try:
        return bool(server.get("/is_sleeping")["is_sleeping"])
    except RefusedRequestError as error:
        if error.code != 404:
            raise
        return False


def _wake(server: Server, part: str) -> None:
    try:
        server.post(f"/wake_up?tags={part}", {})
    except RefusedRequestError as error:
        raise SamplerFailedError(
            f"the vLLM server at {server.url} found no room on its card for its {part}: {error}; wanted it started "
            "with a lower --gpu-memory-utilization, or a trainer that leaves more room while it plays "
            "(rollout.sampler.sleep)"
        ) from error

"""A vLLM server over HTTP: requests that are tried again, and one sentence for each way in which it can fail."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

from paw_lightning.errors import SamplerFailedError, SettingsError

PAUSES = (0.5, 2.0)
"""Seconds before the second and the third try."""
PASSING = (500, 502, 503, 504)
"""Answers after which a request is sent again: completions repeat exactly, their seed is in them."""


class MissingServerError(ConnectionError, SettingsError):
    """No server has ever answered."""


class RefusedRequestError(SamplerFailedError):
    """The server answered with an error; `code` is HTTP's."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """One server.

    Args:
        url: its address.
        timeout: seconds one request may take.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.reached = False
        """Whether it has ever answered; one that never did is not there."""

    def get(self, path: str) -> Any:
        """The answer's JSON."""
        return self._again(path, None)

    def post(self, path: str, payload: dict[str, Any]) -> Any:
        """The answer's JSON, None where it has no body; passing failures are tried again."""
        return self._again(path, payload)

    def post_once(self, path: str, payload: dict[str, Any]) -> Any:
        """The same of what must not be repeated blindly."""
        return self._try(path, payload)

    def tell(self, path: str, payload: dict[str, Any]) -> None:
        """As `post`, where the answer is a sentence that nobody reads."""
        self._again(path, payload, read=str)

    def _again(self, path: str, payload: dict[str, Any] | None, read: Callable[[bytes], Any] = json.loads) -> Any:
        for pause in PAUSES:
            try:
                return self._try(path, payload, read)
            except (ConnectionError, RefusedRequestError) as error:
                if isinstance(error, RefusedRequestError) and error.code not in PASSING:
                    raise
                time.sleep(pause)
        return self._try(path, payload, read)

    def _try(self, path: str, payload: dict[str, Any] | None, read: Callable[[bytes], Any] = json.loads) -> Any:
        """GET without a payload, else POST."""
        data = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                body = answer.read()
            self.reached = True
            return read(body) if body else None
        except urllib.error.HTTPError as error:
            self.reached = True
            raise RefusedRequestError(self._refusal(path, error), error.code) from error
        except TimeoutError as error:
            raise self._silence(path) from error
        except ValueError as error:
            raise SamplerFailedError(
                f"the vLLM server at {self.url} answered {path} with what is no JSON ({error}); wanted a vLLM server "
                "there (rollout.sampler.urls)"
            ) from error
        except (OSError, HTTPException) as error:
            if isinstance(getattr(error, "reason", None), TimeoutError):  # urllib wraps one while it connects
                raise self._silence(path) from error
            raise self._absence(error) from error

    def _silence(self, path: str) -> SamplerFailedError:
        return SamplerFailedError(
            f"the vLLM server at {self.url} did not answer {path} within {self.timeout:g} s; wanted one that is not "
            "stopped or overloaded, or more time (rollout.sampler.timeout)"
        )

    def _absence(self, error: OSError | HTTPException) -> ConnectionError:
        if not self.reached:
            return MissingServerError(
                f"no vLLM server at {self.url}: {error}; start one, or set rollout.sampler: native"
            )
        return ServerGoneError(
            f"the vLLM server at {self.url} went away ({error}); wanted it to run as long as the training: look into "
            "its log, start it again, and go on from the last checkpoint (rollout.sampler.urls)"
        )

    def _refusal(self, path: str, error: urllib.error.HTTPError) -> str:
        text = error.read().decode(errors="replace")
        try:
            said = json.loads(text)
            text = str(said.get("error", said).get("message", said)) if isinstance(said, dict) else text
        except (ValueError, AttributeError):
            pass
        if error.code == 404 and path.partition("?")[0] in DEVELOPER_ROUTES:
            return (
                f"the vLLM server at {self.url} does not know {path}; wanted one that was started with "
                "VLLM_SERVER_DEV_MODE=1 in its environment (rollout.sampler.urls)"
            )
        return f"the vLLM server at {self.url} answered {path} with {error.code}: {text[:500]} (rollout.sampler)"


DEVELOPER_ROUTES = (
    "/pause",
    "/resume",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/update_weight_version",
    "/weight_info",
    "/server_info",
    "/is_sleeping",
    "/sleep",
    "/wake_up",
    "/get_world_size",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
)


class ServerGoneError(ConnectionError, SamplerFailedError):
    """A server that has answered does not any more."""

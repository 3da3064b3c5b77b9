"""Search over HTTP: any server that speaks Search-R1's or verl-agent's request form."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any, Literal

from paw_lightning.envs.search.retrievers import KEY, RetrievalError, Retriever
from paw_lightning.errors import SettingsError

MAX_BYTES = 16 * 2**20
"""An answer beyond it is no search result."""
PASSING = (408, 429)
"""The only 4xx codes that the same request may not meet again."""
_GONE: set[str] = set()
"""URLs whose last search failed for good, by any copy of the environment in this process."""


class SearchServer(Retriever):
    """Asks a search server for documents.

    The server answers ``{"result": [[{"document": {"contents"}, "score"}, ...]]}``; documents may come bare, or with
    ``title`` and ``text`` instead of ``contents``. Scores are always asked for, as Search-R1's own server crashes
    without. Proxies of the process's environment are used, as everywhere. After a search that failed for good the next
    ones get one try each until one succeeds: with the server gone, a whole iteration would wait for its retries.

    Args:
        url: for example ``http://127.0.0.1:8000/retrieve``.
        request_form: `search_r1` sends ``{"queries": [query], "topk", "return_scores"}``, `verl_agent` sends
            ``{"query": query, "topk", "return_scores"}``.
        timeout: seconds that one request may take to send anything, and then to send everything.
        retries: further tries after a failure that may pass (no connection, timeout, server error, nonsense).
        backoff: seconds before the first of them; doubled every time.
    """

    def __init__(
        self,
        url: str,
        request_form: Literal["search_r1", "verl_agent"] = "search_r1",
        timeout: float = 30.0,
        retries: int = 3,
        backoff: float = 1.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"{KEY}.url={url!r}: wanted http://... or https://...")
        if request_form not in ("search_r1", "verl_agent"):
            raise SettingsError(f"{KEY}.request_form={request_form!r}: wanted search_r1 or verl_agent")
        if not timeout > 0 or retries < 0 or not backoff >= 0:
            raise SettingsError(
                f"{KEY}: timeout={timeout}, retries={retries}, backoff={backoff}; wanted a positive timeout and "
                "others of at least 0"
            )
        self.url, self.request_form = url, request_form
        self.timeout, self.retries, self.backoff = timeout, retries, backoff

    def search(self, query: str, topk: int) -> list[str]:
        """See the class.

        Raises:
            RetrievalError: every try failed, or the server refused the request; names the URL and the key.
        """
        named = {"queries": [query]} if self.request_form == "search_r1" else {"query": query}
        body = json.dumps({**named, "topk": topk, "return_scores": True}).encode()
        failure: Exception
        for attempt in range(1 if self.url in _GONE else self.retries + 1):
            if attempt:
                time.sleep(self.backoff * 2 ** (attempt - 1))
            try:
                documents = read_documents(self._post(body))
                _GONE.discard(self.url)
                return documents[:topk]
            except urllib.error.HTTPError as error:
                failure = error
                if error.code < 500 and error.code not in PASSING:
                    break
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = error
        _GONE.add(self.url)
        raise RetrievalError(
            f"the search server {self.url} failed {attempt + 1} times, at last with {_describe(failure)}: see that it "
            f"runs and takes the {self.request_form} form, or change {KEY}.url, request_form, timeout or retries"
        ) from failure

    def _post(self, body: bytes) -> bytes:
        """One request; an answer that comes in drops has a limit too."""
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        end = time.monotonic() + self.timeout
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            answer = b""
            while chunk := response.read1(65_536):
                answer += chunk
                if time.monotonic() > end:
                    raise TimeoutError(f"no complete answer within {self.timeout} s")
                if len(answer) > MAX_BYTES:
                    raise ValueError(f"an answer of more than {MAX_BYTES} bytes")
        return answer


def read_documents(answer: bytes) -> list[str]:
    """The documents of the one query that was asked, as ``title newline text``.

    Raises:
        ValueError: the answer has another form; shows its beginning.
    """
    try:
        found = json.loads(answer)["result"]
        if found and isinstance(found[0], list):
            [found] = found
        return [_contents(item) for item in found]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f'an answer that is no {{"result": [[documents]]}}: {answer[:200]!r}') from error


def _contents(item: dict[str, Any]) -> str:
    document = item.get("document", item)
    contents = document["contents"] if "contents" in document else f"{document['title']}\n{document['text']}"
    if not isinstance(contents, str):
        raise TypeError("a document that is no text")
    return contents


def _describe(failure: Exception) -> str:
    if isinstance(failure, urllib.error.HTTPError):
        return f"HTTP status {failure.code}"
    return f"{type(failure).__name__}: {failure}"

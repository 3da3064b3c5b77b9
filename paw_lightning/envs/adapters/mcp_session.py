"""A session with an MCP server for code that waits: the SDK's event loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any

from paw_lightning.envs.loading import wrong_argument
from paw_lightning.envs.tool_schema import EMPTY
from paw_lightning.errors import ServerAwayError
from paw_lightning.text.tool_calls import Tool

INVALID_PARAMS = -32602
"""The error code of JSON-RPC for arguments that the server refuses: the call's own fault."""


class Session:
    """One session; calls may be begun and waited for later.

    Args:
        sdk: the module `mcp`.
        command: of a server over standard input and output, or None.
        url: of a server over streamable HTTP, or None.
        timeout: seconds to connect, and for each answer.

    Raises:
        ServerAwayError: there is no such server.
    """

    def __init__(self, sdk: Any, command: list[str] | None, url: str | None, timeout: float) -> None:
        server: Any = url
        if command is not None:  # with all variables of this process, keys among them: the SDK passes on a handful
            server = sdk.StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
        self._error, self._timeout = sdk.MCPError, timeout
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._client: Future[Any] = Future()
        self._thread = threading.Thread(target=self._run, args=(sdk, server), daemon=True)
        self._thread.start()
        try:
            self._connected = self._client.result(timeout)
        except Exception as error:
            self.close()
            said = f"no answer within {timeout:g} s" if isinstance(error, NoAnswer) else str(_innermost(error))
            key, value = ("url", str(url)) if command is None else ("command", " ".join(command))
            raise wrong_argument(key, value, f"an MCP server that answers: {said}", ServerAwayError) from error

    def tools(self) -> list[Tool]:
        """All tools of the server, as chat templates know them."""
        found: list[Tool] = []
        cursor = None
        while True:
            page = self._wait(self._send(self._connected.list_tools(cursor=cursor))).model_dump(by_alias=True)
            found += [_tool(told) for told in page["tools"]]
            cursor = page.get("nextCursor")
            if not cursor:
                return found

    def begin(self, name: str, arguments: dict[str, Any]) -> Future[Any]:
        """Send a call."""
        return self._send(self._connected.call_tool(name, arguments))

    def finish(self, begun: Future[Any]) -> tuple[str, bool]:
        """Wait for the text of a call's answer, and whether it is one: a server may say what was wrong instead.

        Raises:
            RuntimeError: no answer in time, or the server is gone.
        """
        try:
            told = self._wait(begun).model_dump(by_alias=True)
        except self._error as error:
            if error.code != INVALID_PARAMS:
                raise RuntimeError(f"the MCP server gave no answer: {error}") from error
            return f"error: {error}", False
        texts = [part["text"] if part["type"] == "text" else f"({part['type']})" for part in told["content"]]
        return "\n".join(texts).strip() or EMPTY, not told.get("isError")

    def close(self) -> None:
        """End the session, also one that never began; a server that it has started ends too."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join(self._timeout)

    def _end(self) -> None:
        if self._client.done():
            self._over.set()
        else:  # it has not answered yet, and may never
            self._serving.cancel()

    def _run(self, sdk: Any, server: Any) -> None:
        self._serving = self._loop.create_task(self._serve(sdk, server))
        try:
            self._loop.run_until_complete(self._serving)
        except BaseException as error:  # of the thread: nobody else would hear of it
            if not self._client.done():
                self._client.set_exception(error)
        finally:
            self._loop.close()

    async def _serve(self, sdk: Any, server: Any) -> None:
        async with sdk.Client(server) as client:  # entered and left by one task, as its scopes want it
            self._client.set_result(client)
            await self._over.wait()

    def _send(self, coroutine: Any) -> Future[Any]:
        if not self._loop.is_running():
            coroutine.close()
            raise RuntimeError("the session with the MCP server is over; wanted one that lasts")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _wait(self, begun: Future[Any]) -> Any:
        try:
            return begun.result(self._timeout)
        except NoAnswer as error:
            begun.cancel()
            raise RuntimeError(f"the MCP server gave no answer within {self._timeout:g} s (timeout)") from error


def _innermost(error: BaseException) -> BaseException:
    """What really went wrong, of groups of errors within each other."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _tool(told: dict[str, Any]) -> Tool:
    parameters = told.get("inputSchema") or {"type": "object", "properties": {}}
    function = {"name": told["name"], "description": told.get("description") or "", "parameters": parameters}
    return {"type": "function", "function": function}

"""An MCP server with a small world in it: a safe, and a note with its code in one of three places.

`paw-lightning fit --config mcp/base` starts it, one process for each environment. It needs `pip install '.[mcp]'`.
"""

from __future__ import annotations

from random import Random

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

PLACES = ["desk", "shelf", "bed"]
server = MCPServer("safe")
state = {"note": "", "code": ""}


@server.tool()
def start(seed: int, split: str) -> str:
    """Begin a task."""
    random = Random(f"{split} {seed}")
    state.update(note=random.choice(PLACES), code=str(random.randrange(10, 100)))
    return f"A safe. A note is in one of: {', '.join(PLACES)}."


@server.tool()
def look_in(place: str) -> str:
    """Look for the note."""
    if place not in PLACES:
        raise ToolError(f"no {place} here, only {', '.join(PLACES)}")
    return f"A note: {state['code']}." if place == state["note"] else f"The {place} is empty."


@server.tool()
def enter(code: str) -> str:
    """Enter a code at the safe; there is one try."""
    return "The safe opens." if code == state["code"] else "The safe stays shut."


def reward(task: dict, calls: list) -> float:
    """Of an episode: 1 if the safe has opened."""
    return float(calls[-1].answer == "The safe opens.")


if __name__ == "__main__":
    server.run("stdio")

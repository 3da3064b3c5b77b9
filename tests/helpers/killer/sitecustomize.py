"""Python runs this at its start, where this folder is on its path: it kills the process when it does a certain thing.

PAW_KILL is the thing, as JSON: the event as `sys.addaudithook` sees it ("open" to write, "os.rename"), a part of the
path, how many times it has to happen, and how many seconds later the kill comes.
"""

import json
import os
import signal
import sys
import threading
import time

KILL = json.loads(os.environ.pop("PAW_KILL", "null"))


def strike() -> None:
    time.sleep(KILL["delay"])
    os.kill(os.getpid(), signal.SIGKILL)


def watch(event: str, arguments: tuple) -> None:
    if event != KILL["event"] or KILL["path"] not in str(arguments[0]):
        return
    if event == "open" and not (set(str(arguments[1])) & set("wxa") or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
        return
    KILL["count"] -= 1
    if KILL["count"] == 0 and KILL["delay"]:
        threading.Thread(target=strike, daemon=True).start()
    elif KILL["count"] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if KILL is not None:
    sys.addaudithook(watch)

"""Runs vLLM's API server and dies with the process that started it: ``python -m flywheel.inference.vllm_main PARENT_PID ARGS…``.

Every process of the server's tree watches its own parent and, when that is gone, kills the whole process group, so neither a
killed supervisor nor a killed API server leaves an engine behind. (PR_SET_PDEATHSIG would fire when the *thread* that started
the server ends.) The processes that vLLM spawns import this module as ``__mp_main__``, which is how they come to watch. The
server's socket lies in a folder of its own, which a killed supervisor can't remove either: the API server does.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

_POLL_S = 0.5


def _watch(parent: int, socket: Path | None) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    if socket is not None:
        with contextlib.suppress(OSError):
            socket.unlink(missing_ok=True)
            socket.parent.rmdir()
    os.killpg(0, signal.SIGKILL)


def _start_watching(parent: int, socket: Path | None = None) -> None:
    threading.Thread(target=_watch, args=(parent, socket), name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    _start_watching(int(sys.argv.pop(1)), Path(sys.argv[sys.argv.index("--uds") + 1]))
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
elif __name__ == "__mp_main__":
    _start_watching(os.getppid())

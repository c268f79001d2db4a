"""The killable process in which RDKit meets hostile SMILES.

Frames on standard input and output: four bytes of length, then JSON. A request is a list of items, ``["judge", payload_json,
answer]`` or ``["call", "module:function", arguments_json]``; the reply a list of ``["ok", value]``, ``["task_error", message]`` or
``["limit", what]``. Each item runs under a CPU-time alarm whose default action, the kernel's, kills the process even inside RDKit's
C++. Started by `chemistry_pool`.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

from flywheel.verifiers.chemistry_judge import compile_json, judge

COMPILE_CPU_S = 20.0


def read_frame(stream: BinaryIO) -> bytes | None:
    """Return the next frame, or None at the end of the stream."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    body = stream.read(length)
    return body if len(body) == length else None


def handle(item: list[str], cpu_s: float) -> list[Any]:
    """Return the reply to one item."""
    signal.setitimer(signal.ITIMER_PROF, COMPILE_CPU_S)
    try:
        if item[0] == "call":
            function, arguments = named(item[1]), json.loads(item[2])
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            try:
                return ["ok", function(*arguments)]
            except (ValueError, KeyError, IndexError, TypeError, RuntimeError) as error:  # a tool's bug must not cost the worker
                return ["task_error", f"{type(error).__name__}: {error}"[:200]]
        try:
            task = compile_json(item[1])
        except (MemoryError, RecursionError):
            raise
        except Exception as error:  # noqa: BLE001 - compiling sees no answer, but may import a plug-in's module, which may raise anything
            return ["task_error", str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"]
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        return ["ok", judge(task, item[2])]
    except (MemoryError, RecursionError) as error:
        return ["limit", type(error).__name__]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


@cache
def named(target: str) -> Callable[..., Any]:
    """Return the function at ``module:function``, a name that our own code sends."""
    module, _, attribute = target.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def main(cpu_s: float, memory_mb: int) -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 1)
        os.dup2(devnull.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        body = json.dumps([handle(item, cpu_s) for item in json.loads(frame)]).encode()
        replies.write(struct.pack(">I", len(body)) + body)
        replies.flush()

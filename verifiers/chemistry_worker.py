"""The killable process in which RDKit meets hostile SMILES.

Frames on standard input and output: four bytes of length, then JSON. A request is a list of items, ``["judge", payload_json,
answer]`` or ``["describe", smiles]``; the reply a list of ``["ok", value]`` or ``["task_error", message]``. Each item runs under
a CPU-time alarm whose default action, the kernel's, kills the process even inside RDKit's C++. Started by `chemistry_pool`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO

from flywheel.verifiers.chemistry_judge import compile_json, describe, judge

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
        if item[0] == "describe":
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            return ["ok", describe(item[1])]
        try:
            task = compile_json(item[1])
        except ValueError as error:
            return ["task_error", str(error)]
        signal.setitimer(signal.ITIMER_PROF, cpu_s)
        return ["ok", judge(task, item[2])]
    except (MemoryError, RecursionError) as error:
        return ["ok", f"Error: limit: {type(error).__name__}" if item[0] == "describe" else [["limit", False, type(error).__name__]]]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


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

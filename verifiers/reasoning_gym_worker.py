"""The process that works with reasoning-gym, a fork for each request: started by `flywheel.verifiers.reasoning_gym_pool`.

A line of JSON each on standard input and output. A request has ``kind`` (``make`` or ``score``), ``payload``, for ``score`` also
``answer``, and the limits ``cpu_s``, ``memory_mb`` and ``wall_s``. The reply is ``{"question", "answer"}`` or ``{"score": x}``, or else
``{"task_error": message}``, ``{"raised": name}``, ``{"limit": "cpu" | "wall"}`` or ``{"died": signal}``.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import sys
from typing import Any

from flywheel.types import content_id
from flywheel.verifiers.reasoning_gym_entry import dataset_of


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """Return the reply to one request; only in a fork."""
    payload = request["payload"]
    random.seed(0)  # some data sets draw from the global generator, too
    try:
        dataset = dataset_of(payload)
        entry = dataset[0]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the task's
        return {"task_error": f"{type(error).__name__}: {error}"[:300]}
    if request["kind"] == "make":
        answer = entry["answer"]
        return {"question": str(entry["question"]), "answer": None if answer is None else str(answer)}
    if content_id(str(entry["question"])) != payload.get("question_id"):
        return {"task_error": "this reasoning-gym makes another question of the payload than was asked; is it another version?"}
    try:
        return {"score": float(dataset.score_answer(request["answer"], entry))}
    except Exception as error:  # noqa: BLE001 - a scorer that can't read the answer
        return {"raised": type(error).__name__}


def forked(request: dict[str, Any]) -> dict[str, Any]:
    """Return the reply of a fork that has limits of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            # No answer runs code, so none can catch SIGXCPU, which says what the matter was.
            resource.setrlimit(resource.RLIMIT_CPU, (request["cpu_s"], request["cpu_s"] + 1))
            memory = int(request["memory_mb"]) << 20
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
            os.write(write, json.dumps(answered(request)).encode())
        finally:
            os._exit(0)
    os.close(write)
    data, timed_out = b"", False
    while not timed_out:
        timed_out = not select.select([read], [], [], request["wall_s"])[0]
        part = b"" if timed_out else os.read(read, 65536)
        if not part:
            break
        data += part
    os.close(read)
    if timed_out:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if timed_out:
        return {"limit": "wall"}
    try:
        reply: dict[str, Any] = json.loads(data)
        return reply
    except ValueError:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        return {"limit": "cpu"} if number == signal.SIGXCPU else {"died": number}


def main() -> None:
    """Serve until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull, "w") as devnull:
        os.dup2(devnull.fileno(), 1)
        os.dup2(devnull.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import reasoning_gym  # noqa: F401 - once, so that every fork has it

    for line in sys.stdin:
        replies.write(json.dumps(forked(json.loads(line))) + "\n")
        replies.flush()

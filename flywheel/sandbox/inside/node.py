"""Runs a JavaScript answer on node, as a program or by calls to one of its functions.

The child writes the files and becomes node. `harness.js`, which comes with the job, makes the calls and reports as a judged Python
process does: with numbered frames of plain data under the job's nonce, compared elsewhere.
"""

import json
import os
from typing import Any

from flywheel.sandbox.inside.answer import copy_stdin, put_files
from flywheel.sandbox.inside.channel import Sender, inherit_streams

ANSWER, HARNESS = "answer.js", ".harness.js"
MIB = 2**20
EXIT_NO_PROGRAM = 127


def run_node(body: dict[str, Any], channel: int) -> int:
    """Become node; returns only where there is none."""
    send = Sender(channel, body["nonce"])
    source: str = body["source"]
    put_files({**body["files"], ANSWER: source.encode("utf-8", "replace").decode()})
    flags = [f"--max-old-space-size={body['memory_bytes'] * 3 // 4 // MIB}", "--no-warnings"]
    if body["calls"] is None:
        copy_stdin(source)
        arguments = [ANSWER]
    else:
        put_files({HARNESS: body["harness"]})
        job = {"nonce": body["nonce"], "entry_point": body["entry_point"], "calls": body["calls"]}
        with open(".job", "x", encoding="utf-8") as file:
            json.dump(job, file)
        os.set_inheritable(channel, True)
        arguments = [HARNESS]
    inherit_streams()
    environment = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "PATH", "TMPDIR")}
    try:
        os.execvpe(body["program"], ["node", *flags, *arguments], environment)
    except FileNotFoundError:
        send("no_program")
        send.write()
    return EXIT_NO_PROGRAM

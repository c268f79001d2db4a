"""What a child of the zygote does with a job: run a program, call a function, serve calls, run tests against served calls, ….

A judged process is given arguments and never what they should lead to. Whatever it sends back is data that its judge
decodes and compares elsewhere; code in the same process can forge that data, and gains no more than by returning it.
"""

import _sitebuiltins
import atexit
import builtins
import contextlib
import json
import linecache
import os
import random
import sys
from collections.abc import Callable
from typing import Any

from flywheel.sandbox.inside import plain, refusals
from flywheel.sandbox.inside.answer import ANSWER, copy_stdin, describe, flush, let_go, limit_seen, load
from flywheel.sandbox.inside.channel import Sender, from_json, inherit_streams, read_message, receive_body, write_all
from flywheel.sandbox.inside.node import run_node
from flywheel.sandbox.inside.served import run_asserts, run_serve

EXIT_EXCEPTION = 1
# A module that fewer than one answer in a hundred imports would cost every child more than it saves those few.
# fmt: off
USUAL_IMPORTS = (
    "bisect", "collections", "copy", "enum", "functools", "heapq", "io", "itertools", "math", "operator", "re", "string", "time", "typing",
)
# fmt: on
NUM_REHEARSALS = 20  # after some repetitions the interpreter has adapted its code, and need not do so in every child
SOURCE = "def f(x):\n    print(end='')\n    return [x]\n"
_JOB = {"kind": "calls", "nonce": "", "source": SOURCE, "entry_point": "f", "calls": ["[[1], {}]"]}
REHEARSAL = plain.HEAD.pack(len(json.dumps(_JOB))) + json.dumps(_JOB).encode()


# ---------------------------------------------------------------- judged Python


def _call(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", plain.encode(function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        return "error", describe(error)


def run_calls(body: dict[str, Any], send: Sender, peer: int) -> int:
    """Load the answer, make every call with fresh arguments, and send each result."""
    del peer
    requests: list[str] = body.pop("calls")
    name: str = body.pop("entry_point")
    try:
        function = load(body, "answer").__dict__.get(name)
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        send("load_error", describe(error))
        return EXIT_EXCEPTION
    if not callable(function):
        send("missing")
        return EXIT_EXCEPTION
    for request in requests:
        args, kwargs = from_json(request)
        send.write()  # what comes next may end this process
        send(*_call(function, args, kwargs))
    flush()
    send("end")
    return 0


def run_program(body: dict[str, Any], send: Sender, peer: int) -> int:
    """Run the answer as a program: standard input to standard output, exit status as Python's own."""
    del peer
    status = 0
    copy_stdin(body["source"])
    try:
        try:
            load(body, "__main__")
        finally:
            if "threading" in sys.modules:
                sys.modules["threading"]._shutdown()
            atexit._run_exitfuncs()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            with contextlib.suppress(Exception):
                print(error.code, file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        send("load_error", describe(error))
        status = EXIT_EXCEPTION
    flush()
    let_go()
    send("end")
    return status & 0xFF


# ---------------------------------------------------------------- commands and files of a session


def run_exec(body: dict[str, Any]) -> int:
    """Become another program."""
    os.chdir(body["cwd"])
    inherit_streams()
    try:
        os.execvpe(body["argv"][0], body["argv"], body["env"])
    except OSError as error:
        write_all(2, f"{body['argv'][0]}: {error.strerror}\n".encode())
    return 127


def run_put(body: dict[str, Any], channel: int) -> int:
    """Write files, each sent as a message after the job."""
    for path, mode in body["files"]:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb", opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(read_message(channel))
            os.fchmod(file.fileno(), mode)
    return 0


def run_get(body: dict[str, Any], channel: int) -> int:
    """Send a regular file's bytes."""
    fd = os.open(body["path"], os.O_RDONLY | os.O_NONBLOCK)
    while part := os.read(fd, 1 << 16):
        write_all(channel, part)
    return 0


# ---------------------------------------------------------------- dispatch

JUDGED = {"calls": run_calls, "program": run_program, "serve": run_serve, "asserts": run_asserts}


def warm_up() -> None:
    """Import what answers usually import, once, in the zygote."""
    for name in USUAL_IMPORTS:
        __import__(name)
    for name in ("exit", "quit"):  # the work of `site`, which no sandbox imports
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
    for _ in range(NUM_REHEARSALS):
        rehearse()
    random.seed(0)  # for every child
    for name in [name for name in sys.modules if name.startswith("flywheel")]:
        del sys.modules[name]


def rehearse() -> None:
    """Do a small job of our own and forget it, so that a child waits with the memory that it needs rather than takes it during its job."""
    reader, writer = os.pipe()
    write_all(writer, REHEARSAL)
    send = Sender(writer, "")
    run_calls(receive_body(reader), send, writer)
    send.write()
    os.close(reader)
    os.close(writer)
    del sys.modules["answer"], linecache.cache[ANSWER]


def run(body: dict[str, Any], channel: int, peer: int) -> int:
    """Do the job in this process and return its exit status."""
    kind = body["kind"]
    if kind == "node":
        return run_node(body, channel)
    if kind == "exec":
        return run_exec(body)
    if kind == "put":
        return run_put(body, channel)
    if kind == "get":
        return run_get(body, channel)
    send = Sender(channel, body["nonce"])
    status = JUDGED[kind](body, send, peer)
    limit = limit_seen()
    status = refusals.EXIT_STATUS[limit] if limit else status
    send.close(status)
    return status

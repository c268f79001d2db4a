"""What a child of the zygote does with a job: run a program, call a function, serve calls, run tests against served calls, ….

A judged process is given arguments and never what they should lead to. Whatever it sends back is data that its judge
decodes and compares elsewhere; code in the same process can forge that data, and gains no more than by returning it.
"""

import atexit
import builtins
import contextlib
import json
import linecache
import os
import random
import struct
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from flywheel.sandbox.inside import plain

ANSWER = "<answer>"
MAX_MESSAGE_BYTES = 8_000_000
MAX_ERROR_CHARS = 1500
EXIT_EXCEPTION, EXIT_MEMORY = 1, 71
# fmt: off
USUAL_IMPORTS = (
    "bisect", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "heapq", "io", "itertools",
    "math", "operator", "queue", "re", "statistics", "string", "textwrap", "threading", "time", "typing", "unicodedata",
)
# fmt: on


class PeerGoneError(BaseException):
    """The process that serves the calls is gone; not an `Exception`, so that no test swallows it."""


# ---------------------------------------------------------------- the channel


def _read_exactly(fd: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise PeerGoneError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _read_message(fd: int) -> bytes:
    (size,) = struct.unpack(">I", _read_exactly(fd, 4))
    if size > MAX_MESSAGE_BYTES:
        raise PeerGoneError
    return _read_exactly(fd, size)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def receive_body(fd: int) -> dict[str, Any]:
    """Return the job that the host sent."""
    body: dict[str, Any] = json.loads(_read_message(fd))
    return body


class Sender:
    """Writes numbered frames under the job's nonce."""

    def __init__(self, fd: int, nonce: str) -> None:
        self._fd, self._nonce, self._number = fd, nonce, 0

    def __call__(self, kind: str, data: Any = None) -> None:
        """Send one frame."""
        _write_all(self._fd, plain.pack(self._nonce, self._number, kind, data))
        self._number += 1


# ---------------------------------------------------------------- answers


_seen: set[str] = set()


def describe(error: BaseException) -> dict[str, str]:
    """Return an error's type and the part of its traceback that lies in the answer."""
    try:
        shown = traceback.TracebackException(type(error), error, error.__traceback__, limit=-8)
        shown.stack = traceback.StackSummary.from_list([f for f in shown.stack if f.filename == ANSWER])
        shown.__cause__ = shown.__context__ = None
        text = "".join(shown.format())
    except BaseException:  # noqa: BLE001 - a hostile exception may raise anything while it is shown
        text = "(an error that can't be shown)"
    if issubclass(type(error), MemoryError):
        _seen.add("memory")
    return {"type": type(error).__name__[:100], "text": text[-MAX_ERROR_CHARS:]}


def load(source: str, name: str) -> types.ModuleType:
    """Run the answer's source as a module of its own and return it."""
    linecache.cache[ANSWER] = (len(source), None, source.splitlines(keepends=True), ANSWER)
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, ANSWER, "exec"), module.__dict__)
    return module


def flush() -> None:
    """Write out what the answer has printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _call(function: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> tuple[str, Any]:
    try:
        return "value", plain.encode(function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        return "error", describe(error)


def run_calls(body: dict[str, Any], channel: int) -> int:
    """Load the answer, make every call with fresh arguments, and send each result when it is there."""
    send = Sender(channel, body["nonce"])
    requests: list[str] = body.pop("calls")
    name: str = body.pop("entry_point")
    try:
        function = load(body.pop("source"), "answer").__dict__.get(name)
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        send("load_error", describe(error))
        return EXIT_EXCEPTION
    if not callable(function):
        send("missing")
        return EXIT_EXCEPTION
    for request in requests:
        args, kwargs = json.loads(request)
        send(*_call(function, args, kwargs))
    send("end")
    flush()
    return 0


def run_program(body: dict[str, Any], channel: int) -> int:
    """Run the answer as a program: standard input to standard output, exit status as Python's own."""
    send = Sender(channel, body["nonce"])
    status = 0
    try:
        try:
            load(body.pop("source"), "__main__")
        finally:
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        send("load_error", describe(error))
        status = EXIT_EXCEPTION
    flush()
    send("end")
    return status & 0xFF


# ---------------------------------------------------------------- served calls


def run_serve(body: dict[str, Any], channel: int, peer: int) -> int:
    """Load the answer and serve calls to it over the peer socket until that is closed."""
    send = Sender(channel, body["nonce"])
    try:
        names = load(body.pop("source"), "answer").__dict__
    except BaseException as error:  # noqa: BLE001 - whatever an answer raises is its result
        send("load_error", describe(error))
        return EXIT_EXCEPTION
    if body["entry_point"] is not None and not callable(names.get(body["entry_point"])):
        send("missing")
        return EXIT_EXCEPTION
    send("loaded")
    while True:
        try:
            name, args, kwargs = plain.decode(json.loads(_read_message(peer)))
        except PeerGoneError:
            break
        function = names.get(name)
        kind, data = _call(function, args, kwargs) if callable(function) else ("missing", name)
        _write_all(peer, plain.pack("", 0, kind, data))
    send("end")
    flush()
    return 0


def proxy(name: str, peer: int) -> Callable[..., Any]:
    """Return a function that has the judged process do the work: plain data there, plain data back."""

    def call(*args: Any, **kwargs: Any) -> Any:
        payload = json.dumps(plain.encode([name, list(args), kwargs])).encode()
        try:
            _write_all(peer, plain.HEAD.pack(len(payload)) + payload)
            _, _, kind, data = plain.unpack(_read_message(peer))
            if kind == "value":
                return plain.decode(data)
        except (OSError, plain.NotPlainError):
            raise PeerGoneError from None
        if kind == "missing":
            raise NameError(f"name {name!r} is not defined")
        raised = getattr(builtins, str(data.get("type")) if isinstance(data, dict) else "", None)
        if not (isinstance(raised, type) and issubclass(raised, Exception)):
            raised = RuntimeError
        raise raised("raised by the answer")

    call.__name__ = name
    return call


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def run_asserts(body: dict[str, Any], channel: int, peer: int) -> int:
    """Run each test's source in a namespace of its own, where the answer's names are proxies."""
    send = Sender(channel, body["nonce"])
    for source in body["tests"]:
        namespace: dict[str, Any] = {"__name__": "test"}
        try:
            code = compile(source, "<test>", "exec")
            wanted = {body["entry_point"]} if body["entry_point"] else set(_names(code)) - set(dir(builtins))
            namespace.update({name: proxy(name, peer) for name in wanted})
            exec(code, namespace)
        except PeerGoneError:
            send("gone")
            return EXIT_EXCEPTION
        except BaseException as error:  # noqa: BLE001 - a test fails by raising
            send("failed", {"type": type(error).__name__, "text": str(error)[:200]})
        else:
            send("passed")
    send("end")
    return 0


# ---------------------------------------------------------------- commands and files of a session


def run_exec(body: dict[str, Any]) -> int:
    """Become another program."""
    os.chdir(body["cwd"])
    try:
        os.execvpe(body["argv"][0], body["argv"], body["env"])
    except OSError as error:
        _write_all(2, f"{body['argv'][0]}: {error.strerror}\n".encode())
    return 127


def run_put(body: dict[str, Any], channel: int) -> int:
    """Write files, each sent as a message after the job."""
    for path, mode in body["files"]:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb", opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW, 0o600)) as file:
            file.write(_read_message(channel))
            os.fchmod(file.fileno(), mode)
    return 0


def run_get(body: dict[str, Any], channel: int) -> int:
    """Send a regular file's bytes."""
    fd = os.open(body["path"], os.O_RDONLY | os.O_NONBLOCK)
    while part := os.read(fd, 1 << 16):
        _write_all(channel, part)
    return 0


# ---------------------------------------------------------------- dispatch


def warm_up() -> None:
    """Import what answers usually import, once, in the zygote."""
    for name in USUAL_IMPORTS:
        __import__(name)
    for name in [name for name in sys.modules if name.startswith("flywheel")]:
        del sys.modules[name]


def run(body: dict[str, Any], channel: int, peer: int) -> int:
    """Do the job in this process and return its exit status."""
    random.seed(0)
    status = _run(body, channel, peer)
    return EXIT_MEMORY if "memory" in _seen else status


def _run(body: dict[str, Any], channel: int, peer: int) -> int:
    kind = body["kind"]
    if kind == "calls":
        return run_calls(body, channel)
    if kind == "program":
        return run_program(body, channel)
    if kind == "serve":
        return run_serve(body, channel, peer)
    if kind == "asserts":
        return run_asserts(body, channel, peer)
    if kind == "exec":
        return run_exec(body)
    if kind == "put":
        return run_put(body, channel)
    if kind == "get":
        return run_get(body, channel)
    raise ValueError(f"unknown kind of job {kind!r}")

"""Loads a judged answer: helper files beside it, what runs before it, and its source; and tells of what it raises."""

import builtins
import io
import linecache
import os
import sys
import traceback
import types
from collections.abc import Mapping
from typing import Any

from flywheel.sandbox.inside import refusals
from flywheel.sandbox.inside.fences import unfenced

ANSWER = "<answer>"
TAGS = ("python", "python3", "py")
PRELUDE = "<prelude>"
MAX_ERROR_CHARS = 1500
INPUTS = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
# What an answer may open by name is a descriptor that it has anyway; the result channel has no name here.
OUTPUTS = {"/dev/stdout": 1, "/dev/fd/1": 1, "/proc/self/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2, "/proc/self/fd/2": 2}

_limits: list[str] = []


def limit_seen() -> str | None:
    """Return the limit that an error spoke of which was described, the first one."""
    return _limits[0] if _limits else None


def describe(error: BaseException) -> dict[str, str]:
    """Return an error's type and the part of its traceback that lies in the answer."""
    try:
        shown = traceback.TracebackException(type(error), error, error.__traceback__, limit=-8)
        shown.stack = traceback.StackSummary.from_list([f for f in shown.stack if f.filename == ANSWER])
        shown.__cause__ = shown.__context__ = None
        text = "".join(shown.format())
    except BaseException:  # noqa: BLE001 - a hostile exception may raise anything while it is shown
        text = "(an error that can't be shown)"
    limit = refusals.limit_of(error)
    if limit is not None:
        _limits.append(limit)
    return {"type": type(error).__name__[:100], "text": text[-MAX_ERROR_CHARS:]}


def put_files(files: Mapping[str, str]) -> None:
    """Write helper files into the working folder, afresh and for reading, and let modules among them be imported."""
    for path, text in files.items():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "x", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o444)) as file:
            file.write(text)
    if files:
        sys.path.insert(0, os.getcwd())


def load(body: dict[str, Any], name: str) -> types.ModuleType:
    """Run the answer's source as a module of its own, after its prelude, and return it."""
    source: str = body.pop("source").removeprefix("\ufeff")  # a byte order mark, which Python passes over in a file
    prelude: str = body.pop("prelude", "")
    if any(name in source for name in (*INPUTS, *OUTPUTS)):
        open_streams_by_name()
    put_files(body.pop("files", {}))
    module = types.ModuleType(name)
    module.__file__ = os.path.abspath("answer.py")  # which lies beside its helper files
    sys.modules[name] = module
    if prelude:
        exec(compile(prelude, PRELUDE, "exec"), module.__dict__)
    try:
        code = compile(source, ANSWER, "exec")
    except SyntaxError:
        source = unfenced(source, TAGS, is_program=name == "__main__")
        if not source:
            raise
        code = compile(source, ANSWER, "exec")
    linecache.cache[ANSWER] = (len(source), None, source.splitlines(keepends=True), ANSWER)
    exec(code, module.__dict__)
    return module


def open_streams_by_name() -> None:
    """Have `open` know the standard streams' names, which lead nowhere without ``/proc``, or to pipes of another user's."""
    real = builtins.open

    def open_file(file: Any, *args: Any, **kwargs: Any) -> Any:
        name = os.fspath(file) if isinstance(file, str | os.PathLike) else ""
        if name in OUTPUTS:
            return real(os.dup(OUTPUTS[name]), *args, **kwargs)
        return real(INPUTS[0] if name in INPUTS else file, *args, **kwargs)

    builtins.open = io.open = open_file


def copy_stdin(source: str) -> None:
    """Make ``/dev/stdin`` readable for a program that names it, where it is a link into the working folder, since there is no ``/proc``."""
    path = os.readlink("/dev/stdin") if any(map(source.__contains__, INPUTS)) and os.path.islink("/dev/stdin") else ""
    if os.path.dirname(path) != os.getcwd():
        return
    with open(path, "xb") as file:
        try:
            sent, size = 0, os.fstat(0).st_size
            while sent < size:
                sent += os.sendfile(file.fileno(), 0, sent, size - sent)
        except OSError:  # more than a file may hold: better none than a part
            os.unlink(path)


def flush() -> None:
    """Write out what the answer has printed."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - every job comes here, and each function that it calls is memory to copy
            stream.flush()
        except Exception:  # noqa: BLE001 - it may be any object, or None
            pass


def let_go() -> None:
    """Let go of what a program holds, as Python does at its end: files that it left open are written out, destructors run."""
    try:
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        vars(sys.modules["__main__"]).clear()
    except Exception:  # noqa: BLE001 - a program may have put anything into their places
        pass
    flush()

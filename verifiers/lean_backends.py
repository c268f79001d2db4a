"""The process's one Lean backend, which verifiers and environments share, and the choice of which it is.

``FLYWHEEL_LEAN_BACKEND`` names one (``repl``, ``file``, ``dojo``, or ``module:attribute``, called without arguments); ``auto`` takes the
REPL where there is one and else the plain binary.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
from collections.abc import Iterator

from flywheel import sandbox
from flywheel.errors import VerifierError
from flywheel.verifiers.lean_protocol import LeanBackend, LeanMissingError
from flywheel.verifiers.lean_toolchain import Settings, find_lean, find_repl

_lock = threading.Lock()
_shared: LeanBackend | None = None
_users = 0


def make_backend(settings: Settings | None = None) -> LeanBackend:
    """Return a new backend, by the settings.

    Raises:
        VerifierError: the settings name none that is known.
    """
    settings = settings or Settings.read()
    isolation = sandbox.current().backend
    kind = settings.backend
    if kind == "auto":
        kind = "repl" if _has_repl() else "file"
    if kind == "repl":
        from flywheel.verifiers.lean_repl import ReplBackend

        return ReplBackend(settings, sandbox=isolation)
    if kind == "file":
        from flywheel.verifiers.lean_file import FileBackend

        return FileBackend(settings, sandbox=isolation)
    if kind == "dojo":
        from flywheel.verifiers.lean_dojo import DojoBackend

        dojo: LeanBackend = DojoBackend(settings)
        return dojo
    module, colon, attribute = kind.partition(":")
    if not colon:
        raise VerifierError(f"FLYWHEEL_LEAN_BACKEND is {kind!r}, expected auto, repl, file, dojo or module:attribute")
    try:
        made: LeanBackend = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise VerifierError(f"FLYWHEEL_LEAN_BACKEND is {kind!r}: {error}") from error
    return made


def missing() -> list[str]:
    """Return what this machine lacks for the backend that the settings name, a message each with what to do."""
    try:
        kind = Settings.read().backend
        if kind == "repl":
            find_repl()
        if ":" not in kind:
            find_lean()
    except VerifierError as error:
        return [str(error)]
    return []


def acquire_shared() -> LeanBackend:
    """Return the shared backend; give it back with `release_shared`."""
    global _shared, _users
    with _lock:
        _shared = _shared or make_backend()
        _users += 1
        return _shared


def release_shared() -> None:
    """Give the shared backend back; the last one closes it."""
    global _shared, _users
    with _lock:
        _users -= 1
        backend, _shared = (_shared, None) if _users == 0 else (None, _shared)
    if backend is not None:
        backend.close()


@contextlib.contextmanager
def borrowed(backend: LeanBackend | None) -> Iterator[LeanBackend]:
    """Lend a backend that somebody has, or else the shared one for as long as it is needed."""
    if backend is not None:
        yield backend
        return
    shared = acquire_shared()
    try:
        yield shared
    finally:
        release_shared()


def _has_repl() -> bool:
    try:
        find_repl()
    except LeanMissingError:
        return False
    return True


def _forget_shared() -> None:
    global _shared, _users, _lock
    _shared, _users, _lock = None, 0, threading.Lock()


os.register_at_fork(after_in_child=_forget_shared)

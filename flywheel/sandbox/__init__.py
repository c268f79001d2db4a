"""Sandboxes: where everything that a model wrote runs.

`shared_pool` is the process's one pool of warm Python workers; `configure` says what kind before it is first used.
"""

from __future__ import annotations

import atexit
import os
import threading

from flywheel.config import SandboxConfig
from flywheel.sandbox.base import Backend, ExecResult, Job, Limits, Sandbox, Session
from flywheel.sandbox.pool import WarmPool

__all__ = [
    "TABLE",
    "Backend",
    "ExecResult",
    "Job",
    "Limits",
    "Sandbox",
    "Session",
    "WarmPool",
    "close_shared",
    "configure",
    "current",
    "shared_pool",
]

TABLE = {
    "bubblewrap": "flywheel.sandbox.bubblewrap:Bubblewrap",
    "docker": "flywheel.sandbox.containers:Containers",
    "unsafe": "flywheel.sandbox.unsafe:Unsafe",
}

_lock = threading.Lock()
_config = SandboxConfig()
_pool: tuple[int, WarmPool] | None = None


def configure(config: SandboxConfig) -> None:
    """Say what `shared_pool` is to be; a pool of another kind that runs already is closed."""
    global _config
    with _lock:
        changed, _config = config != _config, config
    if changed:
        close_shared()


def current() -> SandboxConfig:
    """Return what `configure` last said."""
    return _config


def shared_pool() -> WarmPool:
    """Return the process-wide pool; it is made, and its workers begin to start, on the first call."""
    global _pool
    with _lock:
        if _pool is None or _pool[0] != os.getpid():  # a forked process must not share its parent's sockets
            _pool = (os.getpid(), WarmPool(_config))
            _pool[1].warm()
        return _pool[1]


def close_shared() -> None:
    """End the process-wide pool; the next `shared_pool` makes a new one."""
    global _pool
    with _lock:
        pool, _pool = _pool, None
    if pool is not None and pool[0] == os.getpid():
        pool[1].close()


atexit.register(close_shared)

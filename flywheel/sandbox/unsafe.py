"""The ``unsafe`` backend: the same workers as bare processes of the host, for machines that offer no isolation at all.

Resource limits hold, nothing else does: model code can read and write whatever this user can, and reach the network. It runs only
when a recipe says ``[sandbox] backend = "unsafe"``, and warns.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from typing import IO

from flywheel.errors import SandboxError
from flywheel.sandbox.bubblewrap import ENVIRONMENT

WARNING = (
    "sandbox backend 'unsafe': model-written code runs as this user, with this user's files and network. "
    "Use it only on a machine that you would give to a stranger."
)


def warn() -> None:
    """Say what the user has chosen."""
    warnings.warn(WARNING, RuntimeWarning, stacklevel=3)


def make_home() -> str:
    """Return a new private folder."""
    return tempfile.mkdtemp(prefix="flywheel-unsafe-")


def start(argv: Sequence[str], *, home: str, log: IO[bytes], pass_fd: int | None = None) -> subprocess.Popen[bytes]:
    """Start `argv` as a bare process, with pipes on its standard input and output where no extra descriptor is given."""
    env = {**ENVIRONMENT, "HOME": home, "TMPDIR": home, "PATH": os.environ.get("PATH", os.defpath)}
    try:
        if pass_fd is None:
            pipe = subprocess.PIPE
            return subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=log, env=env, cwd=home, start_new_session=True)
        nothing = subprocess.DEVNULL
        return subprocess.Popen(argv, stdin=nothing, stdout=nothing, stderr=log, pass_fds=[pass_fd], env=env, cwd=home)
    except OSError as error:
        raise SandboxError(f"can't start a worker: {error}") from error
